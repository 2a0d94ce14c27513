"""Say a Conv's padding in numbers, merge a Pad of zeros into that of the Conv that alone reads it, keep a pooling's.

Never changes: automatic padding that depends on the size (strides), or of a kernel that is not known; a Pad by
another value or mode, of batch or channels, or before a convolution with automatic padding.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import (
    NodePass,
    constant,
    given,
    known_shape,
    padded_by_numbers,
    pads_of,
    read_alone,
)


class SayPadding(NodePass):
    """Write automatic padding of a dilated Conv as numbers: at stride 1 they are the same at every size.

    ONNX Runtime does not pad a dilated Conv by itself.
    """

    ops = ("Conv",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        kind = node.attributes.get_string("auto_pad", "NOTSET")
        shape = known_shape(node.inputs[1]) or []
        kernel = [size for size in shape[2:] if size is not None]
        rates = list(node.attributes.get_ints("dilations", [1] * len(kernel)))
        strides = list(node.attributes.get_ints("strides", [1] * len(kernel)))
        if kind not in ("SAME_UPPER", "SAME_LOWER") or len(kernel) + 2 != len(shape):
            return False
        if max(rates) == 1 or any(s != 1 and (k - 1) * r for s, k, r in zip(strides, kernel, rates)):
            return False
        both = [(k - 1) * rate for k, rate in zip(kernel, rates)]
        less, more = [n // 2 for n in both], [n - n // 2 for n in both]
        pads = less + more if kind == "SAME_UPPER" else more + less
        del node.attributes["auto_pad"]
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        return True


class MergePadding(NodePass):
    ops = ("Pad",)

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        pads, conv = constant(node.inputs[1]), read_alone(node.outputs[0], "Conv")
        if pads is None or (pads < 0).any() or conv is None or conv.inputs[0] is not node.outputs[0]:
            return False
        if given(node, 3) is not None or node.attributes.get_string("mode", "constant") != "constant":
            return False
        fill = np.zeros(1) if given(node, 2) is None else constant(node.inputs[2])
        if fill is None or fill.any() or not padded_by_numbers(conv):
            return False
        rank = pads.size // 2
        if pads[:2].any() or pads[rank:rank + 2].any():
            return False
        own = pads_of(conv, rank - 2)
        extra = [*pads[2:rank], *pads[rank + 2:]]
        conv.attributes.pop("auto_pad", None)
        conv.attributes["pads"] = ir.AttrInt64s("pads", [int(a + b) for a, b in zip(own, extra)])
        conv.replace_input_with(0, node.inputs[0])
        graph.remove(node, safe=True)
        return True
