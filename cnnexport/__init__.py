"""From a Keras CNN to a proven ONNX deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cnnexport.api import build, convert

__all__ = ["__version__", "build", "convert"]


def __getattr__(name: str) -> Any:
    # The API pulls in what the command line's quick commands must not wait for.
    if name in ("build", "convert"):
        from cnnexport import api

        return getattr(api, name)
    raise AttributeError(f"module 'cnnexport' has no attribute '{name}'")
