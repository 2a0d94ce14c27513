"""Merge a Pad of zeros into the MaxPool behind it where nothing is negative; elsewhere keep the two apart.

A MaxPool's own padding never wins, a zero does over negative numbers. Behind a ReLU and the like that is the same.
Elsewhere ONNX Runtime's Pad fusion (1.22 to 1.31 at least) takes the one for the other all the same. It leaves alone
a MaxPool whose ``auto_pad`` is VALID, which says that there is no padding; where the MaxPool has padding of its own,
a Pad by -0.0, which the fusion does not take for zero.

Never changes: the numbers; a Pad by another value or mode; one before a pool with automatic padding, which is not
fused. Not merged: padding of batch or channels, as wide as the kernel, or with dilations or ``ceil_mode``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    add_initializer,
    constant,
    given,
    maker,
    nodes,
    padded_by_numbers,
    pads_of,
    read,
    remove_unused,
)

_NEVER_NEGATIVE = frozenset({"HardSigmoid", "Relu", "Sigmoid", "Softmax"})
_KEEPS_SIGN = frozenset({
    "Add", "AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Mul", "Reshape", "Transpose"})
_ALL_ARE_READ = frozenset({"Add", "Concat", "Mul"})


class MergePoolPadding(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for pool in nodes(graph, "MaxPool"):
            before = pool.inputs[0]
            # ONNX Runtime looks through a Cast, and moves Transposes.
            while (between := maker(before, "Cast", "Transpose")) is not None:
                before = between.inputs[0]
            pad = maker(before, "Pad")
            if pad is None or pad.attributes.get_string("mode", "constant") != "constant" or not _by_zero(pad):
                continue
            if padded_by_numbers(pool):
                modified = _merge(graph, pad, pool) or _keep_apart(graph, pad, pool) or modified
        return ir.passes.PassResult(model, modified)


def _by_zero(pad: ir.Node) -> bool:
    """Whether ``pad`` may pad by zero: one by another known value is not fused."""
    value = constant(given(pad, 2))
    return value is None or not value.any()


def _merge(graph: ir.Graph, pad: ir.Node, pool: ir.Node) -> bool:
    kernel, pads = pool.attributes.get_ints("kernel_shape", ()), constant(pad.inputs[1])
    space = len(kernel)
    if pool.inputs[0] is not pad.outputs[0] or pads is None or given(pad, 3) is not None or (pads < 0).any():
        return False
    if pads[:2].any() or pads[space + 2:space + 4].any():
        return False
    if given(pad, 2) is not None and constant(pad.inputs[2]) is None:
        return False
    # Another window could lie in the padding alone, or beside it.
    if len(pool.outputs) > 1 or pool.attributes.get_int("ceil_mode", 0) != 0:
        return False
    if any(d != 1 for d in pool.attributes.get_ints("dilations", ())):
        return False
    extra = [*pads[2:space + 2], *pads[space + 4:]]
    whole = [int(a + b) for a, b in zip(pads_of(pool, space), extra)]
    if any(a >= b for a, b in zip(whole, [*kernel, *kernel])) or not never_negative(read(pad)):
        return False
    pool.attributes.pop("auto_pad", None)
    pool.attributes["pads"] = ir.AttrInt64s("pads", whole)
    pool.replace_input_with(0, pad.inputs[0])
    remove_unused(graph, pad)
    return True


def _keep_apart(graph: ir.Graph, pad: ir.Node, pool: ir.Node) -> bool:
    if not any(pool.attributes.get_ints("pads", ())):
        if pool.attributes.get_string("auto_pad", "NOTSET") == "VALID":
            return False
        pool.attributes.pop("pads", None)
        pool.attributes["auto_pad"] = ir.AttrString("auto_pad", "VALID")
        return True
    dtype, value = read(pad).dtype, constant(given(pad, 2))
    if dtype is None or (value is not None and bool(np.signbit(value))):
        return False
    if value is None and given(pad, 2) is not None:
        return False
    pad.resize_inputs(max(len(pad.inputs), 3))
    pad.replace_input_with(2, add_initializer(graph, np.array(-0.0, dtype.numpy()), f"{pad.name}__zero"))
    return True


def never_negative(value: ir.Value) -> bool:
    """Whether nothing in ``value`` can be below zero, walking back to what makes it so."""
    waiting, seen = [value], {value}
    while waiting:
        value = waiting.pop()
        array, node = constant(value), value.producer()
        if array is not None and (array >= 0).all():
            continue
        if node is None or not (node.op_type in _NEVER_NEGATIVE | _KEEPS_SIGN or _clipped(node)):
            return False
        if node.op_type in _KEEPS_SIGN:
            before = [v for v in node.inputs[:None if node.op_type in _ALL_ARE_READ else 1] if v is not None]
            waiting += [v for v in before if v not in seen]
            seen.update(before)
    return True


def _clipped(node: ir.Node) -> bool:
    """Whether ``node`` is a Clip to between two numbers that are not negative."""
    if node.op_type != "Clip":
        return False
    least, most = constant(given(node, 1)), constant(given(node, 2))
    return least is not None and bool(least >= 0) and (
        given(node, 2) is None or (most is not None and bool(most >= 0)))
