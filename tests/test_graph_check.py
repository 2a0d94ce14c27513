"""What Keras made of a file is the network that the file stores: its graph, and all of its values."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers, ops

from cnnexport import keras_files
from cnnexport.errors import InputError
from cnnexport.keras_files import graph_check

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")


def image(*shape: int) -> Any:
    return keras.Input(shape or (8, 8, 3))


def conv(name: str | None = None, **options: Any) -> Any:
    return layers.Conv2D(3, 3, padding="same", bias_initializer="random_normal", name=name, **options)


def refusal(load: Callable[[], Any], *words: str) -> None:
    with pytest.raises(InputError) as caught:
        load()
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text


# --- a layer inside a nested model and outside it ----------------------------------------------------------------


def inside_and_outside() -> Any:
    shared, start, x = conv("shared"), image(), image()
    inner = keras.Model(start, shared(start), name="inner")
    return keras.Model(x, shared(inner(shared(x))), name="outer")


def in_a_sequential_and_outside() -> Any:
    shared, x = conv("shared"), image()
    inner = keras.Sequential([image(), shared, layers.ReLU()], name="inner")
    return keras.Model(x, shared(inner(shared(x))), name="outer")


def in_two_nested() -> Any:
    shared, a, b, x = conv("shared"), image(), image(), image()
    first = keras.Model(a, layers.ReLU()(shared(a)), name="first")
    second = keras.Model(b, layers.Softmax()(shared(b)), name="second")
    return keras.Model(x, second(first(x)), name="outer")


@pytest.mark.parametrize(("build", "name"), [
    (inside_and_outside, "shared"), (in_a_sequential_and_outside, "shared"), (in_two_nested, "shared")])
def test_a_layer_of_two_models_is_not_published_as_another_network(
    tmp_path: Path, build: Callable[[], Any], name: str
) -> None:
    """Either it is what was saved, or the file is refused with the layer's name."""
    model = build()
    model.save(tmp_path / "m.keras")
    try:
        loaded = keras_files.load_model(tmp_path / "m.keras")
    except InputError as error:
        assert "\n" not in str(error) and "m.keras" in str(error) and f"'{name}'" in str(error)
    else:
        np.testing.assert_allclose(loaded(IMAGES), model(IMAGES), atol=1e-5)
    model.save(tmp_path / "m.h5")
    np.testing.assert_allclose(keras_files.load_model(tmp_path / "m.h5")(IMAGES), model(IMAGES), atol=1e-5)
    model.export(tmp_path / "folder", verbose=False)
    np.testing.assert_allclose(keras_files.load_model(tmp_path / "folder")(IMAGES), model(IMAGES), atol=1e-5)


def test_missing_calls_are_told(tmp_path: Path) -> None:
    inside_and_outside().save(tmp_path / "m.keras")
    refusal(lambda: keras_files.load_model(tmp_path / "m.keras"), "m.keras", "layer 'shared' in 'outer' has 2 calls "
            "stored, 1 loaded", "model.export(FOLDER)")


def test_a_layer_in_a_wrapper_and_outside_it_is_told(tmp_path: Path) -> None:
    """Keras itself raises here, in many lines."""
    shared, film, x = conv("shared"), image(4, 8, 8, 3), image()
    keras.Model([film, x], [layers.TimeDistributed(shared)(film), shared(x)]).save(tmp_path / "m.keras")
    refusal(lambda: keras_files.load_model(tmp_path / "m.keras"), "layer 'shared' is used both inside another")


# --- graphs that differ ------------------------------------------------------------------------------------------


def difference() -> Any:
    x, start = image(), image()
    first, second = conv("a"), conv("b")
    inner = keras.Model(start, [second(start), start * 2.0], name="inner")
    p, q = inner(first(x))
    r, s = inner(q)
    ends = [layers.Subtract(name="minus")([first(p), r]), layers.Concatenate(name="join")([q, s]), r]
    return keras.Model(x, ends, name="outer")


def stored(model: Any) -> Any:
    return json.loads(model.to_json())


def layer(config: Any, name: str) -> Any:
    return next(part for part in config["config"]["layers"] if part["name"] == name)


def history(config: Any, name: str, call: int, tensor: int = 0) -> Any:
    given = layer(config, name)["inbound_nodes"][call]["args"][0]
    return (given[tensor] if isinstance(given, list) else given)["config"]["keras_history"]


def swap(config: Any) -> None:
    given = layer(config, "minus")["inbound_nodes"][0]["args"][0]
    given.reverse()


def other_call(config: Any) -> None:
    history(config, "minus", 0, 1)[1] = 0


def other_output(config: Any) -> None:
    history(config, "join", 0, 0)[2] = 0


def other_source(config: Any) -> None:
    history(config, "inner", 0)[:] = layer(config, "a")["inbound_nodes"][0]["args"][0]["config"]["keras_history"]


