"""Write a tensor that is one number everywhere (zeros like another) as that number, where it is broadcast anyhow.

Never changes: what is not as large as another input of the node that reads it, or of sizes that are not known.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import add_initializer, maker, nodes, remove_unused, sizes

_READERS = ("Where", "Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "Greater", "Equal")


class ScalarFill(ir.passes.InPlacePass):
    """See the module. Needs the sizes that ``InferShapes`` finds."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in nodes(graph, *_READERS):
            for place, value in enumerate(node.inputs):
                fill = maker(value, "ConstantOfShape")
                size = sizes(value)
                others = [sizes(v) for i, v in enumerate(node.inputs) if i != place]
                if fill is None or size is None or size not in others or size != sizes(node.outputs[0]):
                    continue
                number = np.zeros(1, np.float32)
                if "value" in fill.attributes:
                    number = fill.attributes["value"].as_tensor().numpy()
                node.replace_input_with(place, add_initializer(graph, number.reshape(()), f"{node.name}__fill"))
                remove_unused(graph, fill)
                modified = True
        return ir.passes.PassResult(model, modified)
