"""Does the ONNX file compute what Keras computes? Compared on logits, relative to their own spread, and by layer.

| module | what |
|---|---|
| ``tolerances`` | how far correct runtimes may lie apart, and why |
| ``inputs`` | what both sides are fed |
| ``live`` | ``ask``: what Keras computes, outputs, logits, every layer's output (imports Keras) |
| ``comparison`` | two arrays |
| ``layers`` | which ONNX tensor holds which layer's output |
| ``sensitivity`` | whether a changed weight would be seen (imports TensorFlow) |
| ``answers`` | what only Keras knows, as arrays |
| ``graph`` | what is read from one ONNX graph |
| ``exposed`` | the file as it is, with inner tensors given out |
| ``groups`` | large values by name, a group of them in memory at a time |
| ``gate`` | ``judge``: the file in a runtime against Keras' answers, by a criterion |
| ``witness``, ``truth`` | what Keras itself loses, told by float64 or by rounding (``truth`` imports Keras) |
| ``matching`` | layers of another exporter's file, by their numbers (imports Keras) |
| ``streaming`` | every layer against live Keras, in bounded memory |
| ``stored`` | what a bundle stores of Keras' answers, for ``verify`` and ``bench`` |
| ``records`` | ``parity.json`` |
"""

from __future__ import annotations

from cnnexport.parity.answers import CaseAnswer, KerasAnswers
from cnnexport.parity.comparison import Comparison, compare, log_probabilities
from cnnexport.parity.gate import Criterion, Numeric, Verdict, judge, layer_map, left_open, numeric, weighed
from cnnexport.parity.graph import GraphFacts, LogitsTensor, graph_facts, logits_tensors, to_onnx_layout
from cnnexport.parity.inputs import OPEN_SIZE, cases, images
from cnnexport.parity.records import record
from cnnexport.parity.tolerances import MAX_ERROR, RMS_ERROR, ROUNDING_ULPS, Tolerance, tolerance

__all__ = [
    "MAX_ERROR",
    "OPEN_SIZE",
    "RMS_ERROR",
    "ROUNDING_ULPS",
    "CaseAnswer",
    "Comparison",
    "Criterion",
    "GraphFacts",
    "KerasAnswers",
    "LogitsTensor",
    "Numeric",
    "Tolerance",
    "Verdict",
    "cases",
    "compare",
    "graph_facts",
    "images",
    "judge",
    "layer_map",
    "left_open",
    "log_probabilities",
    "logits_tensors",
    "numeric",
    "record",
    "to_onnx_layout",
    "tolerance",
    "weighed",
]
