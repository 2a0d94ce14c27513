"""The gate: what Keras computes on every case and in every layer, and whether an ONNX file computes the same.

``reference`` asks Keras, once; the model may then be freed. ``judge`` asks ONNX Runtime.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnexport import runtimes
from cnnexport.conversion.ports import Port
from cnnexport.errors import InputError
from cnnexport.parity.comparison import Array, Comparison, compare, is_softmax, log_probabilities
from cnnexport.parity.inputs import NON_FINITE, Case, cases
from cnnexport.parity.layers import (
    Call,
    LayerComparison,
    LayerTensor,
    compare_layers,
    first_diverging,
    layer_tensors,
    nodes_of,
)
from cnnexport.parity.precision import Precision, asked, lower_in_file
from cnnexport.parity.sensitivity import Sensitivity
from cnnexport.parity.tolerances import Tolerance, tolerance
from cnnexport.runtimes import Session

if TYPE_CHECKING:
    import onnx_ir as ir

LAYER_BYTES = 1 << 30
"""Layer outputs kept for one comparison at conversion; what is above waits for ``verify --layers``."""

STREAM_BYTES = 128 << 20
"""Layer outputs of each side held at a time by ``stream_layers``."""


@dataclass(frozen=True)
class LogitsTensor:
    """The tensor inside an ONNX graph that holds an output before its activation.

    ``perm`` brings it to the output's axes, None where it has them already.
    """

    name: str
    perm: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Reference:
    """What Keras computes for one case, in Keras' layouts; ``logits[i]`` is output *i* before its activation."""

    case: Case
    outputs: list[Array]
    logits: list[Array | None]


@dataclass(frozen=True)
class GateReference:
    """All that Keras has to say about a model: arrays only.

    ``undefined`` are, for each compared tensor, the operators before it whose answer to a NaN is not defined.
    """

    references: list[Reference]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    logits: list[LogitsTensor | None]
    tolerance: Tolerance
    layers: list[LayerTensor] = field(default_factory=list)
    calls: dict[str, Call] = field(default_factory=dict)
    effects: dict[str, float | None] = field(default_factory=dict)
    undefined: dict[str, frozenset[str]] = field(default_factory=dict)
    precision: Precision = field(default_factory=Precision)


@dataclass(frozen=True)
class Verdict:
    """Whether an ONNX file computes what Keras does, and where it first does not.

    ``lower_precision`` names what in the file is coarser than Keras was asked to compute.
    """

    passed: bool
    comparisons: tuple[Comparison, ...]
    layers: tuple[LayerComparison, ...]
    sensitivity: tuple[Sensitivity, ...]
    first_diverging: str | None
    insensitive: tuple[str, ...]
    lower_precision: str | None = None


def reference(
    model: Any,
    converted: Any,
    *,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
    batch: int | None = None,
    macs: int | None = None,
    kept_heads: Sequence[Any] | None = None,
    layers: bool = True,
    keep_layers: bool = True,
) -> GateReference:
    """Run Keras on every case. ``converted`` is what ``conversion.convert_model`` made of ``model``.

    ``kept_heads`` are the final activations that the conversion kept (all by default). With ``layers``, every
    layer's output on the first case is kept too (unless ``keep_layers`` is False, for ``stream_layers``), and the
    effect of each layer's weights on the outputs measured.
    """
    from cnnexport.keras_files import heads
    from cnnexport.parity import live, sensitivity

    found = heads.heads(model) if kept_heads is None else list(kept_heads)
    graph, precision = converted.model.graph, asked(model)
    made: list[Reference] = []
    calls: dict[str, Call] = {}
    effects: dict[str, float | None] = {}
    for index, case in enumerate(
            cases(converted.inputs, seed=seed, value_range=value_range, batch=batch, macs=macs)):
        if index == 0:
            ran = live.run(model, found, case.inputs, layers=layers, limit=LAYER_BYTES if keep_layers else 0)
            calls = ran.calls
            ask = live.traced(model, found, case.inputs, fixed=batch is not None)
        else:
            ran = ask(case.inputs)
        made.append(Reference(case, ran.outputs, ran.logits))
    if layers:
        effects = sensitivity.effects(model, found, made[0].case.inputs, seed=seed)
    logits = logits_tensors(converted.model, [None if h is None else h.activation for h in found])
    undefined: dict[str, frozenset[str]] = {}
    for value, tensor in zip(graph.outputs, logits):
        undefined[str(value.name)] = undefined_operators(value)
        if tensor is not None:
            # The value that the activation reads lies before the output, behind a Transpose perhaps.
            node = value.producer()
            while node is not None and all(x is None or x.name != tensor.name for x in node.inputs):
                node = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
            inner = None if node is None else next(x for x in node.inputs if x is not None and x.name == tensor.name)
            undefined[tensor.name] = undefined_operators(inner)
    return GateReference(
        references=made, inputs=converted.inputs, outputs=converted.outputs, logits=logits, undefined=undefined,
        tolerance=tolerance(precision.compute, summed_terms(graph)), precision=precision,
        layers=layer_tensors(calls, nodes_of(graph)), calls=calls, effects=effects)


