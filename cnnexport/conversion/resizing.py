"""Resizing and patches of images that ONNX has no operator of the same numbers for.

Each function takes tf2onnx's graph and node and puts ONNX nodes in the node's place, as those of ``operators``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def by_weights(graph: Any, node: Any, name: str, args: Any) -> None:
    """Make each row, then each column, of those that TensorFlow makes it of, by its own weights, to its last digit.

    What is not a number goes only where TensorFlow's goes. Raises ValueError where the sizes are not fixed.
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
    value = node.input[0]
    if graph.get_dtype(value) != 1:
        value = graph.make_node("Cast", [value], attr={"to": 1}, shapes=[start], dtypes=[1]).output[0]
    shape = [start[0], start[3], start[1], start[2]]
    value = graph.make_node("Transpose", [value], attr={"perm": [0, 3, 1, 2]}, shapes=[shape], dtypes=[1]).output[0]
    for axis in (2, 3):
        places, weights = _weights(node, shape[axis], final[axis - 1])
        made, taps = weights.shape
        rank = [1, 1, -1, 1] if axis == 2 else [1, 1, 1, -1]
        wide = [*shape[:axis], made * taps, *shape[axis + 1:]]
        apart = [*shape[:axis], made, taps, *shape[axis + 1:]]
        shape = [*shape[:axis], made, *shape[axis + 1:]]
        constants = [places.reshape(-1), weights.reshape(rank), np.array([-1, *apart[1:]], np.int64),
                     np.array([axis + 1], np.int64)]
        index, factor, target, last = (graph.make_const(f"{name}__{axis}_{n}", array).output[0]
                                       for n, array in enumerate(constants))
        value = graph.make_node("Gather", [value, index], attr={"axis": axis}, shapes=[wide], dtypes=[1]).output[0]
        value = graph.make_node("Mul", [value, factor], shapes=[wide], dtypes=[1]).output[0]
        value = graph.make_node("Reshape", [value, target], shapes=[apart], dtypes=[1]).output[0]
        value = graph.make_node("ReduceSum", [value, last], attr={"keepdims": 0}, shapes=[shape], dtypes=[1]).output[0]
    outputs, shapes, dtypes = node.output, node.output_shapes, node.output_dtypes
    graph.remove_node(name)
    graph.make_node("Transpose", [value], attr={"perm": [0, 2, 3, 1]}, name=name, outputs=outputs, shapes=shapes,
                    dtypes=dtypes)


