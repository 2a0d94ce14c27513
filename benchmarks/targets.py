"""What the project claims of itself, and what a run of the benchmarks saw of it."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.processes import OK, Run

ARCHITECTURES = ("lenet5", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19")
INFERRED = ("lenet5", "resnet50", "vgg16")
PEERS = ("tf2onnx", "keras")

FASTER = {"resnet50": 5.0, "resnet152": 8.0}
"""Times that conversion must be faster than plain tf2onnx."""

SECONDS = {"resnet50": 3.0, "vgg16": 5.0, "vgg19": 5.0}
"""Seconds that conversion must stay under."""

MEMORY_FACTOR, MEMORY_BYTES = 1.3, 250e6
STARTUP_RATIO = 3.0

MET, NOT_MET, NOT_RUN = "met", "not met", "not run"
_RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios, ours over a peer's, and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Inference:
    """Seconds of one run by contender, round by round.

    A contender without times is in ``missing`` if it ran out of memory or time, in ``wrong`` if it broke or
    its file computes something else, each with the reason.
    """

    times: dict[str, list[float]]
    missing: dict[str, str]
    wrong: dict[str, str]
    calls: int
    threads: int
    hashes: dict[str, str]

    def ratio(self, peer: str) -> Ratio | None:
        """Ours over ``peer``'s; None where either did not run."""
        if "cnnexport" not in self.times or peer not in self.times:
            return None
        return paired_ratio(self.times["cnnexport"], self.times[peer])


@dataclass
class Results:
    """All that one run of the benchmarks measured."""

    memory_limit: int
    conversions: dict[tuple[str, str], list[Run]] = field(default_factory=dict)
    inference: dict[str, Inference] = field(default_factory=dict)
    startup: dict[str, list[float]] = field(default_factory=dict)

    def done(self, contender: str, architecture: str) -> list[Run]:
        """The conversions that came through, with outputs that agree with Keras."""
        runs = self.conversions.get((contender, architecture), [])
        return [r for r in runs if r.status == OK and r.parity and r.parity["passed"]]

    def seconds(self, contender: str, architecture: str) -> float | None:
        """The median time of a conversion; None where one failed."""
        runs = self.done(contender, architecture)
        whole = len(runs) == len(self.conversions.get((contender, architecture), []))
        return statistics.median(r.seconds for r in runs) if runs and whole else None

    def fate(self, contender: str, architecture: str) -> str:
        """The time of a conversion, or what became of it."""
        seconds = self.seconds(contender, architecture)
        if seconds is not None:
            return f"{seconds:.2f} s"
        runs = self.conversions.get((contender, architecture), [])
        if not runs:
            return NOT_RUN
        if runs[-1].status == OK:
            return "outputs disagree"
        return f"{runs[-1].status} ({runs[-1].detail})"


@dataclass(frozen=True)
class Target:
    """One claim, the figure seen, and whether the claim was met."""

    claim: str
    seen: str
    verdict: str


def memory_allowed(weights_bytes: int) -> float:
    """Bytes that a conversion may take above the built model."""
    return MEMORY_FACTOR * weights_bytes + MEMORY_BYTES


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The median of ``ours[i] / theirs[i]``, and its percentile bootstrap interval."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    cut = round(0.025 * _RESAMPLES)
    return Ratio(statistics.median(ratios), medians[cut], medians[-cut - 1], len(ratios))


def _verdict(met: bool) -> str:
    return MET if met else NOT_MET


def evaluate(results: Results) -> list[Target]:
    """Every claim against what was measured."""
    return [
        *(_faster(results, name, factor) for name, factor in FASTER.items()),
        *(_under(results, name, limit) for name, limit in SECONDS.items()),
        *(_memory(results, name) for name in ARCHITECTURES),
        *(_inference(results, name, peer) for name in INFERRED for peer in PEERS),
        _startup(results),
    ]


def _faster(results: Results, name: str, factor: float) -> Target:
    claim = f"{name}: at least {factor:g}x faster than tf2onnx"
    if not all(results.conversions.get((c, name)) for c in ("cnnexport", "tf2onnx")):
        return Target(claim, "", NOT_RUN)
    ours, theirs = results.seconds("cnnexport", name), results.seconds("tf2onnx", name)
    seen = f"{results.fate('cnnexport', name)} against {results.fate('tf2onnx', name)}"
    if ours is None:
        return Target(claim, seen, NOT_MET)
    if theirs is None:  # there is no ratio to a conversion that does not end
        return Target(claim, seen, NOT_RUN)
    return Target(claim, f"{theirs / ours:.1f}x ({seen})", _verdict(theirs >= factor * ours))


