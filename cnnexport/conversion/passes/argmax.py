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
    """x where ``value`` is ``c * tiny + x * not c`` and ``c`` asks that x is 0, and more."""
    total = maker(value, "Add")
    products = [maker(v, "Mul") for v in total.inputs] if total is not None else []
    for tiny, kept in (products, products[::-1]) if None not in products and products else ():
        chosen = number = source = other = None
        for a, b in ((0, 1), (1, 0)):
            if tiny is not None and (array := constant(tiny.inputs[b])) is not None and array.size == 1:
                chosen, number = _asked(tiny.inputs[a]), float(array.reshape(()))
            if kept is not None and (denied := maker(_asked(kept.inputs[b]), "Not")) is not None:
                source, other = kept.inputs[a], denied.inputs[0]
        both = maker(chosen, "And")
        if both is None or other is not chosen or number is None or not -_TINY <= number <= 0:
            continue
        for equal in (maker(v, "Equal") for v in both.inputs):
            if equal is not None and equal.inputs[0] is source and _zero(equal.inputs[1]):
                return source
    return None


def _asked(value: ir.Value | None) -> ir.Value | None:
    """What a Cast makes numbers of."""
    cast = maker(value, "Cast")
    return cast.inputs[0] if cast is not None else None


def _zero(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and not array.any()
