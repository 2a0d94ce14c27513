"""Every option, from the target to the bundle: what comes out is what was asked for, and computes the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cnnexport as package
from cnnexport import bundle
from cnnexport.errors import InputError, UsageError


def _model(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "model.onnx")


def _dims(value: onnx.ValueInfoProto) -> list[Any]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def _ports(folder: Path) -> dict[str, list[Any]]:
    graph = _model(folder).graph
    return {v.name: _dims(v) for v in [*graph.input, *graph.output]}


def _count(folder: Path) -> Counter[str]:
    return Counter(n.op_type for n in _model(folder).graph.node)


def _outputs(folder: Path) -> list[np.ndarray]:
    """ONNX Runtime on the bundle's own test vectors; asserts that they hold."""
    import onnxruntime
    from onnx import numpy_helper

    def load(kind: str) -> list[np.ndarray]:
        files = sorted((folder / "test_data_set_0").glob(f"{kind}_*.pb"))
        return [numpy_helper.to_array(onnx.load_tensor(f)) for f in files]

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    results = session.run(None, dict(zip([i.name for i in session.get_inputs()], load("input"))))
    for result, expected in zip(results, load("output"), strict=True):
        assert result.shape == expected.shape and np.abs(result - expected).max() <= 1e-4 * max(1, expected.std())
    return results


