"""Convolve and pool sequences in one dimension.

Keras works on sequences as on images of height 1: a Reshape adds the axis and another takes it away.

Never changes: a node that works along the added axis too (a kernel, padding or result longer than 1).
"""

from __future__ import annotations

import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    NodePass,
    add_initializer,
    bypass,
    constant,
    given,
    insert,
    maker,
    padded_by_numbers,
    pads_of,
    remove_unused,
    sizes,
    target_of,
)

_PER_AXIS = {"kernel_shape": 1, "strides": None, "dilations": None, "output_padding": 0}
"""Attributes with one number an axis, and what that must be along the added axis (None: anything)."""


class Narrow(NodePass):
    ops = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        reshape = maker(node.inputs[0], "Reshape")
        if reshape is None or len(node.outputs) != 1 or "output_shape" in node.attributes:
            return False
        start, wide, final = (sizes(v) or [] for v in (reshape.inputs[0], node.inputs[0], node.outputs[0]))
        if len(wide) != 4:
            return False
        kernel = constant(given(node, 1))
        if not padded_by_numbers(node) or (kernel is None and "Conv" in node.op_type):
            return False
        for axis in (2, 3):
            place, kept = axis - 2, 3 - axis
            pads = pads_of(node, 2)
            if wide[:axis] + wide[axis + 1:] != start:
                continue
            if pads[place] or pads[place + 2]:
                continue
            if kernel is not None and kernel.shape[axis] != 1:
                continue
            attributes = {k: list(node.attributes[k].as_ints()) for k in _PER_AXIS if k in node.attributes}
            if any(_PER_AXIS[k] not in (None, v[place]) for k, v in attributes.items()):
                continue
            target = target_of(final, final[:axis] + final[axis + 1:])
            assert target is not None
            inputs: list[ir.Value | None] = [reshape.inputs[0], *node.inputs[1:]]
            if kernel is not None:
                inputs[1] = add_initializer(graph, kernel.squeeze(axis), f"{node.name}__kernel")
            output = insert(graph, node, node.op_type, inputs)
            made = output.producer()
            assert made is not None
            made.attributes.update({k: v for k, v in node.attributes.items() if k not in _PER_AXIS})
            for key, numbers in attributes.items():
                made.attributes[key] = ir.AttrInt64s(key, [numbers[kept]])
            made.attributes["pads"] = ir.AttrInt64s("pads", [pads[kept], pads[kept + 2]])
            output.shape = ir.Shape(final[:axis] + final[axis + 1:])
            shape = add_initializer(graph, target, f"{node.name}__shape")
            widened = insert(graph, node, "Reshape", [output, shape])
            widened.shape = node.outputs[0].shape
            bypass(graph, node, widened)
            remove_unused(graph, reshape)
            return True
        return False
