"""Time of a run in ONNX Runtime on the CPU: our file against the peers', in pairs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import usable_cores
from benchmarks.contender import CONTENDERS, SEED, sha256
from benchmarks.processes import HERE, OK, OUT_OF_MEMORY, OUT_OF_TIME, clock, replay, run_child
from benchmarks.targets import INFERRED, PEERS, Inference, Results
from benchmarks.test_conversion import Broken, NotDone, convert

ROUNDS = {"lenet5": 400, "resnet50": 100, "vgg16": 30}
WARMUP = 3
MIN_SECONDS = 0.005
"""What one measurement takes at least: quick models run several times in it."""


def file_of(results: Results, files: Path, contender: str, name: str) -> tuple[Path, str]:
    """The contender's file, of this session if there is one, and its hash. Raises what ``convert`` does."""
    known = results.conversions.get((contender, name))
    run = known[0] if known else convert(results, files, contender, name)
    if run.status in (OUT_OF_MEMORY, OUT_OF_TIME):
        raise NotDone(f"{contender} has no file: {run.status}, {run.detail}")
    if run.status != OK:
        raise Broken(f"{contender} has no file: {run.status}")
    # No time without a passing comparison of this very file.
    if not (run.parity and run.parity["passed"]) or sha256(run.path) != run.sha256:
        raise Broken(f"{contender}'s file has no passing comparison with Keras")
    return run.path, run.sha256


def measure(results: Results, files: Path, name: str) -> Inference:
    """Run the files of all contenders in turn in one process, once in a session."""
    if name in results.inference:
        return results.inference[name]
    from cnnexport import architectures

    found: dict[str, tuple[Path, str]] = {}
    missing: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for contender in CONTENDERS:
        try:
            found[contender] = file_of(results, files, contender, name)
        except NotDone as reason:
            missing[contender] = str(reason)
        except Broken as reason:
            wrong[contender] = str(reason).splitlines()[0]
    hashes = {contender: digest for contender, (_, digest) in found.items()}
    measured = Inference({}, missing, wrong, 0, usable_cores(), hashes)
    if "cnnexport" in found and len(found) > 1:
        spec = architectures.get(name)
        folder = files / f"{name}-pairs"
        folder.mkdir()
        (folder / "pairs.json").write_text(json.dumps({
            "files": {contender: str(path) for contender, (path, _) in found.items()},
            "input_shape": spec.input_shape,
            "value_range": spec.preprocessing.value_range if spec.preprocessing else (-1.0, 1.0),
            "threads": measured.threads, "rounds": ROUNDS[name], "warmup": WARMUP, "min_seconds": MIN_SECONDS,
            "seed": SEED,
        }), encoding="utf-8")
        ended = run_child([HERE / "pairs.py", folder], folder, results.memory_limit)
        if ended.status != OK:
            raise Broken(f"running the files of {name} {ended.status} ({ended.detail})\n{ended.log}")
        timed = ended.events["timed"]
        measured = Inference(timed["times"], missing, wrong, timed["calls"], measured.threads, hashes)
    results.inference[name] = measured
    return measured


def cases() -> list[Any]:
    return [
        pytest.param(
            name, contender, id=f"{name}-{contender}",
            marks=pytest.mark.benchmark(group=f"run {name}", timer=clock))
        for name in INFERRED for contender in CONTENDERS]


@pytest.mark.parametrize(("name", "contender"), cases())
def test_inference(
    benchmark: Any, results: Results, files: Path, surroundings: dict[str, Any], name: str, contender: str
) -> None:
    measured = measure(results, files, name)
    if contender in measured.wrong:
        pytest.fail(measured.wrong[contender], pytrace=False)
    if contender in measured.missing:
        pytest.skip(measured.missing[contender])
    if contender not in measured.times:
        reasons = [*measured.missing.values(), *measured.wrong.values()]
        pytest.skip(f"nothing to compare with: {'; '.join(reasons)}")
    times = measured.times[contender]
    benchmark.pedantic(replay(times), rounds=len(times))
    ratios = {peer: ratio for peer in PEERS if (ratio := measured.ratio(peer))}
    benchmark.extra_info.update(
        contender=contender, architecture=name, file_sha256=measured.hashes[contender], batch=1,
        threads=measured.threads, calls_in_a_measurement=measured.calls,
        ratios={peer: asdict(ratio) for peer, ratio in ratios.items()} if contender == "cnnexport" else {},
        **surroundings)
