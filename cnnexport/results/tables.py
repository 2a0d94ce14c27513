"""Rows as text, Markdown and CSV. The same columns everywhere, and whether the file was verified in all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from cnnexport.results.rows import Results, SavedRow
from cnnexport.results.statistics import Estimate
from cnnexport.text import columns, printable

HEADER = ("model", "parity", "runtime", "scenario", "batch", "threads", "streams", "p50", "95 % interval", "p90", "p99",
          "images/s", "of limit", "notes")


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
        row.name, row.status, runtime, row.scenario or row.group, str(row.batch or ""), str(row.threads or ""),
        str(row.concurrency),
        seconds(row.median.value), interval(row.median), quantile(row.percentiles["p90"]),
        quantile(row.percentiles["p99"]), "" if rate is None else f"{rate:,.4g}" if rate < 1000 else f"{rate:,.0f}",
        "" if row.share is None else f"{row.share:.0%}", row.note)


def text(results: Sequence[Results]) -> str:
    """Aligned columns; those that say nothing are left out."""
    rows = [cells(row) for found in results for row in found.rows]
    kept = [i for i in range(len(HEADER)) if any(r[i] for r in rows) and not (
        HEADER[i] == "streams" and all(r[i] == "1" for r in rows))]
    return columns([[printable(r[i]) for i in kept] for r in (HEADER, *rows)])


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
                     "file_sha256", "notes"])
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
                row.incomplete, row.info.get("file_sha256"), row.note)])
    return out.getvalue()


def _inert(value: object) -> object:
    """A cell that no spreadsheet runs as a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return "" if value is None else value
