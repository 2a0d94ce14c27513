"""Turn a mean or maximum over all of space into GlobalAveragePool or GlobalMaxPool.

Never changes: reductions over the channels, or over part of space.
"""

from __future__ import annotations

import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import axes_of, bypass, insert, known_shape

POOL = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}


class GlobalPool(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in list(graph):
            if node.op_type not in POOL or node.inputs[0] is None:
                continue
            shape, axes = known_shape(node.inputs[0]), axes_of(node)
            if shape is None or axes is None or len(shape) < 3:
                continue
            rank = len(shape)
            reduced = sorted(a % rank for a in axes)
            keep = "keepdims" not in node.attributes or bool(node.attributes["keepdims"].as_int())
            source = node.inputs[0]
            if reduced == list(range(1, rank - 1)) and not keep:
                before = source.producer()
                if before is None or before.op_type != "Transpose":
                    continue
                if list(before.attributes["perm"].as_ints()) != [0, *range(2, rank), 1]:
                    continue
                assert before.inputs[0] is not None
                source = before.inputs[0]
            elif reduced != list(range(2, rank)):
                continue
            output = insert(graph, node, POOL[node.op_type], [source])
            if source.shape is not None:
                output.shape = ir.Shape([*source.shape[:2], *[1] * (rank - 2)])
            if not keep:
                output = insert(graph, node, "Flatten", [output], {"axis": 1}, suffix="/flat")
            output.shape = node.outputs[0].shape
            bypass(graph, node, output)
            modified = True
        return ir.passes.PassResult(model, modified)
