"""What the parts of a manifest are made of."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

from msgspec import UNSET, structs

from cnnexport.architectures.spec import Architecture, Preprocessing
from cnnexport.bundle.records import ArchitectureFacts, ImageSteps, PreprocessingFacts, Range, Tensor
from cnnexport.conversion.ports import Port
from cnnexport.data.images import image_steps

_PACKAGES = ("cnnexport", "tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir", "onnxruntime", "onnxruntime-gpu",
             "numpy")
_MEANINGS = {
    "probabilities": "one probability a class",
    "logits": "one score a class, before any activation",
    "features": "features, not scores of classes",
}


def versions() -> dict[str, str]:
    """The versions of what makes a bundle, by package; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def input_tensor(port: Port, value_range: Range | None) -> Tensor:
    """One input as the ONNX file has it; an open dimension is a name or None."""
    shape: tuple[int | str | None, ...] = port.onnx_shape
    if shape and shape[0] is None:
        shape = ("batch", *shape[1:])
    layout: Literal["NCHW", "NHWC"] = "NCHW" if port.channels_first else "NHWC"
    return Tensor(name=port.name, dtype=port.dtype, shape=shape, layout=layout if len(shape) == 4 else None,
                  value_range=value_range, keras_name=port.keras_name or UNSET)


def output_tensor(port: Port) -> Tensor:
    """An output, and what its numbers mean where its name says so."""
    span = (0.0, 1.0) if port.name == "probabilities" else None
    return structs.replace(input_tensor(port, span), meaning=_MEANINGS.get(port.name))


def preprocessing(recipe: Preprocessing | None, inputs: Sequence[Tensor]) -> PreprocessingFacts | None:
    """What turns an image into the input, in exact numbers."""
    if recipe is None:
        return None
    formula = "(pixel * scale - mean) / std per channel, in color_order; an empty std divides nothing"
    image: ImageSteps | None = None
    if inputs and inputs[0].layout is not None:
        shape = inputs[0].shape
        height, width = shape[2:] if inputs[0].layout == "NCHW" else shape[1:3]
        if isinstance(height, int) and isinstance(width, int):
            image = ImageSteps(**image_steps(height, width, len(recipe.mean)))
    return PreprocessingFacts(**asdict(recipe), formula=formula, image=image)


def architecture(spec: Architecture | None) -> ArchitectureFacts | None:
    """Which registered architecture a bundle holds, and its published source."""
    return None if spec is None else ArchitectureFacts(
        name=spec.name, family=spec.family, depth=spec.depth, source=str(spec.source),
        differences=tuple(d.what for d in spec.differences))
