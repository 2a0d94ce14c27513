"""Apply a Dense to the last of more than two axes at once.

Keras flattens all other axes into one, multiplies, and restores them; MatMul works on the last axis anyway.

Never changes: a product whose kernel is not constant, or around which axes are regrouped otherwise.
"""

from __future__ import annotations

import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import bypass, constant, insert, sole_consumer


class KeepAxes(ir.passes.InPlacePass):
    """See the module. Needs the sizes that ``InferShapes`` leaves in ``value.meta``."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in list(graph):
            kernel = constant(node.inputs[1]) if node.op_type == "MatMul" else None
            if kernel is None or kernel.ndim != 2 or node.inputs[0] is None:
                continue
            before, after = node.inputs[0].producer(), sole_consumer(node.outputs[0])
            if before is None or after is None or before.op_type != "Reshape" or after.op_type != "Reshape":
                continue
            source = before.inputs[0]
            start, flat, final = (v.meta.get("sizes") if v is not None else None
                                  for v in (source, node.inputs[0], after.outputs[0]))
            if start is None or flat is None or final is None or len(flat) != 2:
                continue
            if start[-1] != flat[-1] or start[:-1] != final[:-1] or set(final[-1]) != {kernel.shape[1]}:
                continue
            output = insert(graph, after, "MatMul", [source, node.inputs[1]])
            output.shape, output.meta["sizes"] = after.outputs[0].shape, final
            bypass(graph, after, output)
            graph.remove(node, safe=True)
            if not before.outputs[0].uses():
                graph.remove(before, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)
