"""Where labelled images come from: the digits that scikit-learn ships, Keras' data sets, ``.npz`` files, folders.

Everything is checked here, before any training starts; what is wrong is named in one line.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnexport import files
from cnnexport.data import arrays as stored
from cnnexport.data.images import SUFFIXES, Preparation, decode, prepare
from cnnexport.errors import InputError
from cnnexport.text import shortened

NAMED = ("digits", "mnist", "fashion_mnist", "cifar10")
_KEYS = ("x_train", "y_train", "x_test", "y_test")
_TEST_SHARE = 5
"""One image in so many of each class is held out for the test, where a source has no test images of its own."""
_MOST_CLASSES = 1_000_000
_TRAIN, _TEST, _VALIDATION = ("train", "training"), ("test", "testing"), ("validation", "val", "valid")
_GARMENTS = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CLASSES = {"digits": tuple("0123456789"), "mnist": tuple("0123456789"), "fashion_mnist": _GARMENTS, "cifar10": _CIFAR}


@dataclass(frozen=True)
class Split:
    """Images and their labels, int64 (N,). ``images`` is an array (N, h, w[, channels]) or the paths of files.

    ``scale`` brings an array's values to 0..255.
    """

    images: NDArray[Any] | tuple[Path, ...]
    labels: NDArray[np.int64]
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Split:
        """The images at ``indices``, in that order."""
        images = self.images[indices] if isinstance(self.images, np.ndarray) else tuple(
            self.images[i] for i in indices)
        return Split(images, self.labels[indices], self.scale)

    def pixels(self, index: int) -> NDArray[Any]:
        """One stored image as 0..255, (h, w) or (h, w, channels)."""
        if isinstance(self.images, np.ndarray):
            return np.asarray(self.images[index] * self.scale if self.scale != 1.0 else self.images[index])
        return decode(self.images[index])

    def prepared(self, preparation: Preparation, first: int, last: int) -> NDArray[np.float32]:
        """The network's input for images ``first`` up to ``last``."""
        if isinstance(self.images, np.ndarray):
            return prepare(self.images[first:last], preparation, scale=self.scale)
        return np.concatenate([prepare(decode(path)[None], preparation) for path in self.images[first:last]])

    def batches(self, preparation: Preparation, size: int) -> Iterator[NDArray[np.float32]]:
        """The network's input, ``size`` images at a time."""
        for first in range(0, len(self), size):
            yield self.prepared(preparation, first, first + size)


