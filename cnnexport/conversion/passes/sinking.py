"""Let a Transpose sink below a node: the node works on what the Transpose read, and its result is transposed.

Several Transposes that meet in one node leave as one. The rules of single operators are in ``layouts``.

Never changes: what the node computes; a node that no rule knows keeps its Transposes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.layouts import RULES, Plan
from cnnexport.conversion.passes.rewriting import (
    BINARY,
    ELEMENTWISE,
    add_initializer,
    constant,
    full_rank,
    inverse_of,
    known_shape,
    made_alone,
    perm_of,
    read,
    sizes,
    to_first,
    transposed,
)

BROADCASTING = BINARY | {
    "Concat", "Sum", "Mean", "Where", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "And",
    "Or", "Xor", "Mod",
}


def sinkable(value: ir.Value | None) -> list[int] | None:
    """The permutation of the Transpose that makes ``value``, if that one may sink."""
    found = transposed(value)
    if found is None:
        return None
    perm, source = found
    # On sequences the way to channels-first and the way back are one permutation.
    return None if to_first(perm) or (perm == [0, 2, 1] and source.is_graph_input()) else perm


def sink(graph: ir.Graph, node: ir.Node) -> bool:
    """Let ``node`` work on what its Transposes read, and transpose its results instead."""
    perm = next((p for v in node.inputs if (p := sinkable(v)) is not None), None)
    if perm is None:
        return False
    if node.op_type in ELEMENTWISE:
        plan: Plan | None = Plan(perm) if sinkable(node.inputs[0]) else None
    elif node.op_type in BROADCASTING:
        plan = _broadcasting(graph, node, perm)
    else:
        rule = RULES.get(node.op_type)
        plan = None if rule is None or sinkable(node.inputs[0]) != perm else rule(node, perm)
    if plan is None:
        return False
    _apply(graph, node, plan)
    return True


def _apply(graph: ir.Graph, node: ir.Node, plan: Plan) -> None:
    for place, value in enumerate(node.inputs):
        if sinkable(value) == plan.perm:
            found = transposed(value)
            assert found is not None
            plan.inputs[place] = found[1]
    node.resize_inputs(max(len(node.inputs), 1 + max(plan.inputs)))
    for place, new in plan.inputs.items():
        if isinstance(new, np.ndarray):
            new = add_initializer(graph, np.ascontiguousarray(new) if new.size < 1024 else new,
                                  f"{node.name}__{place}")
        node.replace_input_with(place, new)
    node.attributes.update(plan.attributes)
    if plan.op_type is not None:
        node.op_type = plan.op_type
        if plan.op_type == "Reshape":
            node.attributes.clear()
    result = plan.perm if plan.result is None else plan.result
    for output in node.outputs:
        made = ir.node("Transpose", [output], attributes={"perm": result}, name=f"{node.name}/layout")
        moved = made.outputs[0]
        moved.name, moved.type, moved.shape = f"{node.name}/layout:{id(moved)}", output.type, output.shape
        graph.insert_after(node, made)
        for reader, place in [(u.node, u.idx) for u in output.uses() if u.node is not made]:
            reader.replace_input_with(place, moved)
        for i, leaving in enumerate(graph.outputs):
            if leaving is output:
                name = output.name
                graph.outputs[i] = moved
                output.name, moved.name = f"{name}__first", name
        if plan.shape is not None:
            output.shape = ir.Shape(plan.shape)
        elif output.shape is not None:
            output.shape = ir.Shape([output.shape[i] for i in inverse_of(result)])


def _broadcasting(graph: ir.Graph, node: ir.Node, perm: list[int]) -> Plan | None:
    rank, inverse, plan = len(perm), inverse_of(perm), Plan(perm)
    foreign = []
    for place, value in enumerate(node.inputs):
        if sinkable(value) == perm:
            continue
        array = constant(value)
        if array is None:
            if len(known_shape(value) or ()) != rank or not _absorbs(read(node, place), inverse):
                return None
            foreign.append(place)
            continue
        spread = full_rank(array, rank)
        if spread is None:
            return None
        if spread.size > 1:
            plan.inputs[place] = np.transpose(spread, inverse)
        elif array.ndim:
            plan.inputs[place] = spread if node.op_type == "Concat" else array.reshape(())
    for place in foreign:
        value = read(node, place)
        assert value.shape is not None
        made = ir.node("Transpose", [value], attributes={"perm": inverse}, name=f"{node.name}/layout")
        moved = made.outputs[0]
        moved.name, moved.type = f"{node.name}/layout:{id(moved)}", value.type
        moved.shape = ir.Shape([value.shape[i] for i in inverse])
        graph.insert_before(node, made)
        plan.inputs[place] = moved
    if node.op_type == "Concat":
        plan.attributes["axis"] = ir.AttrInt64("axis", perm[node.attributes["axis"].as_int() % rank])
    return plan


def _absorbs(value: ir.Value, perm: list[int]) -> bool:
    """Whether a Transpose of ``value`` vanishes: at an input, in a Reshape, or with its opposite."""
    while not value.is_graph_input():
        known = sizes(value)
        longer = [p for p in perm if known is None or known[p] != 1]
        if longer == sorted(longer):
            return True
        node = made_alone(value, "Transpose", *ELEMENTWISE, *BINARY)
        if node is None:
            return False
        if node.op_type == "Transpose":
            return perm_of(node) == inverse_of(perm)
        moving = [v for v in node.inputs if v is not None and constant(v) is None]
        if len(moving) != 1:
            return False
        value = moving[0]
    return True
