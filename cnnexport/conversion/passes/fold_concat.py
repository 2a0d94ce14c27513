"""Let arithmetic on the channels of a Concat rise to the convolutions that alone feed it, which take it in.

Never changes: a Concat that reads anything else, or another axis than the channels, or that something else reads too.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.affine import step
from cnnexport.conversion.passes.fold_affine import channel_axis_of_kernel
from cnnexport.conversion.passes.rewriting import (
    NodePass,
    add_initializer,
    bypass,
    constant,
    given,
    insert,
    known_shape,
    made_alone,
    read,
    read_alone,
)


class RiseAboveConcat(NodePass):
    ops = ("Concat",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        rank, widths = len(known_shape(node.outputs[0]) or ()), [_filters(v) for v in node.inputs]
        if node.attributes["axis"].as_int() not in (1, 1 - rank) or 0 in widths:
            return False
        ends = np.cumsum(widths)
        modified = False
        while (after := read_alone(node.outputs[0], "Add", "Sub", "Mul", "Div")) is not None:
            if step(after) is None:
                break
            place = 0 if after.inputs[0] is node.outputs[0] else 1
            array = constant(after.inputs[1 - place])
            assert array is not None
            for i, (end, width) in enumerate(zip(ends, widths)):
                part = array if array.size == 1 else np.take(array, range(end - width, end), axis=array.ndim - rank + 1)
                source = read(node, i)
                operands: list[ir.Value | None] = [source, add_initializer(graph, part, f"{after.name}__{i}")]
                operands = operands if place == 0 else operands[::-1]
                value = insert(graph, node, after.op_type, operands, suffix=f"/{after.name}/{i}")
                value.shape = source.shape
                node.replace_input_with(i, value)
            bypass(graph, after, node.outputs[0])
            modified = True
        return modified


def _filters(value: ir.Value | None) -> int:
    """How many channels a convolution by constants makes, for the Concat alone; 0 where there is none."""
    conv = made_alone(value, "Conv", "ConvTranspose")
    axis = channel_axis_of_kernel(conv) if conv is not None else None
    if conv is None or axis is None or (given(conv, 2) is not None and constant(conv.inputs[2]) is None):
        return 0
    kernel = constant(conv.inputs[1])
    return 0 if kernel is None else kernel.shape[axis]
