"""What the configuration of a Keras model may name and run."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnnexport.errors import InputError
from cnnexport.keras_files import internals
from cnnexport.keras_files.objects_allowed import CLASSES, FUNCTIONS, OPERATIONS

REGISTER = ("register it with @keras.saving.register_keras_serializable() and give its file by --custom-objects "
            "FILE.py, or pass custom_objects={...} in Python")
POLICIES = ("DTypePolicy", "Policy", "PolicyV1")
_GRAPH_LAYERS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty")
_KERAS_ROOTS = ("keras", "tf_keras", "tensorflow", "keras_hub", "keras_cv", "keras_nlp")
# Plain values that Keras writes as objects.
_VALUES = ("__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__tuple__")
_FILE_ARGUMENTS = ("vocabulary", "idf_weights")


def objects_of(node: Any, layer: str = "the model", top: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every serialized object in a configuration, after ``layer 'name'`` for the layer that it is in or is."""
    if isinstance(node, list):
        for item in node:
            yield from objects_of(item, layer, False)
    elif isinstance(node, dict):
        if isinstance(node.get("class_name"), str):
            inner = node.get("config")
            own = inner.get("name") if isinstance(inner, dict) else None
            if isinstance(own, str) and node["class_name"] not in POLICIES:
                layer = f"layer '{own}'"
            yield layer, node
        for key, value in node.items():
            if not (top and key == "compile_config"):  # loading does not compile
                yield from objects_of(value, layer, False)


def check_code(path: Path, config: Any, objects: dict[str, Any], unsafe_load: bool, *, keras2: bool) -> None:
    """Refuse code in the file, or with ``unsafe_load`` add the classes it names to ``objects``.

    What Keras 2 named is judged by ``check_names``, once it is in today's terms.
    """
    for layer, node in objects_of(config):
        name, module = node["class_name"], node.get("module")
        if name in ("Lambda", "__lambda__") and not unsafe_load:
            raise InputError(f"{path.name}: {layer} is a Lambda, which runs code stored in the file; give "
                             "--unsafe-load if you trust it, or replace it by a layer")
        if name == "TFSMLayer" and not unsafe_load:
            raise InputError(f"{path.name}: {layer} is a TFSMLayer, which runs the SavedModel that the file "
                             "names; give --unsafe-load if you trust it, or convert that SavedModel folder itself")
        if _is_given(node, objects):
            continue
        if name in _GRAPH_LAYERS:
            raise InputError(f"{path.name}: {layer} cannot be loaded: it is a TensorFlow operation "
                             f"({name}) of Keras 2, which Keras 3 does not have; where it was made, save it by "
                             "model.export(FOLDER) and give that folder")
        function = node.get("config") if name == "function" else None
        if not isinstance(module, str) or (module == "builtins" and function is not None):
            continue
        root = module.split(".")[0]
        # Of these Keras imports nothing, except Keras' own, which check_names judges.
        if root == "keras" or (root in _KERAS_ROOTS and (keras2 or unsafe_load)):
            continue
        shown = function if isinstance(function, str) else name
        code = _import_class(module, shown) if unsafe_load and root != "builtins" else None
        if code is None:
            more = "" if unsafe_load or root == "builtins" else (
                f"; --unsafe-load imports it from {module} if you trust the file")
            raise InputError(f"{path.name}: {layer} needs {shown}, custom code in {module}, which is not "
                             f"loaded; {REGISTER}{more}")
        objects.update({n: code for n in (name, node.get("registered_name"), function)
                        if isinstance(n, str) and n != "function"})
    if not unsafe_load and not keras2:
        check_names(path, config, objects)


