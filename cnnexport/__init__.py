"""From a Keras CNN to a proven ONNX deployment.

``build`` makes a Keras model of a registered architecture, ``train`` a run, ``convert`` a bundle; these import Keras
only when called. ``Classifier`` (``predict`` at once) and
``evaluate`` put a bundle to work without it, ``quantize`` adds a model in int8 or 16 bits to one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Classifier", "__version__", "build", "convert", "evaluate", "predict", "quantize", "train"]

if TYPE_CHECKING:
    from cnnexport.architectures import build as build
    from cnnexport.classifier import Classifier as Classifier
    from cnnexport.classifier import predict as predict
    from cnnexport.evaluation import evaluate as evaluate
    from cnnexport.pipeline import convert as convert
    from cnnexport.precision import quantize as quantize
    from cnnexport.training import train as train

_ROOMS = {"build": "architectures", "train": "training", "convert": "pipeline", "Classifier": "classifier",
          "predict": "classifier", "evaluate": "evaluation", "quantize": "precision"}


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that the command line starts without NumPy or the registry.
    if name not in _ROOMS:
        raise AttributeError(f"module 'cnnexport' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"cnnexport.{_ROOMS[name]}"), name)
