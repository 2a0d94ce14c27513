"""Fold per-channel arithmetic (what BatchNormalization leaves) into the Conv or Dense before it.

``conv(x) * s + t`` becomes ``conv'(x)`` with kernel ``k * s`` and bias ``b * s + t``. The same holds
for Sub and Div, for ConvTranspose, Gemm and MatMul, and for a MatMul with its bias Add.

Never changes: a convolution whose output has another reader; arithmetic that varies in space.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    Array,
    add_initializer,
    bypass,
    constant,
    full_rank,
    known_shape,
    sole_consumer,
)

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def _attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def channel_axis_of_kernel(node: ir.Node) -> int | None:
    """The axis of a linear node's kernel that runs over its output channels, if there is one."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if _attribute(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        if node.attributes.get("alpha") is not None and node.attributes["alpha"].as_float() != 1.0:
            return None
        if node.attributes.get("beta") is not None and node.attributes["beta"].as_float() != 1.0:
            return None
        return 0 if _attribute(node, "transB", 0) else 1
    return 1


def _per_channel(node: ir.Node, array: Array, channels: int) -> Array | None:
    """``array`` as one value a channel of ``node``'s output, or None when it is anything else."""
    if node.op_type in ("Conv", "ConvTranspose"):
        kernel = constant(node.inputs[1])
        rank, axis = (0 if kernel is None else kernel.ndim), 1
    else:
        shape = known_shape(node.outputs[0])
        rank = max(array.ndim, 2) if shape is None and array.ndim <= 1 else len(shape or ())
        axis = rank - 1
    spread = full_rank(array, rank)
    if spread is None or any(d != 1 for i, d in enumerate(spread.shape) if i != axis):
        return None
    if spread.size not in (1, channels):
        return None
    return np.broadcast_to(spread.reshape(-1), (channels,))


class FoldAffine(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in list(graph):
            if node.op_type in ("Add", "Sub", "Mul", "Div") and _fold(graph, node):
                modified = True
        return ir.passes.PassResult(model, modified)


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    a, b = node.inputs
    if a is None or b is None:
        return False
    first, second = constant(a), constant(b)
    if (first is None) == (second is None):
        return False
    source, array = (b, first) if first is not None else (a, second)
    constant_first = first is not None
    assert array is not None
    producer = source.producer()
    if producer is None or sole_consumer(source) is not node or not np.issubdtype(array.dtype, np.floating):
        return False
    bias_node: ir.Node | None = None
    linear = producer
    if producer.op_type == "Add":
        # A Dense on more than two axes: MatMul, then its bias.
        bias_node = producer
        made = [v.producer() for v in producer.inputs if v is not None and v.producer() is not None]
        if len(made) != 1 or made[0] is None or made[0].op_type != "MatMul":
            return False
        linear = made[0]
        if sole_consumer(linear.outputs[0]) is not bias_node:
            return False
    if linear.op_type not in LINEAR or linear.domain:
        return False
    axis = channel_axis_of_kernel(linear)
    kernel = constant(linear.inputs[1])
    if axis is None or kernel is None or (linear.op_type in ("Gemm", "MatMul") and kernel.ndim != 2):
        return False
    channels = kernel.shape[axis]
    values = _per_channel(linear, array, channels)
    if values is None:
        return False
    if linear.op_type == "MatMul" and bias_node is None and node.op_type in ("Add", "Sub"):
        return False  # this is the bias itself

    scale: Array | None = None
    shift: Array | None = None
    if node.op_type == "Mul":
        scale = values
    elif node.op_type == "Div":
        if constant_first:
            return False
        scale = (1.0 / values.astype(np.float64)).astype(values.dtype)
    elif node.op_type == "Add":
        shift = values
    elif constant_first:
        scale, shift = -np.ones(channels, values.dtype), values
    else:
        shift = -values
    return _apply(graph, node, linear, bias_node, kernel, axis, scale, shift)


def _apply(
    graph: ir.Graph,
    node: ir.Node,
    linear: ir.Node,
    bias_node: ir.Node | None,
    kernel: Array,
    axis: int,
    scale: Array | None,
    shift: Array | None,
) -> bool:
    channels = kernel.shape[axis]
    bias: Array | None = np.zeros(channels, kernel.dtype)
    if bias_node is not None:
        place = next(i for i, v in enumerate(bias_node.inputs) if constant(v) is not None) if any(
            constant(v) is not None for v in bias_node.inputs) else -1
        stored = constant(bias_node.inputs[place]) if place >= 0 else None
        bias = None if stored is None else _per_channel(linear, stored, channels)
    elif linear.op_type != "MatMul" and len(linear.inputs) > 2 and linear.inputs[2] is not None:
        stored = constant(linear.inputs[2])
        bias = None if stored is None or stored.size not in (1, channels) else np.broadcast_to(
            stored.reshape(-1), (channels,))
    if bias is None:
        return False
    if scale is not None:
        spread = [1] * kernel.ndim
        spread[axis] = channels
        bias = bias * scale
        name = linear.inputs[1].name if linear.inputs[1] is not None else None
        linear.replace_input_with(
            1, add_initializer(graph, kernel * scale.reshape(spread), f"{name or 'kernel'}"))
    if shift is not None:
        bias = bias + shift
    if bias_node is not None:
        value = add_initializer(graph, np.ascontiguousarray(bias), f"{bias_node.inputs[place].name}")  # type: ignore[union-attr]
        bias_node.replace_input_with(place, value)
        bypass(graph, node, bias_node.outputs[0])
        return True
    if linear.op_type != "MatMul":
        value = add_initializer(graph, np.ascontiguousarray(bias), f"{linear.name}__bias")
        if len(linear.inputs) > 2:
            linear.replace_input_with(2, value)
        else:
            linear.resize_inputs(3)
            linear.replace_input_with(2, value)
    bypass(graph, node, linear.outputs[0])
    return True
