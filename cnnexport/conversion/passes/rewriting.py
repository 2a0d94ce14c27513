"""What every pass needs to read and write an ``onnx_ir`` graph."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]

BATCH = "batch"
"""The name of the batch dimension."""

SIZE = "size_"
"""Names for other open sizes while passes run, followed by a number."""

Size = int | ir.SymbolicDim
"""A number, or the name of an open size, or a multiple of one (``3*batch``)."""


def constant(value: ir.Value | None) -> Array | None:
    """The array of an initializer (a view, do not write to it), or None for anything else."""
    if value is None or not value.is_initializer():
        return None
    assert value.const_value is not None
    return value.const_value.numpy()


def nodes(graph: ir.Graph, *ops: str) -> Iterator[ir.Node]:
    """The nodes of these operators; one that is taken out before its turn is left out."""
    for node in list(graph):
        if node.op_type in ops and node.graph is graph:
            yield node


class NodePass(ir.passes.InPlacePass):
    """A pass that looks at each node of some operators by itself; its module says what it makes of them."""

    ops: tuple[str, ...]

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Rewrite ``node`` in place, or leave all as it is and say False."""
        raise NotImplementedError

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = [self.rewrite(model.graph, node) for node in nodes(model.graph, *self.ops)]
        return ir.passes.PassResult(model, any(changed))


def read(node: ir.Node, place: int = 0) -> ir.Value:
    """What ``node`` reads where its operator always reads something."""
    value = node.inputs[place]
    assert value is not None
    return value


def given(node: ir.Node, place: int) -> ir.Value | None:
    """What ``node`` reads at ``place``, None where that is left out."""
    return node.inputs[place] if place < len(node.inputs) else None


def maker(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node of one of these operators that makes ``value``."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in ops else None


def made_alone(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node of one of these operators that makes ``value`` for a single reader."""
    return maker(value, *ops) if value is not None and sole_consumer(value) is not None else None


def read_alone(value: ir.Value, *ops: str) -> ir.Node | None:
    """The node of one of these operators that alone reads ``value``."""
    node = sole_consumer(value)
    return node if node is not None and node.op_type in ops else None


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


def remove_unused(graph: ir.Graph, node: ir.Node) -> None:
    """Remove ``node`` if nothing reads it any more."""
    if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
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
    output.type = before.outputs[0].type
    graph.insert_before(before, node)
    return output


def replace(
    graph: ir.Graph, node: ir.Node, op: str, inputs: list[ir.Value | None], attributes: dict[str, Any] | None = None
) -> bool:
    """Put ``op`` in the place of ``node``, and take out what nothing reads any more."""
    output = insert(graph, node, op, inputs, attributes)
    output.shape = node.outputs[0].shape
    before = [v for v in node.inputs if v is not None]
    bypass(graph, node, output)
    while before:
        made = before.pop().producer()
        if made is not None and made.graph is graph and not made.outputs[0].uses() and (
                not made.outputs[0].is_graph_output()):
            before += [v for v in made.inputs if v is not None]
            graph.remove(made, safe=True)
    return True


def known_shape(value: ir.Value | None) -> list[int | None] | None:
    """The shape of ``value``, None for a dimension that is not fixed; None when its rank is unknown."""
    assert value is not None
    if value.shape is None:
        return None
    return [d if isinstance(d, int) else None for d in value.shape]


def sizes(value: ir.Value | None) -> list[Size] | None:
    """The shape of ``value``; None where a size is not known at all."""
    assert value is not None
    if value.shape is None:
        return None
    found = list(value.shape)
    known = all(isinstance(d, int) or re.fullmatch(rf"(\d+\*)?({BATCH}|{SIZE}\d+)", d.value or "") for d in found)
    return found if known else None


def product(found: Iterable[Size]) -> tuple[int, list[str]]:
    """What sizes multiply to: a number, and the names of the open sizes in it."""
    number, names = 1, []
    for size in found:
        factor, _, name = str(size).rpartition("*")
        number *= int(factor or 1) if isinstance(size, ir.SymbolicDim) else size
        names += [name] if isinstance(size, ir.SymbolicDim) else []
    return number, sorted(names)


def target_of(found: Sequence[Size], source: Sequence[Size]) -> Array | None:
    """The target with which a Reshape of ``source`` makes ``found`` sizes, if a constant can say it."""
    target = [size if isinstance(size, int) else -1 for size in found]
    if 0 in found:
        return None
    for i in range(min(len(found), len(source))):
        # 0 copies a size; one size may be left for -1.
        if target.count(-1) > 1 and target[i] == -1 and found[i] == source[i]:
            target[i] = 0
    return None if target.count(-1) > 1 else np.array(target, np.int64)


def perm_of(node: ir.Node) -> list[int] | None:
    """The permutation of a Transpose that says it, None for any other node."""
    return list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else None


def transposed(value: ir.Value | None) -> tuple[list[int], ir.Value] | None:
    """The permutation and the source of the Transpose that makes ``value``."""
    node = maker(value, "Transpose")
    perm = None if node is None else perm_of(node)
    return None if node is None or perm is None else (perm, read(node))


def inverse_of(perm: list[int]) -> list[int]:
    """The permutation that undoes ``perm``."""
    return [perm.index(i) for i in range(len(perm))]


def to_first(perm: list[int]) -> bool:
    """Whether ``perm`` moves the channels of an image or volume from the last place to the second."""
    rank = len(perm)
    return rank > 3 and perm == [0, rank - 1, *range(1, rank - 1)]


def padded_by_numbers(node: ir.Node) -> bool:
    """Whether ``pads`` alone says how a Conv or pooling node is padded."""
    return node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def pads_of(node: ir.Node, space: int) -> list[int]:
    """The ``pads`` of a node that works on ``space`` axes."""
    return list(node.attributes.get_ints("pads", [0] * 2 * space))


def whole_resize(node: ir.Node) -> bool:
    """Whether a Resize takes one number for each axis, and no region."""
    return "axes" not in node.attributes and (
        node.attributes.get_string("coordinate_transformation_mode") != "tf_crop_and_resize")


def unit_steps(node: ir.Node) -> bool:
    """Whether a Slice takes all between its ends, in order."""
    steps = np.ones(1) if given(node, 4) is None else constant(node.inputs[4])
    return steps is not None and bool((steps == 1).all())


def axes_of(node: ir.Node) -> list[int] | None:
    """The ``axes`` of a Reduce, Squeeze or Unsqueeze node: an attribute or an input, by opset."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    if len(node.inputs) > 1:
        array = constant(node.inputs[1])
        return None if array is None else [int(a) for a in array.reshape(-1)]
    return None


ELEMENTWISE = frozenset({
    "Abs", "Cast", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg",
    "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign",
    "Sqrt", "Tanh", "ThresholdedRelu",
})
"""Operators that act on each element of their first input alone."""

BINARY = frozenset({"Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub"})
"""Operators that act element by element on two broadcast inputs."""


def full_rank(array: Array, rank: int) -> Array | None:
    """``array`` with leading axes of 1 up to ``rank``; None when it has more."""
    if array.ndim > rank:
        return None
    return np.reshape(array, (1,) * (rank - array.ndim) + array.shape)
