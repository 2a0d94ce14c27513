"""Loading models and weights from files: formats, old Keras, code in files, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers

from cnnexport import keras_files
from cnnexport.conversion import convert_model
from cnnexport.conversion.write import write_model
from cnnexport.errors import InputError

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")


def small(filters: int = 4, classes: int = 2) -> Any:
    keras.utils.set_random_seed(3)
    image = layers.Input((8, 8, 3))
    x = layers.Conv2D(filters, 3, padding="same", bias_initializer="random_normal")(image)
    x = layers.ReLU()(layers.BatchNormalization(moving_mean_initializer="random_normal")(x))
    return keras.Model(image, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def two_ports() -> Any:
    a, b = layers.Input((8, 8, 3), name="a"), layers.Input((4,), name="b")
    x = layers.Concatenate()([layers.Flatten()(layers.Conv2D(2, 3)(a)), layers.Dense(3)(b)])
    return keras.Model([a, b], [layers.Dense(2, name="p")(x), layers.Dense(3, name="q")(x)])


def same(a: Any, b: Any, data: Any = IMAGES) -> None:
    first, second = (keras.tree.flatten(model(data, training=False)) for model in (a, b))
    for x, y in zip(first, second, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def refused(path: Path, *words: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        keras_files.load_model(path, **options)
    return one_line(caught, words)


def one_line(caught: Any, words: tuple[str, ...]) -> str:
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    for word in words:
        assert word in text, text
    return text


def edited(source: Path, target: Path, change: Any) -> Path:
    """A copy of a .keras file with its configuration changed in place."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                change(config)
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return target


# --- Keras 3 files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.hdf5"])
def test_model_files(tmp_path, name):
    model = small()
    model.save(tmp_path / name)
    loaded = keras_files.load_model(tmp_path / name)
    same(model, loaded)
    assert tuple(loaded.inputs[0].shape) == (None, 8, 8, 3)


def test_operations_survive_h5(tmp_path):
    image = layers.Input((8, 8, 3))
    x = keras.ops.relu(layers.Conv2D(4, 3)(image) * 2.0 + 1.0)
    x = keras.ops.cast(keras.ops.cast(keras.ops.mean(x[:, 1:], axis=[1, 2]), "float64"), "float32")
    model = keras.Model(image, layers.Dense(2)(x + x * x))
    model.save(tmp_path / "m.h5")
    same(model, keras_files.load_model(tmp_path / "m.h5"))


