"""Let arithmetic on the channels of a Concat rise to the convolutions that alone feed it, which take it in.

Never changes: a Concat that reads anything else, or another axis than the channels, or
that something else reads too.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.affine import channels, step
from cnnexport.conversion.passes.fold_affine import channel_axis_of_kernel
from cnnexport.conversion.passes.rewriting import (
    NodePass,
    add_initializer,
    bypass,
    constant,
    insert,
    known_shape,
    made_alone,
    read_alone,
)


class RiseAboveConcat(NodePass):
    ops = ("Concat",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        rank = len(known_shape(node.outputs[0]) or ())
        if node.attributes["axis"].as_int() not in (1, 1 - rank) or not all(map(_foldable, node.inputs)):
            return False
        widths = [channels(v) for v in node.inputs if v is not None]
        ends = np.cumsum(widths)
        modified = False
        while (after := read_alone(node.outputs[0], "Add", "Sub", "Mul", "Div")) is not None:
            found = step(after)
            if found is None or min(widths) == 0:
                break
            place = 0 if after.inputs[0] is node.outputs[0] else 1
            array = constant(after.inputs[1 - place])
            assert array is not None
            for i, (end, width) in enumerate(zip(ends, widths)):
                part = array if array.size == 1 else np.take(array, range(end - width, end), axis=array.ndim - rank + 1)
                held: list[ir.Value | None] = [node.inputs[i], add_initializer(graph, part, f"{after.name}__{i}")]
                # Named after the node that takes it in.
                maker = node.inputs[i].producer()  # type: ignore[union-attr]
                assert maker is not None
                value = insert(graph, node, after.op_type, held if place == 0 else held[::-1], suffix=f"/{after.name}")
                value.shape = node.inputs[i].shape  # type: ignore[union-attr]
                node.replace_input_with(i, value)
            bypass(graph, after, node.outputs[0])
            modified = True
        return modified


def _foldable(value: ir.Value | None) -> bool:
    """Whether a Conv or Dense makes ``value`` for the Concat alone."""
    linear = made_alone(value, "Conv", "ConvTranspose", "Gemm", "MatMul")
    if linear is None or channel_axis_of_kernel(linear) is None:
        return False
    return constant(linear.inputs[1]) is not None
