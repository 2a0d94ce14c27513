"""Flatten channels-first features as they lie, and reorder the Dense kernels that read them.

Keras flattens NHWC; the converted graph computes NCHW. Instead of a Transpose before the Flatten
the rows of every Dense kernel behind it are permuted, through whatever lies between that acts on
each element alone (constants of one value a feature are permuted with it).

Never changes: a Flatten with a reader, however far, other than a Dense: it keeps its Transpose.
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
    constant,
    known_shape,
    read,
    remove_unused,
    sizes,
    transposed,
)


class PermuteDenseAfterFlatten(NodePass):
    ops = ("Reshape",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        found, final = transposed(node.inputs[0]), sizes(node.outputs[0])
        if found is None or final is None:
            return False
        perm, source = found
        shape = sizes(source)
        if shape is None or perm[0] != 0 or len(final) != 2 or final[0] != shape[0]:
            return False
        inner = [d for d in shape[1:] if isinstance(d, int)]
        if len(inner) + 1 < len(shape):
            return False
        # order[i]: where feature i of the NHWC flattening lies in the NCHW one.
        places = np.arange(int(np.prod(inner))).reshape(inner)
        order = np.transpose(places, [p - 1 for p in perm[1:]]).reshape(-1)
        edits: list[tuple[ir.Node, int, Array]] = []
        if not _collect(node.outputs[0], np.argsort(order), edits):
            return False
        for reader, place, array in edits:
            reader.replace_input_with(place, add_initializer(graph, array, f"{reader.name}__{place}"))
        transpose = read(node).producer()
        assert transpose is not None
        node.replace_input_with(0, source)
        remove_unused(graph, transpose)
        return True


def _collect(value: ir.Value, order: Array, edits: list[tuple[ir.Node, int, Array]]) -> bool:
    """Whether all readers of ``value`` can take it in the new order; ``edits`` says how."""
    if value.is_graph_output():
        return False
    for use in value.uses():
        reader, place = use.node, use.idx
        if reader.op_type in ELEMENTWISE:
            if not _collect(reader.outputs[0], order, edits):
                return False
        elif reader.op_type in BINARY and len(reader.inputs) == 2:
            array = constant(reader.inputs[1 - place])
            if array is None:
                return False
            if array.shape[-1:] == order.shape:
                edits.append((reader, 1 - place, np.take(array, order, axis=-1)))
            elif array.size != 1:
                return False
            if not _collect(reader.outputs[0], order, edits):
                return False
        elif reader.op_type == "Concat" and reader.attributes["axis"].as_int() in (1, -1):
            shapes = [known_shape(v) or [] for v in reader.inputs]
            widths = [shape[1] for shape in shapes if len(shape) == 2 and shape[1] is not None]
            if len(widths) < len(shapes) or reader.inputs.count(value) > 1:
                return False
            start, whole = sum(widths[:place]), np.arange(sum(widths))
            whole[start:start + order.size] = start + order
            if not _collect(reader.outputs[0], whole, edits):
                return False
        elif reader.op_type in ("MatMul", "Gemm") and place == 0:
            kernel = constant(reader.inputs[1])
            if kernel is None or kernel.ndim != 2 or reader.attributes.get_int("transA", 0) != 0:
                return False
            rows = reader.attributes.get_int("transB", 0)
            edits.append((reader, 1, np.take(kernel, order, axis=rows)))
        else:
            return False
    return True
