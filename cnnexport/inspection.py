"""What an ONNX file holds: operators, inputs and outputs, sizes, and multiply-accumulates.

Weights kept as external data are measured and hashed in blocks, never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cnnexport import bundle, files
from cnnexport.errors import InputError

_PROTOBUF_LIMIT = 2**31 - 1
_KEPT_ELEMENTS = 1024  # tensors up to this many elements keep their values for shape inference
_DEFAULT_DOMAINS = ("", "ai.onnx")
_LOOPS_AND_BRANCHES = ("If", "Loop", "Scan", "SequenceMap")
_WEIGHT_INPUT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_MATMULS = ("MatMul", "MatMulInteger", "QLinearMatMul")
_COUNTED = frozenset((*_WEIGHT_INPUT, *_MATMULS, "ConvTranspose", "Gemm"))


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


@dataclass(frozen=True)
class OnnxSummary:
    """Facts about one ONNX file.

    ``operators`` and ``nodes`` count the main graph and its subgraphs. ``parameters`` counts the elements of
    floating-point initializers, and of floating-point Constant tensors of more than one element.
    ``initializer_bytes`` is the size of all initializers, of any type. ``macs`` counts multiply-accumulates
    of convolutions, Gemm and MatMul at the input shapes in ``macs_shapes`` (symbolic dimensions are 1), and
    is None where shapes cannot be inferred. ``file_bytes`` includes external data; ``sha256`` is that of the
    ONNX file alone.
    """

    path: str
    operators: dict[str, int]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    nodes: int
    parameters: int
    initializer_bytes: int
    macs: int | None
    macs_shapes: dict[str, list[int]]
    opsets: dict[str, int]
    ir_version: int
    producer: str
    file_bytes: int
    sha256: str
    external_data: tuple[ExternalFile, ...] = ()
    bundle: bool = False
    untrained: bool | None = None
    provenance: Any = None
    metadata: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON-ready values."""
        values = asdict(self)
        for key in ("inputs", "outputs"):
            values[key] = [
                {**tensor, "shape": None if tensor["shape"] is None else list(tensor["shape"])}
                for tensor in values[key]
            ]
        values["external_data"] = list(values["external_data"])
        return values


