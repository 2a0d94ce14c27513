"""What one benchmark run has seen, and the table of targets at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from processes import Outcome, default_memory_limit


@dataclass
class Seen:
    """Outcomes by (architecture, contender), inference ratios by (architecture, peer), start-up times."""

    conversions: dict[tuple[str, str], list[Outcome]] = field(default_factory=dict)
    ratios: dict[tuple[str, str], tuple[float, float, float]] = field(default_factory=dict)
    startup: dict[str, float] = field(default_factory=dict)


SEEN = pytest.StashKey[Seen]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--memory-limit-gib", type=float, default=None,
                     help="memory limit of a contender; by default 80 %% of what is available")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SEEN] = Seen()


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Seen:
    return request.config.stash[SEEN]


@pytest.fixture(scope="session")
def memory_limit(request: pytest.FixtureRequest) -> int:
    given = request.config.getoption("--memory-limit-gib")
    return int(given * 2**30) if given else default_memory_limit()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where contenders leave their files: one folder an architecture and contender."""
    return tmp_path_factory.mktemp("contenders")


def _median(outcomes: list[Outcome], key: str) -> float | None:
    values = sorted(o.facts[key] for o in outcomes if o.status == "ok")
    return values[len(values) // 2] if values else None


def _targets(seen: Seen) -> list[tuple[str, str, str]]:
    """(claim, what was seen, met | not met | not run)."""
    rows: list[tuple[str, str, str]] = []

    def row(claim: str, figure: str | None, met: bool) -> None:
        rows.append((claim, figure or "-", ("met" if met else "not met") if figure else "not run"))

    names = list(dict.fromkeys(name for name, _ in seen.conversions))
    for name in names:
        ours = seen.conversions.get((name, "cnnexport"), [])
        seconds = _median(ours, "seconds")
        for peer in ("tf2onnx", "keras"):
            theirs = seen.conversions.get((name, peer), [])
            other = _median(theirs, "seconds")
            bound = {"resnet50": 5.0, "resnet152": 8.0}.get(name, 1.0) if peer == "tf2onnx" else 1.0
            claim = f"{name}: conversion {bound:g}x faster than {peer}"
            if seconds and other:
                row(claim, f"{other / seconds:.1f}x ({seconds:.2f} s, {peer} {other:.1f} s)", other / seconds >= bound)
            elif seconds and theirs:
                row(claim, f"{seconds:.2f} s; {peer}: {theirs[-1].detail or theirs[-1].status}", True)
        limit = {"vgg16": 5.0, "vgg19": 5.0, "resnet50": 3.0}.get(name)
        if seconds and limit:
            row(f"{name}: under {limit:g} s", f"{seconds:.2f} s", seconds < limit)
        peak, weights = _median(ours, "peak_above_model_mb"), _median(ours, "weights_mb")
        if peak is not None and weights is not None:
            bound = 1.3 * weights + 250
            others = ", ".join(
                f"{p} {m:.0f}" for p in ("tf2onnx", "keras")
                if (m := _median(seen.conversions.get((name, p), []), "peak_above_model_mb")) is not None)
            row(f"{name}: peak memory above the model within {bound:.0f} MB",
                f"{peak:.0f} MB{f' ({others} MB)' if others else ''}", peak <= bound)
    for (name, peer), (ratio, low, high) in seen.ratios.items():
        row(f"{name}: runs in ORT CPU as fast as {peer}'s file",
            f"ratio {ratio:.3f} (95 % CI {low:.3f} .. {high:.3f})", low <= 1.0)
    if len(seen.startup) == 2:
        ratio = seen.startup["cnnexport --help"] / seen.startup["import click"]
        row("cnnexport --help within 3x of import click", f"{ratio:.2f}x", ratio < 3)
    return rows


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = _targets(config.stash[SEEN])
    if not rows:
        return
    terminalreporter.section("targets")
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        terminalreporter.write_line("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip())


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json["targets"] = [
        {"claim": claim, "seen": figure, "result": result} for claim, figure, result in _targets(config.stash[SEEN])]
