"""Keras' answers that a bundle stores, and what a runtime may be off them: for ``verify``, ``bench`` and its peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cnnexport.bundle.records import Parity
from cnnexport.errors import ParityError
from cnnexport.parity.comparison import (
    ILL,
    Array,
    Comparison,
    compare,
    errors_of,
    is_softmax,
    log_probabilities,
    spread_of,
)
from cnnexport.parity.tolerances import Tolerance, tolerance

ROUNDED_OTHERWISE, LEAST = 2.0, 1e-3
"""How many times further off than where it was judged a variant may be, and what is always allowed."""


def stored_bounds(proof: Parity) -> Tolerance:
    """The tolerance of a bundle's record, but no laxer than ours; wider where the truth told that Keras is off it."""
    recorded, own = proof.tolerance, tolerance(proof.tolerance.precision)
    allowed = Tolerance(own.precision, recorded.terms, min(recorded.max_error, own.max_error),
                        min(recorded.rms_error, own.rms_error), own.rounding_ulps)
    if proof.stored:  # Keras' stored outputs are off the truth themselves, but never by more than means anything
        allowed = replace(allowed, max_error=max(allowed.max_error, min(proof.stored.max_error, 10 * ILL)),
                          rms_error=max(allowed.rms_error, min(proof.stored.rms_error, ILL)))
    return allowed


def compare_with_stored(
    expected: Mapping[str, Array], produced: Sequence[Array], allowed: Tolerance, who: str, whose: str = ""
) -> float:
    """The largest error of what ``who`` ``produced``, in standard deviations; ``expected`` are outputs by name.

    Raises ParityError where an output (``whose`` says of what file) is further off than ``allowed``.
    """
    worst = 0.0
    for (name, wanted), actual in zip(expected.items(), produced, strict=True):
        spread = None
        results = []
        if is_softmax(wanted) and wanted.shape == getattr(actual, "shape", None):
            results.append(compare(
                name, "log-probabilities", log_probabilities(wanted), log_probabilities(actual), allowed=allowed))
            spread = results[0].spread
        results.append(compare(name, "output", wanted, actual, allowed=allowed, logits_spread=spread))
        failed = next((r for r in results if not r.passed), None)
        if failed is not None:
            raise ParityError(f"{who} disagrees with Keras' stored '{name}'{whose} ({failed.level}): {_off(failed)}")
        worst = max(worst, results[0].max_error)
    return worst


def scores(output: Array) -> Array:
    """The scores behind an output, whose rows may be probabilities; what is not finite is far off instead."""
    values = np.nan_to_num(np.asarray(output, np.float32), nan=1e30, posinf=1e30, neginf=-1e30)
    return log_probabilities(values) if is_softmax(values) else values


def distance(first: Array, second: Array) -> tuple[float, float]:
    """How far ``second`` is from ``first``, in standard deviations of that: root mean square, and largest."""
    spread, (worst, rms) = spread_of(first) or 1.0, errors_of(first, second)
    return rms / spread, worst / spread


def compare_with_judged(expected: Mapping[str, Array], produced: Sequence[Array], judged: float, who: str) -> float:
    """How far a variant's first output is from Keras', in standard deviations of its scores (root mean square).

    ``judged`` is what it was off where it was judged: another runtime or processor rounds otherwise. Raises
    ParityError where it is further off than that explains.
    """
    rms = distance(scores(next(iter(expected.values()))), scores(produced[0]))[0]
    if not rms <= ROUNDED_OTHERWISE * judged + LEAST:
        raise ParityError(f"{who} is {rms:.2g} standard deviations off Keras' stored outputs, and the variant was "
                          f"{judged:.2g} off when it was judged; quantize the bundle again here")
    return rms


def _off(failed: Comparison) -> str:
    """How far off, by the bound that was not kept."""
    if failed.failed == "root mean square" and failed.allowed_rms_error is not None:
        return (f"off by {failed.rms_error:.2g} standard deviations (root mean square), {failed.allowed_rms_error:.0e} "
                "allowed")
    most = "" if failed.allowed_error is None else f", {failed.allowed_error:.0e} allowed"
    return f"off by {failed.max_error:.2g} standard deviations{most}"
