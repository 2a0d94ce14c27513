"""Take the place of a maximum from the maps themselves.

Keras makes each -0.0 a little smaller than 0.0 before it asks for the place of a maximum or minimum, in a dozen
nodes. Without them two zeros of different sign are a tie, and the first one is taken.

Never changes: the place of anything but such a zero; the maps for other readers.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import NodePass, constant, maker, read

_TINY = float(np.finfo(np.float32).tiny)


class PlainArgMax(NodePass):
    ops = ("ArgMax", "ArgMin")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        source = _before_zeros(node.inputs[0])
        if source is None or source.shape is None or source.shape != read(node).shape:
            return False
        node.replace_input_with(0, source)
        return True


def _before_zeros(value: ir.Value | None) -> ir.Value | None:
    """x where ``value`` is a tiny number below zero at some of the places at which x is 0, and x at all others."""
    choice = maker(value, "Where")
    both = maker(choice.inputs[0], "And") if choice is not None else None
    number = constant(choice.inputs[1]) if choice is not None else None
    if choice is None or both is None or number is None or number.size != 1 or not -_TINY <= number.reshape(()) <= 0:
        return None
    for equal in (maker(v, "Equal") for v in both.inputs):
        if equal is not None and equal.inputs[0] is choice.inputs[2] and _zero(equal.inputs[1]):
            return choice.inputs[2]
    return None


def _zero(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and not array.any()
