"""Reshape features into channels-first maps at once, and reorder the Dense that makes them.

The reverse of ``flatten``: a generator's Dense makes features in NHWC order, a Reshape makes maps of them,
a Transpose puts channels first. Instead the columns of the Dense kernel are permuted, and the constants of
whatever lies between and acts on each element alone.

Never changes: features that anything else reads, or that no Dense makes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    BINARY,
    ELEMENTWISE,
    Array,
    add_initializer,
    bypass,
    constant,
    insert,
    perm_of,
    shape_like,
    sizes,
    sole_consumer,
    target_of,
)


class PermuteDenseBeforeReshape(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in list(graph):
            perm = perm_of(node)
            if node.op_type != "Transpose" or node.inputs[0] is None or perm is None or perm[0] != 0:
                continue
            reshape = node.inputs[0].producer()
            if reshape is None or reshape.op_type != "Reshape":
                continue
            features, final = sizes(reshape.inputs[0]), sizes(node.inputs[0])
            if features is None or len(features) != 2 or final is None or final[0] != features[0]:
                continue
            if sole_consumer(reshape.outputs[0]) is not node:
                continue
            places = np.arange(features[1]).reshape(final[1:])
            order = np.transpose(places, [p - 1 for p in perm[1:]]).reshape(-1)
            edits: list[tuple[ir.Node, int, Array]] = []
            moved = [final[p] for p in perm]
            target = target_of(moved, features)
            if target is None or not _collect(reshape, order, edits):
                continue
            for reader, place, array in edits:
                reader.replace_input_with(place, add_initializer(graph, array, f"{reader.name}__{place}"))
            output = insert(graph, node, "Reshape",
                            [reshape.inputs[0], add_initializer(graph, target, f"{reshape.name}__shape")])
            output.shape = shape_like(moved, node.outputs[0])
            made = output.producer()
            assert made is not None
            made.name = reshape.name
            bypass(graph, node, output)
            graph.remove(reshape, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)


def _collect(reader: ir.Node, order: Array, edits: list[tuple[ir.Node, int, Array]]) -> bool:
    """Whether what ``reader`` alone reads can be made in the new order; ``edits`` says how."""
    place = next((i for i, v in enumerate(reader.inputs) if constant(v) is None), 0)
    value = reader.inputs[place]
    node = value.producer() if value is not None else None
    if value is None or node is None or sole_consumer(value) is not reader:
        return False
    if node.op_type in ELEMENTWISE:
        return _collect(node, order, edits)
    if node.op_type in BINARY and len(node.inputs) == 2:
        known = [constant(v) for v in node.inputs]
        if (known[0] is None) == (known[1] is None):
            return False
        side = 0 if known[0] is not None else 1
        array = known[side]
        if array is None or array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1):
            return False
        if array.size == order.size:
            edits.append((node, side, np.take(array, order, axis=-1)))
        elif array.size != 1:
            return False
        return _collect(node, order, edits)
    if node.op_type not in ("Gemm", "MatMul"):
        return False
    kernel = constant(node.inputs[1])
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    rows = "transB" in node.attributes and node.attributes["transB"].as_int()
    if kernel is None or kernel.ndim != 2 or (len(node.inputs) > 2 and bias is None):
        return False
    edits.append((node, 1, np.take(kernel, order, axis=0 if rows else 1)))
    if bias is not None and bias.size > 1:
        edits.append((node, 2, np.take(bias, order, axis=-1)))
    return True