def test_subclassed_model_without_inputs(tmp_path):
    @keras.saving.register_keras_serializable("test_models")
    class Sub(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Sub()
    model(np.zeros((1, 3)))
    model.save(tmp_path / "m.keras")
    same(model, keras_files.load_model(tmp_path / "m.keras"), np.ones((2, 3), "float32"))


# --- Keras 2 files, written as Keras 2 writes them ---------------------------------------------------------------


def layer2(kind: str, name: str, *inbound: Any, **config: Any) -> dict[str, Any]:
    config = {"name": name, "trainable": True, "dtype": "float32", **config}
    nodes = [[[source, index, 0, {}] for source, index in inbound]] if inbound else []
    return {"class_name": kind, "config": config, "name": name, "inbound_nodes": nodes}


def conv2(name: str, *inbound: Any, filters: int = 4, **config: Any) -> dict[str, Any]:
    old = {"class_name": "GlorotUniform", "config": {"seed": None, "dtype": "float32"}}
    return layer2("Conv2D", name, *inbound, filters=filters, kernel_size=[3, 3], strides=[1, 1], padding="same",
                  data_format="channels_last", dilation_rate=[1, 1], groups=1, use_bias=True, kernel_initializer=old,
                  kernel_regularizer={"class_name": "L2", "config": {"l2": 0.1}}, **{"activation": "linear", **config})


def functional2(name: str, parts: list[dict[str, Any]], start: str, end: list[Any]) -> dict[str, Any]:
    return {"class_name": "Functional", "config": {
        "name": name, "layers": parts, "input_layers": [[start, 0, 0]], "output_layers": [end]}}


def write2(path: Path, config: Any, weights: dict[str, dict[str, Any]], version: str = "2.4.0") -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version
        file.attrs["backend"] = "tensorflow"
        file.attrs["model_config"] = json.dumps(config)
        write2_weights(file.create_group("model_weights"), weights)
    return path


def write2_weights(group: Any, weights: dict[str, dict[str, Any]]) -> None:
    group.attrs["layer_names"] = [name.encode() for name in weights]
    for name, arrays in weights.items():
        part = group.create_group(name)
        part.attrs["weight_names"] = [key.encode() for key in arrays]
        for key, array in arrays.items():
            part[key] = array


def rnd(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).uniform(0.1, 0.6, shape).astype("float32")


def bn2(name: str, size: int) -> dict[str, Any]:
    return {f"{name}/{kind}:0": rnd(size) + i for i, kind in enumerate(
        ("gamma", "beta", "moving_mean", "moving_variance"))}


def test_keras2_h5_quirks(tmp_path):
    policy = {"class_name": "Policy", "config": {"name": "float32"}}
    inner = functional2("inner", [
        layer2("InputLayer", "input_1", batch_input_shape=[None, 8, 8, 4], sparse=False, ragged=False),
        conv2("conv", ("input_1", 0), filters=4, dtype=policy),
        layer2("BatchNormalizationV1", "bn", ("conv", 0), axis="ListWrapper([3])", epsilon=0.001, fused=True)],
        "input_1", ["bn", 0, 0])
    config = functional2("whole", [
        layer2("InputLayer", "img", batch_input_shape=[None, 8, 8, 3], sparse=False, ragged=False),
        layer2("Rescaling", "rescaling", ("img", 0), scale=0.5, offset=0.1),
        layer2("RandomFlip", "flip", ("rescaling", 0), mode="horizontal", seed=None, rng_type="stateful"),
        layer2("RandomHeight", "taller", ("flip", 0), factor=0.2, interpolation="bilinear", seed=None),
        layer2("Resizing", "resizing", ("taller", 0), height=8, width=8, interpolation="nearest",
               crop_to_aspect_ratio=False),
        conv2("block/conv", ("resizing", 0), activation="hard_sigmoid"),
        layer2("DepthwiseConv2D", "dw", ("block/conv", 0), kernel_size=[3, 3], padding="same", groups=1, use_bias=False,
               depth_multiplier=1, activation="linear"),
        layer2("LeakyReLU", "leaky", ("dw", 0), alpha=0.3),
        layer2("ReLU", "relu", ("leaky", 0), max_value={"type": "ndarray", "value": 6.0}, negative_slope=0.0,
               threshold=0.0),
        {**inner, "name": "inner", "inbound_nodes": [[["relu", 0, 0, {}]], [["inner", 1, 0, {}]]]},
        layer2("GlobalAveragePooling2D", "gap", ("inner", 2), data_format="channels_last")],
        "img", ["gap", 0, 0])
    config["class_name"] = "Model"
    weights = {
        "img": {}, "block/conv": {"block/conv/kernel:0": rnd(3, 3, 3, 4) - 0.3, "block/conv/bias:0": rnd(4)},
        "dw": {"dw/depthwise_kernel:0": rnd(3, 3, 4, 1)},
        "inner": {"conv/kernel:0": rnd(3, 3, 4, 4) / 8, "conv/bias:0": rnd(4), **bn2("bn", 4)}}
    loaded = keras_files.load_model(write2(tmp_path / "old.h5", config, weights))

    def conv(x: Any, kernel: Any, bias: Any) -> Any:
        return tf.nn.conv2d(x, kernel, 1, "SAME") + bias

    x = conv(IMAGES * 0.5 + 0.1, *weights["block/conv"].values())
    x = tf.clip_by_value(0.2 * x + 0.5, 0, 1)  # Keras 2's hard_sigmoid
    x = tf.nn.depthwise_conv2d(x, weights["dw"]["dw/depthwise_kernel:0"], [1] * 4, "SAME")
    x = tf.clip_by_value(tf.nn.leaky_relu(x, 0.3), 0, 6)
    kernel, bias, gamma, beta, mean, variance = weights["inner"].values()
    for _ in range(2):
        x = gamma * (conv(x, kernel, bias) - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(loaded(IMAGES, training=False), tf.reduce_mean(x, [1, 2]), rtol=1e-4, atol=1e-5)
    assert loaded.get_layer("block_conv").name == "block_conv"
    assert tuple(loaded.input.shape) == (None, 8, 8, 3)


def test_keras2_sequential_without_input_layer(tmp_path):
    parts = [conv2("c", batch_input_shape=[None, 8, 8, 3]), layer2("ThresholdedReLU", "t", theta=0.4)]
    for part in parts:
        del part["name"], part["inbound_nodes"]
    weights = {"c": {"c/kernel:0": rnd(3, 3, 3, 4), "c/bias:0": rnd(4)}}
    for config in (parts, {"name": "seq", "layers": parts}):  # before and after Keras 2.2.3
        path = write2(tmp_path / "seq.h5", {"class_name": "Sequential", "config": config}, weights, "2.2.2")
        x = tf.nn.conv2d(IMAGES, weights["c"]["c/kernel:0"], 1, "SAME") + weights["c"]["c/bias:0"]
        np.testing.assert_allclose(keras_files.load_model(path)(IMAGES), np.where(x > 0.4, x, 0), rtol=1e-5, atol=1e-5)


def test_keras2_frozen_part_is_matched_by_name(tmp_path):
    """Of a partly frozen model, Keras 2 writes the trainable weights first."""
    inner = functional2("inner", [
        layer2("InputLayer", "input_1", batch_input_shape=[None, 8, 8, 3]),
        conv2("first", ("input_1", 0), filters=3, trainable=False), conv2("second", ("first", 0), filters=3)],
        "input_1", ["second", 0, 0])
    inner["config"]["trainable"] = False
    parts = [inner]
    weights = {"inner": {"second/kernel:0": rnd(3, 3, 3, 3) - 0.5, "second/bias:0": rnd(3),
                         "first/kernel:0": rnd(3, 3, 3, 3), "first/bias:0": rnd(3) + 1}}
    path = write2(tmp_path / "m.h5", {"class_name": "Sequential", "config": {"name": "s", "layers": parts}}, weights)
    loaded = keras_files.load_model(path)
    second, b2, first, b1 = weights["inner"].values()
    x = tf.nn.conv2d(tf.nn.conv2d(IMAGES, first, 1, "SAME") + b1, second, 1, "SAME") + b2
    np.testing.assert_allclose(loaded(IMAGES), x, rtol=1e-4, atol=1e-4)


def test_keras2_tensorflow_operations_are_named(tmp_path):
    config = functional2("m", [
        layer2("InputLayer", "img", batch_input_shape=[None, 8, 8, 3]),
        {"class_name": "TFOpLambda", "name": "tf.math.multiply", "config": {
            "name": "tf.math.multiply", "function": "math.multiply"}, "inbound_nodes": [["img", 0, 0, {"y": 2.0}]]}],
        "img", ["tf.math.multiply", 0, 0])
    refused(write2(tmp_path / "m.h5", config, {}), "m.h5", "'tf.math.multiply'", "TFOpLambda", "model.export")


def test_keras2_argument_that_matters_is_refused(tmp_path):
    config = functional2("m", [
        layer2("InputLayer", "img", batch_input_shape=[None, 8, 3]),
        layer2("LSTM", "lstm", ("img", 0), units=2, time_major=True)], "img", ["lstm", 0, 0])
    refused(write2(tmp_path / "m.h5", config, {}), "time_major")


def test_keras2_keras_file(tmp_path):
    """The new format as Keras 2.12 to 2.15 write it."""
    parts = [layer2("InputLayer", "img", batch_input_shape=[None, 8, 8, 3], sparse=False, ragged=False),
             layer2("RandomFlip", "flip", ("img", 0), mode="horizontal", seed=None, rng_type="stateful"),
             conv2("a/conv", ("flip", 0)), layer2("BatchNormalization", "bn", ("a/conv", 0), axis=[3], epsilon=0.001)]
    for part in parts:
        part |= {"module": "keras.layers", "registered_name": None, "build_config": {"input_shape": [None, 8, 8, 3]}}
    config = {**functional2("m", parts, "img", ["bn", 0, 0]), "module": "keras.src.engine.functional",
              "registered_name": "Functional", "compile_config": {"loss": "lost_loss"}}
    bn = bn2("bn", 4)
    stored = io.BytesIO()
    with h5py.File(stored, "w") as file:
        for name, arrays in (("conv2d", [rnd(3, 3, 3, 4), rnd(4)]), ("batch_normalization", list(bn.values()))):
            for i, array in enumerate(arrays):
                file[f"_layer_checkpoint_dependencies/{name}/vars/{i}"] = array
        file["optimizer/vars/0"] = np.int64(7)
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.13.1"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", stored.getvalue())
    x = tf.nn.conv2d(IMAGES, rnd(3, 3, 3, 4), 1, "SAME") + rnd(4)
    gamma, beta, mean, variance = bn.values()
    expected = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    loaded = keras_files.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded(IMAGES, training=False), expected, rtol=1e-4, atol=1e-4)
    assert keras_files.saved_training_steps(tmp_path / "m.keras") == 7


