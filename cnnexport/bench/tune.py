"""The best setting for throughput, and the frontier between throughput and latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cnnexport.bench import plan
from cnnexport.bench.options import THROUGHPUT, BenchOptions, Goal
from cnnexport.bench.plan import Row
from cnnexport.bench.subjects import Subject
from cnnexport.results.rows import SavedRow
from cnnexport.results.tables import seconds
from cnnexport.runtimes import DEFAULT, saved_as

_BATCHES = (1, 2, 4, 8, 16, 32)


def rows(subjects: Sequence[Subject], options: BenchOptions) -> list[Row]:
    """Every setting of threads x concurrency x batch that the search tries, as far as none was given.

    Threads are powers of two up to the cores, streams up to twice the cores that they leave.
    """
    cores = plan.default_threads()
    threads = options.threads or sorted({*(2**i for i in range(cores.bit_length()) if 2**i <= cores), cores})
    made = []
    for count in threads:
        fit = max(2 * cores // count, 1)
        streams = options.concurrency or tuple(s for s in (1, 2, 4, 8, 16, 32, 64) if s <= fit)
        for subject in subjects:
            batches = options.batches or (_BATCHES if subject.dynamic_batch else None)
            made += plan.rows([subject], options, batches=batches, threads=(count,), concurrency=streams)
    labels = dict(zip((s.path for s in subjects), plan.labels_of(subjects)))
    return [replace(row, label=labels[row.subject.path]) for row in made]


def goal(asked: Goal) -> Goal:
    """A search is wide rather than exact: three sessions of a row, at twice the half-width."""
    return replace(asked, sessions=3, precision=max(asked.precision, 0.04))


def frontier(seen: Sequence[SavedRow]) -> list[SavedRow]:
    """The rows that no other beats in both images/s and median latency, by rising throughput."""
    known = [r for r in seen if r.throughput.value and r.median.value]
    best = []
    for row in known:
        rate, time = row.throughput.value or 0.0, row.median.value or 0.0
        if not any((o.throughput.value or 0.0) >= rate and (o.median.value or 0.0) <= time and o is not row
                   and ((o.throughput.value or 0.0) > rate or (o.median.value or 0.0) < time) for o in known):
            best.append(row)
    return sorted(best, key=lambda r: r.throughput.value or 0.0)


def best(seen: Sequence[SavedRow]) -> str:
    """For each model, runtime and provider of several throughput rows, the setting with most images/s, if any."""
    groups: dict[tuple[str, str], list[SavedRow]] = {}
    for row in seen:
        if row.scenario == THROUGHPUT and row.throughput.value:
            groups.setdefault((row.name, _place(row)), []).append(row)
    lines = []
    for (name, place), members in groups.items():
        if len(members) < 2:
            continue
        top = max(members, key=lambda r: r.throughput.value or 0.0)
        rivals = [r for r in members if r is not top and (r.throughput.high or 0.0) > (top.throughput.low or 0.0)]
        lines.append(f"best for {name} on {place}: {_setting(top)}, {top.throughput.value:,.4g} images/s"
                     + (f" ({len(rivals)} other settings within its interval)" if rivals else ""))
    return "\n".join(lines)


def format_frontier(seen: Sequence[SavedRow]) -> str:
    """The frontier of each model, runtime and provider, a line a setting."""
    lines = []
    for key in dict.fromkeys((r.name, _place(r)) for r in seen):
        members = [r for r in seen if (r.name, _place(r)) == key]
        lines.append(f"frontier of {key[0]} on {key[1]} (more images/s only for more latency):")
        lines += [f"  {r.throughput.value or 0:>10,.4g} images/s  p50 {seconds(r.median.value):>9}  {_setting(r)}"
                  for r in frontier(members)]
    return "\n".join(lines)


def _place(row: SavedRow) -> str:
    """The provider, and the runtime where that is not the usual one."""
    usual = row.contender in ("", saved_as(DEFAULT))
    return row.provider if usual else f"{row.contender} {row.provider}"


def _setting(row: SavedRow) -> str:
    extra = "".join(f", {k}={v}" for k, v in row.options)
    return f"batch {row.batch}, {row.concurrency} streams, {row.threads} threads{extra}"
