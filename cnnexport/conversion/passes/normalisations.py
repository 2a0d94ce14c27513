"""Write layer, group and instance normalisation, which arrive in a dozen pieces, as the operators ONNX has for them.

Over whatever axes: LayerNormalization, from opset 17 on, between Transposes where its axes are not the last. It reads
what is centred already: ONNX Runtime up to 1.24 takes the mean of squares less the square of the mean, which is wrong
in all digits where the mean is a thousand times the deviation. Of scales and shifts that the axes left alone have:
InstanceNormalization, and behind the Reshape of a group normalisation a Mul and an Add for each channel, which a
convolution may take in.

Never changes: what is not float32; axes of sizes that are not known, scales of both kinds of axes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    Array,
    add_initializer,
    axes_of,
    bypass,
    constant,
    full_rank,
    insert,
    inverse_of,
    maker,
    read_alone,
    replace,
)


class _Pieces(NamedTuple):
    """What a normalisation is made of: ``centred`` is less its mean, ``scale`` and ``shift`` have full rank."""

    source: ir.Value
    centred: ir.Value
    axes: list[int]
    epsilon: float
    scale: Array | None
    shift: Array | None


class WholeNormalisations(ir.passes.InPlacePass):
    """See the module. Needs the sizes that ``InferShapes`` finds."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, opset = model.graph, model.opset_imports.get("", 0)
        modified = False
        for node in [n for n in graph if n.op_type == "Add"]:
            pieces = _pieces(node)
            if pieces is not None:
                modified = (opset >= 17 and _layer(graph, node, pieces)) or _instance(graph, node, pieces) or modified
        return ir.passes.PassResult(model, modified)


def _pieces(node: ir.Node) -> _Pieces | None:
    """x * f + (shift - mean * f), f being scale / sqrt(variance + epsilon), as Keras writes it."""
    for scaled, rest in _both(node):
        moved, shift = rest, None
        for value, other in _both(maker(rest, "Add")):
            if (array := constant(other)) is not None:
                moved, shift = value, array
        for source, factor in _both(maker(scaled, "Mul")):
            for negative, same in _both(maker(moved, "Mul")):
                negated = maker(negative, "Neg")
                mean = maker(negated.inputs[0], "ReduceMean") if negated is not None else None
                if source is None or same is not factor or mean is None or mean.inputs[0] is not source:
                    continue
                found, shape = _factor(factor, source, mean), source.shape
                if found is not None and shape is not None and shape == node.outputs[0].shape:
                    centred, axes, epsilon, scale = found
                    # Neither has more axes than the result.
                    arrays = [None if a is None else full_rank(a, len(shape)) for a in (scale, shift)]
                    return _Pieces(source, centred, axes, epsilon, *arrays)
    return None


def _factor(
    factor: ir.Value | None, source: ir.Value, mean: ir.Node
) -> tuple[ir.Value, list[int], float, Array | None] | None:
    """What is centred, the axes, the epsilon and the scale of ``scale / sqrt(variance(source) + epsilon)``."""
    scale: Array | None = None
    root = maker(factor, "Reciprocal")
    for one, array in _both(maker(factor, "Mul")):
        if constant(array) is not None:
            root, scale = maker(one, "Reciprocal"), constant(array)
    square = maker(root.inputs[0], "Sqrt") if root is not None else None
    for variance, number in _both(maker(square.inputs[0], "Add") if square is not None else None):
        epsilon, squares = constant(number), maker(variance, "ReduceMean")
        product = maker(squares.inputs[0], "Mul") if squares is not None else None
        apart = maker(product.inputs[0], "Sub") if product is not None else None
        if epsilon is None or epsilon.size != 1 or squares is None or product is None or apart is None:
            continue
        if product.inputs[0] is not product.inputs[1] or list(apart.inputs) != [source, mean.outputs[0]]:
            continue
        axes = [_axes(n, len(source.shape or ())) for n in (mean, squares)]
        if axes[0] and axes[0] == axes[1]:
            return apart.outputs[0], axes[0], float(epsilon.reshape(())), scale
    return None


def _both(node: ir.Node | None) -> list[tuple[ir.Value | None, ir.Value | None]]:
    """The two inputs of ``node`` in both orders."""
    return [] if node is None else [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]


