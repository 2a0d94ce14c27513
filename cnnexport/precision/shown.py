"""What each layer lost and how long it takes, as a picture (``layers.int8.svg``) and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from cnnexport import svg
from cnnexport.bundle.layer_records import LayerTime
from cnnexport.bundle.records import VariantVerdict
from cnnexport.precision.times import rounded
from cnnexport.text import columns, printable

_WIDTH, _LEFT, _RIGHT = 900, 70, 20
_TOP, _PANEL, _GAP, _BOTTOM = 40, 250, 62, 46
_SOFT, _DARK, _KEPT, _FLOAT = "#88a", "#236", "#b60", "#bbc"
_NAMED, _LETTERS = 3, 28
"""Noisiest layers that the picture names, and letters of a name."""
_EXACT = 200.0


@dataclass(frozen=True)
class Layer:
    """A layer of a variant: decibels where both files have its tensor, times where nodes carry its name.

    ``within`` is the layer that its time is counted with.
    """

    name: str
    sqnr_db: float | None
    kept: bool
    time: LayerTime | None
    within: str | None


def layers_of(verdict: VariantVerdict) -> list[Layer]:
    """The layers of a verdict, those with decibels in their order, others after what they follow."""
    errors = {error.layer: error for error in verdict.layers}
    times = verdict.times.layers if verdict.times else ()
    timed = {row.layer: row for row in times}
    inner = {name: row.layer for row in times for name in row.within}
    order = list(errors)
    before = -1
    for name in (name for row in times for name in (row.layer, *row.within)):
        if name not in order:
            order.insert(before + 1, name)
        before = order.index(name)
    made = []
    for name in order:
        error, within = errors.get(name), inner.get(name)
        made.append(Layer(printable(name), error.sqnr_db if error else None, error is not None and error.kept,
                          timed.get(name), printable(within) if within else None))
    return made


def picture(title: str, verdict: VariantVerdict) -> str | None:
    """Decibels by layer over the times of the layers; None where neither is known."""
    layers = layers_of(verdict)
    noisy = [layer for layer in layers if layer.sqnr_db is not None]
    timed = [layer for layer in layers if layer.time is not None]
    panels = [part for part, there in ((_decibels(title, verdict, noisy), noisy), (_times(verdict, timed), timed))
              if there]
    if not panels:
        return None
    parts = svg.sheet(_WIDTH, _TOP + len(panels) * _PANEL + (len(panels) - 1) * _GAP + _BOTTOM,
                      f"{title} in {verdict.model}: what each layer lost, and its time")
    for index, panel in enumerate(panels):
        parts += [f'<g transform="translate(0 {index * (_PANEL + _GAP)})">', *panel, "</g>"]
    return svg.closed(parts)


def _decibels(title: str, verdict: VariantVerdict, layers: Sequence[Layer]) -> Iterator[str]:
    yield _heading(f"{title} in {verdict.model}: signal to noise of each layer, in dB (higher is nearer float32)")
    values = [min(layer.sqnr_db or 0.0, _EXACT) for layer in layers]
    high = max(10.0, 10 * math.ceil(max((v for v in values if v < _EXACT), default=10.0) / 10))
    low = min(0.0, 10 * math.floor(min(values) / 10))
    y = svg.Scale(low, high, _TOP + _PANEL, _TOP)
    for step in range(round(low), round(high) + 1, 10 if high - low <= 70 else 20):
        yield from svg.gridline(y(step), _LEFT, _WIDTH - _RIGHT, str(step))
    places = [_x(i, len(layers)) for i in range(len(layers))]
    yield svg.polyline(zip(places, map(y, values)), _SOFT)
    worst = sorted((v, i) for i, v in enumerate(values))[:_NAMED]
    for index, (layer, value) in enumerate(zip(layers, values)):
        told = (f"<title>{escape(layer.name)}: {value:.1f} dB{', kept in float32' if layer.kept else ''}</title>")
        at, height = places[index], y(value)
        if layer.kept:
            yield (f'<rect x="{at - 4:.1f}" y="{height - 4:.1f}" width="8" height="8" fill="white" stroke="{_KEPT}" '
                   f'stroke-width="2">{told}</rect>')
        else:
            yield f'<circle cx="{at:.1f}" cy="{height:.1f}" r="3.5" fill="{_DARK}">{told}</circle>'
    yield from _names([(places[i], y(v), f"{_cut(layers[i].name)} {v:.1f}") for v, i in worst], _TOP + _PANEL)
    yield from _ends(layers)
    if any(layer.kept for layer in layers):
        yield (f'<rect x="{_WIDTH - _RIGHT - 101}" y="{_TOP + _PANEL + 26}" width="8" height="8" fill="white" '
               f'stroke="{_KEPT}" stroke-width="2"/>')
        yield _label(_WIDTH - _RIGHT, _TOP + _PANEL + 34, "kept in float32", end=True)


def _names(points: Sequence[tuple[float, float, str]], floor: float) -> Iterator[str]:
    """The names of points below them, none over another."""
    taken: list[tuple[float, float, float]] = []
    for x, y, text in sorted(points):
        half = 3.4 * len(text)
        middle = min(max(x, _LEFT + half), _WIDTH - _RIGHT - half)
        at = y + 17
        while any(abs(at - height) < 13 and middle - half < right and left < middle + half
                  for left, right, height in taken):
            at += 14
        if at > floor - 3:
            at = min(height for _, _, height in taken) - 14 if taken else y - 9
        taken.append((middle - half, middle + half, at))
        yield _label(middle, at, text, anchor="middle")


def _times(verdict: VariantVerdict, layers: Sequence[Layer]) -> Iterator[str]:
    facts = verdict.times
    assert facts is not None
    threads = f"{facts.threads} thread{'s' if facts.threads > 1 else ''}"
    yield _heading(f"milliseconds of each layer in {facts.runtime}, batch {facts.batch}, {threads}")
    pairs = [(layer.time.float_ms, layer.time.variant_ms) for layer in layers if layer.time is not None]
    top = max(max(pair) for pair in pairs) or 1.0
    step = 10.0 ** math.floor(math.log10(top))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if top / s <= 6)
    y = svg.Scale(0.0, step * math.ceil(top / step), _TOP + _PANEL, _TOP)
    for index in range(math.ceil(top / step) + 1):
        yield from svg.gridline(y(index * step), _LEFT, _WIDTH - _RIGHT, f"{index * step:.3g}")
    width = min(0.4 * (_WIDTH - _LEFT - _RIGHT) / len(layers), 22.0)
    for index, (layer, (before, after)) in enumerate(zip(layers, pairs)):
        within = layer.time.within if layer.time else ()
        name = escape(printable(layer.name + (f" with {', '.join(within)}" if within else "")))
        for value, shift, colour, kind in ((before, -width, _FLOAT, "float32"), (after, 0.0, _DARK, verdict.model)):
            yield (f'<rect x="{_x(index, len(layers)) + shift:.1f}" y="{y(value):.1f}" width="{width:.1f}" '
                   f'height="{y(0) - y(value):.1f}" fill="{colour}"><title>{name}: {value:.3g} ms in {escape(kind)}'
                   "</title></rect>")
    yield from _ends(layers)
    for place, colour, kind in ((200, _FLOAT, "float32"), (100, _DARK, verdict.model)):
        yield f'<rect x="{_WIDTH - _RIGHT - place}" y="{_TOP + _PANEL + 25}" width="10" height="10" fill="{colour}"/>'
        yield _label(_WIDTH - _RIGHT - place + 16, _TOP + _PANEL + 34, kind)


def _x(index: int, count: int) -> float:
    return svg.slot(index, count, _LEFT, _WIDTH - _LEFT - _RIGHT)


def _heading(text: str) -> str:
    return f'<text x="{_LEFT}" y="22" font-size="15">{escape(text)}</text>'


def _ends(layers: Sequence[Layer]) -> Iterator[str]:
    """The names of the first and the last layer, below an axis."""
    yield _label(_LEFT, _TOP + _PANEL + 17, _cut(layers[0].name))
    if len(layers) > 1:
        yield _label(_WIDTH - _RIGHT, _TOP + _PANEL + 17, _cut(layers[-1].name), end=True)


def _cut(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[:_LETTERS - 3]}..."


def _label(x: float, y: float, text: str, *, end: bool = False, anchor: str = "") -> str:
    anchor = anchor or ("end" if end else "start")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def table(verdict: VariantVerdict) -> str:
    """A line a layer: decibels, milliseconds in both files, how many times as fast, and what else there is to it."""
    rows: list[tuple[str, ...]] = [("layer", "dB", "float32 ms", f"{verdict.model} ms", "times", "")]
    for layer in layers_of(verdict):
        note = "kept in float32" if layer.kept else ""
        if layer.kept and layer.time is not None and rounded(layer.time):
            note += ", rounded by the runtime"
        before = after = gain = ""
        if layer.time is not None:
            before, after = (f"{value:.3f}" for value in (layer.time.float_ms, layer.time.variant_ms))
            gain = f"{layer.time.float_ms / layer.time.variant_ms:.2f}" if layer.time.variant_ms else ""
        elif layer.within:
            note = "; ".join(part for part in (note, f"in {_cut(layer.within)}") if part)
        decibels = "" if layer.sqnr_db is None else "exact" if layer.sqnr_db >= _EXACT else f"{layer.sqnr_db:.1f}"
        rows.append((_cut(layer.name), decibels, before, after, gain, note))
    if (facts := verdict.times) is not None:
        rows.append(("(without a layer's name)", "", f"{facts.other_float_ms:.3f}", f"{facts.other_variant_ms:.3f}", "",
                     ""))
    return columns(rows, right=(1, 2, 3, 4)) if len(rows) > 1 else ""
