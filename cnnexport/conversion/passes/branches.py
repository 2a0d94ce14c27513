"""Give a branch or a loop's body a node for each output that comes from outside it.

Without its Identity, which is left out everywhere, a branch that only hands on a value of the graph around it would
make nothing, and ONNX wants each output of a graph to be made in it.

Never changes: an output that is made inside, or is the body's own input.
"""

from __future__ import annotations

import onnx_ir as ir


class OwnOutputs(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            for attribute in node.attributes.values():
                if attribute.type != ir.AttributeType.GRAPH:
                    continue
                inner = attribute.as_graph()
                for place, value in enumerate(inner.outputs):
                    maker = value.producer()
                    if value in inner.inputs or value.is_initializer() or (
                            maker is not None and maker.graph is inner):
                        continue
                    copy = ir.node("Identity", [value], name=f"{node.name}/{place}")
                    made = copy.outputs[0]
                    made.type, made.shape, made.name = value.type, value.shape, f"{value.name}__{id(made)}"
                    inner.append(copy)
                    inner.outputs[place] = made
                    modified = True
        return ir.passes.PassResult(model, modified)