# --- code in files ---------------------------------------------------------------------------------------------


def with_lambda() -> Any:
    image = layers.Input((8, 8, 3))
    deep = keras.Sequential([layers.Input((8, 8, 3)), layers.Lambda(lambda t: keras.ops.mean(t, (1, 2)), name="deep")])
    return keras.Model(image, deep(layers.Lambda(lambda t: t * 2 + 1, name="scale")(image)))


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_lambda_needs_the_flag(tmp_path, name):
    model = with_lambda()
    model.save(tmp_path / name)
    refused(tmp_path / name, name, "'scale'", "Lambda", "--unsafe-load")
    same(model, keras_files.load_model(tmp_path / name, unsafe_load=True))


def test_nested_lambda_and_payload_are_found(tmp_path):
    wrapped = layers.TimeDistributed(layers.Lambda(lambda t: t + 1, name="hidden"))
    keras.Sequential([layers.Input((2, 3)), wrapped]).save(tmp_path / "m.keras")
    refused(tmp_path / "m.keras", "'hidden'", "--unsafe-load")
    small().save(tmp_path / "s.keras")

    def hide(config: Any) -> None:
        payload = {"class_name": "__lambda__", "config": {"value": ""}}
        config["config"]["layers"][1]["config"]["extra"] = [{"x": payload}]

    refused(edited(tmp_path / "s.keras", tmp_path / "p.keras", hide), "'conv2d", "--unsafe-load")