def other_ends(config: Any) -> None:
    config["config"]["output_layers"].reverse()


def fewer_ends(config: Any) -> None:
    del config["config"]["output_layers"][1]


def other_end_call(config: Any) -> None:
    config["config"]["output_layers"][2][1] = 1


def inner_swap(config: Any) -> None:
    layer(config, "inner")["config"]["output_layers"].reverse()


@pytest.mark.parametrize("change", [
    swap, other_call, other_output, other_source, other_ends, fewer_ends, other_end_call, inner_swap])
def test_a_graph_that_differs_is_seen(change: Callable[[Any], None]) -> None:
    model = difference()
    config = stored(model)
    graph_check.check(Path("m.keras"), config, model)
    change(config)
    refusal(lambda: graph_check.check(Path("m.keras"), config, model), "m.keras: Keras loads another network")


@pytest.mark.parametrize("wrap", [
    lambda inner: keras.Sequential([image(4, 8, 8, 3), layers.TimeDistributed(inner, name="wrapped")]),
    lambda inner: keras.Sequential([image(), keras.Sequential([inner], name="sequence")])])
def test_a_graph_that_differs_is_seen_inside_wrappers(wrap: Callable[[Any], Any]) -> None:
    def build(twice: bool) -> Any:
        start, own = image(), conv("own")
        return wrap(keras.Model(start, own(own(start)) if twice else own(start), name="inner"))

    graph_check.check(Path("m.keras"), stored(build(True)), build(True))
    refusal(lambda: graph_check.check(Path("m.keras"), stored(build(True)), build(False)),
            "layer 'own' in 'inner' has 2 calls stored, 1 loaded")


def test_a_sequential_model_that_lost_a_layer_is_seen() -> None:
    model = keras.Sequential([image(), conv(), conv()], name="row")
    config = stored(model)
    del config["config"]["layers"][-1]
    refusal(lambda: graph_check.check(Path("m.keras"), config, model), "'row' has 1 layers stored, 2 loaded")


# --- right files -------------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("test_graph_check")
class Unnamed(keras.Model):
    """A functional model whose configuration holds neither its graph nor its name."""

    def __init__(self, width: int = 3) -> None:
        start = image()
        super().__init__(start, layers.Conv2D(width, 3, padding="same")(start))
        self.width = width

    def get_config(self) -> dict[str, Any]:
        return {"width": self.width}


