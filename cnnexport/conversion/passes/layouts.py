"""What each operator on one tensor becomes when that tensor is transposed.

A rule takes a node that reads a Transpose, and the permutation, and says what the node becomes when it
reads what the Transpose reads. None: the operator, as it is used here, depends on the order of axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.regroup import swap
from cnnexport.conversion.passes.rewriting import (
    Array,
    Size,
    axes_of,
    constant,
    given,
    inverse_of,
    read,
    sizes,
    target_of,
    transposed,
    whole_resize,
)

REDUCTIONS = frozenset({
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSumExp", "ReduceSumSquare", "ReduceLogSum",
})


@dataclass
class Plan:
    """What becomes of a node: new inputs and attributes, and the Transpose that its results then need."""

    perm: list[int]
    inputs: dict[int, ir.Value | Array] = field(default_factory=dict)
    attributes: dict[str, ir.Attr] = field(default_factory=dict)
    op_type: str | None = None
    result: list[int] | None = None
    shape: list[Size] | None = None


def _softmax(node: ir.Node, perm: list[int]) -> Plan:
    axis = node.attributes.get_int("axis", -1)
    return Plan(perm, attributes={"axis": ir.AttrInt64("axis", perm[axis % len(perm)])})


def _pad(node: ir.Node, perm: list[int]) -> Plan | None:
    pads, rank = constant(node.inputs[1]), len(perm)
    if pads is None or given(node, 3) is not None:
        return None
    places = [*inverse_of(perm), *(rank + i for i in inverse_of(perm))]
    return Plan(perm, {1: pads.reshape(-1)[places]})


def _per_axis(place: int) -> Callable[[ir.Node, list[int]], Plan | None]:
    def rule(node: ir.Node, perm: list[int]) -> Plan | None:
        array = constant(given(node, place))
        if array is None:
            return None
        return Plan(perm, {place: array.reshape(-1)[inverse_of(perm)]})

    return rule


def _resize(node: ir.Node, perm: list[int]) -> Plan | None:
    return _per_axis(2 if given(node, 3) is None else 3)(node, perm) if whole_resize(node) else None


def _slice(node: ir.Node, perm: list[int]) -> Plan | None:
    starts, axes = constant(node.inputs[1]), constant(given(node, 3))
    if given(node, 3) is None and starts is not None:
        axes = np.arange(starts.size, dtype=starts.dtype)
    if axes is None:
        return None
    return Plan(perm, {3: np.array([perm[int(a) % len(perm)] for a in axes.reshape(-1)], axes.dtype)})


def _one_axis(node: ir.Node, perm: list[int]) -> Plan:
    axis = node.attributes.get_int("axis", 0)
    return Plan(perm, attributes={"axis": ir.AttrInt64("axis", perm[axis % len(perm)])})


def _without(perm: list[int], axes: list[int]) -> list[int]:
    """The permutation that is left when ``axes`` (as the Transpose's result counts them) are removed."""
    kept = [p for i, p in enumerate(perm) if i not in axes]
    return [sorted(kept).index(p) for p in kept]


def _arg(node: ir.Node, perm: list[int]) -> Plan:
    plan = _one_axis(node, perm)
    if not node.attributes.get_int("keepdims", 1):
        axis = node.attributes.get_int("axis", 0)
        plan.result = _without(perm, [axis % len(perm)])
    return plan


def _gather(node: ir.Node, perm: list[int]) -> Plan | None:
    index = constant(node.inputs[1])
    if index is None or index.ndim > 1:
        return None
    plan = _one_axis(node, perm)
    if not index.ndim:
        axis = node.attributes.get_int("axis", 0)
        plan.result = _without(perm, [axis % len(perm)])
    return plan


def _reduce(node: ir.Node, perm: list[int]) -> Plan | None:
    old = axes_of(node)
    if old is None:
        return None
    old = [a % len(perm) for a in old]
    plan, axes = Plan(perm), [perm[a] for a in old]
    if "axes" in node.attributes:
        plan.attributes["axes"] = ir.AttrInt64s("axes", axes)
    else:
        plan.inputs[1] = np.array(axes, np.int64)
    if not node.attributes.get_int("keepdims", 1):
        plan.result = _without(perm, old)
    return plan


def _reshape(node: ir.Node, perm: list[int]) -> Plan | None:
    below = transposed(node.inputs[0])
    assert below is not None
    source, final = sizes(below[1]), sizes(node.outputs[0])
    found = None if source is None or final is None else swap(source, perm, final)
    target = None if source is None or found is None else target_of(found[0], source)
    if target is None:
        return None
    assert found is not None
    return Plan(perm, {1: target}, op_type="Reshape", result=found[1], shape=found[0])


def _matmul(node: ir.Node, perm: list[int]) -> Plan | None:
    """A Dense on channels-last is a convolution of size 1 on channels-first."""
    kernel, rank = constant(node.inputs[1]), len(perm)
    if kernel is None or kernel.ndim != 2 or rank < 3 or perm != [0, *range(2, rank), 1]:
        return None
    if rank == 3 and len(read(node).uses()) > 1:
        return None  # queries, keys and values: three Transposes in the place of one
    return Plan(perm, {1: kernel.T.reshape(*kernel.T.shape, *[1] * (rank - 2))}, op_type="Conv")


RULES: dict[str, Callable[[ir.Node, list[int]], Plan | None]] = {
    "Softmax": _softmax, "LogSoftmax": _softmax, "Pad": _pad, "Resize": _resize, "Tile": _per_axis(1),
    "Slice": _slice, "Split": _one_axis, "ArgMax": _arg, "ArgMin": _arg, "Gather": _gather,
    "Reshape": _reshape, "Squeeze": _reshape, "Unsqueeze": _reshape, "Flatten": _reshape, "MatMul": _matmul,
    **dict.fromkeys(REDUCTIONS, _reduce),
}
