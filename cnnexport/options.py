"""The options of a conversion: resolved and checked once, kept in the manifest, read back from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cnnexport.architectures import optional_whole, sizes, whole
from cnnexport.errors import UsageError

DEFAULT_OPSET = 18
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
        import onnx

        from cnnexport.conversion.translate import MIN_OPSET

        newest = onnx.defs.onnx_opset_version()
        if not MIN_OPSET <= made.opset <= newest:
            raise UsageError(f"opset {made.opset} cannot be written: choose one from {MIN_OPSET} to {newest}")
        return made

    def to_dict(self, unnamed: str) -> dict[str, Any]:
        """The options as the manifest holds them: weights by the name of their file, or ``unnamed``."""
        return {**asdict(self), "weights": Path(self.weights).name if self.weights else unnamed,
                "input_shape": None if self.input_shape is None else list(self.input_shape)}

    @classmethod
    def from_manifest(cls, options: Mapping[str, Any]) -> ConvertOptions:
        """The options in a bundle's manifest; what an older one does not hold has its default."""
        known = {name: options[name] for name in cls.__dataclass_fields__ if name in options}
        shape = known.get("input_shape")
        return cls(**{**known, "input_shape": tuple(shape) if shape else None})
