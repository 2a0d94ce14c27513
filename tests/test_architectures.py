"""The registry: its figures are those of what it builds, its rules those of keras.applications."""

from __future__ import annotations

import numpy as np
import pytest

from cnnexport import architectures
from cnnexport.errors import InputError, UsageError


def test_names_are_unique() -> None:
    every = [n for s in architectures.all_architectures() for n in (s.name, *s.aliases)]
    assert len(every) == len(set(every))
    for spec in architectures.all_architectures():
        assert all(architectures.get(n) is spec for n in (spec.name, *spec.aliases))


def test_unknown_name_suggests_close_ones() -> None:
    with pytest.raises(UsageError, match="resnet50"):
        architectures.get("resnet51")


def test_seeds() -> None:
    first, again, other = (architectures.build("lenet5", seed=s).get_weights() for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first[0], other[0])


def test_same_weights_whatever_was_built_before() -> None:
    """Keras counts layer names up; the weights must not follow."""
    import keras

    shape = (32, 32, 3)
    first = architectures.build("resnet50", input_shape=shape, include_top=False).get_weights()
    keras.layers.Dense(1)
    again = architectures.build("resnet50", input_shape=shape, include_top=False).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(first, again))


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
@pytest.mark.parametrize("name", ["lenet5", "vgg16", "resnet50"])
def test_without_top(name: str, pooling: str | None) -> None:
    channels = architectures.get(name).input_shape[2]
    model = architectures.build(name, include_top=False, pooling=pooling, input_shape=(48, 64, channels))
    assert len(model.output_shape) == (4 if pooling is None else 2)


def test_input_tensor() -> None:
    import keras

    image = keras.Input((40, 40, 3))
    model = architectures.build("vgg16", include_top=False, input_tensor=keras.layers.Rescaling(2.0)(image))
    assert model.inputs[0] is image and any(layer.name.startswith("rescaling") for layer in model.layers)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "avg"}, "without the top"),
        ({"classes": 3, "include_top": False}, "with the top"),
        ({"classes": 3, "weights": "imagenet"}, "1000 classes"),
        ({"input_shape": (20, 224, 3)}, "32 or more"),
        ({"input_shape": (224, 224)}, "height x width x channels"),
        ({"input_shape": (64, 64, 3), "weights": "imagenet"}, "224x224x3"),
        ({"pooling": "median", "include_top": False}, "choose none, avg or max"),
    ],
)
def test_rules(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        architectures.build("resnet50", **options)


def test_missing_weights_file() -> None:
    with pytest.raises(InputError, match="do not exist"):
        architectures.build("lenet5", weights="no-such.h5")
