"""The range of each tensor between layers, measured on images by ONNX Runtime, one batch held at a time.

``minmax`` takes the least and the largest number, so that nothing is cut off and one outlier widens every step;
``percentile`` leaves the rarest out; ``entropy`` cuts where the numbers' distribution changes least (Migacz, 8-bit
Inference with TensorRT, 2017).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from cnnexport.errors import InputError
from cnnexport.precision.calibration import Array, Batches
from cnnexport.runtimes import ort
from cnnexport.text import all_in_line

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
Ranges: TypeAlias = Mapping[str, tuple[float, float]]
"""The least and the largest number of each tensor that are told apart."""

_PERCENTILE = 99.99


def measure(
    source: Path, batches: Batches, scratch: Path, operators: tuple[str, ...], method: Method = "minmax"
) -> Ranges:
    """The ranges of what the ``operators`` of the float32 file ``source`` read and write, on all ``batches``.

    Raises InputError where the library cannot run the file.
    """
    ort.library()
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import create_calibrator

    kind = {"minmax": quantization.CalibrationMethod.MinMax, "entropy": quantization.CalibrationMethod.Entropy,
            "percentile": quantization.CalibrationMethod.Percentile}[method]
    extra: dict[str, Any] = {"symmetric": False}
    if method == "percentile":
        extra["percentile"] = _PERCENTILE
    try:
        calibrator = create_calibrator(
            source, list(operators), augmented_model_path=str(scratch / f"{method}.onnx"), calibrate_method=kind,
            extra_options=extra)
        with quiet():
            for feeds in batches():  # the library keeps what it has seen until it is told that there is no more
                calibrator.collect_data(_one(quantization, feeds))
            found = calibrator.compute_data()
        return {name: _span(data.range_value) for name, data in found.items()}
    except Exception as error:  # the library raises whatever fails within
        raise InputError(f"{source} cannot be run by onnxruntime.quantization ({all_in_line(error)}); use "
                         "--precision fp16") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what quantisers print, and advise on the root logger: what they say of a file made here is not for users.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _span(found: Any) -> tuple[float, float]:
    low, high = (float(np.asarray(x).reshape(-1)[0]) for x in found)
    return low, high


def stored(ranges: Ranges) -> Any:
    """``ranges`` as the library's quantiser takes them."""
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import TensorData, TensorsData

    return TensorsData(quantization.CalibrationMethod.MinMax, {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()})


def _one(quantization: Any, feeds: dict[str, Array]) -> Any:
    """One batch as the library reads images."""

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [feeds]

        def get_next(self) -> dict[str, Array] | None:
            return self.left.pop() if self.left else None

    return Reader()
