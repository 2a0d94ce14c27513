"""The options of a conversion: resolved and checked once, kept in the manifest, read back from it."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cnnexport.errors import UsageError

DEFAULT_OPSET = 18
MIN_OPSET = 13
"""The lowest opset that the passes write (axes of Squeeze and ReduceSum are inputs from here on)."""
LAYOUTS = ("nhwc", "nchw")
_LARGEST_BATCH = 2**31 - 1


@dataclass(frozen=True)
class ConvertOptions:
    """What is asked of a conversion.

    ``weights`` is "random", "imagenet" or a path; None: random for an architecture, a model's own else.
    ``input_shape`` is (height, width, channels), with None for an open size; ``batch`` None is dynamic;
    ``groups=False`` joins grouped convolutions; ``logits`` leaves the final activation out; ``layout`` is that of the
    ONNX input.
    """

    weights: str | None = None
    seed: int = 0
    input_shape: tuple[int | None, ...] | None = None
    classes: int | None = None
    include_top: bool = True
    pooling: str | None = None
    groups: bool = True
    logits: bool = False
    layout: str = "nhwc"
    batch: int | None = None
    opset: int = DEFAULT_OPSET

    def resolved(self) -> ConvertOptions:
        """The same with each value of its own type. Raises UsageError for a value that none of its kind has."""
        weights = None if self.weights is None else str(self.weights)
        if weights == "":
            raise UsageError("the weights are an empty name; give random, imagenet or a Keras weights or model file")
        made = replace(
            self, weights=weights, seed=whole("seed", self.seed, least=0), input_shape=sizes(self.input_shape),
            classes=optional_whole("classes", self.classes), batch=optional_whole("batch", self.batch),
            pooling=None if self.pooling == "none" else self.pooling, opset=whole("opset", self.opset))
        if made.layout not in LAYOUTS:
            raise UsageError(f"layout '{made.layout}' is unknown; choose nhwc or nchw")
        if made.batch is not None and not 1 <= made.batch <= _LARGEST_BATCH:
            raise UsageError(f"batch is {made.batch}; give dynamic, or a size of 1 or more")
        if made.input_shape is not None and any(d is not None and d < 1 for d in made.input_shape):
            raise UsageError(f"input shape {'x'.join(map(str, made.input_shape))} has a size below 1")
        check_opset(made.opset)
        return made

    def recorded(self, unnamed: str) -> ConvertOptions:
        """The options as the manifest holds them: weights by the name of their file, or ``unnamed``."""
        return replace(self, weights=Path(self.weights).name if self.weights else unnamed)


def check_opset(opset: int) -> None:
    """Raises UsageError for an opset that cannot be written."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        raise UsageError(f"opset {opset} cannot be written: choose one from {MIN_OPSET} to {newest}")


def whole(what: str, value: Any, *, least: int = 1) -> int:
    """``value`` as a Python int. Raises UsageError where it is no whole number of ``least`` or more."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise UsageError(f"{what} is {value!r}; it must be a whole number of {least} or more")
    return int(value)


def optional_whole(what: str, value: Any) -> int | None:
    """As ``whole``, for a value that may be None."""
    return None if value is None else whole(what, value)


def sizes(shape: Any) -> tuple[int | None, ...] | None:
    """An input shape as Python ints, None for a size left open. Raises UsageError for anything else."""
    if shape is None:
        return None
    if not isinstance(shape, (tuple, list)) or not all(
            d is None or (isinstance(d, numbers.Integral) and not isinstance(d, bool)) for d in shape):
        raise UsageError(f"input shape {shape!r} is no tuple of whole numbers, such as (224, 224, 3)")
    return tuple(None if d is None else int(d) for d in shape)
