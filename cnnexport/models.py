"""A user's own Keras model or weights: files of Keras 3 and Keras 2, and SavedModel folders."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cnnexport.conversion.trace import one_line
from cnnexport.errors import InputError

_ACCEPTED = "give a .keras file, an .h5 or .hdf5 model file, or a SavedModel folder"
_FOREIGN = {
    ".tflite": "a TensorFlow Lite model", ".lite": "a TensorFlow Lite model", ".onnx": "an ONNX model already",
    ".pb": "a TensorFlow graph", ".pbtxt": "a TensorFlow graph", ".pt": "a PyTorch file", ".pth": "a PyTorch file",
    ".safetensors": "a safetensors file", ".ckpt": "a TensorFlow checkpoint", ".index": "a TensorFlow checkpoint",
    ".json": "a JSON file", ".pkl": "a pickle", ".npz": "a NumPy archive", ".zip": "a zip archive",
    ".mlmodel": "a Core ML model", ".mlpackage": "a Core ML model", ".py": "a Python file",
}
_REGISTER = ("register it with @keras.saving.register_keras_serializable() and give its file by --custom-objects "
             "FILE.py, or pass custom_objects={...} in Python")
_GRAPH_LAYERS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty")
_KERAS_ROOTS = ("keras", "tf_keras", "tensorflow", "keras_hub", "keras_cv", "keras_nlp")
_TOOL_MODULES = (
    "utils", "saving", "models", "config", "preprocessing", "datasets", "backend", "applications", "export")
_FILE_OPS = ("ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc")
_POLICIES = ("DTypePolicy", "Policy", "PolicyV1")
_ALIASES = {
    "BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization", "ThresholdedReLU": "ReLU",
    "RandomHeight": "Identity", "RandomWidth": "Identity",
}
_NO_EFFECT = frozenset((
    "trainable", "batch_input_shape", "input_shape", "input_dim", "input_length", "input_dtype", "rng_type",
    "implementation", "fused", "renorm", "renorm_clipping", "renorm_momentum", "virtual_batch_size", "adjustment",
    "synchronized", "function_type", "module", "output_shape_type", "output_shape_module"))
_WEIGHTS_MEMBERS = ("model.weights.h5", "variables.h5")


def load_model(path: Path, *, unsafe_load: bool = False, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The Keras 3 model in a .keras or .h5 file of Keras 2 or 3, or in a SavedModel folder, uncompiled.

    Code stored in the file (Lambda layers, classes outside Keras) runs only with ``unsafe_load``.

    Raises:
        InputError: the file cannot be read, is not such a model, or needs code that was not given.
    """
    path, objects = Path(path), dict(custom_objects or {})
    kind = _kind(path)
    if kind == "savedmodel":
        return _load_savedmodel(path, unsafe_load)
    config, version = _zip_config(path) if kind == "zip" else _h5_config(path)
    import keras

    from cnnexport.architectures import layers as layers  # registers our own layers by importing them

    try:
        _check_code(path, config, objects, unsafe_load)
        if version.split(".")[0] in ("1", "2"):
            # Never by Keras 3 as it is: it reads some Keras 2 layers without a word as something else.
            return _rebuild(path, kind, config, objects, unsafe_load, keras2=True)
        _provide_lambda_names(unsafe_load)
        try:
            return keras.models.load_model(path, objects, compile=False, safe_mode=not unsafe_load)
        except Exception:
            if kind == "zip":
                raise
            # Keras 3 writes operations (x * 2) to .h5 files without the module that they are to be found in.
            return _rebuild(path, kind, config, objects, unsafe_load, keras2=False)
    except InputError:
        raise
    except Exception as error:
        raise _explained(path, config, version, error) from error


