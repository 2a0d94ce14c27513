"""``cnnexport bench`` as a function: targets to rows, rows to an outcome with its texts and exit code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnexport import runtimes as registry
from cnnexport.bench import plan, suite
from cnnexport.bench import tune as tuning
from cnnexport.bench.plan import Goal
from cnnexport.bench.subjects import Subject, subject
from cnnexport.errors import CnnexportError, ProviderError, UsageError
from cnnexport.files import check_writable
from cnnexport.results import rows as saved
from cnnexport.results import tables

LOAD_SCENARIOS = ("server", "offline", "single-stream", "multi-stream")


@dataclass
class BenchOutcome:
    """What the command has to say: pytest-benchmark's document, a table, warnings, errors."""

    document: dict[str, Any] | None = None
    text: str = ""
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    exit_code: int = 0
    interrupted: bool = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self.document["benchmarks"]) if self.document else []

    def to_dict(self) -> dict[str, Any]:
        """The document; where no row came to be, an empty list of them."""
        made = self.document or {"benchmarks": []}
        return {**made, "errors": self.errors, "warnings": self.warnings, "exit_code": self.exit_code}

    def fail(self, error: CnnexportError, where: str = "") -> None:
        text = str(error)
        line = text if not where or where in text else f"{where}: {text}"
        if line not in self.errors:
            self.errors.append(line)
        self.exit_code = max(self.exit_code, error.exit_code)


def bench(
    targets: Sequence[str],
    *,
    providers: Sequence[str] = ("cpu",),
    runtimes: Sequence[str] = (registry.DEFAULT,),
    batches: tuple[int, ...] | None = None,
    threads: Sequence[int] | None = None,
    scenario: str = "latency",
    concurrency: Sequence[int] | None = None,
    tune: bool = False,
    min_time: float = 1.0,
    max_time: float = 30.0,
    precision: float = 0.02,
    latency_bound: float = 0.1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    cuda_options: Mapping[str, Sequence[str]] | None = None,
    allow_partial: bool = False,
    save: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> BenchOutcome:
    """Measure ``targets`` (bundles or ONNX files) in ``runtimes``. Times in seconds, ``precision`` a share.

    A runtime that has none of ``providers`` runs on its default.

    A target, provider or row that fails is in ``errors`` and sets the exit code; the others are measured.

    Raises:
        UsageError: a bad value, a runtime that is unknown or not installed, or ``save`` that cannot be written.
    """
    goal = Goal(min_time, max_time, precision)
    if tune and scenario != "throughput":
        raise UsageError("--tune searches for throughput: give --scenario throughput too")
    if concurrency and scenario == "latency":
        raise UsageError("--concurrency is of --scenario throughput (or both): latency is that of one stream")
    if save is not None:
        check_writable(save)
    outcome = BenchOutcome()
    subjects: list[Subject] = []
    usable = _usable(runtimes, providers, outcome)
    for target in targets:
        tell("read")
        try:
            subjects.append(subject(target, shapes))
        except CnnexportError as error:
            outcome.fail(error, target)
    if not subjects or not usable:
        return outcome
    options = {k: v for k, v in (cuda_options or {}).items()}
    if options and "cuda" not in providers:
        raise UsageError("--cuda-option needs --provider cuda")
    known: dict[str, Any] = {
        "providers": providers, "runtimes": runtimes, "batches": batches, "threads": threads,
        "concurrency": concurrency, "cuda_options": options or None, "allow_partial": allow_partial}
    if scenario in LOAD_SCENARIOS:
        from cnnexport.bench import loadgen

        loadgen.require()
        if scenario == "multi-stream" and batches is None and all(s.dynamic_batch for s in subjects):
            known["batches"] = (8,)  # MLPerf's samples a query
        made = plan.rows(subjects, **{**known, "concurrency": None}, scenario="latency")
        rows = loadgen.rows(made, scenario, latency_bound, (concurrency or (1,))[0])
    elif tune:
        rows, goal = _tuning(subjects, known, goal)
    else:
        rows = plan.rows(subjects, **known, scenario=scenario)
    rows = [row for row in rows if (row.runtime, row.provider) in usable]
    found = suite.run(rows, goal, save=save, tell=tell)
    outcome.document, outcome.interrupted = found.document, found.interrupted
    for name, failure in found.failures:
        outcome.fail(failure, name)
    _describe(outcome, tuned=tune)
    return outcome


def _tuning(subjects: Sequence[Subject], known: dict[str, Any], goal: Goal) -> tuple[list[plan.Row], Goal]:
    return tuning.rows(subjects, known), tuning.goal(goal)


def _usable(runtimes: Sequence[str], providers: Sequence[str], outcome: BenchOutcome) -> set[tuple[str, str]]:
    """The runtimes, each with a provider, that make a session here; for the others, why not."""
    usable = set()
    for runtime, provider in registry.chosen(runtimes, providers):
        try:
            runtime.probe(provider)
            usable.add((runtime.name, provider))
        except ProviderError as error:
            outcome.fail(error)
    return usable


def _describe(outcome: BenchOutcome, *, tuned: bool) -> None:
    """The table, the best setting, and what a reader must be warned of."""
    if outcome.document is None:
        return
    read = saved.read(outcome.document, "")
    parts = [tables.text([read])]
    for row in outcome.document["benchmarks"]:
        info = row["extra_info"]
        name = row["name"]
        if info["incomplete"]:
            outcome.warnings.append(f"{name} is incomplete ({info['stopped']}): what was measured is kept")
            if info["stopped"] == "stalled":
                outcome.exit_code = max(outcome.exit_code, 3)
        outcome.warnings.extend(f"{name}: {text}; --shape says otherwise" for text in info["assumed"])
        if not info["verified"]:
            text = f"{info['target']} is unverified: no parity record proves what it computes"
            if text not in outcome.warnings:
                outcome.warnings.append(text)
    if outcome.rows:  # later rows see the load of those before them
        machine = outcome.rows[0]["extra_info"]["machine"]
        load, cores = (machine["before"].get("load_average") or [0.0])[0], len(machine["affinity"] or [0])
        if load > 0.5 * cores:
            outcome.warnings.append(f"the machine was busy before this began: load average {load:g} on {cores} cores")
    best = tuning.best(read.rows)
    if best:
        parts.append(best)
    if tuned:
        parts.append(tuning.format_frontier(read.rows))
    parts += [line for line in map(_load_line, outcome.document["benchmarks"]) if line]
    outcome.text = "\n\n".join(parts)


def _load_line(row: Mapping[str, Any]) -> str:
    load = row["extra_info"].get("loadgen")
    return "" if not load else f"{row['extra_info']['name']}: {load['statement']}"
