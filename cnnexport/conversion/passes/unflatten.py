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
    NodePass,
    add_initializer,
    bypass,
    constant,
    given,
    insert,
    made_alone,
    perm_of,
    sizes,
    target_of,
)


class PermuteDenseBeforeReshape(NodePass):
    ops = ("Transpose",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        perm, reshape = perm_of(node), made_alone(node.inputs[0], "Reshape")
        if perm is None or perm[0] != 0 or reshape is None:
            return False
        features, final = sizes(reshape.inputs[0]), sizes(node.inputs[0])
        if features is None or final is None:
            return False
        inner = [d for d in final[1:] if isinstance(d, int)]
        if len(inner) + 1 < len(final):
            return False
        places = np.arange(int(np.prod(inner))).reshape(inner)
        order = np.transpose(places, [p - 1 for p in perm[1:]]).reshape(-1)
        edits: list[tuple[ir.Node, int, Array]] = []
        moved = [final[p] for p in perm]
        target = target_of(moved, features)
        if not _collect(reshape, order, edits):
            return False
        assert target is not None
        for reader, place, array in edits:
            reader.replace_input_with(place, add_initializer(graph, array, f"{reader.name}__{place}"))
        output = insert(graph, node, "Reshape",
                        [reshape.inputs[0], add_initializer(graph, target, f"{reshape.name}__shape")])
        output.shape = ir.Shape(moved)
        made = output.producer()
        assert made is not None
        made.name = reshape.name
        bypass(graph, node, output)
        graph.remove(reshape, safe=True)
        return True


def _collect(reader: ir.Node, order: Array, edits: list[tuple[ir.Node, int, Array]]) -> bool:
    """Whether what ``reader`` alone reads can be made in the new order; ``edits`` says how."""
    place = next((i for i, v in enumerate(reader.inputs) if constant(v) is None), 0)
    node = made_alone(reader.inputs[place], "Gemm", "MatMul", *ELEMENTWISE, *BINARY)
    if node is None:
        return False
    if node.op_type in ELEMENTWISE:
        return _collect(node, order, edits)
    if node.op_type in BINARY:
        side = next((i for i, v in enumerate(node.inputs) if constant(v) is not None), 0)
        array = constant(node.inputs[side])
        if array is None or len(node.inputs) != 2:
            return False
        if array.shape[-1:] == order.shape:  # otherwise it is one for all features
            edits.append((node, side, np.take(array, order, axis=-1)))
        return _collect(node, order, edits)
    kernel = constant(node.inputs[1])
    bias = constant(given(node, 2))
    axis = 0 if node.attributes.get_int("transB", 0) else 1
    if kernel is None or kernel.shape[axis:axis + 1] != order.shape or (given(node, 2) is not None and bias is None):
        return False
    edits.append((node, 1, np.take(kernel, order, axis=axis)))
    if bias is not None and bias.shape[-1:] == order.shape:
        edits.append((node, 2, np.take(bias, order, axis=-1)))
    return True