@dataclass(frozen=True)
class Dataset:
    """A source of labelled images, checked.

    ``source`` is what names it again: one of NAMED, or an absolute path. ``sha256`` is over everything in it.
    ``validation`` is None where the source has none of its own.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    sha256: str
    test_origin: str
    validation: Split | None = None


def load(
    source: str | Path,
    *,
    classes: int | None = None,
    training: bool = True,
    progress: Callable[[str], None] = lambda step: None,
) -> Dataset:
    """The data set called ``source`` (one of NAMED, an ``.npz`` file with Keras' keys, or a folder of images).

    A folder has one sub-folder a class, by the rules of ``keras.utils.image_dataset_from_directory``, or such folders
    in ``train/`` and ``test/`` (and ``validation/``). ``classes`` is the number of classes, where labels do not tell.
    ``training=False`` takes what is good enough to be evaluated on: one class, or test images alone.

    Raises InputError for data that cannot be had, read or learned from.
    """
    if str(source) == "digits":
        found = _digits()
    elif str(source) in NAMED:
        found = _keras(str(source))
    else:
        path = Path(source)
        if not files.exists(path):
            raise InputError(f"there is no data set called '{source}' and no such path; give one of "
                             f"{', '.join(NAMED)}, an .npz file or a folder of images")
        found = (_folder(path, progress) if files.is_folder(path)
                 else _npz(files.regular(path, "give an .npz file or a folder of images"), classes, training=training))
    if classes is not None and len(found.class_names) != classes:
        raise InputError(f"{found.name} has {len(found.class_names)} classes, and --classes says {classes}; leave it "
                         "out")
    if training:
        _check_learnable(found)
    return found


def stratified(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """The sorted indices of ``count`` images, each class in its share, drawn by ``seed``; at least one of each."""
    rng = np.random.default_rng([seed, 7919])
    drawn = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        drawn.append(rng.permutation(places)[:max(1, round(count * len(places) / len(labels)))])
    return np.sort(np.concatenate(drawn))


def _hold_out(images: Any, labels: NDArray[np.int64], scale: float = 1.0) -> tuple[Split, Split, str]:
    """Every fifth image of each class for the test: the same ones whatever the seed of a run."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        held[np.flatnonzero(labels == label)[_TEST_SHARE - 1::_TEST_SHARE]] = True
    whole = Split(images, labels, scale)
    return (whole.take(np.flatnonzero(~held)), whole.take(np.flatnonzero(held)),
            f"every {_TEST_SHARE}th image of each class, held out")


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError("the data set digits comes with scikit-learn, which is not installed; pip install "
                         "scikit-learn") from error
    images, labels = load_digits().images.astype(np.uint8), load_digits().target.astype(np.int64)
    train, test, origin = _hold_out(images, labels, 255 / 16)
    return Dataset("digits", "digits", _CLASSES["digits"], train, test, _hash([images, labels]), origin)


def _keras(name: str) -> Dataset:
    """One of ``keras.datasets``, which keeps what it downloads."""
    import importlib

    try:
        (x, y), (x_test, y_test) = importlib.import_module(f"keras.datasets.{name}").load_data()
    except Exception as error:
        reason = shortened(str(error))
        raise InputError(f"{name} is not on this machine and could not be fetched ({reason}); connect to the internet, "
                         "or give --data digits, an .npz file or a folder") from error
    arrays = [np.asarray(x), np.asarray(y).reshape(-1), np.asarray(x_test), np.asarray(y_test).reshape(-1)]
    return Dataset(name, name, _CLASSES[name], Split(arrays[0], arrays[1].astype(np.int64)),
                   Split(arrays[2], arrays[3].astype(np.int64)), _hash(arrays), "the data set's own test images")


def _npz(path: Path, classes: int | None, *, training: bool) -> Dataset:
    """An ``.npz`` file with Keras' keys: x_train, y_train and, if there are any, x_test and y_test."""
    needed = {"x_train", "y_train"} if training else set()
    names, arrays = stored.read(path, _KEYS, ("class_names",))
    if not needed <= set(names) or not {"x_train", "x_test"} & set(names):
        raise InputError(f"{path} has no x_train and y_train (it has {_listing(names)}); "
                         "name its arrays as Keras' data sets do")
    given = arrays.pop("class_names", None)
    arrays = {key: arrays[key] for key in _KEYS if key in arrays}
    for part in ("train", "test"):
        if (f"x_{part}" in arrays) != (f"y_{part}" in arrays):
            raise InputError(f"{path} has only one of x_{part} and y_{part}; give both or neither")
    digest = _hash(list(arrays.values()))
    scale = 1.0
    for part in ("train", "test"):
        if f"x_{part}" in arrays:
            arrays[f"y_{part}"] = _labels(path, f"y_{part}", arrays[f"y_{part}"])
            _check_images(path, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    if "x_train" not in arrays:
        arrays |= {"x_train": arrays["x_test"][:0], "y_train": arrays["y_test"][:0]}
    x, y = arrays["x_train"], arrays["y_train"]
    if "x_test" in arrays and arrays["x_test"].shape[1:] != x.shape[1:]:
        raise InputError(f"{path}: x_train holds images of {_text(x.shape[1:])} and x_test of "
                         f"{_text(arrays['x_test'].shape[1:])}; make them alike")
    highest = max(float(arrays[key].max(initial=0)) for key in ("x_train", "x_test") if key in arrays)
    if x.dtype == bool or (np.issubdtype(x.dtype, np.floating) and highest <= 1.0):
        scale = 255.0  # 0..1, as many notebooks store them
    count = _classes(path, y, arrays.get("y_test", y[:0]), classes, training=training)
    names = [str(i) for i in range(count)] if given is None else [str(n) for n in np.asarray(given).reshape(-1)]
    _check_names(path, names)
    if len(names) != count:
        raise InputError(f"{path} has {len(names)} class_names for {count} classes; name each, or none")
    if "x_test" in arrays:
        train, test = Split(x, y, scale), Split(arrays["x_test"], arrays["y_test"], scale)
        origin = "the file's own x_test"
    else:
        train, test, origin = _hold_out(x, y, scale)
    return Dataset(path.name, str(path.resolve()), tuple(names), train, test, digest, origin)


def _listing(names: Sequence[str]) -> str:
    return ", ".join(repr(n)[1:-1][:40] for n in names[:8]) or "nothing"


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse names of classes that cannot be printed, or written to a file of text."""
    # Control characters, lone surrogates (of a name that is not UTF-8), separators of lines.
    if bad := next((n for n in names if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in n)), None):
        raise InputError(f"{path} has the class name {ascii(bad)[:80]}, which cannot be printed; rename it")


def _check_images(path: Path, part: str, images: NDArray[Any], labels: NDArray[np.int64]) -> None:
    name = f"x_{part}"
    if len(images) == 0 or images.size == 0:
        raise InputError(f"{path}: {name} is empty; it needs images")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        more = " (channels come last)" if images.ndim == 4 and images.shape[1] in (1, 3) else ""
        raise InputError(f"{path}: {name} has the shape {_text(images.shape)}; images are N x height x width, or "
                         f"N x height x width x 1 or 3{more}")
    if len(images) != len(labels):
        raise InputError(f"{path}: {name} holds {len(images)} images and y_{part} {len(labels)} labels; they must "
                         "match one by one")
    bad = np.flatnonzero(~np.isfinite(images.reshape(len(images), -1)).all(axis=1))
    if len(bad):
        raise InputError(f"{path}: {name} has NaN or infinite pixels in {len(bad)} images, the first at index "
                         f"{bad[0]}; mend or remove them")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 255:
        raise InputError(f"{path}: the pixels of {name} go from {low:g} to {high:g}; they must be 0 to 255, or 0 to 1")


def _labels(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """Labels as int64 (N,), from (N,) or (N, 1)."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InputError(f"{path}: {name} has the shape {_text(values.shape)}; labels are one number an image "
                         "(not one-hot)")
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all():
            raise InputError(f"{path}: {name} has labels that are NaN or infinite; number the classes from 0")
        if (values != np.floor(values)).any():
            raise InputError(f"{path}: {name} has labels that are no whole numbers; number the classes from 0")
    elif not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"{path}: {name} is of type {values.dtype}; labels are the numbers of classes, from 0")
    labels = values.astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise InputError(f"{path}: {name} has the label {labels.min()}, which is out of range; number the classes "
                         "from 0")
    return labels


