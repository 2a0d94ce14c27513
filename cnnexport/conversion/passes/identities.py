"""Remove nodes that give back what they read: an empty Pad, a Slice of everything, a Tile of one.

Never changes: any value.
"""

from __future__ import annotations

import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import BATCH, NodePass, bypass, constant, read, unit_steps


class DropIdentities(NodePass):
    ops = ("Cast", "Pad", "Slice", "Expand", "Tile")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        source = read(node)
        if not _same(node, source):
            return False
        if node.outputs[0].is_graph_output() and (source.producer() is None or source.is_graph_output()):
            return False
        bypass(graph, node, source)
        return True


def _same(node: ir.Node, source: ir.Value) -> bool:
    if node.op_type == "Cast":
        return source.dtype == node.attributes["to"].as_int()
    if node.op_type == "Pad":
        pads = constant(node.inputs[1])
        return pads is not None and not pads.any()
    shape = source.shape
    if shape is None or shape != node.outputs[0].shape or not all(
            isinstance(d, int) or d.value == BATCH for d in shape):
        return False
    # Backwards is another order of the same size.
    return unit_steps(node)
