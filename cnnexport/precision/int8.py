"""int8 by ONNX Runtime's own quantiser: QDQ, int8 weights a channel, uint8 activations, the classifier's end in float.

ONNX Runtime's CPU kernels multiply uint8 by int8. Where the processor has VNNI their sums are exact; without it pairs
of products are added in 16 bits and overflow unless weights keep to 7 bits (ONNX Runtime, "Quantize ONNX models").
"""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnexport.bundle.records import Kept
from cnnexport.errors import InputError, UsageError
from cnnexport.precision.calibration import Array, Batches
from cnnexport.runtimes import ort
from cnnexport.text import all_in_line

PRODUCTS = ("Conv", "Gemm", "MatMul", "ConvTranspose")
BETWEEN = ("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Pad", "Relu", "Reshape",
           "Transpose")
"""What is quantised between products, so that no layer has to turn numbers back; all else stays in float32."""


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


def write(source: Path, place: Path, batches: Batches, keep: Sequence[str] = ()) -> Made:
    """Quantise the float32 file ``source`` to ``place``, ranges measured on ``batches``; layers ``keep`` stay in float.

    Raises InputError where there is nothing to quantise, or where it is quantised already, and UsageError for a layer
    that has no nodes of its own.
    """
    ort.library()
    import onnx
    from onnxruntime import quantization

    model = onnx.load(source)
    check_float(model, source)
    last, behind = _end(model.graph)
    kept = {node.name: f"follows {last.name}, the last product" for node in model.graph.node if node.name in behind}
    for layer in keep:
        own = [node.name for node in model.graph.node if node.name == layer or node.name.startswith(f"{layer}/")]
        if not own:
            raise UsageError(f"the file has no nodes of a layer '{layer}'; verdict.json lists the layers")
        kept |= {name: f"--keep {layer}" for name in own if name not in kept}
    has_vnni = vnni()
    names = {node.name for node in model.graph.node if node.op_type in (*PRODUCTS, *BETWEEN)} - set(kept)
    if not any(node.name in names and node.op_type in PRODUCTS for node in model.graph.node):
        raise UsageError("--keep leaves no convolution or dense layer to quantise; keep fewer layers")
    settings: dict[str, Any] = {
        "format": "QDQ", "weights": "int8, symmetric, per channel", "activations": "uint8, asymmetric",
        "reduce_range": has_vnni is False, "vnni": has_vnni, "processor": platform.machine(),
        "by": f"onnxruntime.quantization {ort.library().__version__}"}
    with _silent():
        try:
            quantization.quantize_static(
                model, place, _reader(quantization, batches), quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=[*PRODUCTS, *BETWEEN], per_channel=True, reduce_range=has_vnni is False,
                activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
                nodes_to_quantize=sorted(names), calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={"WeightSymmetric": True, "ActivationSymmetric": False})
        except Exception as error:  # the library raises whatever fails within
            raise InputError(f"{source} cannot be quantised by onnxruntime.quantization ({all_in_line(error)}); use "
                             "--precision fp16") from error
    made = onnx.load(place)
    freed = last.op_type in ("Gemm", "MatMul") and _float_output(made.graph, last.output[0])
    onnx.save(made, place)
    reasons = [Kept(node=n.name, operator=n.op_type, reason=kept[n.name]) for n in model.graph.node if n.name in kept]
    if freed and last.name not in kept:
        reasons.insert(0, Kept(node=last.name, operator=last.op_type,
                               reason="its output only: scores keep all their digits"))
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


def _end(graph: Any) -> tuple[Any, set[str]]:
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


def _reader(quantization: Any, batches: Batches) -> Any:
    """``batches`` as the library reads images: one batch at a time."""

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[dict[str, Array]] = batches()

        def get_next(self) -> dict[str, Array] | None:
            return next(self.left, None)

    return Reader()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The library advises on the root logger; what it says of a file made here is not for the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