def judge(keras: GateReference, path: Path, *, scratch: Path | None = None) -> Verdict:
    """Run the ONNX file at ``path`` in ONNX Runtime on the CPU against what Keras computed.

    A copy of the file is made in the folder ``scratch``, by default beside it, for the while.

    Raises InputError where ONNX Runtime cannot load or run the file.
    """
    with closing(Exposed(Path(path), [p.name for p in keras.outputs], scratch)) as exposed:
        comparisons = _compare_outputs(keras, exposed)
        agree = bool(comparisons) and all(c.passed for c in comparisons)
        layers = _compare_kept_layers(keras, exposed, agree)
    return _verdict(keras, comparisons, layers, lower_in_file(Path(path), keras.precision))


def weighed(keras: GateReference, verdict: Verdict, layers: Sequence[LayerComparison]) -> Verdict:
    """``verdict`` with other ``layers``, from ``stream_layers``."""
    return _verdict(keras, verdict.comparisons, layers, verdict.lower_precision)


def _verdict(
    keras: GateReference, comparisons: Sequence[Comparison], layers: Sequence[LayerComparison], lower: str | None
) -> Verdict:
    sensitivity, insensitive = weigh(keras, layers)
    agree = bool(comparisons) and all(c.passed for c in comparisons)
    passed = agree and all(row.passed is not False for row in layers) and not insensitive and lower is None
    return Verdict(passed, tuple(comparisons), tuple(layers), tuple(sensitivity), first_diverging(layers),
                   tuple(insensitive), lower)


def weigh(keras: GateReference, layers: Sequence[LayerComparison]) -> tuple[list[Sensitivity], list[str]]:
    """For each weighted layer whether a change is seen in the outputs or in its own; and those where in neither."""
    compared = {row.layer for row in layers if row.passed}
    holds = {row.layer: row.holds for row in keras.layers}
    found, unseen = [], []
    for layer, effect in keras.effects.items():
        call = keras.calls.get(layer)
        held = keras.calls.get(holds.get(layer) or "")
        varied = held is not None and (held.linear or held.varied)
        covered = layer in compared and call is not None and call.alive and varied
        seen = effect is not None and effect > keras.tolerance.rms_error
        found.append(Sensitivity(layer, effect, seen, covered))
        # Where nothing is known of the effect, nothing is refused for it.
        if not seen and not covered and effect is not None:
            unseen.append(layer)
    return found, unseen