def _kind(path: Path) -> str:
    """``zip``, ``h5`` or ``savedmodel``. Raises InputError for anything else, or what cannot be read."""
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist; {_ACCEPTED}")
        if path.is_dir():
            if (path / "saved_model.pb").is_file():
                return "savedmodel"
            raise InputError(f"{path} is a folder without saved_model.pb, so no SavedModel; {_ACCEPTED}")
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; make it readable") from error
    suffix = path.suffix.lower()
    if suffix in _FOREIGN or head[4:8] == b"TFL3":
        raise InputError(f"{path.name} is {_FOREIGN.get(suffix, 'a TensorFlow Lite model')}, not a Keras model; "
                         f"{_ACCEPTED}")
    if not head:
        raise InputError(f"{path.name} is empty; save or copy the model again")
    found = "zip" if head[:4] == b"PK\x03\x04" else "h5" if head == b"\x89HDF\r\n\x1a\n" else None
    expected = {".keras": "zip", ".h5": "h5", ".hdf5": "h5"}.get(path.suffix)
    names = {"zip": "a .keras (zip) file", "h5": "an HDF5 file"}
    if expected is None:
        told = f"rename it to {path.stem}{'.keras' if found == 'zip' else '.h5'}" if found else _ACCEPTED
        raise InputError(f"{path.name} has not the suffix of a Keras model; {told}")
    if found is None:
        raise InputError(f"{path.name} is not {names[expected]}, whatever its name says; it may be damaged: "
                         "save or copy it again")
    if found != expected:
        raise InputError(f"{path.name} is {names[found]}, not {names[expected]}; rename it to "
                         f"{path.stem}{'.keras' if found == 'zip' else '.h5'}")
    return found


def _zip_config(path: Path) -> tuple[Any, str]:
    """The configuration and Keras version in a ``.keras`` file, whose checksums are checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "config.json" not in names or not set(names) & set(_WEIGHTS_MEMBERS):
                missing = "config.json" if "config.json" not in names else "model.weights.h5"
                raise InputError(f"{path.name} holds no {missing}, so it is no Keras model; save it by "
                                 "model.save(...keras)")
            # Keras reads the weights out of order, which skips their checksums.
            bad = archive.testzip()
            if bad is not None:
                raise InputError(f"{path.name} is damaged: the checksum of its {bad} is wrong; copy or save it again")
            config = json.loads(archive.read("config.json"))
            metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name} is truncated or damaged ({one_line(error)}); copy or save it again") from error
    known = metadata.get("keras_version", "3") if isinstance(metadata, dict) else "3"
    return _checked_config(path, config), _version(known)


def _h5_config(path: Path) -> tuple[Any, str]:
    """The configuration and Keras version in a legacy ``.h5`` model file."""
    with _open_h5(path) as file:
        raw, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "1")
        if raw is None:
            raise InputError(f"{path.name} holds weights without a model; build the model (an architecture's name, "
                             "or its .keras file) and give this file by --weights")
        if "model_weights" not in file:
            raise InputError(f"{path.name} holds a model without weights; save it by model.save(...keras)")
    try:
        return _checked_config(path, json.loads(raw)), _version(version)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path.name}'s model_config cannot be read ({one_line(error)}); save it again") from error


def _checked_config(path: Path, config: Any) -> Any:
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str) or "config" not in config:
        raise InputError(f"{path.name}'s configuration describes no Keras model; save it again by model.save(...keras)")
    return config


def _version(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if re.match(r"\d", text) else "1"


def _open_h5(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path.name} is truncated or damaged ({one_line(error)}); copy or save it again") from error


# --- what a file may run ---------------------------------------------------------------------------------------


def _objects(node: Any, layer: str = "the model", top: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every serialized object in a configuration, after ``layer 'name'`` for the layer that it is in or is."""
    if isinstance(node, list):
        for item in node:
            yield from _objects(item, layer, False)
    elif isinstance(node, dict):
        if isinstance(node.get("class_name"), str):
            inner = node.get("config")
            own = inner.get("name") if isinstance(inner, dict) else None
            if isinstance(own, str) and node["class_name"] not in _POLICIES:
                layer = f"layer '{own}'"
            yield layer, node
        for key, value in node.items():
            if not (top and key == "compile_config"):  # loading does not compile
                yield from _objects(value, layer, False)


