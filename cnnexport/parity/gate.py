"""The gate: does an ONNX file compute what Keras answered?

``live.ask`` asks Keras, once, and the model may then be freed; ``graph.graph_facts`` reads a graph; ``judge`` asks a
runtime, and a ``Criterion`` says what is near enough.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from cnnexport import runtimes
from cnnexport.parity.answers import KerasAnswers
from cnnexport.parity.comparison import Array, Comparison, compare, is_softmax, log_probabilities
from cnnexport.parity.exposed import Exposed
from cnnexport.parity.graph import DROPPING, GraphFacts, to_onnx_layout
from cnnexport.parity.inputs import NON_FINITE, Case
from cnnexport.parity.layers import (
    LayerComparison,
    LayerTensor,
    Sensitivity,
    compare_layers,
    first_diverging,
    layer_tensors,
)
from cnnexport.parity.precision import lower_in_file
from cnnexport.parity.tolerances import Tolerance, tolerance


@dataclass(frozen=True)
class Verdict:
    """Whether an ONNX file computes what Keras does, and where it first does not.

    ``lower_precision`` names what in the file is coarser than Keras was asked to compute. ``reason`` says in a word why
    the file did not pass: "different", "precision" or "insensitive".
    """

    comparisons: tuple[Comparison, ...] = ()
    layers: tuple[LayerComparison, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    insensitive: tuple[str, ...] = ()
    lower_precision: str | None = None
    reason: str | None = "different"

    @property
    def passed(self) -> bool:
        return self.reason is None

    @property
    def agree(self) -> bool:
        """Whether the outputs are what Keras computes."""
        return bool(self.comparisons) and all(c.passed for c in self.comparisons)

    @property
    def first_diverging(self) -> str | None:
        """The first layer, in the order of the run, whose tensor is not what Keras computes."""
        return first_diverging(self.layers)


class Criterion(Protocol):
    """What is near enough to Keras."""

    @property
    def tolerance(self) -> Tolerance:
        """The bounds by which tensors are compared."""

    def refuses(self, found: Verdict) -> str | None:
        """Why what was ``found`` does not do, in a word; None where it does."""


@dataclass(frozen=True)
class Numeric:
    """Every number within the tolerance, in the precision asked for, and every weight seen: for the first file."""

    tolerance: Tolerance

    def refuses(self, found: Verdict) -> str | None:
        if not found.agree or any(row.passed is False for row in found.layers):
            return "different"
        if found.lower_precision:
            return "precision"
        return "insensitive" if found.insensitive else None


def numeric(answers: KerasAnswers, facts: GraphFacts) -> Numeric:
    """The criterion for a file in the precision that Keras was asked to compute in."""
    return Numeric(tolerance(answers.precision.compute, facts.terms))


def judge(
    answers: KerasAnswers,
    facts: GraphFacts,
    file: Path,
    criterion: Criterion | None = None,
    *,
    runtime: str = runtimes.DEFAULT,
    scratch: Path | None = None,
) -> Verdict:
    """Run the ONNX ``file`` of ``facts`` in a runtime on the CPU against what Keras answered.

    ``criterion`` is ``numeric`` unless given. A copy of the file is made in the folder ``scratch``, by default beside
    it, for the while. Raises InputError where the runtime cannot load or run the file.
    """
    file, criterion = Path(file), criterion or numeric(answers, facts)
    with closing(Exposed(file, [p.name for p in facts.outputs], scratch, runtime)) as exposed:
        found = Verdict(tuple(_compare_outputs(answers, facts, criterion.tolerance, exposed)),
                        lower_precision=lower_in_file(file, answers.precision))
        layers = _compare_kept_layers(answers, facts, criterion.tolerance, exposed, found.agree)
    return weighed(answers, facts, criterion, found, layers)


def weighed(
    answers: KerasAnswers, facts: GraphFacts, criterion: Criterion, found: Verdict, layers: Sequence[LayerComparison]
) -> Verdict:
    """``found`` with other ``layers`` (from ``stream_layers``), and what that makes of it."""
    sensitivity, insensitive = _weigh(answers, layer_map(answers, facts), layers, criterion.tolerance)
    found = replace(found, layers=tuple(layers), sensitivity=tuple(sensitivity), insensitive=tuple(insensitive))
    return replace(found, reason=criterion.refuses(found))


def layer_map(answers: KerasAnswers, facts: GraphFacts) -> list[LayerTensor]:
    """Which tensor of the file holds which layer's output."""
    return layer_tensors(answers.calls, facts.nodes)


def _weigh(
    keras: KerasAnswers, rows: Sequence[LayerTensor], layers: Sequence[LayerComparison], allowed: Tolerance
) -> tuple[list[Sensitivity], list[str]]:
    """For each weighted layer whether a change is seen in the outputs or in its own; and those where in neither."""
    compared = {row.layer for row in layers if row.passed}
    holds = {row.layer: row.holds for row in rows}
    found, unseen = [], []
    for layer, effect in keras.effects.items():
        call = keras.calls.get(layer)
        held = keras.calls.get(holds.get(layer) or "")
        varied = held is not None and (held.linear or held.varied)
        covered = layer in compared and call is not None and call.alive and varied
        seen = effect is not None and effect > allowed.rms_error
        found.append(Sensitivity(layer, effect, seen, covered))
        # Where nothing is known of the effect, nothing is refused for it.
        if not seen and not covered and effect is not None:
            unseen.append(layer)
    return found, unseen


