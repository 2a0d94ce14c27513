"""The process that measures: ``python -m cnnexport.bench.worker BUFFER PARENT``.

One JSON request a line on standard input, one answer a line on standard output. Between the two the parent sleeps, so
that nothing of ours competes with what is timed; it reads BUFFER, a file mapped by both, when a worker is stopped in
the middle. What runs is named by the request (``module:class``): a session of a runtime, or a peer's.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from cnnexport import supervision
from cnnexport.bench import protocol
from cnnexport.errors import CnnexportError
from cnnexport.text import shortened

CAPACITY = 1 << 20
"""64-bit integers in the buffer, shared by all streams."""


def views(buffer: memoryview, streams: int) -> list[memoryview]:
    """The buffer divided among ``streams``: each a count and its nanoseconds."""
    size = len(buffer) // streams
    return [buffer[i * size:(i + 1) * size] for i in range(streams)]


class Worker:
    """Holds one session and answers requests; each method named ``do_NAME`` is one."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.held: Any = None
        self.run: Callable[[], None] = lambda: None

    def do_open(self, runner: str, options: dict[str, Any]) -> dict[str, Any]:
        module, _, name = runner.partition(":")
        self.held = getattr(importlib.import_module(module), name)(options)
        return {"create_s": self.held.create_seconds}

    def do_first_run(self) -> dict[str, Any]:
        seconds = self.held.first_run()
        self.run = self.held.stream()
        return {"first_run_s": seconds, "facts": self.held.facts()}

    def do_warm_up(self, cap: float) -> dict[str, Any]:
        return protocol.warm_up(self.run, cap)

    def do_latency(self, seconds: float, least: int, most: int) -> dict[str, Any]:
        protocol.latency(self.run, self.buffer, seconds, least, most)
        return {"runs": self.buffer[0]}

    def do_streams(self, concurrency: int, seconds: float, least: int) -> dict[str, Any]:
        runs = [self.held.stream() for _ in range(concurrency)]
        for run in runs:
            run()
        return protocol.streams(runs, views(self.buffer, concurrency), seconds, least)

    def do_loadgen(self, scenario: str, batch: int, streams: int, seconds: float, bound: float, run_seconds: float,
                   left: float) -> dict[str, Any]:
        """A load test by MLCommons' LoadGen, to end within ``left`` seconds."""
        import time

        from cnnexport.bench import loadgen

        runs = [self.held.stream() for _ in range(streams)]
        for run in runs:
            run()
        with protocol.undisturbed():
            return loadgen.run(runs, self.buffer, scenario=scenario, batch=batch, seconds=seconds, bound=bound,
                               run_seconds=run_seconds, deadline=time.monotonic() + left)

    def do_transfers(self, seconds: float) -> dict[str, Any]:
        """Seconds of each copy to and from the device; empty where nothing is copied."""
        found: dict[str, Any] = {}
        for name, run in (self.held.transfers() or {}).items():
            own = memoryview(bytearray(8 * 10_001)).cast("q")
            run()
            protocol.latency(run, own, seconds, 20, 10_000)
            found[name] = [own[i] / 1e9 for i in range(1, own[0] + 1)]
        return found

    def do_check(self, vectors: dict[str, Any]) -> dict[str, Any]:
        """Whether what is held computes what Keras did (``held.check``)."""
        return dict(self.held.check(vectors))

    def do_profile(self, options: dict[str, Any], limit: float) -> dict[str, Any]:
        from cnnexport.bench import session

        return session.profile(options, limit)

    def do_limits(self, provider: str, threads: int | None, provider_options: dict[str, str]) -> dict[str, Any]:
        from cnnexport.bench import limits

        return limits.measure(provider, threads, provider_options)

    def do_bare(self, runs: int, count: int) -> dict[str, Any]:
        """The benchmark of the benchmark: our loop and a bare one in turn, over one session. Medians, in seconds."""
        import statistics
        import time

        pairs: list[tuple[float, float]] = []
        run = self.run
        for _ in range(count):
            self.buffer[0] = 0
            protocol.latency(run, self.buffer, 0.0, runs, runs)
            ours = statistics.median(self.buffer[1:runs + 1].tolist()) / 1e9
            bare = []
            for _ in range(runs):
                start = time.perf_counter()
                run()
                bare.append(time.perf_counter() - start)
            pairs.append((ours, statistics.median(bare)))
        return {"pairs": pairs}


def main(path: str, parent: int) -> None:
    """Answer requests until standard input ends, or the process ``parent`` does, also out of a run that never ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    supervision.die_with(parent)
    with open(path, "r+b") as file:
        buffer = memoryview(mmap.mmap(file.fileno(), CAPACITY * 8)).cast("q")
    worker = Worker(buffer)
    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("do")
        try:
            answer: dict[str, Any] = {"answer": getattr(worker, f"do_{name}")(**request)}
        except CnnexportError as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
        except MemoryError:
            answer = {"error": "the machine's memory does not hold this; try a smaller batch", "exit_code": 3}
        except Exception as error:
            answer = {"error": f"{type(error).__name__} while measuring ({name}): {shortened(str(error))}",
                      "exit_code": 3}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
