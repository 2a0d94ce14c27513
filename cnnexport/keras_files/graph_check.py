"""Whether Keras made of a configuration the network that it describes.

Keras numbers a layer's calls as it makes them. A layer that is in several models of one file is one object again, its
calls are then numbered otherwise than where the file was saved, and the graph is wired to the wrong ones: calls go
missing and nothing is said. So the graph is followed here from its outputs, in the file and as loaded, side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnexport.errors import InputError
from cnnexport.keras_files import internals
from cnnexport.keras_files.safety import objects_of

ADVICE = ("where it was made, save it by model.export(FOLDER) and give that folder, or use no layer both inside "
          "another layer or model and outside it")


@dataclass(frozen=True)
class _Tensor:
    """A tensor as a configuration names it: the output ``index`` of a ``call`` of a ``layer``."""

    layer: str
    call: int
    index: int


def check(path: Path, config: Any, model: Any) -> None:
    """Refuse a ``model`` that Keras loaded from ``path`` where its graph is not that of the stored ``config``."""
    found = _difference(config, model)
    if found is not None:
        raise InputError(f"{path.name}: Keras loads another network than the file stores: {found}; {ADVICE}")


def in_several(config: Any) -> list[str]:
    """The names of the layers that a configuration has in more than one place."""
    layers = [(name, node) for _, node in objects_of(config) if {"build_config", "inbound_nodes"} & set(node)
              and (name := _name(node)) is not None]
    # Wrappers leave out which object of the file it is; then the name must do.
    objects, names = Counter(node.get("shared_object_id") for _, node in layers), Counter(name for name, _ in layers)
    same = [name for name, node in layers if "shared_object_id" in node and objects[node["shared_object_id"]] > 1]
    return same or [name for name in names if names[name] > 1]


def _difference(stored: Any, layer: Any) -> str | None:
    """In what ``layer`` is not the serialized object ``stored``, as far as graphs go; None where it is the same."""
    import keras

    config = stored.get("config") if isinstance(stored, dict) else None
    if not isinstance(config, dict):
        return None
    parts = config.get("layers")
    if isinstance(parts, list) and {"input_layers", "output_layers"} <= set(config):
        # A class of the user's own may make something else of it.
        return _graph_difference(config, layer) if internals.graph_of(layer) is layer else None
    if isinstance(parts, list) and isinstance(layer, keras.Sequential):
        parts = [part for part in parts if isinstance(part, dict) and part.get("class_name") != "InputLayer"]
        if len(parts) != len(layer.layers):
            return f"'{layer.name}' has {len(parts)} layers stored, {len(layer.layers)} loaded"
        return _first(_difference(part, made) for part, made in zip(parts, layer.layers))
    children = {child.name: child for child in internals.children(layer) if hasattr(child, "name")}
    return _first(_difference(part, children[name]) for part in _held(config) if (name := _name(part)) in children)


def _first(differences: Iterator[str | None]) -> str | None:
    return next((difference for difference in differences if difference is not None), None)


def _held(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The serialized objects that a wrapper or a layer of several holds."""
    for value in config.values():
        yield from (part for part in (value if isinstance(value, list) else [value]) if isinstance(part, dict))


def _name(stored: dict[str, Any]) -> Any:
    """The name of a serialized layer."""
    inner = stored.get("config")
    name = stored.get("name", inner.get("name") if isinstance(inner, dict) else None)
    return name if isinstance(name, str) else None


# --- functional models -----------------------------------------------------------------------------------------


def _graph_difference(config: dict[str, Any], model: Any) -> str | None:
    """In what a functional ``model`` and the nested ones in it are not what ``config`` says."""
    parts = {_name(part): part for part in config["layers"] if isinstance(part, dict)}
    calls = {name: part.get("inbound_nodes") or [] for name, part in parts.items()}
    pairs = _Pairs(model, parts)
    waiting: list[tuple[_Tensor, Any]] = []
    for kind, made in (("input_layers", model.inputs), ("output_layers", model.outputs)):
        told = _ends(config[kind])
        if len(told) != len(made):
            return f"'{model.name}' has {len(told)} {kind[:-7]}s stored, {len(made)} loaded"
        waiting += [(_as_called(tensor, end), end) for tensor, end in zip(told, made)]
    while waiting:
        tensor, made_tensor = waiting.pop()
        its = calls.get(tensor.layer, [])
        call = tensor.call + len(its) if tensor.call < 0 else tensor.call  # Keras counts so where it subtracts one
        node = pairs.node(_Tensor(tensor.layer, call, tensor.index), made_tensor)
        if node is None or (its and call >= len(its)):
            return _told(pairs, model, calls, tensor, made_tensor)
        if (tensor.layer, call) in pairs.followed:
            continue
        pairs.followed.add((tensor.layer, call))
        told = _inputs(its[call], set(calls)) if its else []
        made = _made_inputs(node, its[call] if its else None)
        if len(told) != len(made):
            return _told(pairs, model, calls, tensor, made_tensor)
        waiting += zip(told, made)
    return _first(_difference(parts[name], operation) for name, operation in pairs.operations.items())


