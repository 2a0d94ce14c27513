"""Write activations that arrive in pieces as the operator that ONNX has for them.

PRelu from two Relus; HardSigmoid from a Clip of a sum; HardSwish from a product with that, from opset 14 on;
Gelu from opset 20 on, before that in the form that ONNX Runtime takes for one.

Never changes: a piece that something else reads, other numbers than the operator's own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    add_initializer,
    constant,
    full_rank,
    given,
    insert,
    made_alone,
    maker,
    nodes,
    read,
    replace,
)


class WholeActivations(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, opset = model.graph, model.opset_imports.get("", 0)
        modified = False
        for node in nodes(graph, "Add", "Div", "Mul"):
            # What a HardSwish is made of comes first.
            modified = any(rule(graph, node, opset) for rule in _RULES) or modified
        return ir.passes.PassResult(model, modified)


def _with_number(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """What ``node`` reads beside the one number that is its other operand."""
    for place in (1, 0):
        array = constant(node.inputs[place]) if node is not None else None
        if node is not None and array is not None and array.size == 1:
            return (read(node, 1 - place), float(array.reshape(()))) if place or node.op_type != "Div" else None
    return None


def _near(number: float, wanted: float) -> bool:
    # float16 has three digits.
    return abs(number - wanted) <= 1e-3 * wanted


def _prelu(graph: ir.Graph, node: ir.Node, opset: int) -> bool:
    """relu(x) + s * relu(-x) is PRelu(x, -s)."""
    for place in (0, 1) if node.op_type == "Add" else ():
        above, scaled = made_alone(node.inputs[place], "Relu"), made_alone(node.inputs[1 - place], "Mul")
        slopes = [constant(v) for v in scaled.inputs] if scaled is not None else []
        if above is None or scaled is None or all(s is None for s in slopes):
            continue
        which = 0 if slopes[0] is not None else 1
        below = made_alone(scaled.inputs[1 - which], "Relu")
        negative = made_alone(below.inputs[0], "Neg") if below is not None else None
        source, slope, shape = above.inputs[0], slopes[which], node.outputs[0].shape
        if negative is None or negative.inputs[0] is not source or slope is None or read(above).shape != shape:
            continue
        if shape is None:
            continue
        spread = full_rank(slope, len(shape))
        assert spread is not None
        # Without the batch, a slope is broadcast to any.
        array = -(spread[0] if spread.shape[:1] == (1,) and spread.ndim > 1 else spread)
        return replace(graph, node, "PRelu", [source, add_initializer(graph, array, f"{node.name}__slope")])
    return False


def _hard_sigmoid(graph: ir.Graph, node: ir.Node, opset: int) -> bool:
    """clip(x + b, 0, m) / m is a HardSigmoid of slope 1 / m."""
    if node.op_type not in ("Div", "Mul") or (found := _with_number(node)) is None:
        return False
    value, number = found
    clip = made_alone(value, "Clip")
    added = made_alone(clip.inputs[0], "Add") if clip is not None else None
    summed = _with_number(added)
    if clip is None or summed is None:
        return False
    least, most = constant(given(clip, 1)), constant(given(clip, 2))
    if least is None or most is None or float(least) != 0 or float(most) <= 0:
        return False
    if not _near(number if node.op_type == "Div" else 1 / number if number else 0.0, float(most)):
        return False
    if summed[0].shape is None or summed[0].shape != node.outputs[0].shape:
        return False
    numbers = {"alpha": 1 / float(most), "beta": summed[1] / float(most)}
    return replace(graph, node, "HardSigmoid", [summed[0]], numbers)


def _hard_swish(graph: ir.Graph, node: ir.Node, opset: int) -> bool:
    """x * HardSigmoid(x) is HardSwish, where its numbers are a sixth and a half."""
    for place in (0, 1) if node.op_type == "Mul" and opset >= 14 else ():
        gate = made_alone(node.inputs[place], "HardSigmoid")
        if gate is None or gate.inputs[0] is not node.inputs[1 - place]:
            continue
        if _near(gate.attributes.get_float("alpha", 0.2), 1 / 6) and _near(gate.attributes.get_float("beta", 0.5), 0.5):
            return replace(graph, node, "HardSwish", [gate.inputs[0]])
    return False


def _gelu(graph: ir.Graph, node: ir.Node, opset: int) -> bool:
    """0.5 * x * (1 - erf(-x / sqrt(2))), as Keras writes it."""
    for place in (0, 1) if node.op_type == "Mul" else ():
        half = maker(node.inputs[place], "Mul")
        halved, rest = _with_number(half), made_alone(node.inputs[1 - place], "Sub")
        one = constant(rest.inputs[0]) if rest is not None else None
        erf = made_alone(rest.inputs[1], "Erf") if rest is not None else None
        scaled = _with_number(made_alone(erf.inputs[0], "Mul") if erf is not None else None)
        negative = made_alone(scaled[0], "Neg") if scaled is not None else None
        if half is None or halved is None or scaled is None or negative is None or one is None or one.size != 1:
            continue
        source = halved[0]
        if negative.inputs[0] is not source or halved[1] != 0.5 or float(one.reshape(())) != 1:
            continue
        if not _near(scaled[1], 0.5 ** 0.5) or source.shape != node.outputs[0].shape:
            continue
        if source.shape is None or source.dtype is None:
            continue
        if opset >= 20:
            return replace(graph, node, "Gelu", [source])
        kind = source.dtype.numpy()
        root = add_initializer(graph, np.array(2 ** 0.5, kind), f"{node.name}__root")
        unit = add_initializer(graph, np.array(1, kind), f"{node.name}__one")
        value = source
        for op, other in (("Div", root), ("Erf", None), ("Add", unit)):
            value = insert(graph, node, op, [value] if other is None else [value, other])
            value.shape = source.shape
        return replace(graph, node, "Mul", [half.outputs[0], value])
    return False


_RULES: tuple[Callable[[ir.Graph, ir.Node, int], bool], ...] = (_prelu, _hard_sigmoid, _hard_swish, _gelu)
