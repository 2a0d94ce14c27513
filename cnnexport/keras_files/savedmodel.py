"""SavedModel folders: looked through before TensorFlow loads them, then called by their signature."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnexport import files
from cnnexport.errors import InputError
from cnnexport.keras_files import graphs, internals
from cnnexport.text import one_line

_MOST_ENTRIES, _MOST_DEPTH = 10_000, 16
_MOST_GRAPH = 2 << 30
"""What a protocol buffer can be."""
_ROOM = 64 << 20


def load(path: Path, unsafe_load: bool) -> Any:
    """A functional model around the serving signature of a SavedModel folder, whose weights are fixed."""
    import keras
    import tensorflow as tf

    try:
        _check(path, unsafe_load)
        internals.revive_optimizers()
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

    inlined = _inlined(signature)

    def call(tensors: Any) -> Any:
        given = {key: tensor for (key, _), tensor in zip(specs, tensors)}
        results = signature(**given) if inlined is None or tf.executing_eagerly() else inlined(given)
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


def _inlined(signature: Any) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
    """``signature`` as part of the graph that it is called in; None where it has no loops, or can only be called.

    Recurrent layers of Keras 2 are calls of functions, between which the constants that their loops need are not seen.
    """
    import tensorflow as tf

    stored = signature.graph.as_graph_def()
    nodes = [*stored.node, *(node for function in stored.library.function for node in function.node_def)]
    if not {node.op for node in nodes} & {"While", "StatelessWhile"}:
        return None
    try:
        graph, inputs, outputs = internals.simplified(signature)
    except Exception:  # a table among what it captured, or too large for one protocol buffer
        return None
    named = {tensor.op.get_attr("_user_specified_name").decode(): name
             for tensor, name in zip(signature.inputs, inputs)}
    specs = signature.structured_input_signature[1]
    if set(named) != {spec.name for spec in specs.values()}:
        return None
    by_input = {key: named[spec.name] for key, spec in specs.items()}
    by_output = dict(zip(sorted(signature.structured_outputs), outputs, strict=True))  # in which order it flattens them

    def call(given: dict[str, Any]) -> dict[str, Any]:
        feeds = {by_input[key]: tensor for key, tensor in given.items()}
        made = tf.graph_util.import_graph_def(graph, feeds, list(by_output.values()), name="served")
        return dict(zip(by_output, made))

    return call


def files_of(path: Path) -> list[Path]:
    """The files in a folder, in order. Raises InputError for anything in it that is neither a file nor a folder."""
    found: list[Path] = []
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise InputError(f"{folder} cannot be read ({files.reason_of(error)}); make it readable") from error
        if len(found) + len(entries) > _MOST_ENTRIES or len(folder.relative_to(path).parts) > _MOST_DEPTH:
            raise InputError(f"{path} holds more files or deeper folders than any SavedModel; give its own folder")
        for entry in entries:
            if files.is_folder(entry):
                waiting.append(entry)
            else:
                found.append(files.regular(entry, "export the SavedModel again by model.export(FOLDER)"))
    return sorted(found)


def _check(path: Path, unsafe_load: bool) -> None:
    """Refuse a folder that would do anything but compute."""
    files_of(path)
    stored = internals.saved_model(files.read(path / "saved_model.pb", most=_MOST_GRAPH))
    if unsafe_load:
        return
    if files.exists(path / "saved_model.cpb"):
        # Versions of TensorFlow differ in which of the two they load.
        raise InputError(f"{path.name} holds a saved_model.cpb beside its saved_model.pb, and only one can be the "
                         "model; export it again by model.export(FOLDER)")
    graphs.check(path, stored)
    if files.exists(path / "variables" / "variables.index"):
        checkpoint(path)


def checkpoint(path: Path) -> Any:
    """TensorFlow's reader of a SavedModel's variables. Raises InputError where they claim more than the files hold."""
    import tensorflow as tf

    sizes = [file.stat().st_size for file in files_of(path / "variables")]
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    kinds = reader.get_variable_to_dtype_map()
    claimed = sum(math.prod(shape) * kinds[name].size for name, shape in reader.get_variable_to_shape_map().items()
                  if kinds[name] != tf.string)
    if claimed > _ROOM + sum(sizes):
        raise InputError(f"the variables of the SavedModel {path.name} claim {claimed >> 20} MiB, and its files hold "
                         f"{sum(sizes) >> 20} MiB; copy or export it again")
    return reader


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts ``output_10`` after ``output_9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