def inspect_onnx(path: str | os.PathLike[str]) -> OnnxSummary:
    """Summarise an ONNX file, or a bundle folder (one holding ``model.onnx``).

    Raises InputError where the file cannot be read, is not ONNX, or names external data that is missing, cut
    short or outside its folder; BundleError where a bundle is incomplete or a file is not the manifest's.
    """
    given = Path(path)
    model_path, manifest = _locate(given)
    model, size, digest = load(model_path)
    external = external_files(model, model_path)
    parameters, initializer_bytes = _sizes(model)
    slim = without_weights(model, in_place=True)
    macs, _, shapes = _infer_macs(slim, 1)
    nodes = Counter(
        node.op_type if node.domain in _DEFAULT_DOMAINS else f"{node.domain}::{node.op_type}"
        for node in nodes_of(model.graph)
    )
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_tensor_info(value) for value in model.graph.input if value.name not in stored)
    untrained = manifest.get("untrained")
    return OnnxSummary(
        path=str(given),
        operators=dict(sorted(nodes.items(), key=lambda item: (-item[1], item[0]))),
        inputs=inputs,
        outputs=tuple(_tensor_info(value) for value in model.graph.output),
        nodes=nodes.total(),
        parameters=parameters,
        initializer_bytes=initializer_bytes,
        macs=macs,
        macs_shapes={tensor.name: shapes[tensor.name] for tensor in inputs if tensor.name in shapes},
        opsets={entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import},
        ir_version=int(model.ir_version),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        file_bytes=size + sum(file.bytes for file in external),
        sha256=digest,
        external_data=external,
        bundle=given.is_dir(),
        untrained=untrained if isinstance(untrained, bool) else None,
        provenance=manifest.get("provenance"),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def count_macs(model_proto: Any, batch: int = 1) -> tuple[int | None, dict[str, int]]:
    """Multiply-accumulates of an ``onnx.ModelProto``: the total, and by node name.

    Counts Conv, ConvTranspose, Gemm and MatMul, with the integer forms of Conv and MatMul. A symbolic first
    dimension of an input becomes ``batch``, any other symbolic dimension 1; fixed dimensions stay. The total
    is None where a shape cannot be inferred, or counted operators sit in a loop or branch. Local functions
    are inlined first. Nodes without a name are called ``<operator>_<index>``. The model is not changed.
    """
    total, per_node, _ = _infer_macs(without_weights(model_proto, in_place=False), batch)
    return total, per_node


def format_summary(summary: OnnxSummary) -> str:
    """The summary as aligned text of several lines."""
    rows: list[tuple[str, str]] = [
        ("File", summary.path),
        ("Size", f"{_bytes(summary.file_bytes)} ({summary.file_bytes:,} bytes)"),
        ("SHA-256", summary.sha256),
        ("Producer", summary.producer or "unknown"),
        ("IR version", str(summary.ir_version)),
        ("Opsets", ", ".join(f"{domain} {version}" for domain, version in summary.opsets.items())),
    ]
    if summary.untrained is not None:
        rows.append(("Weights", "untrained (random)" if summary.untrained else "trained"))
    for label, tensors in (("Inputs", summary.inputs), ("Outputs", summary.outputs)):
        width = max((len(tensor.name) for tensor in tensors), default=0)
        lines = [f"{tensor.name:<{width}}  {tensor.dtype}  {_shape(tensor)}" for tensor in tensors]
        rows.extend((label if index == 0 else "", line) for index, line in enumerate(lines or ["none"]))
    rows.append(("Parameters", f"{summary.parameters:,} (initializers {_bytes(summary.initializer_bytes)})"))
    if summary.macs is None:
        rows.append(("MACs", "unknown (shapes cannot be inferred)"))
    else:
        shapes = ", ".join(
            f"{tensor.name} {'x'.join(map(str, summary.macs_shapes[tensor.name]))}"
            for tensor in summary.inputs
            if tensor.shape is not None and not all(isinstance(size, int) for size in tensor.shape)
        )
        rows.append(("MACs", f"{summary.macs:,}" + (f" (at {shapes})" if shapes else "")))
    for index, file in enumerate(summary.external_data):
        rows.append(("External data" if index == 0 else "", f"{file.location}  {_bytes(file.bytes)}"))
    rows.append(("Nodes", f"{summary.nodes:,}"))
    width = max((len(name) for name in summary.operators), default=0)
    for index, (name, count) in enumerate(summary.operators.items()):
        rows.append(("Operators" if index == 0 else "", f"{name:<{width}}  {count:>6,}"))
    margin = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{margin}}  {value}".rstrip() for label, value in rows)


def _locate(path: Path) -> tuple[Path, dict[str, Any]]:
    """The ONNX file meant by ``path``, and the manifest beside it when ``path`` is a bundle folder."""
    if not files.is_folder(path):
        return path, {}
    model_path = path / "model.onnx"
    if bundle.is_bundle(path):
        # Shown as far as it is what was written; whether it is proven is for verify to say.
        bundle.check_sums(path)
        manifest = bundle.read_manifest(path)
        bundle.check_files(path, manifest, hashed=True)
        return model_path, manifest
    if not files.exists(model_path):
        raise InputError(f"{path} is a folder without model.onnx; give an ONNX file or a bundle folder.")
    return model_path, {}


def load(path: Path) -> tuple[Any, int, str]:
    """The ModelProto without external data, the file's bytes, and its SHA-256."""
    import onnx

    files.regular(path, "give an ONNX file or a bundle folder.")
    try:
        size = path.stat().st_size
        if size > _PROTOBUF_LIMIT:
            raise InputError(
                f"{path} holds {_bytes(size)}, over protobuf's 2 GiB: it cannot be ONNX; "
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
            f"{path} is not ONNX, or is cut short: {_line(error)}; export or download it again."
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
            for subgraph in _subgraphs(attribute):
                yield from nodes_of(subgraph)


def _subgraphs(attribute: Any) -> list[Any]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and its subgraphs."""
    yield graph
    for node in nodes_of(graph):
        for attribute in node.attribute:
            yield from _subgraphs(attribute)


def attribute_tensors(nodes: Iterator[Any]) -> Iterator[Any]:
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
    """The external data files of a model, each checked to lie inside the model's folder and to be whole."""
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
                f"Cannot read the external data file {location!r} of {model_path}: {_line(error)}; "
                "check that it lies beside the model."
            ) from error
    return tuple(found)


