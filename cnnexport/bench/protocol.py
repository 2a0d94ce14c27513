"""The measuring loops. Nothing else is measured with: the command, the standing suite and the peers all run these.

Garbage collection is off and every buffer exists before the clock starts. One run is timed by two readings of
``time.perf_counter_ns`` around it, and its nanoseconds go to a buffer that whoever watches can read at any time.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Run = Callable[[], None]
Buffer = memoryview
"""64-bit integers: the number of runs, then nanoseconds of each."""

AGREE = 0.02
WARMUP_RULE = ("runs are discarded until the medians of the last three windows (of 50 ms and 3 runs at least) "
               "lie within 2 % of each other and the last is no more than 1 % below the one before, or at a cap")
_WINDOW_NS = 50_000_000
_KEPT = 200


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection inside, and none due."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def warm_up(run: Run, cap_seconds: float) -> dict[str, Any]:
    """Run until the timings are stationary (``WARMUP_RULE``); what was discarded, and whether they became so."""
    clock = time.perf_counter_ns
    medians: list[float] = []
    timings: list[int] = []
    count = 0
    stationary = False
    with undisturbed():
        begin = clock()
        end = begin + int(cap_seconds * 1e9)
        while not stationary:
            window: list[int] = []
            opened = clock()
            while len(window) < 3 or clock() - opened < _WINDOW_NS:
                start = clock()
                run()
                window.append(clock() - start)
                if clock() > end:
                    break
            count += len(window)
            timings.extend(window[:max(_KEPT - len(timings), 0)])
            medians.append(statistics.median(window))
            if clock() > end:
                break
            last = medians[-3:]
            stationary = (len(last) == 3 and max(last) - min(last) <= AGREE * min(last)
                          and last[2] >= 0.99 * last[1])
        seconds = (clock() - begin) / 1e9
    return {"rule": WARMUP_RULE, "runs": count, "seconds": seconds, "stationary": stationary, "cap_s": cap_seconds,
            "window_medians_s": [m / 1e9 for m in medians], "timings_s": [t / 1e9 for t in timings]}


def latency(run: Run, buffer: Buffer, seconds: float, least: int, most: int) -> None:
    """Time one run after another for ``seconds``, ``least`` runs at least and ``most`` at most, into ``buffer``."""
    clock = time.perf_counter_ns
    most = min(most, len(buffer) - 1)
    with undisturbed():
        _time(run, buffer, clock() + int(seconds * 1e9), least, most)


def _time(run: Run, buffer: Buffer, end: int, least: int, most: int) -> int:
    """Time runs into ``buffer`` until ``end`` (nanoseconds) and ``least`` runs, or ``most``; how many it holds then."""
    clock = time.perf_counter_ns
    count = int(buffer[0])
    while count < most:
        start = clock()
        run()
        stop = clock()
        count += 1
        buffer[count] = stop - start
        buffer[0] = count
        if stop >= end and count >= least:
            break
    return count


def streams(runs: Sequence[Run], buffers: Sequence[Buffer], seconds: float, least: int) -> dict[str, Any]:
    """Run every stream at once, each in a thread of its own, for ``seconds`` and ``least`` runs of each.

    Returns the runs completed and ``per_second``, the sum of each stream's own rate.
    """
    clock = time.perf_counter_ns
    gate = threading.Barrier(len(runs))
    rates = [0.0] * len(runs)
    failures: list[BaseException] = []

    def loop(index: int) -> None:
        buffer = buffers[index]
        try:
            gate.wait()
            begin = clock()
            count = _time(runs[index], buffer, begin + int(seconds * 1e9), least, len(buffer) - 1)
            rates[index] = count * 1e9 / (clock() - begin)
        except BaseException as error:
            failures.append(error)
            gate.abort()

    threads = [threading.Thread(target=loop, args=(i,), daemon=True) for i in range(len(runs))]
    with undisturbed():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return {"runs": sum(int(b[0]) for b in buffers), "per_second": sum(rates)}
