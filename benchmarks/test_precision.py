"""int8 by ``cnnexport quantize`` beside other tools, on the same networks and images.

``pytest -m slow benchmarks/test_precision.py`` writes ``benchmarks/results/precision.md`` and ``.json``. It may be run
in parts (``-k resnet50``): what was found before is kept. NNCF and OpenVINO take part where they are installed
(``pip install 'cnnexport[nncf,openvino]'``).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnexport
from benchmarks.quantisers import QUANTISERS, RUNTIMES, answers, installed
from benchmarks.targets import table
from cnnexport import bundle, precision
from cnnexport.bundle import Bundle
from cnnexport.classifier import Classifier
from cnnexport.data import load
from cnnexport.evaluation import matched_labels
from cnnexport.parity.stored import distance, scores
from cnnexport.precision import calibration, paired
from cnnexport.results.statistics import percentile

RESULTS = Path(__file__).with_name("results")
MNIST = os.environ.get("CNNEXPORT_MNIST10K")
TIMED = ("resnet50", "resnet152", "vgg16", "alexnet")
"""At full size, weights random: what they answer means nothing, what they take does."""
TRAINED: dict[str, dict[str, Any]] = {
    "lenet5": {"epochs": 6}, "resnet18": {"epochs": 4, "input_shape": (64, 64, 3)},
    "vgg11": {"epochs": 4, "input_shape": (32, 32, 3)}, "alexnet-bn": {"epochs": 4, "input_shape": (67, 67, 3)},
    "resnet50-transfer": {"epochs": 4, "input_shape": (64, 64, 3)}}
IMAGES = 100
SESSIONS, ROUNDS = 3, 15
TARGETS = {"resnet50": 2.8, "vgg16": 3.2}
"""Times as fast as float32 on processors with VNNI."""


def _read() -> dict[str, Any]:
    file = RESULTS / "precision.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def _save(part: str, name: str, value: Any) -> None:
    found = _read()
    found.setdefault(part, {})[name] = value
    (RESULTS / "precision.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "precision.md").write_text(_report(found), encoding="utf-8")


def _report(found: dict[str, Any]) -> str:
    lines = ["# int8, side by side", "",
             "Made by `pytest -m slow benchmarks/test_precision.py`: one process, one thread, batch 1, files in turn "
             "in each round; times as fast as the float32 file in ONNX Runtime, with a 95 % interval.", ""]
    timed = found.get("timed", {})
    if timed:
        rows = [["network", "file", "runtime", "ms", "times as fast", "MB"]]
        for name, one in timed.items():
            rows += [[name, row["file"], row["runtime"], f"{row['ms']:.2f}",
                      f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})", f"{row['bytes'] / 1e6:.1f}"]
                     for row in one["rows"]]
        lines += ["## Time, random weights at full size", "", *table(rows), ""]
        lines += [*(f"- {line}" for name, one in timed.items() for line in _targets(name, one)), ""]
    made = found.get("made", {})
    if made:
        rows = [["network", "images", "seconds", "peak GB"]]
        rows += [[name, str(one["images"]), f"{one['seconds']:.0f}", f"{one['peak_gb']:.2f}"]
                 for name, one in made.items()]
        lines += ["## The whole command `cnnexport quantize`", "", *table(rows), ""]
    trained = found.get("trained", {})
    if trained:
        rows = [["network", "file", "accuracy", "float32", "drop in points (95 %)", "logits off", "verdict"]]
        for name, one in trained.items():
            rows += [[name, row["file"], f"{row['accuracy']:.2%}", f"{one['float32']:.2%}",
                      f"{row['drop']:.2f} ({row['low']:.2f} to {row['high']:.2f})", f"{row['rms']:.3f}",
                      row.get("verdict", "")] for row in one["rows"]]
        lines += [f"## Accuracy, trained on digits, {IMAGES} calibration images", "", *table(rows), "",
                  *(f"- {name}: {one['images']:,} test images" for name, one in trained.items()), ""]
    return "\n".join(lines)


def _targets(name: str, one: dict[str, Any]) -> list[str]:
    """Which targets were met, of a network that was timed."""
    ours = next(r for r in one["rows"] if (r["file"], r["runtime"]) == ("cnnexport", "ONNX Runtime"))
    theirs = [r for r in one["rows"] if r["runtime"] == "OpenVINO" and r["file"] != "float32"]
    found = []
    if name in TARGETS:
        found.append(f"{name}: {TARGETS[name]} times float32 asked, {ours['ratio']:.2f} seen: "
                     f"{'met' if ours['low'] >= TARGETS[name] else 'not met'}")
    if theirs:
        best = max(theirs, key=lambda r: r["ratio"])
        found.append(f"{name}: OpenVINO's best int8 ({best['file']}) {best['ratio']:.2f}, ours in ONNX Runtime "
                     f"{ours['ratio']:.2f}: {_compared(ours, best)}")
    return found


def _compared(ours: dict[str, Any], best: dict[str, Any]) -> str:
    if ours["ratio"] >= best["ratio"]:
        return "not slower"
    return "slower by a median that the intervals do not tell apart" if ours["high"] >= best["low"] else "slower"


_WAITED = ("import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
           "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)")
"""Runs a command from a small process: the peak of a child starts at what its parent held when it forked."""


def _peers(source: Path, folder: Path, batches: Any) -> dict[str, Path]:
    """The files of the peers that are installed."""
    made = {}
    for name, (package, write) in QUANTISERS.items():
        if installed(package):
            write(source, folder / f"{name}.onnx", batches)
            made[name] = folder / f"{name}.onnx"
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMED)
def test_time(name: str, tmp_path: Path) -> None:
    place = tmp_path / "b"
    cnnexport.convert(name, output=place)
    precision.quantize(place, "int8", calibration="synthetic", images=32, purpose="size")
    first = Classifier.open(place, threads=1)
    source = Bundle.open(place).file
    files = {"float32": source, "cnnexport": Bundle.open(f"{place}#int8").file,
             **_peers(source, tmp_path, calibration.synthetic(first, 32, 0))}
    feeds = next(calibration.synthetic(first, 1, 9)())
    took: dict[tuple[str, str], list[list[float]]] = {}
    order = random.Random(0)
    for _ in range(SESSIONS):
        runs = {(file, runtime): start(path, 1) for file, path in files.items()
                for runtime, (package, start) in RUNTIMES.items() if installed(package)}
        for run in runs.values():
            run(feeds)
        for key in runs:
            took.setdefault(key, []).append([])
        for _ in range(ROUNDS):
            for key in order.sample(list(runs), len(runs)):
                start_of = time.perf_counter()
                runs[key](feeds)
                took[key][-1].append(time.perf_counter() - start_of)
    base = took["float32", "ONNX Runtime"]
    rows: list[dict[str, Any]] = []
    for (file, runtime), times in took.items():
        told = percentile([np.asarray(a) / np.asarray(b) for a, b in zip(base, times)], 50)
        rows.append({"file": file, "runtime": runtime, "ms": 1e3 * float(np.median(np.concatenate(times))),
                     "ratio": told.value, "low": told.low, "high": told.high, "bytes": files[file].stat().st_size})
    _save("timed", name, {"rows": rows, "sha256": bundle.sha256(files["cnnexport"])})
    ours = next(r for r in rows if (r["file"], r["runtime"]) == ("cnnexport", "ONNX Runtime"))
    assert ours["bytes"] < 0.27 * source.stat().st_size


@pytest.mark.slow
def test_what_quantising_takes(tmp_path: Path) -> None:
    cnnexport.convert("resnet50", output=tmp_path / "b")
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _WAITED, sys.executable, "-m", "cnnexport", "quantize",
                           str(tmp_path / "b"), "--precision", "int8", "--calibration", "synthetic",
                           "--calibration-images", str(IMAGES), "--for", "size", "--quiet"],
                          check=True, capture_output=True, text=True)
    _save("made", "resnet50", {"images": IMAGES, "seconds": time.perf_counter() - begun,
                               "peak_gb": int(done.stdout.split()[-1]) * 1024 / 1e9})


def _halves(folder: Path) -> str:
    """The digits, half to train and half to test on: a tenth of a point is told apart by thousands of images alone."""
    found = load(str(MNIST), training=False)
    parts = [part for part in (found.train, found.test) if part is not None]
    images = np.concatenate([np.asarray(part.images) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    half = len(images) // 2
    order = np.random.default_rng(0).permutation(len(images))
    np.savez(folder / "halves.npz", x_train=images[order[:half]], y_train=labels[order[:half]],
             x_test=images[order[half:]], y_test=labels[order[half:]])
    return str(folder / "halves.npz")


@pytest.mark.slow
@pytest.mark.skipif(not MNIST, reason="CNNEXPORT_MNIST10K names no .npz file")
@pytest.mark.parametrize("name", TRAINED)
def test_accuracy(name: str, tmp_path: Path) -> None:
    data = _halves(tmp_path)
    cnnexport.train(name, data=data, output=tmp_path / "run", **TRAINED[name])
    place = tmp_path / "b"
    cnnexport.convert(tmp_path / "run", output=place)
    try:
        verdict = precision.quantize(place, "int8", calibration=data, data=data, images=IMAGES,
                                     purpose="size", keep_rejected=True)
    except precision.Rejected as error:
        verdict = error.verdict
    assert verdict.accuracy is not None
    first = Classifier.open(place, threads=1)
    assert first.preparation is not None
    chosen = calibration.choose(first, data, count=IMAGES)
    found = load(data, training=False)
    part = found.test
    assert part is not None
    labels = matched_labels(found, part, first.labels)

    def batches() -> Any:
        return calibration.fed(first, part, 32)

    source = Bundle.open(place).file
    before = scores(answers(RUNTIMES["ONNX Runtime"][1](source, 1), first.input, batches))
    a = verdict.accuracy
    rows: list[dict[str, Any]] = [{
        "file": "cnnexport", "accuracy": a.correct / a.images, "drop": a.drop_points, "low": a.drop_interval_95[0],
        "high": a.drop_interval_95[1], "rms": verdict.fidelity.logits_rms, "verdict": verdict.verdict,
        "back": [k.node for k in verdict.kept if k.reason.startswith("put back")], "settings": verdict.settings}]
    for file, path in _peers(source, tmp_path, chosen.batches).items():
        after = scores(answers(RUNTIMES["ONNX Runtime"][1](path, 1), first.input, batches))
        right, still = before.argmax(1) == labels, after.argmax(1) == labels
        low, high = paired.interval(int((right & ~still).sum()), int((~right & still).sum()), len(labels))
        rows.append({"file": file, "accuracy": float(still.mean()), "drop": 100 * float(right.mean() - still.mean()),
                     "low": 100 * low, "high": 100 * high, "rms": distance(before, after)[0]})
    _save("trained", name, {"float32": a.float_correct / a.images, "images": a.images, "rows": rows})
