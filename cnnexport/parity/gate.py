"""The gate: does an ONNX file compute what Keras answered?

``live.ask`` asks Keras, once, and the model may then be freed; ``graph.graph_facts`` reads a graph; ``judge`` asks a
runtime, and a ``Criterion`` says what is near enough.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from cnnexport import memory, runtimes
from cnnexport.errors import InputError
from cnnexport.parity.answers import KerasAnswers
from cnnexport.parity.comparison import ILL, Array, Comparison, compare, is_softmax, log_probabilities
from cnnexport.parity.exposed import Exposed
from cnnexport.parity.graph import DROPPING, GraphFacts, to_onnx_layout
from cnnexport.parity.inputs import NON_FINITE, SIZED, Case
from cnnexport.parity.layers import (
    Call,
    LayerComparison,
    LayerTensor,
    Sensitivity,
    compare_layers,
    covered_layers,
    first_diverging,
    layer_tensors,
    readers_of,
)
from cnnexport.parity.precision import lower_in_file
from cnnexport.parity.tolerances import Tolerance, tolerance
from cnnexport.parity.witness import Teller, Truth, Witness

DID_NOT_RUN = "whether it runs at that size"
COARSE = 8.0
"""Times the allowed error that a runtime's optimised kernels may be off where the file is right without them."""


