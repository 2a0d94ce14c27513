"""A user's own Keras model or weights: files of Keras 3 and Keras 2, and SavedModel folders."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnexport.errors import InputError
from cnnexport.keras_files import archive, graph_check, keras2, kinds, savedmodel
from cnnexport.keras_files.safety import REGISTER, check_code, objects_of, provide_lambda_names
from cnnexport.keras_files.weights import assign, check_values, put_legacy_weights, put_stored_weights
from cnnexport.text import one_line


def load_model(path: Path, *, unsafe_load: bool = False, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The Keras 3 model in a .keras or .h5 file of Keras 2 or 3, or in a SavedModel folder, uncompiled.

    Code stored in the file (Lambda layers, classes outside Keras) runs only with ``unsafe_load``.

    Raises:
        InputError: the file cannot be read, is not such a model, or needs code that was not given.
    """
    path, objects = Path(path), dict(custom_objects or {})
    kind = kinds.kind(path)
    if kind == "savedmodel":
        return savedmodel.load(path, unsafe_load)
    config, version = archive.zip_config(path) if kind == "zip" else archive.h5_config(path)
    import keras

    from cnnexport.keras_files import own_layers as own_layers  # registers our own layers by importing them

    try:
        old = version.split(".")[0] in ("1", "2")
        check_code(path, config, objects, unsafe_load, keras2=old)
        if old:
            # Never by Keras 3 as it is: it reads some Keras 2 layers without a word as something else.
            return keras2.rebuild(path, kind, config, objects, unsafe_load, keras2=True)
        provide_lambda_names(unsafe_load)
        try:
            model = keras.models.load_model(path, objects, compile=False, safe_mode=not unsafe_load)
        except Exception:
            if kind == "zip":
                raise
            # Keras 3 writes operations (x * 2) to .h5 files without the module that they are to be found in.
            return keras2.rebuild(path, kind, config, objects, unsafe_load, keras2=False)
        graph_check.check(path, config, model)
        if kind == "zip":
            with archive.zip_weights(path) as file:
                check_values(path, file, model)
        return model
    except InputError:
        raise
    except Exception as error:
        raise _explained(path, config, version, error) from error


def _explained(path: Path, config: Any, version: str, error: Exception) -> InputError:
    """What Keras raised while loading, in one line that names the layer and what to do."""
    text = str(error)
    missing = re.search(r"(?:Could not locate (\w+)|Unknown ([\w ]+):) '([^']+)'", text)
    if missing:
        what, name = missing[1] or missing[2], missing[3]
        layer = next((layer for layer, node in objects_of(config) if name in (
            node["class_name"], node.get("registered_name"), node.get("config"))), "the model")
        return InputError(f"{path.name}: {layer} needs the {what} {name}, which "
                          f"Keras does not know; {REGISTER}")
    lacks = re.search(r"Layer '([^']+)' expected (\d+) variables?, but received (\d+)", text)
    if (lacks or "not connected" in text or "disconnected" in text) and (shared := graph_check.in_several(config)):
        return InputError(f"{path.name} cannot be loaded: layer '{shared[0]}' is used both inside another layer or "
                          f"model and outside it, which Keras does not put together again; {graph_check.ADVICE}")
    if lacks:
        return InputError(f"{path.name}: layer '{lacks[1]}' has {lacks[2]} weights and the file {lacks[3]} for it; "
                          "save it again by model.save(...keras), or by model.export(FOLDER) where it was made")
    reason = one_line(Exception(text.rsplit("Exception encountered: ", 1)[-1]))
    if not text.strip():
        reason = type(error).__name__
    if "bad marshal data" in text:
        return InputError(f"{path.name}: a Lambda layer's code was stored by another version of Python; replace it by "
                          "a layer, or load it with that version")
    return InputError(f"{path.name} (saved by Keras {version}) cannot be loaded: {reason}; save it again by "
                      "model.save(...keras) with Keras 3, or by model.export(FOLDER) where it was made")


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

    if kinds.kind(path) == "h5":
        with archive.open_h5(path) as file:
            if "layer_names" in file.attrs or "layer_names0" in file.attrs:
                put_legacy_weights(path, file, model)
                return
            whole = "model_config" in file.attrs
            if not whole and not {"layers", "_layer_checkpoint_dependencies", "vars"} & set(file):
                raise InputError(f"{path.name} holds no Keras weights; give a .weights.h5, .h5 or .keras file")
            current = file.filename.endswith(".weights.h5") and "_layer_checkpoint_dependencies" not in file
        if not whole:
            with tempfile.TemporaryDirectory() as folder:
                copied = path if current else Path(shutil.copy(path, Path(folder, "model.weights.h5")))
                put_stored_weights(path, copied, model)
            return
    source = load_model(path, unsafe_load=unsafe_load)
    assign(path, model, [(v.path, v) for v in model.weights],
           [(w.path, keras.ops.convert_to_numpy(w)) for w in source.weights])
