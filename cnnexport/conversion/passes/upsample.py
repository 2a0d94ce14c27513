"""Write a repetition along axes as one nearest-neighbour Resize.

Keras repeats pixels by a new axis, a Tile along it and a Reshape that takes it in; one after the other for
height and width.

Never changes: repetitions of the batch, of several axes at once, or of what Resize does not take.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    add_initializer,
    bypass,
    constant,
    insert,
    made_alone,
    maker,
    nodes,
    read,
    read_alone,
    remove_unused,
)

_TYPES = frozenset({
    ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT32, ir.DataType.UINT8, ir.DataType.INT8})


class ResizeRepeated(ir.passes.InPlacePass):
    """See the module. Needs the sizes that ``InferShapes`` leaves in ``value.meta``."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in nodes(graph, "Tile"):
            modified = _repeat(graph, node) or modified
        for node in nodes(graph, "Resize"):
            modified = _join(graph, node) or modified
        return ir.passes.PassResult(model, modified)


def _repeat(graph: ir.Graph, tile: ir.Node) -> bool:
    repeats = constant(tile.inputs[1])
    opened, closing = maker(tile.inputs[0], "Reshape", "Unsqueeze"), read_alone(tile.outputs[0], "Reshape")
    if repeats is None or opened is None or closing is None:
        return False
    source = read(opened)
    if source.dtype not in _TYPES:
        return False
    axes = np.flatnonzero(repeats != 1)
    before, between, after = (v.meta.get("sizes") for v in (source, opened.outputs[0], closing.outputs[0]))
    if axes.size != 1 or axes[0] < 2 or not (before and between and after):
        return False
    new = int(axes[0])
    times = int(repeats[new])
    if between[:new] + between[new + 1:] != before:
        return False
    if after != [tuple(s * times for s in d) if i == new - 1 else d for i, d in enumerate(before)]:
        return False
    scales = np.ones(len(before), np.float32)
    scales[new - 1] = times
    factors = add_initializer(graph, scales, f"{tile.name}__scales")
    output = insert(graph, closing, "Resize", [source, None, factors], {
        "mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})
    output.shape = closing.outputs[0].shape
    output.meta["sizes"] = after
    bypass(graph, closing, output)
    graph.remove(tile, safe=True)
    remove_unused(graph, opened)
    return True


def _join(graph: ir.Graph, node: ir.Node) -> bool:
    """Two repetitions in a row are one."""
    before = made_alone(node.inputs[0], "Resize")
    if before is None:
        return False
    both = (before, node)
    if any(len(n.inputs) != 3 or "nearest_mode" not in n.attributes or (
            n.attributes["coordinate_transformation_mode"].as_string() != "asymmetric") for n in both):
        return False
    first, second = constant(before.inputs[2]), constant(node.inputs[2])
    if first is None or second is None or not all((s == np.round(s)).all() for s in (first, second)):
        return False
    node.replace_input_with(0, before.inputs[0])
    node.replace_input_with(2, add_initializer(graph, first * second, f"{node.name}__scales"))
    graph.remove(before, safe=True)
    return True
