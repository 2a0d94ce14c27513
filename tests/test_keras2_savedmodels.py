"""SavedModels as Keras 2 writes them: optimizers beside the model, recurrent layers in functions."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cnnexport import convert, keras_files
from cnnexport.conversion import convert_model
from cnnexport.conversion.write import write_model
from tests.published import fetched
from tests.savedmodels import legacy_optimizer


def test_an_optimizer_beside_the_model_is_left_alone(tmp_path: Path) -> None:
    model = keras_files.load_model(legacy_optimizer(tmp_path / "m"))
    assert np.array_equal(model(np.ones((1, 2), "float32")), [[3.0, 5.0]])


def test_recurrent_layers_in_functions(tmp_path: Path) -> None:
    """Their loops need constants, which they are given through the calls of functions."""
    recurrent = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True))
    model = keras.Sequential([keras.Input((6, 4)), recurrent])
    model.export(tmp_path / "m", verbose=False)
    loaded = keras_files.load_model(tmp_path / "m")
    write_model(convert_model(loaded, output_names=["y"]).model, tmp_path)
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    np.testing.assert_allclose(loaded(x), model(x), atol=1e-6)
    np.testing.assert_allclose(answers(tmp_path / "model.onnx", x)[0], model(x), atol=1e-6)


def answers(file: Path, x: Any) -> list[Any]:
    """What ONNX Runtime makes of the one input of a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return list(session.run(sorted(output.name for output in session.get_outputs()), {given.name: x}))


def installed(folder: Path, package: str) -> Path:
    """A ``package`` in a ``folder`` of its own; skips where there is none to be had."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--target", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"{package} is not to be had: {done.stderr.strip().splitlines()[-1]}")
    return folder


MAKE = textwrap.dedent("""
    import sys
    sys.path.insert(0, sys.argv[1])
    import json, numpy as np, tensorflow as tf, tf_keras
    layers, legacy = tf_keras.layers, tf_keras.optimizers.legacy
    models = {
        "lstm": ([layers.Input((6, 4)), layers.LSTM(5, return_sequences=True), layers.Conv1D(3, 3), layers.GRU(4)],
                 "adam"),
        "both": ([layers.Input((6, 4)), layers.Bidirectional(layers.LSTM(5, return_sequences=True)),
                  layers.Bidirectional(layers.GRU(4)), layers.Dense(2)], legacy.Adam()),
        "open": ([layers.Input((None, 4)), layers.LSTM(5, return_sequences=True), layers.LSTM(3)], legacy.SGD()),
        "film": ([layers.Input((6, 8, 8, 3)), layers.TimeDistributed(layers.Conv2D(4, 3)),
                  layers.TimeDistributed(layers.GlobalAveragePooling2D()), layers.LSTM(5, dropout=0.1)],
                 legacy.RMSprop(momentum=0.1)),
        "image": ([layers.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(2)],
                  legacy.Adam(amsgrad=True)),
    }
    for name, (parts, optimizer) in models.items():
        model = tf_keras.Sequential(parts)
        model.compile(optimizer, "mse")
        x = np.random.default_rng(0).random([4, *(size or 6 for size in model.input_shape[1:])], np.float32)
        model.fit(x, model.predict(x, verbose=0) * 0, verbose=0)
        model.save(f"{sys.argv[2]}/{name}", save_format="tf")
        np.savez(f"{sys.argv[2]}/{name}.npz", x=x, y=model.predict(x, verbose=0))
""")


@pytest.mark.slow
@pytest.mark.network
def test_models_of_keras_2(tmp_path: Path) -> None:
    """Trained, so that the optimizer has its variables, and saved by Keras 2 itself."""
    keras2 = installed(tmp_path / "keras2", "tf_keras")
    done = subprocess.run([sys.executable, "-c", MAKE, keras2, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    folders = sorted(file.with_suffix("") for file in tmp_path.glob("*.npz"))
    assert len(folders) == 5
    for folder in folders:
        bundle = tmp_path / f"{folder.name}_bundle"
        convert(folder, output=bundle)
        told: Any = np.load(folder.with_suffix(".npz"))
        layout = json.loads((bundle / "manifest.json").read_text())["inputs"][0]["layout"]
        x = np.moveaxis(told["x"], -1, 1) if layout == "NCHW" else told["x"]
        np.testing.assert_allclose(answers(bundle / "model.onnx", x)[0], told["y"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.network
def test_a_published_model_with_a_legacy_optimizer(tmp_path: Path) -> None:
    folder = fetched("basic-pitch==0.4.0", tmp_path) / "basic_pitch" / "saved_models" / "icassp_2022"
    x = np.random.default_rng(0).uniform(-1, 1, (1, 43844, 1)).astype("float32")
    theirs = answers(folder / "nmp.onnx", x)  # under names that only count
    for mine in keras_files.load_model(folder / "nmp")(x):
        assert min(np.abs(np.asarray(mine) - one).max() for one in theirs if one.shape == mine.shape) < 1e-3
