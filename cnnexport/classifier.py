"""A bundle ready to classify images: opened and checked once, in any runtime. No Keras.

Images are prepared as the bundle's manifest says, by the code that prepared them for training.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from msgspec import to_builtins
from numpy.typing import NDArray

from cnnexport import runtimes
from cnnexport.bundle import Bundle
from cnnexport.data import Preparation, decode, prepare
from cnnexport.data.images import preparation
from cnnexport.errors import InputError, UsageError

Image: TypeAlias = str | os.PathLike[str] | bytes | NDArray[Any]
"""A file, the content of one, or its pixels: uint8 (height, width), or (height, width, 3) in RGB."""
_BATCH = 32


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
class Classifier:
    """A session of a runtime on a model file, and how images are fed to it.

    ``batch`` is None where the file takes any; ``channels_first`` tells the layout of its input. ``bundle`` is what
    the file is of, ``preparation`` how images become its input and ``labels`` the names of its classes; ``logits``
    tells that its output are logits.
    """

    session: runtimes.Session
    input: str
    dtype: str
    channels_first: bool
    batch: int | None
    bundle: Bundle | None = None
    preparation: Preparation | None = None
    labels: tuple[str, ...] = ()
    logits: bool = False

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        runtime: str = runtimes.DEFAULT,
        provider: str = "cpu",
        threads: int | None = None,
    ) -> Classifier:
        """The classifier in the folder ``bundle``, its files checked against its checksums and its gate's record.

        ``threads`` are intra-op threads (None: the runtime's choice).

        Raises:
            UsageError: a runtime that is unknown or not installed, or that has no such provider.
            InputError: no bundle, or one that is no image classifier or does not say how images become its input.
            BundleError: a bundle incomplete or altered.
            ParityError: a bundle whose gate did not pass.
            ProviderError: a provider that cannot be had.
        """
        ((engine, provider),) = runtimes.chosen([runtime], [provider])
        found = Bundle.open(bundle)
        about, path = found.about, found.path
        (first, *others), (output, *more) = about.inputs, about.outputs
        one = not others and not more and len(first.shape) == 4 and len(output.shape) == 2
        if not one or output.name not in ("probabilities", "logits"):
            raise InputError(f"{path} is no classifier of images (its output is {output.name}); give a bundle with a "
                             "top")
        if about.preprocessing is None:
            raise InputError(f"{path} does not say how images become its input (its manifest has no preprocessing); "
                             "convert a registered architecture or a training run")
        channels_first = first.layout == "NCHW"
        batch, *sizes = first.shape
        height, width = sizes[1:] if channels_first else sizes[:2]
        if not isinstance(height, int) or not isinstance(width, int):
            raise InputError(f"{path} leaves the size of its input open; convert it with --input-shape")
        classes = output.shape[1]
        names = about.labels or tuple(str(i) for i in range(classes if isinstance(classes, int) else 0))
        session = engine.open(found.file, provider=provider, threads=threads)
        return cls(session, first.name, found.model.io or first.dtype, channels_first,
                   batch if isinstance(batch, int) else None, found,
                   preparation(to_builtins(about.preprocessing), height, width), names, output.name == "logits")

    @property
    def provider(self) -> str:
        """The execution provider that the session prefers."""
        return self.session.device

    def predict(self, images: Image | Iterable[Image], *, top: int = 5) -> list[Answer]:
        """The ``top`` classes of each image, the likeliest first; an image that cannot be read has an error instead.

        ``images`` are files (paths), their contents (bytes) or pixels (uint8 arrays: (height, width), or (height,
        width, 3) in RGB), one or several, or an array (N, height, width, 3). Raises UsageError for anything else.
        """
        given: list[Image] = [images] if _is_one(images) else list(images)  # type: ignore[arg-type,list-item]
        found = [Answer(_name(image, index)) for index, image in enumerate(given)]
        ready: list[tuple[int, NDArray[np.float32]]] = []
        for index, image in enumerate(given):
            try:
                ready.append((index, self._prepared(image)))
            except InputError as error:
                found[index] = Answer(found[index].image, error=str(error))
            if len(ready) == _BATCH or (ready and index == len(given) - 1):
                chances = self.probabilities(np.concatenate([pixels for _, pixels in ready]))
                for (place, _), row in zip(ready, chances):
                    best = np.argsort(-row, kind="stable")[:top]
                    found[place] = Answer(found[place].image, tuple(
                        Prediction(self.label(int(i)), int(i), float(row[i])) for i in best))
                ready.clear()
        return found

    def label(self, index: int) -> str:
        """The name of a class; its number where it has none."""
        return self.labels[index] if index < len(self.labels) else str(index)

    def probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """A probability a class, (N, classes), for inputs (N, height, width, channels)."""
        answers = self.answers(images)
        if not self.logits:
            return answers
        raised = np.exp(answers - answers.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)

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

    def _prepared(self, image: Image) -> NDArray[np.float32]:
        if self.preparation is None:
            raise UsageError("nothing says how images become the input of this model; open a bundle")
        if isinstance(image, (str, os.PathLike)):
            image = Path(image)
        pixels = decode(image) if isinstance(image, (bytes, Path)) else np.asarray(image)
        if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3))):
            raise UsageError(f"an image is an array of {pixels.dtype}, {'x'.join(map(str, pixels.shape))}; give pixels "
                             "of 0 to 255 as uint8, height x width or height x width x 3 in RGB")
        return prepare(pixels[None], self.preparation)


def _is_one(images: Any) -> bool:
    """Whether this is one image rather than several."""
    if isinstance(images, np.ndarray):
        return images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3))
    return isinstance(images, (str, bytes, os.PathLike))


def _name(image: Image, index: int) -> str:
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {index}"


def same_predictions(
    classifier: Classifier, batches: Iterable[NDArray[np.float32]], expected: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The classes (N,) that a model file says, and the indices at which they are not ``expected``."""
    said = np.concatenate([classifier.answers(batch).argmax(axis=1) for batch in batches]).astype(np.int64)
    return said, np.flatnonzero(said != expected)


def predict(
    path: str | Path, images: Sequence[Image], *, top: int = 5, runtime: str = runtimes.DEFAULT, provider: str = "cpu"
) -> tuple[list[Answer], dict[str, Any]]:
    """As ``Classifier.predict``, and the bundle's manifest. Raises as ``Classifier.open``."""
    classifier = Classifier.open(path, runtime=runtime, provider=provider)
    assert classifier.bundle is not None
    return classifier.predict(list(images), top=top), classifier.bundle.manifest
