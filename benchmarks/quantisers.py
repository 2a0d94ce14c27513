"""int8 files of the same float32 file by other tools as they come, and how each runs: the peers of ``quantize``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from cnnexport.precision.calibration import Batches
from cnnexport.precision.ranges import quiet

Run = Callable[[dict[str, Any]], Any]


def installed(name: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def quantize_static(source: Path, file: Path, batches: Batches) -> None:
    """ONNX Runtime's own recipe with its defaults: QDQ, int8 for both, a scale a tensor, all that it can quantise."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = batches()

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    with quiet():
        quantization.quantize_static(str(source), str(file), Reader())


def nncf(source: Path, file: Path, batches: Batches) -> None:
    """NNCF's ``quantize`` with its defaults for CPUs: fast bias correction, a scale a channel."""
    import nncf as library

    images = [{name: a[i:i + 1] for name, a in feeds.items()} for feeds in batches()
              for i in range(len(next(iter(feeds.values()))))]
    with quiet():
        made = library.quantize(onnx.load(source), library.Dataset(images), subset_size=len(images),
                                target_device=library.TargetDevice.CPU)
    onnx.save(made, file)


QUANTISERS: dict[str, tuple[str, Callable[[Path, Path, Batches], None]]] = {
    "quantize_static": ("onnxruntime", quantize_static), "nncf": ("nncf", nncf)}
"""The package that each needs, and how it writes a file."""


def onnxruntime_run(file: Path, threads: int) -> Run:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)[0]


def openvino_run(file: Path, threads: int) -> Run:
    """OpenVINO on the CPU, float32 where the file is (its default on some processors is bfloat16)."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(file))
    compiled: dict[tuple[int, ...], Any] = {}

    def run(feeds: dict[str, Any]) -> Any:
        (array,) = feeds.values()
        if array.shape not in compiled:
            model.reshape(list(array.shape))
            compiled[array.shape] = core.compile_model(model, "CPU", {
                "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
        request = compiled[array.shape]
        request.infer({0: array})
        return request.get_output_tensor(0).data

    return run


RUNTIMES: dict[str, tuple[str, Callable[[Path, int], Run]]] = {
    "ONNX Runtime": ("onnxruntime", onnxruntime_run), "OpenVINO": ("openvino", openvino_run)}


def answers(run: Run, name: str, batches: Batches) -> Any:
    """What a file answers to all images, (N, classes)."""
    return np.concatenate([np.array(run({name: feeds[name]})) for feeds in batches()])
