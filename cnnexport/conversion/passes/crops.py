"""Cut off a fixed border with constants, and let a ConvTranspose cut its own.

A transposed convolution is computed whole and then sliced to a size that is computed at run time; where
the border is the same for every size it is a constant, and part of the operator's padding.

Never changes: a Slice whose border depends on the size; one with steps, before merging.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    NodePass,
    add_initializer,
    bypass,
    constant,
    given,
    made_alone,
    padded_by_numbers,
    pads_of,
    read,
    unit_steps,
)

_END = np.iinfo(np.int64).max


class StaticSlice(NodePass):
    """Count a Slice's ends from behind. Needs the sizes that ``InferShapes`` leaves in ``value.meta``."""

    ops = ("Slice",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        starts, axes = constant(node.inputs[1]), constant(given(node, 3))
        after = node.outputs[0].meta.get("sizes")
        if constant(node.inputs[2]) is not None or not after:
            return False
        if starts is None or axes is None or (starts < 0).any() or not unit_steps(node):
            return False
        before = read(node).meta["sizes"]
        tails = [{b - a - int(s) for b, a in zip(before[int(axis)], after[int(axis)])}
                 for axis, s in zip(axes, starts)]
        if any(len(t) != 1 for t in tails):
            return False
        ends = np.array([-tail if (tail := t.pop()) else _END for t in tails], np.int64)
        if starts.dtype != np.int64:
            ends = np.clip(ends, None, np.iinfo(starts.dtype).max).astype(starts.dtype)
        node.replace_input_with(2, add_initializer(graph, ends, f"{node.name}__ends"))
        return True


class MergeCrop(NodePass):
    """Make a Slice behind a ConvTranspose part of its padding."""

    ops = ("Slice",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        source = read(node)
        conv = made_alone(source, "ConvTranspose")
        if conv is None or "output_shape" in conv.attributes or not padded_by_numbers(conv) or not unit_steps(node):
            return False
        starts, ends, axes = (constant(given(node, i)) for i in (1, 2, 3))
        kernel = constant(conv.inputs[1])
        if starts is None or ends is None or axes is None or kernel is None or (axes < 2).any():
            return False
        space = kernel.ndim - 2
        pads = pads_of(conv, space)
        for start, end, axis in zip(starts.tolist(), ends.tolist(), axes.tolist()):
            size = source.shape[axis] if source.shape is not None else None
            if start < 0 or (end >= 0 and not isinstance(size, int) and end < np.iinfo(np.int32).max):
                return False
            pads[axis - 2] += start
            pads[axis - 2 + space] += -end if end < 0 else max(0, size - end) if isinstance(size, int) else 0
        conv.attributes["pads"] = ir.AttrInt64s("pads", pads)
        source.shape = node.outputs[0].shape
        bypass(graph, node, source)
        return True


class PositivePadding(NodePass):
    """Write what a ConvTranspose's negative padding would add as its output padding, as ONNX wants it.

    A stride longer than the kernel leaves rows that no pixel reaches; TensorFlow has them all at the end.
    """

    ops = ("ConvTranspose",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        pads = list(node.attributes.get_ints("pads", ()))
        space = len(pads) // 2
        if min(pads, default=0) >= 0:
            return False
        extra = list(node.attributes.get_ints("output_padding", [0] * space))
        for start, end in zip(range(space), range(space, 2 * space)):
            pads[start], pads[end] = max(0, pads[start]), pads[end] + min(0, pads[start])
            pads[end], extra[start] = max(0, pads[end]), extra[start] + max(0, -pads[end])
        node.attributes["output_padding"] = ir.AttrInt64s("output_padding", extra)
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        return True
