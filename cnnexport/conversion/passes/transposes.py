"""Move Transposes to the model's input or output, and drop those that move nothing.

A Transpose to channels-last sinks through what can work channels-first, until it meets its opposite or
an output (the rules of each operator are in ``sinking``). One to channels-first that reads an element-wise
node, a Pad or a Reshape changes places with it, on its way up to the input. What moves only axes of length
1 in the end is a Reshape.

Never changes: what any output holds. It ends because Transposes to channels-first only rise, all others
only sink, and one that reads an input of the model stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.regroup import swap
from cnnexport.conversion.passes.rewriting import (
    BINARY,
    ELEMENTWISE,
    Array,
    NodePass,
    Size,
    add_initializer,
    bypass,
    constant,
    full_rank,
    given,
    insert,
    inverse_of,
    maker,
    perm_of,
    read,
    remove_unused,
    sizes,
    sole_consumer,
    target_of,
    to_first,
    transposed,
    whole_resize,
)
from cnnexport.conversion.passes.sinking import sink

_MOST_SWEEPS = 1000


class SettleTransposes(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for _ in range(_MOST_SWEEPS):
            again = False
            for node in list(graph):
                if sink(graph, node):
                    again = True
                    continue
                if perm_of(node) is None:
                    continue
                remove_unused(graph, node)
                if node.graph is None:
                    modified = True
                    continue
                if _drop(graph, node) or _cancel(graph, node) or _hoist(graph, node):
                    again = True
            modified = modified or again
            if not again:
                break
        return ir.passes.PassResult(model, modified)


class TransposesOfOnes(NodePass):
    """Write a Transpose that moves only axes of length 1 as a Reshape.

    Never changes: a Transpose of other axes, or of sizes that are not known; one at an input or output, where
    it says that the layout changes, whatever the sizes.
    """

    ops = ("Transpose",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        perm, source = perm_of(node), sizes(node.inputs[0])
        if perm is None or source is None:
            return False
        at_port = node.inputs[0] in graph.inputs or node.outputs[0].is_graph_output()
        if at_port and perm != sorted(perm):
            return False
        if (target := _regrouped(perm, source, source)) is None:
            return False
        shape = add_initializer(graph, target, f"{node.name}__shape")
        output = insert(graph, node, "Reshape", [node.inputs[0], shape])
        output.shape = node.outputs[0].shape
        bypass(graph, node, output)
        return True


def _regrouped(perm: list[int], moved: Sequence[Size], source: Sequence[Size]) -> Array | None:
    """The target that reshapes ``source`` to ``moved`` by ``perm``; None where an axis longer than 1 changes places."""
    longer = [p for p in perm if moved[p] != 1]
    return target_of([moved[p] for p in perm], source) if longer == sorted(longer) else None


def _drop(graph: ir.Graph, node: ir.Node) -> bool:
    source = read(node)
    if perm_of(node) != sorted(perm_of(node) or ()):
        return False
    if node.outputs[0].is_graph_output() and (source.producer() is None or source.is_graph_output()):
        return False
    bypass(graph, node, source)
    return True


def _cancel(graph: ir.Graph, node: ir.Node) -> bool:
    """Two Transposes in a row are one."""
    before, found = maker(node.inputs[0], "Transpose"), transposed(node.inputs[0])
    if found is None:
        return False
    node.attributes["perm"] = ir.AttrInt64s("perm", [found[0][p] for p in perm_of(node) or ()])
    node.replace_input_with(0, found[1])
    assert before is not None
    remove_unused(graph, before)
    return True


def _hoist(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a Transpose to channels-first rise: above one node, or through Reshapes up to an input."""
    if not to_first(perm_of(node) or []):
        return False
    before = maker(node.inputs[0], "Reshape")
    if before is None:
        return _swap(graph, node) is not None
    if maker(before.inputs[0], "Transpose") is not None and _swap(graph, node) is not None:
        return True
    return _absorb(graph, node, before) or _rise(graph, node)


