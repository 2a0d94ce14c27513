"""What ``keras_files.internals`` needs of Keras and TensorFlow: a version that changes it fails here, by name."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnexport.keras_files import internals
from tests.savedmodels import legacy_optimizer

layers = keras.layers
X = np.arange(6, dtype="float32").reshape(2, 3)


def nested() -> tuple[Any, Any]:
    """A model around a Sequential one, which is called once; and the latter."""
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="dense")], name="inner")
    image = keras.Input((3,))
    return keras.Model(image, keras.ops.tanh(layers.Dropout(0.5, name="drop")(inner(image)))), inner


def test_each_need_is_told_here() -> None:
    needs = [name for name, made in vars(internals).items()
             if inspect.isfunction(made) and made.__module__ == internals.__name__]
    assert needs and not [name for name in needs if f"test_{name}" not in globals()]


def test_all_layers() -> None:
    """Keras lists the layers of nested models too, each once."""
    model, inner = nested()
    found = internals.all_layers(model)
    assert found[0] is model and internals.all_layers(model, itself=False) == found[1:]
    assert len({id(layer) for layer in found}) == len(found)
    assert {id(inner), id(inner.get_layer("dense")), id(model.get_layer("drop"))} <= {id(layer) for layer in found}


def test_children() -> None:
    """Models, wrappers and custom layers track the layers they hold; graphs their operations; a Dense holds nothing."""
    class Own(layers.Layer):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.parts = [layers.Dense(1)]

    model, inner = nested()
    assert any(child is inner for child in internals.children(model))
    assert any(isinstance(c, keras.Operation) and not isinstance(c, layers.Layer) for c in internals.children(model))
    assert internals.children(inner)[-1] is inner.get_layer("dense") and not internals.children(inner.layers[0])
    own, wrapper = Own(), layers.TimeDistributed(layers.Dense(1))
    assert own.parts[0] in internals.children(own) and wrapper.layer in internals.children(wrapper)


def test_seed_generators() -> None:
    """Layers that draw list their generators, whose ``state`` is what they remember; others have none."""
    drop = layers.Dropout(0.5)
    assert internals.seed_generators(drop) == [drop.seed_generator] and drop.seed_generator.state is not None
    flip = layers.RandomFlip()
    assert all(isinstance(g, keras.random.SeedGenerator) for g in internals.seed_generators(flip))
    assert internals.seed_generators(flip) and not internals.seed_generators(layers.Dense(1))


def test_replaced() -> None:
    """Keras calls what is found as ``call`` on the layer itself, and sees neither the change nor its end."""
    model, inner = nested()
    dense = inner.get_layer("dense")
    before, held = model(X).numpy(), internals.children(dense)
    with internals.replaced(dense, "call", lambda x: keras.ops.zeros((len(x), 4))):
        assert not model(X).numpy().any() and internals.children(dense) == held
        with internals.replaced(dense, "call", lambda x: keras.ops.ones((len(x), 4))):
            assert model(X).numpy().any()
        assert not model(X).numpy().any()
    assert "call" not in vars(dense) and np.array_equal(model(X), before)
    with internals.replaced(dense, "activation", layers.ReLU()):
        assert not internals.children(dense), "a layer given as an activation was tracked"
    assert dense.activation is keras.activations.linear


def test_in_float64() -> None:
    """Every layer computes in float64 from its own weights, a model within a model too, and in float32 again after."""
    model, inner = nested()
    before, weights = model(X).numpy(), [id(v.value) for v in model.variables]
    kernel, bias = (np.asarray(w).astype("float64") for w in inner.get_layer("dense").weights)
    with internals.in_float64(model):
        wide = model(X.astype("float64"), training=False).numpy()
        assert wide.dtype == np.float64 and wide.std()
        np.testing.assert_allclose(wide, np.tanh(X.astype("float64") @ kernel + bias), rtol=1e-13)
        assert [id(v.value) for v in model.variables] == weights, "weights are cast where they are read"
    assert np.array_equal(model(X), before) and inner.inputs[0].dtype == "float32"


def test_graph_of() -> None:
    """A functional model is its graph, a Sequential one holds it: both know their ``inputs`` and ``outputs``."""
    model, inner = nested()
    assert internals.graph_of(model) is model
    graph = internals.graph_of(inner)
    assert len(graph.inputs) == len(graph.outputs) == 1 and graph.outputs[0].shape == (None, 4)
    assert internals.graph_of(layers.Dense(1)) is None and internals.graph_of(keras.Sequential()) is None


def test_nodes() -> None:
    """A call tells its operation and tensors, inputs come first, and a layer has one node for each call."""
    image = keras.Input((3,))
    dense = layers.Dense(3)
    model = keras.Model(image, dense(dense(image)))
    found = internals.nodes(model)
    assert [node.is_input for node in found] == [True, False, False]
    assert [node.operation for node in found[1:]] == [dense, dense]
    assert found[1].input_tensors == [image] and found[2].input_tensors == found[1].outputs
    assert found[2].outputs == model.outputs and not internals.nodes(dense)
    assert len(internals.nodes(keras.Sequential([keras.Input((3,)), layers.Dense(1)]))) == 2


def test_calls() -> None:
    """An input's node reads nothing and knows it, whatever else a graph holds."""
    model, inner = nested()
    assert [node.operation.name for node in internals.calls(model)][:2] == ["inner", "drop"]
    assert len(internals.calls(inner)) == 1 and len(internals.nodes(inner)) == 2


