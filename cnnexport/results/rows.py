"""The rows of files that ``cnnexport bench --save`` or pytest-benchmark wrote. Nothing in a file is trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cnnexport import files
from cnnexport.errors import InputError
from cnnexport.results import statistics
from cnnexport.results.statistics import Estimate

_LARGEST = 1 << 30


@dataclass(frozen=True)
class SavedRow:
    """One row of a file. ``sessions`` holds the timed runs in seconds, empty where the file kept none.

    ``ours`` is False for a row that another benchmark of pytest wrote, which has statistics and no evidence.
    """

    source: str
    id: str
    name: str
    scenario: str
    group: str
    contender: str
    provider: str
    batch: int | None
    threads: int | None
    concurrency: int
    options: tuple[tuple[str, str], ...]
    verified: bool | None
    incomplete: bool
    median: Estimate
    percentiles: dict[str, Estimate]
    throughput: Estimate
    share: float | None
    stopped: str
    runs: int
    sessions: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    info: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    stats: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    ours: bool = True

    @property
    def key(self) -> tuple[Any, ...]:
        """What must be equal for two rows to be compared."""
        return (self.scenario, self.name, self.contender, self.provider, self.batch, self.threads, self.concurrency,
                self.options, "" if self.ours else self.id)

    @property
    def status(self) -> str:
        """Whether the file is proven: ``verified``, ``unverified``, a variant's verdict; nothing of a foreign row."""
        if (judged := as_dict(self.info.get("parity")).get("verdict")) in ("ship", "inconclusive") and self.ours:
            return str(judged)
        return "" if self.verified is None else ("verified" if self.verified else "unverified")

    @property
    def variant(self) -> bool:
        """Whether the file is a bundle's in another precision, with a verdict."""
        return self.ours and isinstance(as_dict(self.info.get("parity")).get("verdict"), str)

    @property
    def precision(self) -> str:
        """What the file computes in, where a record says so."""
        parity = as_dict(self.info.get("parity"))
        told = parity.get("precision") or as_dict(parity.get("tolerance")).get("precision")
        return told[:20] if self.ours and isinstance(told, str) else ""

    @property
    def first_key(self) -> tuple[Any, ...] | None:
        """The ``key`` of the row of the same setting and the bundle's first model; None where this is no variant's."""
        first = self.name.rpartition("#")[0]
        return (self.scenario, first, *self.key[2:]) if self.variant and first else None

    @property
    def note(self) -> str:
        """What a reader must know besides: an incomplete row, a goal not met, nodes elsewhere."""
        notes = []
        if self.incomplete:
            notes.append(f"incomplete ({self.stopped})")
        elif self.ours and as_dict(self.info.get("precision")).get("met") is False and self.stopped == "max-time":
            reached = number(as_dict(self.info.get("precision")).get("reached"))
            notes.append(f"time up at ±{reached:.1%}" if reached is not None else "time up")
        if self.ours and len(self.sessions) == 1 and not self.info.get("loadgen"):
            notes.append("one session: the interval leaves out how sessions differ")
        copies = {k: _estimate(v).value for k, v in as_dict(self.info.get("transfers")).items()}
        notes += [f"{k.replace('_', ' ')} {v * 1e3:.3g} ms" for k, v in copies.items() if v is not None]
        elsewhere = as_dict(self.info.get("placement")).get("elsewhere")
        if isinstance(elsewhere, list) and elsewhere:
            notes.append(f"{len(elsewhere)} nodes on another provider")
        if self.info.get("untrained"):
            notes.append("untrained weights")
        return "; ".join(notes)


@dataclass(frozen=True)
class Results:
    """One file: its rows, machine, time and what it says of itself."""

    path: str
    rows: tuple[SavedRow, ...]
    machine: dict[str, Any]
    identity: dict[str, Any]
    datetime: str
    incomplete: bool
    not_measured: tuple[str, ...]
    failures: tuple[str, ...] = ()


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def as_dict(value: Any) -> dict[str, Any]:
    """``value`` where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """``value`` where it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def _int(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _estimate(value: Any) -> Estimate:
    facts = as_dict(value)
    value, low, high = (number(facts.get(k)) for k in ("value", "low", "high"))
    return Estimate(value, low, high, _int(facts.get("need")))


def load(path: Path) -> Results:
    """Read one file. Raises InputError where it is none of pytest-benchmark's."""
    try:
        content = files.read(path, most=_LARGEST, advice="give a file that `cnnexport bench --save` wrote")
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON, or is cut short; give a file that `cnnexport bench --save` or "
                         "pytest-benchmark wrote") from error
    return read(document, str(path))