def _compare_outputs(keras: GateReference, exposed: Exposed) -> list[Comparison]:
    tensors = [t if any(r.logits[i] is not None for r in keras.references) else None
               for i, t in enumerate(keras.logits)]
    wanted = list(dict.fromkeys(t.name for t in tensors if t))
    names = [p.name for p in keras.outputs]
    session, present = exposed.session(wanted)
    tensors = [t if t is not None and t.name in present else None for t in tensors]
    results: list[Comparison] = []
    spreads: dict[tuple[str, str], float] = {}
    for reference in keras.references:
        produced = run_session(session, [*names, *present], reference.case.inputs, keras.inputs)
        for port, value, before, tensor in zip(keras.outputs, reference.outputs, reference.logits, tensors):
            expected, actual = to_onnx_layout(value, port), produced[port.name]
            behind: tuple[str, Array, Array] | None = None
            undefined = keras.undefined.get(port.name, frozenset())
            if tensor is not None and before is not None:
                inner = produced[tensor.name]
                inner = inner if tensor.perm is None else np.transpose(inner, tensor.perm)
                behind = ("logits", to_onnx_layout(before, port), inner)
            elif is_softmax(expected) and expected.shape == actual.shape:
                behind = ("log-probabilities", log_probabilities(expected), log_probabilities(actual))
            spread = None
            if behind is not None:
                own = keras.undefined.get(tensor.name, frozenset()) if tensor is not None else undefined
                results += _by_kind(port.name, *behind, reference.case, spreads, keras.tolerance, None, own)
                spread = max(r.spread for r in results if r.output == port.name and r.level == behind[0])
            results += _by_kind(port.name, "output", expected, actual, reference.case, spreads, keras.tolerance, spread,
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
    if undefined & _DROPPING:
        hidden = np.zeros_like(hidden)
    return np.where(hidden, expected, 0).astype(expected.dtype), np.where(hidden, actual, 0).astype(actual.dtype)


_DROPPING = frozenset({"GlobalMaxPool", "ReduceMax", "ReduceMin", "Max", "Min", "LSTM", "GRU", "RNN"})
_UNDEFINED = _DROPPING | {"MaxPool", "Softmax", "LRN", "Resize", "TopK", "ArgMax", "ArgMin", "Loop", "Scan", "If"}
"""Operators that TensorFlow and ONNX Runtime answer differently to a NaN (measured), or that hide others."""


def undefined_operators(value: ir.Value | None) -> frozenset[str]:
    """The operators before ``value`` whose answer to a NaN is not defined."""
    found: set[str] = set()
    seen: set[int] = set()
    left = [value]
    while left:
        node = None if (value := left.pop()) is None else value.producer()
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            found |= {node.op_type} & _UNDEFINED
            left.extend(node.inputs)
    return frozenset(found)


def _compare_kept_layers(keras: GateReference, exposed: Exposed, agree: bool) -> list[LayerComparison]:
    rows = keras.layers
    wanted = [t for t in dict.fromkeys(r.tensor for r in rows if r.tensor) if t is not None]
    if not wanted:
        return compare_layers(rows, keras.calls, {}, keras.tolerance)
    session, present = exposed.session(wanted)
    produced = run_session(session, present, keras.references[0].case.inputs, keras.inputs)
    return compare_layers(rows, keras.calls, produced, keras.tolerance, any_order=agree)


def run_session(
    session: Session, names: Sequence[str], arrays: Sequence[Array], ports: Sequence[Port]
) -> dict[str, Array]:
    """Run ONNX Runtime on ``arrays`` in Keras' layouts. Raises InputError where that fails."""
    fed = {p.name: to_onnx_layout(a, p) for a, p in zip(arrays, ports)}
    try:
        return dict(zip(names, session.run(list(names), fed)))
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"ONNX Runtime cannot run the converted model: {reason}") from error