def _check_code(path: Path, config: Any, objects: dict[str, Any], unsafe_load: bool) -> None:
    """Refuse code in the file, or with ``unsafe_load`` add the classes it names to ``objects``."""
    import keras

    for layer, node in _objects(config):
        name, module = node["class_name"], node.get("module")
        if name in ("Lambda", "__lambda__") and not unsafe_load:
            raise InputError(f"{path.name}: {layer} is a Lambda, which runs code stored in the file; give "
                             "--unsafe-load if you trust it, or replace it by a layer")
        if name == "TFSMLayer" and not unsafe_load:
            raise InputError(f"{path.name}: {layer} is a TFSMLayer, which runs the SavedModel that the file "
                             "names; give --unsafe-load if you trust it, or convert that SavedModel folder itself")
        function = node.get("config") if name == "function" else None
        wanted = [n for n in (name, node.get("registered_name"), function) if isinstance(n, str) and n != "function"]
        if any(n in objects or keras.saving.get_registered_object(n) is not None for n in wanted):
            continue
        if name in _GRAPH_LAYERS:
            raise InputError(f"{path.name}: {layer} cannot be loaded: it is a TensorFlow operation "
                             f"({name}) of Keras 2, which Keras 3 does not have; where it was made, save it by "
                             "model.export(FOLDER) and give that folder")
        if not isinstance(module, str):
            continue  # a Keras class under its plain name, or one whose absence Keras reports
        parts = module.split(".")
        tool = function is not None and len(parts) > 1 and parts[1] in _TOOL_MODULES
        if (parts[0] in _KERAS_ROOTS and not tool) or (module == "builtins" and function is not None):
            continue
        shown = function if isinstance(function, str) else name
        code = _import_class(module, shown) if unsafe_load and parts[0] not in (*_KERAS_ROOTS, "builtins") else None
        if code is None:
            more = "" if unsafe_load or parts[0] in (*_KERAS_ROOTS, "builtins") else (
                f"; --unsafe-load imports it from {module} if you trust the file")
            raise InputError(f"{path.name}: {layer} needs {shown}, custom code in {module}, which is not "
                             f"loaded; {_REGISTER}{more}")
        objects.update(dict.fromkeys(wanted, code))


def _import_class(module: str, name: str) -> Any:
    """The class or function ``name`` of ``module``, or None; only for a file that its user trusts."""
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception:
        return None
    return found if inspect.isfunction(found) or hasattr(found, "from_config") else None


def _provide_lambda_names(unsafe_load: bool) -> None:
    """Give Python lambdas loaded from a file the module names that they mostly use.

    Keras stores a lambda's code without its globals, and runs it in those of the module that loads it.
    """
    if not unsafe_load:
        return
    import keras
    import numpy as np
    import tensorflow as tf
    from keras.src.utils import python_utils

    for name, module in (("tf", tf), ("np", np), ("keras", keras), ("K", keras.backend), ("ops", keras.ops),
                         ("layers", keras.layers), ("tensorflow", tf), ("numpy", np)):
        vars(python_utils).setdefault(name, module)


def _explained(path: Path, config: Any, version: str, error: Exception) -> InputError:
    """What Keras raised while loading, in one line that names the layer and what to do."""
    text = str(error)
    missing = re.search(r"(?:Could not locate (\w+)|Unknown ([\w ]+):) '([^']+)'", text)
    if missing:
        what, name = missing[1] or missing[2], missing[3]
        layer = next((layer for layer, node in _objects(config) if name in (
            node["class_name"], node.get("registered_name"), node.get("config"))), "the model")
        return InputError(f"{path.name}: {layer} needs the {what} {name}, which "
                          f"Keras does not know; {_REGISTER}")
    reason = one_line(Exception(text.rsplit("Exception encountered: ", 1)[-1]))
    if not text.strip():
        reason = type(error).__name__
    if "bad marshal data" in text:
        return InputError(f"{path.name}: a Lambda layer's code was stored by another version of Python; replace it by "
                          "a layer, or load it with that version")
    return InputError(f"{path.name} (saved by Keras {version}) cannot be loaded: {reason}; save it again by "
                      "model.save(...keras) with Keras 3, or by model.export(FOLDER) where it was made")


# --- Keras 2 ---------------------------------------------------------------------------------------------------


def _rebuild(path: Path, kind: str, config: Any, objects: dict[str, Any], unsafe_load: bool, *, keras2: bool) -> Any:
    """The model of a configuration put into today's terms, with the weights of the file."""
    import keras

    if keras2:
        objects = {**objects, "keras2_hard_sigmoid": lambda x: keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)}
    _provide_lambda_names(unsafe_load)
    modern = _modern(_without_slashes(config), keras2=keras2)
    model = keras.saving.deserialize_keras_object(modern, custom_objects=objects, safe_mode=not unsafe_load)
    if kind == "h5":
        with _open_h5(path) as file:
            _put_legacy_weights(path, file["model_weights"], model)
        return model
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        member = next(m for m in _WEIGHTS_MEMBERS if m in archive.namelist())
        _put_stored_weights(path, Path(archive.extract(member, folder)), model)
    return model


