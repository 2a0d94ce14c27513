"""The manifest: everything a bundle says about itself, as plain JSON values.

``manifest.schema.json`` beside this file documents each field; ``SCHEMA_VERSION`` grows when one changes
its meaning.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cnnexport.architectures.spec import Architecture, Preprocessing
from cnnexport.conversion.ports import Port
from cnnexport.data.images import image_steps

SCHEMA_VERSION = 1
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


def tensor(port: Port, *, value_range: tuple[float, float] | None = None) -> dict[str, Any]:
    """One input or output as the ONNX file has it; an open dimension is a name or None."""
    shape: list[int | str | None] = list(port.onnx_shape)
    if shape and shape[0] is None:
        shape[0] = "batch"
    facts: dict[str, Any] = {"name": port.name, "dtype": port.dtype, "shape": shape}
    if len(shape) == 4:
        facts["layout"] = "NCHW" if port.channels_first else "NHWC"
    else:
        facts["layout"] = None
    facts["value_range"] = list(value_range) if value_range else None
    return facts


def output(port: Port) -> dict[str, Any]:
    """An output, and what its numbers mean where its name says so."""
    facts = tensor(port)
    if port.name == "probabilities":
        facts["value_range"] = [0.0, 1.0]
    return {**facts, "meaning": _MEANINGS.get(port.name)}


def preprocessing(recipe: Preprocessing | None, inputs: Sequence[dict[str, Any]] = ()) -> dict[str, Any] | None:
    """What turns an image into the input, in exact numbers, as JSON values."""
    if recipe is None:
        return None
    facts = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(recipe).items()}
    formula = "(pixel * scale - mean) / std per channel, in color_order; an empty std divides nothing"
    image: dict[str, Any] | None = None
    if inputs and inputs[0]["layout"] is not None:
        sizes = inputs[0]["shape"][2:] if inputs[0]["layout"] == "NCHW" else inputs[0]["shape"][1:3]
        if all(isinstance(size, int) for size in sizes):
            image = image_steps(sizes[0], sizes[1], len(recipe.mean))
    return {**facts, "formula": formula, "image": image}


def architecture(spec: Architecture | None) -> dict[str, Any] | None:
    """Which registered architecture a bundle holds, and its published source."""
    return None if spec is None else {
        "name": spec.name, "family": spec.family, "depth": spec.depth, "source": str(spec.source),
        "differences": [d.what for d in spec.differences]}


def manifest(
    *,
    name: str,
    spec: Architecture | None,
    options: dict[str, Any],
    provenance: dict[str, Any],
    inputs: Sequence[dict[str, Any]],
    outputs: Sequence[dict[str, Any]],
    recipe: Preprocessing | None,
    labels: Sequence[str] | None,
    opset: int,
    ir_version: int,
    parameters: int,
    macs: int | None,
    files: dict[str, dict[str, Any]],
    layers: Sequence[dict[str, Any]] = (),
    evaluation: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a bundle. ``provenance["untrained"]`` is True, False, or None where nothing says.

    ``evaluation`` is the accuracy on a training run's test images, as ``parity.json`` has it.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "untrained": provenance["untrained"],
        "provenance": provenance,
        "architecture": architecture(spec),
        "options": options,
        "inputs": list(inputs),
        "preprocessing": preprocessing(recipe, inputs),
        "outputs": list(outputs),
        "labels": None if labels is None else list(labels),
        "opset": opset,
        "ir_version": ir_version,
        "parameters": parameters,
        "macs": macs,
        "layers": list(layers),
        "evaluation": evaluation,
        "files": files,
        "versions": versions(),
    }
