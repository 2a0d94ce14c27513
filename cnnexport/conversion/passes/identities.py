"""Remove nodes that give back what they read: an empty Pad, a Slice of everything, a Tile of one.

Never changes: any value.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import BATCH, bypass, constant


class DropIdentities(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in list(graph):
            source = node.inputs[0] if node.inputs else None
            if source is None or len(node.outputs) != 1 or not _same(node, source):
                continue
            if node.outputs[0].is_graph_output() and (source.producer() is None or source.is_graph_output()):
                continue
            bypass(graph, node, source)
            modified = True
        return ir.passes.PassResult(model, modified)


def _same(node: ir.Node, source: ir.Value) -> bool:
    if node.op_type == "Cast":
        return source.dtype is not None and int(source.dtype) == node.attributes["to"].as_int()
    if node.op_type == "Pad":
        pads = constant(node.inputs[1])
        return pads is not None and not pads.any()
    if node.op_type in ("Slice", "Expand", "Tile"):
        before = source.shape
        if before is None or before != node.outputs[0].shape or not all(
                isinstance(d, int) or d.value == BATCH for d in before):
            return False
        # Backwards is another order of the same size.
        steps = constant(node.inputs[4]) if node.op_type == "Slice" and len(node.inputs) > 4 else np.ones(1)
        return steps is not None and bool((steps == 1).all())
    return False
