"""What is read from one ONNX graph to compare it with Keras: where outputs, logits and layers lie in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cnnexport.conversion.ports import Port
from cnnexport.parity.comparison import Array
from cnnexport.parity.inputs import OPEN_SIZE
from cnnexport.parity.layers import nodes_of

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class LogitsTensor:
    """The tensor inside an ONNX graph that holds an output before its activation.

    ``perm`` brings it to the output's axes, None where it has them already.
    """

    name: str
    perm: tuple[int, ...] | None = None


@dataclass(frozen=True)
class GraphFacts:
    """What one ONNX file is made of, as far as the gate asks; ``inputs`` and ``outputs`` in Keras' order.

    ``undefined`` are, for each compared tensor, the operators before it whose answer to a NaN is not defined; ``terms``
    the lengths of its dot products, added up (None: unknown), ``longest`` the longest other sum; ``nodes`` are (name,
    operator, outputs) in order, ``matched`` the tensors of layers that were told by their numbers (``matching``).
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    logits: list[LogitsTensor | None]
    undefined: dict[str, frozenset[str]] = field(default_factory=dict)
    terms: int | None = None
    longest: int = 0
    nodes: list[tuple[str, str, Sequence[str]]] = field(default_factory=list)
    matched: dict[str, str] = field(default_factory=dict)


def graph_facts(
    model: ir.Model, inputs: Sequence[Port], outputs: Sequence[Port], activations: Sequence[str | None]
) -> GraphFacts:
    """The facts of a graph; ``activations`` are Keras' names of the final activations (None: an output has none)."""
    graph = model.graph
    by_name = {str(value.name): value for value in graph.outputs}
    values = [by_name[port.name] for port in outputs]  # of another exporter they may stand in another order
    logits = logits_tensors(values, activations)
    undefined: dict[str, frozenset[str]] = {}
    for value, tensor in zip(values, logits):
        undefined[str(value.name)] = undefined_operators(value)
        if tensor is not None:
            # The value that the activation reads lies before the output, behind a Transpose perhaps.
            node = value.producer()
            while node is not None and all(x is None or x.name != tensor.name for x in node.inputs):
                node = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
            inner = None if node is None else next(x for x in node.inputs if x is not None and x.name == tensor.name)
            undefined[tensor.name] = undefined_operators(inner)
    return GraphFacts(tuple(inputs), tuple(outputs), logits, undefined, summed_terms(graph), longest_sum(graph),
                      nodes_of(graph))


def to_onnx_layout(array: Array, port: Port) -> Array:
    """``array`` in the layout of the ONNX port."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if port.channels_first else array


_ACTIVATIONS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "log_softmax": "LogSoftmax", "tanh": "Tanh",
                "hard_sigmoid": "HardSigmoid"}


def logits_tensors(outputs: Sequence[ir.Value], activations: Sequence[str | None]) -> list[LogitsTensor | None]:
    """For each of a graph's ``outputs``, the tensor before its final activation (a Keras name), where one is shown."""
    found: list[LogitsTensor | None] = []
    for value, activation in zip(outputs, activations):
        node, perm = value.producer(), None
        if node is not None and node.op_type == "Transpose" and node.inputs[0] is not None:
            perm = tuple(int(p) for p in node.attributes["perm"].as_ints())
            node = node.inputs[0].producer()
        source = node.inputs[0] if node is not None and node.inputs else None
        known = node is not None and activation is not None and node.op_type == _ACTIVATIONS.get(activation)
        usable = known and source is not None and source.name and not source.is_graph_input()
        found.append(LogitsTensor(str(source.name), perm) if usable and source is not None else None)
    return found


_SUMS = frozenset({"ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp",
                   "GlobalAveragePool"})


def summed_terms(graph: ir.Graph) -> int:
    """The lengths of the dot products of all convolutions and matrix products of a graph, added up."""
    total = 0
    for node in graph:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.inputs) < 2:
            continue
        kernel = node.inputs[1]
        sizes = _stored_sizes(kernel)
        if len(sizes) < 2:
            continue
        size = int(np.prod(sizes))
        transposed = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int()
        outputs = sizes[0] if node.op_type == "Conv" or transposed else sizes[1] if len(sizes) > 2 else sizes[-1]
        total += size // max(outputs, 1)
    return total


def _stored_sizes(kernel: ir.Value | None) -> list[int]:
    """The sizes of a kernel, also of one that a Constant holds: other exporters' files say no shape of it."""
    if kernel is None:
        return []
    shape: Iterable[object] | None = kernel.shape
    maker = kernel.producer()
    if shape is None and maker is not None and maker.op_type == "Constant" and "value" in maker.attributes:
        shape = maker.attributes["value"].as_tensor().shape
    return [d for d in shape or () if isinstance(d, int)]


def longest_sum(graph: ir.Graph) -> int:
    """The most values that one mean, norm or softmax of a graph sums up; a size left open is the one that is tried."""
    longest = 0
    for node in graph:
        sizes = _sizes(node.inputs[0]) if node.inputs else []
        if node.op_type in _SUMS:
            longest = max(longest, math.prod(sizes) // max(math.prod(_sizes(node.outputs[0])), 1))
        elif node.op_type == "InstanceNormalization":
            longest = max(longest, math.prod(sizes[1:]))
        elif node.op_type == "GroupNormalization":
            longest = max(longest, math.prod(sizes) // max(node.attributes["num_groups"].as_int(), 1))
        elif node.op_type in ("LayerNormalization", "Softmax", "LogSoftmax") and sizes:
            axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
            from_axis = sizes[axis if axis < 0 else axis - 1:]
            longest = max(longest, math.prod(from_axis if node.op_type == "LayerNormalization" else from_axis[:1]))
    return longest


def _sizes(value: ir.Value | None) -> list[int]:
    """The sizes of a tensor for one image."""
    if value is None or value.shape is None:
        return []
    return [d if isinstance(d, int) else OPEN_SIZE for d in list(value.shape)[1:]]


DROPPING = frozenset({"GlobalMaxPool", "ReduceMax", "ReduceMin", "Max", "Min", "LSTM", "GRU", "RNN"})
_UNDEFINED = DROPPING | {"MaxPool", "Softmax", "LRN", "Resize", "TopK", "ArgMax", "ArgMin", "Loop", "Scan", "If"}
"""Operators that TensorFlow and ONNX Runtime answer differently to a NaN (measured), or that hide others."""


def undefined_operators(value: ir.Value | None) -> frozenset[str]:
    """The operators before ``value`` whose answer to a NaN is not defined."""
    found: set[str] = set()
    seen: set[int] = set()
    left = [value]
    while left:
        node = None if (value := left.pop()) is None else value.producer()
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            found |= {node.op_type} & _UNDEFINED
            left.extend(node.inputs)
    return frozenset(found)
