"""The files that the contenders wrote, run in ONNX Runtime on the CPU in pairs, in one fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Seen
from contender import CONTENDERS
from processes import CLOCK, run_contender

PAIRS = {"lenet5": 2000, "resnet50": 150, "vgg16": 40}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.benchmark(timer=CLOCK)
def test_inference(benchmark: Any, seen: Seen, files: Path, memory_limit: int, name: str) -> None:
    """Median of paired ratios ours / peer's, batch 1; a bootstrap gives the interval."""
    benchmark.group = f"infer {name}"
    paths: dict[str, Path] = {}
    for contender in CONTENDERS:
        folder = files / name / contender
        if not seen.conversions.get((name, contender)):
            seen.conversions[name, contender] = [run_contender(contender, name, folder, memory_limit)]
        outcome = seen.conversions[name, contender][-1]
        if outcome.status == "ok" and outcome.facts["parity_passed"]:
            paths[contender] = folder / "model.onnx"
    if len(paths) < 2:
        pytest.skip(f"{name}: no peer wrote a file to compare with")
    result: dict[str, Any] = {}

    def run() -> None:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("pairs.py")), str(PAIRS[name]),
             *(f"{c}={p}" for c, p in paths.items())], capture_output=True, text=True, check=True)
        result.update(json.loads(done.stdout.splitlines()[-1]))
        CLOCK.now += result["median_seconds"]["cnnexport"]

    benchmark.pedantic(run, rounds=1, iterations=1)
    benchmark.extra_info.update(result)
    benchmark.extra_info["weights"] = "random (seed 0): untrained"
    for peer, values in result["ratios"].items():
        seen.ratios[name, peer] = tuple(values)
