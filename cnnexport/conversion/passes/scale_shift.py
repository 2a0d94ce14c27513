"""Join per-channel arithmetic that no convolution before it takes in: one BatchNormalization.

What is left of a normalisation before a convolution, behind a sum or a concatenation is a Mul and an Add by
constants. As one BatchNormalization it is one walk over memory, and ONNX Runtime keeps its blocked layout
between the convolutions around it, which loose Mul and Add would break.

Never changes: a single operation; numbers that are the same for all channels (a Rescaling); constants that
vary along another axis than the channels; float16, for which ONNX Runtime has no BatchNormalization on CPUs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    Array,
    NodePass,
    add_initializer,
    bypass,
    constant,
    full_rank,
    insert,
    read,
    read_alone,
)

_OPERATORS = ("Add", "Sub", "Mul", "Div")


class JoinScaleAndShift(NodePass):
    ops = tuple(_OPERATORS)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        return _join(graph, node)


def _join(graph: ir.Graph, first: ir.Node) -> bool:
    step = _step(first)
    if step is None:
        return False
    source, channels = step[0], _channels(first)
    scale, shift = np.ones(channels), np.zeros(channels)
    node, chain = first, [first]
    while True:
        scale, shift = scale * step[1], shift * step[1] + step[2]
        after = read_alone(node.outputs[0], *_OPERATORS)
        following = None if after is None else _step(after)
        if after is None or following is None or following[0] is not node.outputs[0]:
            break
        node, step = after, following
        chain.append(node)
    if len(chain) < 2 or (np.ptp(scale) == 0 and np.ptp(shift) == 0):
        return False
    if source.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return False
    kind = source.dtype.numpy()
    arrays = [scale, shift, np.zeros(channels), np.ones(channels)]
    inputs = [add_initializer(graph, a.astype(kind), f"{first.name}__{i}") for i, a in enumerate(arrays)]
    output = insert(graph, node, "BatchNormalization", [source, *inputs], {"epsilon": 0.0})
    output.shape = node.outputs[0].shape
    made = output.producer()
    assert made is not None
    made.name = first.name
    bypass(graph, node, output)
    for left in reversed(chain[:-1]):
        graph.remove(left, safe=True)
    return True


def _channels(node: ir.Node) -> int:
    shape = node.outputs[0].shape
    size = shape[1] if shape is not None and len(shape) > 1 else None
    return size if isinstance(size, int) else 0


def _step(node: ir.Node) -> tuple[ir.Value, Array, Array] | None:
    """(x, s, t) where ``node`` computes x * s + t with one s and t a channel, or one for all."""
    known = [constant(v) for v in node.inputs]
    place = 0 if known[1] is not None else 1
    source, array, shape = read(node, place), known[1 - place], node.outputs[0].shape
    if array is None or source.shape != shape or not _channels(node):
        return None
    spread = full_rank(array, len(shape or ()))
    assert spread is not None
    if any(d != 1 for i, d in enumerate(spread.shape) if i != 1):
        return None
    values = spread.reshape(-1).astype(np.float64)
    one, zero = np.ones(1), np.zeros(1)
    if node.op_type == "Add":
        return source, one, values
    if node.op_type == "Mul":
        return source, values, zero
    if node.op_type == "Sub":
        return (source, one, -values) if place == 0 else (source, -one, values)
    return (source, 1 / values, zero) if place == 0 else None
