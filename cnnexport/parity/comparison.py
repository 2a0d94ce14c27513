"""Two arrays compared: relative to the expected one's own spread, never in absolute numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnexport.parity.tolerances import Tolerance, tolerance

Array = npt.NDArray[Any]

FACTOR = 5.0
"""Times Keras' own error that a runtime may be off on images; measured over right files: up to 2.2."""
PROBE_FACTOR = 20.0
"""The same for the rows that drive a network far out of its range (noise, edges, impulses): measured up to 11, where
an output's spread is hundreds of times that of images and each kernel loses other digits."""
_PAIRWISE = 16.0
"""The root of the length up to which sums one by one lose no more than pairwise ones (measured: 21 times at 3,600)."""
_PIECE = 1 << 20
ILL = 0.05
"""Keras' own error, in standard deviations of the output, above which float32 means nothing."""


@dataclass(frozen=True)
class Comparison:
    """One output for one kind of input at one batch size.

    ``level`` is ``output``, ``logits`` (before the final activation) or ``log-probabilities`` (logits told from
    a softmax's output, up to their mean). ``spread`` is the standard deviation of Keras' values; ``max_error``
    and ``rms_error`` are in units of it, ``max_ulps`` is the largest error in units in the last place of the
    largest value. ``top1_agreement`` is the share of rows with the same largest value, ``top5_agreement`` the
    share of rows with the same five largest. Where the truth was asked, errors are distances from it, ``keras_error``
    and ``keras_rms_error`` are Keras' own, and ``truth`` says how it was told. ``failed`` names the bound that was not
    kept. A row that is ``ill`` is so ill-conditioned that float32 means nothing: it proves nothing by itself.
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
    truth: str | None = None
    keras_error: float | None = None
    keras_rms_error: float | None = None
    allowed_error: float | None = None
    allowed_rms_error: float | None = None
    failed: str | None = None
    ill: bool = False


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
    others: Sequence[Array] = (),
    truth: str | None = None,
) -> Comparison:
    """Compare two arrays (batch first) of one output. A shape or non-finite mismatch is infinite error.

    ``precision`` is the lowest one inside the model, ``allowed`` the tolerance (by default that of ``precision``).
    ``logits_spread`` is given for an output whose logits are compared too: an activation turns an error of the
    logits into up to twice that share of its output. ``least_spread`` is the spread over ordinary images: on one
    extreme input an output may be nearly constant, but no less rounded. ``others`` are further computations of
    ``expected``, as good as any in the model's precision: some times their errors are allowed too. ``truth`` says
    what they are.
    """
    allowed = allowed or tolerance(precision)
    a, b = np.asarray(actual), np.asarray(expected)
    finite = np.isfinite(b)
    everything = bool(finite.all())
    kept = b if everything else b[finite]
    spread, size = spread_of(kept), float(np.abs(kept).max()) if kept.size else 0.0
    rows = batch if batch is not None else int(b.shape[0]) if b.ndim else 1
    infinite = float("inf")
    if a.shape != b.shape or (not everything and not np.array_equal(a[~finite], b[~finite], equal_nan=True)) or (
            np.isfinite(a) != finite).any():
        return Comparison(name, level, rows, spread, infinite, infinite, infinite, None, None, False, kind,
                          failed="where numbers are finite" if a.shape == b.shape else "shape")
    worst, rms = errors_of(a if everything else a[finite], kept)
    own = others[0].dtype if others else expected.dtype  # the truth may be in more digits than anything is computed in
    eps = float(np.finfo(own).eps) if np.issubdtype(own, np.floating) else 0.0
    unit = max(spread, least_spread)
    if logits_spread is not None:
        unit = max(unit, 2 * size * logits_spread)
    rounding = allowed.rounding_ulps * eps * size
    others = [o if everything else o[finite] for o in others]
    errors = [errors_of(o, kept) for o in others if bool(np.isfinite(o).all())]
    own_worst, own_rms = (max((e[i] for e in errors), default=0.0) for i in (0, 1))
    # Where long sums are taken one by one, errors grow with a root of the length that Keras' pairwise sums do not know.
    longer = max(1.0, math.sqrt(allowed.longest_sum) / _PAIRWISE)
    factor = longer * (FACTOR if kind == "image" else PROBE_FACTOR)
    # Of a layer's millions of values the largest error is a matter of luck: measured up to 11 times Keras' own.
    most = max(allowed.max_error * unit, rounding, own_worst * (longer * PROBE_FACTOR if level == "layer" else factor))
    most_rms = max(allowed.rms_error * unit, rounding, factor * own_rms)
    ill = own_rms > ILL * unit
    failed = "maximum" if worst > most else "root mean square" if rms > most_rms else None
    shown = max(spread, least_spread) or 1.0
    ulps = worst / (eps * size) if eps and size else 0.0
    top1, top5 = _agreement(a, b, 1), _agreement(a, b, 5)
    return Comparison(
        name, level, rows, spread, worst / shown, rms / shown, ulps, top1, top5, failed is None or ill, kind,
        truth=truth if others else None, keras_error=own_worst / shown if others else None,
        keras_rms_error=own_rms / shown if others else None, allowed_error=most / shown,
        allowed_rms_error=most_rms / shown, failed=failed, ill=ill)


def _pieces(*arrays: Array) -> Iterator[list[Array]]:
    """The values of arrays of one size as float64, some at a time: whole layers are too large to hold thrice."""
    flat = [np.reshape(array, -1) for array in arrays]
    for start in range(0, flat[0].size, _PIECE):
        yield [values[start:start + _PIECE].astype(np.float64) for values in flat]


def spread_of(array: Array) -> float:
    """The standard deviation, 0 of nothing."""
    mean = sum(float(x.sum()) for x, in _pieces(array)) / max(array.size, 1)
    return math.sqrt(sum(float(np.square(x - mean).sum()) for x, in _pieces(array)) / max(array.size, 1))


def errors_of(a: Array, b: Array) -> tuple[float, float]:
    """The largest difference and the root of the mean square of all, 0 of nothing."""
    worst = squares = 0.0
    for x, y in _pieces(a, b):
        error = np.abs(x - y)
        worst, squares = max(worst, float(error.max())), squares + float(np.square(error).sum())
    return worst, math.sqrt(squares / max(a.size, 1))


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
