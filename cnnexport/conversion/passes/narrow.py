"""Convolve and pool sequences in one dimension.

Keras works on sequences as on images of height 1: a Reshape adds the axis and another takes it away.

Never changes: a node that works along the added axis too (a kernel, padding or result longer than 1).
"""

from __future__ import annotations

import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    add_initializer,
    bypass,
    constant,
    insert,
    padded_by_numbers,
    shape_like,
    sizes,
    target_of,
)

_PER_AXIS = {"kernel_shape": 1, "strides": None, "dilations": None, "output_padding": 0}
"""Attributes with one number an axis, and what that must be along the added axis (None: anything)."""


class Narrow(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in list(graph):
            if node.op_type in ("Conv", "ConvTranspose", "MaxPool", "AveragePool") and _narrow(graph, node):
                modified = True
        return ir.passes.PassResult(model, modified)


def _narrow(graph: ir.Graph, node: ir.Node) -> bool:
    reshape = node.inputs[0].producer() if node.inputs[0] is not None else None
    if reshape is None or reshape.op_type != "Reshape" or len(node.outputs) != 1:
        return False
    start, wide, final = sizes(reshape.inputs[0]), sizes(node.inputs[0]), sizes(node.outputs[0])
    if start is None or wide is None or final is None or len(wide) != 4 or "output_shape" in node.attributes:
        return False
    kernel = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if len(node.inputs) > 1 and kernel is None:
        return False
    for axis in (2, 3):
        place, kept = axis - 2, 3 - axis
        pads = list(node.attributes["pads"].as_ints()) if "pads" in node.attributes else [0] * 4
        if wide[:axis] + wide[axis + 1:] != start or final[axis] != 1:
            continue
        if pads[place] or pads[place + 2]:
            continue
        if kernel is not None and kernel.shape[axis] != 1:
            continue
        attributes = {k: list(node.attributes[k].as_ints()) for k in _PER_AXIS if k in node.attributes}
        if any(_PER_AXIS[k] not in (None, v[place]) for k, v in attributes.items()):
            continue
        if not padded_by_numbers(node):
            continue
        target = target_of(final, final[:axis] + final[axis + 1:])
        if target is None:
            continue
        inputs: list[ir.Value | None] = [reshape.inputs[0], *node.inputs[1:]]
        if kernel is not None:
            name = node.inputs[1].name if node.inputs[1] is not None else None
            inputs[1] = add_initializer(graph, kernel.squeeze(axis), name or "kernel")
        output = insert(graph, node, node.op_type, inputs)
        made = output.producer()
        assert made is not None
        made.attributes.update({k: v for k, v in node.attributes.items() if k not in _PER_AXIS})
        for key, numbers in attributes.items():
            made.attributes[key] = ir.AttrInt64s(key, [numbers[kept]])
        made.attributes["pads"] = ir.AttrInt64s("pads", [pads[kept], pads[kept + 2]])
        output.shape = shape_like(final[:axis] + final[axis + 1:], node.outputs[0])
        shape = add_initializer(graph, target, f"{node.name}__shape")
        widened = insert(graph, node, "Reshape", [output, shape])
        widened.shape = node.outputs[0].shape
        bypass(graph, node, widened)
        if not reshape.outputs[0].uses() and not reshape.outputs[0].is_graph_output():
            graph.remove(reshape, safe=True)
        return True
    return False