@dataclass(frozen=True)
class Verdict:
    """Whether an ONNX file computes what Keras does, and where it first does not.

    ``lower_precision`` names what in the file is coarser than Keras was asked to compute. ``reason`` says in a word why
    the file did not pass: "different", "precision" or "insensitive". ``optimiser`` tells what the runtime's graph
    optimisation makes of a file that is right without it: "coarse" within what its kernels round, "wrong" beyond.
    """

    comparisons: tuple[Comparison, ...] = ()
    layers: tuple[LayerComparison, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    insensitive: tuple[str, ...] = ()
    lower_precision: str | None = None
    reason: str | None = "different"
    optimiser: str | None = None

    @property
    def passed(self) -> bool:
        return self.reason is None

    @property
    def agree(self) -> bool:
        """Whether the outputs are what Keras computes."""
        telling = {c.output for c in self.comparisons if not c.ill}
        return bool(self.comparisons) and all(c.passed for c in self.comparisons) and telling == {
            c.output for c in self.comparisons}

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
    return Numeric(tolerance(answers.precision.compute, facts.terms, facts.longest))


def judge(
    answers: KerasAnswers,
    facts: GraphFacts,
    file: Path,
    criterion: Criterion | None = None,
    *,
    runtime: str = runtimes.DEFAULT,
    scratch: Path | None = None,
    tell: Teller | None = None,
) -> Verdict:
    """Run the ONNX ``file`` of ``facts`` in a runtime on the CPU against what Keras answered.

    ``criterion`` is ``numeric`` unless given. A copy of the file is made in the folder ``scratch``, by default beside
    it, for the while. ``tell`` gives the truth where the criterion's bounds are not kept: then the file may be off by
    FACTOR times what Keras is. Raises InputError where the runtime cannot load or run the file.
    """
    file, criterion = Path(file), criterion or numeric(answers, facts)
    with closing(Exposed(file, [p.name for p in facts.outputs], scratch, runtime)) as exposed:
        produced = _produced(answers, facts, exposed)
        found = Verdict(tuple(_compare_outputs(answers, facts, criterion.tolerance, produced)),
                        lower_precision=lower_in_file(file, answers.precision))
        cases = _doubtful_cases(answers, found)
        truth = tell(cases, []) if tell is not None and cases else None
        if truth is not None:
            found = replace(found, comparisons=tuple(
                _compare_outputs(answers, facts, criterion.tolerance, produced, truth)))
        if tell is not None and not found.agree and runtime == runtimes.DEFAULT:
            produced = _produced(answers, facts, exposed, optimised=False)
            found = _told_apart(found, _compare_outputs(answers, facts, criterion.tolerance, produced, truth))
        # Which tensor a layer is read from depends on whether the outputs agree: the truth of these is asked first.
        layers = _compare_kept_layers(answers, facts, criterion.tolerance, exposed, found.agree)
        if tell is not None and (names := _doubtful_layers(found, layers)):
            layers = _compare_kept_layers(answers, facts, criterion.tolerance, exposed, found.agree, tell([], names))
    return weighed(answers, facts, criterion, found, layers)


def _hopeless(found: Verdict) -> bool:
    """Whether outputs differ so that no truth could let them pass: shapes, numbers that are not finite, far images."""
    return any(not c.passed and (not np.isfinite(c.max_error) or (c.kind == "image" and c.rms_error > ILL))
               for c in found.comparisons)


def _doubtful_cases(answers: KerasAnswers, found: Verdict) -> list[int]:
    """The cases that did not keep the bounds, as far as another bound could let them pass."""
    batches = {(c.batch, c.kind) for c in found.comparisons if not c.passed}
    return [] if _hopeless(found) else [i for i, a in enumerate(answers.answers) if any(
        (a.case.batch, kind) in batches for kind in (*a.case.kinds, "all kinds"))]


def _doubtful_layers(found: Verdict, layers: Sequence[LayerComparison]) -> list[str]:
    """The layers that did not keep the bounds and those of their tensors; none where the file is wrong elsewhere too.

    Where outputs agree, a layer that has another shape than its tensor is right if those that read it are.
    """
    failed = [row for row in layers if row.passed is False]
    near = [row for row in failed if row.max_error is not None and np.isfinite(row.max_error)]
    if _hopeless(found) or (near != failed and not found.agree):
        return []
    return of_their_tensors(near, layers)


def of_their_tensors(rows: Sequence[LayerComparison], layers: Sequence[LayerComparison]) -> list[str]:
    """The layers that share the tensors of ``rows``: one that passes elsewhere may be what a tensor was compared with.
    """
    tensors = {row.tensor for row in rows}
    return [row.layer for row in layers if row.tensor in tensors]


def _told_apart(found: Verdict, plain: Sequence[Comparison]) -> Verdict:
    """What to make of outputs that are right only where the runtime does not optimise the graph.

    Kernels that are merely coarser than Keras' leave a right file right; numbers that are further off than rounding
    could bring them are wrong wherever the file runs.
    """
    if not plain or not all(c.passed for c in plain):
        return found
    coarse = all(c.passed or (c.allowed_error is not None and c.max_error <= COARSE * c.allowed_error
                              and c.rms_error <= COARSE * (c.allowed_rms_error or 0)) for c in found.comparisons)
    if not coarse:
        return replace(found, optimiser="wrong")
    return replace(found, optimiser="coarse", comparisons=tuple(
        replace(c, passed=True) for c in found.comparisons))


def weighed(
    answers: KerasAnswers, facts: GraphFacts, criterion: Criterion, found: Verdict, layers: Sequence[LayerComparison]
) -> Verdict:
    """``found`` with other ``layers`` (from ``stream_layers``), and what that makes of it."""
    sensitivity, insensitive = _weigh(answers, layer_map(answers, facts), layers, criterion.tolerance)
    found = replace(found, layers=tuple(layers), sensitivity=tuple(sensitivity), insensitive=tuple(insensitive))
    return replace(found, reason=criterion.refuses(found))


def left_open(found: Verdict, answers: KerasAnswers, facts: GraphFacts) -> list[str]:
    """Layers that memory did not hold the outputs of at first, and that settle what the ``found`` verdict is about.

    Which layer first differs where outputs do, and whether a weight that no output shows is right.
    """
    settling: dict[str, None] = {}
    rows = layer_map(answers, facts)
    holders = {row.layer: row.holds or row.layer for row in rows}  # whose output is compared for it
    if found.reason == "different" and found.first_diverging is None:
        settling = dict.fromkeys(answers.calls)
    elif found.reason == "insensitive":
        # What has no tensor of its own shows in those of what reads it.
        homeless = {row.layer for row in rows if row.tensor is None}
        readers, left = readers_of(answers.calls), list(found.insensitive)
        while left:
            if (layer := left.pop()) not in settling:
                settling[layer] = None
                if layer in homeless:
                    left += readers.get(layer, [])
    return [layer for layer in settling if answers.calls[holders.get(layer, layer)].output is None]


def held_bytes(rows: Sequence[LayerTensor], calls: Mapping[str, Call]) -> dict[str, int]:
    """The bytes of each tensor that holds a layer whose output is known, by its name, in the order of the run."""
    sizes: dict[str, int] = {}
    for row in rows:
        output = calls[row.layer].output
        if row.tensor is not None and output is not None:
            sizes[row.tensor] = max(output.nbytes, sizes.get(row.tensor, 0))
    return sizes


def layer_map(answers: KerasAnswers, facts: GraphFacts) -> list[LayerTensor]:
    """Which tensor of the file holds which layer's output."""
    return layer_tensors(answers.calls, facts.nodes, facts.matched)


def _weigh(
    keras: KerasAnswers, rows: Sequence[LayerTensor], layers: Sequence[LayerComparison], allowed: Tolerance
) -> tuple[list[Sensitivity], list[str]]:
    """For each weighted layer whether a change shows in the outputs or in a compared tensor; and those of neither."""
    compared = covered_layers(rows, layers, keras.calls)
    found, unseen = [], []
    for layer, effect in keras.effects.items():
        covered = layer in compared
        seen = effect is not None and effect > allowed.rms_error
        found.append(Sensitivity(layer, effect, seen, covered))
        # Where nothing is known of the effect, nothing is refused for it.
        if not seen and not covered and effect is not None:
            unseen.append(layer)
    return found, unseen


def _produced(
    keras: KerasAnswers, facts: GraphFacts, exposed: Exposed, *, optimised: bool = True
) -> list[dict[str, Array] | None]:
    """The file's outputs and logits by name for each case; None for a size that it does not run at."""
    wanted = [t.name for i, t in enumerate(facts.logits)
              if t is not None and any(r.logits[i] is not None for r in keras.answers)]
    session, present = exposed.session(list(dict.fromkeys(wanted)), optimised=optimised)
    results: list[dict[str, Array] | None] = []
    for reference in keras.answers:
        try:
            results.append(exposed.run(session, [*(p.name for p in facts.outputs), *present], reference.case.inputs,
                                       facts.inputs))
        except InputError:
            if not reference.case.kinds[0].startswith(SIZED):
                raise
            results.append(None)
    del session
    memory.give_back()
    return results


def _compare_outputs(
    keras: KerasAnswers, facts: GraphFacts, allowed: Tolerance, ran: Sequence[dict[str, Array] | None],
    truth: Truth | None = None,
) -> list[Comparison]:
    results: list[Comparison] = []
    spreads: dict[tuple[str, str], float] = {}
    how = truth.how if truth is not None else None
    for number, (reference, produced) in enumerate(zip(keras.answers, ran, strict=True)):
        if produced is None:
            results += [_did_not_run(port.name, reference.case) for port in facts.outputs]
            continue
        outputs = [Witness(y, y) for y in reference.outputs]
        logits = [None if y is None else Witness(y, y) for y in reference.logits]
        if truth is not None and number in truth.outputs:
            outputs, logits = truth.outputs[number], truth.logits[number]
        for port, value, before, tensor in zip(facts.outputs, outputs, logits, facts.logits):
            layout = functools.partial(to_onnx_layout, port=port)
            expected, actual = value.each(layout), produced[port.name]
            behind: tuple[str, Witness, Array] | None = None
            undefined = facts.undefined.get(port.name, frozenset())
            if tensor is not None and before is not None and tensor.name in produced:
                inner = produced[tensor.name]
                inner = inner if tensor.perm is None else np.transpose(inner, tensor.perm)
                behind = ("logits", before.each(layout), inner)
            elif is_softmax(expected.keras) and expected.keras.shape == actual.shape:
                behind = ("log-probabilities", expected.each(log_probabilities), log_probabilities(actual))
            spread = None
            if behind is not None:
                own = facts.undefined.get(tensor.name, frozenset()) if tensor is not None else undefined
                results += _by_kind(port.name, *behind, reference.case, spreads, allowed, None, own, how)
                spread = max(r.spread for r in results if r.output == port.name and r.level == behind[0])
            results += _by_kind(port.name, "output", expected, actual, reference.case, spreads, allowed, spread,
                                undefined, how)
    return results


def _did_not_run(name: str, case: Case) -> Comparison:
    """An output of a size that Keras takes and the file does not."""
    none = float("inf")
    return Comparison(name, "output", case.batch, 0.0, none, none, none, None, None, False, case.kinds[0],
                      failed=DID_NOT_RUN)


def _by_kind(
    name: str,
    level: str,
    expected: Witness,
    actual: Array,
    case: Case,
    spreads: dict[tuple[str, str], float],
    allowed: Tolerance,
    logits_spread: float | None,
    undefined: frozenset[str],
    how: str | None,
) -> list[Comparison]:
    """One comparison for each kind of row; rows of an output without a batch are compared as one."""
    said = expected.keras
    whole = actual.shape != said.shape or not said.ndim or said.shape[0] != case.batch
    if whole or len(set(case.kinds)) == 1:
        result = compare(name, level, expected.truth, actual, allowed=allowed, logits_spread=logits_spread,
                         kind=case.kinds[0] if len(set(case.kinds)) == 1 else "all kinds",
                         least_spread=spreads.get((name, level), 0.0), others=expected.others, truth=how)
        if np.isfinite(result.spread):
            spreads[name, level] = max(spreads.get((name, level), 0.0), result.spread)
        return [result]
    results = []
    for kind in dict.fromkeys(case.kinds):
        rows = [i for i, k in enumerate(case.kinds) if k == kind]
        one, b = expected.each(lambda array, rows=rows: array[rows]), actual[rows]  # type: ignore[misc]
        if kind in NON_FINITE:
            a, b = _forgiven(one.keras, b, undefined)
            one = Witness(a, a)
        results.append(compare(
            name, level, one.truth, b, allowed=allowed, logits_spread=logits_spread, kind=kind,
            least_spread=spreads.get((name, level), 0.0), batch=case.batch, others=one.others, truth=how))
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
    keras: KerasAnswers, facts: GraphFacts, allowed: Tolerance, exposed: Exposed, agree: bool,
    truth: Truth | None = None,
) -> list[LayerComparison]:
    rows = layer_map(keras, facts)
    inside = exposed.inside(held_bytes(rows, keras.calls), keras.answers[0].case.inputs, facts.inputs)
    return compare_layers(rows, keras.calls, inside, allowed, agree=agree,
                          witnesses=None if truth is None else truth.layers)
