"""Apply a Dense to the last of more than two axes at once.

Keras flattens all other axes into one, multiplies, and restores them; MatMul works on the last axis anyway.

Never changes: a product whose kernel is not constant, or around which axes are regrouped otherwise.
"""

from __future__ import annotations

import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    NodePass,
    bypass,
    constant,
    insert,
    maker,
    read_alone,
    remove_unused,
    sizes,
)


class KeepAxes(NodePass):
    ops = ("MatMul",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        kernel = constant(node.inputs[1])
        before, after = maker(node.inputs[0], "Reshape"), read_alone(node.outputs[0], "Reshape")
        if kernel is None or kernel.ndim != 2 or before is None or after is None:
            return False
        final = sizes(after.outputs[0])
        if final is None or sizes(before.inputs[0]) != [*final[:-1], kernel.shape[0]]:
            return False
        output = insert(graph, after, "MatMul", [before.inputs[0], node.inputs[1]])
        output.shape = after.outputs[0].shape
        bypass(graph, after, output)
        graph.remove(node, safe=True)
        remove_unused(graph, before)
        return True
