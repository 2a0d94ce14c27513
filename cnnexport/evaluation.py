"""A bundle at work on images: `predict` and `evaluate`. ONNX Runtime alone, no Keras.

Images are prepared as the bundle's manifest says, by the code that prepared them for training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnexport import bundle, files, runtimes
from cnnexport.data import Dataset, Preparation, Split, decode, load, prepare
from cnnexport.data.images import preparation
from cnnexport.errors import InputError, ParityError, ProviderError, UsageError
from cnnexport.runtimes import profile

SPLITS = ("test", "train", "validation", "all")
_BATCH = 32


@dataclass(frozen=True)
class Classifier:
    """A session of a runtime on a model file, and how images are fed to it.

    ``batch`` is None where the file takes any; ``channels_first`` tells the layout of its input.
    """

    session: runtimes.Session
    input: str
    dtype: str
    channels_first: bool
    batch: int | None

    @property
    def provider(self) -> str:
        """The execution provider that the session prefers."""
        return self.session.device

    def answers(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first output, (N, classes), for inputs (N, height, width, channels)."""
        size = self.batch or len(images)
        found = []
        for first in range(0, len(images), size):
            part = images[first:first + size]
            found.append(np.asarray(self.session.run(None, self.feeds(part))[0], np.float32)[:len(part)])
        return np.concatenate(found)

    def feeds(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What a session is fed for up to ``batch`` images (N, height, width, channels)."""
        missing = (self.batch or 0) - len(images)
        if missing > 0:  # a file of a fixed batch takes no fewer
            images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        if self.channels_first:
            images = images.transpose(0, 3, 1, 2)
        return {self.input: np.ascontiguousarray(images.astype(self.dtype, copy=False))}


@dataclass(frozen=True)
class Prediction:
    """One class of an image: its name and index, and its probability."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Answer:
    """What a bundle says of one image: the likeliest classes first, or why it could not be read."""

    image: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class _Opened:
    manifest: dict[str, Any]
    classifier: Classifier
    preparation: Preparation
    logits: bool
    labels: tuple[str, ...]


def open_bundle(path: Path, *, provider: str = "cpu", threads: int | None = None) -> _Opened:
    """A bundle ready to classify, its files checked against its checksums and its parity record read.

    Raises:
        InputError: no bundle, or one that is no image classifier or does not say how images become its input.
        BundleError: a bundle incomplete or altered.
        ParityError: a bundle whose gate did not pass.
        ProviderError: a provider that cannot be had.
    """
    path = Path(path)
    if not files.is_folder(path):
        what = "is a file" if files.exists(path) else "does not exist"
        raise InputError(f"{path} {what}; give a bundle, the folder that cnnexport convert makes")
    if not bundle.is_bundle(path):
        raise InputError(f"{path} is a folder without {bundle.MANIFEST}; give a bundle")
    found = bundle.opened(path)
    manifest = found.manifest
    if not found.parity["passed"]:
        raise ParityError(f"{path / bundle.PARITY} says that the model did not pass; convert it again")
    inputs, outputs = manifest["inputs"], manifest["outputs"]
    kind, recipe, labels = outputs[0]["name"], manifest["preprocessing"], manifest["labels"]
    shape, first = list(inputs[0]["shape"]), inputs[0]
    one = len(inputs) == 1 and len(outputs) == 1 and len(shape) == 4 and len(outputs[0]["shape"]) == 2
    if not one or kind not in ("probabilities", "logits"):
        raise InputError(f"{path} is no classifier of images (its output is {kind}); give a bundle with a top")
    if recipe is None:
        raise InputError(f"{path} does not say how images become its input (its manifest has no preprocessing); "
                         "convert a registered architecture or a training run")
    channels_first = first["layout"] == "NCHW"
    height, width = (shape[2], shape[3]) if channels_first else (shape[1], shape[2])
    if not isinstance(height, int) or not isinstance(width, int):
        raise InputError(f"{path} leaves the size of its input open; convert it with --input-shape")
    classes = outputs[0]["shape"][1]
    names = tuple(labels) if labels else tuple(str(i) for i in range(classes if isinstance(classes, int) else 0))
    session = runtimes.get(runtimes.DEFAULT).open(path / "model.onnx", provider=provider, threads=threads)
    batch = shape[0] if isinstance(shape[0], int) else None
    return _Opened(manifest, Classifier(session, first["name"], first["dtype"], channels_first, batch),
                   preparation(recipe, height, width), kind == "logits", names)


def predict(
    path: Path, images: Sequence[Path], *, top: int = 5, provider: str = "cpu"
) -> tuple[list[Answer], dict[str, Any]]:
    """The ``top`` classes of each image file, and the bundle's manifest. Raises as ``open_bundle``.

    An image that cannot be read has an error instead of predictions.
    """
    opened = open_bundle(path, provider=provider)
    answers = []
    for image in images:
        try:
            pixels = prepare(decode(Path(image))[None], opened.preparation)
        except InputError as error:
            answers.append(Answer(str(image), error=str(error)))
            continue
        (chances,) = _probabilities(opened.classifier.answers(pixels), opened.logits)
        best = np.argsort(-chances, kind="stable")[:top]
        answers.append(Answer(str(image), tuple(
            Prediction(_label(opened.labels, int(i)), int(i), float(chances[i])) for i in best)))
    return answers, opened.manifest


def evaluate(
    path: Path,
    data: str | Path,
    *,
    split: str = "test",
    provider: str = "cpu",
    batch: int = _BATCH,
    threads: int | None = None,
    say: Callable[[int, int], None] = lambda done, count: None,
) -> dict[str, Any]:
    """The measures of a bundle on labelled images, as JSON-ready values; images are read batch by batch.

    ``split`` is one of SPLITS; ``say`` hears how many images are done. Raises as ``open_bundle``, UsageError for a
    split that is not there, and InputError for data that cannot be read or has other classes.
    """
    from cnnexport.training.measures import measure

    if split not in SPLITS:
        raise UsageError(f"split '{split}' is unknown; choose one of {', '.join(SPLITS)}")
    opened = open_bundle(path, provider=provider, threads=threads)
    found = load(data, training=False)
    part = _split(found, split)
    labels = _matched(found, part, opened.labels)
    proof = _proof(opened, part, provider)
    chances = []
    done = 0
    for pixels in part.batches(opened.preparation, opened.classifier.batch or batch):
        chances.append(_probabilities(opened.classifier.answers(pixels), opened.logits))
        done += len(pixels)
        say(done, len(part))
    probabilities = np.concatenate(chances)
    measured = measure(labels, probabilities, opened.labels or tuple(map(str, range(probabilities.shape[1]))))
    if probabilities.shape[1] > 5:
        five = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
        measured["top_5_accuracy"] = float((five == labels[:, None]).any(axis=1).mean())
    return {
        "bundle": str(path), "model_sha256": opened.manifest["files"]["model.onnx"]["sha256"],
        "untrained": opened.manifest["untrained"], "statement": opened.manifest["provenance"]["statement"],
        "data": found.name, "data_sha256": found.sha256, "split": split,
        "split_origin": found.test_origin if split == "test" else None,
        "seen_in_training": _seen(opened.manifest, found, split),
        "runtime": runtimes.saved_as(runtimes.DEFAULT), **proof, **measured}


def same_predictions(
    classifier: Classifier, batches: Iterable[NDArray[np.float32]], expected: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The classes (N,) that a model file says, and the indices at which they are not ``expected``."""
    said = np.concatenate([classifier.answers(batch).argmax(axis=1) for batch in batches]).astype(np.int64)
    return said, np.flatnonzero(said != expected)


def _probabilities(answers: NDArray[np.float32], logits: bool) -> NDArray[np.float32]:
    if not logits:
        return answers
    raised = np.exp(answers - answers.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if index < len(labels) else str(index)


def _split(found: Dataset, split: str) -> Split:
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


def _matched(found: Dataset, part: Split, labels: Sequence[str]) -> NDArray[np.int64]:
    """The labels of ``part`` as the bundle counts its classes: by name where both name theirs, else by number."""
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


def _proof(opened: _Opened, part: Split, provider: str) -> dict[str, Any]:
    """The provider that ran the graph, from the runtime's own profile of one batch."""
    pixels = part.prepared(opened.preparation, 0, opened.classifier.batch or 1)
    nodes = profile.counts(opened.classifier.session.placement(opened.classifier.feeds(pixels)))
    asked = runtimes.get(runtimes.DEFAULT).providers[provider]
    if not nodes.get(asked):
        raise ProviderError(f"{asked} ran none of the graph's nodes; use --provider cpu")
    return {"provider": asked, "nodes": nodes}


def _seen(manifest: dict[str, Any], found: Dataset, split: str) -> bool | None:
    """Whether the images are ones that the model was trained on; None where the bundle does not tell."""
    data = manifest["provenance"].get("run", {}).get("data", {})
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

    origin = f" ({found['split_origin']})" if found["split_origin"] else ""
    lines = [f"{found['bundle']} on {found['data']}, {found['split']} images{origin}", *format_measures(found),
             f"  runtime   {runtimes.get(runtimes.DEFAULT).title}, {found['provider']}"]
    if found["seen_in_training"]:
        lines.append("  note      the model was trained on these images: this says nothing of new ones")
    return "\n".join(lines)
