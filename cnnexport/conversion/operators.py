"""ONNX for TensorFlow operators that Keras layers use and tf2onnx does not know.

Each function takes tf2onnx's graph and node and puts ONNX nodes in the node's place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def _one(graph: Any, node: Any) -> str:
    dtype = {1: np.float32, 10: np.float16, 11: np.float64}.get(graph.get_dtype(node.output[0]), np.float32)
    return str(graph.make_const(f"{node.name}__one", np.array(1.0, dtype)).output[0])


def _replace(graph: Any, node: Any, op: str, inputs: list[str]) -> None:
    name, outputs = node.name, node.output
    shapes, dtypes = node.output_shapes, node.output_dtypes
    graph.remove_node(name)
    graph.make_node(op, inputs, outputs=outputs, name=name, shapes=shapes, dtypes=dtypes)


def _inner(graph: Any, node: Any, op: str, inputs: list[str]) -> str:
    made = graph.make_node(op, inputs, name=f"{node.name}__{op}",
                           shapes=[graph.get_shape(inputs[0])], dtypes=[graph.get_dtype(inputs[0])])
    return str(made.output[0])


def erfc(graph: Any, node: Any, name: str, args: Any) -> None:
    """``erfc(x) = 1 - erf(x)``; Keras' gelu uses it."""
    one = _one(graph, node)
    _replace(graph, node, "Sub", [one, _inner(graph, node, "Erf", [node.input[0]])])


def expm1(graph: Any, node: Any, name: str, args: Any) -> None:
    """``expm1(x) = exp(x) - 1``; Keras' celu uses it."""
    one = _one(graph, node)
    _replace(graph, node, "Sub", [_inner(graph, node, "Exp", [node.input[0]]), one])


def sign_bit(graph: Any, node: Any, name: str, args: Any) -> None:
    """The sign of a float as that of an integer, -1 or 0.

    Keras' argmax asks whether a zero is negative: it masks the sign bit and asks if that is below 0.
    """
    readers = graph.find_output_consumers(node.output[0])
    if any(reader.type != "BitwiseAnd" or not _masks_sign(reader) for reader in readers):
        raise ValueError("Bitcast has no ONNX operator where more than the sign is read")
    source = node.input[0]
    zero = graph.make_const(f"{name}__zero", np.zeros((), np.float32)).output[0]
    shape, dtype = [graph.get_shape(source)], [graph.get_dtype(source)]
    below = graph.make_node("Less", [source, zero], shapes=shape, dtypes=[9]).output[0]
    inverse = graph.make_node("Reciprocal", [source], shapes=shape, dtypes=dtype).output[0]
    negative_zero = graph.make_node("Less", [inverse, zero], shapes=shape, dtypes=[9]).output[0]
    either = graph.make_node("Or", [below, negative_zero], shapes=shape, dtypes=[9]).output[0]
    number = graph.make_node("Cast", [either], attr={"to": 6}, shapes=shape, dtypes=[6]).output[0]
    _replace(graph, node, "Neg", [number])


def _masks_sign(node: Any) -> bool:
    mask = node.inputs[1]
    return bool(mask.is_const() and (mask.get_tensor_value(as_list=False) == np.iinfo(np.int32).min).all())


def bitwise_and(graph: Any, node: Any, name: str, args: Any) -> None:
    """The mask of ``sign_bit`` takes nothing away from -1 or 0 that a comparison with 0 would miss."""
    if node.inputs[0].type == "Neg" and _masks_sign(node):
        _replace(graph, node, "Identity", [node.input[0]])
    elif graph.opset >= 18:
        _replace(graph, node, "BitwiseAnd", list(node.input))
    else:
        raise ValueError("BitwiseAnd has no ONNX operator below opset 18")


def bucketize(graph: Any, node: Any, name: str, args: Any) -> None:
    """How many boundaries each number has reached; Keras' Discretization."""
    boundaries = np.array(node.get_attr_value("boundaries"), np.float32)
    last = graph.make_const(f"{name}__axis", np.array([-1], np.int64)).output[0]
    limits = graph.make_const(f"{name}__boundaries", boundaries).output[0]
    number = graph.make_node("Cast", [node.input[0]], attr={"to": 1}).output[0]
    wide = graph.make_node("Unsqueeze", [number, last]).output[0]
    reached = graph.make_node("GreaterOrEqual", [wide, limits]).output[0]
    counted = graph.make_node("Cast", [reached], attr={"to": 6}).output[0]
    outputs, shapes, dtypes = node.output, node.output_shapes, node.output_dtypes
    graph.remove_node(name)
    graph.make_node("ReduceSum", [counted, last], attr={"keepdims": 0}, name=name, outputs=outputs,
                    shapes=shapes, dtypes=dtypes)


