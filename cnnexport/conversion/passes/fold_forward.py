"""Fold arithmetic on channels (a normalisation behind an activation, a rescaled image) into what reads it alone.

``conv(x * s + t)`` is ``conv'(x)`` with the kernel ``k * s`` and the bias ``b + sum(k * t)``; the same holds of a
Dense, for which a global mean and a Flatten may lie between. A border of zeros takes no part in ``t``: before a padded
convolution a scale folds alone, and of one number's scale and shift the shift stays, as ``x + t / s``.

Never changes: what something else reads; scales that are zero, huge or not finite, and kernels that would overflow or
vanish by them; shifts so large that a sum of them would hide the rest.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.affine import AFFINE, Step, step
from cnnexport.conversion.passes.rewriting import (
    Array,
    NodePass,
    add_initializer,
    constant,
    full_rank,
    given,
    made_alone,
    padded_by_numbers,
    pads_of,
    read,
    read_alone,
    remove_unused,
    replace,
    sizes,
)

_BETWEEN = ("GlobalAveragePool", "Flatten", "Reshape")

LARGEST_SHIFT = 256.0
"""Where a normalised value lies near one, a sum of shifts above this would cost it more digits than a kernel rounds."""

LARGEST_SCALE = 1e6
"""A channel that hardly varies (its variance is 0): what it does is left to the arithmetic that Keras does it by."""


class FoldForward(NodePass):
    ops = ("Conv", "Gemm", "MatMul")

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        kernel, shape = constant(node.inputs[1]), read(node).shape
        if kernel is None or shape is None or not np.issubdtype(kernel.dtype, np.floating):
            return False
        if node.op_type != "Conv" and (kernel.ndim != 2 or node.attributes.get_int("transA", 0) != 0):
            return False
        reader, repeats = _behind(node) if node.op_type == "Gemm" else (node, 1)
        chain: list[tuple[ir.Node, Step]] = []
        value = read(reader)
        while (before := made_alone(value, *AFFINE)) is not None:
            found = step(before, len(shape) - 1 if node.op_type == "MatMul" else 1)
            if found is None:
                break
            chain.append((before, found))
            value = found.source
        for count in range(len(chain), 0, -1):
            scale, shift = _composed([found for _, found in chain[:count]])
            whole = [a if a.size == 1 else np.repeat(a, repeats) for a in (scale, shift)]
            if _fold(graph, node, kernel, *whole):
                reader.replace_input_with(0, chain[count - 1][1].source)
                for left, _ in chain[:count]:
                    remove_unused(graph, left)
            elif count < 2 or not _fold_scale(graph, node, kernel, scale, shift, chain[:count]):
                continue
            _rename(node, read(node))
            return True
        return False


def _rename(node: ir.Node, value: ir.Value) -> None:
    """Name what is left between after the layer that took the rest in: none of it makes its own layer's output.

    What joins two tensors does: its layer's output, but for the scale that went on.
    """
    while (before := made_alone(value, *AFFINE, *_BETWEEN)) is not None:
        if before.op_type in AFFINE and all(constant(v) is None for v in before.inputs[:2]):
            return
        before.name = f"{before.name}/{node.name}"  # the last of the layers in a name counts
        value = read(before) if constant(before.inputs[0]) is None else read(before, 1)


def _behind(node: ir.Node) -> tuple[ir.Node, int]:
    """The node that reads maps for a Dense (a Flatten, a global mean before it), and the features of each channel."""
    flat = made_alone(node.inputs[0], *_BETWEEN[1:])
    before, after = (sizes(flat.inputs[0]), sizes(flat.outputs[0])) if flat is not None else (None, None)
    if flat is None or before is None or after is None:
        return node, 1
    inner = [d for d in before[1:] if isinstance(d, int)]
    if len(inner) + 1 < len(before) or after[1:] != [int(np.prod(inner))]:
        return node, 1
    return made_alone(flat.inputs[0], _BETWEEN[0]) or flat, int(np.prod(inner[1:]))


def _composed(steps: list[Step]) -> tuple[Array, Array]:
    """One scale and shift for ``steps``, of which the last comes first, with one number a channel or one for all."""
    scale, shift = np.ones(1), np.zeros(1)
    with np.errstate(all="ignore"):
        for found in reversed(steps):
            scale, shift = scale * found.scale, shift * found.scale + found.shift
    both = np.broadcast_arrays(scale, shift)
    return both[0], both[1]


def _fold(graph: ir.Graph, node: ir.Node, kernel: Array, scale: Array, shift: Array) -> bool:
    scaled = _scaled(node, kernel, scale)
    if scaled is None or not (np.abs(shift) <= LARGEST_SHIFT).all():
        return False
    if shift.any():
        if _padded(node, kernel):
            return False
        moved = _spread(node, kernel, shift)
        if node.op_type == "Conv":
            added = (kernel.sum(axis=tuple(range(2, kernel.ndim)), dtype=np.float64) * moved).sum(axis=1)
        else:
            # Buffered: a large kernel is not copied as a whole.
            added = np.einsum("ij,ij->" + ("i" if _rows(node) else "j"), kernel, moved, dtype=np.float64)
        with np.errstate(over="ignore"):
            added = added.astype(kernel.dtype)
        if not _add(graph, node, added):
            return False
    if scaled is not kernel:
        node.replace_input_with(1, add_initializer(graph, scaled, f"{node.name}__kernel"))
    return True


def _fold_scale(
    graph: ir.Graph, node: ir.Node, kernel: Array, scale: Array, shift: Array, chain: list[tuple[ir.Node, Step]]
) -> bool:
    """Of a scale and a shift by one number each, the scale alone."""
    scaled = _scaled(node, kernel, scale[:1])
    if scaled is None or np.ptp(scale):
        return False
    with np.errstate(all="ignore"):
        rest = (shift / scale).astype(kernel.dtype)
        if np.ptp(rest) != 0:  # of infinity too
            return False
    node.replace_input_with(1, add_initializer(graph, scaled, f"{node.name}__kernel"))
    source, last = chain[-1][1].source, chain[0][0]
    return replace(graph, last, "Add", [source, add_initializer(graph, rest[:1].reshape(()), f"{last.name}__rest")])


def _rows(node: ir.Node) -> bool:
    """Whether each row of a Dense's kernel makes one feature."""
    return bool(node.attributes.get_int("transB", 0))


