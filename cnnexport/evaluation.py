"""`evaluate`: what a bundle is worth on labelled images, in any runtime. No Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnexport import runtimes
from cnnexport.bundle import Manifest
from cnnexport.classifier import Answer, Classifier
from cnnexport.data import Dataset, Split, load
from cnnexport.errors import InputError, ProviderError, UsageError
from cnnexport.runtimes import profile

SPLITS = ("test", "train", "validation", "all")
_BATCH = 32


def evaluate(
    path: Path,
    data: str | Path,
    *,
    split: str = "test",
    runtime: str = runtimes.DEFAULT,
    provider: str = "cpu",
    batch: int = _BATCH,
    threads: int | None = None,
    say: Callable[[int, int], None] = lambda done, count: None,
) -> dict[str, Any]:
    """The measures of a bundle on labelled images, as JSON-ready values; images are read batch by batch.

    ``split`` is one of SPLITS; ``say`` hears how many images are done. Raises as ``Classifier.open``, UsageError for
    a split that is not there, and InputError for data that cannot be read or has other classes.
    """
    from cnnexport.training.measures import measure

    if split not in SPLITS:
        raise UsageError(f"split '{split}' is unknown; choose one of {', '.join(SPLITS)}")
    opened = Classifier.open(path, runtime=runtime, provider=provider, threads=threads)
    assert opened.bundle is not None and opened.preparation is not None  # as it was opened from a bundle
    about, preparation = opened.bundle.about, opened.preparation
    found = load(data, training=False)
    part = split_of(found, split)
    labels = matched_labels(found, part, opened.labels)
    proof = _proof(opened, part.prepared(preparation, 0, opened.batch or 1), runtime)
    chances = []
    done = 0
    for pixels in part.batches(preparation, opened.batch or batch):
        chances.append(opened.probabilities(pixels))
        done += len(pixels)
        say(done, len(part))
    probabilities = np.concatenate(chances)
    measured = measure(labels, probabilities, opened.labels or tuple(map(str, range(probabilities.shape[1]))))
    if probabilities.shape[1] > 5:
        five = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
        measured["top_5_accuracy"] = float((five == labels[:, None]).any(axis=1).mean())
    return {
        "bundle": str(path), "model_sha256": opened.bundle.sha256,
        "untrained": about.untrained, "statement": about.provenance.statement,
        "data": found.name, "data_sha256": found.sha256, "split": split,
        "split_origin": found.test_origin if split == "test" else None,
        "seen_in_training": _seen(about, found, split),
        "runtime": runtimes.saved_as(runtime), **proof, **measured}


def split_of(found: Dataset, split: str) -> Split:
    """The images of ``split``, one of SPLITS. Raises UsageError where there are none."""
    parts = {"test": found.test, "train": found.train, "validation": found.validation}
    part = parts.get(split)
    if split == "all":
        there = [p for p in (found.train, found.validation, found.test) if p is not None and len(p)]
        labels = np.concatenate([p.labels for p in there])
        if isinstance(there[0].images, np.ndarray):
            return Split(np.concatenate([np.asarray(p.images) for p in there]), labels, there[0].scale)
        return Split(tuple(image for p in there for image in p.images), labels)
    if part is None or not len(part):
        raise UsageError(f"{found.name} has no {split} images; give --split all, or other --data")
    return part


def matched_labels(found: Dataset, part: Split, labels: Sequence[str]) -> NDArray[np.int64]:
    """The labels of ``part`` as the bundle counts its classes: by name where both name theirs, else by number.

    Raises InputError for classes that the bundle has not.
    """
    own = found.class_names
    if tuple(own) == tuple(labels):
        return part.labels
    places = {name: index for index, name in enumerate(labels)}
    if all(name in places for name in own) and len(places) == len(labels):
        return np.asarray([places[own[i]] for i in part.labels], np.int64)
    if all(name == str(i) for i, name in enumerate(own)) or all(name == str(i) for i, name in enumerate(labels)):
        if part.labels.max() >= len(labels):
            raise InputError(f"{found.name} has the label {part.labels.max()}, and the bundle {len(labels)} classes; "
                             "give the data that it was made for")
        return part.labels
    strange = next(name for name in own if name not in places)
    raise InputError(f"{found.name} has the class '{strange}', which is none of the bundle's ({', '.join(labels[:5])}"
                     f"{', ...' if len(labels) > 5 else ''}); name the classes alike")


def _proof(classifier: Classifier, pixels: NDArray[np.float32], runtime: str) -> dict[str, Any]:
    """The provider that ran the graph, from the runtime's own profile of one batch."""
    nodes = profile.counts(classifier.session.placement(classifier.feeds(pixels)))
    asked = classifier.provider
    if not nodes.get(asked):
        raise ProviderError(f"{asked} ran none of the graph's nodes; use --provider cpu")
    return {"provider": asked, "nodes": nodes}


def _seen(about: Manifest, found: Dataset, split: str) -> bool | None:
    """Whether the images are ones that the model was trained on; None where the bundle does not tell."""
    data = (about.provenance.run or {}).get("data", {})
    return None if not data else data.get("sha256") == found.sha256 and split != "test"


def format_answers(answers: Iterable[Answer]) -> Iterator[str]:
    """The answers as text; those with an error are left out."""
    for answer in answers:
        if answer.error is None:
            yield answer.image
            width = max((len(p.label) for p in answer.predictions), default=0)
            for p in answer.predictions:
                yield f"  {p.label:<{width}}  {p.probability:8.3%}"


def answers_to_dict(answers: Sequence[Answer], manifest: dict[str, Any]) -> dict[str, Any]:
    """The answers as JSON-ready values, with what the bundle says of its weights."""
    return {"untrained": manifest["untrained"], "statement": manifest["provenance"]["statement"],
            "images": [{"image": a.image, "error": a.error, "predictions": [asdict(p) for p in a.predictions]}
                       for a in answers]}


def format_evaluation(found: dict[str, Any]) -> str:
    """What ``evaluate`` found, as text."""
    from cnnexport.training.measures import format_measures

    title = runtimes.get(runtimes.DEFAULT if found["runtime"] == "onnxruntime" else found["runtime"]).title
    origin = f" ({found['split_origin']})" if found["split_origin"] else ""
    lines = [f"{found['bundle']} on {found['data']}, {found['split']} images{origin}", *format_measures(found),
             f"  runtime   {title}, {found['provider']}"]
    if found["seen_in_training"]:
        lines.append("  note      the model was trained on these images: this says nothing of new ones")
    return "\n".join(lines)