def test_keras2_lambda(tmp_path):
    from keras.src.utils.python_utils import func_dump

    code = func_dump(lambda t: tf.reduce_mean(t, axis=[1, 2]) * 3)
    config = functional2("m", [
        layer2("InputLayer", "img", batch_input_shape=[None, 8, 8, 3]),
        layer2("Lambda", "mean", ("img", 0), function=list(code), function_type="lambda", module="gone",
               output_shape=None, output_shape_type="raw", output_shape_module=None, arguments={})],
        "img", ["mean", 0, 0])
    path = write2(tmp_path / "m.h5", config, {})
    refused(path, "'mean'", "--unsafe-load")
    loaded = keras_files.load_model(path, unsafe_load=True)
    np.testing.assert_allclose(loaded(IMAGES), IMAGES.mean((1, 2)) * 3, rtol=1e-5, atol=1e-6)


class Tripled(layers.Layer):
    def call(self, x):
        return x * 3


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_unregistered_class(tmp_path, name):
    model = keras.Sequential([layers.Input((3,)), Tripled(name="mine")])
    model.save(tmp_path / name)
    refused(tmp_path / name, "'mine'", "Tripled", "register_keras_serializable", "--custom-objects")
    loaded = keras_files.load_model(tmp_path / name, custom_objects={"Tripled": Tripled})
    same(model, loaded, np.ones((1, 3), "float32"))


