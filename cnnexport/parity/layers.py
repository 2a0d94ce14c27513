"""Which tensor of the ONNX graph holds the output of which Keras layer, and how far apart the two are.

Nodes are named after their layers, so a layer's tensor is the result of its last node. A layer without
nodes was folded into a linear one before it (batch normalisation, scales) or changes nothing (dropout): it shares that
one's tensor, which then holds the output of the last of them. Padding, flattening and what is folded forward go into
the layer after them, which covers them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cnnexport.parity.comparison import Array, compare
from cnnexport.parity.tolerances import Tolerance
from cnnexport.parity.witness import Witness

if TYPE_CHECKING:
    import onnx_ir as ir

_REGROUPING = frozenset({"Flatten", "Reshape", "Permute", "RepeatVector", "Transpose", "Moveaxis", "Swapaxes",
                          "Squeeze", "ExpandDims", "Ravel"})

FOLDED = "in the layer after it"
SCALED = "scaled for the layer after it"
BY_NUMBERS = "matched by its numbers"
REORDERED = "the same values in another order"
ELSEWHERE = (FOLDED, SCALED, REORDERED)
"""Why a layer without a tensor of its own is no fault: what reads it is right."""

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")


@dataclass
class Call:
    """The calls of one leaf layer in one run of a model, in the order of the run.

    ``output`` is an array where it was wanted; ``source`` is the layer whose output is the only input, ``sources`` are
    all whose outputs it reads; ``digest`` is the same for outputs that are equal; ``identity`` tells that input and
    output are equal, ``alive`` that some input is not zero, ``varied`` that the output is not one number throughout.
    """

    layer: str
    kind: str
    count: int = 0
    shape: tuple[int, ...] | None = None
    output: Array | None = None
    source: str | None = None
    sources: tuple[str, ...] = ()
    digest: int | None = None
    identity: bool = False
    alive: bool = False
    varied: bool = False
    linear: bool = True
    weighted: bool = False


@dataclass(frozen=True)
class LayerTensor:
    """A Keras layer and the ONNX tensor that holds its output, or that of ``holds``, a layer folded into it.

    ``tensor`` is None where no tensor holds it; ``reason`` says why. ``channels_first`` tells that the tensor
    has channels second, ``by_numbers`` that not the names told which tensor it is.
    """

    layer: str
    kind: str
    tensor: str | None = None
    holds: str | None = None
    channels_first: bool = False
    reason: str = ""
    by_numbers: bool = False


@dataclass(frozen=True)
class LayerComparison:
    """A layer's output in Keras and in ONNX Runtime; errors in standard deviations of Keras' output.

    ``error`` columns are None where the layer was not compared, for the ``reason`` given. ``relative_error`` is
    the norm of the difference divided by the norm of Keras' output.
    """

    layer: str
    kind: str
    tensor: str | None
    shape: tuple[int, ...] | None
    max_error: float | None
    rms_error: float | None
    relative_error: float | None
    passed: bool | None
    reason: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """What a change of one percent of ``layer``'s weights does to the outputs.

    ``effect`` is in standard deviations of the outputs (root mean square), None where no gradient exists.
    ``seen`` tells that it is above the tolerance; ``covered`` that a tensor it shows in is compared.
    """

    layer: str
    effect: float | None
    seen: bool
    covered: bool


def layer_tensors(
    calls: Mapping[str, Call], nodes: Iterable[tuple[str, str, Sequence[str]]], matched: Mapping[str, str] | None = None
) -> list[LayerTensor]:
    """The map for ``calls`` (in the order of the run); ``nodes`` are (name, operator, outputs) in order.

    ``matched`` are tensors by layer that were told by their numbers.
    """
    matched = matched or {}
    last: dict[str, str] = {}
    makers: dict[str, tuple[str, str]] = {}
    for name, operator, outputs in nodes:
        layer = name.rpartition("/")[0]
        if layer and outputs and operator != "Transpose":
            last[layer] = outputs[0]
            makers[outputs[0]] = operator, layer
    readers = readers_of(calls)
    found: dict[str, LayerTensor] = {}
    holder: dict[str, str] = {}
    for path, call in calls.items():
        row = LayerTensor(path, call.kind)
        source = found.get(call.source) if call.source else None
        if call.count != 1:
            row = replace(row, reason=f"called {call.count} times")
        elif call.shape is None:
            row = replace(row, reason="several outputs")
        elif path in matched:
            row = replace(row, tensor=matched[path], by_numbers=True)
        elif call.kind in _REGROUPING and not call.identity:
            row = replace(row, reason=FOLDED)
        elif path in last:
            row = replace(row, tensor=last[path])
        elif (twin := _twin(call, found, calls)) is not None:
            row = replace(row, tensor=twin.tensor)
        elif source is not None and source.by_numbers:
            # A tensor that holds the numbers of the one before does not hold this one's: they were compared.
            row = replace(row, reason=FOLDED)
        elif call.identity and source is None:
            row = replace(row, reason="at the input")
        elif call.identity or (source is not None and call.shape == calls[source.layer].shape
                               and _takes_back(source, found, calls, makers, readers)):
            assert source is not None
            row = replace(row, tensor=source.tensor, reason=source.reason)
            if not call.identity and makers.get(source.tensor or "", ("", ""))[0] == "Concat":
                for part in calls[source.layer].sources:
                    found[part] = replace(found[part], tensor=None, reason=SCALED)
        else:
            row = replace(row, reason=FOLDED)
        found[path] = row
        if row.tensor is not None:
            holder[row.tensor] = path
    for path, row in found.items() if matched else ():
        behind = [found[reader] for reader in readers.get(path, [])]
        if row.tensor is None and len(behind) == 1 and behind[0].by_numbers and (
                behind[0].kind == "BatchNormalization"):  # folded into what it reads, as our own files have it
            found[path] = replace(row, tensor=behind[0].tensor, reason="")
    return [
        row if row.tensor is None else replace(
            row, holds=holder[row.tensor], channels_first=len(calls[row.layer].shape or ()) > 2)
        for row in found.values()
    ]


def _twin(call: Call, found: Mapping[str, LayerTensor], calls: Mapping[str, Call]) -> LayerTensor | None:
    """An earlier layer that does the same to the same: of such twins only the first keeps its nodes."""
    return next((row for row in found.values() if row.tensor is not None and row.kind == call.kind
                 and calls[row.layer].sources == call.sources and calls[row.layer].digest == call.digest is not None
                 and not call.weighted), None)


def _takes_back(
    row: LayerTensor, found: Mapping[str, LayerTensor], calls: Mapping[str, Call],
    makers: Mapping[str, tuple[str, str]], readers: Mapping[str, Sequence[str]],
) -> bool:
    """Whether a scale or shift behind ``row`` without nodes lies in its tensor: what makes that is linear.

    Behind anything else (an activation, a sum, what others read too) it was folded forward.
    """
    operator, layer = makers.get(row.tensor or "", ("", ""))
    if len(readers.get(row.layer, [])) > 1:
        return False
    if operator == "Concat":
        return all(makers.get(found[part].tensor or "", ("",))[0] in ("Conv", "ConvTranspose")
                   and len(readers[part]) == 1 for part in calls[row.layer].sources)
    # A Dense on more than two axes ends in its bias.
    return operator in _LINEAR or (operator == "Add" and layer in calls and calls[layer].weighted)


def compare_layers(
    rows: Sequence[LayerTensor],
    calls: Mapping[str, Call],
    tensors: Mapping[str, Array],
    allowed: Tolerance,
    *,
    agree: bool = False,
    witnesses: Mapping[str, Witness] | None = None,
) -> list[LayerComparison]:
    """Compare every mapped layer with its tensor; ``tensors`` are ONNX Runtime's by name, ``witnesses`` the truth.

    A layer that its tensor does not hold is no fault if what reads it is right, and the outputs where nothing does: the
    tensor may hold it scaled (a part of the layer after it was folded back) or, where outputs ``agree``, a layer before
    it (what follows was folded forward) or the same values in another order (what was flattened before it lies in
    ONNX's order).
    """
    done: dict[str, LayerComparison] = {}
    members: dict[str, list[LayerTensor]] = {}
    for row in rows:
        if row.tensor is not None:
            members.setdefault(row.tensor, []).append(row)
    for tensor, sharing in members.items():
        kept = [row for row in sharing if row.layer in calls and calls[row.layer].output is not None]
        if tensor not in tensors or not kept or sharing[-1] is not kept[-1]:
            continue
        tried: list[tuple[LayerTensor, LayerComparison]] = []
        for row in reversed(kept if agree else kept[-1:]):
            tried.append((row, _compare(row, calls[row.layer], tensors[tensor], allowed, agree,
                                        (witnesses or {}).get(row.layer))))
            if tried[-1][1].passed is not False:
                break
        row, result = tried[0] if tried[-1][1].passed is False else tried[-1]
        place = sharing.index(row)
        for index, member in enumerate(sharing):
            reason = result.reason or (BY_NUMBERS if member.by_numbers else "" if member is row else f"as {row.layer}")
            done[member.layer] = replace(result, layer=member.layer, kind=member.kind, reason=reason) if (
                index <= place) else _uncompared(member, FOLDED)
    results = []
    for row in rows:
        shape = calls[row.layer].shape if row.layer in calls else None
        if row.layer not in done:
            held = calls.get(row.holds or row.layer)
            missing = row.tensor is not None and held is not None and held.output is not None
            reason = row.reason or ("its tensor is not in the file" if row.tensor else "not compared")
            done[row.layer] = replace(_uncompared(row, reason), passed=False if missing else None)
        results.append(replace(done[row.layer], shape=shape))
    return _forgiven(results, calls, tensors, allowed, agree, witnesses or {})


def _uncompared(row: LayerTensor, reason: str) -> LayerComparison:
    return LayerComparison(row.layer, row.kind, row.tensor, None, None, None, None, None, reason)


def _forgiven(
    results: Sequence[LayerComparison], calls: Mapping[str, Call], tensors: Mapping[str, Array], allowed: Tolerance,
    agree: bool, witnesses: Mapping[str, Witness],
) -> list[LayerComparison]:
    """The results without the failures of layers that no tensor need hold, where every layer that reads them is right.

    Of a layer with weights the tensor must at least be its output scaled; one without has nothing else to be proven.
    """
    readers = readers_of(calls)
    rows = {row.layer: row for row in results}
    right: dict[str, bool] = {}  # whether a layer was compared and is right, or else all that read it are
    for path in reversed(list(calls)):
        call, row = calls[path], rows.get(path)
        # Of what nothing reads only the outputs tell whether it is right.
        read = all(right.get(reader, True) for reader in readers.get(path, [])) and (agree or path in readers)
        if (row is not None and row.passed is False and call.output is not None and row.tensor is not None
                and row.tensor in tensors and read
                and (not call.weighted or _scaled(
                    witnesses.get(path) or Witness(call.output, call.output), tensors[row.tensor], allowed))):
            row = rows[path] = replace(row, passed=None, max_error=None, rms_error=None, relative_error=None,
                                       reason=SCALED if call.weighted else FOLDED)
        right[path] = read if row is None or row.passed is None else row.passed
    return list(rows.values())


def readers_of(calls: Mapping[str, Call]) -> dict[str, list[str]]:
    """The layers that read the output of each."""
    readers: dict[str, list[str]] = {}
    for path, reading in calls.items():
        for source in reading.sources:
            readers.setdefault(source, []).append(path)
    return readers


def covered_layers(
    rows: Sequence[LayerTensor], results: Sequence[LayerComparison], calls: Mapping[str, Call]
) -> set[str]:
    """The layers whose change shows in a tensor that was compared: their own, or those of all that they are part of.

    What was folded forward, scaled or reordered for what is behind it has no tensor that holds its own output.
    """
    holds = {row.layer: row.holds for row in rows}
    readers = readers_of(calls)
    covered: set[str] = set()
    for row in reversed(results):
        call, held = calls.get(row.layer), calls.get(holds.get(row.layer) or "")
        if row.passed:
            shows = call is not None and call.alive and held is not None and (held.linear or held.varied)
        else:
            behind = readers.get(row.layer, [])
            shows = row.passed is None and row.reason in ELSEWHERE and bool(behind) and covered >= {*behind}
        if shows:
            covered.add(row.layer)
    return covered


def _layouts(row: LayerTensor, expected: Array, actual: Array) -> list[Array]:
    """``actual`` in every arrangement of axes that fits ``expected``, the likeliest first."""
    moved = np.moveaxis(actual, 1, -1) if actual.ndim > 2 else actual
    order = (moved, actual) if row.channels_first else (actual, moved)
    fitting = [a for a in order if a.shape == expected.shape]
    if not fitting and actual.size == expected.size and expected.ndim:
        # Regrouped in either layout: ones between, as around a squeeze-and-excite, or groups of channels.
        first = (expected.shape[0], expected.shape[-1], *expected.shape[1:-1]) if expected.ndim > 2 else expected.shape
        inner = actual.reshape(first)
        fitting = [np.moveaxis(inner, 1, -1) if expected.ndim > 2 else inner, actual.reshape(expected.shape)]
    return fitting or [moved]


def _compare(
    row: LayerTensor, call: Call, actual: Array, allowed: Tolerance, agree: bool, witness: Witness | None
) -> LayerComparison:
    assert call.output is not None
    expected = call.output if witness is None else witness.truth
    others = () if witness is None else witness.others
    layouts = _layouts(row, expected, actual)
    if expected.dtype == bool or not np.issubdtype(expected.dtype, np.floating):
        same = any(a.shape == expected.shape and bool((a == expected).all()) for a in layouts)
        error = 0.0 if same else float("inf")
        return LayerComparison(row.layer, row.kind, row.tensor, expected.shape, error, error, error, same)
    result = min((compare(row.layer, "layer", expected, a, allowed=allowed, others=others) for a in layouts),
                 key=lambda c: (not c.passed, c.rms_error))
    norm = float(np.linalg.norm(expected.astype(np.float64).ravel())) if np.isfinite(expected).all() else 0.0
    relative = result.rms_error * (result.spread or 1.0) * np.sqrt(expected.size) / norm if norm else result.rms_error
    if not result.passed and agree and _same_values(expected, actual, allowed, others):
        return LayerComparison(row.layer, row.kind, row.tensor, expected.shape, None, None, None, None, REORDERED)
    return LayerComparison(
        row.layer, row.kind, row.tensor, expected.shape, result.max_error, result.rms_error, float(relative),
        result.passed)


def _scaled(witness: Witness, actual: Array, allowed: Tolerance) -> bool:
    """Whether a tensor is a layer's output but for a factor and a shift of each channel; of few rows, of them all."""
    moved = np.moveaxis(actual, 1, -1) if actual.ndim > 2 else actual
    expected = witness.truth
    if moved.shape != expected.shape or not np.issubdtype(expected.dtype, np.floating) or expected.ndim < 2:
        return False
    a, b, *others = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (moved, expected, *witness.others))
    least = 3 if len(a) > 2 else 8  # any two numbers of a channel fit
    if least == 8:
        a, b, *others = (x.reshape(-1, 1) for x in (a, b, *others))
    if len(a) < least or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    middle, mean = a.mean(0), b.mean(0)
    variance = ((b - mean) ** 2).sum(0)
    factor = np.divide(((a - middle) * (b - mean)).sum(0), variance, out=np.zeros_like(mean), where=variance > 0)
    if not (factor != 0).any():
        return False
    fitted, *others = (((x - mean) * factor + middle).astype(np.float32) for x in (b, *others))
    return compare("", "layer", fitted, a.astype(np.float32), allowed=allowed, others=others).passed


def _same_values(expected: Array, actual: Array, allowed: Tolerance, others: Sequence[Array] = ()) -> bool:
    """Whether each row of the batch holds the same values, in whatever order."""
    if expected.shape[:1] != actual.shape[:1] or expected.size != actual.size or not expected.ndim:
        return False
    a, b, *rest = (np.sort(x.reshape(len(x), -1), -1) for x in (actual, expected, *others))
    return compare("", "layer", b, a, allowed=allowed, others=rest).passed


def first_diverging(results: Sequence[LayerComparison]) -> str | None:
    """The first layer, in the order of the run, whose tensor is not what Keras computes."""
    return next((result.layer for result in results if result.passed is False), None)


def nodes_of(graph: ir.Graph) -> list[tuple[str, str, Sequence[str]]]:
    """(name, operator, outputs) of the nodes of a graph.

    Outputs that something reads come first: of a Loop the first may be its counter, of a Split a part left over.
    """
    return [(n.name or "", n.op_type, [v.name or "" for v in sorted(
        n.outputs, key=lambda v: not (v.is_graph_output() or v.uses()))]) for n in graph]