def _sizes(model: Any) -> tuple[int, int]:
    """Floating-point parameters (elements), and the bytes of all initializers."""
    parameters = size = 0
    for tensor in initializers(model.graph):
        size += tensor_bytes(tensor)
        if _is_float(tensor):
            parameters += math.prod(tensor.dims)
    for node in nodes_of(model.graph):
        if node.op_type != "Constant" or node.domain not in _DEFAULT_DOMAINS:
            continue
        for tensor in attribute_tensors(iter([node])):
            if _is_float(tensor) and math.prod(tensor.dims) > 1:
                parameters += math.prod(tensor.dims)
    return parameters, size


def _is_float(tensor: Any) -> bool:
    return "FLOAT" in _type_name(tensor.data_type) or _type_name(tensor.data_type) == "DOUBLE"


def _type_name(code: int) -> str:
    from onnx import TensorProto

    try:
        return str(TensorProto.DataType.Name(code))
    except ValueError:
        return f"TYPE{code}"


def dtype_name(code: int) -> str:
    """``float32``, ``int64``, ... of an ONNX element type."""
    name = _type_name(code).lower()
    return {"float": "float32", "double": "float64", "undefined": "unknown"}.get(name, name)


def tensor_bytes(tensor: Any) -> int:
    """The bytes that a tensor's elements take as raw data, computed from its type and shape."""
    elements = math.prod(tensor.dims)
    name = _type_name(tensor.data_type)
    if name == "STRING":
        return sum(len(text) for text in tensor.string_data)
    if name.startswith("FLOAT") and name[5:6] in ("4", "8"):
        bits = int(name[5])
    else:
        widths = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8, "COMPLEX64": 64, "COMPLEX128": 128, "BFLOAT16": 16}
        digits = "".join(character for character in name if character.isdigit())
        bits = widths.get(name) or int(digits or "8")
    return int((elements * bits + 7) // 8)


def without_weights(model: Any, *, in_place: bool) -> Any:
    """A model for shape inference: large initializers and constants become graph inputs.

    ``in_place`` drops the weights of ``model`` itself as it goes, so that their memory is free.
    """
    import onnx

    slim = onnx.ModelProto()
    slim.ir_version = max(int(model.ir_version), 4)
    slim.opset_import.extend(model.opset_import)
    slim.functions.extend(model.functions)
    graph = slim.graph
    graph.name = model.graph.name or "graph"
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    known = {value.name for value in model.graph.input}

    def declare(name: str, tensor: Any) -> None:
        if name not in known:
            known.add(name)
            graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))

    for tensor in model.graph.initializer:
        if _is_small(tensor):
            graph.initializer.append(tensor)
        else:
            declare(tensor.name, tensor)
            if in_place:
                tensor.ClearField("raw_data")
                tensor.ClearField("float_data")
    for sparse in model.graph.sparse_initializer:
        if sparse.values.name not in known:
            known.add(sparse.values.name)
            graph.input.append(
                onnx.helper.make_tensor_value_info(
                    sparse.values.name, sparse.values.data_type, list(sparse.dims)
                )
            )
    for node in model.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)
        if node.op_type == "Constant" and value is not None and not _is_small(value):
            declare(node.output[0], value)
        else:
            graph.node.append(node)
    return slim


def _is_small(tensor: Any) -> bool:
    from onnx import TensorProto

    return math.prod(tensor.dims) <= _KEPT_ELEMENTS and bool(tensor.data_location != TensorProto.EXTERNAL)