@keras.saving.register_keras_serializable("test_graph_check")
class Blocks(layers.Layer):
    """Holds layers in a list of lists, whose values lie in containers of containers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.blocks = [[conv(), layers.BatchNormalization()] for _ in range(2)]

    def build(self, shape: Any) -> None:
        for block in self.blocks:
            for part in block:
                part.build(shape)

    def call(self, x: Any) -> Any:
        for convolution, normalization in self.blocks:
            x = x + normalization(convolution(x))
        return x


def shared_calls() -> Any:
    x, own = image(), conv()
    own(own(image()))  # calls that no model holds
    return keras.Model(x, own(own(own(x))))


def towers() -> Any:
    a, b, start = image(), image(), image()
    tower = keras.Model(start, layers.Flatten()(conv()(start)))
    return keras.Model([a, b], [ops.abs(tower(a) - tower(b)), tower(a)])


def named_ports() -> Any:
    a, b, x = image(), image(), image()
    inner = keras.Model({"z": a, "y": b}, {"q": conv()(a), "p": b + 1.0})
    ends = inner({"z": x, "y": x})
    return keras.Model({"in": x}, {"m": ends["p"], "a": ends["q"]})


def ends_in_nested() -> Any:
    start, x = image(), image()
    inner = keras.Model(start, conv()(start))
    row = keras.Sequential([conv(), layers.ReLU()])
    y = inner(x)
    return keras.Model(x, [inner(y), y, row(row(y))])


def masked() -> Any:
    words = keras.Input((6,), dtype="int32")
    y = layers.Embedding(9, 4, mask_zero=True)(words)
    y = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(y)
    return keras.Model(words, layers.LSTM(3)(layers.Attention()([y, y])))


def states() -> Any:
    x = image(6, 4)
    y, h, c = layers.LSTM(4, return_state=True, return_sequences=True)(x)
    return keras.Model(x, layers.LSTM(4)(layers.MultiHeadAttention(2, 2)(y, value=x), initial_state=[h, c]))


def films() -> Any:
    x, start = image(4, 8, 8, 3), image()
    inner = keras.Model(start, layers.GlobalAveragePooling2D()(conv()(start)))
    return keras.Model(x, layers.GRU(2)(layers.TimeDistributed(inner)(x)))


def cut() -> Any:
    start = image()
    middle = conv()(start)
    return keras.Model(middle, conv()(middle))


def several_kinds() -> Any:
    x = image()
    y = layers.RandomRotation(0.1)(layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 1.0, 2.0])(x))
    y = conv(dtype="mixed_float16")(layers.Dropout(0.1)(y))
    y = layers.SpectralNormalization(conv())(layers.GroupNormalization(3)(y))
    return keras.Model(x, layers.Dense(2, dtype="float16")(layers.Flatten()(layers.SeparableConv2D(4, 3)(y))))


def adapted() -> Any:
    normal = layers.Normalization()
    normal.adapt(IMAGES)
    return keras.Sequential([image(), normal, layers.RandomFlip(), conv()])


def own_layers() -> Any:
    x, inner = image(), Unnamed()
    return keras.Model(x, Blocks()(inner(inner(x))))


def trained() -> Any:
    model = keras.Sequential([image(4), layers.BatchNormalization(), layers.Dense(3)])
    model.compile("adam", "mse", metrics=["mae", keras.metrics.AUC(thresholds=[0.1, 0.4])])
    model.fit(np.zeros((4, 4)), np.zeros((4, 3)), verbose=0)
    return model


def lora() -> Any:
    x, dense = image(8), layers.Dense(4)
    model = keras.Model(x, dense(x))
    dense.enable_lora(2)
    return model


def brain() -> Any:
    x = image()
    return keras.Model(x, layers.Dense(2, dtype="bfloat16")(layers.Flatten()(conv(dtype="mixed_bfloat16")(x))))


def long() -> Any:
    x = y = image(4)
    for _ in range(300):
        y = layers.Dense(4)(y) + x
    return keras.Model(x, y)


RIGHT = [shared_calls, towers, named_ports, ends_in_nested, masked, states, films, cut, several_kinds, adapted,
         own_layers, trained, lora, brain, long]


@pytest.mark.parametrize("build", RIGHT)
def test_right_files_are_loaded(tmp_path: Path, build: Callable[[], Any]) -> None:
    model = build()
    data = [np.ones([2, *tensor.shape[1:]], tensor.dtype) for tensor in keras.tree.flatten(model.inputs)]
    model.save(tmp_path / "m.keras")
    if build is not brain:  # which Keras cannot read from .h5
        model.save(tmp_path / "m.h5")
    for file in sorted(tmp_path.iterdir()):
        loaded = keras_files.load_model(file)
        given = {"in": data[0]} if build is named_ports else data if len(data) > 1 else data[0]
        for mine, kept in zip(*(keras.tree.flatten(m(given)) for m in (loaded, model)), strict=True):
            np.testing.assert_allclose(mine, kept, rtol=1e-4, atol=1e-5)
    model.save_weights(tmp_path / "m.weights.h5")
    keras_files.load_weights(build(), tmp_path / "m.weights.h5")


# --- values ------------------------------------------------------------------------------------------------------


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    """``path`` with its weights changed."""
    weights = path.with_suffix(".weights.h5")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    weights.write_bytes(parts["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        change(file)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, weights.read_bytes() if name == "model.weights.h5" else content)
    return path


def without_containers(file: Any) -> None:
    """As Keras before 3.14 saved layers in lists of lists: not at all."""
    for name in [name for name in file["layers/blocks/blocks"] if name.startswith("container")]:
        del file[f"layers/blocks/blocks/{name}"]


def test_layers_without_values_are_told(tmp_path: Path) -> None:
    """Keras only warns, and leaves them as they are initialized."""
    x = image()
    model = keras.Model(x, Blocks(name="blocks")(x))
    for variable in model.weights:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    model.save(tmp_path / "m.keras")
    keras_files.load_model(tmp_path / "m.keras")
    path = changed(tmp_path / "m.keras", without_containers)
    with pytest.warns(UserWarning, match="Skipping nested container"):
        refusal(lambda: keras_files.load_model(path), "m.keras has no values for ", "blocks")
    with pytest.warns(UserWarning, match="Skipping nested container"):
        refusal(lambda: keras_files.load_weights(model, path.with_suffix(".weights.h5")), "has no values for ")


def test_values_that_no_layer_takes_are_told(tmp_path: Path) -> None:
    def more(file: Any) -> None:
        file["layers/conv2d_7/vars/0"] = np.full((3, 3), 5.0, "float32")

    keras.Sequential([image(), conv()]).save(tmp_path / "m.keras")
    path = changed(tmp_path / "m.keras", more)
    refusal(lambda: keras_files.load_model(path), "holds values at layers/conv2d_7/vars/0 that no layer")


def test_what_training_leaves_is_no_value_of_a_layer(tmp_path: Path) -> None:
    def more(file: Any) -> None:
        for place in ("optimizer/vars/5", "metrics/auc/vars/0", "layers/flip/seed_generator/vars/0"):
            file[place] = np.full((3, 3), 5.0, "float32")

    keras.Sequential([image(), conv()]).save(tmp_path / "m.keras")
    keras_files.load_model(changed(tmp_path / "m.keras", more))
