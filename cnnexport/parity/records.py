"""The parity record of a bundle, as it is written to ``parity.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cnnexport.parity.comparison import Comparison
from cnnexport.parity.inputs import BUDGET
from cnnexport.parity.tolerances import PERTURBATION, Tolerance, tolerance

SCHEMA_VERSION = 2


def record(
    results: Sequence[Comparison],
    *,
    sha256: str,
    versions: dict[str, str],
    seed: int,
    allowed: Tolerance | None = None,
    layers: Sequence[Any] = (),
    sensitivity: Sequence[Any] = (),
    insensitive: Sequence[str] = (),
    lower_precision: str | None = None,
) -> dict[str, Any]:
    """The record of ``results`` for the model file of that hash; infinite numbers are written as null."""
    # Probabilities have a bound of their own, which their logits set.
    behind = {(r.output, r.batch, r.kind) for r in results if r.level != "output"}
    telling = [r for r in results if r.level != "output" or (r.output, r.batch, r.kind) not in behind]
    worst = max((r.max_error for r in telling), default=float("inf"))
    agree = bool(results) and all(r.passed for r in results) and all(r.passed is not False for r in layers)
    reason = None
    if not agree:
        reason = "different"
    elif lower_precision:
        reason = "precision"
    elif insensitive:
        reason = "insensitive"
    return {
        "schema_version": SCHEMA_VERSION,
        "passed": reason is None,
        "reason": reason,
        "model_sha256": sha256,
        "reference": "keras",
        "runtime": "onnxruntime",
        "provider": "CPUExecutionProvider",
        "versions": versions,
        "batches": sorted({r.batch for r in results}),
        "batch_budget_macs": BUDGET,
        "kinds": list(dict.fromkeys(r.kind for r in results)),
        "seed": seed,
        "tolerance": (allowed or tolerance()).to_dict(),
        "lower_precision": lower_precision,
        "worst_error": _number(worst),
        "comparisons": [_values(r) for r in results],
        "layers": [_values(r) for r in layers],
        "first_diverging_layer": next((r.layer for r in layers if r.passed is False), None),
        "sensitivity": {
            "perturbation": PERTURBATION,
            "unit": "standard deviations of Keras' output, root mean square",
            "insensitive": list(insensitive),
            "layers": [_values(r) for r in sensitivity],
        },
    }


def _values(item: Any) -> dict[str, Any]:
    return {key: _number(value) for key, value in asdict(item).items()}


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    return list(value) if isinstance(value, tuple) else value
