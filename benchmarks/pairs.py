"""Time several ONNX files in ONNX Runtime on the CPU, interleaved in random order; prints one line of JSON.

Run as ``python pairs.py PAIRS NAME=FILE...``; the first file is compared with each other one.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from cnnexport import bundle


def main(pairs: int, files: dict[str, str]) -> dict[str, Any]:
    """Median seconds by name, and (ratio, low, high) of the first to each other: 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    sessions, feeds = {}, {}
    for name, file in files.items():
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (port,) = session.get_inputs()
        shape = [1, *port.shape[1:]]
        feeds[name] = {port.name: np.random.default_rng(1).normal(size=shape).astype(np.float32)}
        sessions[name] = session
        for _ in range(5):
            session.run(None, feeds[name])
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(pairs):
        for name in rng.permutation(list(files)):
            start = time.perf_counter()
            sessions[name].run(None, feeds[name])
            times[name].append(time.perf_counter() - start)
    first, *others = files
    ratios = {}
    for other in others:
        each = np.array(times[first]) / np.array(times[other])
        draws = np.median(each[rng.integers(0, pairs, (2000, pairs))], axis=1)
        ratios[other] = [float(np.median(each)), *map(float, np.quantile(draws, [0.025, 0.975]))]
    return {
        "median_seconds": {name: float(np.median(t)) for name, t in times.items()},
        "ratios": ratios,
        "pairs": pairs,
        "sha256": {name: bundle.sha256(Path(file)) for name, file in files.items()},
        "onnxruntime": onnxruntime.__version__,
        "provider": "CPUExecutionProvider",
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), dict(a.split("=", 1) for a in sys.argv[2:]))))
