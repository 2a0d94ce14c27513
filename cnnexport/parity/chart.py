"""The growth of the error along the depth of a network, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from cnnexport.parity.layers import LayerComparison

_WIDTH, _HEIGHT = 900, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 50
_LEAST, _MOST = 1e-9, 1e3


def error_growth(title: str, layers: Sequence[LayerComparison], allowed: float) -> str:
    """Relative error of each compared layer, in the order of the run, on a logarithmic axis; ``allowed`` is a line."""
    rows = [r for r in layers if r.passed is not None]
    values = [min(max(r.max_error or 0.0, _LEAST), _MOST) for r in rows]
    low = math.floor(math.log10(min([*values, allowed])))
    high = math.ceil(math.log10(max([*values, allowed])))
    high = max(high, low + 1)

    def x(index: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (index + 0.5) / max(len(rows), 1)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - math.log10(max(value, _LEAST))) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f"<title>{escape(title)}: error by layer</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}: largest error of each layer, in standard deviations '
        "of Keras\u2019 output</text>",
    ]
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">1e{power}</text>')
    at = y(allowed)
    parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#c00" '
                 'stroke-dasharray="6 4"/>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{at - 5:.1f}" text-anchor="end" fill="#c00">'
                 f"allowed {allowed:.0e}</text>")
    points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(values))
    parts.append(f'<polyline points="{points}" fill="none" stroke="#88a"/>')
    for index, (row, value) in enumerate(zip(rows, values)):
        colour = "#236" if row.passed else "#c00"
        parts.append(f'<circle cx="{x(index):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}">'
                     f"<title>{escape(row.layer)} ({escape(row.kind)}): {value:.2e}</title></circle>")
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 15}">{escape(rows[0].layer) if rows else ""}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 15}" text-anchor="end">'
                 f'{escape(rows[-1].layer) if rows else "no layer was compared"}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
