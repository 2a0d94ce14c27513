"""Conversion, side by side: time from the built Keras model to the file on disk, and peak memory above the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Seen
from contender import CONTENDERS
from processes import CLOCK, Outcome, run_contender

ARCHITECTURES = ("lenet5", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19")
ROUNDS = {"cnnexport": 3, "tf2onnx": 2, "keras": 2}


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.benchmark(timer=CLOCK)
def test_conversion(
    benchmark: Any, seen: Seen, files: Path, memory_limit: int, name: str, contender: str
) -> None:
    """A contender that takes the machine's memory is skipped with that reason, and stands in the table of targets."""
    benchmark.group = f"convert {name}"
    outcomes: list[Outcome] = seen.conversions.setdefault((name, contender), [])

    def run() -> None:
        outcome = run_contender(contender, name, files / name / contender, memory_limit)
        outcomes.append(outcome)
        if outcome.status.startswith("out of"):
            pytest.skip(f"{contender} on {name}: {outcome.detail}")
        assert outcome.status == "ok", outcome.detail
        assert outcome.facts["parity_passed"], f"{contender}'s {name} does not compute what Keras computes"

    # The heaviest peers run once: a minute each says enough.
    rounds = 1 if contender != "cnnexport" and name in ("resnet152", "vgg16", "vgg19") else ROUNDS[contender]
    benchmark.pedantic(run, rounds=rounds, iterations=1)
    facts = outcomes[-1].facts
    benchmark.extra_info.update({k: v for k, v in facts.items() if k != "seconds"})
    benchmark.extra_info["peak_above_model_mb"] = max(o.facts["peak_above_model_mb"] for o in outcomes)
