"""The parity record of a bundle, as it is written to ``parity.json``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from msgspec import UNSET

from cnnexport.bundle.records import ByTruth, Parity, SensitivityFacts, StoredBounds, ToleranceFacts
from cnnexport.parity.gate import Verdict
from cnnexport.parity.inputs import BUDGET
from cnnexport.parity.tolerances import PERTURBATION, Tolerance, tolerance

_REASON = ("rounding grows with eps * sqrt(terms), the dot products' lengths summed over the network; see "
           "cnnexport.parity.tolerances")


def record(
    verdict: Verdict, *, sha256: str, versions: dict[str, str], seed: int, allowed: Tolerance | None = None
) -> Parity:
    """The record of a verdict for the model file of that hash."""
    results = verdict.comparisons
    # Probabilities have a bound of their own, which their logits set.
    behind = {(r.output, r.batch, r.kind) for r in results if r.level != "output"}
    telling = [r for r in results if r.level != "output" or (r.output, r.batch, r.kind) not in behind]
    own = allowed or tolerance()
    hard = [r for r in telling if r.truth and (r.max_error > own.max_error or r.rms_error > own.rms_error)]
    telling = [r for r in telling if r not in hard] or telling
    return Parity(
        passed=verdict.passed, reason=verdict.reason, model_sha256=sha256, versions=versions,
        batches=tuple(sorted({r.batch for r in results})), batch_budget_macs=BUDGET,
        kinds=tuple(dict.fromkeys(r.kind for r in results)), seed=seed,
        tolerance=ToleranceFacts(**asdict(own), reason=_REASON),
        lower_precision=verdict.lower_precision, optimiser=verdict.optimiser, stored=_stored(verdict) or UNSET,
        by_truth=ByTruth(
            rows=len(hard), ill=sum(r.ill for r in hard), told_by=str(hard[0].truth),
            times=_number(max(r.max_error / r.keras_error if r.keras_error else 0.0 for r in hard))) if hard else UNSET,
        worst_error=_number(max((r.max_error for r in telling), default=float("inf"))),
        comparisons=tuple(map(_values, results)), layers=tuple(map(_values, verdict.layers)),
        first_diverging_layer=verdict.first_diverging,
        sensitivity=SensitivityFacts(
            perturbation=PERTURBATION, unit="standard deviations of Keras' output, root mean square",
            insensitive=verdict.insensitive, layers=tuple(map(_values, verdict.sensitivity))))


def _stored(verdict: Verdict) -> StoredBounds | None:
    """The bounds of the first case, which is stored: with Keras' own error, where its answer is no longer the truth."""
    first = [c for c in verdict.comparisons if c.batch == verdict.comparisons[0].batch and c.kind == "image"]
    told = [c for c in first if c.keras_error is not None]
    if not told:
        return None
    return StoredBounds(
        max_error=max((c.allowed_error or 0) + (c.keras_error or 0) for c in told),
        rms_error=max((c.allowed_rms_error or 0) + (c.keras_rms_error or 0) for c in told))


def _values(item: Any) -> dict[str, Any]:
    return {key: _number(value) for key, value in asdict(item).items()}


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    return list(value) if isinstance(value, tuple) else value
