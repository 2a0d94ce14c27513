"""What the pictures share: a white sheet, where a value lies on an axis, grid lines with labels. Lengths are in px."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

_SMALLEST = 1e-300


@dataclass(frozen=True)
class Scale:
    """An axis on which ``low`` lies at ``start`` and ``high`` at ``end``; what is beyond them lies at its end.

    On a logarithmic one (``log``) both are above 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where ``value`` lies."""
        return self.start + share(value, self.low, self.high, self.log) * (self.end - self.start)


def share(value: float, low: float, high: float, log: bool = False) -> float:
    """How far ``value`` lies from ``low`` to ``high``, from 0 to 1."""
    if log:
        value, low, high = (math.log10(max(v, _SMALLEST)) for v in (value, low, high))
    return min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)


def slot(index: int, count: int, start: float, length: float) -> float:
    """The middle of one of ``count`` equal parts of an axis."""
    return start + length * (index + 0.5) / max(count, 1)


def sheet(width: int, height: int, title: str, font_size: int = 12) -> list[str]:
    """The beginning of a picture on white, which stands alone in a file; ``title`` is what a reader is told of it."""
    return [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
            f'font-size="{font_size}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="white"/>']


def closed(parts: Iterable[str]) -> str:
    """The text of a picture that ``sheet`` began."""
    return "\n".join([*parts, "</svg>"]) + "\n"


def gridline(at: float, left: float, right: float, label: str, *, gap: int = 8, colour: str = "#ddd",
             style: str = "") -> list[str]:
    """A level line at the height ``at``, and its label at its left; ``style`` is added to the label's attributes."""
    return [f'<line x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="{colour}"/>',
            f'<text x="{left - gap}" y="{at + 4:.1f}" text-anchor="end"{style}>{escape(label)}</text>']


def polyline(points: Iterable[tuple[float, float]], colour: str, style: str = "") -> str:
    """A line through points."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}"{style}/>'
