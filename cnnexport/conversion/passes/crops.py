"""Cut off a fixed border with constants, and let a ConvTranspose cut its own.

A transposed convolution is computed whole and then sliced to a size that is computed at run time; where
the border is the same for every size it is a constant, and part of the operator's padding.

Never changes: a Slice whose border depends on the size; one with steps, before merging.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    add_initializer,
    bypass,
    constant,
    padded_by_numbers,
    sole_consumer,
)

_END = np.iinfo(np.int64).max


class StaticSlice(ir.passes.InPlacePass):
    """Count a Slice's ends from behind. Needs the sizes that ``InferShapes`` leaves in ``value.meta``."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in list(graph):
            if node.op_type != "Slice" or constant(node.inputs[2]) is not None or node.inputs[0] is None:
                continue
            starts = constant(node.inputs[1])
            axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
            steps = constant(node.inputs[4]) if len(node.inputs) > 4 else None
            before, after = node.inputs[0].meta.get("sizes"), node.outputs[0].meta.get("sizes")
            if starts is None or axes is None or before is None or after is None or (starts < 0).any():
                continue
            if len(node.inputs) > 4 and (steps is None or (steps != 1).any()):
                continue
            tails = [{b - a - int(s) for b, a in zip(before[int(axis)], after[int(axis)])}
                     for axis, s in zip(axes, starts)]
            if any(len(t) != 1 or None in t or min(t) < 0 for t in tails):
                continue
            ends = np.array([-tail if (tail := t.pop()) else _END for t in tails], np.int64)
            if starts.dtype != np.int64:
                ends = np.clip(ends, None, np.iinfo(starts.dtype).max).astype(starts.dtype)
            node.replace_input_with(2, add_initializer(graph, ends, f"{node.name}__ends"))
            modified = True
        return ir.passes.PassResult(model, modified)


class MergeCrop(ir.passes.InPlacePass):
    """Make a Slice behind a ConvTranspose part of its padding."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in list(graph):
            modified = (node.op_type == "Slice" and _merge(graph, node)) or modified
        return ir.passes.PassResult(model, modified)


def _merge(graph: ir.Graph, node: ir.Node) -> bool:
    source = node.inputs[0]
    conv = source.producer() if source is not None else None
    if source is None or conv is None or conv.op_type != "ConvTranspose" or sole_consumer(source) is not node:
        return False
    if "output_shape" in conv.attributes or not padded_by_numbers(conv):
        return False
    if len(node.inputs) < 4:
        return False
    starts, ends, axes = (constant(v) for v in node.inputs[1:4])
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    if starts is None or ends is None or axes is None or steps is None:
        return False
    if (steps != 1).any() or (axes < 2).any():
        return False
    kernel = constant(conv.inputs[1])
    if kernel is None:
        return False
    space = kernel.ndim - 2
    pads = list(conv.attributes["pads"].as_ints()) if "pads" in conv.attributes else [0] * 2 * space
    for start, end, axis in zip(starts.tolist(), ends.tolist(), axes.tolist()):
        size = source.shape[axis] if source.shape is not None else None
        if start < 0 or (end > 0 and not isinstance(size, int) and end < np.iinfo(np.int32).max):
            return False
        pads[axis - 2] += start
        pads[axis - 2 + space] += -end if end < 0 else max(0, size - end) if isinstance(size, int) else 0
    conv.attributes["pads"] = ir.AttrInt64s("pads", pads)
    source.shape = node.outputs[0].shape
    bypass(graph, node, source)
    return True


class PositivePadding(ir.passes.InPlacePass):
    """Write what a ConvTranspose's negative padding would add as its output padding, as ONNX wants it.

    A stride longer than the kernel leaves rows that no pixel reaches.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in model.graph:
            if node.op_type != "ConvTranspose" or "pads" not in node.attributes:
                continue
            pads = list(node.attributes["pads"].as_ints())
            space = len(pads) // 2
            extra = [0] * space
            if "output_padding" in node.attributes:
                extra = list(node.attributes["output_padding"].as_ints())
            for axis in range(space):
                if pads[axis] == 0 and pads[axis + space] < 0:
                    extra[axis] -= pads[axis + space]
                    pads[axis + space] = 0
                    modified = True
            node.attributes["pads"] = ir.AttrInt64s("pads", pads)
            if any(extra):
                node.attributes["output_padding"] = ir.AttrInt64s("output_padding", extra)
        return ir.passes.PassResult(model, modified)
