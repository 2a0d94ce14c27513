"""The rows of ``cnnexport bench``, collected by the pytest that ``suite`` runs; no test of cnnexport itself."""

from __future__ import annotations

from typing import Any

import pytest

from cnnexport.bench.replay import MEASURING, clock


def _measure(request: pytest.FixtureRequest, benchmark: Any, scenario: str, name: str) -> None:
    request.config.stash[MEASURING](benchmark, scenario, name, request.config)


@pytest.mark.benchmark(timer=clock, group="latency")
def test_latency(benchmark: Any, request: pytest.FixtureRequest, latency: str) -> None:
    _measure(request, benchmark, "latency", latency)


@pytest.mark.benchmark(timer=clock, group="throughput")
def test_throughput(benchmark: Any, request: pytest.FixtureRequest, throughput: str) -> None:
    _measure(request, benchmark, "throughput", throughput)


@pytest.mark.benchmark(timer=clock, group="load")
def test_load(benchmark: Any, request: pytest.FixtureRequest, load: str) -> None:
    _measure(request, benchmark, "load", load)