@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("trap_module", "Layer"), ("builtins", "eval")])
@pytest.mark.parametrize("function", [False, True])
def test_modules_named_in_a_file_are_not_imported(tmp_path, monkeypatch, module, name, function):
    (tmp_path / "trap_module.py").write_text("import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    small().save(tmp_path / "s.keras")
    node = {"module": module, "class_name": name, "config": {"command": f"touch {tmp_path}/trap_module.ran"},
            "registered_name": name}

    def plant(config: Any) -> None:
        if function:
            node.update(class_name="function", config=name)
            config["config"]["layers"][1]["config"]["activation"] = node
        else:
            config["config"]["layers"].insert(1, {**node, "name": "evil", "inbound_nodes": []})

    text = refused(edited(tmp_path / "s.keras", tmp_path / "e.keras", plant), name)
    assert ("--unsafe-load" in text) == (module != "builtins")
    assert not (tmp_path / "trap_module.ran").exists() and "trap_module" not in sys.modules


def test_keras_tools_are_no_activations(tmp_path):
    small().save(tmp_path / "s.keras")

    def plant(config: Any) -> None:
        config["config"]["layers"][1]["config"]["activation"] = {
            "module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"}

    refused(edited(tmp_path / "s.keras", tmp_path / "e.keras", plant), "get_file")


CUSTOM = """
import keras
from helper_of_custom import FACTOR

@keras.saving.register_keras_serializable("custom_file")
class Scaled(keras.layers.Layer):
    def call(self, x):
        return x * FACTOR

def squash(x):
    return keras.ops.tanh(x)
"""


def test_custom_objects_file(tmp_path, monkeypatch):
    (tmp_path / "custom_file.py").write_text(CUSTOM)
    (tmp_path / "helper_of_custom.py").write_text("FACTOR = 5\n")
    path = list(sys.path)
    found = keras_files.import_custom_objects(tmp_path / "custom_file.py")
    assert sorted(found) == ["Scaled", "squash"] and sys.path == path and "custom_file" not in sys.modules
    model = keras.Sequential([layers.Input((3,)), found["Scaled"](), layers.Activation(found["squash"])])
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        same(model, keras_files.load_model(tmp_path / name, custom_objects=found), np.ones((1, 3), "float32"))


def test_unsafe_load_imports_what_the_file_names(tmp_path, monkeypatch):
    (tmp_path / "users_layers.py").write_text(
        "import keras\nclass Doubled(keras.layers.Layer):\n    def call(self, x):\n        return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    import users_layers  # type: ignore[import-not-found]

    model = keras.Sequential([layers.Input((3,)), users_layers.Doubled(name="mine")])
    model.save(tmp_path / "m.keras")
    monkeypatch.delitem(sys.modules, "users_layers")
    refused(tmp_path / "m.keras", "'mine'", "Doubled", "--unsafe-load")
    same(model, keras_files.load_model(tmp_path / "m.keras", unsafe_load=True), np.ones((1, 3), "float32"))


@pytest.mark.parametrize(("text", "word"), [("import no_such_module", "no_such_module"), ("def f(:", "SyntaxError"),
                                            ("raise SystemExit(3)", "SystemExit"), (None, "does not exist")])
def test_custom_objects_file_that_fails(tmp_path, text, word):
    path = tmp_path / "bad.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        keras_files.import_custom_objects(path)
    one_line(caught, ("bad.py", word))


# --- SavedModel ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["export", "save"])
@pytest.mark.parametrize("make", [small, two_ports])
def test_savedmodel_converts(tmp_path, make, how):
    model = make()
    folder = tmp_path / "saved"
    if how == "export":
        model.export(folder, verbose=False)
    else:
        tf.saved_model.save(model, str(folder))
    loaded = keras_files.load_model(folder)
    data = [np.random.default_rng(1).normal(size=(2, *t.shape[1:])).astype("float32") for t in model.inputs]
    same(model, loaded, data if len(data) > 1 else data[0])
    if how == "export" and make is two_ports:
        assert [t.name for t in loaded.inputs] == ["a", "b"] and len(set(loaded.output_names)) == 2
    names = [f"y{i}" for i in range(len(model.outputs))]
    write_model(convert_model(loaded, output_names=names).model, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    results = session.run(names, dict(zip([i.name for i in session.get_inputs()], data)))
    for got, expected in zip(results, keras.tree.flatten(model(data if len(data) > 1 else data[0]))):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "m.keras")
    with pytest.raises(InputError) as caught:
        keras_files.load_weights(loaded, tmp_path / "m.keras")
    one_line(caught, ("SavedModel", "fixed"))


def test_savedmodel_refusals(tmp_path):
    module = tf.Module()
    module.v = tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path / "nosig"))
    refused(tmp_path / "nosig", "nosig", "no signature")

    class Writer(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def write(self, x):
            tf.io.write_file(str(tmp_path / "written"), "x")
            return {"y": x}

    writer = Writer()
    tf.saved_model.save(writer, str(tmp_path / "writer"), signatures={"serving_default": writer.write})
    refused(tmp_path / "writer", "WriteFile", "--unsafe-load")
    (tmp_path / "bad").mkdir()
    for content in (b"", b"nonsense" * 9):
        (tmp_path / "bad" / "saved_model.pb").write_bytes(content)
        refused(tmp_path / "bad", "bad", "cannot be loaded")
    small().export(tmp_path / "cut", verbose=False)
    data = tmp_path / "cut" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:30])
    refused(tmp_path / "cut", "cut", "cannot be loaded")