def bias_add(graph: Any, node: Any, name: str, args: Any) -> None:
    """A bias of the channels, wherever they lie: tf2onnx looks for them behind all else if it is no constant."""
    value, bias = node.input
    rank = len(graph.get_shape(value) or ())
    first = (node.get_attr_value("data_format") or b"NHWC").startswith(b"NC")
    if first and rank > 2:
        shape = graph.make_const(f"{name}__shape", np.array([-1] + [1] * (rank - 2), np.int64)).output[0]
        channels = graph.get_shape(bias) or [-1]
        bias = graph.make_node("Reshape", [bias, shape], shapes=[[channels[0]] + [1] * (rank - 2)],
                               dtypes=[graph.get_dtype(bias)]).output[0]
    _replace(graph, node, "Add", [value, bias])


def conv_transpose(graph: Any, node: Any, name: str, args: Any) -> None:
    """Add the bias after what tf2onnx makes, which pads at an open size: its zeros would lack the bias."""
    from tf2onnx.onnx_opset.nn import ConvTranspose

    bias = node.input[3] if len(node.input) > 3 else None
    output, shape, dtype = node.output[0], graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    if bias is None or node.inputs[0].is_const() or max(node.get_attr("strides").ints) == 1:
        ConvTranspose.version_11(graph, node)
        return
    first = (node.get_attr_value("data_format") or b"NHWC").startswith(b"NC")
    graph.remove_input(node, bias, 3)
    readers = graph.find_output_consumers(output)
    added = graph.make_node("BiasAdd", [output, bias], attr={"data_format": "NCHW" if first else "NHWC"},
                            name=f"{name}__bias", shapes=[shape], dtypes=[dtype])
    graph.replace_all_inputs(output, added.output[0], ops=readers)
    bias_add(graph, added, added.name, args)
    ConvTranspose.version_11(graph, node)


def list_of_rows(graph: Any, node: Any, name: str, args: Any) -> None:
    """What a loop reads row by row is the tensor itself, without the shape of a row that tf2onnx leaves beside it."""
    if any(reader.is_while() for reader in graph.find_output_consumers(node.output[0])):
        node.type = "Identity"
        graph.replace_inputs(node, [node.input[0]])
        graph.copy_dtype(node.input[0], node.output[0])
        graph.copy_shape(node.input[0], node.output[0])


def select(graph: Any, node: Any, name: str, args: Any) -> None:
    """One of two numbers: tf2onnx adds both, multiplied by 0 and 1, and then infinity times 0 is not a number."""
    condition, shape = node.input[0], graph.get_shape(node.input[1])
    known = graph.get_shape(condition)
    if node.type == "Select" and known is not None and len(known) == 1 and shape is not None and len(shape) > 1:
        # A condition for each row.
        rows = graph.make_const(f"{name}__rows", np.array([-1] + [1] * (len(shape) - 1), np.int64)).output[0]
        condition = graph.make_node("Reshape", [condition, rows], shapes=[[known[0]] + [1] * (len(shape) - 1)],
                                    dtypes=[9]).output[0]
    _replace(graph, node, "Where", [condition, *node.input[1:]])


HANDLERS: dict[str, tuple[Callable[..., None], list[Any]]] = {
    "Erfc": (erfc, []),
    "Expm1": (expm1, []),
    "Bitcast": (sign_bit, []),
    "BitwiseAnd": (bitwise_and, []),
    "Bucketize": (bucketize, []),
    "Select": (select, []),
    "SelectV2": (select, []),
    "TensorListFromTensor": (list_of_rows, []),
    "BiasAdd": (bias_add, []),
    "BiasAddV1": (bias_add, []),
    "Conv2DBackpropInput": (conv_transpose, []),
}
"""In the form of tf2onnx's ``custom_op_handlers``."""