def _folder(path: Path, progress: Callable[[str], None]) -> Dataset:
    """A folder of images with one sub-folder a class, or of such folders for training and test."""
    children = _subfolders(path)
    lower = {child.name.lower(): child for child in children}
    train = next((lower[n] for n in _TRAIN if n in lower), None)
    others = {kind: next((lower[n] for n in names if n in lower), None)
              for kind, names in (("test", _TEST), ("validation", _VALIDATION))}
    whole = hashlib.sha256()
    progress("read")
    if train is None or not any(others.values()):
        names = [child.name for child in children]
        images, labels = _listed(path, names)
        _check_files(path, images, whole)
        parts = _hold_out(tuple(images), labels)
        return Dataset(path.name, str(path.resolve()), tuple(names), parts[0], parts[1], whole.hexdigest(), parts[2])
    names = [child.name for child in _subfolders(train)]
    found: dict[str, Split] = {}
    for kind, place in (("train", train), *others.items()):
        if place is None:
            continue
        if unknown := sorted({child.name for child in _subfolders(place)} - set(names)):
            raise InputError(f"{place} has the class '{unknown[0]}', which {train} has not; make them alike")
        images, labels = _listed(place, names, all_needed=kind == "train")
        _check_files(path, images, whole)
        found[kind] = Split(tuple(images), labels)
    origin = "the folder's own test images"
    if "test" not in found:
        # Validation images choose the epoch, so they cannot be the test's.
        found["train"], found["test"], origin = _hold_out(found["train"].images, found["train"].labels)
    return Dataset(path.name, str(path.resolve()), tuple(names), found["train"], found["test"], whole.hexdigest(),
                   origin, found.get("validation"))


