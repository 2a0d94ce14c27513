"""Multiply-accumulates of an ONNX model, from shapes inferred without its weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from cnnexport.onnx_file.inputs import Shapes, set_shapes
from cnnexport.onnx_file.load import DEFAULT_DOMAINS, nodes_of, subgraphs

_KEPT_ELEMENTS = 1024  # tensors up to this many elements keep their values for shape inference
_LOOPS_AND_BRANCHES = ("If", "Loop", "Scan", "SequenceMap")
_WEIGHT_INPUT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_MATMULS = ("MatMul", "MatMulInteger", "QLinearMatMul")
_COUNTED = frozenset((*_WEIGHT_INPUT, *_MATMULS, "ConvTranspose", "Gemm"))


def count_macs(
    model_proto: Any, batch: int = 1, shapes: Shapes | None = None
) -> tuple[int | None, dict[str, int]]:
    """Multiply-accumulates of an ``onnx.ModelProto``: the total, and by node name.

    Counts Conv, ConvTranspose, Gemm and MatMul, with the integer forms of Conv and MatMul. A symbolic first
    dimension of an input becomes ``batch``, any other symbolic dimension 1, unless ``shapes`` (by input) say
    otherwise; fixed dimensions stay. The total is None where a shape cannot be inferred, or counted operators
    sit in a loop or branch. Local functions are inlined first. Nodes without a name are called
    ``<operator>_<index>``. The model is not changed.
    """
    total, per_node, _ = infer_macs(without_weights(model_proto, in_place=False), batch, shapes)
    return total, per_node


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


def infer_macs(
    slim: Any, batch: int, shapes: Shapes | None = None
) -> tuple[int | None, dict[str, int], dict[str, list[int]]]:
    """``count_macs`` of a model without weights, and the shape assumed of each input."""
    import onnx
    from onnx import inliner

    weights = {tensor.name for tensor in slim.graph.initializer}
    symbols = set_shapes(slim, shapes or {})
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
    _make_plain(slim)
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


def _make_plain(model: Any) -> None:
    """Spell the nodes of a model as ONNX's inference of shapes wants them.

    It carries a tensor's values (the shape of weights that ConstantOfShape makes) neither through Identity nor out of
    a Constant whose domain is written out.
    """
    if not any(entry.domain == "" for entry in model.opset_import):
        for entry in model.opset_import:
            entry.domain = "" if entry.domain in DEFAULT_DOMAINS else entry.domain
    same: dict[str, str] = {}
    for node in model.graph.node:
        if node.domain in DEFAULT_DOMAINS:
            node.domain = ""
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
        if node.op_type == "Identity" and node.domain == "":
            same[node.output[0]] = node.input[0]


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
        if node.domain not in DEFAULT_DOMAINS:
            continue
        if node.op_type in _LOOPS_AND_BRANCHES:
            if any(_is_counted(inner) for a in node.attribute for g in subgraphs(a) for inner in nodes_of(g)):
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
    return node.domain in DEFAULT_DOMAINS and node.op_type in _COUNTED


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