def test_a_bundle_is_complete(tmp_path: Path) -> None:
    import jsonschema

    made = package.convert("resnet50", input_shape=(64, 64, 3), output=tmp_path / "b")
    names = sorted(str(p.relative_to(made.path)) for p in made.path.rglob("*") if p.is_file())
    assert names == ["README.md", "SHA256SUMS", "layers.svg", "manifest.json", "model.onnx", "parity.json",
                     "test_data_set_0/input_0.pb", "test_data_set_0/output_0.pb"]
    manifest = json.loads((made.path / "manifest.json").read_text())
    schema = json.loads((Path(bundle.__file__).parent / "manifest.schema.json").read_text())
    jsonschema.validate(manifest, schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert manifest == made.manifest and manifest["parameters"] == 25_636_712
    assert bundle.Bundle.open(made.path).manifest == manifest
    assert sorted(manifest["files"]) == [n for n in names if n not in ("manifest.json", "SHA256SUMS")]
    parity = json.loads((made.path / "parity.json").read_text())
    assert parity["passed"] and parity["model_sha256"] == manifest["files"]["model.onnx"]["sha256"]
    assert parity["batches"] == [1, 2, 3, 11, 31]
    assert {c["level"] for c in parity["comparisons"]} == {"logits", "output"}
    card = (made.path / "README.md").read_text()
    assert "Untrained" in card and manifest["files"]["model.onnx"]["sha256"] in card and "BGR" in card
    assert manifest["untrained"] is True and "Untrained" in manifest["provenance"]["statement"]
    assert manifest["preprocessing"]["mean"] == [103.939, 116.779, 123.68]
    assert list(made.seconds) == ["build", "trace", "convert", "fold", "write", "verify"]
    _outputs(made.path)


def test_the_card_s_example_runs(tmp_path: Path) -> None:
    made = package.convert("lenet5", output=tmp_path / "b")
    code = (made.path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=made.path, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1e-5


@pytest.mark.parametrize("name", ["lenet5", "vgg16", "resnet50"])
def test_graph_of_an_architecture(tmp_path: Path, name: str) -> None:
    """No BatchNormalization, one Transpose, Gemm for Dense, names of layers, all shapes, nothing dead."""
    channels = 1 if name == "lenet5" else 3
    made = package.convert(name, input_shape=(64, 64, channels), output=tmp_path / "b")
    model = _model(made.path)
    onnx.checker.check_model(str(made.path / "model.onnx"), full_check=True)
    count = _count(made.path)
    assert count["Transpose"] == 1 and model.graph.node[0].op_type == "Transpose"
    dense = {"lenet5": 3, "vgg16": 3, "resnet50": 1}[name]
    assert count["Gemm"] == dense and not {"BatchNormalization", "MatMul", "Mul", "Sub", "Div"} & set(count)
    assert count["Add"] == (16 if name == "resnet50" else 0)
    assert count["GlobalAveragePool"] == (name == "resnet50")
    assert _ports(made.path) == {"input": ["batch", 64, 64, channels], "probabilities": ["batch", 10 * 100 ** (
        name != "lenet5")]}
    read = {i for n in model.graph.node for i in n.input}
    assert {i.name for i in model.graph.initializer} <= read
    known = {v.name: _dims(v) for v in [*model.graph.value_info, *model.graph.output]}
    for node in model.graph.node:
        for value in node.output:
            assert known[value][0] == "batch" and all(isinstance(d, int) and d > 0 for d in known[value][1:])
    first = {"lenet5": "c1", "vgg16": "block1_conv1", "resnet50": "conv1_conv"}[name]
    assert any(n.name.startswith(f"{first}/") and n.op_type == "Conv" for n in model.graph.node)
    assert any(i.name == f"{first}/kernel" for i in model.graph.initializer)


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    hashes = set()
    for salt in ("1", "2"):
        code = f"import cnnexport; cnnexport.convert('resnet50', input_shape=(32, 32, 3), output='{salt}')"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True,
                       env=os.environ | {"PYTHONHASHSEED": salt})
        hashes.add(bundle.sha256(tmp_path / salt / "model.onnx"))
        hashes.add(bundle.sha256(tmp_path / salt / "test_data_set_0" / "input_0.pb"))
    assert len(hashes) == 2


def test_seed(tmp_path: Path) -> None:
    paths = [package.convert("lenet5", seed=s, output=tmp_path / f"{s}").path / "model.onnx" for s in (1, 2)]
    assert bundle.sha256(paths[0]) != bundle.sha256(paths[1])


@pytest.mark.parametrize(
    ("options", "ports", "transposes"),
    [
        (["--layout", "nchw"], {"input": ["batch", 1, 32, 32], "probabilities": ["batch", 10]}, 0),
        (["--batch", "4"], {"input": [4, 32, 32, 1], "probabilities": [4, 10]}, 1),
        (["--batch", "dynamic"], {"input": ["batch", 32, 32, 1], "probabilities": ["batch", 10]}, 1),
        (["--logits"], {"input": ["batch", 32, 32, 1], "logits": ["batch", 10]}, 1),
        (["--classes", "7"], {"input": ["batch", 32, 32, 1], "probabilities": ["batch", 7]}, 1),
        (["--input-shape", "40x36x3"], {"input": ["batch", 40, 36, 3], "probabilities": ["batch", 10]}, 1),
        (["--no-top"], {"input": ["batch", 32, 32, 1], "features": ["batch", 5, 5, 16]}, 2),
        (["--no-top", "--pooling", "none"], {"input": ["batch", 32, 32, 1], "features": ["batch", 5, 5, 16]}, 2),
        (["--no-top", "--layout", "nchw"], {"input": ["batch", 1, 32, 32], "features": ["batch", 16, 5, 5]}, 0),
        (["--no-top", "--pooling", "avg"], {"input": ["batch", 32, 32, 1], "features": ["batch", 16]}, 1),
        (["--no-top", "--pooling", "max"], {"input": ["batch", 32, 32, 1], "features": ["batch", 16]}, 1),
    ],
)
def test_options(cnnexport: Any, options: list[str], ports: dict[str, list[Any]], transposes: int) -> None:
    result = cnnexport("convert", "lenet5", "-o", "b", *options)
    assert result.code == 0, result.err
    folder = Path("b")
    assert _ports(folder) == ports and _count(folder)["Transpose"] == transposes
    assert _count(folder)["Softmax"] == ("probabilities" in ports)
    if "avg" in options:
        assert _count(folder)["GlobalAveragePool"] == 1
    manifest = json.loads((folder / "manifest.json").read_text())
    for tensor in [*manifest["inputs"], *manifest["outputs"]]:
        assert tensor["shape"] == ports[tensor["name"]]
        if len(tensor["shape"]) == 4:
            assert tensor["layout"] == ("NCHW" if "nchw" in options else "NHWC")
    batches = json.loads((folder / "parity.json").read_text())["batches"]
    assert batches == [4] if "4" in options else {1, 2, 11} <= set(batches)
    _outputs(folder)


@pytest.mark.parametrize("opset", [13, 15, 17, 18, 20, 22])
def test_opset(tmp_path: Path, opset: int) -> None:
    made = package.convert("resnet50", opset=opset, input_shape=(32, 32, 3), include_top=False, pooling="avg",
                           output=tmp_path / "b")
    model = _model(made.path)
    assert [(e.domain, e.version) for e in model.opset_import] == [("", opset)] and made.manifest["opset"] == opset
    assert _count(made.path)["Transpose"] == 1
    onnx.checker.check_model(model, full_check=True)
    _outputs(made.path)


def test_open_sizes(tmp_path: Path) -> None:
    made = package.convert("vgg16", input_shape=(None, None, 3), include_top=False, output=tmp_path / "b")
    ports = _ports(made.path)
    assert ports["input"][0] == "batch" and ports["input"][3] == 3 and ports["features"][3] == 512
    _outputs(made.path)


def test_default_output_is_exported_name(cnnexport: Any) -> None:
    assert cnnexport("convert", "lenet-5", "--quiet").code == 0
    assert Path("exported/lenet5/model.onnx").is_file()


def test_input_tensor(tmp_path: Path) -> None:
    import keras

    image = keras.Input((48, 48, 3))
    made = package.convert("resnet50", include_top=False, pooling="max", output=tmp_path / "b",
                           input_tensor=keras.layers.Rescaling(2.0, offset=-1.0)(image))
    assert _ports(made.path) == {"input": ["batch", 48, 48, 3], "features": ["batch", 2048]}
    assert made.manifest["preprocessing"] is None
    _outputs(made.path)


@pytest.mark.parametrize("kind", ["w.weights.h5", "w.keras", "w.h5"])
def test_weights_from_a_file(cnnexport: Any, kind: str) -> None:
    model = package.build("lenet5", seed=9)
    (model.save_weights if "weights" in kind else model.save)(kind)
    result = cnnexport("convert", "lenet5", "--weights", kind, "-o", "b", "--json")
    assert result.code == 0, result.err
    made = json.loads(result.out)
    provenance = made["manifest"]["provenance"]
    assert provenance["weights"] == "file" and provenance["file"] == kind and made["untrained"] is None
    assert provenance["sha256"] == bundle.sha256(Path(kind))
    # The same function as the one that was saved.
    package.convert("lenet5", seed=9, output="c")
    assert bundle.sha256(Path("b/model.onnx")) == bundle.sha256(Path("c/model.onnx"))


def test_weights_that_do_not_fit(cnnexport: Any) -> None:
    package.build("lenet5", classes=3).save_weights("w.weights.h5")
    result = cnnexport("convert", "lenet5", "--weights", "w.weights.h5", "-o", "b")
    assert result.code == 3 and "w.weights.h5" in result.err and result.err.count("\n") == 1
    assert not Path("b").exists()


def _legacy_weights(model: Any, path: Path) -> None:
    """Weights laid out as those that keras.applications downloads."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def test_imagenet_weights(cnnexport: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras' own download, from a folder on this machine instead of its server."""
    import hashlib

    from keras.src.applications import imagenet_utils, resnet

    site = tmp_path / "site"
    site.mkdir()
    file = site / "resnet50_weights_tf_dim_ordering_tf_kernels.h5"
    model = package.build("resnet50", seed=5)
    _legacy_weights(model, file)
    labels = {str(i): [f"n{i}", f"class-{i}"] for i in range(1000)}
    (site / "index.json").write_text(json.dumps(labels))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(resnet, "BASE_WEIGHTS_PATH", f"file://{site}/")
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setitem(resnet.WEIGHTS_HASHES, "resnet50", (digest, digest))
    monkeypatch.setattr(imagenet_utils, "CLASS_INDEX_PATH", f"file://{site}/index.json")
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path / "home"), raising=False)
    result = cnnexport("convert", "resnet50", "--weights", "imagenet", "-o", "b")
    assert result.code == 0, result.err
    assert "ntrained" not in result.out and "ImageNet" in result.out
    manifest = json.loads(Path("b/manifest.json").read_text())
    assert manifest["untrained"] is False and manifest["labels"][7] == "class-7"
    kernel = next(i for i in _model(Path("b")).graph.initializer if i.name == "predictions/kernel")
    stored = onnx.numpy_helper.to_array(kernel)
    expected = model.get_layer("predictions").kernel.numpy()
    assert np.array_equal(stored if stored.shape == expected.shape else stored.T, expected)


