"""Say a Conv's padding in numbers, merge a Pad of zeros into that of the Conv that alone reads it, keep a pooling's.

Never changes: automatic padding that depends on the size (strides), or of a kernel that is not known; a Pad by
another value or mode, of batch or channels, or before a convolution with automatic padding.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    add_initializer,
    constant,
    given,
    known_shape,
    maker,
    nodes,
    padded_by_numbers,
    pads_of,
    read_alone,
)


class SayPadding(ir.passes.InPlacePass):
    """Write automatic padding of a dilated Conv as numbers: at stride 1 they are the same at every size.

    ONNX Runtime does not pad a dilated Conv by itself.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in nodes(model.graph, "Conv"):
            kind = node.attributes.get_string("auto_pad", "NOTSET")
            shape = known_shape(node.inputs[1]) or []
            kernel = [size for size in shape[2:] if size is not None]
            rates = list(node.attributes.get_ints("dilations", [1] * len(kernel)))
            strides = list(node.attributes.get_ints("strides", [1] * len(kernel)))
            if kind not in ("SAME_UPPER", "SAME_LOWER") or len(kernel) + 2 != len(shape):
                continue
            if max(rates) == 1 or any(s != 1 and (k - 1) * r for s, k, r in zip(strides, kernel, rates)):
                continue
            both = [(k - 1) * rate for k, rate in zip(kernel, rates)]
            less, more = [n // 2 for n in both], [n - n // 2 for n in both]
            pads = less + more if kind == "SAME_UPPER" else more + less
            del node.attributes["auto_pad"]
            node.attributes["pads"] = ir.AttrInt64s("pads", pads)
            modified = True
        return ir.passes.PassResult(model, modified)


_POSITIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softplus", "Softmax", "Abs", "Exp", "Sqrt")
"""Operators whose results a maximum with zeros leaves as they are."""


class HoldPadding(ir.passes.InPlacePass):
    """Pad a pooling's map by -0 where zeros count: ONNX Runtime makes a Pad by 0 the pooling's own, which is no number.

    Never changes: what is padded by another number, or, before a maximum, holds no negative ones.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in nodes(graph, "Pad"):
            pool = read_alone(node.outputs[0], "MaxPool", "AveragePool")
            value, dtype = given(node, 2), node.outputs[0].dtype
            fill = np.zeros(1) if value is None else constant(value)
            if pool is None or fill is None or fill.any() or np.signbit(fill).any() or dtype is None:
                continue
            if node.attributes.get_string("mode", "constant") != "constant" or not dtype.is_floating_point():
                continue
            before = maker(node.inputs[0], *_POSITIVE, "Clip")
            least = None if before is None else given(before, 1)
            if pool.op_type == "MaxPool" and before is not None and (
                    before.op_type != "Clip" or ((low := constant(least)) is not None and low.min() >= 0)):
                continue
            zero = add_initializer(graph, np.array(-0.0, dtype.numpy()), f"{node.name}__value")
            node.resize_inputs(max(3, len(node.inputs)))
            node.replace_input_with(2, zero)
            modified = True
        return ir.passes.PassResult(model, modified)


class MergePadding(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in nodes(graph, "Pad"):
            pads, conv = constant(node.inputs[1]), read_alone(node.outputs[0], "Conv")
            if pads is None or (pads < 0).any() or conv is None or conv.inputs[0] is not node.outputs[0]:
                continue
            if given(node, 3) is not None or node.attributes.get_string("mode", "constant") != "constant":
                continue
            fill = np.zeros(1) if given(node, 2) is None else constant(node.inputs[2])
            if fill is None or fill.any() or not padded_by_numbers(conv):
                continue
            rank = pads.size // 2
            if pads[:2].any() or pads[rank:rank + 2].any():
                continue
            own = pads_of(conv, rank - 2)
            extra = [*pads[2:rank], *pads[rank + 2:]]
            conv.attributes.pop("auto_pad", None)
            conv.attributes["pads"] = ir.AttrInt64s("pads", [int(a + b) for a, b in zip(own, extra)])
            conv.replace_input_with(0, node.inputs[0])
            graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)