def _without_slashes(config: Any) -> Any:
    """``config`` with every layer name in it that has a slash changed, as Keras 3 allows none."""
    names = {inner["name"] for _, node in _objects(config) if isinstance(inner := node.get("config"), dict)
             and isinstance(inner.get("name"), str)}
    renamed: dict[str, str] = {}
    for old in sorted(n for n in names if "/" in n):
        new = old.replace("/", "_")
        while new in names:
            new += "_"
        names.add(new)
        renamed[old] = new

    def rename(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: renamed.get(v, v) if k == "name" and isinstance(v, str) else rename(v) for k, v in node.items()}
        if not isinstance(node, list):
            return node
        if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):  # layer, node, tensor
            return [renamed.get(node[0], node[0]), *(rename(item) for item in node[1:])]
        return [rename(item) for item in node]

    return rename(config) if renamed else config


def _modern(node: Any, *, keras2: bool) -> Any:
    """A configuration of Keras 2, or of a Keras 3 ``.h5`` file, as Keras 3 writes it to ``.keras`` files."""
    import keras

    if isinstance(node, list):
        return [_modern(item, keras2=keras2) for item in node]
    if isinstance(node, str):
        wrapped = re.fullmatch(r"ListWrapper\((\[[\d, -]*\])\)", node)
        return json.loads(wrapped[1]) if wrapped else node
    if not isinstance(node, dict):
        return node
    name, inner = node.get("class_name"), node.get("config")
    if name == "__tuple__" or node.get("type") == "ndarray":
        return _modern(node.get("items", node.get("value")), keras2=keras2)
    if not isinstance(name, str) or not isinstance(inner, (dict, list)):
        return {key: _modern(value, keras2=keras2) for key, value in node.items()}
    if name in _POLICIES and isinstance(inner, dict):
        return inner.get("name")
    if name.startswith("__"):
        return node
    rest = {k: _modern(v, keras2=keras2) for k, v in node.items()
            if k not in ("config", "module", "build_config", "compile_config", "shared_object_id")}
    if name in ("Model", "Functional", "Sequential"):
        made = {"name": name.lower(), "layers": inner} if isinstance(inner, list) else dict(inner)
        build = node.get("build_config")
        if name == "Sequential":
            made["layers"] = _with_input(made["layers"])
            if isinstance(build, dict) and build.get("input_shape"):
                made.setdefault("build_input_shape", build["input_shape"])
        made["layers"] = [_modern(item, keras2=keras2) for item in made["layers"]]
        if keras2:
            _renumber_calls(made)
        rest |= {"module": "keras", "class_name": "Sequential" if name == "Sequential" else "Model"}
        return {**rest, "registered_name": None, "config": made}
    operation = None if keras2 or "dtype" in inner else _operation_module(name)
    if operation:
        return {**rest, "module": operation, "registered_name": name, "config": _modern(inner, keras2=keras2)}
    alias = _ALIASES.get(name, name)
    layer = getattr(keras.layers, alias, None)
    if isinstance(layer, type) and isinstance(inner, dict):
        made = _modern_layer(layer, name, {k: _modern(v, keras2=keras2) for k, v in inner.items()}, keras2=keras2)
        return {**rest, "module": "keras.layers", "class_name": alias, "registered_name": None, "config": made}
    kept = {"module": node["module"]} if node.get("module") else {}
    return {**rest, **kept, "config": _modern(inner, keras2=keras2)}