def _doubles(start: int, final: int) -> bool:
    """Whether an axis grows by a power of two: then TensorFlow's table of the cubic kernel has what ONNX computes."""
    return final % start == 0 and bin(final // start).count("1") == 1


def _weights(node: Any, start: int, final: int) -> tuple[Any, Any]:
    """For each of ``final`` rows, which of ``start`` ones TensorFlow reads for it, and by what weights.

    It tells both: each row alone gives its weights, and each row that is not a number shows where it is read.
    """
    import tensorflow as tf

    alone = np.eye(start, dtype=np.float32).reshape(1, start, 1, start)
    lost = np.where(alone > 0, np.float32(np.nan), np.float32(0))
    flags = {key: bool(node.get_attr_value(key)) for key in ("align_corners", "half_pixel_centers", "antialias")
             if node.get_attr(key) is not None}
    with tf.Graph().as_default() as graph:  # of its own: the translation runs inside another
        made = []
        for rows in (alone, lost):
            if node.type == "ScaleAndTranslate":
                kernel = node.get_attr_value("kernel_type", b"lanczos3")
                made.append(tf.raw_ops.ScaleAndTranslate(
                    images=rows, size=[final, 1], scale=[final / start, 1.0], translation=[0.0, 0.0],
                    kernel_type=kernel if isinstance(kernel, str) else kernel.decode(), **flags))
            else:
                made.append(getattr(tf.raw_ops, node.type)(images=rows, size=[final, 1], **flags))
        with tf.compat.v1.Session(graph=graph) as session:
            matrix, touched = (array.reshape(final, start) for array in session.run(made))
    read = [np.flatnonzero(row) for row in np.isnan(touched) | (matrix != 0)]
    taps = max(len(row) for row in read)
    places, weights = np.zeros((final, taps), np.int64), np.zeros((final, taps), np.float32)
    for made_row, row in enumerate(read):
        # One that is made of fewer reads its first several times, in halves: by 0, infinity would become no number.
        again = taps - len(row)
        places[made_row] = [*row, *row[:1].repeat(again)]
        weights[made_row] = [*matrix[made_row, row], *np.zeros(again)]
        for place in range(len(row), taps):
            before = 0 if place == len(row) else place - 1
            weights[made_row, before] /= 2
            weights[made_row, place] = weights[made_row, before]
    return places, weights


def patches(graph: Any, node: Any, name: str, args: Any) -> None:
    """Patches of an image of fixed size are picked; of open size, a convolution by ones makes them."""
    shape = graph.get_shape(node.input[0]) or [-1] * 4
    height, width = node.get_attr_value("ksizes")[1:3]
    strides, rates, padding = (
        node.get_attr_value("strides"), node.get_attr_value("rates"), node.get_attr_str("padding"))
    outputs, shapes, dtypes, value = node.output, node.output_shapes, node.output_dtypes, node.input[0]
    channels, dtype = shape[3], node.output_dtypes[0]
    if channels < 1:
        raise ValueError("ExtractImagePatches can be converted for a fixed number of channels only")
    graph.remove_node(name)
    if min(shape[1:3]) < 1:
        from tf2onnx.onnx_opset.nn import ConvOp

        ones = np.eye(height * width * channels, dtype=np.float32).reshape(height, width, channels, -1)
        kernel = graph.make_const(f"{name}__kernel", ones).output[0]
        attributes = {"strides": strides, "dilations": rates, "padding": padding, "data_format": "NHWC"}
        made = graph.make_node("Conv2D", [value, kernel], attr=attributes, name=name, outputs=outputs, shapes=shapes,
                               dtypes=dtypes)
        ConvOp.version_11(graph, made)
        return
    counts, before, after, indices = [], [], [], []
    for size, kernel_size, stride, rate in zip(shape[1:3], (height, width), strides[1:3], rates[1:3]):
        extent = (kernel_size - 1) * rate + 1
        count = -(-size // stride) if padding == "SAME" else (size - extent) // stride + 1
        total = max((count - 1) * stride + extent - size, 0) if padding == "SAME" else 0
        counts.append(count)
        before.append(total // 2)
        after.append(total - total // 2)
        indices.append((np.arange(count)[:, None] * stride + np.arange(kernel_size) * rate).reshape(-1))
    if any(before + after):
        pads = graph.make_const(f"{name}__pads", np.array([0, *before, 0, 0, *after, 0], np.int64)).output[0]
        padded = [shape[0], *(n + a + b for n, a, b in zip(shape[1:3], before, after)), channels]
        value = graph.make_node("Pad", [value, pads], shapes=[padded], dtypes=[dtype]).output[0]
    for axis, index in enumerate(indices, 1):
        places = graph.make_const(f"{name}__places_{axis}", index.astype(np.int64)).output[0]
        picked = [*graph.get_shape(value)]
        picked[axis] = len(index)
        value = graph.make_node("Gather", [value, places], attr={"axis": axis}, shapes=[picked],
                                dtypes=[dtype]).output[0]
    apart = [counts[0], height, counts[1], width, channels]
    split = graph.make_const(f"{name}__split", np.array([-1, *apart], np.int64)).output[0]
    value = graph.make_node("Reshape", [value, split], shapes=[[shape[0], *apart]], dtypes=[dtype]).output[0]
    moved = [shape[0], counts[0], counts[1], height, width, channels]
    value = graph.make_node("Transpose", [value], attr={"perm": [0, 1, 3, 2, 4, 5]}, shapes=[moved],
                            dtypes=[dtype]).output[0]
    joined = graph.make_const(f"{name}__joined", np.array([-1, *counts, height * width * channels], np.int64)).output[0]
    graph.make_node("Reshape", [value, joined], name=name, outputs=outputs, shapes=shapes, dtypes=dtypes)


HANDLERS: dict[str, tuple[Callable[..., None], list[Any]]] = {
    "ResizeArea": (by_weights, []),
    "ResizeBicubic": (by_weights, []),
    "ScaleAndTranslate": (by_weights, []),
    "ExtractImagePatches": (patches, []),
}
"""In the form of tf2onnx's ``custom_op_handlers``."""
