"""A training run as what is converted: its model, where it comes from, and its test images for the proof."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import to_builtins
from numpy.typing import NDArray

from cnnexport import data as sources
from cnnexport.bundle.records import Accuracy, Provenance
from cnnexport.classifier import Classifier, same_predictions
from cnnexport.data import Preparation, Split
from cnnexport.data.images import preparation
from cnnexport.errors import InputError
from cnnexport.training import batch_of, predictions, runs
from cnnexport.training.measures import interval, same_measure


@dataclass(frozen=True)
class TestSet:
    """The test images of a run. ``said`` are the classes (N,) that Keras gives them, None until it was asked.

    ``right`` is the number of right ones that the run measured; None where nobody did.
    """

    data: str
    sha256: str
    split: Split
    preparation: Preparation
    said: NDArray[np.int64] | None = None
    right: int | None = None

    def asked(self, model: Any) -> TestSet:
        """With what ``model`` says. Raises InputError where that is not as good as the run measured."""
        said = predictions(model, self.split, self.preparation).argmax(axis=1).astype(np.int64)
        right, count = int((said == self.split.labels).sum()), len(self.split)
        if self.right is not None and not same_measure(right, self.right, count):
            raise InputError(f"the run's model classifies {right} of {count} test images rightly and its "
                             f"{runs.METRICS} says {self.right}, so one of the two is not the run's; train again")
        return replace(self, said=said)

    def judge(self, classifier: Classifier) -> Accuracy:
        """The accuracy of a model file in ONNX Runtime, and whether it says what Keras said, image by image."""
        assert self.said is not None
        size = classifier.batch or batch_of(self.preparation)
        said, differing = same_predictions(classifier, self.split.batches(self.preparation, size), self.said)
        right, count = int((said == self.split.labels).sum()), len(self.split)
        low, high = interval(right, count)
        return Accuracy(
            data=self.data, data_sha256=self.sha256, images=count, correct=right, accuracy=right / count,
            accuracy_interval_95=(round(low, 6), round(high, 6)),
            keras_correct=int((self.said == self.split.labels).sum()), differing=len(differing),
            first_differing=tuple(int(i) for i in differing[:10]), provider=classifier.provider,
            passed=not len(differing))


@dataclass(frozen=True)
class TrainedModel:
    """The Keras model of a run and what is known about it."""

    model: Any
    provenance: Provenance
    preparation: Preparation
    labels: tuple[str, ...]
    test: TestSet


def load(path: Path, *, unsafe_load: bool = False) -> TrainedModel:
    """The model of the finished run in folder ``path``, with its test images.

    Raises InputError for a run that has not finished or was altered, or whose data is gone or has changed.
    """
    from cnnexport import keras_files

    run = runs.finished(path)
    data, facts = run.record.data, run.record.preprocessing
    try:
        measured = runs.metrics(run)
        right, provenance = int(measured["correct"]), _provenance(run, measured)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path / runs.METRICS} is no record of a training run; train again") from error
    prepared = preparation(to_builtins(facts), facts.image.height, facts.image.width)
    source, labels = data.source, data.classes
    try:
        found = sources.load(source, classes=len(labels))
    except InputError as error:
        raise InputError(f"the data that {path} was trained on cannot be read, so its accuracy cannot be measured "
                         f"again: {error}") from error
    if found.sha256 != data.sha256:
        raise InputError(f"the data at {source} is not what {path} was trained on (its checksum differs), so "
                         "its accuracy cannot be measured again; bring the data back")
    model = keras_files.load_model(path / runs.MODEL, unsafe_load=unsafe_load)
    return TrainedModel(model, provenance, prepared, labels,
                        TestSet(found.name, found.sha256, found.test, prepared, right=right))


def _provenance(run: runs.Run, measured: dict[str, Any]) -> Provenance:
    record, asked = run.record, run.record.asked
    images, options = record.data.images, record.options
    low, high = measured["accuracy_interval_95"]
    front = ""
    if options.weights == "random" and measured["trainable_parameters"] < measured["parameters"] // 2:
        front = " The frozen backbone's weights are random and were never trained."
    return Provenance(
        weights="run", untrained=False, seed=options.seed, statement=(
            f"Trained on {record.data.name} ({images['train']:,} images, {measured['epochs']} epochs): test "
            f"accuracy {measured['accuracy']:.2%} ({low:.2%} to {high:.2%}, {measured['images']:,} images).{front}"),
        file=runs.MODEL, sha256=(record.files or {})[runs.MODEL], run={
            "options": asked["options"],
            "data": {k: v for k, v in asked["data"].items() if k not in ("source", "classes")},
            "epochs": measured["epochs"], "started": record.started, "finished": record.finished or "",
            "seconds": measured["seconds"], "last_epoch": measured["last_epoch"], "versions": record.versions,
            "metrics": {k: measured[k] for k in ("accuracy", "accuracy_interval_95", "loss", "images", "chance")}})