def _renumber_calls(model: dict[str, Any]) -> None:
    """Count the calls of models inside ``model`` as Keras 3 does: Keras 2 counts their making as the first."""
    nested = {layer.get("name"): layer["class_name"] for layer in model["layers"]
              if layer.get("class_name") in ("Model", "Sequential")}
    calls: dict[str, set[int]] = {}

    def change(node: Any, ends: bool) -> Any:
        if isinstance(node, dict):
            return {k: change(v, ends) for k, v in node.items()}
        if not isinstance(node, list):
            return node
        if len(node) >= 3 and isinstance(node[0], str) and node[0] in nested:  # layer, call, tensor
            calls.setdefault(node[0], set()).add(node[1])
            # For what a Functional model ends in, Keras 3 still counts from one.
            shift = min(calls[node[0]]) - (ends and nested[node[0]] == "Model")
            return [node[0], node[1] - shift, *(change(item, ends) for item in node[2:])]
        return [change(item, ends) for item in node]

    ends = ("input_layers", "output_layers")
    for _ in range(2):  # once to see every call, once to number them
        nodes = [change(layer.get("inbound_nodes"), False) for layer in model["layers"]]
        made = {key: change(model[key], True) for key in ends if key in model}
    for layer, node in zip(model["layers"], nodes):
        if node is not None:
            layer["inbound_nodes"] = node
    for key, value in made.items():
        # Keras 2 lists a single input or output too, which Keras 3 takes for a model that takes lists.
        model[key] = value[0] if isinstance(value, list) and len(value) == 1 else value


def _with_input(layers: Any) -> Any:
    """A Sequential model's layers with the InputLayer that old files leave out."""
    first = layers[0].get("config") if layers and layers[0].get("class_name") != "InputLayer" else None
    if not isinstance(first, dict) or not first.get("batch_input_shape"):
        return layers
    name, dtype = f"{first.get('name', 'layer')}_input", first.get("dtype")
    config = {"batch_input_shape": first["batch_input_shape"], "name": name,
              "dtype": dtype if isinstance(dtype, str) and "mixed" not in dtype else "float32"}
    return [{"class_name": "InputLayer", "config": config}, *layers]


def _modern_layer(layer: Any, name: str, config: dict[str, Any], *, keras2: bool) -> dict[str, Any]:
    """A Keras layer's own configuration. What only training needs is dropped: it can be code, or of an old form."""
    config = {k: v for k, v in config.items() if not k.endswith(("_initializer", "_regularizer", "_constraint"))}
    if name == "InputLayer" and "batch_input_shape" in config:
        config["batch_shape"] = config.pop("batch_input_shape")
    if name == "LeakyReLU" and "alpha" in config:
        config["negative_slope"] = config.pop("alpha")
    if name == "ThresholdedReLU":
        config["threshold"] = config.pop("theta", 1.0)
    if name in ("RandomHeight", "RandomWidth"):
        config = {k: v for k, v in config.items() if k in ("name", "trainable", "dtype")}
    axis = config.get("axis")
    if isinstance(axis, list) and len(axis) == 1:
        config["axis"] = axis[0]
    if name == "Lambda":
        for key in ("function", "output_shape"):
            value = config.get(key)
            if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
                code = dict(zip(("code", "defaults", "closure"), value))
                config[key] = {"class_name": "__lambda__", "config": code}
    if keras2:
        # Keras 3's hard_sigmoid is another function under the same name.
        for key in ("activation", "recurrent_activation"):
            if config.get(key) == "hard_sigmoid":
                config[key] = {"module": "builtins", "class_name": "function", "config": "keras2_hard_sigmoid"}
    known: set[str] = set()
    for cls in layer.__mro__:
        parameters = inspect.signature(cls.__init__).parameters
        known |= set(parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    # An unknown argument that is set stays, so that Keras refuses what it would get wrong.
    return {k: v for k, v in config.items()
            if k in known or not (v in (None, False) or k in _NO_EFFECT or (k == "groups" and v == 1))}


def _operation_module(name: str) -> str | None:
    """The module of Keras' operation class ``name``, as Keras names it in ``.keras`` files."""
    for part in ("numpy", "nn", "core", "math", "image", "linalg"):
        with suppress(ImportError):
            module = importlib.import_module(f"keras.src.ops.{part}")
            if isinstance(vars(module).get(name), type):
                return module.__name__
    return None


# --- weights ---------------------------------------------------------------------------------------------------


def load_weights(model: Any, path: Path, *, unsafe_load: bool = False) -> None:
    """Put the weights of a weights file, or of a model file of the same architecture, into a built model.

    Raises:
        InputError: the file cannot be read, or does not fit.
    """
    path = Path(path)
    if not model.weights:
        raise InputError(f"model '{model.name}' has no weights that {path.name} could replace (those of a SavedModel "
                         "are fixed); leave it out")
    try:
        _put_weights(model, path, unsafe_load)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}: its weights cannot be read: {one_line(error)}; save it again") from error


