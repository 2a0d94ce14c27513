"""The growth of the error along the depth of a network, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from cnnexport import svg
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
        return svg.slot(index, len(rows), _LEFT, _WIDTH - _LEFT - _RIGHT)

    y = svg.Scale(10.0**low, 10.0**high, _HEIGHT - _BOTTOM, _TOP, log=True)
    parts = [
        *svg.sheet(_WIDTH, _HEIGHT, f"{title}: error by layer"),
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}: largest error of each layer, in standard deviations '
        "of Keras\u2019 output</text>",
    ]
    for power in range(low, high + 1):
        parts += svg.gridline(y(10.0**power), _LEFT, _WIDTH - _RIGHT, f"1e{power}")
    at = y(allowed)
    parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#c00" '
                 'stroke-dasharray="6 4"/>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{at - 5:.1f}" text-anchor="end" fill="#c00">'
                 f"allowed {allowed:.0e}</text>")
    parts.append(svg.polyline(((x(i), y(v)) for i, v in enumerate(values)), "#88a"))
    for index, (row, value) in enumerate(zip(rows, values)):
        colour = "#236" if row.passed else "#c00"
        parts.append(f'<circle cx="{x(index):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}">'
                     f"<title>{escape(row.layer)} ({escape(row.kind)}): {value:.2e}</title></circle>")
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 15}">{escape(rows[0].layer) if rows else ""}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 15}" text-anchor="end">'
                 f'{escape(rows[-1].layer) if rows else "no layer was compared"}</text>')
    return svg.closed(parts)
