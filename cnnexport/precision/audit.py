"""Whether a file in another precision follows from the float32 file: its weights and ranges, one by one.

Accuracy cannot see a fault that few images show. What a right file holds is known exactly: each weight is the float32
file's to half a step of its channel, and the range of each activation is the one that was measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnnexport.precision.calibration import Array, Batches
from cnnexport.precision.layers import inside
from cnnexport.precision.ranges import Ranges

_HALF_STEP = 0.5005
"""Rounding in float32 lies a little beyond the half."""
_RANGE_STEPS, _RANGE_SHARE = 0.505, 0.02
"""What a range may be off the measured one: in its own steps at its lower end, where its zero point was rounded, and as
a share of its width."""
_LEAST_SHARE = 0.1
"""Of the largest number, that a range of another rule than the largest number has at least."""
_NNCF = re.compile(r"^q_output_(.+)_\d+$")
"""What NNCF calls a rounded tensor."""
_MOST_TOLD = 5


def faults(
    source: Path, variant: Path, batches: Batches | None, scratch: Path, ranges: Ranges | None = None,
    corrected: bool = False,
) -> tuple[str, ...]:
    """What in the file ``variant`` does not follow from ``source``, a clause each, the first few.

    ``batches`` are the images that ranges were measured on; None where none were. ``ranges`` are given where they are
    not the least and largest numbers: the file must hold them, and they must lie within those. ``corrected`` tells that
    a quantiser moved biases and chose ranges by a rule of its own: they must lie within what the images give.
    """
    import onnx
    from onnx import numpy_helper

    first, second = onnx.load(source), onnx.load(variant)
    wanted = {t.name: numpy_helper.to_array(t) for t in first.graph.initializer}
    held = {t.name: numpy_helper.to_array(t) for t in second.graph.initializer}
    found = [*_weights(second, wanted, held), *_untouched(wanted, held, corrected)]
    if batches is not None and corrected:
        found += _within(first, second, source, held, batches, scratch)
    elif batches is not None:
        found += _ranges(first, second, source, held, batches, scratch, ranges)
    return tuple(found[:_MOST_TOLD])


def _weights(model: Any, wanted: dict[str, Array], held: dict[str, Array]) -> Iterator[str]:
    """The stored tensors that are not those of the float32 file, to the precision that they are stored in."""
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in held:
            continue
        name = _NNCF.sub(r"\1", node.input[0].removesuffix("_quantized"))
        if name not in wanted:
            yield f"it holds '{name}', which the float32 file has not"
            continue
        stored, scale = held[node.input[0]], held[node.input[1]].astype(np.float64)
        zero = held[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(())
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if scale.ndim and scale.size > 1:
            shape = [1] * stored.ndim
            shape[axis] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        error = np.abs((stored.astype(np.float64) - zero) * scale - wanted[name])
        # A bias has as many steps as its sum: float32 itself is the limit there.
        if np.any(error > _HALF_STEP * scale + 1e-6 * np.abs(wanted[name])):
            place = np.unravel_index(int(np.argmax(error / scale)), error.shape)
            yield (f"weight '{name}' is off the float32 file's by {float((error / scale).max()):.2g} steps, at "
                   f"{[int(i) for i in place]}")
    for name, stored in held.items():
        original = name.removesuffix("_bf16")
        if original in wanted and stored.dtype != wanted[original].dtype and stored.dtype.itemsize == 2:
            ulp = 2.0**-11 if stored.dtype == np.float16 else 2.0**-8
            error = np.abs(stored.astype(np.float64) - wanted[original])
            if np.any(error > 1.001 * ulp * np.abs(wanted[original]) + 6e-8):
                yield f"weight '{original}' is not the float32 file's, rounded to {stored.dtype}"


def _untouched(wanted: dict[str, Array], held: dict[str, Array], corrected: bool) -> Iterator[str]:
    """The tensors that stayed as they were and are not; but for biases that a quantiser ``corrected``."""
    for name, stored in held.items():
        theirs = wanted.get(name)
        if theirs is None or stored.dtype != theirs.dtype or np.array_equal(stored, theirs, equal_nan=True):
            continue
        if not (corrected and stored.shape == theirs.shape and stored.ndim == 1):
            yield f"'{name}' stayed in {stored.dtype}, and its numbers are not the float32 file's"


def _within(
    first: Any, second: Any, source: Path, held: dict[str, Array], batches: Batches, scratch: Path
) -> Iterator[str]:
    """The activations whose range is wider than the images give, or a small part of that."""
    own = {node.input[0]: node for node in second.graph.node if node.op_type == "QuantizeLinear"}
    for name, (low, high) in _measured(first, source, sorted(own), batches, scratch).items():
        scale, zero = (held[part] for part in own[name].input[1:3])
        most, width = max(abs(low), abs(high)), 255 * float(scale)
        start = (int(np.iinfo(zero.dtype).min) - int(zero)) * float(scale)
        room = _RANGE_SHARE * 2 * most
        if start < -most - room or start + width > most + room or width < _LEAST_SHARE * most:
            yield (f"the range of '{name}' is {start:.4g} .. {start + width:.4g}, and the float32 file's is {low:.4g} "
                   f".. {high:.4g}")


def _ranges(
    first: Any, second: Any, source: Path, held: dict[str, Array], batches: Batches, scratch: Path,
    ranges: Ranges | None,
) -> Iterator[str]:
    """The activations whose range is not the one that the float32 file has on the same images."""
    own = {node.input[0]: node for node in second.graph.node if node.op_type == "QuantizeLinear"
           and node.input[1] == f"{node.input[0]}_scale"}  # others share the range of what they read
    measured = _measured(first, source, sorted(own), batches, scratch)
    for name, (low, high) in measured.items():
        node = own[name]
        scale, zero = float(held[node.input[1]]), int(held[node.input[2]])
        low, high = min(low, 0.0), max(high, 0.0)
        if ranges is not None:
            given = min(ranges[name][0], 0.0), max(ranges[name][1], 0.0)
            room = _RANGE_SHARE * (high - low)  # a histogram's bin
            if given[0] < low - room or given[1] > high + room:
                yield (f"the range of '{name}' was measured as {given[0]:.4g} .. {given[1]:.4g}, and the float32 "
                       f"file's numbers are {low:.4g} .. {high:.4g}")
            low, high = given
        start, width = (int(np.iinfo(held[node.input[2]].dtype).min) - zero) * scale, 255 * scale
        if (abs(start - low) > _RANGE_STEPS * scale + 1e-6 * (high - low)
                or abs(width - (high - low)) > _RANGE_SHARE * (high - low) + 1e-12):
            yield (f"the range of '{name}' is {start:.4g} .. {start + width:.4g}, and the float32 file's is {low:.4g} "
                   f".. {high:.4g}")
    for node in second.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] not in held:
            pair = next((q for q in second.graph.node if q.output[:1] == node.input[:1]), None)
            if pair is not None and pair.op_type == "QuantizeLinear" and any(
                    not np.array_equal(held[a], held[b]) for a, b in zip(pair.input[1:], node.input[1:])):
                yield f"'{pair.input[0]}' is turned back by another scale or zero point than it was quantised with"


def _measured(
    model: Any, source: Path, names: list[str], batches: Batches, scratch: Path
) -> dict[str, tuple[float, float]]:
    """The least and the largest value of tensors of a file over all images; of those that it has."""
    found: dict[str, tuple[float, float]] = {}
    for values in inside(model, source, batches, scratch, set(names), most=None):
        for name, array in values.items():
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = min(low, float(array.min())), max(high, float(array.max()))
    return found
