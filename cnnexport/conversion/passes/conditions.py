"""What must hold of a graph between the stages of folding; each condition raises with the name of what breaks it.

All are cheap (one walk over the nodes), so that they are checked in every conversion.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from cnnexport.conversion.passes.reshape import REGROUPING
from cnnexport.conversion.passes.rewriting import (
    constant,
    maker,
    nodes,
    perm_of,
    read,
    sizes,
    target_of,
    transposed,
)

Condition = Callable[[ir.Graph], None]


class Broken(Exception):
    """A condition that does not hold: what breaks it."""


def ordered(graph: ir.Graph) -> None:
    """Each node reads inputs, initializers with an array, and what nodes before it make."""
    seen: set[ir.Node] = set()
    for node in graph:
        for value in node.inputs:
            if value is None:
                continue
            before = value.producer()
            if before not in seen if before is not None else not (
                    value.is_graph_input() or (value.is_initializer() and value.const_value is not None)):
                raise Broken(f"node '{node.name}' reads '{value.name}', which nothing before it gives")
        seen.add(node)


def regrouped(graph: ir.Graph) -> None:
    """What only regroups axes of known sizes is a Reshape to a constant, and none follows another, but at outputs."""
    for node in nodes(graph, *REGROUPING):
        before = maker(node.inputs[0], *REGROUPING)
        start, final = sizes(read(before or node)), sizes(node.outputs[0])
        if start is None or final is None or target_of(final, start) is None or node.outputs[0].is_graph_output():
            continue
        if before is not None or node.op_type != "Reshape" or constant(node.inputs[1]) is None:
            raise Broken(f"node '{node.name}' ({node.op_type}) regroups axes in another way")


def settled(graph: ir.Graph) -> None:
    """No Transpose reads another, and none moves nothing, but at the outputs."""
    for node in nodes(graph, "Transpose"):
        perm = perm_of(node)
        if perm is not None and (transposed(node.inputs[0]) is not None or (
                perm == sorted(perm) and not node.outputs[0].is_graph_output())):
            raise Broken(f"Transpose '{node.name}' could be joined or left out")


def used(graph: ir.Graph) -> None:
    """Something reads each node and each initializer, or it leaves the graph."""
    held = [*graph.initializers.values(), *(node.outputs[0] for node in graph if len(node.outputs) == 1)]
    for value in held:
        if not value.uses() and not value.is_graph_output():
            raise Broken(f"nothing reads '{value.name}'")


def named_apart(graph: ir.Graph) -> None:
    """No two values have the same name."""
    seen: set[str | None] = set()
    for value in [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]:
        if value.name and value.name in seen:  # an output that is left out has no name
            raise Broken(f"two values are called '{value.name}'")
        seen.add(value.name)
