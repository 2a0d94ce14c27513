"""Does the ONNX file compute what Keras computes? Compared on logits, relative to their own spread.

Keras runs first and may then be freed: a reference is plain arrays.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cnnexport.conversion import Port
from cnnexport.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

Array = npt.NDArray[Any]

BATCHES = (1, 2, 5)

OPEN_SIZE = 64
"""Pixels tried where a model leaves height or width open."""

MAX_ERROR = {"float32": 1e-3, "float64": 1e-3, "float16": 1e-1, "bfloat16": 5e-1}
"""Largest error allowed, in standard deviations of the output, by the lowest precision inside the model.

Against float64, Keras' own float32 logits are off by 6e-5 on VGG-16 and 9e-5 on ResNet-152, ONNX Runtime's
by 2e-5 and 6e-5: that much is rounding. The bound leaves ten times as much; half precision carries 13 bits
fewer, of which depth averages some away."""

RMS_ERROR = {"float32": 2e-4, "float64": 2e-4, "float16": 3e-2, "bfloat16": 2e-1}
"""Root-mean-square error allowed, in standard deviations of the output (rounding: up to 2.5e-5)."""

ROUNDING_ULPS = 64
"""Units in the last place of the largest output that are always allowed: an output whose spread is
small beside its size cannot be computed more exactly in its own precision."""


@dataclass(frozen=True)
class Comparison:
    """One output at one batch size.

    ``level`` is ``output``, ``logits`` (before the final activation) or ``log-probabilities`` (logits told from
    a softmax's output, up to their mean). ``spread`` is the standard deviation
    of Keras' values; ``max_error`` and ``rms_error`` are in units of it. ``top1_agreement`` is the share of
    rows with the same largest value.
    """

    output: str
    level: str
    batch: int
    spread: float
    max_error: float
    rms_error: float
    top1_agreement: float | None
    passed: bool


@dataclass(frozen=True)
class Reference:
    """What Keras computes for one batch, in Keras' layouts.

    ``logits[i]`` is output *i* before its final activation, None where there is none.
    """

    batch: int
    inputs: list[Array]
    outputs: list[Array]
    logits: list[Array | None]


@dataclass(frozen=True)
class LogitsTensor:
    """The tensor inside an ONNX graph that holds an output before its activation.

    ``perm`` brings it to the output's axes, None where it has them already.
    """

    name: str
    perm: tuple[int, ...] | None = None


def images(ports: Sequence[Port], batch: int, seed: int, value_range: tuple[float, float] | None) -> list[Array]:
    """Seeded inputs in Keras' layout: coarse blocks and noise over ``value_range`` ([-1, 1] if None)."""
    rng = np.random.default_rng([seed, batch])
    low, high = value_range or (-1.0, 1.0)
    result: list[Array] = []
    for port in ports:
        shape = (batch, *(OPEN_SIZE if d is None else d for d in port.shape[1:]))
        if not port.dtype.startswith(("float", "bfloat")):
            # Small whole numbers are valid for every embedding and every image; True and False for masks.
            top = 2 if port.dtype == "bool" or len(shape) < 4 else 256
            result.append(rng.integers(0, top, shape).astype(port.dtype))
            continue
        values = rng.random(shape)
        if len(shape) == 4:
            blocks = rng.random((batch, 8, 8, shape[3]))
            rows, columns = (np.arange(n) * 8 // n for n in shape[1:3])
            values = 0.5 * values + 0.5 * blocks[:, rows][:, :, columns]
        dtype = "float32" if port.dtype == "bfloat16" else port.dtype
        result.append((low + (high - low) * values).astype(dtype))
    return result


def references(
    run: Callable[[list[Array]], tuple[list[Array], list[Array | None]]],
    ports: Sequence[Port],
    *,
    batches: Sequence[int] = BATCHES,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
) -> list[Reference]:
    """Keras' outputs and logits on seeded images; ``run`` maps inputs to both."""
    found = []
    for batch in batches:
        inputs = images(ports, batch, seed, value_range)
        outputs, logits = run(inputs)
        found.append(Reference(batch, inputs, outputs, logits))
    return found


def to_onnx_layout(array: Array, port: Port) -> Array:
    """``array`` in the layout of the ONNX port."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if port.channels_first else array


def compare(
    name: str,
    level: str,
    expected: Array,
    actual: Array,
    *,
    precision: str = "float32",
    logits_spread: float | None = None,
) -> Comparison:
    """Compare two arrays (batch first) of one output. A shape or non-finite mismatch is infinite error.

    ``precision`` is the lowest one inside the model. ``logits_spread`` is given for an output whose logits
    are compared too: an activation turns an error of the logits into up to twice that share of its output.
    """
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    finite = np.isfinite(b)
    spread = float(b[finite].std()) if finite.any() else 0.0
    size = float(np.abs(b[finite]).max()) if finite.any() else 0.0
    batch = int(b.shape[0]) if b.ndim else 1
    if a.shape != b.shape or not np.array_equal(a[~finite], b[~finite], equal_nan=True) or (
            np.isfinite(a) != finite).any():
        return Comparison(name, level, batch, spread, float("inf"), float("inf"), None, False)
    error = np.abs(a[finite] - b[finite])
    worst = float(error.max()) if error.size else 0.0
    rms = float(np.sqrt(np.mean(error**2))) if error.size else 0.0
    eps = float(np.finfo(expected.dtype).eps) if np.issubdtype(expected.dtype, np.floating) else 0.0
    top1 = float((a.argmax(-1) == b.argmax(-1)).mean()) if b.ndim == 2 and b.shape[1] > 1 else None
    unit = spread if logits_spread is None else max(spread, 2 * size * logits_spread)
    rounding = ROUNDING_ULPS * eps * size
    passed = worst <= max(MAX_ERROR[precision] * unit, rounding) and rms <= max(RMS_ERROR[precision] * unit, rounding)
    shown = spread or 1.0
    return Comparison(name, level, batch, spread, worst / shown, rms / shown, top1, passed)


def log_probabilities(array: Array) -> Array:
    """The logits behind a softmax over the last axis, each row less its mean; vanishing ones stay at 1e-30."""
    logs = np.log(np.maximum(np.asarray(array, np.float64), 1e-30))
    return np.asarray(logs - logs.mean(-1, keepdims=True), np.float32)


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


def check(
    path: Path,
    keras: Sequence[Reference],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    *,
    logits: Sequence[LogitsTensor | None],
    precision: str = "float32",
) -> list[Comparison]:
    """Run the ONNX file at ``path`` in ONNX Runtime on the CPU against what Keras computed.

    Raises InputError where ONNX Runtime cannot load or run the file.
    """
    from cnnexport import runtime

    tensors = [t if any(r.logits[i] is not None for r in keras) else None for i, t in enumerate(logits)]
    wanted = list(dict.fromkeys(t.name for t in tensors if t))
    exposed = path.with_name(".parity.onnx")
    names = [p.name for p in outputs]
    results: list[Comparison] = []
    try:
        _expose(path, exposed, wanted)
        session = runtime.session(exposed if wanted else path)
        for reference in keras:
            fed = {p.name: to_onnx_layout(a, p) for a, p in zip(reference.inputs, inputs)}
            try:
                produced = dict(zip([*names, *wanted], session.run([*names, *wanted], fed)))
            except Exception as error:
                reason = " ".join(str(error).split())[:300]
                raise InputError(f"ONNX Runtime cannot run the converted model: {reason}") from error
            for port, value, before, tensor in zip(outputs, reference.outputs, reference.logits, tensors):
                expected, actual = to_onnx_layout(value, port), produced[port.name]
                behind: tuple[str, Array, Array] | None = None
                if tensor is not None and before is not None:
                    inner = produced[tensor.name]
                    inner = inner if tensor.perm is None else np.transpose(inner, tensor.perm)
                    behind = ("logits", to_onnx_layout(before, port), inner)
                elif _is_softmax(expected) and expected.shape == actual.shape:
                    behind = ("log-probabilities", log_probabilities(expected), log_probabilities(actual))
                spread = None
                if behind is not None:
                    results.append(compare(port.name, *behind, precision=precision))
                    spread = results[-1].spread
                results.append(
                    compare(port.name, "output", expected, actual, precision=precision, logits_spread=spread))
        return results
    finally:
        session = None
        gc.collect()
        exposed.unlink(missing_ok=True)


def _is_softmax(array: Array) -> bool:
    """Whether the rows look like a softmax over several classes."""
    if array.ndim != 2 or array.shape[1] < 2 or not np.issubdtype(array.dtype, np.floating):
        return False
    return bool((array >= 0).all() and np.allclose(array.sum(-1, dtype=np.float64), 1, atol=1e-3))


def _expose(path: Path, exposed: Path, names: Sequence[str]) -> None:
    """A copy of the file, byte for byte, with ``names`` declared as outputs behind it.

    protobuf merges a second graph message into the first, so that the graph that runs is the file's own.
    """
    import shutil

    import onnx

    if not names:
        return
    extra = onnx.ModelProto()
    for name in names:
        extra.graph.output.add().name = name
    shutil.copyfile(path, exposed)
    with open(exposed, "ab") as file:
        file.write(extra.SerializeToString())


def record(
    results: Sequence[Comparison], *, sha256: str, versions: dict[str, str], seed: int, precision: str = "float32"
) -> dict[str, Any]:
    """The parity record of a bundle, as it is written to ``parity.json``."""
    def number(value: Any) -> Any:
        return None if isinstance(value, float) and not np.isfinite(value) else value

    # Probabilities have a bound of their own, which their logits set.
    behind = {(r.output, r.batch) for r in results if r.level != "output"}
    telling = [r for r in results if r.level != "output" or (r.output, r.batch) not in behind]
    worst = max((r.max_error for r in telling), default=float("inf"))
    return {
        "schema_version": 1,
        "passed": bool(results) and all(r.passed for r in results),
        "model_sha256": sha256,
        "reference": "keras",
        "runtime": "onnxruntime",
        "provider": "CPUExecutionProvider",
        "versions": versions,
        "batches": sorted({r.batch for r in results}),
        "seed": seed,
        "tolerance": {
            "unit": "standard deviations of Keras' output",
            "precision": precision,
            "max_error": MAX_ERROR[precision],
            "rms_error": RMS_ERROR[precision],
            "rounding_ulps": ROUNDING_ULPS,
        },
        "worst_error": number(worst),
        "comparisons": [{k: number(v) for k, v in asdict(r).items()} for r in results],
    }