def _put_weights(model: Any, path: Path, unsafe_load: bool) -> None:
    import keras

    if _kind(path) == "h5":
        with _open_h5(path) as file:
            if "layer_names" in file.attrs or "layer_names0" in file.attrs:
                _put_legacy_weights(path, file, model)
                return
            whole = "model_config" in file.attrs
            if not whole and not {"layers", "_layer_checkpoint_dependencies", "vars"} & set(file):
                raise InputError(f"{path.name} holds no Keras weights; give a .weights.h5, .h5 or .keras file")
            current = file.filename.endswith(".weights.h5") and "_layer_checkpoint_dependencies" not in file
        if not whole:
            with tempfile.TemporaryDirectory() as folder:
                copied = path if current else Path(shutil.copy(path, Path(folder, "model.weights.h5")))
                _put_stored_weights(path, copied, model)
            return
    source = load_model(path, unsafe_load=unsafe_load)
    _assign(path, model, [(v.path, v) for v in model.weights],
            [(w.path, keras.ops.convert_to_numpy(w)) for w in source.weights])


def _put_stored_weights(path: Path, file: Path, model: Any) -> None:
    """Load weights as ``.keras`` and ``.weights.h5`` files hold them; ``file`` is ``path``'s, or a copy to change."""
    import h5py
    import keras

    if file != path:
        with h5py.File(file, "r+") as opened:
            _rename_groups(opened)
    with h5py.File(file) as opened:
        stored = [name for name, group in opened.get("layers", {}).items() if _holds_weights(group)]
    weighted = [layer for layer in model.layers if layer.weights]
    if len(stored) > len(weighted):
        raise InputError(f"{path.name} does not fit model '{model.name}': it holds weights of {len(stored)} layers, "
                         f"the model has {len(weighted)} with weights; give the file of this architecture")
    # What random layers remember plays no part in inference, and Keras 2 did not store it.
    seeds = [v for layer in model._flatten_layers() for v in vars(layer).values()
             if isinstance(v, keras.random.SeedGenerator)]
    try:
        model.load_weights(str(file), objects_to_skip=seeds)
    except Exception as error:
        text = str(error)
        shapes = re.search(r"variable\.shape=(\([^)]*\)).*?value\.shape=(\([^)]*\)).*?path=([^\s,>]+)", text, re.S)
        lacks = re.search(r"Layer '([^']+)' expected (\d+) variables?, but received (\d+)", text)
        reason = (f"{shapes[3]} is {shapes[1]} in the model and {shapes[2]} in the file" if shapes else
                  f"layer '{lacks[1]}' has {lacks[2]} weights in the model and {lacks[3]} in the file" if lacks
                  else one_line(error))
        raise InputError(f"{path.name} does not fit model '{model.name}': {reason}; give the file of this "
                         "architecture") from error


def _rename_groups(group: Any) -> None:
    """Keras 2.12 to 2.15 call the layers of a model by an internal name."""
    if "_layer_checkpoint_dependencies" in group and "layers" not in group:
        group.move("_layer_checkpoint_dependencies", "layers")
    for child in group.get("layers", {}).values():
        _rename_groups(child)


def _holds_weights(group: Any) -> bool:
    found: list[str] = []
    group.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    return any("seed_generator" not in name for name in found)