def read(document: Any, path: str) -> Results:
    """Read a document that is in memory already. Raises InputError where it is none of pytest-benchmark's."""
    if not isinstance(document, dict) or not isinstance(document.get("benchmarks"), list):
        raise InputError(f"{path} holds no benchmarks; give a file that `cnnexport bench --save` or pytest-benchmark "
                         "wrote")
    rows = tuple(_row(Path(path).name, entry) for entry in document["benchmarks"] if isinstance(entry, dict))
    machine = as_dict(document.get("machine_info"))
    own = as_dict(document.get("cnnexport"))
    identity = as_dict(as_dict(machine.get("cnnexport")).get("identity"))
    for row in rows:
        identity = identity or as_dict(as_dict(row.info.get("machine")).get("identity"))
    if not identity:
        cpu = as_dict(machine.get("cpu"))
        identity = {"cpu": cpu.get("brand_raw"), "cores": cpu.get("count"),
                    "system": f"{machine.get('system')} {machine.get('machine')}"}
    failures = [f"{as_dict(f).get('row')}: {as_dict(f).get('error')}" for f in as_list(own.get("failures"))]
    return Results(path, rows, machine, identity, str(document.get("datetime", ""))[:40],
                   own.get("incomplete") is True, tuple(map(str, as_list(own.get("not_measured")))), tuple(failures))


def _row(source: str, entry: dict[str, Any]) -> SavedRow:
    info, stats = as_dict(entry.get("extra_info")), as_dict(entry.get("stats"))
    name = str(entry.get("name", ""))
    data = np.array([x for x in map(number, as_list(stats.get("data"))) if x is not None])
    ours = "cnnexport" in info and "scenario" in info
    counts = [max(_int(as_dict(s).get("runs")) or 0, 0) for s in as_list(info.get("sessions"))]
    sessions: tuple[Any, ...] = ()
    if len(data):
        cuts = np.cumsum(counts)[:-1] if sum(counts) == len(data) else np.empty(0, int)
        sessions = tuple(part for part in np.split(data, cuts) if len(part))
    percentiles = {f"p{p}": _estimate(as_dict(info.get("percentiles")).get(f"p{p}")) for p in statistics.PERCENTILES}
    if sessions and not ours:
        for p in statistics.PERCENTILES:
            percentiles[f"p{p}"] = statistics.percentile(sessions, p)
    median = percentiles["p50"]
    if sessions:  # from the timings rather than from what the file says of them
        median = statistics.percentile(sessions, 50)
    if median.value is None:
        median = Estimate(number(stats.get("median")), median.low, median.high, median.need)
    options = as_dict(info.get("provider_options_asked"))
    return SavedRow(
        source=source, id=name, name=str(info.get("name", name)) if ours else name,
        scenario=str(info.get("scenario", "")) if ours else "", group=str(entry.get("group") or ""),
        contender=str(info.get("contender", "")), provider=str(info.get("provider", "")) if ours else "",
        batch=_int(info.get("batch")), threads=_int(info.get("threads")),
        concurrency=_int(info.get("concurrency")) or 1,
        options=tuple(sorted((str(k), str(v)) for k, v in options.items())),
        verified=(info.get("verified") is True) if ours else None, incomplete=info.get("incomplete") is True,
        median=median, percentiles=percentiles,
        throughput=_estimate(info.get("throughput")), share=number(as_dict(info.get("limit")).get("share")),
        stopped=str(info.get("stopped", "")), runs=_int(stats.get("rounds")) or len(data), sessions=sessions, info=info,
        stats={k: v for k, v in stats.items() if k != "data"}, ours=ours)


def load_all(paths: Sequence[Path]) -> list[Results]:
    """Read files. Raises InputError for the first that is none."""
    return [load(Path(path)) for path in paths]
