"""Remove nodes that give back what they read: an empty Pad, a Slice of everything, a Tile of one, a Mul by one.

Never changes: any value, and so no sum with 0.0, which makes 0.0 of -0.0; a Mul by ones of more than one element, which
are weights.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import BATCH, Array, NodePass, bypass, constant, read, unit_steps


class DropIdentities(NodePass):
    ops = ("Cast", "Pad", "Slice", "Expand", "Tile", "Mul", "Div", "Add", "Sub")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        source = read(node)
        if node.op_type in ("Mul", "Add") and constant(source) is not None:
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
    if node.op_type in ("Mul", "Div", "Add", "Sub"):
        number = constant(next((v for v in node.inputs if v is not source), None))
        known = source.shape is not None and number is not None and number.ndim <= len(source.shape)
        return number is not None and number.size == 1 and _neutral(node.op_type, number) and (known or not number.ndim)
    shape = source.shape
    if shape is None or shape != node.outputs[0].shape or not all(
            isinstance(d, int) or d.value == BATCH for d in shape):
        return False
    # Backwards is another order of the same size.
    return unit_steps(node)


def _neutral(op: str, number: Array) -> bool:
    """Whether every value stays what it is, -0.0 too, which 0.0 makes 0.0 where it is added."""
    if op in ("Mul", "Div"):
        return bool((number == 1).all())
    whole = np.issubdtype(number.dtype, np.integer)
    return not number.any() and (whole or bool(np.signbit(number).all()) == (op == "Add"))
