"""Does the ONNX file compute what Keras computes? Compared on logits, relative to their own spread, and by layer.

| module | what |
|---|---|
| ``tolerances`` | how far correct runtimes may lie apart, and why |
| ``inputs`` | what both sides are fed |
| ``live`` | what Keras computes: outputs, logits, every layer's output (imports Keras) |
| ``comparison`` | two arrays |
| ``layers`` | which ONNX tensor holds which layer's output |
| ``sensitivity`` | whether a changed weight would be seen (imports TensorFlow) |
| ``gate`` | all of it: ``reference`` asks Keras, ``judge`` asks ONNX Runtime |
| ``records`` | ``parity.json`` |
"""

from __future__ import annotations

from cnnexport.parity.comparison import Comparison, compare, log_probabilities
from cnnexport.parity.gate import (
    GateReference,
    LogitsTensor,
    Verdict,
    judge,
    logits_tensors,
    reference,
    to_onnx_layout,
    weighed,
)
from cnnexport.parity.inputs import OPEN_SIZE, cases, images
from cnnexport.parity.records import record
from cnnexport.parity.tolerances import MAX_ERROR, RMS_ERROR, ROUNDING_ULPS, Tolerance, tolerance

__all__ = [
    "MAX_ERROR", "OPEN_SIZE", "RMS_ERROR", "ROUNDING_ULPS", "Comparison", "GateReference", "LogitsTensor", "Tolerance",
    "Verdict", "cases", "compare", "images", "judge", "log_probabilities", "logits_tensors", "record", "reference",
    "to_onnx_layout", "tolerance", "weighed",
]
