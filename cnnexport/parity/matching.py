"""Which tensor of another exporter's file holds which layer's output, told by the numbers where names do not.

Both sides run on the first case. What an order of the axes leaves alone (size, mean, spread, extremes) finds the few
tensors that may be it, and all their numbers decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnexport.errors import InputError
from cnnexport.parity.answers import KerasAnswers
from cnnexport.parity.comparison import Array
from cnnexport.parity.exposed import Exposed
from cnnexport.parity.gate import Criterion
from cnnexport.parity.graph import GraphFacts
from cnnexport.parity.layers import Call, LayerTensor, compare_layers

GROUP_BYTES = 128 << 20
"""Outputs of each side held at a time."""
_TENSORS = 32
_MOST_TRIED = 8
_SLACK = 4.0
"""Times the largest error allowed that the sums over two tensors may lie apart: they only choose what is compared."""


@dataclass(frozen=True)
class _Print:
    """What is the same of a tensor in any order of its axes."""

    size: int
    mean: float
    spread: float
    least: float
    most: float

    def near(self, other: _Print, allowed: float) -> bool:
        """Whether two tensors may hold the same numbers."""
        room = allowed * self.spread
        return self.size == other.size and all(abs(a - b) <= room for a, b in (
            (self.mean, other.mean), (self.spread, other.spread), (self.least, other.least), (self.most, other.most)))


def match_layers(
    model: Any, heads: Sequence[Any], keras: KerasAnswers, facts: GraphFacts, path: Path, criterion: Criterion,
    wanted: Sequence[str], *, limit: int = GROUP_BYTES, scratch: Path | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, str]:
    """The tensors that hold the outputs of the layers ``wanted``, by layer, of those that one holds.

    ``model`` is the Keras model that ``keras`` is of. A layer whose output is one number throughout is not looked for:
    any such tensor would do.
    """
    from cnnexport.parity import live

    varied = [w for w in wanted if (c := keras.calls[w]).count == 1 and c.shape is not None and c.varied]
    inputs = keras.answers[0].case.inputs
    outputs = [port.name for port in facts.outputs]
    names = [name for _, _, made in facts.nodes for name in made if name]
    found: dict[str, str] = {}
    with closing(Exposed(path, outputs, scratch)) as exposed:
        session, present = exposed.session(list(dict.fromkeys(names)))

        def produced(names: Sequence[str]) -> dict[str, Array]:
            try:
                return exposed.run(session, names, inputs, facts.inputs)
            except InputError:  # one that is no tensor, say: the rest may do
                return {} if len(names) == 1 else {k: v for name in names for k, v in produced([name]).items()}

        prints: dict[str, _Print] = {}
        for start in range(0, len(present), _TENSORS):
            progress(f"tensors {start + 1} to {len(present)}")
            for name, array in produced(present[start:start + _TENSORS]).items():
                if (made := _print(array)) is not None:
                    prints[name] = made
        for group, calls in live.run_in_groups(model, heads, inputs, varied, limit, progress):
            for layer in group:
                tensor = _held(calls[layer], prints, produced, criterion)
                if tensor is not None:
                    found[layer] = tensor
    return found


def _held(
    call: Call, prints: dict[str, _Print], produced: Callable[[Sequence[str]], dict[str, Array]], criterion: Criterion
) -> str | None:
    """The tensor nearest to a layer's output, of those that are near enough."""
    own = _print(call.output)
    if own is None or call.output is None:
        return None
    allowed = _SLACK * criterion.tolerance.max_error
    near = [name for name, other in prints.items() if own.near(other, allowed)][:_MOST_TRIED]
    arrays = produced(near) if near else {}
    errors: dict[str, float] = {}
    for name in arrays:
        row = LayerTensor(call.layer, call.kind, name, call.layer, channels_first=len(call.shape or ()) > 2)
        (result,) = compare_layers([row], {call.layer: call}, arrays, criterion.tolerance)
        if result.passed and result.rms_error is not None:
            errors[name] = result.rms_error
    return min(errors, key=errors.__getitem__, default=None)


def _print(array: Array | None) -> _Print | None:
    """The print of a tensor; None of one that holds no numbers, or not finite ones."""
    if array is None or not isinstance(array, np.ndarray) or not array.size or array.dtype.kind not in "fiu":
        return None
    values = array.astype(np.float64, copy=False)
    if not np.isfinite(values).all():
        return None
    return _Print(array.size, float(values.mean()), float(values.std()), float(values.min()), float(values.max()))