def test_run_graph() -> None:
    """Keras asks for each operation's stand-in and calls that, in order; nested models are one operation."""
    model, _ = nested()
    called: list[str] = []

    def each(operation: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            called.append(operation.name)
            return operation(*args, **kwargs)

        return run

    result = internals.run_graph(internals.graph_of(model), [keras.ops.convert_to_tensor(X)], each)
    assert np.allclose(np.asarray(result), model(X)) and called[:2] == ["inner", "drop"] and len(called) == 3


def test_run_node() -> None:
    """A graph's calls hold symbols by which tensors are found, and give out as many as they made."""
    image = keras.Input((3,))
    lstm = layers.LSTM(2, return_state=True)
    model = keras.Model(image, lstm(layers.Reshape((3, 1))(image)))
    tensors = {id(model.inputs[0]): keras.ops.convert_to_tensor(X)}
    for node in internals.nodes(model)[1:]:
        internals.run_node(node, tensors)
    assert len(tensors) == 5 and all(
        np.allclose(tensors[id(symbol)], made) for symbol, made in zip(model.outputs, model(X)))


def test_letting_go() -> None:
    """Keras keeps every tensor of a call to its end; here each goes when the last that reads it has run."""
    class Watched(layers.Layer):  # type: ignore[name-defined]
        def call(self, x: Any) -> Any:
            alive.append(sum(made() is not None for made in seen))
            made = keras.ops.add(x, 1.0)
            seen.append(weakref.ref(made))
            return made

    def chain(image: Any) -> Any:
        for _ in range(4):
            image = Watched()(image)
        return image

    seen: list[Any] = []
    alive: list[int] = []
    image = keras.Input((3,))
    model = keras.Model(image, chain(keras.Sequential([keras.Input((3,)), *(Watched() for _ in range(4))])(image)))
    seen.clear()
    alive.clear()
    usual = np.asarray(model(X, training=False))
    assert alive == [0, 1, 2, 3, 1, 2, 3, 4]
    seen.clear()
    alive.clear()
    with internals.letting_go(model):
        assert np.array_equal(model(X, training=False), usual)
        assert keras.Model(image, model(image)).output_shape == (None, 3)  # symbols go Keras' way
    assert max(alive[:8]) == 1
    assert "_run_through_graph" not in vars(model)


def test_made_by() -> None:
    """A symbolic tensor remembers the last operation that made it; other tensors do not."""
    model, _ = nested()
    image = keras.Input((4, 2))
    lstm = layers.LSTM(2, return_state=True)
    assert [internals.made_by(tensor) for tensor in lstm(image)] == [(lstm, 0), (lstm, 1), (lstm, 2)]
    operation, index = internals.made_by(model.get_layer("drop").output) or (None, None)
    assert operation is model.get_layer("drop") and index == 0
    assert internals.made_by(tf.zeros(1)) is None and internals.made_by(keras.KerasTensor((1,))) is None


def test_symbol() -> None:
    """The very object of the public name, and of no other name: so a list of the known can be kept by identity."""
    assert internals.symbol("keras.layers.Dense") is layers.Dense
    assert internals.symbol("keras.activations.relu") is keras.activations.relu
    assert internals.symbol("keras.layers.os") is None and internals.symbol("os.system") is None


def test_unqualified_names() -> None:
    """Keras' older way of reading a model looks names up in just these, tools that are no layers among them."""
    from keras.src.legacy.saving import saving_utils

    saving_utils.model_from_config({"class_name": "Sequential", "config": {"name": "s", "layers": []}})
    assert frozenset(saving_utils.MODULE_OBJECTS.ALL_OBJECTS) == internals.unqualified_names() > {"Dense", "InputLayer"}


def test_members() -> None:
    """A module without a public name can be looked into, and one that does not exist is empty."""
    assert internals.members("keras.src.models.functional")["Functional"] is type(nested()[0])
    assert internals.members("keras.src.nowhere") == {}


@pytest.mark.parametrize(("name", "module"), [("Multiply", "numpy"), ("Relu", "nn"), ("Cast", "core"), ("Erf", "math"),
                                              ("Resize", "image"), ("Norm", "linalg")])
def test_operation_module(name: str, module: str) -> None:
    """Operations lie in these modules, as their configurations name them."""
    assert internals.operation_module(name) == f"keras.src.ops.{module}"
    assert internals.operation_module(f"{name}s") is None


def test_give_to_lambdas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras runs a stored lambda in the globals of this module of its own."""
    from keras.src.utils import python_utils

    monkeypatch.setitem(vars(python_utils), "given", 2.0)
    internals.give_to_lambdas({"given": 5.0})
    code = python_utils.func_dump(lambda x: x * given)  # type: ignore[name-defined]  # noqa: F821
    assert python_utils.func_load(code)(3.0) == 6.0, "and what is there already stays"


def test_imagenet_index_url() -> None:
    assert re.fullmatch(r"https://\S+/imagenet_class_index\.json", internals.imagenet_index_url())


def test_saved_model(tmp_path: Path) -> None:
    """The file has the graphs and the object graph that are looked through, and damage raises."""
    tf.saved_model.save(tf.Module(), str(tmp_path))
    stored = internals.saved_model((tmp_path / "saved_model.pb").read_bytes())
    assert len(stored.meta_graphs) == 1 and stored.meta_graphs[0].HasField("object_graph_def")
    with pytest.raises(Exception, match="parsing"):
        internals.saved_model(b"no model")


def test_variable() -> None:
    """TensorFlow 1 writes such descriptions into a graph's collections."""
    with tf.Graph().as_default() as graph:
        tf.compat.v1.get_variable("v", 1, use_resource=True)
        collection = tf.compat.v1.train.export_meta_graph(graph=graph).collection_def["variables"]
    described = internals.variable(collection.bytes_list.value[0])
    assert described.variable_name == "v:0" and described.initializer_name == "v/Assign"
    assert described.snapshot_name and described.initial_value_name
    with pytest.raises(Exception, match="parsing"):
        internals.variable(b"no variable")


def test_with_constants() -> None:
    """A captured variable becomes a constant of its value; the function's own inputs stay."""
    held = tf.Variable([1.0, 2.0])
    concrete = tf.function(lambda x: x + held).get_concrete_function(tf.TensorSpec((2,)))
    assert concrete.captured_inputs
    frozen = internals.with_constants(concrete)
    assert not frozen.captured_inputs and len(frozen.inputs) == 1
    assert np.array_equal(frozen(tf.ones(2))[0], [2.0, 3.0])


def test_revive_optimizers(tmp_path: Path) -> None:
    """TensorFlow makes the variables that an optimizer keeps by ``add_slot`` of what is registered as one."""
    legacy_optimizer(tmp_path / "m")
    code = ("import sys, tensorflow as tf\nfrom cnnexport.keras_files import internals\n"
            "for _ in range(int(sys.argv[2])):\n    internals.revive_optimizers()\n"
            "loaded = tf.saved_model.load(sys.argv[1])\nprint(loaded.f(tf.ones((1, 2)))['y'].numpy().tolist())\n")
    done = [subprocess.run([sys.executable, "-c", code, str(tmp_path / "m"), times], capture_output=True, text=True,
                           timeout=120) for times in "02"]
    assert "has no attribute 'add_slot'" in done[0].stderr, "no longer needed"
    assert done[1].stdout.strip() == "[[3.0, 5.0]]", done[1].stderr[-2000:]


def test_simplified() -> None:
    """One graph without calls, whose variables are constants; the loop in it stays."""
    weight = tf.Variable([2.0, 3.0])
    inner = tf.function(lambda x: tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * weight), [0, x])[1])
    concrete = tf.function(lambda x: inner(x) + weight).get_concrete_function(tf.TensorSpec((2,), name="x"))
    graph, inputs, outputs = internals.simplified(concrete)
    used = {node.op for node in graph.node}
    assert not used & {"PartitionedCall", "StatefulPartitionedCall", "ReadVariableOp"} and used & {
        "While", "StatelessWhile"} and (len(inputs), len(outputs)) == (1, 1)

    @tf.function
    def call(x: Any) -> Any:
        return tf.graph_util.import_graph_def(graph, {inputs[0]: x}, outputs)[0]

    assert np.array_equal(call(tf.ones(2)), [10.0, 30.0])
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1], [2.0]), 0.0)
    with pytest.raises(Exception, match=r"."):
        internals.simplified(tf.function(table.lookup).get_concrete_function(tf.TensorSpec((2,), tf.int32)))


