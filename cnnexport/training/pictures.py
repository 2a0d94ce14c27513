"""Pictures of a run: its curves and confusion as SVG, its worst mistakes as PNG. Needs no Keras."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnexport import svg
from cnnexport.data import Split

_TILE, _TEXT, _ACROSS, _DOWN = 128, 34, 5, 5


def curves(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """Loss and accuracy, epoch by epoch, of training and validation, as SVG."""
    width, height = 900, 360
    parts = [*svg.sheet(width, height, f"{title}: loss and accuracy by epoch"),
             f'<text x="60" y="22" font-size="15">{escape(title)}</text>']
    for index, name in enumerate(("loss", "accuracy")):
        parts += _panel(rows, name, 60 + 440 * index, 50, 360, 250)
    return svg.closed(parts)


def _panel(rows: Sequence[dict[str, Any]], name: str, left: int, top: int, width: int, height: int) -> list[str]:
    lines = {"training": (name, "#236"), "validation": (f"val_{name}", "#c60")}
    values = [row[key] for key, _ in lines.values() for row in rows if row.get(key) is not None]
    low, high = (0.0, max([*values, 1e-6])) if name == "loss" else (min([*values, 1.0]), 1.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5

    def x(index: int) -> float:
        return svg.slot(index, len(rows), left, width)

    y = svg.Scale(low, high, top + height, top)
    parts = [f'<text x="{left}" y="{top - 10}">{name}</text>']
    for step in range(5):
        value = low + (high - low) * step / 4
        parts += svg.gridline(y(value), left, left + width, f"{value:.3g}", gap=6)
    for row_index, row in enumerate(rows):
        if row_index and row["phase"] != rows[row_index - 1]["phase"]:
            at = (x(row_index) + x(row_index - 1)) / 2
            parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{top + height}" stroke="#999" '
                         f'stroke-dasharray="4 4"/><text x="{at + 4:.1f}" y="{top + 12}" fill="#666">'
                         f'{escape(row["phase"])}</text>')
    for place, (label, (key, colour)) in enumerate(lines.items()):
        points = [(x(i), y(row[key])) for i, row in enumerate(rows) if row.get(key) is not None]
        if not points:
            continue
        parts.append(svg.polyline(points, colour, ' stroke-width="2"'))
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
        parts.append(f'<text x="{left + 80 + 100 * place}" y="{top - 10}" fill="{colour}">{label}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 34}" text-anchor="middle">epoch</text>')
    for index in sorted({0, len(rows) // 2, len(rows) - 1}):
        if 0 <= index < len(rows):
            parts.append(f'<text x="{x(index):.1f}" y="{top + height + 16}" text-anchor="middle">'
                         f'{rows[index]["epoch"]}</text>')
    return parts


def confusion(title: str, table: Sequence[Sequence[int]], class_names: Sequence[str]) -> str:
    """The confusion of classes as SVG: a row a true class, a column a predicted one; numbers up to 30 classes."""
    count = len(class_names)
    cell = 44 if count <= 12 else 28 if count <= 30 else max(2, 800 // count)
    named = count <= 30
    left, top = (130, 150) if named else (40, 60)
    width, height = left + cell * count + 30, top + cell * count + 40
    parts = [*svg.sheet(width, height, f"{title}: confusion", font_size=11),
             f'<text x="10" y="22" font-size="15">{escape(title)}</text>',
             '<text x="10" y="42">rows: true class; columns: predicted; shade: share of the row</text>']
    for row, numbers in enumerate(table):
        whole = sum(numbers) or 1
        for column, number in enumerate(numbers):
            share = number / whole
            red, green = (35, 51 + 100 * (1 - share)) if row == column else (204, 70)
            alpha = share if row == column else min(1.0, 3 * share)
            x, y = left + cell * column, top + cell * row
            parts.append(f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" stroke="#ddd" fill="rgb({red:.0f},'
                         f'{green:.0f},102)" fill-opacity="{alpha:.3f}"><title>{escape(class_names[row])} as '
                         f'{escape(class_names[column])}: {number}</title></rect>')
            if named and number:
                parts.append(f'<text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle" '
                             f'fill="{"white" if alpha > 0.55 else "black"}">{number}</text>')
        if named:
            name = class_names[row] if len(class_names[row]) <= 18 else class_names[row][:17] + "…"
            parts.append(f'<text x="{left - 6}" y="{top + cell * row + cell / 2 + 4}" text-anchor="end">'
                         f"{escape(name)}</text>")
            at = left + cell * row + cell / 2 + 4
            parts.append(f'<text x="{at}" y="{top - 6}" transform="rotate(-60 {at} {top - 6})">{escape(name)}</text>')
    return svg.closed(parts)


def mistakes(path: Path, split: Split, probabilities: NDArray[np.float32], class_names: Sequence[str]) -> None:
    """Write the worst mistakes as PNG: the wrong predictions that were surest, with what is true and what was said."""
    from PIL import Image, ImageDraw

    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != split.labels)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:_ACROSS * _DOWN]
    down = max(1, -(-len(worst) // _ACROSS))
    sheet = Image.new("RGB", (_ACROSS * (_TILE + 8) + 8, down * (_TILE + _TEXT + 8) + 8), "white")
    pen = ImageDraw.Draw(sheet)
    if not len(worst):
        pen.text((12, 12), f"no mistakes on {len(split)} test images", fill="black")
    for place, index in enumerate(worst):
        x, y = 8 + (place % _ACROSS) * (_TILE + 8), 8 + (place // _ACROSS) * (_TILE + _TEXT + 8)
        pixels = np.clip(np.asarray(split.pixels(int(index)), np.float32), 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).convert("RGB")
        scale = _TILE / max(image.size)
        smooth = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BILINEAR
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), smooth)
        sheet.paste(image, (x, y))
        pen.text((x, y + _TILE + 2), f"is {_short(class_names[split.labels[index]])}", fill="black")
        said = f"said {_short(class_names[predicted[index]])} {sure[index]:.0%}"
        pen.text((x, y + _TILE + 16), said, fill=(180, 0, 0))
    sheet.save(path, "PNG")


def _short(name: str) -> str:
    """A name that the built-in bitmap font can write, short enough for a tile."""
    return name.encode("latin-1", "replace").decode("latin-1")[:14]
