"""Quantiles, their intervals, warm-up, and the clock that hands timings to pytest-benchmark."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from cnnexport.bench import protocol
from cnnexport.bench.replay import clock, replay
from cnnexport.results import statistics


def test_the_runs_that_a_percentile_needs() -> None:
    assert [statistics.needed(p) for p in (50, 90, 95, 99)] == [6, 36, 72, 368]
    for percent in (50, 90, 99):
        need = statistics.needed(percent)
        short = statistics.percentile([np.arange(1.0, need)], percent)
        assert (short.value, short.low, short.high, short.need) == (None, None, None, need)
        enough = statistics.percentile([np.arange(1.0, need + 1)], percent)
        assert enough.value is not None and enough.need is None


@pytest.mark.parametrize("percent", [50, 90, 99])
def test_intervals_hold_the_truth(percent: int) -> None:
    """Independent exponential runs: the interval holds the true quantile in 95 % of trials, or nearly."""
    rng = np.random.default_rng(percent)
    truth = -math.log(1 - percent / 100)
    held = 0
    for _ in range(200):
        found = statistics.percentile([rng.exponential(size=500)], percent)
        assert found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    assert held >= 182


def test_sessions_that_differ_widen_the_interval() -> None:
    """Runs agree within a session and not between: pooled order statistics would claim far too much."""
    rng = np.random.default_rng(1)
    held = narrow = 0
    for _ in range(200):
        sessions = [rng.normal(10 + rng.normal(0, 0.3), 0.01, 400) for _ in range(5)]
        found = statistics.percentile(sessions, 50)
        pooled = statistics._order_interval(np.sort(np.concatenate(sessions)), 0.5)
        assert found.low is not None and found.high is not None
        held += found.low <= 10 <= found.high
        narrow += pooled[0] <= 10 <= pooled[1]
    assert held >= 182 > narrow


def test_a_drifting_host_does_not_narrow_the_interval() -> None:
    """Sessions of one run lie close in time, so that they agree more than those of two runs of the command."""
    rng = np.random.default_rng(2)
    held = shrunk = 0
    for _ in range(200):
        drift = rng.normal(0, 0.2)
        medians = [10 + (drift := 0.8 * drift + rng.normal(0, 0.12)) for _ in range(12)]
        found = statistics.percentile([rng.normal(median, 0.01, 100) for median in medians], 50)
        assert found.low is not None and found.high is not None and found.value is not None
        held += found.low <= 10 <= found.high
        mean = statistics.t_point(11) * float(np.std(medians, ddof=1)) / math.sqrt(12)
        shrunk += abs(found.value - 10) <= mean
    assert held >= 182 > 150 > shrunk


def test_outliers_are_counted_and_kept() -> None:
    runs = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 9.0])
    assert statistics.outliers(runs)["above"] == 1 and statistics.outliers(runs)["largest_s"] == 9.0
    assert statistics.t_point(4) == pytest.approx(2.776) and statistics.t_point(1000) == pytest.approx(1.962, abs=1e-3)
    assert statistics.mean_of([2.0]).low is None and statistics.mean_of([]).value is None


def test_warm_up_waits_for_stationary_timings() -> None:
    calls = 0

    def cooling() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.005 + 0.02 * 0.9**calls)

    found = protocol.warm_up(cooling, 5.0)
    assert found["runs"] > 12 and len(found["timings_s"]) == min(found["runs"], 200)
    first, *_, last = found["window_medians_s"]
    assert last < 0.6 * first  # it did not stop while the timings still fell
    capped = protocol.warm_up(lambda: time.sleep(0.02), 0.03)
    assert not capped["stationary"] and capped["runs"] <= 3


def test_latency_keeps_every_run_and_its_limits() -> None:
    buffer = memoryview(bytearray(8 * 100)).cast("q")
    protocol.latency(lambda: time.sleep(0.001), buffer, 0.0, 5, 1000)
    assert buffer[0] == 5 and all(buffer[i] >= 1_000_000 for i in range(1, 6)) and buffer[6] == 0
    protocol.latency(lambda: None, buffer, 10.0, 1, 1000)
    assert buffer[0] == 99  # no more than the buffer holds


def test_streams_run_at_once_and_fail_aloud() -> None:
    buffers = [memoryview(bytearray(8 * 1000)).cast("q") for _ in range(2)]
    found = protocol.streams([lambda: time.sleep(0.01)] * 2, buffers, 0.2, 1)
    assert 100 < found["per_second"] < 200.1 and found["runs"] == buffers[0][0] + buffers[1][0]

    def broken() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        protocol.streams([broken, lambda: None], buffers, 0.05, 1)


def test_replayed_timings_are_exact() -> None:
    times = [0.1, 3e-05, 7.000000001]
    target = replay(times)
    seen = []
    for _ in times:
        start = clock()
        target()
        seen.append(clock() - start)
    assert seen == times
