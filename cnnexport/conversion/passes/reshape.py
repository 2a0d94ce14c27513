"""Give Reshape nodes constant target shapes, and say Flatten where a Reshape is one.

A Keras Flatten asks for the batch size at run time; the static shape of its result answers.
Never changes: a Reshape with more than one dimension that is not known beforehand.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import add_initializer, bypass, constant, insert, known_shape


class StaticReshape(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in list(graph):
            if node.op_type != "Reshape" or node.inputs[0] is None:
                continue
            shape = known_shape(node.outputs[0])
            target = constant(node.inputs[1])
            if target is None:
                if shape is None or sum(d is None for d in shape) > 1 or 0 in shape:
                    continue
                target = np.array([-1 if d is None else d for d in shape], np.int64)
                node.replace_input_with(1, add_initializer(graph, target, f"{node.name}__shape"))
                modified = True
            source = known_shape(node.inputs[0])
            if source is None or len(source) < 2 or target.size != 2 or any(d is None for d in source[1:]):
                continue
            features = int(np.prod([d for d in source[1:] if d is not None]))
            if int(target[1]) in (features, -1) and int(target[0]) in (-1, 0, source[0]):
                if int(target[1]) == -1 and int(target[0]) == -1:
                    continue
                if len(source) == 2:
                    bypass(graph, node, node.inputs[0])
                else:
                    output = insert(graph, node, "Flatten", [node.inputs[0]], {"axis": 1})
                    output.shape = node.outputs[0].shape
                    bypass(graph, node, output)
                modified = True
        return ir.passes.PassResult(model, modified)