def _absorb(graph: ir.Graph, node: ir.Node, before: ir.Node) -> bool:
    """``Transpose(Reshape(x))`` is one Reshape where no axis longer than 1 changes places."""
    start, final = sizes(before.inputs[0]), sizes(node.inputs[0])
    perm = perm_of(node) or []
    if start is None or final is None or sole_consumer(before.outputs[0]) is not node:
        return False
    if (target := _regrouped(perm, final, start)) is None:
        return False
    output = insert(graph, node, "Reshape",
                    [before.inputs[0], add_initializer(graph, target, f"{node.name}__shape")])
    output.shape = node.outputs[0].shape
    bypass(graph, node, output)
    graph.remove(before, safe=True)
    return True


def _rise(graph: ir.Graph, node: ir.Node) -> bool:
    """Take ``node`` all the way up to an input of the model, or leave it where it is."""
    value = read(node)
    while (above := value.producer()) is not None:
        place = _place(above)
        if place is None or sole_consumer(value) is None:
            return False
        value = read(above, place)
    moved = False
    risen: ir.Node | None = node
    while risen is not None and (risen := _swap(graph, risen)) is not None:
        moved = True
    return moved


def _place(before: ir.Node) -> int | None:
    """The input of ``before`` above which a Transpose can rise, if there is one."""
    if before.op_type in ELEMENTWISE:
        return 0
    if before.op_type in BINARY and len(before.inputs) == 2:
        return 0 if constant(before.inputs[0]) is None else 1
    if (before.op_type == "Pad" and given(before, 3) is not None) or (
            before.op_type == "Resize" and (given(before, 3) is not None or not whole_resize(before))):
        return None
    told = {"Pad": 1, "Slice": 3, "Resize": 2, "Reshape": 1}.get(before.op_type)
    return 0 if told is not None and constant(given(before, told)) is not None else None


def _swap(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """Swap a Transpose with the node before it; the Transpose in its new place, or None."""
    source, perm = read(node), perm_of(node) or []
    before = source.producer()
    if before is None or sole_consumer(source) is None:
        return None
    place = _place(before)
    if place is None:
        return None
    inner = read(before, place)
    rank = len(perm)
    if before.op_type == "Reshape":
        start, final = sizes(inner), sizes(source)
        if start is None or final is None:
            return None
        # The Reshape backwards, from the transposed result to its source.
        found = swap([final[p] for p in perm], inverse_of(perm), start)
        if found is None:
            return None
        risen_perm = inverse_of(found[1])
        target = target_of([final[p] for p in perm], [start[p] for p in risen_perm])
        if target is None:
            return None
        perm = risen_perm
        before.replace_input_with(1, add_initializer(graph, target, f"{before.name}__shape"))
    elif before.op_type in BINARY:
        if inner.shape is None or len(inner.shape) != rank:
            return None
        array = constant(before.inputs[1 - place])
        if array is None:
            return None
        spread = full_rank(array, rank)
        assert spread is not None
        if array.size > 1:
            moved = np.ascontiguousarray(np.transpose(spread, perm))
            before.replace_input_with(1 - place, add_initializer(graph, moved, f"{before.name}__c"))
    elif before.op_type == "Pad":
        pads = constant(before.inputs[1])
        assert pads is not None
        moved = np.array([pads[p] for p in perm] + [pads[rank + p] for p in perm], pads.dtype)
        before.replace_input_with(1, add_initializer(graph, moved, f"{before.name}__pads"))
    elif before.op_type == "Slice":
        axes = constant(before.inputs[3])
        assert axes is not None
        moved = np.array([perm.index(int(a) % rank) for a in axes.reshape(-1)], axes.dtype)
        before.replace_input_with(3, add_initializer(graph, moved, f"{before.name}__axes"))
    elif before.op_type == "Resize":
        scales = constant(before.inputs[2])
        assert scales is not None
        moved = scales.reshape(-1)[perm]
        before.replace_input_with(2, add_initializer(graph, moved, f"{before.name}__scales"))
    risen = insert(graph, before, "Transpose", [inner], {"perm": perm})
    made = risen.producer()
    assert made is not None
    risen.type, made.name = inner.type, node.name
    if inner.shape is not None:
        risen.shape = ir.Shape([inner.shape[p] for p in perm])
    before.replace_input_with(place, risen)
    before.outputs[0].shape = node.outputs[0].shape
    bypass(graph, node, before.outputs[0])
    return made
