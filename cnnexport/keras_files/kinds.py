"""What a path is, of all that Keras and TensorFlow write, and what is known of it before it is loaded."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from cnnexport import files
from cnnexport.errors import InputError
from cnnexport.keras_files import archive, savedmodel
from cnnexport.keras_files.weights import names_in

_ACCEPTED = "give a .keras file, an .h5 or .hdf5 model file, or a SavedModel folder"
_FOREIGN = {
    ".tflite": "a TensorFlow Lite model", ".lite": "a TensorFlow Lite model", ".onnx": "an ONNX model already",
    ".pb": "a TensorFlow graph", ".pbtxt": "a TensorFlow graph", ".pt": "a PyTorch file", ".pth": "a PyTorch file",
    ".safetensors": "a safetensors file", ".ckpt": "a TensorFlow checkpoint", ".index": "a TensorFlow checkpoint",
    ".json": "a JSON file", ".pkl": "a pickle", ".npz": "a NumPy archive", ".zip": "a zip archive",
    ".mlmodel": "a Core ML model", ".mlpackage": "a Core ML model", ".py": "a Python file",
}


def kind(path: Path) -> str:
    """``zip``, ``h5`` or ``savedmodel``. Raises InputError for anything else, or what cannot be read."""
    if files.is_folder(path):
        if files.exists(path / "saved_model.pb"):
            return "savedmodel"
        raise InputError(f"{path} is a folder without saved_model.pb, so no SavedModel; {_ACCEPTED}")
    files.regular(path, _ACCEPTED)
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {files.reason_of(error)}; make it readable") from error
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


def sha256(path: Path) -> str:
    """The SHA-256 of a file; of a folder, over the relative names and contents of its files in order."""
    path = Path(path)
    if not files.is_folder(path):
        return files.sha256(files.regular(path))
    digest = hashlib.sha256()
    for file in savedmodel.files_of(path):
        digest.update(os.fsencode(file.relative_to(path).as_posix()) + b"\0")
        digest.update(str(file.stat().st_size).encode() + b"\0")
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def saved_training_steps(path: Path) -> int | None:
    """How many optimizer steps a model or weights file records; None where it does not say."""
    path = Path(path)
    with suppress(Exception):
        found = kind(path)
        if found == "savedmodel":
            reader = savedmodel.checkpoint(path)
            keys = [k for k in reader.get_variable_to_shape_map()
                    if re.search(r"optimizer.*/(_?iterations?|iter|_variables/0)/\.ATTRIBUTES", k)]
            return int(reader.get_tensor(min(keys, key=len)))
        with archive.zip_weights(path) if found == "zip" else archive.open_h5(path) as file:
            return _steps(file)
    return None


def _steps(file: Any) -> int | None:
    if "optimizer_weights" in file:
        group = file["optimizer_weights"]
        for name in names_in(group, "weight_names"):
            if re.fullmatch(r"iter(ations?)?(:0)?", name.split("/")[-1]):
                return int(group[name][()]) if group[name].shape == () else None
    for place in ("optimizer", "optimizer/inner_optimizer"):
        if f"{place}/vars/0" in file and file[f"{place}/vars/0"].shape == ():
            return int(file[f"{place}/vars/0"][()])
    return None
