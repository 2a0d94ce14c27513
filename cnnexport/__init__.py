"""From a Keras CNN to a proven ONNX deployment.

``convert`` makes a bundle, ``build`` a Keras model of a registered architecture; both import Keras only
when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "build", "convert"]

if TYPE_CHECKING:
    from cnnexport.architectures import build as build
    from cnnexport.pipeline import convert as convert


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that the command line starts without NumPy or the registry.
    if name == "build":
        from cnnexport.architectures import build

        return build
    if name == "convert":
        from cnnexport.pipeline import convert

        return convert
    raise AttributeError(f"module 'cnnexport' has no attribute '{name}'")
