"""Files that a stranger made to do harm: each is refused in one line, before anything acts on it."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from cnnexport import data, keras_files
from cnnexport.data import images
from cnnexport.errors import InputError
from cnnexport.keras_files import graphs, objects_allowed, operators_allowed, safety, savedmodel

F32 = tf.float32


@contextmanager
def at_once(seconds: int = 20) -> Iterator[None]:
    """Fail rather than hang."""
    def late(*_: Any) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(call: Callable[[], Any], *words: str) -> str:
    with at_once(), pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    for word in words:
        assert word in text, text
    return text


def small() -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential([layers.Input((8, 8, 3)), layers.Conv2D(2, 3, name="conv"), layers.Flatten(),
                             layers.Dense(2)])


# --- SavedModels -----------------------------------------------------------------------------------------------


class Resource(tf.saved_model.experimental.TrackableResource):
    """What TensorFlow initializes by itself when it loads a SavedModel."""

    def __init__(self, effect: Callable[[], Any]) -> None:
        super().__init__()
        self._effect = effect

    @property
    def resource_handle(self) -> Any:
        return self._create_resource()

    def _create_resource(self) -> Any:
        return tf.constant(1.0)

    @tf.function(input_signature=[])
    def _initialize(self) -> Any:
        self._effect()
        return tf.constant(1.0)


def saved(folder: Path, effect: Callable[[], Any], place: str) -> Path:
    module = tf.Module()
    module.v = tf.Variable(2.0)
    nested = tf.function(lambda: (effect(), 1.0)[1])
    if place == "initializer":
        module.resource = Resource(effect)
    elif place == "function of an initializer":
        module.resource = Resource(lambda: nested())

    @tf.function(input_signature=[tf.TensorSpec([None, 3], F32)])
    def call(x: Any) -> Any:
        if place == "signature":
            effect()
        elif place == "branch":
            tf.cond(tf.reduce_sum(x) > 0, lambda: (effect(), 1)[1], lambda: 0)
        elif place == "loop":
            tf.while_loop(lambda i: i < 3, lambda i: (effect(), i + 1)[1], [tf.constant(0)])
        return {"y": x * module.v}

    module.call = call
    tf.saved_model.save(module, str(folder), signatures={"serving_default": call})
    return folder


PLACES = ("initializer", "function of an initializer", "signature", "branch", "loop")


def effects(place: Path) -> dict[str, Callable[[], Any]]:
    target = str(place)
    return {
        "PrintV2": lambda: tf.print("mark", output_stream=f"file://{target}"),
        "ReadFile": lambda: tf.io.read_file(target),
        "WriteFile": lambda: tf.io.write_file(target, "mark"),
        "MatchingFiles": lambda: tf.io.matching_files(f"{target}*"),
        "EagerPyFunc": lambda: tf.py_function(lambda: 1.0, [], F32),
        "SaveV2": lambda: tf.raw_ops.SaveV2(prefix=target, tensor_names=["a"], shape_and_slices=[""],
                                            tensors=[tf.constant(1.0)]),
        "RestoreV2": lambda: tf.raw_ops.RestoreV2(prefix=target, tensor_names=["a"], shape_and_slices=[""],
                                                  dtypes=[F32]),
        "ImmutableConst": lambda: tf.raw_ops.ImmutableConst(dtype=F32, shape=[1], memory_region_name=target),
    }


@pytest.mark.parametrize(("op", "place"), [
    *(("PrintV2", place) for place in PLACES), *((op, "initializer") for op in effects(Path("x"))),
    ("WriteFile", "branch"), ("SaveV2", "function of an initializer"), ("SaveV2", "loop"), ("SaveV2", "signature")])
def test_operators_that_reach_outside(op: str, place: str, tmp_path: Path, monkeypatch: Any) -> None:
    folder = saved(tmp_path / "m", effects(tmp_path / "mark")[op], place)
    for mark in tmp_path.glob("mark*"):
        mark.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(tf.saved_model, "load", lambda *_: pytest.fail("loaded"))
        refused(lambda: keras_files.load_model(folder), op, "--unsafe-load")
    assert not list(tmp_path.glob("mark*"))


def test_the_savers_of_a_file_are_no_initializers(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "m"
    small().export(folder, verbose=False)
    stored = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = stored.meta_graphs[0]
    saver = next(f.signature.name for f in graph.graph_def.library.function
                 if any(n.op == "SaveV2" for n in f.node_def))
    untouched = stored.SerializeToString()
    monkeypatch.setattr(tf.saved_model, "load", lambda *_: pytest.fail("loaded"))

    def named_by_an_object(graph: Any) -> None:
        node = next(n for n in graph.object_graph_def.nodes if n.WhichOneof("kind") == "bare_concrete_function")
        node.bare_concrete_function.concrete_function_name = saver

    def called_by_a_function(graph: Any) -> None:
        name = next(iter(graph.object_graph_def.concrete_functions))
        function = next(f for f in graph.graph_def.library.function if f.signature.name == name)
        node = function.node_def.add(name="more", op="StatefulPartitionedCall")
        node.attr["f"].func.name = saver

    def called_as_an_operator(graph: Any) -> None:
        name = next(iter(graph.object_graph_def.concrete_functions))
        next(f for f in graph.graph_def.library.function if f.signature.name == name).node_def.add(name="x", op=saver)

    def swapped_in(graph: Any) -> None:
        next(f for f in graph.graph_def.library.function if f.signature.name == saver).attr["api_implements"].s = b"x"

    def gradient(graph: Any) -> None:
        graph.graph_def.library.registered_gradients.add(gradient_func=saver, registered_op_type="x")

    def without_objects(graph: Any) -> None:
        graph.ClearField("object_graph_def")
        graph.saver_def.restore_op_name = graph.saver_def.save_tensor_name.split(":")[0]

    for change in (named_by_an_object, called_by_a_function, called_as_an_operator, swapped_in, gradient,
                   without_objects):
        stored.ParseFromString(untouched)
        change(stored.meta_graphs[0])
        (folder / "saved_model.pb").write_bytes(stored.SerializeToString())
        refused(lambda: keras_files.load_model(folder), "V2", "--unsafe-load")


def tensorflow1(folder: Path, change: Callable[[Any], Any] | None = None) -> Path:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = v1.placeholder(F32, [None, 3], "x")
        y = tf.matmul(x, v1.get_variable("v", [3, 2]))
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature},
                                             main_op=change(y) if change else None)
        builder.save()
    return folder


def test_tensorflow_1(tmp_path: Path, monkeypatch: Any) -> None:
    assert keras_files.load_model(tensorflow1(tmp_path / "right"))(np.ones((2, 3), "float32")).shape == (2, 2)
    target = str(tmp_path / "mark")

    def save(y: Any) -> Any:
        return tf.raw_ops.SaveV2(prefix=target, tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(1.0)])

    folder = tensorflow1(tmp_path / "wrong", save)
    refused(lambda: keras_files.load_model(folder), "SaveV2", "--unsafe-load")
    folder = tensorflow1(tmp_path / "other")
    stored = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = stored.meta_graphs[0]
    restore = next(n for n in graph.graph_def.node if n.op == "RestoreV2")
    graph.graph_def.node.add(name="mine", op="Const").CopyFrom(
        next(n for n in graph.graph_def.node if n.op == "Const" and n.attr["dtype"].type == tf.string.as_datatype_enum))
    graph.graph_def.node[-1].name = "mine"
    restore.input[0] = "mine"
    (folder / "saved_model.pb").write_bytes(stored.SerializeToString())
    refused(lambda: keras_files.load_model(folder), "RestoreV2")
    assert not (tmp_path / "mark.index").exists()


def test_a_savedmodel_holds_files_only(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    small().export(folder, verbose=False)
    index = folder / "variables" / "variables.index"
    index.rename(tmp_path / "index")
    index.symlink_to(tmp_path / "index")
    keras_files.load_model(folder)  # as Hugging Face's cache has them
    index.unlink()
    os.mkfifo(index)
    refused(lambda: keras_files.load_model(folder), "pipe")
    refused(lambda: keras_files.load_model(folder, unsafe_load=True), "pipe")
    refused(lambda: keras_files.sha256(folder), "pipe")
    assert keras_files.saved_training_steps(folder) is None
    index.unlink()
    (tmp_path / "index").rename(index)
    (folder / "saved_model.cpb").write_bytes(b"x")
    refused(lambda: keras_files.load_model(folder), "saved_model.cpb")


def test_a_constant_that_is_not_in_the_file(tmp_path: Path) -> None:
    stored = saved_model_pb2.SavedModel()
    node = stored.meta_graphs.add().graph_def.node.add(name="c", op="Const")
    node.attr["value"].tensor.tensor_shape.dim.add(size=10**13)
    refused(lambda: graphs.check(tmp_path, stored), "Const", "10000000000000")


def test_lists_are_of_what_there_is() -> None:
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    known = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    registered = {op.name for op in known.op}
    assert registered >= operators_allowed.ALLOWED | operators_allowed.SAVERS
    assert not operators_allowed.ALLOWED & operators_allowed.SAVERS
    for table in (objects_allowed.CLASSES, objects_allowed.FUNCTIONS):
        for module, names in table.items():
            found = vars(__import__("importlib").import_module(module))
            assert not [name for name in names.split() if name not in found]


@pytest.mark.parametrize("make", [
    lambda x: layers.Bidirectional(layers.LSTM(2))(layers.Reshape((8, 24))(x)),
    lambda x: layers.GRU(2, return_sequences=True)(layers.Reshape((8, 24))(x)),
    lambda x: layers.GroupQueryAttention(4, 2, 1)(y := layers.Reshape((8, 24))(x), y),
    lambda x: layers.SeparableConv2D(2, 3)(layers.UpSampling2D(interpolation="bilinear")(x)),
    lambda x: layers.RandomZoom(0.1)(layers.RandomRotation(0.1)(layers.RandomFlip()(x))),
    lambda x: layers.Dense(2)(layers.Flatten()(layers.GroupNormalization(3)(layers.Resizing(4, 4, "bicubic")(x)))),
    lambda x: keras.ops.image.resize(keras.ops.relu(x * 2)[:, 1:], (4, 4)),
])
def test_right_models_are_not_refused(make: Callable[[Any], Any], tmp_path: Path) -> None:
    image = layers.Input((8, 8, 3))
    model = keras.Model(image, make(image))
    model.export(tmp_path / "m", verbose=False)
    savedmodel._check(tmp_path / "m", False)
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        keras_files.load_model(tmp_path / name)


# --- what a configuration names --------------------------------------------------------------------------------


def planted(tmp_path: Path, change: Callable[[list[Any]], Any], name: str = "m.keras") -> Path:
    """A small model's file with a changed list of layers in its configuration."""
    path = tmp_path / name
    small().save(path)
    if name.endswith(".h5"):
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            change(config["config"]["layers"])
            file.attrs["model_config"] = json.dumps(config)
        return path
    with zipfile.ZipFile(path) as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    config = json.loads(parts["config.json"])
    change(config["config"]["layers"])
    with zipfile.ZipFile(path, "w") as archive:
        for n, content in (parts | {"config.json": json.dumps(config).encode()}).items():
            archive.writestr(n, content)
    return path


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.parametrize("node", [
    {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"},
    {"module": "keras.visualization", "class_name": "function", "config": "plot_image_gallery",
     "registered_name": "plot_image_gallery"},
    {"module": "keras.callbacks", "class_name": "CSVLogger", "config": {"filename": "x"}, "registered_name": None},
    {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {}, "registered_name": None},
    {"module": "keras.layers", "class_name": "JaxLayer", "config": {}, "registered_name": None},
    {"module": "keras.src.utils.file_utils", "class_name": "Progbar", "config": {}, "registered_name": None},
    {"module": "keras.utils", "class_name": "FeatureSpace", "config": {}, "registered_name": None},
])
def test_only_known_objects_are_named(node: dict[str, Any], name: str, tmp_path: Path) -> None:
    def plant(found: list[Any]) -> None:
        if node["class_name"] == "function":
            found[1]["config"]["activation"] = node
        else:
            found.insert(1, {**node, "name": "evil"})

    wanted = node["config"] if node["class_name"] == "function" else node["class_name"]
    refused(lambda: keras_files.load_model(planted(tmp_path, plant, name)), wanted)


def test_a_registered_name_does_not_hide_a_tool(tmp_path: Path) -> None:
    node = {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "mine>Mine"}
    refused(lambda: safety.check_names(tmp_path, {"x": node}, {"mine>Mine": object()}), "get_file")


@pytest.mark.parametrize("name", ["deserialize", "serialization_lib", "__builtins__"])
def test_what_lies_beside_the_layers_is_no_layer(name: str, tmp_path: Path) -> None:
    path = planted(tmp_path, lambda found: found.insert(1, {"class_name": name, "config": {"config": {}}}), "m.h5")
    refused(lambda: keras_files.load_model(path), name)


def test_a_vocabulary_is_not_read_from_a_path(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("a\nb\n")
    node = {"module": "keras.layers", "class_name": "StringLookup", "registered_name": None,
            "config": {"name": "lookup", "vocabulary": str(tmp_path / "words")}}
    for name in ("m.keras", "m.h5"):
        path = planted(tmp_path, lambda found: found.insert(1, node), name)
        refused(lambda: keras_files.load_model(path), "'lookup'",  # noqa: B023
                "reads a file")


# --- archives --------------------------------------------------------------------------------------------------


def repacked(path: Path, change: Callable[[zipfile.ZipFile], Any], leave: str = "", method: int = 0) -> Path:
    """A ``.keras`` file packed again, without one member and with what ``change`` adds."""
    target = path.with_name("again.keras")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", method) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in old.namelist():
            if name != leave:
                new.writestr(name, old.read(name))
        change(new)
    return target


def test_bombs_in_archives(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    small().save(path)
    again = repacked(path, lambda new: None, method=zipfile.ZIP_DEFLATED)
    keras_files.load_model(again)  # packed again, and right
    assert keras_files.saved_training_steps(again) is None
    mib = b" " * (1 << 20)

    def bomb(name: str, size: int) -> Callable[[zipfile.ZipFile], Any]:
        def add(new: zipfile.ZipFile) -> None:
            with new.open(zipfile.ZipInfo(name), "w", force_zip64=True) as file:
                file._compressor = zipfile._get_compressor(zipfile.ZIP_DEFLATED, 9)  # type: ignore[attr-defined]
                file._zinfo.compress_type = zipfile.ZIP_DEFLATED  # type: ignore[attr-defined]
                for _ in range(size):
                    file.write(mib)
        return add

    for name, size, word in (("config.json", 65, "config.json of more than 64 MiB"), ("metadata.json", 65, "64 MiB"),
                             ("model.weights.h5", 300, "expands to 300 MiB"), ("assets/x", 300, "expands to 300 MiB")):
        again = repacked(path, bomb(name, size), leave=name)
        refused(lambda: keras_files.load_model(again), word)  # noqa: B023


@pytest.mark.parametrize(("name", "words"), [
    ("config.json", "twice"), ("run.py", "run.py"), ("assets/../../x", "Keras does not write"),
    ("/etc/x", "Keras does not write"), ("assets/a\\..\\b", "Keras does not write"), ("link", "link"),
    ("model.weights.npz", "model.weights.npz")])
def test_members_that_keras_does_not_write(name: str, words: str, tmp_path: Path) -> None:
    small().save(tmp_path / "m.keras")

    def add(new: zipfile.ZipFile) -> None:
        member = zipfile.ZipInfo("assets/link" if name == "link" else name)
        member.external_attr = (0o120777 if name == "link" else 0o100644) << 16
        new.writestr(member, "/etc/passwd")

    again = repacked(tmp_path / "m.keras", add)
    refused(lambda: keras_files.load_model(again), words)
    refused(lambda: keras_files.load_weights(small(), again), words)


def test_assets_are_right(tmp_path: Path) -> None:
    text = layers.Input((1,), dtype="string")
    words = layers.StringLookup(vocabulary=["a", "b"])
    keras.Model(text, layers.Embedding(4, 2)(words(text))).save(tmp_path / "m.keras")
    keras_files.load_model(tmp_path / "m.keras")


@pytest.mark.parametrize("kind", ["soft", "external", "array", "virtual", "shape", "attribute"])
@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.weights.h5"])
def test_hdf5_that_is_not_what_it_says(kind: str, name: str, tmp_path: Path) -> None:
    model = small()
    (model.save_weights if ".weights" in name else model.save)(tmp_path / name)
    inside = tmp_path / "w.h5"
    content = io.BytesIO(zipfile.ZipFile(tmp_path / name).read("model.weights.h5")
                         if name == "m.keras" else (tmp_path / name).read_bytes())
    (tmp_path / "raw").write_bytes(b"\0" * 4096)
    with h5py.File(content, "r+") as file:
        if kind == "soft":
            file["extra"] = h5py.SoftLink("/")
        elif kind == "external":
            file["extra"] = h5py.ExternalLink(str(tmp_path / "raw"), "/")
        elif kind == "array":
            file.create_dataset("extra", (8,), "f4", external=str(tmp_path / "raw"))
        elif kind == "virtual":
            layout = h5py.VirtualLayout((8,), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "raw"), "x", (8,))
            file.create_virtual_dataset("extra", layout)
        elif kind == "shape":
            file.create_dataset("extra", (1 << 34,), "f4", chunks=(1 << 16,), compression="gzip")
        else:
            group = file.create_group("a")
            for _ in range(70):
                group = group.create_group("a")
    inside.write_bytes(content.getvalue())
    path = tmp_path / name
    if name == "m.keras":
        path = repacked(path, lambda new: new.write(inside, "model.weights.h5"), leave="model.weights.h5")
    else:
        path.write_bytes(inside.read_bytes())
    if ".weights" not in name:
        refused(lambda: keras_files.load_model(path), path.name, "save it again")
    refused(lambda: keras_files.load_weights(small(), path), path.name, "save it again")
    assert keras_files.saved_training_steps(path) is None


# --- pictures and data -----------------------------------------------------------------------------------------

EPS = """%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
(mark) (w) file closefile
%%EOF
"""


def test_no_program_is_started_for_a_picture(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("gs", "gswin32c"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho started >> {tmp_path}/mark\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    place = tmp_path / "d" / "a"
    place.mkdir(parents=True)
    (place / "x.png").write_text(EPS)
    refused(lambda: images.decode(place / "x.png"), "x.png", "PNG, JPEG, BMP, GIF, WebP, TIFF and PPM")
    refused(lambda: data.load(tmp_path / "d"), "x.png")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "BMP", "GIF", "WEBP", "TIFF", "PPM", "first GIF", "first WEBP"])
def test_pictures_that_are_read_whatever_their_name(kind: str, tmp_path: Path) -> None:
    first = Image.fromarray(np.full((6, 5, 3), 200, np.uint8))
    more = {"save_all": True, "append_images": [Image.fromarray(np.zeros((6, 5, 3), np.uint8))]}
    first.save(tmp_path / "x.png", kind.split()[-1], **(more if kind.startswith(("first", "MPO")) else {}))
    pixels = images.decode(tmp_path / "x.png")
    assert pixels.shape == (6, 5, 3) and abs(int(pixels[0, 0, 0]) - 200) < 3


@pytest.mark.parametrize("kind", ["ICO", "PCX", "TGA", "SGI", "JPEG2000"])
def test_pictures_that_are_not(kind: str, tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "x.png", kind)
    refused(lambda: images.decode(tmp_path / "x.png"), "PNG, JPEG")


def special(place: Path, kind: str) -> Path:
    if "pipe" in kind:
        os.mkfifo(place.with_name("pipe"))
        target = place.with_name("pipe")
    else:
        target = Path("/dev/zero")
    if "link" in kind or target == Path("/dev/zero"):
        place.symlink_to(target)
    else:
        target.rename(place)
    return place


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device"])
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    word = "device" if kind == "device" else "pipe"
    for name in ("f.keras", "f.h5", "f.weights.h5"):
        (tmp_path / name).mkdir()
        path = special(tmp_path / name / name, kind)
        refused(lambda: keras_files.load_model(path), word)  # noqa: B023
        refused(lambda: keras_files.load_weights(small(), path), word)  # noqa: B023
        refused(lambda: keras_files.sha256(path), word)  # noqa: B023
        with at_once():
            assert keras_files.saved_training_steps(path) is None
    place = tmp_path / "set" / "a"
    place.mkdir(parents=True)
    refused(lambda: keras_files.import_custom_objects(special(tmp_path / "c.py", kind)), word)
    (tmp_path / "n").mkdir()
    refused(lambda: data.load(special(tmp_path / "n" / "f.npz", kind)), word)
    refused(lambda: data.load(tmp_path / "n" / "f.npz", training=False), word)
    picture = special(place / "x.png", kind)
    refused(lambda: images.decode(picture), word)
    refused(lambda: data.load(tmp_path / "set"), word, "x.png")


def arrays(**changed: Any) -> dict[str, Any]:
    return {"x_train": np.arange(1280, dtype=np.uint8).reshape(20, 8, 8), "y_train": np.arange(20) % 4} | changed


@pytest.mark.parametrize("kind", ["datetime64[s]", "timedelta64[s]", "complex64", "longdouble", "V4", "S3", "i4,f4"])
@pytest.mark.parametrize("key", ["x_train", "y_train"])
def test_arrays_of_no_numbers(kind: str, key: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **arrays(**{key: np.zeros((20, 8, 8) if key[0] == "x" else 20, np.dtype(kind))}))
    refused(lambda: data.load(tmp_path / "d.npz"), key, "numbers")


def test_bombs_in_arrays(tmp_path: Path) -> None:
    for shape, word in (((1 << 40,), "claims"), ((-5,), "claims"), ((20, 8, 9), "claims")):
        with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays().items():
                file = io.BytesIO()
                header = {"descr": array.dtype.str, "fortran_order": False,
                          "shape": shape if name == "x_train" else array.shape}
                np.lib.format.write_array_header_1_0(file, header)
                archive.writestr(f"{name}.npy", file.getvalue() + array.tobytes())
        refused(lambda: data.load(tmp_path / "d.npz"), word)
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open(
            "x_train.npy", "w", force_zip64=True) as entry:
        for _ in range(1100):
            entry.write(b"\0" * (1 << 20))
    refused(lambda: data.load(tmp_path / "d.npz"), "expands to 1100 MiB")


def test_names_of_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **arrays(class_names=np.asarray(["a", "b\x1b[2J", "c", "d"])))
    refused(lambda: data.load(tmp_path / "d.npz"), "class name", "x1b")
    np.savez(tmp_path / "d.npz", **arrays(class_names=np.asarray(["T-shirt/top", "caf\u00e9 noir", "\u5c42", "d"])))
    data.load(tmp_path / "d.npz")
    for name in (b"a\nb", b"\xff\xfe"):
        root = tmp_path / f"d{name[0]}"
        for folder in (name, b"other"):
            os.makedirs(os.path.join(os.fsencode(root), folder))
            for i in range(6):
                Image.fromarray(np.zeros((4, 4), np.uint8)).save(os.path.join(os.fsencode(root), folder, b"%d.png" % i))
        refused(lambda: data.load(root), "class name")  # noqa: B023


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300 + ".keras")
    for call in (lambda: keras_files.load_model(long), lambda: keras_files.load_weights(small(), long),
                 lambda: data.load(long), lambda: images.decode(long), lambda: keras_files.import_custom_objects(long),
                 lambda: keras_files.load_model(Path("a\0b.keras"))):
        refused(call, "cannot be read")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.keras"))
    small().save(tmp_path / "m.keras")
    (tmp_path / "m.keras").rename(odd)
    keras_files.load_model(odd)
    root = tmp_path / "pictures"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(
                os.path.join(os.fsencode(root), name.encode(), b"\xff%d.png" % i))
    assert len(data.load(root).train) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="flips are tried on one platform")
@pytest.mark.parametrize("name", ["m.keras", "m.h5", "d.npz", "x.png"])
def test_flipped_bits(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    if name == "d.npz":
        np.savez_compressed(tmp_path / name, **arrays())
    elif name == "x.png":
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / name)
    else:
        small().save(tmp_path / name)
    calls: dict[str, Callable[[Path], Any]] = {"d.npz": data.load, "x.png": images.decode}
    call = calls.get(name, keras_files.load_model)
    whole = (tmp_path / name).read_bytes()
    for turn in range(40):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 1 + turn % 3):
            changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / name).write_bytes(changed if turn % 4 else changed[:int(rng.integers(1, len(whole)))])
        try:
            with at_once():
                call(tmp_path / name)
        except InputError as error:
            assert "\n" not in str(error)