def _put_legacy_weights(path: Path, group: Any, model: Any) -> None:
    """Load weights as ``.h5`` files hold them, layer by layer: by name where all names agree, else in order."""
    stored: dict[str, list[tuple[str, Any]]] = {}
    for name in [*_names(group, "layer_names"), "top_level_model_weights"]:
        try:
            datasets = [(weight, group[name][weight]) for weight in _names(group[name], "weight_names")]
        except KeyError as error:
            if name == "top_level_model_weights":
                continue
            raise InputError(f"{path.name} is damaged: the weights of layer '{name}' are missing; save it "
                             "again") from error
        if any(d.external or d.is_virtual or d.file.filename != group.file.filename for _, d in datasets):
            raise InputError(f"{path.name}: the weights of layer '{name}' lie in another file; save it again")
        if datasets:
            stored[name] = datasets
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    by_name = {name.replace("/", "_"): datasets for name, datasets in stored.items()}
    pairs = ([(layer, by_name[name]) for name, layer in layers.items()] if set(by_name) == set(layers)
             else list(zip(layers.values(), stored.values())))
    expected: list[tuple[str, Any]] = []
    found: list[tuple[str, Any]] = []
    for layer, datasets in pairs:
        variables = _in_file_order(layer, datasets)
        expected += [(v.path, v) for v in variables]
        found += datasets
        if len(variables) != len(datasets):
            break
    else:
        expected += [(v.path, v) for layer in list(layers.values())[len(pairs):] for v in layer.weights]
        found += [entry for datasets in list(stored.values())[len(pairs):] for entry in datasets]
    _assign(path, model, expected, found)


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names, which HDF5's limit on attributes may have split into several."""
    keys = [attribute] if attribute in group.attrs else [
        f"{attribute}{i}" for i in range(len(group.attrs)) if f"{attribute}{i}" in group.attrs]
    if not keys and attribute == "weight_names":
        raise KeyError(attribute)
    return [n.decode() if isinstance(n, bytes) else str(n) for key in keys for n in group.attrs[key]]


def _in_file_order(layer: Any, datasets: Sequence[tuple[str, Any]]) -> list[Any]:
    """``layer``'s variables in the order in which the file has them.

    It depends on which layers inside a nested model were trainable when it was saved.
    """
    ends = ["/".join(name.split(":")[0].split("/")[-2:]) for name, _ in datasets]
    named = {"/".join(v.path.split("/")[-2:]): v for v in layer.weights}
    # Keras 3 has another name for a DepthwiseConv2D's kernel.
    ends = [end if end in named else end.replace("/depthwise_kernel", "/kernel") for end in ends]
    if len(named) == len(layer.weights) and len(set(ends)) == len(ends) and set(ends) == set(named):
        return [named[end] for end in ends]
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _assign(path: Path, model: Any, expected: Sequence[tuple[str, Any]], found: Sequence[tuple[str, Any]]) -> None:
    """Set each variable to the array found for it, once all fit. Raises InputError naming the first that does not."""
    for (name, variable), (stored, array) in zip(expected, found):
        if tuple(variable.shape) != tuple(array.shape):
            raise InputError(f"{path.name} does not fit model '{model.name}': {name} is {tuple(variable.shape)} in the "
                             f"model, and {stored} in the file is {tuple(array.shape)}; give the file of this "
                             "architecture")
    if len(expected) != len(found):
        longer, where = (expected, "model") if len(expected) > len(found) else (found, "file")
        name, extra = longer[min(len(expected), len(found))]
        raise InputError(f"{path.name} does not fit model '{model.name}': {name} {tuple(extra.shape)} is in the "
                         f"{where} only; give the file of this architecture")
    for (_, variable), (_, array) in zip(expected, found):
        variable.assign(array[()])
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state") and layer.weights:
            layer.finalize_state()  # Normalization derives what it computes with from its weights


# --- SavedModel ------------------------------------------------------------------------------------------------