def _infer_macs(slim: Any, batch: int) -> tuple[int | None, dict[str, int], dict[str, list[int]]]:
    """``count_macs`` of a model without weights, and the shape assumed of each input."""
    import onnx
    from onnx import inliner

    weights = {tensor.name for tensor in slim.graph.initializer}
    symbols: dict[str, int] = {}
    used: dict[str, list[int]] = {}
    for value in slim.graph.input:
        kind = value.type.tensor_type
        if value.name in weights or not kind.HasField("shape"):
            continue
        for axis, dim in enumerate(kind.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                symbol = dim.dim_param
                size = symbols.setdefault(symbol, batch if axis == 0 else 1) if symbol else 0
                dim.dim_value = size or (batch if axis == 0 else 1)
        used[value.name] = [int(dim.dim_value) for dim in kind.shape.dim]
    for value in [*slim.graph.output, *slim.graph.value_info]:
        _set_symbols(value, symbols)
    if slim.functions:
        slim = inliner.inline_local_functions(slim)
    best: tuple[int | None, dict[str, int]] = (None, {})
    for keep_hints in (False, True):
        attempt = onnx.ModelProto()
        attempt.CopyFrom(slim)
        if not keep_hints:
            attempt.graph.ClearField("value_info")
            for value in attempt.graph.output:
                value.type.tensor_type.ClearField("shape")
        with contextlib.suppress(Exception):  # an invalid graph: nodes whose shapes are known still count
            attempt = onnx.shape_inference.infer_shapes(attempt, data_prop=True)
        best = max(best, _count(attempt.graph), key=lambda result: (result[0] is not None, len(result[1])))
        if best[0] is not None:
            break
    return best[0], best[1], used


def _set_symbols(value: Any, symbols: Mapping[str, int]) -> None:
    """Replace the named dimensions of a value's shape by their sizes."""
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param in symbols:
            dim.dim_value = symbols[dim.dim_param]


def _count(graph: Any) -> tuple[int | None, dict[str, int]]:
    shapes: dict[str, list[int]] = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[value.name] = [int(dim.dim_value) for dim in kind.shape.dim]
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    shapes[node.output[0]] = list(attribute.t.dims)
    total: int | None = 0
    per_node: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        if node.domain not in _DEFAULT_DOMAINS:
            continue
        if node.op_type in _LOOPS_AND_BRANCHES:
            if any(_is_counted(inner) for a in node.attribute for g in _subgraphs(a) for inner in nodes_of(g)):
                total = None
            continue
        if not _is_counted(node):
            continue
        cost = _node_macs(node, shapes)
        if cost is None:
            total = None
            continue
        name = node.name or f"{node.op_type}_{index}"
        per_node[f"{name}#{index}" if name in per_node else name] = cost
        total = None if total is None else total + cost
    return total, per_node


def _is_counted(node: Any) -> bool:
    return node.domain in _DEFAULT_DOMAINS and node.op_type in _COUNTED


def _node_macs(node: Any, shapes: Mapping[str, list[int]]) -> int | None:
    """Multiply-accumulates of one counted node; None where a shape it needs is unknown."""
    first = shapes.get(node.input[0])
    out = shapes.get(node.output[0])
    if node.op_type in _WEIGHT_INPUT:  # out (N, M, ...), weight (M, C / group, kernel...)
        weight = shapes.get(node.input[_WEIGHT_INPUT[node.op_type]])
        return None if out is None or weight is None else math.prod(out) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":  # in (N, C, ...), weight (C, M / group, kernel...)
        weight = shapes.get(node.input[1])
        return None if first is None or weight is None else math.prod(first) * math.prod(weight[1:])
    if first is None or out is None:
        return None
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(out) * first[0 if transposed else 1]
    return math.prod(out) * first[-1]


def _tensor_info(value: Any) -> TensorInfo:
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


def _shape(tensor: TensorInfo) -> str:
    if tensor.shape is None:
        return "(shape unknown)"
    return "[" + ", ".join("?" if size is None else str(size) for size in tensor.shape) + "]"


def _bytes(count: int) -> str:
    """``12.3 MB`` of a number of bytes."""
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def _line(error: BaseException) -> str:
    """An error's text on one line, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
