"""Images and their sources: every number that reaches a network, and every way in which data can be bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnexport import data
from cnnexport.architectures.spec import CAFFE
from cnnexport.data import images, sources
from cnnexport.errors import InputError

_GREY = images.Preprocessing("grey", "grey", 1 / 255, (0.0,), (), (0.0, 1.0))
_RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("size", "wanted"), [((28, 28), (32, 32)), ((40, 61), (17, 33)), ((8, 8), (227, 100))])
def test_resize_is_tensorflows(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    import tensorflow as tf

    pixels = _RNG.uniform(0, 255, (2, *size, 3)).astype(np.float32)
    np.testing.assert_array_equal(images.resize(pixels, *wanted), tf.image.resize(pixels, wanted).numpy())


def test_formula_is_keras_applications_own() -> None:
    import keras

    pixels = _RNG.uniform(0, 255, (2, 9, 9, 3)).astype(np.float32)
    np.testing.assert_array_equal(images.formula(pixels, CAFFE),
                                  keras.applications.resnet50.preprocess_input(pixels.copy()))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stored", [(5, 12, 10), (5, 12, 10, 1), (5, 12, 10, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_tf_data_feeds_what_a_consumer_prepares(stored: tuple[int, ...], channels: int, kind: Any) -> None:
    from cnnexport.training.batches import Images

    split = data.Split(_RNG.integers(0, 16, stored).astype(kind), np.arange(5), 255 / 16)
    preparation = data.Preparation(16, 8, channels, CAFFE if channels == 3 else _GREY)
    (fed, labels), = Images(split, preparation).batches(np.asarray([[3, 0, 4]]), 8)
    np.testing.assert_allclose(fed, split.prepared(preparation, 0, 5)[[3, 0, 4]], rtol=1e-6, atol=1e-4)
    assert list(labels) == [3, 0, 4]


def test_augmentation_depends_on_seed_alone_and_keeps_shape_and_range() -> None:
    from cnnexport.training.batches import augmented

    pixels = _RNG.uniform(0, 255, (4, 20, 24, 3)).astype(np.float32)
    for kind in ("flip", "shift", "zoom", "rotate", "crop", "brightness"):
        once, again, other = (np.asarray(augmented(pixels, (kind,), (seed, 0))) for seed in (5, 5, 6))
        np.testing.assert_array_equal(once, again)
        assert once.shape == pixels.shape and once.min() >= 0 and once.max() <= 255.01
        assert not np.array_equal(once, other) and not np.array_equal(once, pixels)
    flipped = np.asarray(augmented(pixels, ("flip",), (5, 0)))
    for before, after in zip(pixels, flipped):
        assert min(np.abs(after - before).max(), np.abs(after - before[:, ::-1]).max()) < 1e-2


@pytest.mark.parametrize(("mode", "shape"), [
    ("L", (6, 7)), ("1", (6, 7)), ("LA", (6, 7)), ("RGB", (6, 7, 3)), ("RGBA", (6, 7, 3)), ("P", (6, 7, 3)),
    ("CMYK", (6, 7, 3))])
def test_decode_modes(mode: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    place = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(_RNG.integers(0, 255, (6, 7, 3), dtype=np.uint8)).convert(mode).save(place)
    pixels = data.decode(place)
    assert pixels.shape == shape and pixels.dtype == np.uint8


def test_decode_keeps_the_upper_half_of_16_bits(tmp_path: Path) -> None:
    values = _RNG.integers(0, 65535, (6, 7)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(data.decode(tmp_path / "a.png"), values >> 8)


def test_digits_hold_the_same_images_out_every_time() -> None:
    one, other = data.load("digits"), data.load("digits")
    assert (len(one.train), len(one.test)) == (1442, 355) and one.sha256 == other.sha256
    np.testing.assert_array_equal(one.test.labels, other.test.labels)
    assert one.test.prepared(data.Preparation(8, 8, 1, _GREY), 0, 355).max() == pytest.approx(1.0)


def _folder(place: Path, per_class: int = 6, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for index, name in enumerate(classes):
        (place / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.full((9 + number, 8, 3), 40 * index + number, np.uint8)
            Image.fromarray(pixels).save(place / name / f"{number}.{('png', 'jpg', 'bmp')[number % 3]}")
    return place


def test_folder_is_read_as_keras_reads_it(tmp_path: Path) -> None:
    import keras

    _folder(tmp_path / "d", 7)
    (tmp_path / "d" / "cat" / "notes.txt").write_text("not an image")
    found = data.load(tmp_path / "d")
    theirs = keras.utils.image_dataset_from_directory(tmp_path / "d", shuffle=False, verbose=False)
    assert list(found.class_names) == theirs.class_names
    assert isinstance(found.train.images, tuple) and isinstance(found.test.images, tuple)
    assert sorted(map(str, (*found.train.images, *found.test.images))) == sorted(theirs.file_paths)
    assert (len(found.train), len(found.test)) == (12, 2)


def test_folders_of_training_validation_and_test(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        _folder(tmp_path / part, count)
    found = data.load(tmp_path)
    assert found.validation is not None
    assert (len(found.train), len(found.validation), len(found.test)) == (10, 4, 6)
    assert found.test_origin == "the folder's own test images"
    before = found.sha256
    (tmp_path / "test" / "cat" / "0.png").write_bytes((tmp_path / "test" / "dog" / "0.png").read_bytes())
    assert data.load(tmp_path).sha256 != before


@pytest.mark.parametrize(("kind", "words"), [
    ("empty", "no images"), ("one class", "one class only"), ("empty class", "dog has no images"),
    ("corrupt", "0.png is no image that can be read"), ("truncated", "1.jpg is no image that can be read"),
    ("few", "too few images to hold some out"), ("test class", "the class 'horse'")])
def test_bad_folders_are_named(kind: str, words: str, tmp_path: Path) -> None:
    place = tmp_path / "d"
    _folder(place, 2 if kind == "few" else 6)
    if kind == "empty":
        place = tmp_path / "e"
        place.mkdir()
    elif kind == "one class":
        place = _folder(tmp_path / "one", classes=("cat",))
    elif kind == "empty class":
        for file in (place / "dog").iterdir():
            file.unlink()
    elif kind == "corrupt":
        (place / "cat" / "0.png").write_bytes(b"no image")
    elif kind == "truncated":
        whole = (place / "cat" / "1.jpg").read_bytes()
        (place / "cat" / "1.jpg").write_bytes(whole[:len(whole) // 2])
    elif kind == "test class":
        place = tmp_path / "split"
        _folder(place / "train")
        _folder(place / "test", classes=("cat", "horse"))
    with pytest.raises(InputError, match=words):
        data.load(place)


def _arrays(**changed: Any) -> dict[str, Any]:
    good = {"x_train": np.zeros((20, 8, 8), np.uint8), "y_train": np.arange(20) % 4,
            "x_test": np.zeros((8, 8, 8), np.uint8), "y_test": np.arange(8) % 4}
    return {k: v for k, v in (good | changed).items() if v is not None}


@pytest.mark.parametrize(("changed", "words"), [
    ({"x_train": None, "y_train": None}, "has no x_train and y_train"),
    ({"x_test": None}, "only one of x_test and y_test"),
    ({"x_train": np.zeros((0, 8, 8), np.uint8), "y_train": np.zeros(0, int)}, "x_train is empty"),
    ({"x_train": np.zeros((20, 64), np.uint8)}, "has the shape 20 x 64"),
    ({"x_train": np.zeros((20, 3, 8, 8), np.uint8)}, "channels come last"),
    ({"x_train": np.zeros((20, 8, 8, 4), np.uint8)}, "x 1 or 3"),
    ({"y_train": np.arange(19) % 4}, "20 images and y_train 19 labels"),
    ({"x_test": np.zeros((8, 9, 9), np.uint8)}, "make them alike"),
    ({"y_train": np.zeros(20, int), "y_test": np.zeros(8, int)}, "one class only"),
    ({"y_train": np.arange(20) % 4 - 1}, "label -1, which is out of range"),
    ({"y_test": np.asarray([0, 1, 2, 3, 4, 0, 1, 2])}, "label 4, which is out of range"),
    ({"y_train": np.asarray([0, 1, 2, 10**9] * 5)}, "label 1000000000, which is out of range"),
    ({"y_train": np.eye(20)}, "not one-hot"),
    ({"y_train": np.arange(20) % 4 + 0.5}, "no whole numbers"),
    ({"y_train": np.full(20, np.nan)}, "labels that are NaN"),
    ({"y_train": np.asarray(["a", "b"] * 10)}, "labels are the numbers of classes"),
    ({"x_train": np.where(np.arange(1280).reshape(20, 8, 8) == 130, np.nan, 0.5)}, "infinite pixels in 1 images"),
    ({"x_train": np.full((20, 8, 8), 300.0)}, "go from 300 to 300"),
    ({"x_train": np.full((20, 8, 8), -1, np.int16)}, "go from -1"),
    ({"x_train": np.full((20, 8, 8), 1j)}, "pixels are numbers"),
    ({"x_train": np.asarray([None] * 20)}, "pixels are numbers"),
    ({"class_names": np.asarray(["a", "b"])}, "2 class_names for 4 classes"),
])
def test_bad_arrays_are_named(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **_arrays(**changed))
    with pytest.raises(InputError, match=words):
        data.load(tmp_path / "d.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 truncated"])
def test_a_broken_archive_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"no \.npz file that can be read"):
        data.load(tmp_path / "d.npz")


def test_arrays_of_0_to_1_and_labels_in_a_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **_arrays(x_train=np.linspace(0, 1, 1280).reshape(20, 8, 8), x_test=None, y_test=None,
                                           y_train=(np.arange(20) % 4)[:, None], class_names=np.asarray(list("wxyz"))))
    found = data.load(tmp_path / "d.npz")
    assert found.train.scale == 255.0 and found.class_names == ("w", "x", "y", "z")
    assert (len(found.train), len(found.test)) == (16, 4)


def test_unknown_source() -> None:
    with pytest.raises(InputError, match="no data set called 'nosuch'"):
        data.load("nosuch")


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_keras_data_sets_come_from_its_cache_or_fail_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    module = getattr(keras.datasets, name)
    loader = __import__(module.load_data.__module__, fromlist=["get_file"])
    real = loader.get_file

    def from_nowhere(*args: Any, **kwargs: Any) -> str:
        kwargs["origin"], kwargs["cache_dir"] = "http://127.0.0.1:9/none", str(tmp_path)
        return str(real(*args[:1], **{k: v for k, v in kwargs.items() if k != "path"}))

    monkeypatch.setattr(loader, "get_file", from_nowhere)
    with pytest.raises(InputError, match=f"{name} is not on this machine and could not be fetched"):
        data.load(name)
    if name == "mnist":
        np.savez(tmp_path / "mnist.npz", **_arrays())
        monkeypatch.setattr(loader, "get_file", lambda *args, **kwargs: str(tmp_path / "mnist.npz"))
        assert len(data.load("mnist").train) == 20


def test_a_limit_keeps_the_shares_of_the_classes() -> None:
    labels = np.asarray([0] * 90 + [1] * 10)
    chosen = sources.stratified(labels, 20, 3)
    assert np.bincount(labels[chosen]).tolist() == [18, 2]
    np.testing.assert_array_equal(chosen, sources.stratified(labels, 20, 3))