def _axes(node: ir.Node, rank: int) -> list[int]:
    """The axes, kept with length 1, over which ``node`` takes the mean; none where that is not known."""
    axes = axes_of(node) if node.attributes.get_int("keepdims", 1) and rank else None
    return sorted({a % rank for a in axes or []})


def _layer(graph: ir.Graph, node: ir.Node, pieces: _Pieces) -> bool:
    source, axes, shape = pieces.centred, pieces.axes, pieces.source.shape
    assert shape is not None
    inner = [d for a in axes if isinstance(d := shape[a], int)]
    others = [a for a in range(len(shape)) if a not in axes]
    arrays = [pieces.scale, pieces.shift]
    if pieces.source.dtype != ir.DataType.FLOAT or len(inner) < len(axes):
        return False
    if any(a is not None and any(a.shape[o] != 1 for o in others) for a in arrays):
        return False
    spread: list[ir.Value | None] = []
    for array, role in zip(arrays, ("scale", "shift")):
        if array is None and role == "scale":
            array = np.ones(1, np.float32)
        if array is not None:
            whole = np.broadcast_to(array.reshape([array.shape[a] for a in axes] if array.ndim > 1 else -1), inner)
            spread.append(add_initializer(graph, np.ascontiguousarray(whole), f"{node.name}__{role}"))
    perm = [*others, *axes]
    moved = source
    if perm != sorted(perm):
        moved = insert(graph, node, "Transpose", [source], {"perm": perm}, suffix="/last")
        moved.shape = ir.Shape([shape[p] for p in perm])
    numbers = {"axis": -len(axes), "epsilon": pieces.epsilon}
    if moved is source:
        return replace(graph, node, "LayerNormalization", [source, *spread], numbers)
    made = insert(graph, node, "LayerNormalization", [moved, *spread], numbers, suffix="/whole")
    made.shape = moved.shape
    return replace(graph, node, "Transpose", [made], {"perm": inverse_of(perm)})


def _instance(graph: ir.Graph, node: ir.Node, pieces: _Pieces) -> bool:
    """All axes behind the second: each image's group by itself."""
    source, scale, shift = pieces.source, pieces.scale, pieces.shift
    assert source.shape is not None
    groups, rank = source.shape[1], len(source.shape)
    if source.dtype != ir.DataType.FLOAT or pieces.axes != list(range(2, rank)) or not isinstance(groups, int):
        return False
    regrouped, width = None, 1
    if any(a is not None and a.size != a.shape[1] for a in (scale, shift)):
        regrouped, size = read_alone(node.outputs[0], "Reshape"), source.shape[2]
        final = regrouped.outputs[0].shape if regrouped is not None else None
        if regrouped is None or final is None or not isinstance(size, int):
            return False
        width = size
        # A group's channels beside each other again, and nothing else.
        if list(final) != [source.shape[0], groups * width, *source.shape[3:]]:
            return False
        if any(a is not None and a.size != a.shape[1] * a.shape[2] for a in (scale, shift)):
            return False
    inputs: list[ir.Value | None] = [source]
    for array, number in ((scale, 1), (shift, 0)):
        if array is None or regrouped is not None:
            array = np.full(1, number, np.float32)
        whole = np.ascontiguousarray(np.broadcast_to(array.reshape(-1), groups))
        inputs.append(add_initializer(graph, whole, f"{node.name}__{number}"))
    replace(graph, node, "InstanceNormalization", inputs, {"epsilon": pieces.epsilon})
    if regrouped is not None:
        value = insert(graph, regrouped, "Reshape", list(regrouped.inputs))
        value.shape = regrouped.outputs[0].shape
        for op, array in (("Mul", scale), ("Add", shift)):
            if array is not None:
                whole = np.broadcast_to(array.reshape(array.shape[1:3]), (groups, width)).reshape(-1, *[1] * (rank - 3))
                held = add_initializer(graph, whole, f"{node.name}__{op}")
                value = insert(graph, regrouped, op, [value, held], suffix=f"/{op}")
                value.shape = regrouped.outputs[0].shape
        bypass(graph, regrouped, value)
    return True
