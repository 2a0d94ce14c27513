"""Merge a Pad of zeros into the padding of the Conv that alone reads it.

Never changes: padding by another value or mode, of batch or channels, or before a convolution with
automatic padding.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import NodePass, constant, given, padded_by_numbers, pads_of, read_alone


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
