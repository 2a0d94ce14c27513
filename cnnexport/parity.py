"""Does the ONNX file compute what Keras computes? Compared on logits, relative to their own spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnexport.conversion import Port

Array = npt.NDArray[Any]

BATCHES = (1, 2, 5)

MAX_TOLERANCE = 1e-4
"""Largest error allowed, in standard deviations of the output. float32 rounding through 152 layers
stays under a tenth of it; the smallest wrong weight worth the name lies far above."""

RMS_TOLERANCE = 2e-5
"""Root-mean-square error allowed, in standard deviations of the output."""

ROUNDING_ULPS = 64
"""Units in the last place of the largest output that are always allowed: an output whose spread is
small beside its size cannot be computed more exactly in its own precision."""


@dataclass(frozen=True)
class Comparison:
    """One output at one batch size. ``spread`` is the output's standard deviation in Keras; errors are
    in units of it."""

    output: str
    level: str
    batch: int
    spread: float
    max_error: float
    rms_error: float
    top1_agreement: float | None
    passed: bool


def images(ports: Sequence[Port], batch: int, seed: int, value_range: tuple[float, float] | None) -> list[Array]:
    """Seeded inputs in Keras' layout: coarse blocks and noise over ``value_range`` ([-1, 1] if None)."""
    rng = np.random.default_rng([seed, batch])
    low, high = value_range or (-1.0, 1.0)
    result: list[Array] = []
    for port in ports:
        shape = (batch, *(64 if d is None else d for d in port.shape[1:]))
        if not port.dtype.startswith(("float", "bfloat")):
            result.append(rng.integers(0, 2, shape).astype(port.dtype))
            continue
        values = rng.random(shape)
        if len(shape) == 4:
            blocks = rng.random((batch, 8, 8, shape[3]))
            rows, columns = (np.arange(n) * 8 // n for n in shape[1:3])
            values = 0.5 * values + 0.5 * blocks[:, rows][:, :, columns]
        result.append((low + (high - low) * values).astype(port.dtype))
    return result


def to_onnx_layout(array: Array, port: Port) -> Array:
    """``array`` in the layout of the ONNX port."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if port.channels_first else array


def compare(name: str, level: str, expected: Array, actual: Array) -> Comparison:
    """Compare two arrays (batch first) of one output. A shape or non-finite mismatch is infinite error."""
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    finite = np.isfinite(b)
    spread = float(b[finite].std()) if finite.any() else 0.0
    size = float(np.abs(b[finite]).max()) if finite.any() else 0.0
    batch = int(b.shape[0]) if b.ndim else 1
    if a.shape != b.shape or (np.isfinite(a) != finite).any():
        return Comparison(name, level, batch, spread, float("inf"), float("inf"), None, False)
    error = np.abs(a[finite] - b[finite])
    worst = float(error.max()) if error.size else 0.0
    rms = float(np.sqrt(np.mean(error**2))) if error.size else 0.0
    precision = np.finfo(expected.dtype).eps if np.issubdtype(expected.dtype, np.floating) else 0.0
    rounding = ROUNDING_ULPS * float(precision) * size
    top1 = float((a.argmax(-1) == b.argmax(-1)).mean()) if b.ndim == 2 and b.shape[1] > 1 else None
    passed = worst <= max(MAX_TOLERANCE * spread, rounding) and rms <= max(RMS_TOLERANCE * spread, rounding)
    unit = spread or 1.0
    return Comparison(name, level, batch, spread, worst / unit, rms / unit, top1, passed)


def check(
    path: Path,
    keras_outputs: Callable[[list[Array]], tuple[list[Array], list[Array | None]]],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    *,
    logits: Sequence[str | None],
    batches: Sequence[int] = BATCHES,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
) -> tuple[list[Comparison], tuple[list[Array], list[Array]]]:
    """Run the ONNX file at ``path`` in ONNX Runtime against Keras.

    ``keras_outputs`` gives the outputs and, where an activation ends the model, the logits before it;
    ``logits[i]`` is the ONNX tensor that holds those of output *i*. Returns the comparisons, and the inputs
    and Keras' outputs (ONNX layout) of the first batch for the bundle's test vectors.
    """
    from cnnexport import runtime

    wanted = [name for name in logits if name]
    exposed = path.with_name(".parity.onnx")
    try:
        _expose(path, exposed, wanted)
        session = runtime.session(exposed if wanted else path)
        results: list[Comparison] = []
        vectors: tuple[list[Array], list[Array]] = ([], [])
        for batch in batches:
            arrays = images(inputs, batch, seed, value_range)
            fed = [to_onnx_layout(a, p) for a, p in zip(arrays, inputs)]
            names = [p.name for p in outputs]
            produced = dict(zip([*names, *wanted], session.run(
                [*names, *wanted], {p.name: a for p, a in zip(inputs, fed)})))
            plain, before = keras_outputs(arrays)
            expected = [to_onnx_layout(a, p) for a, p in zip(plain, outputs)]
            for port, value, logit, tensor in zip(outputs, expected, before, logits):
                results.append(compare(port.name, "output", value, produced[port.name]))
                if tensor is not None and logit is not None:
                    results.append(compare(port.name, "logits", logit, produced[tensor]))
            if not vectors[0]:
                vectors = (fed, expected)
        return results, vectors
    finally:
        exposed.unlink(missing_ok=True)


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
        value = extra.graph.output.add()
        value.name = name
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    shutil.copyfile(path, exposed)
    with open(exposed, "ab") as file:
        file.write(extra.SerializeToString())


def record(results: Sequence[Comparison], sha256: str, versions: dict[str, str]) -> dict[str, Any]:
    """The parity record of a bundle, as it is written to ``parity.json``."""
    return {
        "schema_version": 1,
        "passed": all(r.passed for r in results),
        "model_sha256": sha256,
        "reference": "keras",
        "runtime": "onnxruntime",
        "provider": "CPUExecutionProvider",
        "tolerance": {
            "max_error": MAX_TOLERANCE,
            "rms_error": RMS_TOLERANCE,
            "rounding_ulps": ROUNDING_ULPS,
            "unit": "standard deviations of Keras' output",
        },
        "comparisons": [asdict(r) for r in results],
        "versions": versions,
    }