def test_deterministic_operations() -> None:
    """Determinism that was off is off again: nothing public would tell, or end it."""
    from tensorflow.python.framework import config

    assert not config.is_op_determinism_enabled()
    keras.utils.set_random_seed(0)
    with internals.deterministic_operations():
        assert config.is_op_determinism_enabled()
        with internals.deterministic_operations():
            pass
        assert config.is_op_determinism_enabled(), "it was on before the inner block"
    assert not config.is_op_determinism_enabled()


def test_filter_gradients() -> None:
    """The gradients of convolutions look their kernel up where it is put, with the arguments that it needs."""
    asked: list[list[int]] = []

    def wrapped(own: Any) -> Any:
        def run(input: Any, sizes: Any, gradient: Any, strides: Any, padding: Any, **options: Any) -> Any:
            asked.append(list(strides))
            assert padding == b"SAME" and options["data_format"] == b"NHWC" and list(map(int, sizes)) == [1, 1, 1, 1]
            return own(input, sizes, gradient, strides, padding, **options)

        return run

    def gradient() -> float:
        kernel = tf.Variable(tf.ones((1, 1, 1, 1)))
        with tf.GradientTape() as tape:
            result = tf.nn.conv2d(tf.ones((1, 4, 4, 1)), kernel, 2, "SAME")
        return float(tf.reduce_sum(tape.gradient(result, kernel)))

    with internals.filter_gradients(wrapped):
        assert gradient() == 4.0 and asked == [[1, 2, 2, 1]]
    assert gradient() == 4.0 and len(asked) == 1


def test_native_dilations() -> None:
    """For a TPU, TensorFlow writes one operation; and afterwards it traces and computes as before."""
    def types(function: Any) -> set[str]:
        graph = tf.function(function).get_concrete_function(tf.TensorSpec((1, None, None, 2))).graph
        return {operation.type for operation in graph.get_operations()}

    kernel, point = tf.ones((3, 3, 2, 1)), tf.ones((1, 1, 2, 2))
    cases = [
        lambda x: tf.nn.convolution(x, kernel, padding="SAME", dilations=2),
        lambda x: tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME", dilations=[2, 2]),
        lambda x: tf.nn.separable_conv2d(x, kernel, point, [1, 1, 1, 1], "SAME", dilations=[2, 2]),
    ]
    for case in cases:
        with internals.native_dilations():
            assert "SpaceToBatchND" not in types(case)
        assert "SpaceToBatchND" in types(case)
    with internals.native_dilations():
        plain = tf.nn.separable_conv2d(tf.ones((1, 4, 4, 2)), kernel, point, [1, 2, 2, 1], "SAME")
    assert plain.shape == (1, 2, 2, 2)
