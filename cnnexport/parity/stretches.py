"""A large functional network run in stretches, so that a backward pass holds the tensors of one at a time.

A gradient needs what the forward pass made: of EfficientNet-B7 four gigabytes for one image. Here only the tensors
between stretches are kept, and each stretch is run once more for its gradients (Chen et al., Training Deep Nets with
Sublinear Memory Cost, 2016).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cnnexport.keras_files import internals
from cnnexport.parity.inputs import OPEN_SIZE

BYTES = 192 << 20
"""A network whose layers give out no more is one stretch."""


@dataclass(frozen=True)
class Stretch:
    """Calls of a graph, one after the other; the ids of the symbols that they ``need`` of others, and ``give`` them.

    ``variables`` are those of its layers.
    """

    nodes: tuple[Any, ...]
    needs: tuple[int, ...]
    gives: tuple[int, ...]

    @property
    def variables(self) -> dict[int, Any]:
        return {id(v): v for node in self.nodes for v in getattr(node.operation, "variables", ())}


def stretches(graph: Any, rows: int, least: int = BYTES) -> list[Stretch]:
    """The calls of a functional ``graph`` for a batch of ``rows``, cut so that the least is held at once."""
    nodes = internals.calls(graph)
    ends = {id(x) for x in graph.outputs}
    last = {id(x): index for index, node in enumerate(nodes) for x in node.input_tensors}
    made = [sum(_bytes(x, rows) for x in node.outputs) for node in nodes]
    between, live = [], 0  # bytes that live on after each call
    for index, node in enumerate(nodes):
        live += sum(_bytes(x, rows) for x in node.outputs if id(x) in last or id(x) in ends)
        live -= sum(_bytes(x, rows) for x in {id(x): x for x in node.input_tensors}.values()
                    if last[id(x)] == index and id(x) not in ends)
        between.append(live)
    tried = [_cuts(made, between, most) for most in (least << n for n in range(6))] if sum(made) > least else [[]]
    cuts = min(tried, key=lambda cuts: sum(between[cut - 1] for cut in cuts) + max(
        sum(made[first:after]) for first, after in _spans(cuts, len(nodes))))
    found = []
    for first, after in _spans(cuts, len(nodes)):
        inside = {id(x) for node in nodes[first:after] for x in node.outputs}
        needs = dict.fromkeys(id(x) for node in nodes[first:after] for x in node.input_tensors if id(x) not in inside)
        gives = tuple(i for i in inside if i in ends or last.get(i, -1) >= after)
        found.append(Stretch(tuple(nodes[first:after]), tuple(needs), gives))
    return found


def _spans(cuts: Sequence[int], end: int) -> Iterator[tuple[int, int]]:
    return zip([0, *cuts], [*cuts, end])


def _cuts(made: Sequence[int], between: Sequence[int], most: int) -> list[int]:
    """Where to cut so that about ``most`` bytes are made from one cut to the next, and few live on there."""
    cuts: list[int] = []
    start = 0
    while True:
        total = 0
        for end in range(start, len(made)):
            total += made[end]
            if total > most and end > start:
                break
        else:
            return cuts
        start = min(range((start + end) // 2, end), key=between.__getitem__) + 1
        cuts.append(start)


def _bytes(symbol: Any, rows: int) -> int:
    return 4 * rows * math.prod(OPEN_SIZE if d is None else d for d in symbol.shape[1:])


def run(stretch: Stretch, tensors: dict[int, Any]) -> dict[int, Any]:
    """What a stretch gives at inference, from the ``tensors`` that it needs."""
    held = {i: tensors[i] for i in stretch.needs}
    for node in stretch.nodes:
        internals.run_node(node, held, _at_inference)
    return {i: held[i] for i in stretch.gives}


def _at_inference(operation: Any) -> Callable[..., Any]:
    if "training" not in inspect.signature(operation.call).parameters:
        return operation  # type: ignore[no-any-return]

    def call(*args: Any, **kwargs: Any) -> Any:
        return operation(*args, **{**kwargs, "training": False})

    return call
