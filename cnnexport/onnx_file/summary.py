"""What an ONNX file holds: operators, inputs and outputs, sizes, multiply-accumulates."""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cnnexport import files
from cnnexport.bundle import MODEL, Bundle, is_bundle, located
from cnnexport.bundle import values as values_of
from cnnexport.bundle.opening import read_verdicts
from cnnexport.bundle.records import VariantVerdict
from cnnexport.errors import InputError
from cnnexport.onnx_file import load
from cnnexport.onnx_file.inputs import Shapes, given_inputs, named_shapes
from cnnexport.onnx_file.load import ExternalFile, TensorInfo
from cnnexport.onnx_file.macs import infer_macs, without_weights
from cnnexport.text import byte_count


@dataclass(frozen=True)
class OnnxSummary:
    """Facts about one ONNX file.

    ``operators`` and ``nodes`` count the main graph and its subgraphs. ``parameters`` counts the elements of
    floating-point initializers, or of integers that DequantizeLinear restores, and of what Constant and ConstantOfShape
    make of more than one such element.
    ``initializer_bytes`` is the size of all initializers, of any type. ``macs`` counts multiply-accumulates
    of convolutions, Gemm and MatMul at the input shapes in ``macs_shapes`` (symbolic dimensions are 1 unless given),
    and is None where shapes cannot be inferred. ``file_bytes`` includes external data; ``sha256`` is that of the
    ONNX file alone. ``models`` are a bundle's by id, with their verdicts ("" of the first), where it has several;
    ``verdict`` is that of a variant.
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
    models: dict[str, str] = field(default_factory=dict)
    verdict: VariantVerdict | None = None
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
        values["verdict"] = None if self.verdict is None else values_of(self.verdict)
        return values


def inspect_onnx(path: str | os.PathLike[str], shapes: Shapes | None = None) -> OnnxSummary:
    """Summarise an ONNX file, or a bundle folder (one holding ``model.onnx``).

    ``shapes`` are those of inputs that the file leaves open, by name ("" for the only input), for the MACs.

    Raises UsageError for shapes that contradict the file; InputError where it cannot be read, is not ONNX, or names
    external data that is missing, cut short or outside its folder; BundleError where a bundle is incomplete or a
    file is not the manifest's.
    """
    given = Path(path)
    model_path, found = _locate(given)
    model, size, digest = load.load_model(model_path)
    external = load.external_files(model, model_path)
    parameters, initializer_bytes = _sizes(model)
    slim = without_weights(model, in_place=True)
    macs, _, used = infer_macs(slim, 1, named_shapes(model, str(given), shapes or {}))
    nodes = Counter(
        node.op_type if node.domain in load.DEFAULT_DOMAINS else f"{node.domain}::{node.op_type}"
        for node in load.nodes_of(model.graph)
    )
    inputs = tuple(load.tensor_info(value) for value in given_inputs(model))
    return OnnxSummary(
        path=str(given),
        operators=dict(sorted(nodes.items(), key=lambda item: (-item[1], item[0]))),
        inputs=inputs,
        outputs=tuple(load.tensor_info(value) for value in model.graph.output),
        nodes=nodes.total(),
        parameters=parameters,
        initializer_bytes=initializer_bytes,
        macs=macs,
        macs_shapes={tensor.name: used[tensor.name] for tensor in inputs if tensor.name in used},
        opsets={entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import},
        ir_version=int(model.ir_version),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        file_bytes=size + sum(file.bytes for file in external),
        sha256=digest,
        external_data=external,
        bundle=found is not None or given.is_dir(),
        untrained=found.about.untrained if found else None,
        provenance=found.manifest["provenance"] if found else None,
        models=_models(found) if found else {},
        verdict=found.verdict if found else None,
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def format_summary(summary: OnnxSummary) -> str:
    """The summary as aligned text of several lines."""
    rows: list[tuple[str, str]] = [
        ("File", summary.path),
        ("Size", f"{byte_count(summary.file_bytes)} ({summary.file_bytes:,} bytes)"),
        ("SHA-256", summary.sha256),
        ("Producer", summary.producer or "unknown"),
        ("IR version", str(summary.ir_version)),
        ("Opsets", ", ".join(f"{domain} {version}" for domain, version in summary.opsets.items())),
    ]
    if summary.untrained is not None:
        rows.append(("Weights", "untrained (random)" if summary.untrained else "trained"))
    if summary.models:
        rows.append(("Models", "; ".join(f"{name} {verdict}".strip() for name, verdict in summary.models.items())))
    for label, tensors in (("Inputs", summary.inputs), ("Outputs", summary.outputs)):
        width = max((len(tensor.name) for tensor in tensors), default=0)
        lines = [f"{tensor.name:<{width}}  {tensor.dtype}  {_shape(tensor)}" for tensor in tensors]
        rows.extend((label if index == 0 else "", line) for index, line in enumerate(lines or ["none"]))
    rows.append(("Parameters", f"{summary.parameters:,} (initializers {byte_count(summary.initializer_bytes)})"))
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
        rows.append(("External data" if index == 0 else "", f"{file.location}  {byte_count(file.bytes)}"))
    rows.append(("Nodes", f"{summary.nodes:,}"))
    width = max((len(name) for name in summary.operators), default=0)
    for index, (name, count) in enumerate(summary.operators.items()):
        rows.append(("Operators" if index == 0 else "", f"{name:<{width}}  {count:>6,}"))
    margin = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{margin}}  {value}".rstrip() for label, value in rows)


def _locate(path: Path) -> tuple[Path, Bundle | None]:
    """The ONNX file meant by ``path``, and the bundle that it is of."""
    if not files.is_folder(path) or is_bundle(path):
        # Shown as far as it is what was written; whether it is proven is for verify to say.
        return located(path, proven=False)
    if not files.exists(path / MODEL):
        raise InputError(f"{path} is a folder without {MODEL}; give an ONNX file or a bundle folder.")
    return path / MODEL, None


def _models(found: Bundle) -> dict[str, str]:
    """The models of a bundle by id with their verdicts, where it has more than one."""
    verdicts = {verdict.model: verdict.verdict for verdict in read_verdicts(found.path, found.about)}
    return {model.id: str(verdicts.get(model.id, "")) for model in found.models} if len(found.models) > 1 else {}


def _sizes(model: Any) -> tuple[int, int]:
    """Parameters (elements) in floating point or in integers with a scale, and the bytes of all initializers."""
    parameters = size = 0
    pairs = [n for n in load.nodes_of(model.graph) if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    rounded = {n.input[0] for n in pairs if n.op_type == "DequantizeLinear"}
    scales = {n.input[1] for n in pairs}
    for tensor in load.initializers(model.graph):
        size += load.tensor_bytes(tensor)
        if tensor.name in rounded or (_is_float(tensor) and tensor.name not in scales):
            parameters += math.prod(tensor.dims)
    for node in load.nodes_of(model.graph):
        if node.op_type != "Constant" or node.domain not in load.DEFAULT_DOMAINS:
            continue
        for tensor in load.attribute_tensors(iter([node])):
            if _is_float(tensor) and math.prod(tensor.dims) > 1:
                parameters += math.prod(tensor.dims)
        parameters += sum(len(a.floats) for a in node.attribute if len(a.floats) > 1)
    return parameters + _filled(model.graph), size


def _filled(graph: Any) -> int:
    """Elements of the floating-point tensors, of more than one, that ConstantOfShape makes of a stored shape."""
    from onnx import numpy_helper

    stored: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.domain not in load.DEFAULT_DOMAINS or not node.output:
            continue
        source = stored.get(node.input[0]) if node.input else None
        value = next((a for a in node.attribute if a.name in ("value", "value_ints")), None)
        if node.op_type == "Constant" and value is not None:
            stored[node.output[0]] = value.t if value.name == "value" else list(value.ints)
        elif node.op_type == "Identity" and source is not None:
            stored[node.output[0]] = source
        elif node.op_type == "ConstantOfShape" and source is not None and (value is None or _is_float(value.t)):
            shape = source if isinstance(source, list) else []
            if not isinstance(source, list) and source.data_location != source.EXTERNAL:
                with contextlib.suppress(Exception):  # a shape that its data has not is for the checker to tell
                    shape = numpy_helper.to_array(source).ravel().tolist()
            elements = math.prod(shape)
            total += elements if elements > 1 and min(shape) > 0 else 0
    return total


def _is_float(tensor: Any) -> bool:
    return "FLOAT" in load.type_name(tensor.data_type) or load.type_name(tensor.data_type) == "DOUBLE"


def _shape(tensor: TensorInfo) -> str:
    if tensor.shape is None:
        return "(shape unknown)"
    return "[" + ", ".join("?" if size is None else str(size) for size in tensor.shape) + "]"