def _load_savedmodel(path: Path, unsafe_load: bool) -> Any:
    """A functional model around the serving signature of a SavedModel folder, whose weights are fixed."""
    import keras
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    try:
        stored.ParseFromString((path / "saved_model.pb").read_bytes())
        graphs = [graph.graph_def for graph in stored.meta_graphs]
        ops = {node.op for graph in graphs for nodes in
               (graph.node, *(function.node_def for function in graph.library.function)) for node in nodes}
        unsafe = sorted(ops & set(_FILE_OPS))
        if unsafe and not unsafe_load:
            raise InputError(f"{path.name} is a SavedModel with the operation {unsafe[0]}, which reaches outside the "
                             "model; give --unsafe-load if you trust it")
        loaded = tf.saved_model.load(str(path))
        signatures = dict(loaded.signatures)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the SavedModel {path.name} cannot be loaded ({one_line(error)}); export it again by "
                         "model.export(FOLDER)") from error
    name = next((n for n in ("serving_default", "serve", *signatures) if n in signatures), None)
    if name is None:
        raise InputError(f"the SavedModel {path.name} has no signature, so its inputs are unknown; export it again by "
                         "model.export(FOLDER)")
    signature = signatures[name]
    specs = sorted(signature.structured_input_signature[1].items(), key=lambda item: _natural(item[0]))
    unknown = next((key for key, spec in specs if spec.shape.rank is None), None)
    if unknown is not None or not specs or not isinstance(signature.structured_outputs, dict):
        what = f"leaves the shape of its input '{unknown}' open" if unknown else "has no named inputs and outputs"
        raise InputError(f"the SavedModel {path.name} {what} in signature '{name}'; export it again by "
                         "model.export(FOLDER)")
    outputs = sorted(signature.structured_outputs, key=_natural)

    def call(tensors: Any) -> Any:
        results = signature(**{key: tensor for (key, _), tensor in zip(specs, tensors)})
        return results[outputs[0]] if len(outputs) == 1 else [results[key] for key in outputs]

    call.keep = loaded  # type: ignore[attr-defined]  # the signature alone does not keep its variables alive
    try:
        inputs = [keras.Input(batch_shape=tuple(spec.shape), dtype=spec.dtype.name, name=key.replace("/", "_"))
                  for key, spec in specs]
        layer = keras.layers.Lambda(call, name="saved_model")
        ends = layer(inputs)
        if len(outputs) > 1:
            taken = {tensor.name for tensor in inputs}
            names = [key.replace("/", "_") + ("_output" if key.replace("/", "_") in taken else "") for key in outputs]
            ends = [keras.layers.Identity(name=key)(end) for key, end in zip(names, ends)]
        title = re.sub(r"[^A-Za-z0-9_.-]", "_", path.resolve().name)
        return keras.Model(inputs[0] if len(inputs) == 1 else inputs, ends, name=title)
    except Exception as error:
        raise InputError(f"the SavedModel {path.name} cannot be called: {one_line(error)}; export it again by "
                         "model.export(FOLDER)") from error


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts ``output_10`` after ``output_9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


# --- what is known of a file -----------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """The SHA-256 of a file; of a folder, over the relative names and contents of its files in order."""
    path, digest = Path(path), hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
            digest.update(str(file.stat().st_size).encode() + b"\0")
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def saved_training_steps(path: Path) -> int | None:
    """How many optimizer steps a model or weights file records; None where it does not say."""
    import h5py

    path = Path(path)
    with suppress(Exception):
        if path.is_dir():
            import tensorflow as tf

            reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
            keys = [k for k in reader.get_variable_to_shape_map()
                    if re.search(r"optimizer.*/(_?iterations?|iter|_variables/0)/\.ATTRIBUTES", k)]
            return int(reader.get_tensor(min(keys, key=len)))
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                member = next(m for m in _WEIGHTS_MEMBERS if m in archive.namelist())
                with archive.open(member) as stream, h5py.File(stream, "r") as file:
                    return _steps(file)
        with h5py.File(path, "r") as file:
            return _steps(file)
    return None


def _steps(file: Any) -> int | None:
    if "optimizer_weights" in file:
        group = file["optimizer_weights"]
        for name in _names(group, "weight_names"):
            if re.fullmatch(r"iter(ations?)?(:0)?", name.split("/")[-1]):
                return int(group[name][()])
    for place in ("optimizer", "optimizer/inner_optimizer"):
        if f"{place}/vars/0" in file and file[f"{place}/vars/0"].shape == ():
            return int(file[f"{place}/vars/0"][()])
    return None


def import_custom_objects(path: Path) -> dict[str, Any]:
    """Import the user's Python file, so that what it registers is known, and return its layers and functions.

    Raises:
        InputError: the file does not exist, or what it raised.
    """
    import keras

    path = Path(path)
    if not path.is_file():
        raise InputError(f"the custom objects' file {path} does not exist; give a Python file")
    name = f"_cnnexport_custom_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    loader = importlib.machinery.SourceFileLoader(name, str(path.resolve()))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))  # so that it finds its neighbours, as when it is run
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"{path.name} cannot be imported: {type(error).__name__}: {one_line(error)}; it must run by "
                         f"itself, as `python {path.name}`") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return {key: value for key, value in vars(module).items() if getattr(value, "__module__", None) == name
            and (inspect.isfunction(value) or (isinstance(value, type) and issubclass(value, keras.layers.Layer)))}
