"""Turn a mean or maximum over all of space into GlobalAveragePool or GlobalMaxPool.

Never changes: reductions over the channels, or over part of space.
"""

from __future__ import annotations

import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import NodePass, axes_of, bypass, insert, known_shape, read, transposed

POOL = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}


class GlobalPool(NodePass):
    ops = tuple(POOL)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        source, axes = read(node), axes_of(node)
        shape = known_shape(source)
        if shape is None or axes is None or len(shape) < 3:
            return False
        rank = len(shape)
        reduced = sorted(a % rank for a in axes)
        keep = node.attributes.get_int("keepdims", 1)
        if reduced == list(range(1, rank - 1)) and not keep:
            found = transposed(source)
            if found is None or found[0] != [0, *range(2, rank), 1]:
                return False
            source = found[1]
        elif reduced != list(range(2, rank)):
            return False
        output = insert(graph, node, POOL[node.op_type], [source])
        if source.shape is not None:
            output.shape = ir.Shape([*source.shape[:2], *[1] * (rank - 2)])
        if not keep:
            output = insert(graph, node, "Flatten", [output], {"axis": 1}, suffix="/flat")
        output.shape = node.outputs[0].shape
        bypass(graph, node, output)
        return True