def test_imagenet_offline(cnnexport: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keras.src.applications import resnet

    monkeypatch.setattr(resnet, "BASE_WEIGHTS_PATH", f"file://{tmp_path}/nowhere/")
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path / "home"), raising=False)
    result = cnnexport("convert", "resnet101", "--weights", "imagenet", "-o", "b")
    assert result.code == 3 and "could not be fetched" in result.err and "--weights random" in result.err
    assert result.err.count("\n") == 1 and not Path("b").exists()


def test_own_model_with_augmentation(cnnexport: Any, trained_cnn: Any) -> None:
    """Augmentation is the identity at inference and leaves nothing in the graph."""
    for name in ("small.keras", "small.h5"):
        trained_cnn.save(name)
        result = cnnexport("convert", name, "-o", "b", "--force", "--json")
        assert result.code == 0, result.err
        made = json.loads(result.out)
        assert made["untrained"] is False and made["manifest"]["provenance"]["training_steps"] == 1
        count = _count(Path("b"))
        assert not {"RandomUniform", "RandomNormal", "BatchNormalization"} & set(count)
        assert count["Conv"] == 1 and count["Transpose"] == 1 and count["Gemm"] == 1
        assert _ports(Path("b")) == {"input": ["batch", 24, 24, 3], "probabilities": ["batch", 4]}
        assert made["manifest"]["inputs"][0]["value_range"] == [0.0, 255.0]
        _outputs(Path("b"))


