"""Timings that a worker took, handed to pytest-benchmark run by run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

MEASURING = pytest.StashKey[Callable[[Any, str, str, Any], None]]()
"""Under which ``suite`` leaves, in pytest's configuration, what measures a row."""


class ReplayClock:
    """A timer whose second reading of each pair is the seconds that passed; exact, as nothing is added up."""

    __name__ = "perf_counter_ns in a worker"

    def __init__(self) -> None:
        self._pending = 0.0

    def __call__(self) -> float:
        now, self._pending = self._pending, 0.0
        return now

    def advance(self, seconds: float) -> None:
        """Let the time of one run pass."""
        self._pending = seconds


clock = ReplayClock()


def replay(seconds: Sequence[float]) -> Callable[[], None]:
    """A target for ``benchmark.pedantic`` that lets one measured run pass a call."""
    remaining = iter(seconds)

    def target() -> None:
        clock.advance(next(remaining))

    return target
