"""int8 by ONNX Runtime's own quantiser: QDQ, int8 weights a channel, the classifier's end in float.

What suits which processor (ONNX Runtime, "Quantize ONNX models"; the kind of activations is measured too):

| processor | weights | activations |
|---|---|---|
| x86 with VNNI or AMX | int8, 8 bits: sums are exact | uint8 or int8, the faster |
| x86 without | int8, 7 bits: pairs of products are added in 16 bits, and overflow | uint8 |
| ARM with dot products (``asimddp``) | int8, 8 bits | int8 or uint8, the faster |
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cnnexport.bundle.records import Kept
from cnnexport.errors import InputError, UsageError
from cnnexport.precision.ranges import Ranges, quiet, stored
from cnnexport.runtimes import ort
from cnnexport.text import all_in_line

PRODUCTS = ("Conv", "Gemm", "MatMul", "ConvTranspose")
BETWEEN = ("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Pad", "Relu", "Reshape",
           "Transpose")
"""What is quantised between products, so that no layer has to turn numbers back; all else stays in float32."""


OUTPUT_ONLY = "its output only: scores keep all their digits"
"""Of the last product, which is quantised but for that."""
Activations = Literal["uint8", "int8"]


@dataclass(frozen=True)
class Made:
    """How a file was made: its settings, the nodes that stayed in float32, and what a reader should know."""

    settings: dict[str, Any]
    kept: tuple[Kept, ...] = ()
    notes: tuple[str, ...] = ()


def vnni(text: str | None = None) -> bool | None:
    """Whether the processor multiplies bytes exactly, from the flags of ``/proc/cpuinfo``; None where that is unknown.

    ARM's ``asimddp`` (dot products of bytes) does too.
    """
    if text is None:
        try:
            text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return not {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}.isdisjoint(value.split())
    return None


def write(
    source: Path, place: Path, ranges: Ranges, keep: Mapping[str, str] | None = None, activations: Activations = "uint8"
) -> Made:
    """Quantise the float32 file ``source`` to ``place`` with these ``ranges``.

    The nodes of ``keep`` stay in float, for the reasons that it gives. Raises InputError where there is nothing to
    quantise, or where it is quantised already, and UsageError where nothing is left to quantise.
    """
    ort.library()
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = onnx.load(source)
    check_float(model, source)
    last, behind = end_of(model.graph)
    kept = {node.name: f"follows {last.name}, the last product" for node in model.graph.node if node.name in behind}
    kept = {**(keep or {}), **kept}
    has_vnni = vnni()
    names = {node.name for node in model.graph.node if node.op_type in (*PRODUCTS, *BETWEEN)} - set(kept)
    if not any(node.name in names and node.op_type in PRODUCTS for node in model.graph.node):
        raise UsageError("--keep leaves no convolution or dense layer to quantise; keep fewer layers")
    settings: dict[str, Any] = {
        "format": "QDQ", "weights": "int8, symmetric, per channel", "activations": f"{activations}, asymmetric",
        "reduce_range": has_vnni is False, "vnni": has_vnni, "processor": platform.machine(),
        "by": f"onnxruntime.quantization {ort.library().__version__}"}
    with quiet():
        try:
            # quantize_static would measure the ranges anew for each file; this is its second half.
            quantiser = QDQQuantizer(
                onnx.load(source), True, has_vnni is False, quantization.QuantType.QInt8,
                quantization.QuantType.QUInt8 if activations == "uint8" else quantization.QuantType.QInt8,
                stored(ranges), sorted(names), [], [*PRODUCTS, *BETWEEN],
                {"WeightSymmetric": True, "ActivationSymmetric": False})
            quantiser.quantize_model()
            quantiser.model.save_model_to_file(str(place), False)
        except Exception as error:  # the library raises whatever fails within
            raise InputError(f"{source} cannot be quantised by onnxruntime.quantization ({all_in_line(error)}); use "
                             "--precision fp16") from error
    made = onnx.load(place)
    freed = last.op_type in ("Gemm", "MatMul") and _float_output(made.graph, last.output[0])
    onnx.save(made, place)
    reasons = [Kept(node=n.name, operator=n.op_type, reason=kept[n.name]) for n in model.graph.node if n.name in kept]
    if freed and last.name not in kept:
        reasons.insert(0, Kept(node=last.name, operator=last.op_type,
                               reason=OUTPUT_ONLY))
    notes = () if has_vnni is not None else (
        "whether this processor has VNNI is not known: weights use all 8 bits, which is wrong on x86 without it",)
    return Made(settings, tuple(reasons), notes)


def check_float(model: Any, source: Path) -> None:
    """Raises InputError where a model is quantised already or has nothing to quantise."""
    done = next((n for n in model.graph.node if "Quantize" in n.op_type or "QLinear" in n.op_type), None)
    if done is not None:
        raise InputError(f"{source} is quantised already ({done.op_type} '{done.name}'); give the bundle of the "
                         "float32 model")
    weights = {tensor.name for tensor in model.graph.initializer}
    if not any(n.op_type in PRODUCTS and n.input[1] in weights for n in model.graph.node):
        raise InputError(f"{source} has no convolution or dense layer with weights: there is nothing to quantise")
    if any(t.data_location == 1 for t in model.graph.initializer):  # EXTERNAL, where it was not loaded
        raise InputError(f"{source} keeps its weights outside; such models are not quantised yet")


def nodes_of(graph: Any, layer: str) -> list[str]:
    """The names of the nodes that a layer has in a file. Raises UsageError where it has none."""
    own = [node.name for node in graph.node if node.name == layer or node.name.startswith(f"{layer}/")]
    if not own:
        raise UsageError(f"the file has no nodes of a layer '{layer}'; verdict.json lists the layers")
    return own


def end_of(graph: Any) -> tuple[Any, set[str]]:
    """The last product of a graph, and the names of the nodes behind it."""
    last = [node for node in graph.node if node.op_type in PRODUCTS][-1]
    reached, behind = set(last.output), set()
    for node in graph.node:  # in topological order
        if reached.intersection(node.input):
            reached.update(node.output)
            behind.add(node.name)
    return last, behind


def _float_output(graph: Any, tensor: str) -> bool:
    """Let what follows ``tensor`` read it before it was rounded; whether it was."""
    taken = [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0].startswith(tensor)
             and n.input[0] in (tensor, f"{tensor}_QuantizeLinear_Input")]
    for quantise in taken:
        restore = next(n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] == quantise.output[0])
        graph.node.remove(quantise)
        graph.node.remove(restore)
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == restore.output[0]:
                    node.input[place] = quantise.input[0]
            for place, name in enumerate(node.output):  # an output of the graph, which was renamed to be quantised
                if name == quantise.input[0] and restore.output[0] == tensor:
                    node.output[place] = tensor
    read = {name for node in graph.node for name in node.input}
    for tensor_left in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor_left)
    return bool(taken)
