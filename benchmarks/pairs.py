"""Several ONNX files in one process, run in turn: ``python pairs.py FOLDER``, which holds ``pairs.json``.

Runs that lie side by side in time see the same machine, so that a ratio of the two says more than two
medians: neighbours, clock rates and heat fall out of it.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Time every file in each round, in random order; print the seconds of one run, by name."""
    import numpy as np
    import onnxruntime

    task: dict[str, Any] = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    onnxruntime.set_default_logger_severity(4)
    # One pool of threads for all: those of an idle session would spin on the cores of the one that runs.
    onnxruntime.set_global_thread_pool_sizes(task["threads"], 1)
    sessions = {}
    for name, path in task["files"].items():
        options = onnxruntime.SessionOptions()
        options.use_per_session_threads = False
        sessions[name] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(task["seed"])
    low, high = task["value_range"]
    image = rng.uniform(low, high, (1, *task["input_shape"])).astype(np.float32)
    feeds = {name: {s.get_inputs()[0].name: image} for name, s in sessions.items()}

    def seconds(name: str, calls: int) -> float:
        session, feed = sessions[name], feeds[name]
        start = time.perf_counter()
        for _ in range(calls):
            session.run(None, feed)
        return (time.perf_counter() - start) / calls

    names = list(sessions)
    for name in names:
        seconds(name, task["warmup"])
    # A measurement shorter than the scheduler's tick says little.
    calls = max(1, round(task["min_seconds"] / min(seconds(name, task["warmup"]) for name in names)))
    order = random.Random(task["seed"])
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(task["rounds"]):
        order.shuffle(names)
        for name in names:
            times[name].append(seconds(name, calls))
    print(json.dumps({"event": "timed", "times": times, "calls": calls}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
