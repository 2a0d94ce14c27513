"""OLD against NEW: slower beyond what chance explains?

A row has regressed when the whole 95 % interval of new / old (``statistics.ratio``) lies above the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cnnexport.errors import InputError, RegressionError, UsageError
from cnnexport.results.rows import Results, SavedRow
from cnnexport.results.statistics import ratio
from cnnexport.results.tables import seconds
from cnnexport.text import columns, printable

REGRESSED, INCONCLUSIVE, FASTER, WITHIN, UNKNOWN = (
    "regressed", "inconclusive", "faster", "within the limit", "no interval")


@dataclass(frozen=True)
class Change:
    """One row in both files. ``ratio`` is the time new / old (of throughput, old / new): above 1 is slower.

    ``precision`` and ``status`` are the new row's: what its file computes in, and whether that is proven.
    """

    row: str
    figure: str
    old: float | None
    new: float | None
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str
    same_file: bool
    note: str = ""
    precision: str = ""
    status: str = ""


@dataclass(frozen=True)
class ResultsComparison:
    """All rows of two files, those in one of them alone, and how the machines differ."""

    old: str
    new: str
    limit: float
    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        return any(c.verdict == REGRESSED for c in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {**asdict(self), "regressed": self.regressed}

    def raise_if_regressed(self) -> None:
        """Raises RegressionError where a row is slower beyond the limit."""
        rows = [c for c in self.changes if c.verdict == REGRESSED]
        if rows:
            worst = max(rows, key=lambda c: c.ratio or 0.0)
            raise RegressionError(
                f"{len(rows)} of {len(self.changes)} rows are slower by more than {self.limit:.4g} of the old figure "
                f"beyond chance; worst is {worst.row}, {(worst.ratio or 1) - 1:+.1%} (95 % interval "
                f"{(worst.low or 1) - 1:+.1%} .. {(worst.high or 1) - 1:+.1%})")


def compare(old: Results, new: Results, limit: float, *, allow_different_machines: bool = False) -> ResultsComparison:
    """Compare row by row.

    Raises:
        UsageError: the machines differ, and nobody said that they may.
        InputError: no row is in both files.
    """
    differences = tuple(
        f"{key}: {old.identity.get(key)} and {new.identity.get(key)}" for key in {**old.identity, **new.identity}
        if old.identity.get(key) != new.identity.get(key))
    if differences and not allow_different_machines:
        raise UsageError(f"{old.path} and {new.path} are of different machines ({'; '.join(differences)}); measure "
                         "both on one, or give --allow-different-machines")
    before, after = _by_key(old), _by_key(new)
    shared = [key for key in before if key in after]
    if not shared:
        raise InputError(f"{old.path} and {new.path} share no row (name, scenario, provider, batch, threads); compare "
                         "two runs of the same command")
    changes = tuple(_change(before[key], after[key], limit) for key in shared)
    return ResultsComparison(old.path, new.path, limit, changes, tuple(before[k].id for k in before if k not in after),
                      tuple(after[k].id for k in after if k not in before), differences)


def _by_key(found: Results) -> dict[tuple[Any, ...], SavedRow]:
    made: dict[tuple[Any, ...], SavedRow] = {}
    for row in found.rows:
        made.setdefault(row.key, row)
    return made


def _change(old: SavedRow, new: SavedRow, limit: float) -> Change:
    by_rate = old.scenario == "throughput" and bool(old.throughput.value and new.throughput.value)
    a, b = (old.throughput, new.throughput) if by_rate else (old.median, new.median)
    notes = [f"{which} is incomplete" for which, row in (("OLD", old), ("NEW", new)) if row.incomplete]
    if new.variant:
        was = f", was {old.status}" if old.status != new.status else ""
        notes.insert(0, f"{new.precision}, verdict {new.status}{was}")
    note = "; ".join(notes)
    same = bool(old.info.get("file_sha256")) and old.info.get("file_sha256") == new.info.get("file_sha256")
    figure = "images/s" if by_rate else "median"
    found = ratio(a, b) if by_rate else ratio(b, a)
    kept: dict[str, Any] = {
        "row": new.id, "figure": figure, "old": a.value, "new": b.value, "ratio": found.value, "low": found.low,
        "high": found.high, "same_file": same, "note": note, "precision": new.precision, "status": new.status}
    if found.low is None or found.high is None:
        return Change(**kept, verdict=UNKNOWN)
    low, high = found.low, found.high
    if low > 1 + limit:
        verdict = REGRESSED
    elif high <= 1 + limit:
        verdict = FASTER if high < 1 else WITHIN
    else:
        verdict = INCONCLUSIVE
    return Change(**kept, verdict=verdict)


def format_comparison(found: ResultsComparison) -> str:
    """A line for each row, then what is in one file alone."""
    def figure(change: Change, value: float | None) -> str:
        return "" if value is None else f"{value:,.4g}/s" if change.figure == "images/s" else seconds(value)

    rows: list[Sequence[str]] = [("row", "old", "new", "change", "95 % interval", "verdict", "")]
    for c in found.changes:
        span = "" if c.low is None or c.high is None else f"{c.low - 1:+.1%} .. {c.high - 1:+.1%}"
        rows.append((c.row, figure(c, c.old), figure(c, c.new), "" if c.ratio is None else f"{c.ratio - 1:+.1%}", span,
                     c.verdict, c.note))
    lines = [columns([[printable(cell) for cell in row] for row in rows])]
    lines += [f"only in OLD: {printable(name)}" for name in found.missing]
    lines += [f"only in NEW: {printable(name)}" for name in found.added]
    lines += [f"machines differ: {printable(text)}" for text in found.differences]
    return "\n".join(lines)
