"""Resizing and patches of images that ONNX has no operator of the same numbers for.

Each function takes tf2onnx's graph and node and puts ONNX nodes in the node's place, as those of ``operators``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def by_matrices(graph: Any, node: Any, name: str, args: Any) -> None:
    """Resize rows and columns by a matrix each, which TensorFlow gives: its own kernels, down to their tables.

    Raises ValueError where the sizes are not fixed.
    """
    start, final = graph.get_shape(node.input[0]), graph.get_shape(node.output[0])
    fixed = start is not None and final is not None and min(*start[1:], *final[1:]) > 0
    if node.type == "ResizeBicubic" and (not fixed or all(_doubles(a, b) for a, b in zip(start[1:3], final[1:3]))):
        from tf2onnx.onnx_opset.nn import Resize

        Resize.version_11(graph, node)
        return
    if not fixed:
        raise ValueError(f"{node.type} (interpolation 'area', 'lanczos3', 'lanczos5', or antialias) can be converted "
                         "for images of fixed size only; fix the size with --input-shape, or use 'bilinear'")
    rows = _matrix(node, start[1], final[1])
    columns = _matrix(node, start[2], final[2])
    dtype = graph.get_dtype(node.input[0])
    source = node.input[0]
    if dtype != 1:
        source = graph.make_node("Cast", [source], attr={"to": 1}, shapes=[start], dtypes=[1]).output[0]
    batch, height, width, channels = start[0], final[1], final[2], start[3]
    left = graph.make_const(f"{name}__rows", rows).output[0]
    right = graph.make_const(f"{name}__columns", np.ascontiguousarray(columns.T)).output[0]
    first = graph.make_node("Transpose", [source], attr={"perm": [0, 3, 1, 2]},
                            shapes=[[batch, channels, start[1], start[2]]], dtypes=[1]).output[0]
    tall = graph.make_node("MatMul", [left, first], name=f"{name}__tall",
                           shapes=[[batch, channels, height, start[2]]], dtypes=[1]).output[0]
    wide = graph.make_node("MatMul", [tall, right], name=f"{name}__wide",
                           shapes=[[batch, channels, height, width]], dtypes=[1]).output[0]
    outputs, shapes, dtypes = node.output, node.output_shapes, node.output_dtypes
    graph.remove_node(name)
    graph.make_node("Transpose", [wide], attr={"perm": [0, 2, 3, 1]}, name=name, outputs=outputs, shapes=shapes,
                    dtypes=dtypes)


def _doubles(start: int, final: int) -> bool:
    """Whether an axis grows by a power of two: then TensorFlow's table of the cubic kernel has what ONNX computes."""
    return final % start == 0 and bin(final // start).count("1") == 1


def _matrix(node: Any, start: int, final: int) -> Any:
    """What TensorFlow makes of each row alone: the matrix that makes ``final`` rows of ``start`` ones."""
    import tensorflow as tf

    alone = np.eye(start, dtype=np.float32).reshape(1, start, 1, start)
    flags = {key: bool(node.get_attr_value(key)) for key in ("align_corners", "half_pixel_centers", "antialias")
             if node.get_attr(key) is not None}
    with tf.Graph().as_default() as graph:  # of its own: the translation runs inside another
        if node.type == "ScaleAndTranslate":
            kernel = node.get_attr_value("kernel_type", b"lanczos3")
            made = tf.raw_ops.ScaleAndTranslate(
                images=alone, size=[final, 1], scale=[final / start, 1.0], translation=[0.0, 0.0],
                kernel_type=kernel if isinstance(kernel, str) else kernel.decode(), **flags)
        else:
            made = getattr(tf.raw_ops, node.type)(images=alone, size=[final, 1], **flags)
        with tf.compat.v1.Session(graph=graph) as session:
            return np.ascontiguousarray(session.run(made).reshape(final, start))


def patches(graph: Any, node: Any, name: str, args: Any) -> None:
    """Patches of an image are a convolution by ones: a channel for each place in the patch and each channel."""
    from tf2onnx.onnx_opset.nn import ConvOp

    channels = (graph.get_shape(node.input[0]) or [-1])[-1]
    _, height, width, _ = node.get_attr_value("ksizes")
    if channels < 1:
        raise ValueError("ExtractImagePatches can be converted for a fixed number of channels only")
    ones = np.eye(height * width * channels, dtype=np.float32).reshape(height, width, channels, -1)
    kernel = graph.make_const(f"{name}__kernel", ones).output[0]
    attributes = {"strides": node.get_attr_value("strides"), "dilations": node.get_attr_value("rates"),
                  "padding": node.get_attr_str("padding"), "data_format": "NHWC"}
    outputs, shapes, dtypes, source = node.output, node.output_shapes, node.output_dtypes, node.input[0]
    graph.remove_node(name)
    made = graph.make_node("Conv2D", [source, kernel], attr=attributes, name=name, outputs=outputs, shapes=shapes,
                           dtypes=dtypes)
    ConvOp.version_11(graph, made)


HANDLERS: dict[str, tuple[Callable[..., None], list[Any]]] = {
    "ResizeArea": (by_matrices, []),
    "ResizeBicubic": (by_matrices, []),
    "ScaleAndTranslate": (by_matrices, []),
    "ExtractImagePatches": (patches, []),
}
"""In the form of tf2onnx's ``custom_op_handlers``."""
