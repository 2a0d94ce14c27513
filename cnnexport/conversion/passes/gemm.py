"""Join a MatMul on two axes and its bias Add into one Gemm; give a lone one its Gemm too.

Never changes: products of more than two axes, or whose kernel is not constant.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    NodePass,
    add_initializer,
    bypass,
    constant,
    insert,
    known_shape,
    read_alone,
)


class MatMulToGemm(NodePass):
    ops = ("MatMul",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        kernel = constant(node.inputs[1])
        shape = known_shape(node.inputs[0])
        if kernel is None or kernel.ndim != 2 or shape is None or len(shape) != 2:
            return False
        if not np.issubdtype(kernel.dtype, np.floating):
            return False
        inputs: list[ir.Value | None] = [node.inputs[0], node.inputs[1]]
        last = node
        follower = read_alone(node.outputs[0], "Add")
        if follower is not None:
            other = next(v for v in follower.inputs if v is not node.outputs[0])
            bias = constant(other)
            # A column, or more axes, would be another bias for each row.
            if bias is not None and bias.shape[:-1] in ((), (1,)) and bias.size in (1, kernel.shape[1]):
                flat = np.broadcast_to(bias.reshape(-1), (kernel.shape[1],))
                if bias.shape != flat.shape:
                    other = add_initializer(graph, np.ascontiguousarray(flat), f"{node.name}__bias")
                inputs.append(other)
                last = follower
        output = insert(graph, last, "Gemm", inputs)
        output.shape = last.outputs[0].shape
        output.producer().name = node.name  # type: ignore[union-attr]
        bypass(graph, last, output)
        if last is not node:
            graph.remove(node, safe=True)
        return True
