"""Keras to ONNX without the weights on the way: trace, translate, bind, fold, name, infer shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnexport.conversion.inputs import input_ports
from cnnexport.conversion.ports import Port, safe_names
from cnnexport.options import DEFAULT_OPSET, check_opset

if TYPE_CHECKING:
    import onnx_ir as ir

    from cnnexport.conversion.trace import Trace

__all__ = ["DEFAULT_OPSET", "Converted", "Port", "convert_model", "input_ports"]

ROLES = {
    "Conv:1": "kernel", "Conv:2": "bias", "ConvTranspose:1": "kernel", "ConvTranspose:2": "bias",
    "Gemm:1": "kernel", "Gemm:2": "bias", "MatMul:1": "kernel", "Reshape:1": "shape", "Pad:1": "pads",
    "PRelu:1": "slope", "BatchNormalization:1": "gamma", "BatchNormalization:2": "beta",
    "BatchNormalization:3": "moving_mean", "BatchNormalization:4": "moving_variance",
    "LayerNormalization:1": "gamma", "LayerNormalization:2": "beta",
    "InstanceNormalization:1": "gamma", "InstanceNormalization:2": "beta",
    "Add:1": "add", "Mul:1": "multiply", "Sub:1": "subtract", "Div:1": "divide",
}
"""Names for the initializer at an operator's input."""


@dataclass(frozen=True)
class Converted:
    """A folded model in memory, its ports in Keras' order, and the Keras layers in order of depth."""

    model: ir.Model
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: tuple[str, ...]
    seconds: dict[str, float]


def convert_model(
    model: Any,
    *,
    output_names: Sequence[str],
    layout: str = "nhwc",
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    input_shape: tuple[int | None, ...] | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Converted:
    """Convert a Keras model to an ONNX model in memory; weights are views of Keras' own where unchanged.

    ``layout`` is that of 4-D inputs and, for ``nchw``, of 4-D outputs; ``batch`` fixes the batch size,
    None leaves it dynamic under the name ``batch``. ``output_names`` name the outputs in Keras' order; none of them,
    for a model that does not know its outputs before it runs, names them by what makes them.
    ``input_shape`` (without batch) fixes the sizes that a model's only input leaves open.

    Raises:
        InputError: naming the layer that cannot be converted.
        UsageError: an opset that cannot be written.
    """
    import time

    from cnnexport.conversion.binding import bind, finish, name_ports
    from cnnexport.conversion.passes import fold
    from cnnexport.conversion.passes.names import NameAfterLayers
    from cnnexport.conversion.trace import trace
    from cnnexport.conversion.translate import layer_of, translate

    check_opset(opset)
    seconds: dict[str, float] = {}

    def timed(step: str, start: float) -> float:
        now = time.perf_counter()
        seconds[step] = now - start
        return now

    clock = time.perf_counter()
    progress("trace")
    inputs = input_ports(model, batch=batch, layout=layout, input_shape=input_shape)
    traced = trace(model, [(p.name, p.shape, p.dtype) for p in inputs])
    clock = timed("trace", clock)

    progress("convert")
    output_first = [layout == "nchw" and len(s) == 4 for s, _ in traced.output_specs]
    proto, known = translate(
        traced, opset=opset, channels_first=[p.channels_first for p in inputs], outputs_first=output_first)
    names = list(output_names or _names(traced))
    safe = safe_names(names, [port.name for port in inputs], instead="output")
    outputs = tuple(
        Port(name, (batch, *shape[1:]) if shape else shape, dtype, first, None if name == keras_name else keras_name)
        for name, keras_name, (shape, dtype), first in zip(
            safe, names, traced.output_specs, output_first, strict=True))
    clock = timed("convert", clock)

    progress("fold")
    graph_model = bind(proto, known, traced, model, inputs)
    fold(graph_model)
    name_ports(graph_model, traced.outputs, inputs, outputs)
    NameAfterLayers(lambda name: layer_of(traced, name), ROLES)(graph_model)
    finish(graph_model, model.name, inputs, outputs)
    timed("fold", clock)
    return Converted(graph_model, inputs, outputs, traced.layers, seconds)


def _names(traced: Trace) -> list[str]:
    """Names for the outputs of a subclassed model: its dict's keys, or what the operators that make them suggest."""
    if len(traced.ends) > 1:
        return [*traced.keys] or [f"output_{i}" for i in range(len(traced.ends))]
    if traced.ends[0] in ("Softmax", "Sigmoid"):
        return ["probabilities"]
    shape, _ = traced.output_specs[0]
    return ["logits" if len(shape) == 2 and traced.ends[0] in ("MatMul", "BiasAdd") else "features"]
