"""What only Keras knows of a model: its answers to every case, its layers' outputs, the effect of their weights.

Arrays and names that outlive the model: one set of answers judges any number of files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cnnexport.parity.comparison import Array
from cnnexport.parity.inputs import Case
from cnnexport.parity.layers import Call
from cnnexport.parity.precision import Precision


@dataclass(frozen=True)
class CaseAnswer:
    """What Keras computes for one case, in Keras' layouts; ``logits[i]`` is output *i* before its activation."""

    case: Case
    outputs: list[Array]
    logits: list[Array | None]


@dataclass(frozen=True)
class KerasAnswers:
    """All that Keras has to say about a model.

    ``calls`` are its leaf layers with their outputs on the first case, ``effects`` what a change of each one's weights
    does to the outputs; ``activations`` names the final activation of each output, None where it has none.
    """

    answers: list[CaseAnswer]
    activations: tuple[str | None, ...] = ()
    calls: dict[str, Call] = field(default_factory=dict)
    effects: dict[str, float | None] = field(default_factory=dict)
    precision: Precision = field(default_factory=Precision)
