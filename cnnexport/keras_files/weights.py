"""Weights as Keras' files hold them, put into a built model."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnnexport.errors import InputError
from cnnexport.keras_files.internals import all_layers
from cnnexport.text import one_line

_OF_TRAINING = re.compile(r"optimizer|metric|loss|tracker|seed_generator|random_generator")
"""Parts of a file's paths under which lies what plays no part in inference."""
_BLOCK = 1 << 24
_Value = tuple[str, tuple[int, ...], str]


def put_stored_weights(path: Path, file: Path, model: Any) -> None:
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
    seeds = [v for layer in all_layers(model) for v in vars(layer).values()
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
    with h5py.File(file) as opened:
        check_values(path, opened, model)


def check_values(path: Path, file: Any, model: Any) -> None:
    """Refuse a model just loaded from ``file`` (as ``.keras`` files hold it) that would be saved as other values.

    Keras only warns of some layers that it has no values for, and says nothing of values that no layer takes. Where a
    value lies in a file differs between versions, so it is looked for by what it is.
    """
    wanted = [(name, value) for layer in all_layers(model) for name, value in _saved_by(layer)]
    kinds = {_kind(value) for _, value in wanted}
    stored: Counter[_Value] = Counter()
    left: dict[str, set[_Value]] = {}
    for name, dataset in _datasets(file):
        keys = {_value(dataset, kind) for kind in kinds}
        stored.update(keys)
        if dataset.size > 1 and not _OF_TRAINING.search(name):
            left[name] = keys
    taken = {_value(variable, _kind(variable)) for variable in model.non_trainable_variables}
    for name, value in wanted:
        key = _value(value, _kind(value))
        if not stored[key]:
            raise InputError(f"{path.name} has no values for {name} of model '{model.name}', which would stay as it is "
                             "initialized; save the model again with the Keras that made it, or by "
                             "model.export(FOLDER), and give that folder")
        stored[key] -= 1
        taken.add(key)
    extra = next((name for name, keys in left.items() if not keys & taken), None)
    if extra is not None:
        raise InputError(f"{path.name} holds values at {extra} that no layer of model '{model.name}' takes; give the "
                         "file of this architecture, or save it again with the Keras that made it")


def _saved_by(layer: Any) -> list[tuple[str, Any]]:
    """The values that a layer itself would be saved as, with names for a reader."""
    store: dict[str, Any] = {}
    if getattr(layer, "built", True):
        layer.save_own_variables(store)
    return [(getattr(value, "path", f"value {key} of layer '{layer.name}'"), value) for key, value in store.items()
            if hasattr(value, "shape") and math.prod(value.shape)]


def _datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """The arrays in an HDF5 file with their paths, one by one."""
    found: list[tuple[str, Any]] = []
    file.visititems(lambda name, item: found.append((name, item)) if hasattr(item, "shape") and item.size else None)
    return iter(found)


def _kind(value: Any) -> str:
    import keras

    return str(keras.backend.standardize_dtype(value.dtype))


def _value(value: Any, kind: str) -> _Value:
    """What an array or variable is, as numbers of a ``kind``: its shape and a hash, read block by block."""
    import keras
    import ml_dtypes
    import numpy as np

    array = value if hasattr(value, "attrs") else keras.ops.convert_to_numpy(value)
    # HDF5 has no such numbers: Keras notes what the bytes are.
    own = ml_dtypes.bfloat16 if dict(getattr(array, "attrs", {})).get("dtype") == "bfloat16" else array.dtype
    dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
    digest = hashlib.sha256()
    rows = max(1, _BLOCK // max(1, math.prod(array.shape[1:])))
    for start in range(0, array.shape[0] if array.shape else 1, rows):
        block = np.atleast_1d(array[start:start + rows] if array.shape else array[()])
        digest.update(np.ascontiguousarray(block.view(own).astype(dtype, copy=False)).view(np.uint8).data)
    return kind, tuple(array.shape), digest.hexdigest()


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


def put_legacy_weights(path: Path, group: Any, model: Any) -> None:
    """Load weights as ``.h5`` files hold them, layer by layer: by name where all names agree, else in order."""
    stored: dict[str, list[tuple[str, Any]]] = {}
    for name in [*names_in(group, "layer_names"), "top_level_model_weights"]:
        try:
            datasets = [(weight, group[name][weight]) for weight in names_in(group[name], "weight_names")]
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
    assign(path, model, expected, found)


def names_in(group: Any, attribute: str) -> list[str]:
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


def assign(path: Path, model: Any, expected: Sequence[tuple[str, Any]], found: Sequence[tuple[str, Any]]) -> None:
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
    for layer in all_layers(model):
        if hasattr(layer, "finalize_state") and layer.weights:
            layer.finalize_state()  # Normalization derives what it computes with from its weights