def _under(results: Results, name: str, limit: float) -> Target:
    dies = name.startswith("vgg")
    claim = f"{name}: under {limit:g} s" + (" where tf2onnx dies" if dies else " (aim)")
    if not results.conversions.get(("cnnexport", name)):
        return Target(claim, "", NOT_RUN)
    ours = results.seconds("cnnexport", name)
    seen = results.fate("cnnexport", name) + (f"; tf2onnx: {results.fate('tf2onnx', name)}" if dies else "")
    return Target(claim, seen, _verdict(ours is not None and ours < limit))


def _memory(results: Results, name: str) -> Target:
    claim = f"{name}: peak memory at most {MEMORY_FACTOR:g}x weights + {MEMORY_BYTES / 1e6:.0f} MB"
    if not results.conversions.get(("cnnexport", name)):
        return Target(claim, "", NOT_RUN)
    runs = results.done("cnnexport", name)
    if results.seconds("cnnexport", name) is None:
        return Target(claim, results.fate("cnnexport", name), NOT_MET)
    peak = max(r.peak_above_model for r in runs)
    allowed = memory_allowed(runs[0].facts["weights_bytes"])
    return Target(claim, f"{peak / 1e6:.0f} of {allowed / 1e6:.0f} MB", _verdict(peak <= allowed))


def _inference(results: Results, name: str, peer: str) -> Target:
    claim = f"{name}: runs at most 1.00x the time of {peer}'s file"
    measured = results.inference.get(name)
    if measured is None:
        return Target(claim, "", NOT_RUN)
    ratio = measured.ratio(peer)
    if ratio is None:
        reasons = {**measured.missing, **measured.wrong}
        return Target(claim, reasons.get("cnnexport") or reasons.get(peer, ""), NOT_RUN)
    noise = ", within noise" if ratio.low <= 1.0 < ratio.median else ""
    return Target(claim, f"{ratio}, {ratio.pairs} pairs{noise}", _verdict(ratio.low <= 1.0))


def _startup(results: Results) -> Target:
    claim = f"cnnexport --help: under {STARTUP_RATIO:g}x the time of import click"
    if len(results.startup) < 2:
        return Target(claim, "", NOT_RUN)
    ours, theirs = (statistics.median(results.startup[k]) for k in ("cnnexport --help", "import click"))
    seen = f"{ours / theirs:.2f}x ({ours * 1e3:.0f} ms against {theirs * 1e3:.0f} ms)"
    return Target(claim, seen, _verdict(ours < STARTUP_RATIO * theirs))


def as_json(results: Results) -> dict[str, Any]:
    """Everything above as JSON-ready values, conversions that did not end among them."""
    return {
        "memory_limit_bytes": results.memory_limit,
        "targets": [asdict(t) for t in evaluate(results)],
        "conversions": [
            {**asdict(r), "path": r.path.name} for runs in results.conversions.values() for r in runs],
        "inference_ratios": {
            name: {peer: asdict(ratio) for peer in PEERS if (ratio := measured.ratio(peer))}
            for name, measured in results.inference.items()},
    }


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned lines."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def target_lines(results: Results) -> list[str]:
    """One line for each claim: what it is, what was seen, and whether it was met."""
    return table([("claim", "seen", "verdict"), *((t.claim, t.seen, t.verdict) for t in evaluate(results))])


def conversion_lines(results: Results) -> list[str]:
    """One line for each conversion, those that did not end among them."""
    rows = [(
        "architecture", "contender", "time", "rounds", "peak above model", "weights", "file", "max error")]
    for (contender, name), runs in results.conversions.items():
        done = results.done(contender, name)
        cells = ("", "", "", "")
        if done:
            cells = (
                f"{max(r.peak_above_model for r in done) / 1e6:.0f} MB",
                f"{done[0].facts['weights_bytes'] / 1e6:.1f} MB",
                f"{done[0].facts['file_bytes'] / 1e6:.1f} MB",
                f"{max(r.parity['max_error'] for r in done if r.parity):.1e}")
        rows.append((name, contender, results.fate(contender, name), str(len(runs)), *cells))
    return table(rows)
