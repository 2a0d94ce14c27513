"""The registry: its figures are those of what it builds, its rules those of keras.applications."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


DIGESTS = {
    "lenet5": "3dfad89f9b3278a0",
    "resnet18": "1097739dbf81b22c",
    "vgg16-transfer": "ed155f9d3deafbc9",
}
_DIGEST = """
import hashlib, sys
from cnnexport import build
for name in sys.argv[1:]:
    weights = build(name, input_shape=(32, 32, 1 if name == "lenet5" else 3)).get_weights()
    print(name, hashlib.sha256(b"".join(w.tobytes() for w in weights)).hexdigest()[:16])
"""


@pytest.mark.parametrize(
    "machine",
    [
        {},
        {"TF_ENABLE_ONEDNN_OPTS": "0"},
        {"ONEDNN_MAX_CPU_ISA": "SSE41", "TF_NUM_INTRAOP_THREADS": "1",
         "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX2 FMA3"},
    ],
    ids=["this", "eigen", "sse"],
)
def test_a_seed_gives_the_same_bytes_on_any_machine(machine: dict[str, str]) -> None:
    """With other kernels, instruction sets and thread counts, which change the last bits of every activation."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _DIGEST, *DIGESTS], capture_output=True, text=True,
                          env=os.environ | machine)
    assert dict(line.split() for line in done.stdout.splitlines()) == DIGESTS, done.stderr


def test_what_comes_before_the_input_tensor_keeps_its_weights() -> None:
    import keras

    image = keras.Input((40, 40, 1))
    front = keras.layers.Conv2D(3, 1, kernel_initializer="ones", name="front")
    model = architectures.build("resnet18", include_top=False, input_tensor=front(image))
    assert (np.asarray(front.kernel) == 1).all() and model.inputs[0] is image
    frozen = architectures.build("vgg16-transfer", input_tensor=front(image))
    assert front.trainable and [v.path.split("/")[0] for v in frozen.trainable_variables] == [
        name for name in ("front", "top_fc1", "top_fc2", "predictions") for _ in range(2)]


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((20, 20, 3), {}, "20x20x3 is too small"),
        ((40, 40, 3), {"input_shape": (48, 48, 3)}, "not that of the input tensor"),
        ((None, None, 3), {}, "leaves a size open"),
        ((40, 40), {}, "not a Keras tensor of shape"),
    ],
)
def test_input_tensor_rules(shape: tuple, options: dict, words: str) -> None:
    import keras

    with pytest.raises(UsageError, match=words):
        architectures.build("resnet18", input_tensor=keras.Input(shape), **options)


def test_transfer_models_train_their_top_alone() -> None:
    for name in ("vgg16-transfer", "resnet50-transfer"):
        model = architectures.build(name, classes=3)
        layers = [layer.name for layer in model.layers if layer.trainable_variables]
        assert layers == ["top_fc1", "top_fc2", "predictions"] and model.output_shape == (None, 3)
        assert not architectures.build(name, include_top=False).trainable_variables


@pytest.fixture
def local_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Keras' download of ResNet-50 without its top, from a file instead of the internet; returns its weights."""
    import hashlib

    import h5py
    import keras
    from keras.src.applications import resnet
    from keras.src.legacy.saving import legacy_h5_format

    model = keras.applications.ResNet50(include_top=False, weights=None)
    for variable in model.weights:
        variable.assign(np.random.default_rng(len(variable.shape)).uniform(0.9, 1.1, variable.shape) * variable)
    file = tmp_path / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    with h5py.File(file, "w") as opened:  # the format of the files that Keras publishes
        legacy_h5_format.save_weights_to_hdf5_group(opened, model)
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setattr(resnet, "BASE_WEIGHTS_PATH", f"{tmp_path.as_uri()}/")
    monkeypatch.setitem(resnet.WEIGHTS_HASHES, "resnet50", ("0" * 32, digest))
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path / "home"))
    return model.get_weights()


def test_imagenet_backbone_is_downloaded_and_its_top_says_untrained(
    local_imagenet: list, cnnexport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = architectures.build("resnet50-transfer", weights="imagenet", seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(local_imagenet, model.get_weights()))
    top = model.get_layer("top_fc1").get_weights()
    again = architectures.build("resnet50-transfer", weights="imagenet", seed=3).get_layer("top_fc1").get_weights()
    other = architectures.build("resnet50-transfer", weights="imagenet", seed=4).get_layer("top_fc1").get_weights()
    assert np.array_equal(top[0], again[0]) and not np.array_equal(top[0], other[0]) and top[1].any()
    result = cnnexport("convert", "resnet50-transfer", "--weights", "imagenet", "--json")
    made = json.loads(result.out)
    assert made["untrained"] is True and "backbone" in made["manifest"]["provenance"]["statement"]
    # All of it is ImageNet's where the top is left out.
    made = json.loads(cnnexport("convert", "resnet50-transfer", "--weights", "imagenet", "--no-top", "--json", "-o",
                                "features").out)
    assert made["untrained"] is False


@pytest.mark.parametrize("name", ["lenet5", "vgg11", "alexnet", "resnet18"])
def test_rows_without_imagenet_weights_say_so(name: str) -> None:
    with pytest.raises(UsageError, match="has no ImageNet weights"):
        architectures.build(name, weights="imagenet")


def test_weights_none_is_random() -> None:
    first, again = (architectures.build("lenet5", weights=w).get_weights() for w in (None, "random"))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))


def test_weights_from_a_file(tmp_path: Path) -> None:
    model = architectures.build("lenet5-same", seed=9)
    model.save_weights(tmp_path / "w.weights.h5")
    same = architectures.build("lenet5-same", weights=str(tmp_path / "w.weights.h5"))
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), same.get_weights()))


def test_random_weights_of_a_layer_with_a_bias_of_two_axes() -> None:
    import keras
    import numpy as np

    from cnnexport.architectures.weights import randomise

    tokens = keras.Input((9, 8))
    model = keras.Model(tokens, keras.layers.MultiHeadAttention(2, 4, name="attention")(tokens, tokens))
    randomise(model, 0)
    assert all(np.any(np.asarray(weight)) and np.isfinite(np.asarray(weight)).all() for weight in model.weights)
