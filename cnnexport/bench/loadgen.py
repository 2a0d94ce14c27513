"""Load as users bring it, by MLCommons' LoadGen: Poisson arrivals, one stream, many streams, all at once.

MLPerf-style: the load generator is MLCommons' own, but no rules of a submission are followed, so that no figure here
is an MLPerf result.
"""

from __future__ import annotations

import importlib.util
import queue
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnexport.bench.plan import Row
from cnnexport.distribution import extra
from cnnexport.errors import InputError, UsageError

STATEMENT = "MLPerf-style (MLCommons' LoadGen), not an MLPerf result"
_TRIALS = 7
_QUERY_MOST = 100_000


def require() -> None:
    """Raises UsageError where LoadGen is not installed."""
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise UsageError(f"MLCommons' LoadGen is not installed here; {extra('loadgen')}, or choose another "
                         "--scenario")


def rows(made: Sequence[Row], scenario: str, bound: float, streams: int) -> list[Row]:
    """``made`` under a load ``scenario``; ``bound`` is the server's p99 limit in seconds, ``streams`` its threads."""
    return [replace(row, scenario=scenario, concurrency=streams, options={"latency_bound": bound}) for row in made]


def run(
    streams: Sequence[Callable[[], None]], buffer: Any, *, scenario: str, batch: int, seconds: float, bound: float,
    run_seconds: float, deadline: float,
) -> dict[str, Any]:
    """One load test, or for ``server`` a search for the highest rate whose p99 keeps within ``bound`` seconds.

    ``streams`` run one batch each; ``run_seconds`` is the time of one. The latencies of the last (for the server, the
    best) test go to ``buffer``, a count and nanoseconds. Times are by ``time.monotonic``.
    """
    capacity = len(streams) / run_seconds
    if scenario != "server":
        found = _test(streams, scenario, batch, seconds, bound, capacity)
        _keep(buffer, found.pop("latencies_ns"))
        rate = found["per_second"]
        what = {"offline": f"{rate * batch:,.4g} images/s with everything given at once",
                "single-stream": f"one query after another, p90 {found['p90_s'] * 1e3:.4g} ms",
                "multi-stream": f"{batch} images a query, p99 {found['p99_s'] * 1e3:.4g} ms"}[scenario]
        return {**found, "statement": f"{what}. {STATEMENT}.", "mlperf_result": False, "scenario": scenario}
    low, high, best = 0.0, capacity * 1.1, None
    trials: list[dict[str, Any]] = []
    for _ in range(_TRIALS):
        if time.monotonic() + 1.5 * seconds > deadline and trials:
            break
        rate = capacity * 0.5 if not trials else (low + high) / 2
        found = _test(streams, scenario, batch, seconds, bound, rate)
        latencies = found.pop("latencies_ns")
        kept = found["p99_s"] <= bound
        trials.append({"rate": rate, "p99_s": found["p99_s"], "queries": found["queries"], "kept": kept})
        if kept:
            low, best = rate, found
            _keep(buffer, latencies)
        else:
            high = rate
        if high - low <= 0.04 * high:
            break
    if best is None:
        least = trials[-1]["rate"]
        raise InputError(f"no rate tried kept p99 within {bound * 1e3:g} ms (down to {least:.3g} queries/s; one run "
                         f"takes {run_seconds * 1e3:.3g} ms); raise --latency-bound")
    statement = (f"{low:,.4g} queries/s is the highest Poisson rate tried that keeps p99 within {bound * 1e3:g} ms "
                 f"(p99 {best['p99_s'] * 1e3:.4g} ms, {len(trials)} rates). {STATEMENT}.")
    return {**best, "rate": low, "bound_s": bound, "trials": trials, "statement": statement, "mlperf_result": False,
            "scenario": scenario}


def _keep(buffer: Any, latencies: Sequence[int]) -> None:
    kept = latencies[:len(buffer) - 1]
    buffer[0] = 0
    for index, value in enumerate(kept, 1):
        buffer[index] = value
    buffer[0] = len(kept)


