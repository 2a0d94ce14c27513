"""What timings say: quantiles with intervals, and how many runs a quantile needs.

Runs of one session resemble each other more than runs of another (where its memory lies, what the scheduler did), and
sessions of one minute more than those of the next (what else the host runs, heat), so that neither many runs nor many
sessions make a figure as certain as their number suggests. Each interval here is the widest of

- the order statistics' (binomial), which needs no assumption but independent runs;
- Student's prediction interval over the quantiles of sessions, each a process of its own: where that of one more
  session would lie. An interval for the mean would take sessions as independent and shrink with their number; a
  repeated command would miss it one time in three or more (``benchmarks/results/coverage.json`` counts how often it
  misses this one);
- the same over blocks of consecutive runs, where there are fewer than three sessions;

and ``BETWEEN_RUNS`` is added to the latter two.

Sources: David and Nagaraja, Order Statistics (2003), 7.1; Hahn and Meeker, Statistical Intervals (1991), 4.7; Georges,
Buytaert and Eeckhout, OOPSLA 2007, on several invocations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)
CONFIDENCE = 0.95
BETWEEN_RUNS = 0.01
"""What two runs of one command may differ by although the sessions of each agree.

A run cannot see it in itself, so it is added, in quadrature. It is a floor that was chosen, not measured.
"""
_BLOCKS = 10
# Two-sided 95 % points of Student's t by degrees of freedom; beyond the table the normal's with a correction.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
      2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; parts that are not known are None. ``need`` runs would have told it."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    need: int | None = None

    @property
    def half_width(self) -> float | None:
        """Half the interval, relative to the figure."""
        if self.value is None or self.low is None or self.high is None or self.value <= 0:
            return None
        return max(self.high - self.value, self.value - self.low) / self.value

    def to_dict(self) -> dict[str, Any]:
        """The estimate as JSON values."""
        return asdict(self)


def needed(percent: float) -> int:
    """The runs below which no order statistics bound a percentile on both sides at 95 %: 6 for p50, 368 for p99."""
    share = percent / 100
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(max(share, 1 - share)))


def t_point(degrees: int) -> float:
    """The two-sided 95 % point of Student's t."""
    if degrees < 1:
        return math.inf
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees)


def percentile(sessions: Sequence[Seconds], percent: float) -> Estimate:
    """A percentile of the pooled runs of ``sessions`` (seconds, in the order they ran), and its interval."""
    runs = np.sort(np.concatenate(sessions)) if sessions else np.empty(0)
    need = needed(percent)
    if len(runs) < need:
        return Estimate(None, None, None, need)
    value = float(np.percentile(runs, percent))
    low, high = _order_interval(runs, percent / 100)
    spread = math.hypot(_spread([s for s in sessions if len(s)], percent), BETWEEN_RUNS * value)
    return Estimate(value, min(low, max(value - spread, float(runs[0]))), max(high, value + spread), None)


def mean_of(values: Sequence[float]) -> Estimate:
    """The mean of one figure a session, and its interval; no interval from a single one."""
    if not values:
        return Estimate(None, None, None, 2)
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, None, None, 2)
    half = math.hypot(_predicted(values), BETWEEN_RUNS * mean)
    return Estimate(mean, max(mean - half, 0.0), mean + half)


def ratio(over: Estimate, under: Estimate) -> Estimate:
    """``over`` in ``under``, of two runs that are taken as independent; without an interval where either has none.

    The relative widths that face each other add in quadrature (Zou and Donner, Statistics in Medicine 27, 2008).
    """
    if not over.value or not under.value or over.value < 0 or under.value < 0:
        return Estimate(None, None, None)
    value = over.value / under.value
    widths = _widths(over), _widths(under)
    if widths[0] is None or widths[1] is None:
        return Estimate(value, None, None)
    return Estimate(value, value * math.exp(-math.hypot(widths[0][0], widths[1][1])),
                    value * math.exp(math.hypot(widths[0][1], widths[1][0])))


def _widths(found: Estimate) -> tuple[float, float] | None:
    """How far the interval reaches below and above its figure, in logarithms; None where a bound is missing."""
    if found.low is None or found.high is None or found.low <= 0 or found.high <= 0 or not found.value:
        return None
    return max(math.log(found.value / found.low), 0.0), max(math.log(found.high / found.value), 0.0)


def _spread(sessions: Sequence[Seconds], percent: float) -> float:
    """Half the width of the interval over sessions, or over blocks of time where sessions are few."""
    groups: list[Seconds] = list(sessions)
    if len(groups) < 3:
        blocks = [b for s in sessions for b in np.array_split(s, min(_BLOCKS, max(len(s) // 5, 1)))]
        over_blocks = _predicted([float(np.percentile(b, percent)) for b in blocks if len(b)])
    else:
        over_blocks = 0.0
    over_sessions = _predicted([float(np.percentile(s, percent)) for s in groups])
    return max(over_blocks, over_sessions)


def _predicted(values: Sequence[float]) -> float:
    """Half the width of the interval in which one more of ``values`` would lie."""
    if len(values) < 2:
        return 0.0
    return t_point(len(values) - 1) * float(np.std(values, ddof=1)) * math.sqrt(1 + 1 / len(values))


def _order_interval(ordered: Seconds, share: float) -> tuple[float, float]:
    """The order statistics between which a quantile lies with at least 95 %; ``ordered`` has at least ``needed`` runs.

    Exact tails of the binomial, in logarithms; a normal approximation beyond 5000 runs.
    """
    n = len(ordered)
    tail = (1 - CONFIDENCE) / 2
    if n > 5000:
        half = 1.96 * math.sqrt(n * share * (1 - share)) + 1
        low, high = math.floor(n * share - half), math.ceil(n * share + half)
    else:
        k = np.arange(n + 1)
        logs = (math.lgamma(n + 1) - np.array([math.lgamma(i + 1) + math.lgamma(n - i + 1) for i in k])
                + k * math.log(share) + (n - k) * math.log1p(-share))
        below = np.cumsum(np.exp(logs))
        low = int(np.searchsorted(below, tail, side="right")) - 1  # P(count <= low) <= tail
        high = int(np.searchsorted(below, 1 - tail))  # P(count > high) <= tail
    return float(ordered[min(max(low, 0), n - 1)]), float(ordered[min(max(high, 0), n - 1)])


def outliers(runs: Seconds) -> dict[str, Any]:
    """Runs outside Tukey's fences (1.5 interquartile ranges): counted, never dropped."""
    first, third = (float(q) for q in np.percentile(runs, (25, 75)))
    low, high = first - 1.5 * (third - first), third + 1.5 * (third - first)
    above, below = int((runs > high).sum()), int((runs < low).sum())
    return {"rule": "Tukey, 1.5 interquartile ranges; kept in every figure", "above": above, "below": below,
            "share": (above + below) / len(runs), "largest_s": float(runs.max())}