def test_own_model_s_logits(cnnexport: Any, trained_cnn: Any) -> None:
    import onnxruntime

    trained_cnn.save("small.keras")
    assert cnnexport("convert", "small.keras", "-o", "b", "--logits").code == 0
    assert "Softmax" not in _count(Path("b")) and "logits" in _ports(Path("b"))
    x = np.random.default_rng(0).uniform(0, 255, (3, 24, 24, 3)).astype(np.float32)
    (logits,) = onnxruntime.InferenceSession("b/model.onnx").run(None, {"input": x})
    e = np.exp(logits - logits.max(-1, keepdims=True))
    assert np.allclose(e / e.sum(-1, keepdims=True), trained_cnn.predict(x, verbose=0), atol=1e-6)
    # The activation is back after the conversion.
    assert trained_cnn.layers[-1].activation.__name__ == "softmax"


def test_live_model(tmp_path: Path, trained_cnn: Any) -> None:
    before = trained_cnn.get_weights()
    made = package.convert(trained_cnn, output=tmp_path / "b", logits=True)
    assert made.manifest["provenance"]["weights"] == "memory" and made.manifest["name"] == "small"
    assert trained_cnn.layers[-1].activation.__name__ == "softmax"
    assert all(np.array_equal(a, b) for a, b in zip(before, trained_cnn.get_weights()))
    with pytest.raises(UsageError, match="in memory"):
        package.convert(trained_cnn, weights="random", output=tmp_path / "c")
    with pytest.raises(UsageError, match="Keras model"):
        package.convert(3)


def _two_inputs() -> Any:
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(2)
    left, right = keras.Input((16, 16, 3), name="left"), keras.Input((10,), name="right")
    x = layers.Flatten()(layers.Conv2D(4, 3, bias_initializer="normal")(left))
    x = layers.Concatenate()([x, layers.Dense(7, activation="relu")(right)])
    kind = layers.Dense(5, activation="softmax", name="kind")(x)
    score = layers.Dense(1, activation="sigmoid", name="score")(x)
    return keras.Model([left, right], [kind, score], name="two")


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_two_inputs_and_outputs(cnnexport: Any, layout: str) -> None:
    _two_inputs().save("two.keras")
    result = cnnexport("convert", "two.keras", "-o", "b", "--layout", layout)
    assert result.code == 0, result.err
    left = ["batch", 16, 16, 3] if layout == "nhwc" else ["batch", 3, 16, 16]
    assert _ports(Path("b")) == {"left": left, "right": ["batch", 10], "kind": ["batch", 5], "score": ["batch", 1]}
    _outputs(Path("b"))
    assert {c["output"] for c in json.loads(Path("b/parity.json").read_text())["comparisons"]} == {"kind", "score"}


