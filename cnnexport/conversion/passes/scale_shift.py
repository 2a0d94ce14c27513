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

from cnnexport.conversion.passes.affine import channels, step
from cnnexport.conversion.passes.rewriting import NodePass, add_initializer, bypass, insert, read_alone

_OPERATORS = ("Add", "Sub", "Mul", "Div")


class JoinScaleAndShift(NodePass):
    ops = _OPERATORS

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        return _join(graph, node)


def _join(graph: ir.Graph, first: ir.Node) -> bool:
    found = step(first)
    if found is None:
        return False
    source, size = found.source, channels(first.outputs[0])
    scale, shift = np.ones(size), np.zeros(size)
    node, chain = first, [first]
    while True:
        scale, shift = scale * found.scale, shift * found.scale + found.shift
        after = read_alone(node.outputs[0], *_OPERATORS)
        following = None if after is None else step(after)
        if after is None or following is None or following.source is not node.outputs[0]:
            break
        node, found = after, following
        chain.append(node)
    if len(chain) < 2 or (np.ptp(scale) == 0 and np.ptp(shift) == 0):
        return False
    if source.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return False
    kind = source.dtype.numpy()
    arrays = [scale, shift, np.zeros(size), np.ones(size)]
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