def _subfolders(path: Path) -> list[Path]:
    """The folders in a folder, whose names are those of classes."""
    found = [p for p in _entries(path) if files.is_folder(p) and not p.name.startswith(".")]
    _check_names(path, [p.name for p in found])
    return found


def _entries(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({files.reason_of(error)}); make it readable") from error


def _images_in(path: Path) -> list[Path]:
    """The images in a folder and in those in it, in order; links to folders are not followed."""
    found: list[Path] = []
    waiting = [path]
    while waiting:
        for entry in _entries(waiting.pop()):
            if files.is_folder(entry):
                waiting += [] if entry.is_symlink() else [entry]
            elif entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and files.exists(entry):
                found.append(files.regular(entry, "remove it"))
    return sorted(found)


def _listed(path: Path, names: Sequence[str], *, all_needed: bool = True) -> tuple[list[Path], NDArray[np.int64]]:
    """The images of each class, in the order of their names."""
    images: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(names):
        place = path / name
        own = _images_in(place) if files.is_folder(place) else []
        if not own and all_needed:
            raise InputError(f"{place} has no images ({', '.join(SUFFIXES)}); add some, or remove the folder")
        images += own
        labels += [index] * len(own)
    if not images:
        raise InputError(f"{path} has no images ({', '.join(SUFFIXES)}); give a folder with one sub-folder a class")
    return images, np.asarray(labels, np.int64)


def _check_files(root: Path, images: Sequence[Path], whole: Any) -> None:
    """Decode each file once, so that a broken one is named now and not in the middle of an epoch."""
    for file in images:
        decode(file)
        whole.update(os.fsencode(f"{file.relative_to(root).as_posix()}\0"))
        whole.update(bytes.fromhex(files.sha256(file)))


def _check_learnable(found: Dataset) -> None:
    present = np.unique(found.train.labels)
    if len(present) < 2:
        only = found.class_names[int(present[0])]
        raise InputError(f"{found.name} has training images of one class only ('{only}'); a classifier needs two or "
                         "more")
    if len(found.test) == 0:
        raise InputError(f"{found.name} has too few images to hold some out for the test; give {_TEST_SHARE} or more "
                         "of each class")


def _classes(path: Path, train: NDArray[np.int64], test: NDArray[np.int64], classes: int | None, *,
             training: bool) -> int:
    """How many classes the labels tell of. Raises InputError for a label out of range."""
    highest = int(max(train.max(initial=0), test.max(initial=0)))
    if classes is not None:
        if highest >= classes:
            raise InputError(f"{path} has the label {highest}, which is out of range: with {classes} classes labels "
                             f"are 0 to {classes - 1}")
        return classes
    present = len(np.unique(train))
    if highest >= _MOST_CLASSES:
        raise InputError(f"{path} has the label {highest}, which is out of range; number the classes from 0")
    if training and highest >= present:
        raise InputError(f"{path} has the label {highest}, which is out of range: {present} classes have training "
                         f"images, so labels are 0 to {present - 1} (or give --classes)")
    return highest + 1


def _hash(arrays: Sequence[NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "()"


def limited(data: Dataset, count: int, seed: int) -> Dataset:
    """``data`` with about ``count`` of its training images, each class in its share."""
    if count >= len(data.train):
        return data
    return replace(data, train=data.train.take(stratified(data.train.labels, count, seed)))
