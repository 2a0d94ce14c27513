"""Rows as text, Markdown and CSV. The same columns everywhere, and whether the file was verified in all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from cnnexport.results.rows import Results, SavedRow
from cnnexport.results.statistics import Estimate, ratio
from cnnexport.text import columns, printable

HEADER = ("model", "precision", "parity", "runtime", "scenario", "batch", "threads", "streams", "p50", "95 % interval",
          "p90", "p99", "images/s", "of limit", "notes")


_BESIDE = "Beside the first model of the bundle"


def seconds(value: float | None) -> str:
    """``1.23 ms``; empty where unknown."""
    if value is None:
        return ""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1 or unit == "µs":
            return f"{value * factor:.4g} {unit}"
    return ""


def interval(found: Estimate) -> str:
    """``1.2 ms .. 1.3 ms``; empty where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"{seconds(found.low)} .. {seconds(found.high)}"


def quantile(found: Estimate) -> str:
    """A percentile, or the count of runs that it would need."""
    if found.value is None:
        return f"(needs {found.need})" if found.need else ""
    return seconds(found.value)


def cells(row: SavedRow) -> tuple[str, ...]:
    """The row as text, one cell a column of HEADER."""
    provider = "ORT" if row.contender in ("", "onnxruntime") else row.contender
    runtime = f"{provider} {row.provider}".strip() if row.ours else row.contender
    if row.options:
        runtime += " " + " ".join(f"{k}={v}" for k, v in row.options)
    rate = row.throughput.value
    return (
        row.name, row.precision, row.status, runtime, row.scenario or row.group, str(row.batch or ""),
        str(row.threads or ""), str(row.concurrency),
        seconds(row.median.value), interval(row.median), quantile(row.percentiles["p90"]),
        quantile(row.percentiles["p99"]), "" if rate is None else f"{rate:,.4g}" if rate < 1000 else f"{rate:,.0f}",
        "" if row.share is None else f"{row.share:.0%}", row.note)


def against_first(rows: Sequence[SavedRow]) -> list[tuple[str, ...]]:
    """Models in other precisions beside the first of the same bundle and setting: a heading and a line each.

    What is the same of all is left out; the list is empty where there are none.
    """
    firsts = {row.key: row for row in rows if row.ours and not row.variant}
    pairs = [(row, firsts[row.first_key]) for row in rows if row.first_key in firsts]
    if not pairs:
        return []
    heads = ("model", "precision", "verdict", "runtime", "scenario", "batch", "threads", "streams")
    found: list[list[str]] = []
    for row, _ in pairs:
        cell = dict(zip(HEADER, cells(row)))
        found.append([cell["parity" if head == "verdict" else head] for head in heads])
    kept = [i for i, head in enumerate(heads)
            if head in ("model", "precision", "verdict") or len({line[i] for line in found}) > 1]
    made = [(*(heads[i] for i in kept), "times as fast", "95 % interval")]
    for (row, first), line in zip(pairs, found):
        by_rate = row.scenario == "throughput" and bool(row.throughput.value and first.throughput.value)
        gain = ratio(row.throughput, first.throughput) if by_rate else ratio(first.median, row.median)
        span = "" if gain.low is None or gain.high is None else f"{gain.low:.2f} .. {gain.high:.2f}"
        made.append((*(line[i] for i in kept), "" if gain.value is None else f"{gain.value:.2f}", span))
    return made


def text(results: Sequence[Results]) -> str:
    """Aligned columns; those that say nothing are left out."""
    rows = [cells(row) for found in results for row in found.rows]
    variants = any(row.variant for found in results for row in found.rows)
    kept = [i for i in range(len(HEADER)) if any(r[i] for r in rows) and not (
        HEADER[i] == "streams" and all(r[i] == "1" for r in rows)) and (HEADER[i] != "precision" or variants)]
    made = columns([[printable(r[i]) for i in kept] for r in (HEADER, *rows)])
    beside = against_first([row for found in results for row in found.rows])
    return made if not beside else "\n\n".join([made, _BESIDE + ":\n" + columns(
        [[printable(cell) for cell in line] for line in beside])])


def markdown(results: Sequence[Results]) -> str:
    """A table a file, with the machine above it."""
    parts = []
    for found in results:
        rows = [HEADER, ("---",) * len(HEADER), *(cells(row) for row in found.rows)]
        table = "\n".join("| " + " | ".join(_md(c) for c in row) + " |" for row in rows)
        machine = ", ".join(f"{k}: {v}" for k, v in found.identity.items() if v not in (None, []))
        state = "\n\n**Incomplete**: " + _md("; ".join(found.not_measured) or "a row was stopped") \
            if found.incomplete else ""
        parts.append(f"## {_md(found.path)}\n\n{_md(found.datetime)}; {_md(machine)}{state}\n\n{table}\n")
        if beside := against_first(found.rows):
            lines = [beside[0], ("---",) * len(beside[0]), *beside[1:]]
            parts.append(f"{_BESIDE}:\n\n" + "\n".join(
                "| " + " | ".join(_md(cell) for cell in line) + " |" for line in lines) + "\n")
    return "\n".join(parts)


def _md(cell: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    cell = printable(cell)
    for mark in "\\`*_[]|":
        cell = cell.replace(mark, f"\\{mark}" if mark != "_" else "_")
    return cell.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def comma_separated(results: Sequence[Results]) -> str:
    """One line a row, in seconds and images/s; empty where a figure is not known."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("p50", "p90", "p95", "p99")
    writer.writerow(["file", "row", "model", "contender", "provider", "options", "scenario", "batch", "threads",
                     "streams", *(f"{n}_{k}" for n in names for k in ("s", "low_s", "high_s")), "images_per_s",
                     "images_per_s_low", "images_per_s_high", "share_of_limit", "runs", "parity", "incomplete",
                     "file_sha256", "notes", "precision"])
    for found in results:
        for row in found.rows:
            values: list[object] = []
            for name in names:
                one = row.median if name == "p50" else row.percentiles[name]
                values += [one.value, one.low, one.high]
            rate = row.throughput
            writer.writerow([_inert(v) for v in (
                found.path, row.id, row.name, row.contender, row.provider,
                " ".join(f"{k}={v}" for k, v in row.options), row.scenario or row.group, row.batch, row.threads,
                row.concurrency, *values, rate.value, rate.low, rate.high, row.share, row.runs, row.status,
                row.incomplete, row.info.get("file_sha256"), row.note, row.precision)])
    return out.getvalue()


def _inert(value: object) -> object:
    """A cell that no spreadsheet runs as a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return "" if value is None else value
