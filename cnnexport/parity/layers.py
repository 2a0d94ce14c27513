"""Which tensor of the ONNX graph holds the output of which Keras layer, and how far apart the two are.

Nodes are named after their layers, so a layer's tensor is the result of its last node. A layer without
nodes was folded into the one before it (batch normalisation, scales) or changes nothing (dropout): it shares that
one's tensor, which then holds the output of the last of them. Padding and flattening go into the layer
after them, which covers them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cnnexport.parity.comparison import Array, compare
from cnnexport.parity.tolerances import Tolerance

_REGROUPING = frozenset({"Flatten", "Reshape", "Permute", "RepeatVector", "Transpose", "Moveaxis", "Swapaxes",
                          "Squeeze", "ExpandDims", "Ravel"})


@dataclass
class Call:
    """The calls of one leaf layer in one run of a model, in the order of the run.

    ``output`` is an array where it was wanted; ``source`` is the layer whose output is the only input;
    ``identity`` tells that input and output are equal, ``alive`` that some input is not zero, ``varied`` that
    the output is not one number throughout.
    """

    layer: str
    kind: str
    count: int = 0
    shape: tuple[int, ...] | None = None
    output: Array | None = None
    source: str | None = None
    identity: bool = False
    alive: bool = False
    varied: bool = False
    linear: bool = True
    weighted: bool = False


@dataclass(frozen=True)
class LayerTensor:
    """A Keras layer and the ONNX tensor that holds its output, or that of ``holds``, a layer folded into it.

    ``tensor`` is None where no tensor holds it; ``reason`` says why. ``channels_first`` tells that the tensor
    has channels second.
    """

    layer: str
    kind: str
    tensor: str | None = None
    holds: str | None = None
    channels_first: bool = False
    reason: str = ""


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
    ``seen`` tells that it is above the tolerance; ``covered`` that the layer's own output is compared.
    """

    layer: str
    effect: float | None
    seen: bool
    covered: bool


def layer_tensors(calls: Mapping[str, Call], nodes: Iterable[tuple[str, str, Sequence[str]]]) -> list[LayerTensor]:
    """The map for ``calls`` (in the order of the run); ``nodes`` are (name, operator, outputs) in order."""
    last: dict[str, str] = {}
    for name, operator, outputs in nodes:
        layer = name.rpartition("/")[0]
        if layer and outputs and operator != "Transpose":
            last[layer] = outputs[0]
    found: dict[str, LayerTensor] = {}
    holder: dict[str, str] = {}
    for path, call in calls.items():
        row = LayerTensor(path, call.kind)
        source = found.get(call.source) if call.source else None
        if call.count != 1:
            row = replace(row, reason=f"called {call.count} times")
        elif call.shape is None:
            row = replace(row, reason="several outputs")
        elif call.kind in _REGROUPING and not call.identity:
            row = replace(row, reason="in the layer after it")
        elif path in last:
            row = replace(row, tensor=last[path])
        elif call.identity or _folded_back(call, source, calls):
            shared = source.tensor if source is not None else None
            row = replace(row, tensor=shared, reason="" if shared else "at the input")
        else:
            row = replace(row, reason="in the layer after it")
        found[path] = row
        if row.tensor is not None:
            holder[row.tensor] = path
    return [
        row if row.tensor is None else replace(
            row, holds=holder[row.tensor], channels_first=len(calls[row.layer].shape or ()) > 2)
        for row in found.values()
    ]


def _folded_back(call: Call, source: LayerTensor | None, calls: Mapping[str, Call]) -> bool:
    """Whether a layer without nodes lies in the one before it: a batch normalisation, or any other scale or shift.

    Padding and cropping change the size; they go into the layer after.
    """
    if call.kind == "BatchNormalization":
        return True
    return source is not None and source.tensor is not None and call.shape == calls[source.layer].shape


def compare_layers(
    rows: Sequence[LayerTensor],
    calls: Mapping[str, Call],
    tensors: Mapping[str, Array],
    allowed: Tolerance,
    *,
    any_order: bool = False,
) -> list[LayerComparison]:
    """Compare every mapped layer with its tensor; ``tensors`` are ONNX Runtime's by name.

    ``any_order`` forgives a tensor whose rows hold the same values in another order: what was flattened before it lies
    in ONNX's order, and the layer after it follows. Only where the outputs agree is that no fault.
    """
    results = []
    done: dict[str, LayerComparison] = {}
    for row in rows:
        call = calls.get(row.holds or row.layer)
        shape = calls[row.layer].shape if row.layer in calls else None
        if row.tensor is None or call is None or call.output is None or row.tensor not in tensors:
            reason = row.reason or ("its tensor is not in the file" if row.tensor else "not compared")
            missing = row.tensor is not None and call is not None and call.output is not None
            results.append(LayerComparison(
                row.layer, row.kind, row.tensor, shape, None, None, None, False if missing else None, reason))
            continue
        if row.tensor not in done:
            done[row.tensor] = _compare(row, call.output, tensors[row.tensor], allowed, any_order)
        folded = f"as {row.holds}" if row.holds != row.layer else ""
        results.append(replace(done[row.tensor], layer=row.layer, kind=row.kind, shape=shape, reason=folded))
    return results


def _compare(
    row: LayerTensor, expected: Array, actual: Array, allowed: Tolerance, any_order: bool
) -> LayerComparison:
    moved = np.moveaxis(actual, 1, -1) if actual.ndim > 2 else actual
    if actual.ndim > 2 and (moved.shape != expected.shape or not row.channels_first):
        moved = actual if actual.shape == expected.shape else moved
    if expected.dtype == bool or not np.issubdtype(expected.dtype, np.floating):
        same = moved.shape == expected.shape and bool((moved == expected).all())
        error = 0.0 if same else float("inf")
        return LayerComparison(row.layer, row.kind, row.tensor, expected.shape, error, error, error, same)
    result = compare(row.layer, "layer", expected, moved, allowed=allowed)
    norm = float(np.linalg.norm(expected.astype(np.float64).ravel())) if np.isfinite(expected).all() else 0.0
    relative = result.rms_error * (result.spread or 1.0) * np.sqrt(expected.size) / norm if norm else result.rms_error
    if not result.passed and any_order and _same_values(expected, actual, allowed):
        return LayerComparison(row.layer, row.kind, row.tensor, expected.shape, None, None, None, None, REORDERED)
    return LayerComparison(
        row.layer, row.kind, row.tensor, expected.shape, result.max_error, result.rms_error, float(relative),
        result.passed)


REORDERED = "the same values in another order"


def _same_values(expected: Array, actual: Array, allowed: Tolerance) -> bool:
    """Whether each row of the batch holds the same values, in whatever order."""
    if expected.shape[:1] != actual.shape[:1] or expected.size != actual.size or not expected.ndim:
        return False
    a, b = (np.sort(x.reshape(len(x), -1), -1) for x in (actual, expected))
    return compare("", "layer", b, a, allowed=allowed).passed


def first_diverging(results: Sequence[LayerComparison]) -> str | None:
    """The first layer, in the order of the run, whose tensor is not what Keras computes."""
    return next((result.layer for result in results if result.passed is False), None)


def nodes_of(graph: Any) -> list[tuple[str, str, Sequence[str]]]:
    """(name, operator, outputs) of the nodes of an ``onnx.GraphProto`` or an ``onnx_ir`` graph."""
    if hasattr(graph, "SerializeToString"):
        return [(n.name, n.op_type, list(n.output)) for n in graph.node]
    return [(n.name or "", n.op_type, [v.name or "" for v in n.outputs]) for n in graph]
