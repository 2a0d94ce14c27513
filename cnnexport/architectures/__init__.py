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
    input_shape: tuple[int, int, int] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    logits: bool = False,
) -> Any:
    """The Keras model of architecture ``name``, with keras.applications' meaning of each argument.

    ``weights`` is "random" (seeded), "imagenet" or the path of a Keras weights file; ``logits`` leaves the
    final activation out. Raises UsageError for values that do not go together, InputError for weights that
    cannot be read or fetched.
    """
    spec = get(name)
    pooling = None if pooling == "none" else pooling
    _check(spec, weights, include_top, input_shape, pooling, classes)
    shape = input_shape or spec.input_shape
    imagenet = weights == "imagenet"
    try:
        model = spec.build(
            include_top=include_top, weights="imagenet" if imagenet else None, input_tensor=input_tensor,
            input_shape=shape, pooling=pooling, classes=classes or spec.classes,
            classifier_activation=None if logits else "softmax")
    except Exception as error:
        if not imagenet:
            raise
        raise InputError(f"the ImageNet weights of {name} could not be fetched ({error}); connect to the "
                         "internet, or take --weights random") from error
    if weights == "random":
        from cnnexport.architectures.weights import randomise

        span = spec.preprocessing.value_range if spec.preprocessing else (-1.0, 1.0)
        randomise(model, seed, value_range=span)
    elif not imagenet:
        try:
            model.load_weights(weights)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"the weights {weights} do not fit {name}: {reason}; "
                             "check --classes, --input-shape and --no-top") from error
    return model


def _check(
    spec: Architecture,
    weights: str,
    include_top: bool,
    input_shape: tuple[int, int, int] | None,
    pooling: str | None,
    classes: int | None,
) -> None:
    """keras.applications' rules, refused in one line before Keras is imported."""
    if weights not in ("random", "imagenet") and not Path(weights).is_file():
        raise InputError(f"the weights {weights} do not exist; give random, imagenet or a Keras weights file")
    if weights not in spec.weights and weights == "imagenet":
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
        if weights == "imagenet" and classes != spec.classes:
            raise UsageError(f"ImageNet weights with the top have {spec.classes} classes; leave out --classes")
    if input_shape is not None:
        height, width, channels = input_shape
        if min(height, width) < spec.min_size or channels < 1:
            raise UsageError(f"input shape {height}x{width}x{channels} is too small for {spec.name}; "
                             f"height and width must be {spec.min_size} or more")
        if weights == "imagenet" and include_top and input_shape != spec.input_shape:
            raise UsageError(f"ImageNet weights with the top need {'x'.join(map(str, spec.input_shape))}; "
                             "add --no-top for other sizes")
        if weights == "imagenet" and channels != 3:
            raise UsageError("ImageNet weights need 3 channels; use --weights random")
