"""The activation that ends a Keras model: found, left out for logits, or looked behind for comparison.

Probabilities hide errors: logits are what two runtimes must agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from cnnexport.errors import InputError
from cnnexport.keras_files import internals
from cnnexport.text import free_name

PROBABILITIES = frozenset({"softmax", "sigmoid", "log_softmax", "hard_sigmoid"})
"""Activations whose outputs are called ``probabilities``."""

_PASSING = frozenset({"Activation", "Softmax", "Sigmoid", "ReLU", "LogSoftmax", "Tanh", "HardSigmoid"})
"""Layers and operations that are an activation and nothing else."""


@dataclass(frozen=True)
class Head:
    """The activation before one output: its Keras name, the layer or operation that applies it, and where.

    ``separate`` tells an activation that is a layer of its own from one that belongs to a Dense or Conv.
    """

    activation: str
    operation: Any
    separate: bool
    uses: int


@dataclass(frozen=True)
class Ending:
    """The heads of a model's outputs, in order: those that are ``kept``, None for those that were ``dropped``."""

    kept: list[Head | None]
    dropped: bool


@contextmanager
def ended(model: Any, *, logits: bool, own: bool) -> Iterator[Ending]:
    """End ``model`` while the block runs as a conversion with these options ends it.

    ``logits`` asks for no final activations; an architecture is built without them, so that they are left out only of
    a model that is the user's ``own``. Raises as ``without``.
    """
    found = heads(model)
    dropped = logits and own
    with without(found) if dropped else nullcontext():
        yield Ending([None] * len(found) if dropped else found, dropped)


def heads(model: Any) -> list[Head | None]:
    """The head of each output of ``model``, in order; None where an output ends in no activation."""
    import keras

    outputs = getattr(model, "outputs", None)
    return [_head(model, tensor) for tensor in keras.tree.flatten(outputs)] if outputs else []


def _head(model: Any, tensor: Any) -> Head | None:
    import keras

    origin = internals.made_by(tensor)
    if origin is None:
        return None
    operation, index = origin
    if (graph := internals.graph_of(operation)) is not None:
        return _head(operation, keras.tree.flatten(graph.outputs)[index])
    uses = sum(node.operation is operation for node in internals.nodes(model))
    kind = type(operation).__name__
    if kind in _PASSING and kind != "Activation":
        names = {"ReLU": "relu", "LogSoftmax": "log_softmax", "HardSigmoid": "hard_sigmoid"}
        return Head(names.get(kind, kind.lower()), operation, True, uses)
    if isinstance(operation, keras.layers.RNN):
        return None  # its activation is that of each step, inside
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", None)
    if not callable(activation) or name in (None, "linear"):
        return None
    return Head(str(name), operation, kind == "Activation", uses)


def output_names(model: Any, found: Sequence[Head | None], *, features: bool = False) -> list[str]:
    """``probabilities``, ``logits`` or ``features`` for a single output; Keras' own names for several.

    ``found`` are the heads that the conversion keeps; ``features`` says that the model has no top.
    """
    import keras

    tensors = keras.tree.flatten(getattr(model, "outputs", None) or [])
    if len(tensors) == 1:
        head = found[0]
        if features:
            return ["features"]
        if head is not None and head.activation in PROBABILITIES:
            return ["probabilities"]
        origin = internals.made_by(tensors[0])
        recurrent = origin is not None and isinstance(origin[0], (keras.layers.RNN, keras.layers.Bidirectional))
        return ["logits" if len(tensors[0].shape) == 2 and head is None and not recurrent else "features"]
    names = [str(n) for n in getattr(model, "output_names", None) or []]
    if len(names) != len(tensors):
        names = [t.name.split(":")[0] for t in tensors]
    unique: list[str] = []
    for name in names:
        unique.append(free_name(name, unique))
    return unique


@contextmanager
def without(found: Sequence[Head | None]) -> Iterator[None]:
    """Leave the activations of ``found`` out of their model while the block runs.

    Raises:
        InputError: a head's layer is used elsewhere in the model too, where its activation must stay.
    """
    import keras

    with ExitStack() as stack:
        for head in {id(h.operation): h for h in found if h is not None}.values():
            if head.uses > 1:
                raise InputError(f"layer '{head.operation.name}' is used {head.uses} times, so its final activation "
                                 "cannot be left out for the output alone; convert without --logits")
            if head.separate:
                stack.enter_context(internals.replaced(head.operation, "call", lambda x, *args, **kwargs: x))
            else:
                stack.enter_context(internals.replaced(head.operation, "activation", keras.activations.linear))
        yield


@contextmanager
def recording(found: Sequence[Head | None]) -> Iterator[list[tuple[Any, Any]]]:
    """Yield a list that collects (before, after) of the activations of ``found`` while the block runs."""
    records: list[tuple[Any, Any]] = []

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Any, *args: Any, **kwargs: Any) -> Any:
            result = function(x, *args, **kwargs)
            records.append((x, result))
            return result

        run.__name__ = getattr(function, "__name__", "call")
        return run

    with ExitStack() as stack:
        for head in {id(h.operation): h for h in found if h is not None}.values():
            name = "call" if head.separate else "activation"
            changed = recorded(getattr(head.operation, name))
            stack.enter_context(internals.replaced(head.operation, name, changed))
        yield records
