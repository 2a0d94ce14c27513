"""What every pass needs to read and write an ``onnx_ir`` graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """The array of an initializer (a view, do not write to it), or None for anything else."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value.const_value.numpy()


def add_initializer(graph: ir.Graph, array: Array, name: str) -> ir.Value:
    """A new initializer holding ``array``; ``name`` is made unique in ``graph``."""
    unique, count = name, 0
    while unique in graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    value = ir.Value(
        name=unique,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.Tensor(array, name=unique),
    )
    graph.register_initializer(value)
    return value


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The only node that reads ``value``, or None: several, none, or it leaves the graph."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0].node


def bypass(graph: ir.Graph, node: ir.Node, replacement: ir.Value) -> None:
    """Let every reader of ``node``'s first output read ``replacement``, then remove ``node``."""
    output = node.outputs[0]
    output.replace_all_uses_with(replacement, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def insert(
    graph: ir.Graph,
    before: ir.Node,
    op: str,
    inputs: list[ir.Value | None],
    attributes: dict[str, Any] | None = None,
    suffix: str = "",
) -> ir.Value:
    """A new node ahead of ``before``, named after it so that it stays with its Keras layer."""
    name = f"{before.name}{suffix}"
    node = ir.node(op, inputs, attributes=attributes or {}, name=name)
    output = node.outputs[0]
    output.name = f"{name}__{op}:{id(output)}"
    output.dtype = before.outputs[0].dtype
    graph.insert_before(before, node)
    return output


def known_shape(value: ir.Value | None) -> list[int | None] | None:
    """The shape of ``value``, None for a dimension that is not fixed; None when its rank is unknown."""
    if value is None or value.shape is None:
        return None
    return [d if isinstance(d, int) else None for d in value.shape]


def axes_of(node: ir.Node) -> list[int] | None:
    """The ``axes`` of a Reduce, Squeeze or Unsqueeze node: an attribute or an input, by opset."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    if len(node.inputs) > 1:
        array = constant(node.inputs[1])
        return None if array is None else [int(a) for a in array.reshape(-1)]
    return None


ELEMENTWISE = frozenset(
    "Relu Sigmoid Tanh Clip LeakyRelu Elu Selu Softplus Softsign HardSigmoid HardSwish Erf Exp Log Neg Abs "
    "Sqrt Reciprocal Identity Cast Gelu Mish ThresholdedRelu Celu Ceil Floor Sign Not".split()
)
"""Operators that act on each element of their first input alone."""

BINARY = frozenset("Add Sub Mul Div Max Min Pow PRelu".split())
"""Operators that act element by element on two broadcast inputs."""


def full_rank(array: Array, rank: int) -> Array | None:
    """``array`` with leading axes of 1 up to ``rank``; None when it has more."""
    if array.ndim > rank:
        return None
    return np.reshape(array, (1,) * (rank - array.ndim) + array.shape)
