"""The images that set the ranges of int8: named by source, checksum and index, never from a test split, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cnnexport.bundle.records import CalibrationFacts
from cnnexport.classifier import Classifier
from cnnexport.conversion.ports import Port
from cnnexport.data import Split, load
from cnnexport.data.sources import stratified
from cnnexport.errors import InputError, UsageError
from cnnexport.evaluation import matched_labels
from cnnexport.parity.inputs import images as seeded_images

SYNTHETIC = "synthetic"
DEFAULT_IMAGES, FEWEST_IMAGES = 128, 16
_HELD = 128, 2000
"""The fewest and the most images that a file is chosen on; how many depends on their size."""
_HELD_PIXELS = 1000 * 64 * 64
_PIXELS = 1 << 18
"""Pixels of a batch: what a graph gives out of all its layers for them stays in some hundred MB."""

Array: TypeAlias = NDArray[Any]
Batches: TypeAlias = Callable[[], Iterator[dict[str, Array]]]
"""Starts the images anew: what a session is fed, batch by batch."""


@dataclass(frozen=True)
class Held:
    """Images that set no range and are no test images: a file is chosen on them. ``pixels`` starts them anew, (N,
    height, width, channels) a batch; ``labels`` count classes as the model does, None where there are none."""

    pixels: Callable[[], Iterator[Array]]
    labels: Array | None = None


@dataclass(frozen=True)
class Calibration:
    """Named images and how to read them; ``notes`` say what a reader should know of them."""

    facts: CalibrationFacts
    batches: Batches
    held: Held
    notes: tuple[str, ...] = ()


def batch_size(opened: Classifier) -> int:
    """Images of a batch that all tensors of a graph are looked at for."""
    if opened.batch:
        return opened.batch
    assert opened.preparation is not None
    return int(np.clip(_PIXELS // (opened.preparation.height * opened.preparation.width), 1, 16))


def fed(opened: Classifier, part: Split, size: int) -> Iterator[dict[str, Array]]:
    """What a session is fed for the images of ``part``, ``size`` at a time."""
    assert opened.preparation is not None
    for pixels in part.batches(opened.preparation, size):
        yield opened.feeds(pixels)


def synthetic(opened: Classifier, count: int, seed: int) -> Batches:
    """Seeded blocks and noise over the input's range, batch by batch: natural-looking, and of nothing."""
    assert opened.bundle is not None and opened.preparation is not None
    p, size = opened.preparation, batch_size(opened)
    port = Port(opened.input, (None, p.height, p.width, p.channels), opened.dtype)
    span = opened.bundle.about.inputs[0].value_range

    def batches() -> Iterator[dict[str, Array]]:
        for first in range(0, count, size):
            yield opened.feeds(seeded_images([port], min(size, count - first), seed + first, span)[0])

    return batches


def probes(opened: Classifier, count: int, seed: int) -> Iterator[Array]:
    """``synthetic`` as pixels, (N, height, width, channels) a batch."""
    for feeds in synthetic(replace(opened, dtype="float32"), count, seed)():
        yield feeds[opened.input].transpose(0, 2, 3, 1) if opened.channels_first else feeds[opened.input]


def choose(opened: Classifier, source: str | None, *, count: int = DEFAULT_IMAGES, seed: int = 0) -> Calibration:
    """The images of ``source`` (as of ``data.load``, or SYNTHETIC) on which ranges are measured: of its training split.

    Raises UsageError where none are named, and InputError for a source that has too few, or other classes.
    """
    assert opened.bundle is not None and opened.preparation is not None
    if source is None:
        raise UsageError(f"int8 needs images to measure its ranges on: give --calibration {_would_use(opened)}, of "
                         "which the training images are used and never the test's; random numbers are no images, and "
                         "--calibration synthetic takes them all the same")
    if source == SYNTHETIC:
        facts = CalibrationFacts(source=SYNTHETIC, sha256=None, split="synthetic", indices=tuple(range(count)))
        return Calibration(facts, synthetic(opened, count, seed), Held(lambda: probes(opened, 32, seed + 2)), (
            "calibrated on synthetic images: the ranges may be other than those of real ones",))
    found = load(source, training=False)
    part = found.train
    if len(part) < FEWEST_IMAGES:
        raise InputError(f"{found.name} has {len(part)} training images, and ranges need {FEWEST_IMAGES} or more (test "
                         "images are never used); give a source with more")
    matched_labels(found, part, opened.labels)
    chosen = stratified(part.labels, count, seed) if len(part) > count else np.arange(len(part))
    if len(part) > count != len(chosen):  # classes do not divide it
        others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(part)), chosen))
        chosen = np.sort(np.concatenate([np.random.default_rng(seed).permutation(chosen), others])[:count])
    taken, size = part.take(chosen), batch_size(opened)
    facts = CalibrationFacts(source=found.name, sha256=found.sha256, split="train",
                             indices=tuple(int(i) for i in chosen))
    height, width = np.shape(taken.pixels(0))[:2]
    p, notes = opened.preparation, []
    if (height, width) != (p.height, p.width):
        notes.append(f"the images of {found.name} ({height}x{width}) are resized to {p.height}x{p.width}, as the "
                     "bundle says")
    if len(chosen) < count:
        notes.append(f"{found.name} has {len(chosen)} training images, fewer than the {count} asked for")
    rest = np.setdiff1d(np.arange(len(part)), chosen)
    most = int(np.clip(_HELD_PIXELS // (p.height * p.width), *_HELD))
    apart = part.take(np.random.default_rng(seed).permutation(rest)[:most] if len(rest) >= FEWEST_IMAGES else chosen)
    held = Held(lambda: apart.batches(p, opened.batch or 32), matched_labels(found, apart, opened.labels))
    return Calibration(facts, lambda: fed(opened, taken, size), held, tuple(notes))


def _would_use(opened: Classifier) -> str:
    """The source that suits a bundle: what its weights were trained on, where that is known."""
    assert opened.bundle is not None
    trained_on = (opened.bundle.about.provenance.run or {}).get("data", {})
    name = trained_on.get("name") if isinstance(trained_on, dict) else None
    return f"SOURCE (it was trained on {name})" if name else "SOURCE"
