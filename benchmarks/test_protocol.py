"""The measuring itself, measured: our loop against a bare one, and whether intervals hold between runs."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bundles import bundle_subject
from cnnexport.bench import machine
from cnnexport.bench.forks import Fork, Stop
from cnnexport.bench.measure import measure
from cnnexport.bench.options import LATENCY, Goal
from cnnexport.bench.plan import Row, default_threads
from cnnexport.bench.replay import clock, replay

RESULTS = Path(__file__).parent / "results"
REPEATS = 10
PAIRS = 40
REPEATED = ("lenet5", "resnet18", "resnet50")


@pytest.mark.parametrize(("name", "runs"), [
    pytest.param("lenet5", 1000, marks=pytest.mark.benchmark(group="bare loop", timer=clock)),
    pytest.param("resnet18", 10, marks=pytest.mark.benchmark(group="bare loop", timer=clock)),
    pytest.param("resnet50", 5, marks=pytest.mark.benchmark(group="bare loop", timer=clock))])
def test_bare_loop(benchmark: Any, bundles: Path, stop: Stop, name: str, runs: int) -> None:
    """p50 of our loop and of a bare one, in turn over one session in one process: PAIRS pairs of medians."""
    row = Row(bundle_subject(bundles, name), LATENCY, threads=default_threads())
    deadline = time.monotonic() + 240
    with Fork(stop) as fork:
        fork.ask("open", deadline, runner=row.runner, options=row.request())
        fork.ask("first_run", deadline)
        fork.ask("warm_up", deadline, cap=3.0)
        pairs = fork.ask("bare", deadline, runs=runs, count=PAIRS)["pairs"]
    ratio = statistics.median(ours / bare for ours, bare in pairs)
    benchmark.pedantic(replay([ours for ours, _ in pairs]), rounds=len(pairs))
    benchmark.extra_info.update(
        bare_loop={"pairs": pairs, "median_ratio": ratio, "target": "within 1 %", "met": abs(ratio - 1) <= 0.01})


@pytest.mark.slow
def test_coverage(bundles: Path, stop: Stop) -> None:
    """Ten runs of the whole measurement: how often does the interval of the median hold the median of all?"""
    found: dict[str, Any] = {}
    for name in REPEATED:
        row = Row(bundle_subject(bundles, name), LATENCY, threads=default_threads())
        made = []
        for _ in range(REPEATS):
            one = measure(row, Goal(max_time=15), stop)
            made.append((one.figure(), one.data, one.before["load_average"]))
        grand = statistics.median(t for _, data, _ in made for t in data)
        held = sum((e.low or 0.0) <= grand <= (e.high or 0.0) for e, _, _ in made)
        found[name] = {
            "repeats": REPEATS, "held": held, "grand_median_s": grand,
            "intervals_s": [[e.low, e.value, e.high] for e, _, _ in made],
            "load_average": [load for _, _, load in made]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "coverage.json").write_text(
        json.dumps({"machine": machine.identity(), "models": found}, indent=1) + "\n", encoding="utf-8")
    assert all(f["held"] >= 9 for f in found.values()), {k: v["held"] for k, v in found.items()}
