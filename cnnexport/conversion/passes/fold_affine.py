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
    NodePass,
    add_initializer,
    bypass,
    constant,
    full_rank,
    given,
    known_shape,
    made_alone,
    read,
)

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def channel_axis_of_kernel(node: ir.Node) -> int | None:
    """The axis of a linear node's kernel that runs over its output channels, if there is one."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if node.attributes.get_int("group", 1) == 1 else None
    if node.op_type == "Gemm":
        if node.attributes.get_float("beta", 1.0) != 1.0:
            return None
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 1


def _per_channel(node: ir.Node, array: Array, kernel: Array, channels: int) -> Array | None:
    """``array`` as one value a channel of ``node``'s output, or None when it is anything else."""
    if node.op_type in ("Conv", "ConvTranspose"):
        rank, axis = kernel.ndim, 1
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


class FoldAffine(NodePass):
    ops = ("Add", "Sub", "Mul", "Div")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        first, second = (constant(v) for v in node.inputs)
        constant_first = first is not None
        source, array = (read(node, 1), first) if constant_first else (read(node), second)
        linear = made_alone(source, "Add", *LINEAR)
        if linear is None or array is None or not np.issubdtype(array.dtype, np.floating):
            return False
        bias_node: ir.Node | None = None
        if linear.op_type == "Add":
            # A Dense on more than two axes: MatMul, then its bias.
            bias_node = linear
            found = [m for v in bias_node.inputs if (m := made_alone(v, "MatMul")) is not None]
            if not found:
                return False
            linear = found[0]
        elif linear.op_type == "MatMul" and node.op_type in ("Add", "Sub"):
            return False  # this is the bias itself
        axis = channel_axis_of_kernel(linear)
        kernel = constant(linear.inputs[1])
        if axis is None or kernel is None or (linear.op_type == "MatMul" and kernel.ndim != 2):
            return False
        channels = kernel.shape[axis]
        values = _per_channel(linear, array, kernel, channels)
        if values is None:
            return False

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
    place = 2
    if bias_node is not None:
        place = next((i for i, v in enumerate(bias_node.inputs) if constant(v) is not None), -1)
        stored = constant(bias_node.inputs[place])
        bias = None if stored is None else _per_channel(linear, stored, kernel, channels)
    elif given(linear, 2) is not None:
        stored = constant(linear.inputs[2])
        # A Conv's has one axis; a Gemm's is broadcast.
        bias = stored if stored is None or linear.op_type != "Gemm" else _per_channel(linear, stored, kernel, channels)
    if bias is None:
        return False
    if scale is not None:
        spread = [1] * kernel.ndim
        spread[axis] = channels
        bias = bias * scale
        linear.replace_input_with(
            1, add_initializer(graph, kernel * scale.reshape(spread), f"{linear.name}__kernel"))
    if shift is not None:
        bias = bias + shift
    holder = linear if bias_node is None else bias_node
    if holder.op_type != "MatMul":
        value = add_initializer(graph, np.ascontiguousarray(bias), f"{holder.name}__bias")
        holder.resize_inputs(max(len(holder.inputs), place + 1))
        holder.replace_input_with(place, value)
    bypass(graph, node, holder.outputs[0])
    return True
