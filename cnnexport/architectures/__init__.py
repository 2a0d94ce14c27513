"""The registry: every architecture that can be asked for by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from cnnexport.architectures import lenet, resnet, vgg
from cnnexport.architectures.spec import Architecture
from cnnexport.errors import InputError, UsageError


def all_architectures() -> list[Architecture]:
    """Every registered architecture, family by family."""
    return [*lenet.ARCHITECTURES, *vgg.ARCHITECTURES, *resnet.ARCHITECTURES]


def get(name: str) -> Architecture:
    """The architecture called ``name``, or one of its aliases. Raises UsageError for any other name."""
    known = {alias: spec for spec in all_architectures() for alias in (spec.name, *spec.aliases)}
    if name in known:
        return known[name]
    close = ", ".join(difflib.get_close_matches(name, known)) or ", ".join(s.name for s in all_architectures())
    raise UsageError(f"unknown architecture '{name}': choose one of {close}")


def build(
    name: str,
    *,
    weights: str = "random",
    seed: int = 0,
    include_top: bool = True,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    logits: bool = False,
    unsafe_load: bool = False,
) -> Any:
    """The Keras model of architecture ``name``, with keras.applications' meaning of each argument.

    ``weights`` is "random" (seeded), "imagenet" or the path of a Keras weights or model file; ``logits``
    leaves the final activation out. Raises UsageError for values that do not go together, InputError for
    weights that cannot be read or fetched.
    """
    spec = get(name)
    pooling = None if pooling == "none" else pooling
    check_options(spec, weights=weights, include_top=include_top, input_shape=input_shape, pooling=pooling,
                  classes=classes)
    imagenet = weights == "imagenet"
    shape = input_shape or (spec.input_shape if input_tensor is None else tuple(input_tensor.shape[1:]))
    try:
        model = spec.build(
            include_top=include_top, weights="imagenet" if imagenet else None, input_tensor=input_tensor,
            input_shape=shape, pooling=pooling, classes=classes or spec.classes,
            classifier_activation=None if logits else "softmax")
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        if imagenet:
            raise InputError(f"the ImageNet weights of {spec.name} could not be fetched ({reason}); connect to the "
                             "internet, or take --weights random") from error
        raise UsageError(f"{spec.name} cannot be built: {reason}") from error
    if weights == "random":
        from cnnexport.architectures.weights import randomise

        span = spec.preprocessing.value_range if spec.preprocessing else (-1.0, 1.0)
        randomise(model, seed, value_range=span)
    elif not imagenet:
        from cnnexport.models import load_weights

        load_weights(model, Path(weights), unsafe_load=unsafe_load)
    return model


def check_options(
    spec: Architecture,
    *,
    weights: str,
    include_top: bool,
    input_shape: tuple[int | None, ...] | None,
    pooling: str | None,
    classes: int | None,
) -> None:
    """keras.applications' rules, refused in one line before Keras is imported. Raises as ``build`` does."""
    imagenet = weights == "imagenet"
    if not imagenet and weights != "random" and not Path(weights).exists():
        raise InputError(f"the weights {weights} do not exist; give random, imagenet or a Keras weights or model file")
    if imagenet and "imagenet" not in spec.weights:
        raise UsageError(f"{spec.name} has no ImageNet weights; use --weights random or a weights file")
    if pooling not in (None, "avg", "max"):
        raise UsageError(f"pooling '{pooling}' is unknown; choose none, avg or max")
    if pooling and include_top:
        raise UsageError("pooling applies only without the top; add --no-top")
    if classes is not None:
        if classes < 1:
            raise UsageError(f"classes is {classes}; it must be 1 or more")
        if not include_top:
            raise UsageError("classes applies only with the top; leave out --no-top or --classes")
        if imagenet and classes != spec.classes:
            raise UsageError(f"ImageNet weights with the top have {spec.classes} classes; leave out --classes")
    if input_shape is None:
        return
    if len(input_shape) != 3:
        raise UsageError(f"input shape {_text(input_shape)} is not height x width x channels, such as "
                         f"{_text(spec.input_shape)}")
    height, width, channels = input_shape
    if channels is None or channels < 1:
        raise UsageError(f"input shape {_text(input_shape)} needs a number of channels")
    if include_top and (height is None or width is None):
        raise UsageError(f"input shape {_text(input_shape)} leaves a size open, which works only without the top; "
                         "add --no-top")
    if any(d is not None and d < spec.min_size for d in (height, width)):
        raise UsageError(f"input shape {_text(input_shape)} is too small for {spec.name}; height and width must be "
                         f"{spec.min_size} or more")
    if imagenet and include_top and tuple(input_shape) != spec.input_shape:
        raise UsageError(f"ImageNet weights with the top need {_text(spec.input_shape)}; add --no-top for other sizes")
    if imagenet and channels != 3:
        raise UsageError("ImageNet weights need 3 channels; use --weights random")


def _text(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)
