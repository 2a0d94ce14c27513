"""Time and memory of a conversion, from a built Keras model to the file on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.contender import CONTENDERS
from benchmarks.processes import OK, OUT_OF_MEMORY, OUT_OF_TIME, Run, clock, run_contender
from benchmarks.targets import ARCHITECTURES, INFERRED, Results, memory_allowed

OWN_ROUNDS = 3
PEER_ROUNDS = {"lenet5": 3, "resnet50": 2}
"""Rounds of a peer: one for those not named, whose conversion takes minutes."""


class NotDone(Exception):
    """A contender that ran out of memory or time: nothing to time, and nothing that broke."""


class Broken(Exception):
    """A contender that failed for another reason, or whose file does not compute what Keras computes."""


def convert(results: Results, files: Path, contender: str, name: str) -> Run:
    """One more conversion, recorded.

    Raises NotDone without memory or time, Broken where the contender or its file is wrong.
    """
    runs = results.conversions.setdefault((contender, name), [])
    folder = files / f"{name}-{contender}-{len(runs)}"
    run = run_contender(contender, name, folder, results.memory_limit)
    runs.append(run)
    if len(runs) > 1 or name not in INFERRED:  # the first is what test_inference runs
        run.path.unlink(missing_ok=True)
    if run.status in (OUT_OF_MEMORY, OUT_OF_TIME):
        run.path.unlink(missing_ok=True)
        raise NotDone(f"{contender} on {name}: {run.status}, {run.detail}")
    if run.status != OK:
        raise Broken(f"{contender} on {name} {run.status} ({run.detail})\n{run.log}")
    if not (run.parity and run.parity["passed"]):
        raise Broken(f"{contender} on {name}: outputs differ from Keras': {run.parity}")
    return run


def facts(runs: list[Run]) -> dict[str, Any]:
    """What a row says besides its time, over all of its rounds."""
    peak, weights = max(r.peak_above_model for r in runs), runs[0].facts["weights_bytes"]
    return {
        "contender": runs[0].contender,
        "architecture": runs[0].architecture,
        "file_sha256": sorted({r.sha256 for r in runs}),
        "file_bytes": runs[0].facts["file_bytes"],
        "weights_mb": round(weights / 1e6, 1),
        "peak_above_model_mb": round(peak / 1e6, 1),
        "peak_allowed_mb": round(memory_allowed(weights) / 1e6, 1),
        "memory_target_met": peak <= memory_allowed(weights),
        "peak_method": runs[0].facts["rss_method"],
        "parity": [{"sha256": r.sha256, **(r.parity or {})} for r in runs],
        "steps": [r.facts["steps"] for r in runs],
        "imported_in_clock": runs[0].facts["imported_in_clock"],
    }


def cases() -> list[Any]:
    return [
        pytest.param(
            name, contender, id=f"{name}-{contender}",
            marks=pytest.mark.benchmark(group=f"convert {name}", timer=clock))
        for name in ARCHITECTURES for contender in CONTENDERS]


@pytest.mark.parametrize(("name", "contender"), cases())
def test_conversion(
    benchmark: Any, results: Results, files: Path, surroundings: dict[str, Any], name: str, contender: str
) -> None:
    runs: list[Run] = []

    def target() -> None:
        runs.append(convert(results, files, contender, name))
        clock.advance(runs[-1].seconds)

    rounds = OWN_ROUNDS if contender == "cnnexport" else PEER_ROUNDS.get(name, 1)
    try:
        benchmark.pedantic(target, rounds=rounds)
    except NotDone as reason:
        pytest.skip(str(reason))
    benchmark.extra_info.update(facts(runs), **surroundings)
