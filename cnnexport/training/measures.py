"""What a classifier is worth: accuracy with its interval, loss, per-class precision and recall. Needs no Keras."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

AGREEING = 0.005
"""The share of images that one network may classify otherwise where its sums are added up in another order."""


def same_measure(right: int, other: int, images: int, share: float = AGREEING) -> bool:
    """Whether two numbers of right answers to the same images can be those of one network."""
    return abs(right - other) <= max(1, share * images)


def interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``right`` in ``count``: Wilson's (Wilson, JASA 22, 1927)."""
    if count == 0:
        return 0.0, 1.0
    z = 1.959964
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes): a row a true class, a column a predicted one."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (labels, predicted), 1)
    return table


def measure(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], class_names: Sequence[str]
) -> dict[str, Any]:
    """The measures of predictions, (N, classes), of images with those ``labels``, (N,), as JSON-ready values.

    Precision is null for a class that was never predicted, recall for one without images.
    """
    predicted = probabilities.argmax(axis=1)
    table = confusion(labels, predicted, len(class_names))
    right = int(np.trace(table))
    chosen = np.clip(probabilities[np.arange(len(labels)), labels].astype(np.float64), 1e-7, 1.0)
    rows = []
    for index, name in enumerate(class_names):
        hits, said, are = int(table[index, index]), int(table[:, index].sum()), int(table[index].sum())
        precision, recall = (hits / said if said else None), (hits / are if are else None)
        f1 = 2 * hits / (said + are) if said + are else None
        rows.append({"class": name, "precision": precision, "recall": recall, "f1": f1, "images": are})
    low, high = interval(right, len(labels))
    return {
        "images": len(labels),
        "correct": right,
        "accuracy": right / len(labels),
        "accuracy_interval_95": [round(low, 6), round(high, 6)],
        "loss": float(-np.log(chosen).mean()),
        "per_class": rows,
        "confusion": table.tolist(),
    }


def format_measures(found: dict[str, Any]) -> list[str]:
    """The measures as lines of text: accuracy and loss, then each class where there are 30 or fewer."""
    low, high = found["accuracy_interval_95"]
    lines = [f"  accuracy  {found['accuracy']:.2%} ({low:.2%} to {high:.2%} at 95 %), {found['correct']:,} of "
             f"{found['images']:,} images"]
    if "top_5_accuracy" in found:
        lines.append(f"  top 5     {found['top_5_accuracy']:.2%}")
    lines.append(f"  loss      {found['loss']:.4f}")
    rows = found["per_class"]
    if len(rows) <= 30:
        width = max([len(row["class"]) for row in rows] + [5])
        lines.append(f"  {'class':<{width}}  precision  recall  images")
        for row in rows:
            precision, recall = ("-" if row[k] is None else f"{row[k]:.3f}" for k in ("precision", "recall"))
            lines.append(f"  {row['class']:<{width}}  {precision:>9}  {recall:>6}  {row['images']:>6,}")
    return lines