class _Pairs:
    """Which operation and call of a loaded model stand for which of the file: one for one.

    By their names only where the file gives one that is kept: layers of a user's own may not store theirs.
    """

    def __init__(self, model: Any, parts: dict[Any, dict[str, Any]]) -> None:
        nodes = internals.nodes(model)
        named = {node.operation.name: node.operation for node in nodes}
        self._own = {name: named.get(config.get("name")) if isinstance(config := part.get("config"), dict) else None
                     for name, part in parts.items()}
        self._made = {id(tensor): (node, index) for node in nodes for index, tensor in enumerate(node.outputs)}
        self.operations: dict[str, Any] = {}
        self.followed: set[tuple[str, int]] = set()
        self._names: dict[int, str] = {}
        self._nodes: dict[tuple[str, int], Any] = {}
        self._calls: dict[int, tuple[str, int]] = {}

    def node(self, tensor: _Tensor, made: Any) -> Any:
        """The call that made the tensor ``made``; None where it cannot be that of ``tensor``."""
        node, index = self._made.get(id(made), (None, 0))
        if node is None or index != tensor.index:
            return None
        operation, call = node.operation, (tensor.layer, tensor.call)
        same = (self._own.get(tensor.layer) in (None, operation)
                and self.operations.setdefault(tensor.layer, operation) is operation
                and self._names.setdefault(id(operation), tensor.layer) == tensor.layer
                and self._nodes.setdefault(call, node) is node and self._calls.setdefault(id(node), call) == call)
        return node if same else None


def _as_called(tensor: _Tensor, made: Any) -> _Tensor:
    """An end of a model as its layers name it: there Keras counts the making of a nested model as its first call."""
    source = internals.made_by(made)
    nested = source is not None and internals.graph_of(source[0]) is source[0]
    return _Tensor(tensor.layer, tensor.call - nested, tensor.index)


def _ends(told: Any) -> list[_Tensor]:
    """The tensors in ``input_layers`` or ``output_layers``, in the order in which Keras lists a model's."""
    import keras

    def read(told: Any) -> Any:
        if isinstance(told, dict):
            return {key: read(value) for key, value in told.items()}
        if isinstance(told, (list, tuple)):
            return _tensor(told) or [read(item) for item in told]
        return told

    return [item for item in keras.tree.flatten(read(told)) if isinstance(item, _Tensor)]


def _tensor(told: Any) -> _Tensor | None:
    if (isinstance(told, (list, tuple)) and len(told) >= 3 and isinstance(told[0], str)
            and isinstance(told[1], int) and isinstance(told[2], int)):
        return _Tensor(told[0], told[1], told[2])
    return None


def _inputs(call: Any, names: set[Any]) -> list[_Tensor]:
    """The tensors that a stored call is given: positional ones, then those by name."""
    if isinstance(call, dict):
        return [*_histories(call.get("args")), *_histories(call.get("kwargs"))]
    # Keras 2: (layer, call, tensor, {argument: value}) for each tensor, which may name more of them.
    told = [tensor for item in call if (tensor := _tensor(item))]
    return [*told, *(tensor for item in call if isinstance(item, list) and len(item) > 3
                     for tensor in _named(item[3], names))]


def _histories(value: Any) -> Iterator[_Tensor]:
    """The tensors in the arguments of a call, in the order in which Keras flattens them."""
    if isinstance(value, list):
        for item in value:
            yield from _histories(item)
    elif isinstance(value, dict):
        inner = value.get("config")
        history = inner.get("keras_history") if isinstance(inner, dict) else None
        if value.get("class_name") == "__keras_tensor__" and (tensor := _tensor(history)):
            yield tensor
            return
        for key in sorted(value):
            yield from _histories(value[key])


def _named(value: Any, names: set[Any]) -> Iterator[_Tensor]:
    """The tensors in Keras 2's named arguments."""
    tensor = _tensor(value)
    if tensor is not None and tensor.layer in names:
        yield tensor
    elif isinstance(value, (list, dict)):
        for item in value if isinstance(value, list) else [value[key] for key in sorted(value)]:
            yield from _named(item, names)


def _made_inputs(node: Any, call: Any) -> list[Any]:
    """The tensors that a loaded call was given. Masks count where the file has them: Keras adds them by itself."""
    import keras

    if node.is_input:
        return []
    named = node.arguments.kwargs
    kwargs = call.get("kwargs") if isinstance(call, dict) else None
    told = {key for key, value in kwargs.items() if any(_histories(value))} if isinstance(kwargs, dict) else set()
    kept = {key: value for key, value in named.items() if key in told or not key.endswith("mask")}
    return [t for t in keras.tree.flatten([list(node.arguments.args), kept]) if isinstance(t, keras.KerasTensor)]


def _told(pairs: _Pairs, model: Any, calls: dict[Any, list[Any]], tensor: _Tensor, made: Any) -> str:
    """The difference in words: a layer that is called more or less often, or else one that is wired otherwise."""
    loaded = Counter(node.operation.name for node in internals.calls(model))
    for name, its in calls.items():
        count = loaded[pairs.operations[name].name if name in pairs.operations else name]
        if len(its) != count:
            return f"layer '{name}' in '{model.name}' has {_count(len(its))} stored, {count} loaded"
    source = internals.made_by(made)
    given = source[0].name if source is not None else "nothing"
    return (f"in '{model.name}' call {tensor.call + 1} of layer '{tensor.layer}' is stored where another of "
            f"'{given}' is loaded")


def _count(calls: int) -> str:
    return f"{calls} call" if calls == 1 else f"{calls} calls"
