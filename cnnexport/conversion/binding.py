"""From tf2onnx's protobuf to a model over Keras' own weights, and from a folded model to a file's graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

import cnnexport
from cnnexport.conversion.passes.shapes import InferShapes
from cnnexport.conversion.ports import Port
from cnnexport.conversion.skeleton import skeleton
from cnnexport.conversion.trace import Trace
from cnnexport.conversion.translate import inherit_scopes
from cnnexport.errors import InputError

_DTYPES = {"float32": "FLOAT", "float64": "DOUBLE"}
"""ONNX' names for dtypes, where they are not Keras' in capitals."""


def bind(
    proto: Any,
    known: dict[str, tuple[list[int], int | None]],
    traced: Trace,
    model: Any,
    inputs: Sequence[Port],
) -> ir.Model:
    """Turn the graph inputs that stand for variables into initializers over Keras' own memory."""
    result: ir.Model = ir.from_proto(proto)
    graph = result.graph
    for node in graph:
        for value in node.outputs:
            shape, dtype = known.get(value.name or "", (None, None))
            if value.shape is None and shape is not None and dtype is not None:
                value.shape = ir.Shape([None if d < 0 else d for d in shape])
                value.dtype = ir.DataType(dtype)
    inherit_scopes(graph)
    arrays = dict(zip(traced.variables, model.variables))
    places = dict(zip(traced.inputs, inputs))
    kept: dict[str, ir.Value] = {}
    for value in list(graph.inputs):
        variable = arrays.get(value.name or "")
        if variable is None:
            kept[value.name or ""] = value
            continue
        graph.inputs.remove(value)
        if not value.uses() and not value.is_graph_output():
            continue
        try:
            # A view of the variable's buffer: nothing is copied until a fold changes it.
            array = np.asarray(memoryview(variable.value.read_value()))
        except (TypeError, ValueError, BufferError, AttributeError):
            array = np.asarray(variable.numpy())
        value.shape = ir.Shape(array.shape)
        value.dtype = ir.DataType.from_numpy(array.dtype)
        value.const_value = ir.Tensor(array, name=value.name)
        graph.register_initializer(value)
    graph.inputs.clear()
    for name in traced.inputs:
        value = kept[name]
        port = places[name]
        value.shape = _shape(port)
        graph.inputs.append(value)
    return result


def name_ports(
    model: ir.Model, traced_outputs: Sequence[str], inputs: Sequence[Port], outputs: Sequence[Port]
) -> None:
    """Name the graph's inputs and outputs, and put the outputs in Keras' order."""
    graph = model.graph
    by_name = dict(zip(dict.fromkeys(traced_outputs), graph.outputs))
    taken = {p.name for p in [*inputs, *outputs]}
    for node in graph:
        for value in node.outputs:
            if value.name in taken:
                value.name = f"{value.name}__"
    for value, port in zip(graph.inputs, inputs):
        value.name = port.name
    wanted = [by_name[name] for name in traced_outputs]
    graph.outputs.clear()
    seen: set[int] = set()
    for value, port in zip(wanted, outputs):
        # An output that is an input, a constant, or another output's twin needs a node of its own.
        if value.producer() is None or id(value) in seen:
            node = ir.node("Identity", [value], name=f"{port.name}/Identity")
            node.outputs[0].type = value.type
            graph.append(node)
            value = node.outputs[0]
        seen.add(id(value))
        value.name = port.name
        graph.outputs.append(value)


def _shape(port: Port) -> ir.Shape:
    dims: list[int | str | None] = list(port.onnx_shape)
    if dims and dims[0] is None:
        dims[0] = "batch"
    return ir.Shape(dims)


def finish(model: ir.Model, name: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Set versions and names, and infer every shape from the ports alone.

    Raises InputError for a type that the operator set does not compute in.
    """
    import onnx

    graph = model.graph
    graph.name = name
    graph.doc_string = None
    model.producer_name, model.producer_version = "cnnexport", cnnexport.__version__
    model.doc_string = None
    used = {node.domain for node in graph.all_nodes()} | {""}
    for domain in list(graph.opset_imports):
        if domain not in used:
            del graph.opset_imports[domain]
    model.ir_version = onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid(d, v) for d, v in graph.opset_imports.items()])
    _require_kernels(graph, name, outputs)
    for value, port in zip(graph.outputs, outputs):
        value.dtype = ir.DataType[_DTYPES.get(port.dtype, port.dtype.upper())]
    for value, port in zip(graph.inputs, inputs):
        value.shape = _shape(port)
    InferShapes(fold=False)(model)
    for value, port in zip(graph.outputs, outputs):
        if value.shape is None or (any(d is not None for d in port.shape) and all(
                not isinstance(d, int) for d in value.shape)):
            value.shape = _shape(port)
    try:
        onnx.checker.check_model(skeleton(model), full_check=True)
    except Exception as error:
        if (found := re.search(r"op_type:\s*(\w+).*unsupported type: tensor\((\w+)\)", str(error), re.S)) is None:
            raise
        raise InputError(f"model '{name}' computes {found[1]} in {found[2]}, which ONNX's opset "
                         f"{graph.opset_imports['']} does not; give its layers another dtype policy (float32, or "
                         "mixed_float16), or try a higher --opset") from error


_WITHOUT_KERNELS = {"DOUBLE": "float64", "BFLOAT16": "bfloat16"}
"""Types that ONNX has convolutions in, but ONNX Runtime, which must prove the file, none."""


def _require_kernels(graph: ir.Graph, name: str, outputs: Sequence[Port]) -> None:
    """Raises InputError for a convolution in a type that ONNX Runtime has no kernel for."""
    held = {_WITHOUT_KERNELS.get(getattr(value.dtype, "name", "")) for value in graph.initializers.values()}
    if "bfloat16" in held or any(port.dtype == "bfloat16" for port in outputs):
        raise InputError(f"model '{name}' holds weights or gives results in bfloat16, which ONNX Runtime does not "
                         "compute in; give its layers another dtype policy (float32, mixed_float16, or mixed_bfloat16 "
                         "with a last layer of float32)")
    for node in graph.all_nodes():
        kind = _WITHOUT_KERNELS.get(getattr(node.outputs[0].dtype, "name", ""))
        if kind is not None and node.op_type in ("Conv", "ConvTranspose", "AveragePool", "GlobalAveragePool"):
            raise InputError(f"model '{name}' computes {node.op_type} in {kind}, which ONNX Runtime has no kernel for; "
                             "give its layers another dtype policy (float32, or mixed_float16)")
