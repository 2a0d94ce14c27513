"""What a node does to each channel by itself: a scale and a shift."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import Array, constant, full_rank, read

AFFINE = ("Add", "Sub", "Mul", "Div", "BatchNormalization")


class Step(NamedTuple):
    """``source * scale + shift``, in float64, one number a channel or one for all."""

    source: ir.Value
    scale: Array
    shift: Array


def step(node: ir.Node, axis: int = 1) -> Step | None:
    """What one of ``AFFINE`` does to the channels on ``axis``; None for anything else, or of unknown sizes."""
    with np.errstate(all="ignore"):
        return _normalisation(node) if node.op_type == "BatchNormalization" and axis == 1 else _arithmetic(node, axis)


def channels(value: ir.Value, axis: int = 1) -> int:
    """The size of ``axis``, 0 where it is not known."""
    shape = value.shape
    size = shape[axis] if shape is not None and len(shape) > max(axis, 1) else None
    return size if isinstance(size, int) else 0


def _arithmetic(node: ir.Node, axis: int) -> Step | None:
    if node.op_type not in AFFINE[:4]:
        return None
    known = [constant(v) for v in node.inputs]
    place = 0 if known[1] is not None else 1
    source, array, shape = read(node, place), known[1 - place], node.outputs[0].shape
    if array is None or source.shape != shape or not channels(node.outputs[0], axis):
        return None
    spread = full_rank(array, len(shape or ()))
    assert spread is not None
    if any(d != 1 for i, d in enumerate(spread.shape) if i != axis % spread.ndim):
        return None
    values = spread.reshape(-1).astype(np.float64)
    one, zero = np.ones(1), np.zeros(1)
    if node.op_type == "Add":
        return Step(source, one, values)
    if node.op_type == "Mul":
        return Step(source, values, zero)
    if node.op_type == "Sub":
        return Step(source, one, -values) if place == 0 else Step(source, -one, values)
    return Step(source, 1 / values, zero) if place == 0 else None


def _normalisation(node: ir.Node) -> Step | None:
    """A BatchNormalization at inference."""
    arrays = [a.astype(np.float64) for v in node.inputs[1:] if (a := constant(v)) is not None]
    if len(arrays) < 4 or node.attributes.get_int("training_mode", 0) != 0:
        return None
    gamma, beta, mean, variance = arrays
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return Step(read(node), scale, beta - mean * scale)
