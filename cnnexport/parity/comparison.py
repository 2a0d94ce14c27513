"""Two arrays compared: relative to the expected one's own spread, never in absolute numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnexport.parity.tolerances import Tolerance, tolerance

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """One output for one kind of input at one batch size.

    ``level`` is ``output``, ``logits`` (before the final activation) or ``log-probabilities`` (logits told from
    a softmax's output, up to their mean). ``spread`` is the standard deviation of Keras' values; ``max_error``
    and ``rms_error`` are in units of it, ``max_ulps`` is the largest error in units in the last place of the
    largest value. ``top1_agreement`` is the share of rows with the same largest value, ``top5_agreement`` the
    share of rows with the same five largest.
    """

    output: str
    level: str
    batch: int
    spread: float
    max_error: float
    rms_error: float
    max_ulps: float
    top1_agreement: float | None
    top5_agreement: float | None
    passed: bool
    kind: str = "image"


def compare(
    name: str,
    level: str,
    expected: Array,
    actual: Array,
    *,
    precision: str = "float32",
    logits_spread: float | None = None,
    allowed: Tolerance | None = None,
    least_spread: float = 0.0,
    kind: str = "image",
    batch: int | None = None,
) -> Comparison:
    """Compare two arrays (batch first) of one output. A shape or non-finite mismatch is infinite error.

    ``precision`` is the lowest one inside the model, ``allowed`` the tolerance (by default that of ``precision``).
    ``logits_spread`` is given for an output whose logits are compared too: an activation turns an error of the
    logits into up to twice that share of its output. ``least_spread`` is the spread over ordinary images: on one
    extreme input an output may be nearly constant, but no less rounded.
    """
    allowed = allowed or tolerance(precision)
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    finite = np.isfinite(b)
    everything = bool(finite.all())
    kept = b if everything else b[finite]
    spread = float(kept.std()) if kept.size else 0.0
    size = float(np.abs(kept).max()) if kept.size else 0.0
    rows = batch if batch is not None else int(b.shape[0]) if b.ndim else 1
    infinite = float("inf")
    if a.shape != b.shape or (not everything and not np.array_equal(a[~finite], b[~finite], equal_nan=True)) or (
            np.isfinite(a) != finite).any():
        return Comparison(name, level, rows, spread, infinite, infinite, infinite, None, None, False, kind)
    error = np.abs(a - b) if everything else np.abs(a[finite] - b[finite])
    worst = float(error.max()) if error.size else 0.0
    rms = float(np.sqrt(np.mean(error**2))) if error.size else 0.0
    eps = float(np.finfo(expected.dtype).eps) if np.issubdtype(expected.dtype, np.floating) else 0.0
    unit = max(spread, least_spread)
    if logits_spread is not None:
        unit = max(unit, 2 * size * logits_spread)
    rounding = allowed.rounding_ulps * eps * size
    passed = worst <= max(allowed.max_error * unit, rounding) and rms <= max(allowed.rms_error * unit, rounding)
    shown = max(spread, least_spread) or 1.0
    ulps = worst / (eps * size) if eps and size else 0.0
    top1, top5 = _agreement(a, b, 1), _agreement(a, b, 5)
    return Comparison(name, level, rows, spread, worst / shown, rms / shown, ulps, top1, top5, passed, kind)


def _agreement(a: Array, b: Array, count: int) -> float | None:
    """The share of rows whose ``count`` largest values are in the same places; None where rows are no scores."""
    if b.ndim != 2 or b.shape[1] <= count:
        return None
    if count == 1:
        return float((a.argmax(-1) == b.argmax(-1)).mean())
    first, second = (np.sort(np.argpartition(x, -count, -1)[:, -count:], -1) for x in (a, b))
    return float((first == second).all(-1).mean())


def log_probabilities(array: Array) -> Array:
    """The logits behind a softmax over the last axis, each row less its mean; vanishing ones stay at 1e-30."""
    logs = np.log(np.maximum(np.asarray(array, np.float64), 1e-30))
    return np.asarray(logs - logs.mean(-1, keepdims=True), np.float32)


def is_softmax(array: Array) -> bool:
    """Whether the rows look like a softmax over several classes."""
    if array.ndim != 2 or array.shape[1] < 2 or not np.issubdtype(array.dtype, np.floating):
        return False
    return bool((array >= 0).all() and np.allclose(array.sum(-1, dtype=np.float64), 1, atol=1e-3))
