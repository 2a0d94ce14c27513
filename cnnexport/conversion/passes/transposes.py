"""Move Transposes to the model's input or output, and drop those that move nothing.

A Transpose to channels-last sinks through what can work channels-first, until it meets its opposite or
an output. One to channels-first that reads an element-wise node or a Pad changes places with it, on its way up to the
input. One whose axes, but one, have length 1 is a Reshape in disguise and goes where it can.

Never changes: what any output holds.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    BINARY,
    ELEMENTWISE,
    Array,
    add_initializer,
    axes_of,
    bypass,
    constant,
    full_rank,
    insert,
    known_shape,
    sole_consumer,
)


def _perm(node: ir.Node) -> list[int] | None:
    return list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else None


class SettleTransposes(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        again = True
        while again:
            again = False
            for node in list(graph):
                if node.graph is None:
                    continue
                if _sink(graph, node):
                    again = modified = True
                    continue
                if node.op_type != "Transpose" or _perm(node) is None:
                    continue
                if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
                    graph.remove(node, safe=True)
                    modified = True
                    continue
                if _drop(graph, node) or _cancel(graph, node) or _reshape(graph, node) or _hoist(graph, node):
                    again = modified = True
        return ir.passes.PassResult(model, modified)


def _drop(graph: ir.Graph, node: ir.Node) -> bool:
    if _perm(node) != sorted(_perm(node) or ()) or node.inputs[0] is None:
        return False
    if node.outputs[0].is_graph_output() and node.inputs[0].is_graph_input():
        return False
    bypass(graph, node, node.inputs[0])
    return True


def _cancel(graph: ir.Graph, node: ir.Node) -> bool:
    """Two Transposes in a row are one."""
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is None or before.op_type != "Transpose" or before.inputs[0] is None:
        return False
    first, second = _perm(before), _perm(node)
    if first is None or second is None or node.inputs[0].is_graph_output():  # type: ignore[union-attr]
        return False
    node.attributes["perm"] = ir.AttrInt64s("perm", [first[p] for p in second])
    node.replace_input_with(0, before.inputs[0])
    if not before.outputs[0].uses():
        graph.remove(before, safe=True)
    return True


def _reshape(graph: ir.Graph, node: ir.Node) -> bool:
    """``Transpose(Reshape(x))`` with one axis of any length beside the batch is one Reshape."""
    shape, perm = known_shape(node.inputs[0]), _perm(node)
    if shape is None or perm is None or perm[0] != 0 or node.inputs[0] is None:
        return False
    longer = [i for i, d in enumerate(shape) if i and d != 1]
    if len(longer) > 1 or any(shape[i] is None for i in longer):
        return False
    before = node.inputs[0].producer()
    if before is None or before.op_type not in ("Reshape", "Flatten") or sole_consumer(node.inputs[0]) is not node:
        return False
    target = np.array([-1, *[shape[p] for p in perm[1:]]], np.int64)
    output = insert(graph, node, "Reshape",
                    [before.inputs[0], add_initializer(graph, target, f"{node.name}__shape")])
    output.shape = node.outputs[0].shape
    bypass(graph, node, output)
    graph.remove(before, safe=True)
    return True


REDUCTIONS = frozenset("ReduceMean ReduceMax ReduceMin ReduceSum ReduceProd ReduceL1 ReduceL2".split())


def _last_perm(value: ir.Value | None) -> list[int] | None:
    """The permutation of the Transpose to channels-last that makes ``value``, if one does."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Transpose" or node.inputs[0] is None:
        return None
    perm = _perm(node)
    return perm if perm is not None and len(perm) > 2 and perm == [0, *range(2, len(perm)), 1] else None


