"""One conversion in a process of its own: ``python contender.py CONTENDER ARCHITECTURE FOLDER``.

Prints one JSON line when the model is built, one when ``FOLDER/model.onnx`` is on disk and one when its
outputs were compared with Keras', so that whoever watches knows how far a process came that was killed.
"""

from __future__ import annotations

import os

# Before TensorFlow is imported: C++ code logs to the descriptor itself.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gc
import hashlib
import importlib
import json
import logging
import pkgutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTENDERS = ("cnnexport", "tf2onnx", "keras")
SEED = 0
BATCH = 2
SAMPLE_SECONDS = 0.005
OPSET = 18
"""cnnexport's default, asked of tf2onnx too. Keras' export is left its own default."""

Steps = dict[str, float]


@dataclass
class Peak:
    """Resident bytes before a block, and the most there were while it ran."""

    before: int
    most: int = 0
    method: str = ""


def _status(field: str) -> int:
    """A field of ``/proc/self/status`` that is given in kB, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


@contextmanager
def resident_peak() -> Iterator[Peak]:
    """Measure the peak resident memory of a block: by the kernel's own high-water mark, else by sampling."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the mark starts again from here
        peak = Peak(_status("VmRSS"), method="VmHWM")
    except OSError:
        with _sampled() as peak:
            yield peak
        return
    yield peak
    peak.most = _status("VmHWM")


@contextmanager
def _sampled() -> Iterator[Peak]:
    import psutil

    process = psutil.Process()
    now = process.memory_info().rss
    peak = Peak(now, now, f"sampled every {SAMPLE_SECONDS * 1000:g} ms")
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            peak.most = max(peak.most, process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak.most = max(peak.most, process.memory_info().rss)


def prepare(contender: str, model: Any, folder: Path) -> Callable[[], Steps]:
    """The conversion of ``model`` to ``folder/model.onnx``, with all that it needs imported already."""
    import tensorflow as tf
    import tf2onnx.convert

    if contender == "cnnexport":
        return _prepare_cnnexport(model, folder)
    path = folder / "model.onnx"
    if contender == "tf2onnx":
        signature = [tf.TensorSpec(t.shape, t.dtype, name="input") for t in model.inputs]

        def run() -> Steps:
            tf2onnx.convert.from_function(
                tf.function(lambda x: model(x, training=False)), input_signature=signature, opset=OPSET,
                output_path=str(path))
            return {}

    elif contender == "keras":
        import tensorflow.saved_model.experimental  # what Keras' exporter imports late

        # Keras refuses to export a model that was never called.
        model(tf.zeros((1, *model.inputs[0].shape[1:])), training=False)

        def run() -> Steps:
            model.export(str(path), format="onnx", verbose=False)
            return {}

    else:
        raise ValueError(f"unknown contender {contender}: choose one of {', '.join(CONTENDERS)}")
    return run


def _prepare_cnnexport(model: Any, folder: Path) -> Callable[[], Steps]:
    import onnx.reference.ops._op_list  # noqa: F401  # what folding constants imports late

    import cnnexport.conversion as conversion

    for module in pkgutil.walk_packages(conversion.__path__, f"{conversion.__name__}."):
        importlib.import_module(module.name)
    from cnnexport.conversion import convert_model
    from cnnexport.conversion.write import write_model

    def run() -> Steps:
        converted = convert_model(model, output_names=["probabilities"])
        start = time.perf_counter()
        write_model(converted.model, folder)
        return {**converted.seconds, "write": time.perf_counter() - start}

    return run


def compare(model: Any, architecture: str, path: Path) -> dict[str, Any]:
    """Run Keras and the file in ONNX Runtime on the same images; errors are in units of Keras' spread.

    Every architecture here ends in a softmax, which hides errors: its logarithm is what must agree.
    """
    import numpy as np
    import onnxruntime

    from cnnexport import architectures, parity
    from cnnexport.conversion import input_ports

    recipe = architectures.get(architecture).preprocessing
    images = parity.images(input_ports(model), BATCH, SEED, recipe.value_range if recipe else None)
    expected = np.asarray(model(images[0], training=False))
    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    actual = session.run(None, {session.get_inputs()[0].name: images[0]})[0]
    logs = parity.compare(
        "probabilities", "log-probabilities", parity.log_probabilities(expected),
        parity.log_probabilities(actual))
    plain = parity.compare("probabilities", "output", expected, actual, logits_spread=logs.spread)
    return {
        "passed": logs.passed and plain.passed,
        "spread": logs.spread,
        "max_error": logs.max_error,
        "rms_error": logs.rms_error,
        "max_error_allowed": parity.MAX_ERROR["float32"],
        "top1_agreement": logs.top1_agreement,
        "batch": BATCH,
    }


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(contender: str, architecture: str, folder: Path) -> None:
    """Build, convert under the clock, compare."""
    # Results go to where standard output went; what libraries print there goes to standard error.
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with suppress(OSError):  # Linux only: should memory run out, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    def tell(event: str, **facts: Any) -> None:
        report.write(json.dumps({"event": event, **facts}) + "\n")
        report.flush()

    from cnnexport import architectures

    model = architectures.build(architecture, seed=SEED)
    weights = sum(v.value.nbytes if hasattr(v.value, "nbytes") else v.numpy().nbytes for v in model.variables)
    run = prepare(contender, model, folder)
    gc.collect()
    tell("built", weights_bytes=weights)

    modules = set(sys.modules)
    with resident_peak() as peak:
        start = time.perf_counter()
        steps = run()
        seconds = time.perf_counter() - start
    path = folder / "model.onnx"
    late = sorted(m for m in set(sys.modules) - modules if not m.startswith("__autograph_generated"))
    tell(
        "converted", seconds=seconds, rss_before=peak.before, rss_peak=peak.most, rss_method=peak.method,
        weights_bytes=weights, file_bytes=path.stat().st_size, steps=steps, imported_in_clock=late)

    del run
    gc.collect()
    tell("compared", sha256=sha256(path), parity=compare(model, architecture, path))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
