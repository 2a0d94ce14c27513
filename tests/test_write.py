"""What is on disk: the same bytes every time, and weights beside the model above the limit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from cnnexport.conversion import convert_model, write  # noqa: E402
from cnnexport.conversion.write import EXTERNAL_NAME, write_model  # noqa: E402

MODEL = """
import keras
keras.utils.set_random_seed(7)
L = keras.layers
x = keras.Input((16, 16, 3))
y = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", name="stem")(x)))
gate = L.Reshape((1, 1, 8))(L.Dense(8, activation="sigmoid", name="gate")(L.GlobalAveragePooling2D()(y)))
y = L.Concatenate()([L.Multiply()([y, gate]), L.Conv2D(4, 1)(y)])
y = L.Dense(51, activation="relu", name="hidden")(L.Flatten()(y))
y = L.Dense(50, name="more")(y)
model = keras.Model(x, [L.Dense(7, name="logits")(y), y])
"""


@pytest.fixture
def converted():
    scope: dict[str, Any] = {}
    exec(MODEL, scope)
    return convert_model(scope["model"], output_names=["logits", "features"]), scope["model"]


def outputs(path):
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return x, session.run(["logits", "features"], {"input": x})


def test_processes_write_the_same_bytes(tmp_path):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from cnnexport.conversion import convert_model
        from cnnexport.conversion.write import write_model
        for run in "ab":
            folder = Path(sys.argv[1], run)
            folder.mkdir(parents=True)
            converted = convert_model(model, output_names=["logits", "features"])
            write_model(converted.model, folder, limit=4096)
    """)
    for seed in ("1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-c", MODEL + script, str(tmp_path / seed)]
        subprocess.run(command, check=True, env=environment, cwd=os.getcwd(), capture_output=True)
    for name in ("model.onnx", EXTERNAL_NAME):
        written = {file.read_bytes() for file in tmp_path.glob(f"*/*/{name}")}
        assert len(written) == 1 and len(list(tmp_path.glob(f"*/*/{name}"))) == 4


def test_one_file_below_the_limit(converted, tmp_path):
    model = converted[0].model
    (written,) = write_model(model, tmp_path)
    path = tmp_path / "model.onnx"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert (written.name, written.bytes) == ("model.onnx", path.stat().st_size)
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert onnx.load(path).graph.name == converted[1].name


def test_external_data_above_the_limit(converted, tmp_path):
    model, original = converted[0].model, converted[1]
    files = write_model(model, tmp_path, limit=4096)
    assert [f.name for f in files] == ["model.onnx", EXTERNAL_NAME]
    for file in files:
        assert file.sha256 == hashlib.sha256((tmp_path / file.name).read_bytes()).hexdigest()
    path = tmp_path / "model.onnx"
    assert path.stat().st_size < 40_000 < (tmp_path / EXTERNAL_NAME).stat().st_size
    onnx.checker.check_model(path, full_check=True)
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    offsets = [int(e.value) for t in tensors for e in t.external_data if e.key == "offset"]
    assert offsets and all(offset % 4096 == 0 for offset in offsets)
    assert not any(t.external_data for t in onnx.load(path).graph.initializer)
    x, (logits, features) = outputs(path)
    for actual, expected in zip((logits, features), original(x, training=False)):
        assert np.abs(actual - expected).max() < 1e-5 * np.std(expected)


def test_weights_are_written_one_by_one(converted, tmp_path, monkeypatch):
    whole = []
    monkeypatch.setattr(write, "_raw", lambda array, raw=write._raw: whole.append(array.nbytes) or raw(array))
    write_model(converted[0].model, tmp_path)
    count = len(converted[0].model.graph.initializers)
    assert len(whole) == count and sum(whole) < (tmp_path / "model.onnx").stat().st_size


def test_a_weight_that_no_fold_changes_is_not_copied(tmp_path):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, name="wide")])
    converted = convert_model(model, output_names=["output"])
    kernel = converted.model.graph.initializers["wide/kernel"].const_value.numpy()
    assert np.shares_memory(kernel, np.asarray(memoryview(model.layers[0].kernel.value.read_value())))


def test_ports_and_versions(converted, tmp_path):
    write_model(converted[0].model, tmp_path)
    proto = onnx.load(tmp_path / "model.onnx")
    named = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*proto.graph.input, *proto.graph.output]
    }
    assert named == {"input": ["batch", 16, 16, 3], "logits": ["batch", 7], "features": ["batch", 50]}
    assert proto.producer_name == "cnnexport" and [o.version for o in proto.opset_import] == [18]
    layers = {node.name.split("/")[0] for node in proto.graph.node}
    assert {"stem", "gate", "hidden", "logits"} <= layers
    assert {"stem/kernel", "stem/bias", "logits/kernel"} <= {i.name for i in proto.graph.initializer}
