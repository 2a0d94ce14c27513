"""What can be refused before there is a bundle: a conversion takes minutes, and what follows it is asked first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnnexport.data import Dataset, load
from cnnexport.errors import InputError, UsageError
from cnnexport.evaluation import matched_labels, split_of
from cnnexport.precision.calibration import FEWEST_IMAGES, SYNTHETIC

MOST_BYTES = 2**31 - 1 - (1 << 20)
"""Of the weights of a file that has them in itself; more lie beside it."""
_FLOAT_BYTES = 4


def images_of(calibration: str | None, data: str | None) -> tuple[Dataset | None, Dataset | None]:
    """The images named for the ranges and those with labels, where they are some of a data set's.

    Raises InputError where they cannot be read or are too few to measure ranges on, and UsageError for labelled images
    without a test split.
    """
    measured = labelled = None
    if calibration not in (None, SYNTHETIC):
        measured = load(str(calibration), training=False)
        if len(measured.train) < FEWEST_IMAGES:
            raise InputError(f"{measured.name} has {len(measured.train)} training images, and ranges need "
                             f"{FEWEST_IMAGES} or more (test images are never used); give a source with more")
    if data is not None:
        labelled = measured if data == calibration else load(data, training=False)
        assert labelled is not None
        split_of(labelled, "test")
    return measured, labelled


def check_network(
    name: str, model: Any, *, described: bool, labels: Sequence[str] | None, keep: Sequence[str] = (),
    found: tuple[Dataset | None, Dataset | None] = (None, None),
) -> None:
    """Refuse the Keras ``model`` called ``name`` where the bundle made of it would be refused.

    ``described`` tells whether it is known how images become its input, ``labels`` are the names of its classes, where
    they are known; ``found`` is what ``images_of`` gave. What a model does not say of itself is left for later.

    Raises InputError for what is no classifier, is larger than can be quantised or has other classes than the images,
    and UsageError for layers to ``keep`` that it has not.
    """
    inputs, outputs = getattr(model, "inputs", None) or (), getattr(model, "outputs", None) or ()
    if inputs and outputs:
        shapes = [tuple(t.shape) for t in (*inputs, *outputs)]
        if len(inputs) > 1 or len(outputs) > 1 or [len(s) for s in shapes] != [4, 2]:
            raise InputError(f"{name} is no classifier of images, and only such are quantised; leave --precision out")
        if None in shapes[0][1:]:
            raise InputError(f"{name} leaves the size of its input open, and nothing open is quantised; give "
                             "--input-shape, or leave --precision out")
    if not described:
        raise InputError(f"nothing says how images become the input of {name}, so it cannot be quantised; convert a "
                         "registered architecture or a training run, or leave --precision out")
    if getattr(model, "built", True) and hasattr(model, "count_params"):
        size = model.count_params() * _FLOAT_BYTES
        if size > MOST_BYTES:
            raise InputError(f"{name} has {size / 1e9:.1f} GB of weights, and models above 2 GB are not quantised yet; "
                             "leave --precision out")
    own = [layer.name for layer in getattr(model, "layers", None) or ()]
    for layer in keep:
        if own and not any(layer == n or layer.startswith(f"{n}/") or n.startswith(f"{layer}/") for n in own):
            raise UsageError(f"--keep {layer}: {name} has no such layer; its layers are {', '.join(own[:5])}"
                             f"{', ...' if len(own) > 5 else ''}")
    classes = tuple(labels or (map(str, range(outputs[0].shape[-1])) if outputs else ()))
    if classes:
        measured, labelled = found
        if measured is not None:
            matched_labels(measured, measured.train, classes)
        if labelled is not None:
            matched_labels(labelled, split_of(labelled, "test"), classes)
