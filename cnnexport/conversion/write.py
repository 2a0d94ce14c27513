"""Write an ONNX model weight by weight, so that no second copy of the weights is ever held.

The protobuf wire format lets a message's fields come in any order: everything but the initializers
is serialised by protobuf itself, and the initializers are appended to the graph as they are read.
A model over protobuf's limit keeps its weights in one external file beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.rewriting import Array
from cnnexport.conversion.skeleton import skeleton as skeleton

PROTOBUF_LIMIT = 2**31 - 1 - (1 << 20)
"""Bytes above which a protobuf message cannot be read; a mebibyte is left for what readers add."""

EXTERNAL_NAME = "model.onnx.data"
_ALIGNMENT = 4096
_SMALL = 1024


@dataclass(frozen=True)
class WrittenFile:
    """A file on disk: its name, size in bytes and SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, size: int) -> bytes:
    """The tag of a length-delimited field and its length."""
    return _varint(number << 3 | 2) + _varint(size)


class _Hashing:
    """A binary file that hashes what it writes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> None:
        self.file.write(data)
        self.hash.update(data)
        self.size += memoryview(data).nbytes


def _raw(array: Array) -> memoryview:
    """The little-endian bytes of ``array`` in C order; a copy only if it is not laid out so."""
    contiguous = np.ascontiguousarray(array)
    if contiguous.dtype.byteorder == ">":
        contiguous = contiguous.astype(contiguous.dtype.newbyteorder("<"))
    return contiguous.reshape(-1).view(np.uint8).data


def _array(value: ir.Value) -> Array:
    assert value.const_value is not None
    return value.const_value.numpy()


def _bare(model: ir.Model) -> Any:
    """The ``ModelProto`` without any initializer."""
    initializers = list(model.graph.initializers.values())
    model.graph.initializers.clear()
    try:
        return ir.to_proto(model)
    finally:
        for value in initializers:
            model.graph.register_initializer(value)


def _inline(initializers: list[ir.Value]) -> Iterator[tuple[bytes, ir.Value]]:
    """For each initializer the bytes that come before its raw data inside the graph message."""
    import onnx

    for value in initializers:
        tensor = onnx.TensorProto(name=value.name, data_type=int(value.const_value.dtype))  # type: ignore[union-attr]
        tensor.dims.extend(_array(value).shape)
        head = tensor.SerializeToString(deterministic=True)
        size = value.const_value.nbytes  # type: ignore[union-attr]
        raw_tag = _field(9, size)  # TensorProto.raw_data
        yield _field(5, len(head) + len(raw_tag) + size) + head + raw_tag, value  # GraphProto.initializer


def write_model(model: ir.Model, folder: Path, *, limit: int = PROTOBUF_LIMIT) -> list[WrittenFile]:
    """Write ``folder/model.onnx``, with ``model.onnx.data`` beside it above ``limit`` bytes.

    The bytes depend on the model alone. Peak memory above the model: one weight.

    Raises:
        OSError: the folder cannot be written.
    """
    bare = _bare(model)
    initializers = list(model.graph.initializers.values())
    total = sum(v.const_value.nbytes for v in initializers if v.const_value is not None)
    written: list[WrittenFile] = []
    external: list[ir.Value] = []
    if total + bare.ByteSize() > limit:
        external = [v for v in initializers if v.const_value is not None and v.const_value.nbytes > _SMALL]
        initializers = [v for v in initializers if v.const_value is None or v.const_value.nbytes <= _SMALL]
        written.append(_write_external(bare, external, folder))
    # Field order: the rest of the model, then its graph, whose initializers come last.
    graph = bare.graph.SerializeToString(deterministic=True)
    bare.ClearField("graph")
    rest = bare.SerializeToString(deterministic=True)
    sizes = sum(len(head) + _array(v).nbytes for head, v in _inline(initializers))
    with open(folder / "model.onnx", "wb") as file:
        out = _Hashing(file)
        out.write(rest)
        out.write(_field(7, len(graph) + sizes))  # ModelProto.graph
        out.write(graph)
        for head, value in _inline(initializers):
            out.write(head)
            out.write(_raw(_array(value)))
    written.insert(0, WrittenFile("model.onnx", out.size, out.hash.hexdigest()))
    return written


def _write_external(bare: Any, values: list[ir.Value], folder: Path) -> WrittenFile:
    import onnx

    with open(folder / EXTERNAL_NAME, "wb") as file:
        out = _Hashing(file)
        for value in values:
            out.write(bytes(-out.size % _ALIGNMENT))
            raw = _raw(_array(value))
            tensor = bare.graph.initializer.add()
            tensor.name = value.name
            tensor.data_type = int(value.const_value.dtype)  # type: ignore[union-attr]
            tensor.dims.extend(_array(value).shape)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, text in (("location", EXTERNAL_NAME), ("offset", out.size), ("length", raw.nbytes)):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(text)
            out.write(raw)
    return WrittenFile(EXTERNAL_NAME, out.size, out.hash.hexdigest())
