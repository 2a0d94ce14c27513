"""One form for whatever only regroups axes: Reshape with a constant target, or Flatten where it is one.

Squeeze, Unsqueeze, Flatten and Reshape become Reshape, two in a row become one, and one that changes
nothing goes. ``SayFlatten`` puts Flatten back where features are flattened.

Never changes: where more than one dimension is not known beforehand.
"""

from __future__ import annotations

import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    NodePass,
    add_initializer,
    bypass,
    constant,
    insert,
    maker,
    read,
    remove_unused,
    sizes,
    target_of,
)

REGROUPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


class StaticReshape(NodePass):
    ops = tuple(REGROUPING)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        source, final = read(node), sizes(node.outputs[0])
        before = maker(source, *REGROUPING)
        if before is not None:
            source = read(before)
        start = sizes(source)
        target = None if start is None or final is None else target_of(final, start)
        if target is None:
            return False
        if before is None and node.op_type == "Reshape" and constant(node.inputs[1]) is not None:
            return False
        output = source
        if start != final:
            shape = add_initializer(graph, target, f"{node.name}__shape")
            output = insert(graph, node, "Reshape", [source, shape])
            output.shape = node.outputs[0].shape
        elif node.outputs[0].is_graph_output() and source.producer() is None:
            return False
        bypass(graph, node, output)
        if before is not None:
            remove_unused(graph, before)
        return True


class SayFlatten(NodePass):
    """Write a Reshape that flattens all features of each item as Flatten."""

    ops = ("Reshape",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        source, final = sizes(node.inputs[0]), sizes(node.outputs[0])
        if source is None or final is None or len(final) != 2 or source[:1] != final[:1]:
            return False
        output = insert(graph, node, "Flatten", [node.inputs[0]], {"axis": 1})
        output.shape = node.outputs[0].shape
        bypass(graph, node, output)
        return True
