"""What is known of the truth of a tensor, and of how far from it any float32 may be. ``truth`` finds it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cnnexport.parity.comparison import Array

if TYPE_CHECKING:
    from cnnexport.parity.layers import Call

FLOAT64, ROUNDING = "float64", "rounding"


@dataclass(frozen=True)
class Witness:
    """One tensor twice: what it ought to be, and another computation of it that is as good as any in float32.

    The others are Keras' answers with inputs and weights moved by up to half a unit in the last place. Of a truth in
    "float64" that is the network in float64, and Keras' own answer one more of the others: a single one may be lucky.
    Of one by "rounding" the truth is Keras' answer. ``keras`` is Keras' answer of either.
    """

    keras: Array
    truth: Array
    others: tuple[Array, ...] = ()

    def each(self, change: Callable[[Array], Array]) -> Witness:
        """The same of what ``change`` makes of each array; Keras' answer alone where the truth is finite elsewhere."""
        keras = change(self.keras)
        if self.others and not np.array_equal(np.isfinite(self.truth), np.isfinite(self.keras)):
            return Witness(keras, keras)
        return Witness(keras, change(self.truth), tuple(map(change, self.others)))


@dataclass(frozen=True)
class Truth:
    """The witnesses of a model's outputs and logits, by case and output, and of its layers on the first case."""

    how: str
    outputs: Mapping[int, list[Witness]] = field(default_factory=dict)
    logits: Mapping[int, list[Witness | None]] = field(default_factory=dict)
    layers: Mapping[str, Witness] = field(default_factory=dict)


class Teller(Protocol):
    """Gives the truth of the cases with these numbers, and of these layers; ``calls`` are the answers' unless given."""

    def __call__(
        self, cases: Sequence[int], layers: Sequence[str], calls: Mapping[str, Call] | None = None
    ) -> Truth: ...
