"""Merge a Pad of zeros into the padding of the Conv that alone reads it.

Never changes: padding by another value or mode, of batch or channels, or before a convolution with
automatic padding.
"""

from __future__ import annotations

import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import constant, padded_by_numbers, sole_consumer


class MergePadding(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        for node in list(graph):
            if node.op_type != "Pad" or (len(node.inputs) > 3 and node.inputs[3] is not None):
                continue
            if "mode" in node.attributes and node.attributes["mode"].as_string() != "constant":
                continue
            pads = constant(node.inputs[1])
            if pads is None or (pads < 0).any():
                continue
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                fill = constant(node.inputs[2])
                if fill is None or (fill.size and float(fill.reshape(-1)[0]) != 0.0):
                    continue
            conv = sole_consumer(node.outputs[0])
            if conv is None or conv.op_type != "Conv" or conv.inputs[0] is not node.outputs[0]:
                continue
            if not padded_by_numbers(conv):
                continue
            rank = pads.size // 2
            if pads[0] or pads[1] or pads[rank] or pads[rank + 1]:
                continue
            space = rank - 2
            own = list(conv.attributes["pads"].as_ints()) if "pads" in conv.attributes else [0] * 2 * space
            extra = [*pads[2:rank], *pads[rank + 2:]]
            conv.attributes.pop("auto_pad", None)
            conv.attributes["pads"] = ir.AttrInt64s("pads", [int(a + b) for a, b in zip(own, extra)])
            conv.replace_input_with(0, node.inputs[0])
            graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)
