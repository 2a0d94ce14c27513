"""``cnnexport bench`` as a function: targets to rows, rows to an outcome with its texts and exit code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cnnexport import runtimes as registry
from cnnexport.bench import plan, suite
from cnnexport.bench import tune as tuning
from cnnexport.bench.options import LATENCY, LOAD_SCENARIOS, BenchOptions
from cnnexport.bench.subjects import Subject, subject
from cnnexport.errors import CnnexportError, ProviderError
from cnnexport.files import check_writable
from cnnexport.results import rows as saved
from cnnexport.results import tables


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
    options: BenchOptions | None = None,
    *,
    save: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    **asked: Any,
) -> BenchOutcome:
    """Measure ``targets``, bundles or ONNX files; ``asked`` are fields of ``BenchOptions`` in place of ``options``'.

    A target, provider or row that fails is in ``errors`` and sets the exit code; the others are measured.

    Raises:
        UsageError: a bad value, a runtime that is unknown or not installed, or ``save`` that cannot be written.
    """
    options = replace(options or BenchOptions(), **asked)
    if save is not None:
        check_writable(save)
    outcome = BenchOutcome()
    subjects: list[Subject] = []
    usable = _usable(options, outcome)
    for target in targets:
        tell("read")
        try:
            subjects.append(subject(target, options.shapes))
        except CnnexportError as error:
            outcome.fail(error, target)
    if not subjects or not usable:
        return outcome
    goal = tuning.goal(options.goal) if options.tune else options.goal
    rows = [row for row in _rows(subjects, options) if (row.runtime, row.provider) in usable]
    found = suite.run(rows, goal, options, save=save, tell=tell)
    outcome.document, outcome.interrupted = found.document, found.interrupted
    for name, failure in found.failures:
        outcome.fail(failure, name)
    _describe(outcome, tuned=options.tune)
    return outcome


def _rows(subjects: Sequence[Subject], options: BenchOptions) -> list[plan.Row]:
    if options.tune:
        return tuning.rows(subjects, options)
    if options.scenario not in LOAD_SCENARIOS:
        return plan.rows(subjects, options)
    from cnnexport.bench import loadgen

    loadgen.require()
    # MLPerf's samples a query.
    several = options.scenario == "multi-stream" and not options.batches and all(s.dynamic_batch for s in subjects)
    made = plan.rows(subjects, options, scenario=LATENCY, concurrency=None,
                     batches=(8,) if several else options.batches)
    return loadgen.rows(made, options.scenario, options.latency_bound, (options.concurrency or (1,))[0])


def _usable(options: BenchOptions, outcome: BenchOutcome) -> set[tuple[str, str]]:
    """The runtimes, each with a provider, that make a session here; for the others, why not."""
    usable = set()
    for runtime, provider in registry.chosen(options.runtimes, options.providers):
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
            text = (f"{info['target']} is unverified: no parity record proves what it computes"
                    if info["parity"] == "unverified" else f"{info['target']} has the verdict inconclusive, not ship")
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