def _test(
    streams: Sequence[Callable[[], None]], scenario: str, batch: int, seconds: float, bound: float, rate: float
) -> dict[str, Any]:
    """One run of LoadGen: what its summary says, and the latency of each query as LoadGen sees it begin and end."""
    import mlperf_loadgen as lg
    import numpy as np

    kinds = {"server": lg.TestScenario.Server, "offline": lg.TestScenario.Offline,
             "single-stream": lg.TestScenario.SingleStream, "multi-stream": lg.TestScenario.MultiStream}
    settings = lg.TestSettings()
    settings.scenario, settings.mode = kinds[scenario], lg.TestMode.PerformanceOnly
    settings.min_duration_ms = settings.max_duration_ms = max(int(seconds * 1000), 100)
    settings.min_query_count = 1
    if scenario == "server":
        settings.server_target_qps = rate
        settings.server_target_latency_ns = int(bound * 1e9)
        settings.max_query_count = _QUERY_MOST
    elif scenario == "offline":
        settings.offline_expected_qps = rate * batch
        settings.max_duration_ms = 0
    elif scenario == "single-stream":
        settings.single_stream_expected_latency_ns = int(0.5e9 * len(streams) / rate)
    elif scenario == "multi-stream":
        settings.multi_stream_expected_latency_ns = int(0.5e9 * len(streams) / rate)
        settings.multi_stream_samples_per_query = batch
    work: queue.SimpleQueue[Any] = queue.SimpleQueue()
    latencies: list[int] = []
    clock = time.perf_counter_ns
    failures: list[BaseException] = []

    def serve(stream: Callable[[], None]) -> None:
        while (item := work.get()) is not None:
            begun, samples = item
            try:
                stream()
            except BaseException as error:
                failures.append(error)
            latencies.append(clock() - begun)
            lg.QuerySamplesComplete([lg.QuerySampleResponse(s, 0, 0) for s in samples])

    def issue(samples: Any) -> None:
        begun = clock()
        ids = [s.id for s in samples]
        step = 1 if scenario in ("server", "single-stream") else batch
        for start in range(0, len(ids), step):
            work.put((begun, ids[start:start + step]))

    threads = [threading.Thread(target=serve, args=(s,), daemon=True) for s in streams]
    for thread in threads:
        thread.start()
    system = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(1024, 1024, lambda samples: None, lambda samples: None)
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="cnnexport-") as folder:
            logs = lg.LogSettings()
            logs.log_output.outdir = folder
            logs.log_output.copy_summary_to_stdout = False
            logs.enable_trace = False
            lg.StartTestWithLogSettings(system, library, settings, logs, str(Path(folder) / "audit.config"))
            took = time.perf_counter() - start
            text = (Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8", errors="replace")
    finally:
        for _ in threads:
            work.put(None)
        for thread in threads:
            thread.join()
        lg.DestroyQSL(library)
        lg.DestroySUT(system)
    if failures:
        raise failures[0]
    summary = {m.group(1).strip(): m.group(2).strip() for m in re.finditer(r"^([^:\n]+?)\s*:\s*(.+)$", text, re.M)}
    own = {p: float(np.percentile(latencies, p)) / 1e9 for p in (50, 90, 99)}
    if scenario == "offline":
        per_second = (number(summary, "Samples per second") or len(latencies) * batch / took) / batch
    else:
        rates = ("Completed samples per second", "QPS w/ loadgen overhead")
        per_second = next((r for key in rates if (r := number(summary, key))), len(latencies) / took)
        if scenario == "multi-stream":
            per_second = len(latencies) / took
    return {
        "per_second": per_second, "queries": len(latencies), "seconds": took, "latencies_ns": latencies,
        **{f"p{p}_s": (number(summary, f"{p}.00 percentile latency (ns)") or own[p] * 1e9) / 1e9 for p in own},
        "summary": {k: v for k, v in summary.items() if len(k) < 60}}


def number(summary: dict[str, str], key: str) -> float | None:
    """A figure of LoadGen's summary; None where it has none."""
    try:
        return float(summary[key])
    except (KeyError, ValueError):
        return None
