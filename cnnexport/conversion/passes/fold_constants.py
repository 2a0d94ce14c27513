"""Compute in numpy every node whose inputs are all constant.

Never changes: the value of any output; a node that reads an input of the model. Transposes of
kernels become views of the stored weights, so that no weight is copied before it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import Array, add_initializer, axes_of, constant, known_shape

LARGEST_REFERENCE = 1 << 22
"""Elements above which an operator outside the table is left to the runtime."""


def _reshape(node: ir.Node, x: Array, shape: Array) -> Array:
    keep_zero = node.attributes.get_int("allowzero", 0)
    dims = [x.shape[i] if d == 0 and not keep_zero else int(d) for i, d in enumerate(shape)]
    return x.reshape(dims)


def _squeeze(node: ir.Node, x: Array, *_: Array) -> Array:
    axes = axes_of(node)
    return np.squeeze(x, axis=None if axes is None else tuple(axes))


def _unsqueeze(node: ir.Node, x: Array, *_: Array) -> Array:
    return np.expand_dims(x, tuple(axes_of(node) or ()))


def _transpose(node: ir.Node, x: Array) -> Array:
    return np.transpose(x, node.attributes.get_ints("perm"))


def _cast(node: ir.Node, x: Array) -> Array:
    return x.astype(ir.DataType(node.attributes["to"].as_int()).numpy(), copy=False)


def _divide(_: ir.Node, a: Array, b: Array) -> Array:
    if np.issubdtype(a.dtype, np.integer):
        # ONNX divides integers toward zero; numpy floors.
        quotient: Array = (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)
        return quotient
    return np.asarray(np.divide(a, b))


def _concat(node: ir.Node, *arrays: Array) -> Array:
    return np.concatenate(arrays, axis=node.attributes["axis"].as_int())


TABLE: dict[str, Callable[..., Any]] = {
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Div": _divide,
    "Sqrt": lambda _, a: np.sqrt(a),
    "Reciprocal": lambda _, a: np.reciprocal(a),
    "Neg": lambda _, a: -a,
    "Identity": lambda _, a: a,
    "Max": lambda _, a, b: np.maximum(a, b),
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Cast": _cast,
    "Concat": _concat,
}


def _reference(node: ir.Node, arrays: list[Array | None], opset: int) -> Array | None:
    """Any other operator through ONNX's own reference evaluator."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    if sum(a.size for a in arrays if a is not None) > LARGEST_REFERENCE:
        return None
    proto = ir.to_proto(node)
    graph = onnx.helper.make_graph(
        [proto],
        "one",
        [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
         for n, a in dict(zip(proto.input, arrays)).items() if n and a is not None],
        [onnx.helper.make_empty_tensor_value_info(proto.output[0])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        feeds = {n: a for n, a in zip(proto.input, arrays) if n and a is not None}
        (result,) = ReferenceEvaluator(model).run(None, feeds)
    except Exception:
        # Folding is an optimisation: what the evaluator cannot do stays for the runtime.
        return None
    result = np.asarray(result)
    return result if result.size <= LARGEST_REFERENCE else None


UNFOLDABLE = frozenset({
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
    "If", "Loop", "Scan",
})


class FoldConstants(ir.passes.InPlacePass):
    """See the module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        opset = graph.opset_imports.get("", 18)
        modified = False
        for node in list(graph):
            if node.op_type in UNFOLDABLE or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
                continue
            if node.op_type == "Constant" and "value" in node.attributes:
                arrays: list[Array | None] = []
                result: Array | None = node.attributes["value"].as_tensor().numpy()
            elif node.op_type == "Shape":
                result = _static_dims(node)
                arrays = []
            else:
                arrays = [None if v is None else constant(v) for v in node.inputs]
                if not arrays or any(a is None and v is not None for a, v in zip(arrays, node.inputs)):
                    continue
                rule = TABLE.get(node.op_type)
                if rule is not None and (node.op_type != "Max" or len(arrays) == 2):
                    with np.errstate(all="ignore"):
                        result = rule(node, *arrays)
                else:
                    result = _reference(node, arrays, opset)
            if result is None:
                continue
            value = add_initializer(graph, np.asarray(result), node.outputs[0].name or node.op_type)
            node.outputs[0].replace_all_uses_with(value)
            graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)


def _static_dims(node: ir.Node) -> Array | None:
    shape = known_shape(node.inputs[0])
    # Attributes ask for a part of the shape.
    return None if shape is None or None in shape or node.attributes else np.array(shape, np.int64)