def to_onnx_layout(array: Array, port: Port) -> Array:
    """``array`` in the layout of the ONNX port."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if port.channels_first else array


_ACTIVATIONS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "log_softmax": "LogSoftmax", "tanh": "Tanh",
                "hard_sigmoid": "HardSigmoid"}


def logits_tensors(model: ir.Model, activations: Sequence[str | None]) -> list[LogitsTensor | None]:
    """For each output, the tensor before its final activation (a Keras name), where the graph shows one."""
    found: list[LogitsTensor | None] = []
    for value, activation in zip(model.graph.outputs, activations):
        node, perm = value.producer(), None
        if node is not None and node.op_type == "Transpose" and node.inputs[0] is not None:
            perm = tuple(int(p) for p in node.attributes["perm"].as_ints())
            node = node.inputs[0].producer()
        source = node.inputs[0] if node is not None and node.inputs else None
        known = node is not None and activation is not None and node.op_type == _ACTIVATIONS.get(activation)
        usable = known and source is not None and source.name and not source.is_graph_input()
        found.append(LogitsTensor(str(source.name), perm) if usable and source is not None else None)
    return found


def summed_terms(graph: ir.Graph) -> int:
    """The lengths of the dot products of all convolutions and matrix products of a graph, added up."""
    total = 0
    for node in graph:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.inputs) < 2:
            continue
        kernel = node.inputs[1]
        sizes = [d for d in (kernel.shape or ()) if isinstance(d, int)] if kernel is not None else []
        if len(sizes) < 2:
            continue
        size = int(np.prod(sizes))
        transposed = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int()
        outputs = sizes[0] if node.op_type == "Conv" or transposed else sizes[1] if len(sizes) > 2 else sizes[-1]
        total += size // max(outputs, 1)
    return total


class Exposed:
    """A copy of a model in ``scratch`` (None: beside it), with tensors of it declared as outputs.

    The copy is the file byte for byte, with the declarations behind it: protobuf merges a second graph message into
    the first, so that the graph that runs is the file's own.
    """

    def __init__(self, path: Path, outputs: Sequence[str], scratch: Path | None = None) -> None:
        self._path, self._outputs, self._size = path, set(outputs), path.stat().st_size
        self._place = (scratch or path.parent) / f".{path.name}.parity.onnx"
        shutil.copyfile(path, self._place)

    def close(self) -> None:
        """Remove the copy."""
        gc.collect()
        self._place.unlink(missing_ok=True)

    def session(self, names: Sequence[str]) -> tuple[Session, list[str]]:
        """A session that also gives the tensors ``names``, and those of them that the graph has.

        Raises InputError where ONNX Runtime cannot load the file.
        """
        open_session = runtimes.get(runtimes.DEFAULT).open
        try:
            self._declare(names)
            return open_session(self._place), list(names)
        except InputError:
            # A file of another maker, or a faulty one, may lack some.
            present = [name for name in names if name in self._known()]
            if len(present) == len(names):
                raise
            self._declare(present)
            return open_session(self._place), present

    def _known(self) -> set[str]:
        import onnx

        graph = onnx.load(self._path, load_external_data=False).graph
        return {output for node in graph.node for output in node.output} | {v.name for v in graph.input}

    def _declare(self, names: Sequence[str]) -> None:
        import onnx

        extra = onnx.ModelProto()
        for name in names:
            if name not in self._outputs:
                extra.graph.output.add().name = name
        with open(self._place, "r+b") as file:
            file.truncate(self._size)
            file.seek(self._size)
            file.write(extra.SerializeToString())


def stream_layers(
    model: Any, heads: Sequence[Any], keras: GateReference, path: Path, *, agree: bool = False,
    limit: int = STREAM_BYTES, scratch: Path | None = None, progress: Callable[[str], None] = lambda step: None,
) -> list[LayerComparison]:
    """Compare every mapped layer on the first case, in groups whose outputs take up to ``limit`` bytes.

    ``model`` is the Keras model that ``keras`` is of; ``agree`` tells that the outputs do. Both sides run once
    for each group.
    """
    from cnnexport.parity import live

    inputs = keras.references[0].case.inputs
    holders = list(dict.fromkeys(row.holds for row in keras.layers if row.holds))
    results: dict[str, LayerComparison] = {}
    rows = {row.layer: row for row in keras.layers}
    with closing(Exposed(Path(path), [p.name for p in keras.outputs], scratch)) as exposed:
        tensors = [t for t in dict.fromkeys(row.tensor for row in keras.layers) if t is not None]
        session, present = exposed.session(tensors)
        left = holders
        while left:
            progress(f"layers {len(holders) - len(left) + 1} to {len(holders)}")
            members = set(left)
            calls = live.run(model, heads, inputs, layers=True, wanted=members.__contains__, limit=limit).calls
            group = [layer for layer in left if calls[layer].output is not None] or left[:1]
            names = [n for n in dict.fromkeys(rows[layer].tensor for layer in group) if n in present]
            produced = run_session(session, [n for n in names if n], inputs, keras.inputs)
            mine = [row for row in keras.layers if row.holds in group]
            for result in compare_layers(mine, calls, produced, keras.tolerance, any_order=agree):
                results[result.layer] = result
            left = [layer for layer in left if layer not in group]
    rest = compare_layers([row for row in keras.layers if row.layer not in results], {}, {}, keras.tolerance)
    results |= {row.layer: row for row in rest}
    return [results[row.layer] for row in keras.layers]
