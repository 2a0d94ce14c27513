"""Charts as SVG text, without a library. Colours are CSS variables, so that a page can be light or dark.

Every text from a file goes through ``escape``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from cnnexport import svg
from cnnexport.results.rows import Results, SavedRow, as_dict, number
from cnnexport.results.tables import seconds

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 88, 24, 16, 48
COLOURS = 8
STYLE = """
svg{--ink:#1c2430;--soft:#5b6675;--grid:#dfe4ea;--c0:#1f6feb;--c1:#d1552b;--c2:#1a8f5a;--c3:#8250df;--c4:#b8860b;
--c5:#c2327f;--c6:#0b8793;--c7:#6b7280;font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
@media (prefers-color-scheme:dark){svg{--ink:#e6eaf0;--soft:#9aa6b5;--grid:#2c3440;--c0:#6cb0ff;--c1:#ff9063;
--c2:#58d197;--c3:#bb9cff;--c4:#e3b341;--c5:#ff85bd;--c6:#4fd0dc;--c7:#9aa4b2}}
"""


@dataclass(frozen=True)
class Series:
    """Points (x, y, low, high) under one name; bounds may be None. ``marks`` draws points, else a line alone."""

    name: str
    points: tuple[tuple[float, float, float | None, float | None], ...]
    marks: bool = True
    line: bool = True
    dashed: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Axis:
    """What an axis measures, how its ticks read, and whether it is logarithmic."""

    title: str
    show: Any
    log: bool = False


def count(value: float) -> str:
    """``1.2k`` of 1200."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        steps = (1, 2, 5) if last - first <= 3 else (1,)
        every = [m * 10.0**e for e in range(first, last + 1) for m in steps]
        made = [tick for tick in every if low * 0.999 <= tick <= high * 1.001]
        return made[::max(1, len(made) // 7)]
    span = (high - low) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next((m for m in (1, 2, 5, 10) if span / (step * m) <= 5), 10)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def plot(series: Sequence[Series], x: Axis, y: Axis, *, label: str, zero: bool = True) -> str:
    """An SVG of points and lines. ``label`` is what a screen reader says."""
    shown = [s for s in series if s.points]
    xs = [p[0] for s in shown for p in s.points if not x.log or p[0] > 0]
    ys = [v for s in shown for p in s.points for v in p[1:] if v is not None and (not y.log or v > 0)]
    if not xs or not ys:
        return ""
    x0, x1 = _range(xs, x.log, zero=False)
    y0, y1 = _range(ys, y.log, zero=zero)
    px = svg.Scale(x0, x1, LEFT, WIDTH - RIGHT, x.log)
    py = svg.Scale(y0, y1, HEIGHT - BOTTOM, TOP, y.log)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}" '
             'xmlns="http://www.w3.org/2000/svg">']
    for tick in _ticks(y0, y1, y.log):
        parts += svg.gridline(py(tick), LEFT, WIDTH - RIGHT, y.show(tick), colour="var(--grid)",
                              style=' font-size="12" fill="var(--soft)"')
    for tick in sorted(set(xs)) if x.title == "batch" else _ticks(x0, x1, x.log):
        parts.append(f'<text x="{px(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" font-size="12" '
                     f'fill="var(--soft)">{escape(x.show(tick))}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end" font-size="12" fill="var(--ink)">'
                 f'{escape(x.title)}</text><text x="{LEFT + 4}" y="{TOP + 6}" font-size="12" fill="var(--ink)">'
                 f'{escape(y.title)}</text>')
    for index, one in enumerate(shown):
        colour = f"var(--c{index % COLOURS})"
        points = [p for p in one.points if (not x.log or p[0] > 0) and (not y.log or p[1] > 0)]
        if one.line and len(points) > 1:
            path = "L".join(f"{px(p[0]):.1f} {py(p[1]):.1f}" for p in points)
            dash = ' stroke-dasharray="5 4"' if one.dashed else ""
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        if one.marks:
            for number, (a, b, low, high) in enumerate(points):
                if low is not None and high is not None and (not y.log or low > 0):
                    parts.append(f'<path d="M{px(a):.1f} {py(low):.1f}V{py(high):.1f}" stroke="{colour}" '
                                 'stroke-width="1.5"/>')
                name = one.labels[number] if number < len(one.labels) else f"{one.name}: {x.show(a)}, {y.show(b)}"
                parts.append(f'<circle cx="{px(a):.1f}" cy="{py(b):.1f}" r="4" fill="{colour}"><title>{escape(name)}'
                             "</title></circle>")
    return "".join([*parts, "</svg>"])


def legend(names: Sequence[str]) -> str:
    """The colours of a plot's series, as HTML."""
    return '<ul class="legend">' + "".join(
        f'<li><i style="background:var(--c{i % COLOURS})"></i>{escape(n)}</li>' for i, n in enumerate(names)) + "</ul>"


def _range(values: Sequence[float], log: bool, *, zero: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        pad = max((high / low) ** 0.06, 1.15)
        return low / pad, high * pad
    if zero:
        low = min(low, 0.0)
    pad = (high - low) * 0.06 or abs(high) * 0.06 or 1.0
    return (low if zero else low - pad), high + pad


def distribution(rows: Sequence[SavedRow]) -> tuple[str, list[str]]:
    """The share of runs that are slower than each time, both axes logarithmic: tails are what matters."""
    made = []
    for row in rows:
        if not row.sessions:
            continue
        runs = np.sort(np.concatenate(row.sessions))
        # From the median to the slowest, and the quick half thinned.
        picks = np.unique(np.concatenate([
            np.linspace(0, len(runs) - 1, 60), len(runs) - np.geomspace(1, len(runs), 80)]).astype(int).clip(
                0, len(runs) - 1))
        made.append(Series(name_of(row), tuple((float(runs[i]), float((len(runs) - i) / len(runs)), None, None)
                                             for i in picks), marks=False))
    y = Axis("share of runs at least as slow", _percent, log=True)
    return plot(made, Axis("time of a run", seconds, log=True), y,
                label="Distribution of the time of a run"), [s.name for s in made]


def _percent(value: float) -> str:
    return f"{value * 100:.4g} %"


def name_of(row: SavedRow) -> str:
    """What tells a row from others in a chart: its parameters as pytest shows them, or the whole id."""
    return row.id.partition("[")[2].rstrip("]") or row.id


def against_batch(rows: Sequence[SavedRow], figure: str) -> tuple[str, list[str]]:
    """Latency (``latency``) or images/s (``throughput``) against the batch size, a line for each setting."""
    groups: dict[tuple[Any, ...], list[SavedRow]] = {}
    for row in rows:
        if row.batch and row.ours and (figure == "latency" or row.throughput.value):
            groups.setdefault((row.source, row.name, row.contender, row.provider, row.scenario, row.threads,
                               row.concurrency, row.options), []).append(row)
    made = []
    for members in groups.values():
        ordered = sorted(members, key=lambda r: r.batch or 0)
        points = []
        for row in ordered:
            e = row.median if figure == "latency" else row.throughput
            if e.value is not None:
                points.append((float(row.batch or 0), e.value, e.low, e.high))
        made.append(Series(_setting(ordered[0]), tuple(points)))
    if not any(len(s.points) > 1 for s in made):
        return "", []
    y = Axis("median of a run", seconds, log=True) if figure == "latency" else Axis("images/s", count, log=True)
    return plot(made, Axis("batch", lambda v: f"{v:g}", log=True), y, label=f"{figure} against batch"), \
        [s.name for s in made if s.points]


def _setting(row: SavedRow) -> str:
    name = f"{row.name}, {row.contender if row.contender != 'onnxruntime' else 'ORT'} {row.provider}"
    name += f", {row.threads} threads" if row.threads else ""
    if row.scenario == "throughput":
        name += f", {row.concurrency} streams"
    return name + "".join(f", {k}={v}" for k, v in row.options)


def roofline(rows: Sequence[SavedRow]) -> tuple[str, list[str]]:
    """Operations/s of each row against operations a byte, under the machine's own two limits."""
    points: dict[str, tuple[float, float]] = {}
    limits: dict[str, tuple[float, float]] = {}
    for row in rows:
        limit = as_dict(row.info.get("limit"))
        machine = as_dict(limit.get("machine"))
        flops, traffic, macs = number(limit.get("flops")), number(limit.get("traffic_bytes")), number(limit.get("macs"))
        peak, width = number(machine.get("flops")), number(machine.get("bandwidth"))
        if peak and width and peak > 0 and width > 0:
            limits[f"limit: {row.provider}, {row.threads} threads"] = (peak, width)
        if flops and traffic and macs and flops > 0 and traffic > 0:
            points[name_of(row)] = (2 * macs / traffic, flops)
    if not points or not limits:
        return "", []
    xs = [p[0] for p in points.values()]
    made = []
    for name, (peak, width) in limits.items():
        knee = peak / width
        first, last = min([*xs, knee]) / 2, max([*xs, knee]) * 3
        corners = ((first, first * width, None, None), (knee, peak, None, None), (last, peak, None, None))
        made.append(Series(name, corners, marks=False, dashed=True))
    made += [Series(name, ((a, b, None, None),), line=False, labels=(f"{name}: {count(b)}FLOP/s",))
             for name, (a, b) in points.items()]
    return plot(made, Axis("operations a byte", count, log=True), Axis("operations/s", count, log=True),
                label="Roofline"), [s.name for s in made]


def overview(results: Sequence[Results], title: str) -> str:
    """One SVG that stands alone: the median of each row with its interval, a bar a row."""
    rows = [r for found in results for r in found.rows if r.median.value]
    height = 56 + 26 * len(rows)
    values = [r.median.high or r.median.value or 0.0 for r in rows] or [1.0]
    low, high = min(r.median.value or 1.0 for r in rows) / 3 if rows else 0.1, max(values)
    name_width, span = 300, 320
    parts = [f'<svg viewBox="0 0 760 {height}" width="760" height="{height}" xmlns="http://www.w3.org/2000/svg" '
             f'role="img" aria-label="{escape(title)}"><style>{STYLE}</style>'
             f'<text x="12" y="26" font-size="16" font-weight="600" fill="var(--ink)">{escape(title)}: median of a run '
             "(logarithmic)</text>"]
    for index, row in enumerate(rows):
        y = 48 + 26 * index
        width = svg.share(row.median.value or low, low, high, True) * span
        mark = "" if row.verified in (True, None) else " (unverified)"
        name = escape(name_of(row)[:44] + mark)
        parts.append(f'<text x="12" y="{y + 13}" font-size="12" fill="var(--ink)">{name}</text>'
                     f'<rect x="{name_width}" y="{y}" width="{width:.1f}" height="18" rx="3" fill="var(--c0)"/>')
        if row.median.low and row.median.high:
            a, b = (name_width + svg.share(v, low, high, True) * span for v in (row.median.low, row.median.high))
            parts.append(f'<path d="M{a:.1f} {y + 9}H{b:.1f}" stroke="var(--ink)" stroke-width="2"/>')
        text = seconds(row.median.value) + (" incomplete" if row.incomplete else "")
        parts.append(f'<text x="{name_width + width + 8:.1f}" y="{y + 13}" font-size="12" fill="var(--soft)">'
                     f"{escape(text)}</text>")
    return "".join([*parts, "</svg>\n"])