def _sink(graph: ir.Graph, node: ir.Node) -> bool:
    """Let ``node`` work channels-first on what its Transposes read, and transpose its result instead."""
    perm = next((p for v in node.inputs if (p := _last_perm(v)) is not None), None)
    if perm is None or node.domain or len(node.outputs) != 1:
        return False
    rank, op = len(perm), node.op_type
    inverse = [perm.index(i) for i in range(rank)]
    new: dict[int, ir.Value] = {}
    attributes: dict[str, ir.Attr] = {}

    def own(place: int, array: Array, role: str) -> None:
        new[place] = add_initializer(graph, np.ascontiguousarray(array), f"{node.name}__{role}")

    if op in ELEMENTWISE or op in BINARY or op in ("Concat", "Sum", "Softmax", "LogSoftmax"):
        places = range(1) if op in ELEMENTWISE else range(len(node.inputs))
        for place in places:
            value = node.inputs[place]
            if _last_perm(value) == perm:
                new[place] = value.producer().inputs[0]  # type: ignore[union-attr,assignment]
                continue
            array = constant(value)
            spread = None if array is None else full_rank(array, rank)
            if spread is None:
                return False
            if spread.size > 1:
                own(place, np.transpose(spread, inverse), "c")
            elif array is not None and array.ndim:
                own(place, array.reshape(()) if op in BINARY else spread, "c")
        if "axis" in node.attributes or op in ("Softmax", "LogSoftmax"):
            axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
            attributes["axis"] = ir.AttrInt64("axis", perm[axis % rank])
    elif _last_perm(node.inputs[0]) != perm:
        return False
    else:
        new[0] = node.inputs[0].producer().inputs[0]  # type: ignore[union-attr,assignment]
        if op == "Pad" and (len(node.inputs) < 4 or node.inputs[3] is None):
            pads = constant(node.inputs[1])
            if pads is None or pads.size != 2 * rank:
                return False
            own(1, np.array([pads[i] for i in inverse] + [pads[rank + i] for i in inverse], pads.dtype), "pads")
        elif op == "Slice" and len(node.inputs) > 3 and (axes := constant(node.inputs[3])) is not None:
            own(3, np.array([perm[int(a) % rank] for a in axes.reshape(-1)], axes.dtype), "axes")
        elif op == "Slice" and len(node.inputs) == 3 and (starts := constant(node.inputs[1])) is not None:
            node.resize_inputs(4)
            own(3, np.array(perm[: starts.size], np.int64), "axes")
        elif op in REDUCTIONS and ("keepdims" not in node.attributes or node.attributes["keepdims"].as_int()):
            old = axes_of(node)
            if old is None:
                return False
            if "axes" in node.attributes:
                attributes["axes"] = ir.AttrInt64s("axes", [perm[a % rank] for a in old])
            else:
                own(1, np.array([perm[a % rank] for a in old], np.int64), "axes")
        else:
            return False
    for place, value in new.items():
        node.replace_input_with(place, value)
    node.attributes.update(attributes)
    output = node.outputs[0]
    shape = output.shape
    result = ir.node("Transpose", [output], attributes={"perm": perm}, name=f"{node.name}/layout")
    moved = result.outputs[0]
    moved.name, moved.dtype, moved.shape = f"{node.name}/layout:{id(moved)}", output.dtype, shape
    graph.insert_after(node, result)
    uses = [(u.node, u.idx) for u in output.uses() if u.node is not result]
    for reader, place in uses:
        reader.replace_input_with(place, moved)
    for i, leaving in enumerate(graph.outputs):
        if leaving is output:
            name = output.name
            graph.outputs[i] = moved
            output.name, moved.name = f"{name}__first", name
    output.shape = None if shape is None else ir.Shape([shape[i] for i in inverse])
    return True


def _hoist(graph: ir.Graph, node: ir.Node) -> bool:
    """Swap a Transpose with the element-wise node or Pad before it."""
    source, perm = node.inputs[0], _perm(node)
    before = source.producer() if source is not None else None
    if source is None or before is None or perm is None or sole_consumer(source) is not node:
        return False
    rank = len(perm)
    if rank < 4 or perm != [0, rank - 1, *range(1, rank - 1)]:
        return False
    if before.op_type in ELEMENTWISE:
        place = 0
    elif before.op_type in BINARY and len(before.inputs) == 2:
        arrays = [constant(v) for v in before.inputs]
        if (arrays[0] is None) == (arrays[1] is None):
            return False
        place = 0 if arrays[1] is not None else 1
        array = arrays[1 - place]
        spread = None if array is None else full_rank(array, rank)
        shape = known_shape(before.inputs[place])
        if spread is None or shape is None or len(shape) != rank:
            return False
        if array is not None and array.size > 1:
            moved = np.transpose(spread, perm)
            other = before.inputs[1 - place]
            before.replace_input_with(1 - place, add_initializer(graph, moved, other.name or "c"))  # type: ignore[union-attr]
    elif before.op_type == "Pad" and (len(before.inputs) < 4 or before.inputs[3] is None):
        place = 0
        pads = constant(before.inputs[1])
        if pads is None or pads.size != 2 * rank:
            return False
        moved = np.array([pads[p] for p in perm] + [pads[rank + p] for p in perm], pads.dtype)
        before.replace_input_with(1, add_initializer(graph, moved, f"{before.name}__pads"))
    else:
        return False
    inner = before.inputs[place]
    if inner is None:
        return False
    shape = known_shape(inner)
    moved_input = insert(graph, before, "Transpose", [inner], {"perm": perm})
    moved_input.dtype = inner.dtype
    moved_input.producer().name = node.name  # type: ignore[union-attr]
    if shape is not None and inner.shape is not None:
        moved_input.shape = ir.Shape([inner.shape[p] for p in perm])
    before.replace_input_with(place, moved_input)
    before.outputs[0].shape = node.outputs[0].shape
    bypass(graph, node, before.outputs[0])
    return True