# --- files that are no model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_damaged_files(tmp_path, name):
    path = tmp_path / name
    small().save(path)
    whole = path.read_bytes()
    for size, word in ((0, "empty"), (3, name), (20, "damaged"), (len(whole) // 2, "damaged"),
                       (len(whole) - 10, "damaged")):
        path.write_bytes(whole[:size])
        refused(path, name, word)
        assert keras_files.saved_training_steps(path) is None
    path.write_text("this is no model")
    refused(path, name, "is not")


def test_wrong_checksum(tmp_path):
    path = tmp_path / "m.keras"
    small().save(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"HDF") + 5000] ^= 255
    path.write_bytes(data)
    refused(path, "m.keras", "model.weights.h5", "damaged")


def test_other_files(tmp_path):
    small().save(tmp_path / "m.h5")
    small().save(tmp_path / "m.keras")
    small().save_weights(tmp_path / "m.weights.h5")
    refused(tmp_path / "missing.keras", "missing.keras", "does not exist")
    refused(tmp_path, "SavedModel")
    refused(tmp_path / "m.weights.h5", "weights without a model", "--weights")
    for suffix, word in ((".tflite", "TensorFlow Lite"), (".onnx", "ONNX"), (".pt", "PyTorch"), (".pb", "graph"),
                         (".bin", "m.h5"), ("", "m.h5")):
        shutil.copy(tmp_path / "m.h5", tmp_path / f"m{suffix}")
        refused(tmp_path / f"m{suffix}", word)
    shutil.copy(tmp_path / "m.h5", tmp_path / "wrong.keras")
    refused(tmp_path / "wrong.keras", "HDF5", "wrong.h5")
    shutil.copy(tmp_path / "m.keras", tmp_path / "wrong.h5")
    refused(tmp_path / "wrong.h5", "zip", "wrong.keras")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("readme", "x")
    refused(tmp_path / "empty.keras", "config.json")


@pytest.mark.parametrize("config", ["{bad", "[1]", "[" * 5000, '{"a":' * 300 + "1" + "}" * 300])
def test_bad_configurations(tmp_path, config):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["keras_version"] = "3.0.0"
        file.attrs["model_config"] = config if config.startswith(("{bad", "[")) else (
            f'{{"class_name": "Sequential", "config": {config}}}')
        file.create_group("model_weights")
    refused(tmp_path / "m.h5", "m.h5")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path):
    small().save(tmp_path / "m.keras")
    (tmp_path / "m.keras").chmod(0)
    refused(tmp_path / "m.keras", "Permission denied")