def _padded(node: ir.Node, kernel: Array) -> bool:
    if not padded_by_numbers(node):
        return any(size > 1 for size in kernel.shape[2:])
    return any(pads_of(node, kernel.ndim - 2))


def _spread(node: ir.Node, kernel: Array, values: Array) -> Array:
    """``values`` of the channels that ``node`` reads, as they meet the first two axes of its kernel."""
    if node.op_type != "Conv":
        return np.broadcast_to(values, kernel.shape) if _rows(node) else np.broadcast_to(values[:, None], kernel.shape)
    groups = node.attributes.get_int("group", 1)
    each = np.broadcast_to(values, kernel.shape[1] * groups).reshape(groups, -1)
    return np.repeat(each, kernel.shape[0] // groups, axis=0)


def _scaled(node: ir.Node, kernel: Array, scale: Array) -> Array | None:
    """The kernel by which ``node`` scales too; None where numbers would be lost."""
    if not (np.abs(scale) <= LARGEST_SCALE).all():
        return None
    if (scale == 1).all():
        return kernel
    with np.errstate(all="ignore"):
        spread = _spread(node, kernel, scale.astype(kernel.dtype))
        scaled = kernel * spread.reshape(*spread.shape, *[1] * (kernel.ndim - 2))
    kept = np.isfinite(scaled) & ((np.abs(scaled) >= np.finfo(kernel.dtype).tiny) | (kernel == 0))
    return scaled if kept.all() else None


def _add(graph: ir.Graph, node: ir.Node, added: Array) -> bool:
    """Add to the bias of ``node``, or to the one that an Add behind a MatMul holds."""
    holder, place, rank = node, 2, {"Conv": 1, "Gemm": 2}.get(node.op_type, len(read(node).shape or ()))
    if node.op_type == "MatMul":
        follower = read_alone(node.outputs[0], "Add")
        if follower is None:
            return False
        holder, place = follower, 1 if follower.inputs[0] is node.outputs[0] else 0
    elif any(node.attributes.get_float(name, 1.0) != 1 for name in ("alpha", "beta")):
        return False
    bias = np.zeros(1, added.dtype) if given(holder, place) is None else constant(holder.inputs[place])
    # A Gemm's may be a column, another number for each image.
    whole = None if bias is None else full_rank(bias, rank)
    if whole is None or any(d != 1 for d in whole.shape[:-1]):
        return False
    total = whole.reshape(-1) + added
    if not np.isfinite(total).all():
        return False
    holder.resize_inputs(max(len(holder.inputs), place + 1))
    holder.replace_input_with(place, add_initializer(graph, total, f"{holder.name}__bias"))
    return True