def test_saved_model(cnnexport: Any) -> None:
    _two_inputs().export("two", verbose=False)
    result = cnnexport("convert", "two", "-o", "b", "--json")
    assert result.code == 0, result.err
    assert len(_outputs(Path("b"))) == 2
    # A SavedModel has no Keras weights: what is counted is what the ONNX file holds.
    assert json.loads(result.out)["manifest"]["parameters"] == _two_inputs().count_params()
    result = cnnexport("convert", "two", "--weights", "random", "-o", "c")
    assert result.code == 2 and "SavedModel" in result.err


def test_lambda_needs_unsafe_load(cnnexport: Any) -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2, name="twice"),
                              keras.layers.Dense(3, bias_initializer="ones", name="out")])
    model.save("m.keras")
    result = cnnexport("convert", "m.keras", "-o", "b")
    assert result.code == 3 and "'twice'" in result.err and "--unsafe-load" in result.err
    result = cnnexport("convert", "m.keras", "-o", "b", "--unsafe-load")
    assert result.code == 0, result.err
    _outputs(Path("b"))


def test_custom_objects(cnnexport: Any) -> None:
    source = (
        "import keras\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "class Halve(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return x / 2\n")
    Path("mine.py").write_text(source)
    code = ("import keras, mine; keras.Sequential([keras.Input((4,)), mine.Halve(name='half'),"
            " keras.layers.Dense(3, bias_initializer='ones')]).save('m.keras')")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=os.environ | {"PYTHONPATH": "."})
    result = cnnexport("convert", "m.keras", "-o", "b")
    assert result.code == 3 and "Halve" in result.err and "custom" in result.err
    result = cnnexport("convert", "m.keras", "-o", "b", "--custom-objects", "mine.py")
    assert result.code == 0, result.err
    _outputs(Path("b"))


def test_a_layer_without_onnx_operators_is_named(cnnexport: Any, tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    class Odd(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.linalg.expm(tf.reshape(x, (-1, 2, 2)))

    model = keras.Sequential([keras.Input((4,)), Odd(name="odd")])
    with pytest.raises(InputError, match=r"'odd'.*cannot be converted"):
        package.convert(model, output=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_weights_for_an_own_model(cnnexport: Any, trained_cnn: Any) -> None:
    trained_cnn.save("small.keras")
    result = cnnexport("convert", "small.keras", "--weights", "random", "--seed", "3", "-o", "b", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["manifest"]["provenance"]["seed"] == 3 and "Untrained" in result.out
    trained_cnn.save_weights("small.weights.h5")
    assert cnnexport("convert", "small.keras", "--weights", "small.weights.h5", "-o", "c").code == 0
    assert cnnexport("convert", "small.keras", "-o", "d").code == 0
    assert bundle.sha256(Path("c/model.onnx")) == bundle.sha256(Path("d/model.onnx"))


def test_untouched_weights_are_called_untrained(cnnexport: Any) -> None:
    import keras

    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save("fresh.keras")
    result = cnnexport("convert", "fresh.keras", "-o", "b", "--json")
    assert json.loads(result.out)["untrained"] is True


def test_input_shape_fixes_open_sizes_of_an_own_model(cnnexport: Any) -> None:
    import keras

    keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3, bias_initializer="ones")]).save("m.keras")
    assert cnnexport("convert", "m.keras", "-o", "b", "--input-shape", "20x24x3").code == 0
    assert _ports(Path("b")) == {"input": ["batch", 20, 24, 3], "features": ["batch", 18, 22, 4]}
    result = cnnexport("convert", "m.keras", "-o", "c", "--input-shape", "20x24x1")
    assert result.code == 2 and "does not fit" in result.err


def test_half_precision(tmp_path: Path) -> None:
    import keras

    policy = keras.DTypePolicy("mixed_float16")
    model = keras.Sequential([
        keras.Input((16, 16, 3)), keras.layers.Conv2D(8, 3, bias_initializer="normal", dtype=policy),
        keras.layers.GlobalAveragePooling2D(dtype=policy),
        keras.layers.Dense(4, activation="softmax", dtype="float32")])
    made = package.convert(model, output=tmp_path / "b")
    assert made.parity["tolerance"]["precision"] == "float16"