def _compare_outputs(
    keras: KerasAnswers, facts: GraphFacts, allowed: Tolerance, exposed: Exposed
) -> list[Comparison]:
    tensors = [t if any(r.logits[i] is not None for r in keras.answers) else None
               for i, t in enumerate(facts.logits)]
    wanted = list(dict.fromkeys(t.name for t in tensors if t))
    names = [p.name for p in facts.outputs]
    session, present = exposed.session(wanted)
    tensors = [t if t is not None and t.name in present else None for t in tensors]
    results: list[Comparison] = []
    spreads: dict[tuple[str, str], float] = {}
    for reference in keras.answers:
        produced = exposed.run(session, [*names, *present], reference.case.inputs, facts.inputs)
        for port, value, before, tensor in zip(facts.outputs, reference.outputs, reference.logits, tensors):
            expected, actual = to_onnx_layout(value, port), produced[port.name]
            behind: tuple[str, Array, Array] | None = None
            undefined = facts.undefined.get(port.name, frozenset())
            if tensor is not None and before is not None:
                inner = produced[tensor.name]
                inner = inner if tensor.perm is None else np.transpose(inner, tensor.perm)
                behind = ("logits", to_onnx_layout(before, port), inner)
            elif is_softmax(expected) and expected.shape == actual.shape:
                behind = ("log-probabilities", log_probabilities(expected), log_probabilities(actual))
            spread = None
            if behind is not None:
                own = facts.undefined.get(tensor.name, frozenset()) if tensor is not None else undefined
                results += _by_kind(port.name, *behind, reference.case, spreads, allowed, None, own)
                spread = max(r.spread for r in results if r.output == port.name and r.level == behind[0])
            results += _by_kind(port.name, "output", expected, actual, reference.case, spreads, allowed, spread,
                                undefined)
    del session
    gc.collect()
    return results


def _by_kind(
    name: str,
    level: str,
    expected: Array,
    actual: Array,
    case: Case,
    spreads: dict[tuple[str, str], float],
    allowed: Tolerance,
    logits_spread: float | None,
    undefined: frozenset[str],
) -> list[Comparison]:
    """One comparison for each kind of row; rows of an output without a batch are compared as one."""
    whole = actual.shape != expected.shape or not expected.ndim or expected.shape[0] != case.batch
    if whole or len(set(case.kinds)) == 1:
        result = compare(name, level, expected, actual, allowed=allowed, logits_spread=logits_spread,
                         kind=case.kinds[0] if len(set(case.kinds)) == 1 else "all kinds",
                         least_spread=spreads.get((name, level), 0.0))
        if np.isfinite(result.spread):
            spreads[name, level] = max(spreads.get((name, level), 0.0), result.spread)
        return [result]
    results = []
    for kind in dict.fromkeys(case.kinds):
        rows = [i for i, k in enumerate(case.kinds) if k == kind]
        a, b = expected[rows], actual[rows]
        if kind in NON_FINITE:
            a, b = _forgiven(a, b, undefined)
        results.append(compare(name, level, a, b, allowed=allowed, logits_spread=logits_spread, kind=kind,
                               least_spread=spreads.get((name, level), 0.0), batch=case.batch))
    return results


def _forgiven(expected: Array, actual: Array, undefined: frozenset[str]) -> tuple[Array, Array]:
    """The two as they are to be compared where ``undefined`` operators have seen numbers that are not finite.

    Without such operators both sides must agree in every place. TensorFlow's and ONNX Runtime's maximum may drop a
    NaN, each in windows of its own, so that what follows is finite and different; then it is an error only where
    Keras has lost numbers of a row and ONNX Runtime none. A global maximum, or an LSTM, leaves not even that.
    """
    if not undefined or expected.shape != actual.shape or not np.issubdtype(expected.dtype, np.floating):
        return expected, actual
    axes = tuple(range(1, expected.ndim))
    hidden = (~np.isfinite(expected)).any(axes, keepdims=True) & np.isfinite(actual).all(axes, keepdims=True)
    if undefined & DROPPING:
        hidden = np.zeros_like(hidden)
    return np.where(hidden, expected, 0).astype(expected.dtype), np.where(hidden, actual, 0).astype(actual.dtype)


def _compare_kept_layers(
    keras: KerasAnswers, facts: GraphFacts, allowed: Tolerance, exposed: Exposed, agree: bool
) -> list[LayerComparison]:
    rows = layer_map(keras, facts)
    wanted = [t for t in dict.fromkeys(r.tensor for r in rows if r.tensor) if t is not None]
    if not wanted:
        return compare_layers(rows, keras.calls, {}, allowed)
    session, present = exposed.session(wanted)
    produced = exposed.run(session, present, keras.answers[0].case.inputs, facts.inputs)
    return compare_layers(rows, keras.calls, produced, allowed, any_order=agree)
