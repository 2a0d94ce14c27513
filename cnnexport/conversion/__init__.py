"""Keras to ONNX without the weights on the way: trace, translate, bind, fold, name, infer shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnexport.errors import InputError, UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

DEFAULT_OPSET = 18

ROLES = {
    "Conv:1": "kernel", "Conv:2": "bias", "ConvTranspose:1": "kernel", "ConvTranspose:2": "bias",
    "Gemm:1": "kernel", "Gemm:2": "bias", "MatMul:1": "kernel", "Reshape:1": "shape", "Pad:1": "pads",
    "BatchNormalization:1": "gamma", "BatchNormalization:2": "beta",
    "BatchNormalization:3": "moving_mean", "BatchNormalization:4": "moving_variance",
    "Add:1": "add", "Mul:1": "multiply", "Sub:1": "subtract", "Div:1": "divide",
}
"""Names for the initializer at an operator's input."""


@dataclass(frozen=True)
class Port:
    """An input or output of the ONNX model: its name, Keras' shape (batch first) and dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    channels_first: bool = False

    @property
    def onnx_shape(self) -> tuple[int | None, ...]:
        """The shape in ONNX: channels second where ``channels_first``."""
        if not self.channels_first:
            return self.shape
        return (self.shape[0], self.shape[-1], *self.shape[1:-1])


@dataclass(frozen=True)
class Converted:
    """A folded model in memory, its ports in Keras' order, and the Keras layers in order of depth."""

    model: ir.Model
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: tuple[str, ...]
    seconds: dict[str, float]


def input_ports(
    model: Any,
    *,
    batch: int | None = None,
    layout: str = "nhwc",
    input_shape: tuple[int, ...] | None = None,
) -> tuple[Port, ...]:
    """The ports that ``model``'s inputs become; a single one is called ``input``.

    ``input_shape`` (without batch) fixes the sizes that a model's only input leaves open.

    Raises:
        InputError: the model does not know its input shapes.
        UsageError: ``input_shape`` contradicts the model.
    """
    import keras

    tensors = getattr(model, "inputs", None)
    if not tensors:
        raise InputError(f"model '{model.name}' does not know its input shape; call it once on data, or give it "
                         "an Input layer, before saving it")
    structure = model.input if hasattr(model, "input") else tensors
    tensors = keras.tree.flatten(structure)
    if input_shape is not None:
        own = tuple(tensors[0].shape[1:])
        fits = len(own) == len(input_shape) and all(a in (None, b) for a, b in zip(own, input_shape))
        if len(tensors) > 1 or not fits:
            expected = " and ".join("x".join("?" if d is None else str(d) for d in t.shape[1:]) for t in tensors)
            raise UsageError(f"input shape {'x'.join(map(str, input_shape))} does not fit the model, which takes "
                             f"{expected}; leave --input-shape out")
    used: set[str] = set()
    ports = []
    for tensor in tensors:
        name = "input" if len(tensors) == 1 else tensor.name.split(":")[0]
        while name in used:
            name += "_1"
        used.add(name)
        shape = (batch, *(input_shape or tensor.shape[1:]))
        first = layout == "nchw" and len(shape) == 4
        ports.append(Port(name, shape, keras.backend.standardize_dtype(tensor.dtype), first))
    return tuple(ports)