# --- weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.weights.h5", "renamed.h5"])
def test_weights(tmp_path, name):
    model = small()
    model.layers[1].bias.assign([np.nan, 1, 2, np.inf])
    if name == "renamed.h5":
        model.save_weights(tmp_path / "x.weights.h5")
        (tmp_path / "x.weights.h5").rename(tmp_path / name)
    else:
        (model.save_weights if ".weights" in name else model.save)(tmp_path / name)
    before = keras_files.sha256(tmp_path / name)
    other = small()
    for variable in other.weights:
        variable.assign(np.zeros(variable.shape))
    keras_files.load_weights(other, tmp_path / name)
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert keras_files.sha256(tmp_path / name) == before
    with pytest.raises(InputError) as caught:
        keras_files.load_weights(small(filters=5), tmp_path / name)
    one_line(caught, (name, "(3, 3, 3, 5)", "(3, 3, 3, 4)", "kernel"))
    bare = keras.Model(other.input, other.layers[3].output)
    for wrong in (bare, keras.Model(other.input, layers.Dense(3)(other.output))):
        with pytest.raises(InputError) as caught:
            keras_files.load_weights(wrong, tmp_path / name)
        one_line(caught, (name, "does not fit"))


def test_keras2_weights_file(tmp_path):
    """As the files of keras.applications, whose layers and weights have names of their own."""
    path = tmp_path / "net_weights_tf_dim_ordering_tf_kernels.h5"
    arrays = {"c1": {"c1_W:0": rnd(3, 3, 3, 4), "c1_b:0": rnd(4)}, "act": {}, "bn1": bn2("bn1", 4),
              "fc": {"fc/kernel:0": rnd(4, 2), "fc/bias:0": rnd(2)}}
    with h5py.File(path, "w") as file:
        write2_weights(file, arrays)
    model = small()
    keras_files.load_weights(model, path)
    flat = [array for group in arrays.values() for array in group.values()]
    for variable, array in zip(model.weights, flat, strict=True):
        np.testing.assert_array_equal(variable, array)
    untouched = small(classes=3)
    before = [np.array(v) for v in untouched.weights]
    with pytest.raises(InputError) as caught:
        keras_files.load_weights(untouched, path)
    one_line(caught, ("fc/kernel:0", "(4, 3)", "(4, 2)"))
    for a, b in zip(before, untouched.weights):
        np.testing.assert_array_equal(a, b)  # nothing is put in where not all fits
    refused(path, "weights without a model")


def test_normalisation_weights_take_effect(tmp_path):
    layer = layers.Normalization()
    layer.adapt(IMAGES + 4)
    model = keras.Sequential([layers.Input((8, 8, 3)), layer])
    model.save(tmp_path / "m.h5")
    fresh = keras.Sequential([layers.Input((8, 8, 3)), layers.Normalization()])
    keras_files.load_weights(fresh, tmp_path / "m.h5")
    same(model, fresh)


def test_no_weights_file(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    for path, word in ((tmp_path / "other.h5", "no Keras weights"), (tmp_path / "none.h5", "does not exist")):
        with pytest.raises(InputError) as caught:
            keras_files.load_weights(small(), path)
        one_line(caught, (word,))


# --- what is known of a file -----------------------------------------------------------------------------------


def test_training_steps(tmp_path):
    model = small()
    model.save(tmp_path / "never.keras")
    assert keras_files.saved_training_steps(tmp_path / "never.keras") is None
    model.compile("adam", "mse")
    model.fit(IMAGES, np.zeros((2, 2)), epochs=3, batch_size=1, verbose=0)
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        assert keras_files.saved_training_steps(tmp_path / name) == 6
    model.save_weights(tmp_path / "m.weights.h5")
    assert keras_files.saved_training_steps(tmp_path / "m.weights.h5") == 6
    with h5py.File(tmp_path / "old.h5", "w") as file:
        write2_weights(file, {"optimizer_weights": {"training/Adam/iter:0": np.int64(41)}})
    assert keras_files.saved_training_steps(tmp_path / "old.h5") == 41
    assert keras_files.saved_training_steps(tmp_path / "missing.keras") is None


def test_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    assert keras_files.sha256(tmp_path / "f") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "one").write_bytes(b"1")
        (tmp_path / name / "two").write_bytes(b"2")
    assert keras_files.sha256(tmp_path / "a") == keras_files.sha256(tmp_path / "b")
    (tmp_path / "b" / "two").rename(tmp_path / "b" / "three")
    assert keras_files.sha256(tmp_path / "a") != keras_files.sha256(tmp_path / "b")
