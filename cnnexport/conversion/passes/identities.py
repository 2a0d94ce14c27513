"""Remove nodes that give back what they read: an empty Pad, a Slice of everything, a Tile of one, a Mul by one.

Never changes: any value; a Mul by ones of more than one element, which are weights.
"""

from __future__ import annotations

import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import BATCH, NodePass, bypass, constant, read, unit_steps


class DropIdentities(NodePass):
    ops = ("Cast", "Pad", "Slice", "Expand", "Tile", "Mul", "Div")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        source = read(node)
        if node.op_type == "Mul" and constant(source) is not None:
            source = read(node, 1)
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
    if node.op_type in ("Mul", "Div"):
        one = constant(next((v for v in node.inputs if v is not source), None))
        known = source.shape is not None and one is not None and one.ndim <= len(source.shape)
        return one is not None and one.size == 1 and bool((one == 1).all()) and (known or not one.ndim)
    shape = source.shape
    if shape is None or shape != node.outputs[0].shape or not all(
            isinstance(d, int) or d.value == BATCH for d in shape):
        return False
    # Backwards is another order of the same size.
    return unit_steps(node)