def convert_model(
    model: Any,
    *,
    output_names: Sequence[str],
    layout: str = "nhwc",
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    input_shape: tuple[int, ...] | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Converted:
    """Convert a Keras model to an ONNX model in memory; weights are views of Keras' own where unchanged.

    ``layout`` is that of 4-D inputs and, for ``nchw``, of 4-D outputs; ``batch`` fixes the batch size,
    None leaves it dynamic under the name ``batch``. ``output_names`` name the outputs in Keras' order.
    ``input_shape`` (without batch) fixes the sizes that a model's only input leaves open.

    Raises:
        InputError: naming the layer that cannot be converted.
        UsageError: an opset that cannot be written.
    """
    import time

    import onnx

    from cnnexport.conversion.trace import trace
    from cnnexport.conversion.translate import MIN_OPSET, layer_of, translate

    newest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        raise UsageError(f"opset {opset} cannot be written: choose one from {MIN_OPSET} to {newest}")
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
    proto, shapes = translate(
        traced, opset=opset, channels_first=[p.channels_first for p in inputs], outputs_first=output_first)
    outputs = tuple(
        Port(name, (batch, *shape[1:]) if shape else shape, dtype, first)
        for name, (shape, dtype), first in zip(output_names, traced.output_specs, output_first))
    clock = timed("convert", clock)

    progress("fold")
    graph_model = _bind(proto, shapes, traced, model, inputs)
    from cnnexport.conversion.passes import fold
    from cnnexport.conversion.passes.names import NameAfterLayers

    fold(graph_model)
    _name_ports(graph_model, traced.outputs, inputs, outputs)
    NameAfterLayers(lambda name: layer_of(traced, name), ROLES)(graph_model)
    _finish(graph_model, model.name, outputs)
    timed("fold", clock)
    return Converted(graph_model, inputs, outputs, traced.layers, seconds)


def _bind(proto: Any, shapes: dict[str, list[int]], traced: Any, model: Any, inputs: Sequence[Port]) -> ir.Model:
    """Turn the graph inputs that stand for variables into initializers over Keras' own memory."""
    import numpy as np
    import onnx_ir as ir

    result = ir.from_proto(proto)
    graph = result.graph
    for node in graph:
        for value in node.outputs:
            if value.shape is None and value.name in shapes:
                value.shape = ir.Shape([None if d < 0 else d for d in shapes[value.name]])
    arrays = dict(zip(traced.variables, model.variables))
    places = dict(zip(traced.inputs, inputs))
    kept: dict[str, ir.Value] = {}
    for value in list(graph.inputs):
        variable = arrays.get(value.name or "")
        if variable is None:
            kept[value.name or ""] = value
            continue
        graph.inputs.remove(value)
        if not value.uses() and not value.is_graph_output():
            continue
        try:
            # A view of the variable's buffer: nothing is copied until a fold changes it.
            array = np.asarray(memoryview(variable.value.read_value()))
        except (TypeError, ValueError, BufferError, AttributeError):
            array = np.asarray(variable.numpy())
        value.shape = ir.Shape(array.shape)
        value.dtype = ir.DataType.from_numpy(array.dtype)
        value.const_value = ir.Tensor(array, name=value.name)
        graph.register_initializer(value)
    graph.inputs.clear()
    for name in traced.inputs:
        value = kept[name]
        port = places[name]
        dims: list[int | str | None] = list(port.onnx_shape)
        if dims and dims[0] is None:
            dims[0] = "batch"
        value.shape = ir.Shape(dims)
        graph.inputs.append(value)
    return result


def _name_ports(model: ir.Model, traced_outputs: Sequence[str], inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    import onnx_ir as ir

    graph = model.graph
    by_name = dict(zip(dict.fromkeys(traced_outputs), graph.outputs))
    taken = {p.name for p in [*inputs, *outputs]}
    for node in graph:
        for value in node.outputs:
            if value.name in taken:
                value.name = f"{value.name}__"
    for value, port in zip(graph.inputs, inputs):
        value.name = port.name
    wanted = [by_name[name] for name in traced_outputs]
    graph.outputs.clear()
    seen: set[int] = set()
    for value, port in zip(wanted, outputs):
        # An output that is an input, a constant, or another output's twin needs a node of its own.
        if value.producer() is None or id(value) in seen:
            node = ir.node("Identity", [value], name=f"{port.name}/Identity")
            node.outputs[0].dtype = value.dtype
            graph.append(node)
            value = node.outputs[0]
        seen.add(id(value))
        value.name = port.name
        graph.outputs.append(value)


def _finish(model: ir.Model, name: str, outputs: Sequence[Port]) -> None:
    """Set versions and names, and infer every shape from the ports alone."""
    import onnx
    import onnx_ir as ir

    import cnnexport
    from cnnexport.conversion.write import skeleton

    graph = model.graph
    graph.name = name
    graph.doc_string = None
    model.producer_name, model.producer_version = "cnnexport", cnnexport.__version__
    model.doc_string = None
    used = {node.domain for node in graph.all_nodes()} | {""}
    for domain in list(graph.opset_imports):
        if domain not in used:
            del graph.opset_imports[domain]
    model.ir_version = onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid(d, v) for d, v in graph.opset_imports.items()])
    for node in graph:
        for value in node.outputs:
            value.shape = value.type = None
    for value, port in zip(graph.outputs, outputs):
        dims: list[int | str | None] = list(port.onnx_shape)
        if dims and dims[0] is None:
            dims[0] = "batch"
        value.shape = ir.Shape(dims)
        value.dtype = ir.DataType[_ONNX_DTYPES.get(port.dtype, port.dtype.upper())]
    inferred = onnx.shape_inference.infer_shapes(skeleton(model), check_type=True, strict_mode=True, data_prop=True)
    known = {info.name: info for info in inferred.graph.value_info}
    for node in graph:
        for value in node.outputs:
            info = known.get(value.name or "")
            if info is None or value.is_graph_output():
                continue
            tensor = info.type.tensor_type
            value.dtype = ir.DataType(tensor.elem_type)
            if tensor.HasField("shape"):
                value.shape = ir.Shape([
                    d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim])
    onnx.checker.check_model(skeleton(model), full_check=True)


_ONNX_DTYPES = {"float32": "FLOAT", "float64": "DOUBLE"}
