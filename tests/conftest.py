"""What several test files share: the command line in this process, and small models."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
gc.set_threshold(50_000, 20, 50)  # TensorFlow and Keras hold millions of objects, and each collection walks them all


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for the whole suite; a part of it that is named runs in this one."""
    if any(not str(word).startswith("-") for word in config.invocation_params.args):
        return 0
    config.option.dist = "loadfile"  # what a file's tests share is made once
    return 2


@dataclass(frozen=True)
class Result:
    """How one command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def cnnexport(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Result]:
    """Run ``cnnexport ARGS`` through its entry point, in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> Result:
        from cnnexport.cli import main

        monkeypatch.setattr(sys, "argv", ["cnnexport", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        return Result(int(end.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def trained_cnn() -> Any:
    """A small network with augmentation, preprocessing and one step of training, so that nothing is at rest."""
    import keras
    import numpy as np

    layers = keras.layers
    keras.utils.set_random_seed(3)
    image = keras.Input((24, 24, 3), name="photo")
    x = layers.RandomFlip(name="flip")(image)
    x = layers.RandomRotation(0.1, name="turn")(x)
    x = layers.Rescaling(1 / 255, name="scale")(x)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.3, name="drop")(x)
    x = layers.Dense(4, activation="softmax", name="kind")(x)
    model = keras.Model(image, x, name="small")
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    model.fit(rng.uniform(0, 255, (32, 24, 24, 3)), rng.integers(0, 4, 32), epochs=1, verbose=0)
    return model