def check_names(path: Path, config: Any, objects: dict[str, Any]) -> None:
    """Refuse a configuration in Keras 3's terms that names anything but what is known to compute alone.

    Follows Keras' own ``deserialize_keras_object``: what that would find by the names must be on the list.
    """
    import keras

    unqualified = internals.unqualified_names()
    for layer, node in objects_of(config):
        inner = node.get("config")
        if isinstance(inner, dict) and any(isinstance(inner.get(key), str) for key in _FILE_ARGUMENTS):
            raise InputError(f"{path.name}: {layer} reads a file that the model file names; give --unsafe-load if you "
                             "trust it, or save the vocabulary within the model")
        if "config" not in node or node["class_name"] in _VALUES:
            continue
        name, module = node["class_name"], node.get("module")
        given = _is_given(node, objects)
        if name == "function":
            if given or not isinstance(inner, str):
                continue
            known, name, what = _function_known(module, inner), inner, "function"
        else:
            # Older ways of Keras look a class up by this name alone, and among the tools beside the layers.
            if name in unqualified and name not in _names() and not _is_object(name, objects):
                known = False
            elif given:
                continue
            else:
                known = _class_known(module, name)
            what = "class"
        if known:
            continue
        if known is None:
            raise InputError(f"{path.name}: {layer} needs the {what} {name}, which Keras {keras.__version__} does not "
                             f"know; {REGISTER}")
        where = f"{module}.{name}" if isinstance(module, str) else name
        raise InputError(f"{path.name}: {layer} names {where}, which is not among what a model file may name; give "
                         "--unsafe-load if you trust it")


def _is_object(name: Any, objects: dict[str, Any]) -> bool:
    import keras

    return isinstance(name, str) and (name in objects or keras.saving.get_registered_object(name) is not None)


def _is_given(node: dict[str, Any], objects: dict[str, Any]) -> bool:
    """Whether Keras finds what a node names among what the user gave or registered, before it looks elsewhere."""
    if node["class_name"] == "function":
        return _is_object(node.get("config"), objects)
    return _is_object(node.get("registered_name", node["class_name"]), objects) or (
        node.get("registered_name") is None and _is_object(node["class_name"], objects))


def _class_known(module: Any, name: str) -> bool | None:
    """Whether a class is on the list; None where Keras has nothing of that name."""
    if not isinstance(module, str):
        return True if name in _names() or internals.operation_module(name) else None
    found = internals.symbol(f"{module}.{name}")
    if found is None and module.startswith("keras."):
        # Only modules that are loaded already: importing one runs it.
        found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    return None if found is None else id(found) in _allowed()


def _function_known(module: Any, name: str) -> bool | None:
    if not isinstance(module, str):
        return None
    if module == "builtins":
        found = [f for part in ("activations", "constraints", "initializers", "losses", "metrics", "optimizers",
                                "regularizers") if (f := internals.symbol(f"keras.{part}.{name}")) is not None]
    else:
        found = [f] if (f := internals.symbol(f"{module}.{name}")) is not None else []
    return all(id(f) in _allowed() for f in found) if found else None


@functools.cache
def _names() -> frozenset[str]:
    """The names of all classes on the list, and those that they have in Keras' source, which ``.h5`` files give."""
    found = {name for names in CLASSES.values() for name in names.split()}
    for module, names in CLASSES.items():
        holder = internals.members(module)
        found |= {holder[name].__name__ for name in names.split() if name in holder}
    return frozenset(found)


@functools.cache
def _allowed() -> frozenset[int]:
    """The identities of all classes and functions that a configuration may name."""
    import keras

    found: list[Any] = []
    for table in (CLASSES, FUNCTIONS):
        for module, names in table.items():
            found += map(internals.members(module).get, names.split())
    for module in OPERATIONS:
        found += [c for c in internals.members(module).values() if isinstance(c, type)
                  and issubclass(c, keras.Operation) and c.__module__ == module]
    for holder in (keras.ops, keras.ops.image):
        found += [f for f in vars(holder).values() if inspect.isfunction(f)]
    return frozenset(id(item) for item in found if item is not None)


def _import_class(module: str, name: str) -> Any:
    """The class or function ``name`` of ``module``, or None; only for a file that its user trusts."""
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception:
        return None
    return found if inspect.isfunction(found) or hasattr(found, "from_config") else None


def provide_lambda_names(unsafe_load: bool) -> None:
    """Give Python lambdas loaded from a file the module names that they mostly use.

    Keras stores a lambda's code without its globals, and runs it in those of the module that loads it.
    """
    if not unsafe_load:
        return
    import keras
    import numpy as np
    import tensorflow as tf

    internals.give_to_lambdas({"tf": tf, "np": np, "keras": keras, "K": keras.backend, "ops": keras.ops,
                               "layers": keras.layers, "tensorflow": tf, "numpy": np})
