"""One contender in a process of its own: build a model, convert it to a file under the clock, check the file.

Run as ``python contender.py CONTENDER ARCHITECTURE FOLDER``; prints one line of JSON. Importing and building lie
outside the clock, and so does the comparison with Keras that follows it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTENDERS = ("cnnexport", "tf2onnx", "keras")


def _resident(field: str) -> int:
    """Bytes of this process' ``VmRSS`` (now) or ``VmHWM`` (peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def _cnnexport(model: Any, path: Path) -> Callable[[], None]:
    import tf2onnx.tfonnx  # noqa: F401

    from cnnexport.conversion import convert_model
    from cnnexport.conversion.write import write_model

    def run() -> None:
        write_model(convert_model(model, output_names=["probabilities"]).model, path.parent)

    return run


def _tf2onnx(model: Any, path: Path) -> Callable[[], None]:
    import tensorflow as tf
    import tf2onnx

    def run() -> None:
        function = tf.function(lambda x: model(x, training=False))
        signature = [tf.TensorSpec(model.inputs[0].shape, tf.float32, name="input")]
        tf2onnx.convert.from_function(function, input_signature=signature, opset=18, output_path=str(path))

    return run


def _keras(model: Any, path: Path) -> Callable[[], None]:
    import tf2onnx  # noqa: F401

    return lambda: model.export(str(path), format="onnx", verbose=False)


def main(contender: str, name: str, folder: Path) -> dict[str, Any]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import numpy as np
    import onnxruntime

    from cnnexport import architectures, bundle, parity
    from cnnexport.bundle.manifest import versions
    from cnnexport.conversion import input_ports

    spec = architectures.get(name)
    model = architectures.build(name, seed=0)
    path = folder / "model.onnx"
    run = {"cnnexport": _cnnexport, "tf2onnx": _tf2onnx, "keras": _keras}[contender](model, path)
    weights = sum(w.nbytes for w in (np.asarray(v) for v in model.weights))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _resident("VmRSS")
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    peak = _resident("VmHWM")

    span = spec.preprocessing.value_range if spec.preprocessing else None
    ports = input_ports(model)
    references = parity.references(
        lambda arrays: ([np.asarray(model(arrays[0], training=False))], [None]), ports, batches=(1, 2),
        value_range=span)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = session.get_inputs()[0].name, session.get_outputs()[0].name
    del session
    from dataclasses import replace

    results = parity.check(
        path, references, [replace(ports[0], name=names[0])],
        [replace(ports[0], name=names[1], shape=(None, spec.classes))], logits=[None])
    return {
        "contender": contender,
        "architecture": name,
        "weights": "random (seed 0): untrained",
        "seconds": seconds,
        "peak_above_model_mb": (peak - before) / 1e6,
        "weights_mb": weights / 1e6,
        "file_mb": path.stat().st_size / 1e6,
        "sha256": bundle.sha256(path),
        "parity_passed": all(r.passed for r in results),
        "parity_worst_error": max(r.max_error for r in results if r.level != "output"),
        "versions": versions(),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
