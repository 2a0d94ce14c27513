"""An ONNX file read without its weights: the model, its nodes and tensors, and its external data.

External data is measured and hashed in blocks, never loaded.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnexport import files
from cnnexport.errors import InputError
from cnnexport.text import all_in_line, byte_count

DEFAULT_DOMAINS = ("", "ai.onnx")
"""The domains of ONNX's own operators."""
_PROTOBUF_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class TensorInfo:
    """A graph input or output; a dimension is an int, a symbol's name, or None when unknown.

    ``shape`` is None when not even the rank is known.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class ExternalFile:
    """One external data file: its location relative to the model, size in bytes, and SHA-256."""

    location: str
    bytes: int
    sha256: str


def load_model(path: Path) -> tuple[Any, int, str]:
    """The ModelProto without external data, the file's bytes, and its SHA-256.

    Raises InputError where the file cannot be read or is not ONNX.
    """
    import onnx

    files.regular(path, "give an ONNX file or a bundle folder.")
    try:
        size = path.stat().st_size
        if size > _PROTOBUF_LIMIT:
            raise InputError(
                f"{path} holds {byte_count(size)}, over protobuf's 2 GiB: it cannot be ONNX; "
                "save its weights as external data."
            )
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}; check the path.") from error
    if not content:
        raise InputError(f"{path} is empty (0 bytes); export or download it again.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError, whose class depends on its backend
        raise InputError(
            f"{path} is not ONNX, or is cut short: {all_in_line(error)}; export or download it again."
        ) from error
    if not model.HasField("graph") or not (model.opset_import or model.ir_version):
        raise InputError(f"{path} is not an ONNX model (no graph, opset or IR version); give an ONNX file.")
    if (name := _recursive_function(model)) is not None:
        raise InputError(f"{path}: its function '{name[:80]}' calls itself, which ONNX forbids; export it again.")
    return model, len(content), hashlib.sha256(content).hexdigest()


def _recursive_function(model: Any) -> str | None:
    """The name of a local function that calls itself, directly or through others; None where none does."""
    calls = {(f.domain, f.name): {(n.domain, n.op_type) for n in nodes_of(f)} for f in model.functions}
    calls = {function: called & set(calls) for function, called in calls.items()}
    while calls:
        # What calls nothing more is no part of a circle.
        done = {function for function, called in calls.items() if not called}
        if not done:
            return str(min(calls)[1])
        calls = {function: called - done for function, called in calls.items() if function not in done}
    return None


def nodes_of(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in subgraphs(attribute):
                yield from nodes_of(subgraph)


def subgraphs(attribute: Any) -> list[Any]:
    """The graphs that an attribute of a node holds: the branches of If, the body of Loop."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and its subgraphs."""
    yield graph
    for node in nodes_of(graph):
        for attribute in node.attribute:
            yield from subgraphs(attribute)


def attribute_tensors(nodes: Iterator[Any]) -> Iterator[Any]:
    """The tensors in the attributes of ``nodes``; a sparse one as its values and indices."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                *attribute.sparse_tensors,
            ]:
                yield sparse.values
                yield sparse.indices


def initializers(graph: Any) -> Iterator[Any]:
    """The initializers of a graph and its subgraphs; a sparse one as its values and indices."""
    for inner in _graphs(graph):
        yield from inner.initializer
        for sparse in inner.sparse_initializer:
            yield sparse.values
            yield sparse.indices


def external_files(model: Any, model_path: Path) -> tuple[ExternalFile, ...]:
    """The external data files of a model, each checked to lie inside the model's folder and to be whole.

    Raises InputError for one that is missing, cut short or outside.
    """
    from onnx import TensorProto

    needed: dict[str, int] = {}
    tensors = [*initializers(model.graph), *attribute_tensors(nodes_of(model.graph))]
    for function in model.functions:
        tensors.extend(attribute_tensors(iter(function.node)))
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", str(tensor_bytes(tensor))))
        except ValueError:
            offset = length = -1
        if not entries.get("location") or offset < 0 or length < 0:
            raise InputError(
                f"{model_path}: tensor {tensor.name!r} has a malformed external data entry; export it again."
            )
        location = entries["location"]
        needed[location] = max(needed.get(location, 0), offset + length)
    folder = model_path.parent.resolve()
    found = []
    for location, end in sorted(needed.items()):
        portable = location.replace("\\", "/")
        outside = portable.startswith("/") or portable[1:2] == ":" or ".." in portable.split("/")
        try:
            file = (folder / location).resolve()
            if outside or not file.is_relative_to(folder):
                raise InputError(
                    f"{model_path} keeps weights at {location!r}, outside its folder; not read: "
                    "save the model with its weights beside it."
                )
            if not os.path.isfile(file):
                raise InputError(
                    f"{model_path} needs the external data file {location!r}, which is missing; "
                    "copy it beside the model."
                )
            size = file.stat().st_size
            if size < end:
                raise InputError(
                    f"The external data file {location!r} of {model_path} is cut short ({size:,} bytes "
                    f"of {end:,}); copy it again."
                )
            found.append(ExternalFile(location, size, files.sha256(file)))
        except (OSError, ValueError) as error:
            raise InputError(
                f"Cannot read the external data file {location!r} of {model_path}: {all_in_line(error)}; "
                "check that it lies beside the model."
            ) from error
    return tuple(found)


def type_name(code: int) -> str:
    """``FLOAT``, ``INT64``, ... of an ONNX element type, as ONNX spells it; ``TYPE99`` of one that it lacks."""
    from onnx import TensorProto

    try:
        return str(TensorProto.DataType.Name(code))
    except ValueError:
        return f"TYPE{code}"


def dtype_name(code: int) -> str:
    """``float32``, ``int64``, ... of an ONNX element type."""
    name = type_name(code).lower()
    return {"float": "float32", "double": "float64", "undefined": "unknown"}.get(name, name)


def tensor_bytes(tensor: Any) -> int:
    """The bytes that a tensor's elements take as raw data, computed from its type and shape."""
    elements = math.prod(tensor.dims)
    name = type_name(tensor.data_type)
    if name == "STRING":
        return sum(len(text) for text in tensor.string_data)
    if name.startswith("FLOAT") and name[5:6] in ("4", "8"):
        bits = int(name[5])
    else:
        widths = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8, "COMPLEX64": 64, "COMPLEX128": 128, "BFLOAT16": 16}
        digits = "".join(character for character in name if character.isdigit())
        bits = widths.get(name) or int(digits or "8")
    return int((elements * bits + 7) // 8)


def tensor_info(value: Any) -> TensorInfo:
    """Name, element type and shape of a ``ValueInfoProto``."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return TensorInfo(value.name, value.type.WhichOneof("value") or "unknown", None)
    shape: tuple[int | str | None, ...] | None = None
    if kind.HasField("shape"):
        shape = tuple(
            int(dim.dim_value) if dim.HasField("dim_value") else (dim.dim_param or None)
            for dim in kind.shape.dim
        )
    return TensorInfo(value.name, dtype_name(kind.elem_type), shape)
