"""Models of Keras 2, and Keras 3's own ``.h5`` files: their configurations put into today's terms."""

from __future__ import annotations

import copy
import inspect
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from cnnexport.keras_files import graph_check
from cnnexport.keras_files.archive import extract_weights, open_h5
from cnnexport.keras_files.internals import operation_module
from cnnexport.keras_files.safety import POLICIES, check_names, objects_of, provide_lambda_names
from cnnexport.keras_files.weights import put_legacy_weights, put_stored_weights

_ALIASES = {
    "BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization", "ThresholdedReLU": "ReLU",
    "RandomHeight": "Identity", "RandomWidth": "Identity",
}
_NO_EFFECT = frozenset((
    "trainable", "batch_input_shape", "input_shape", "input_dim", "input_length", "input_dtype", "rng_type",
    "implementation", "fused", "renorm", "renorm_clipping", "renorm_momentum", "virtual_batch_size", "adjustment",
    "synchronized", "function_type", "module", "output_shape_type", "output_shape_module"))


def rebuild(path: Path, kind: str, config: Any, objects: dict[str, Any], unsafe_load: bool, *, keras2: bool) -> Any:
    """The model of a configuration put into today's terms, with the weights of the file."""
    import keras

    if keras2:
        objects = {**objects, "keras2_hard_sigmoid": lambda x: keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)}
    provide_lambda_names(unsafe_load)
    modern = _modern(_without_slashes(config), keras2=keras2)
    if not unsafe_load:
        check_names(path, modern, objects)
    given = copy.deepcopy(modern)  # which Keras takes apart
    model = keras.saving.deserialize_keras_object(given, custom_objects=objects, safe_mode=not unsafe_load)
    graph_check.check(path, modern, model)
    if kind == "h5":
        with open_h5(path) as file:
            put_legacy_weights(path, file["model_weights"], model)
        return model
    with tempfile.TemporaryDirectory() as folder:
        put_stored_weights(path, extract_weights(path, Path(folder)), model)
    return model


def _without_slashes(config: Any) -> Any:
    """``config`` with every layer name in it that has a slash changed, as Keras 3 allows none."""
    names = {inner["name"] for _, node in objects_of(config) if isinstance(inner := node.get("config"), dict)
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
    if name in POLICIES and isinstance(inner, dict):
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
    # Some operations are called as layers are, which all have a dtype.
    is_layer = keras2 or ("dtype" in inner and hasattr(keras.layers, name))
    operation = None if is_layer else operation_module(name)
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
