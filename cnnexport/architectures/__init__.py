"""The registry: every architecture that can be asked for by name.

Other packages add theirs through the entry point group ``cnnexport.architectures``: each entry names an
``Architecture`` or a sequence of them.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnexport.architectures import alexnet, lenet, resnet, transfer, vgg
from cnnexport.architectures.spec import Architecture, Preprocessing
from cnnexport.errors import InputError, UsageError
from cnnexport.options import ConvertOptions
from cnnexport.text import shortened

ENTRY_POINTS = "cnnexport.architectures"
_OWN = (*lenet.ARCHITECTURES, *alexnet.ARCHITECTURES, *vgg.ARCHITECTURES, *resnet.ARCHITECTURES,
        *transfer.ARCHITECTURES)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def all_architectures() -> list[Architecture]:
    """Every registered architecture, family by family; those of other packages last."""
    return [*_OWN, *_others()[0]]


def problems() -> list[str]:
    """One line for each entry of another package that could not be registered."""
    return list(_others()[1])


def find(name: str) -> Architecture | None:
    """The architecture called ``name``, or one of its aliases; None for any other name."""
    own = next((spec for spec in _OWN if name in (spec.name, *spec.aliases)), None)
    # Other packages are looked for only where a name is not our own.
    return own or next((spec for spec in _others()[0] if name in (spec.name, *spec.aliases)), None)


def get(name: str) -> Architecture:
    """As ``find``. Raises UsageError, with names that are close, where there is none."""
    spec = find(name)
    if spec is not None:
        return spec
    known = [n for s in all_architectures() for n in (s.name, *s.aliases)]
    close = ", ".join(difflib.get_close_matches(name, known)) or ", ".join(s.name for s in all_architectures())
    broken = "".join(f" ({problem})" for problem in problems())
    raise UsageError(f"unknown architecture '{name}': choose one of {close}{broken}")


@functools.cache
def _others() -> tuple[tuple[Architecture, ...], tuple[str, ...]]:
    """What other packages register, and what is wrong with the rest; names that are taken stay as they are."""
    taken = {n for s in _OWN for n in (s.name, *s.aliases)}
    found: list[Architecture] = []
    wrong: list[str] = []
    for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda e: (e.name, e.value)):
        package = entry.dist.name if entry.dist else entry.module
        where = f"the entry point '{entry.name}' of {package}"
        try:
            value = entry.load()
        except Exception as error:  # whatever another package does on import
            wrong.append(f"{where} cannot be loaded: {type(error).__name__}: {shortened(str(error))}")
            continue
        specs = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for spec in specs:
            if not isinstance(spec, Architecture):
                wrong.append(f"{where} holds a {type(spec).__name__}; it must be an Architecture or a sequence of them")
                continue
            names = (spec.name, *spec.aliases)
            bad = next((n for n in names if not _NAME.fullmatch(n)), None)
            if bad is not None:
                wrong.append(f"{where} uses the name '{bad}'; names hold lower-case letters, digits, '.', '_', '-'")
            elif clash := next((n for n in names if n in taken), None):
                wrong.append(f"{where} uses the name '{clash}', which is taken; it is left out")
            else:
                taken.update(names)
                found.append(spec)
    return tuple(found), tuple(wrong)


def build(
    name: str,
    *,
    weights: str | None = None,
    seed: int = 0,
    include_top: bool = True,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    groups: bool = True,
    logits: bool = False,
    classifier_activation: str | None = "softmax",
    unsafe_load: bool = False,
) -> Any:
    """The Keras model of architecture ``name``, with keras.applications' meaning of each argument.

    ``weights`` is "random" (seeded; the default), "imagenet" or the path of a Keras weights or model file;
    ``groups=False`` joins grouped convolutions; ``logits`` leaves the final activation out, as does
    ``classifier_activation=None``. Of a network with a
    backbone, "imagenet" gives the backbone's weights, and its own top is random. Raises UsageError for values that
    do not go together, InputError for weights that cannot be read or fetched.
    """
    spec = get(name)
    asked = ConvertOptions(weights=weights, seed=seed, input_shape=input_shape, classes=classes,
                           include_top=include_top, pooling=pooling, groups=groups).resolved()
    shape = asked.input_shape
    if input_tensor is not None:
        shape = _shape_of(input_tensor, shape)
        asked = replace(asked, input_shape=shape)
    check_options(spec, asked)
    weights = asked.weights or "random"
    imagenet = weights == "imagenet"
    try:
        model = plain(
            spec, include_top=include_top, weights="imagenet" if imagenet else None, input_tensor=input_tensor,
            input_shape=shape or spec.input_shape, pooling=asked.pooling, classes=asked.classes or spec.classes,
            classifier_activation=None if logits else classifier_activation, groups=groups)
    except Exception as error:
        reason = shortened(str(error))
        if "OOM when allocating" in reason or isinstance(error, MemoryError):
            raise UsageError(f"{spec.name} cannot be built: the memory does not hold its weights with that input shape "
                             "and those classes; give smaller ones") from error
        if imagenet:
            raise InputError(f"the ImageNet weights of {spec.name} could not be fetched ({reason}); connect to the "
                             "internet, or take --weights random") from error
        raise UsageError(f"{spec.name} cannot be built: {reason}") from error
    top_alone = imagenet and spec.backbone and include_top
    if weights == "random" or top_alone:
        from cnnexport.architectures.weights import randomise

        randomise(model, asked.seed, value_range=_range(spec.preprocessing),
                  only=_to_draw(model, input_tensor, top_alone))
    elif not imagenet:
        from cnnexport.keras_files import load_weights

        load_weights(model, Path(weights), unsafe_load=unsafe_load)
    return model


def plain(
    spec: Architecture,
    *,
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    groups: bool = True,
) -> Any:
    """What the ``build`` of ``spec`` makes, with the defaults of ``spec`` and Keras' initial weights."""
    options: dict[str, Any] = {"groups": groups} if spec.grouped else {}
    return spec.build(
        include_top=include_top, weights=weights, input_tensor=input_tensor,
        input_shape=input_shape or spec.input_shape, pooling=pooling, classes=classes or spec.classes,
        classifier_activation=classifier_activation, **options)


def _range(preprocessing: Preprocessing | None) -> tuple[float, float]:
    return preprocessing.value_range if preprocessing else (-1.0, 1.0)


def _shape_of(tensor: Any, given: tuple[int | None, ...] | None) -> tuple[int | None, ...]:
    """The (height, width, channels) of an input tensor, which ``input_shape`` must not contradict."""
    from cnnexport.keras_files.internals import made_by

    shape = tuple(getattr(tensor, "shape", ()))
    if len(shape) != 4 or made_by(tensor) is None:
        raise UsageError("input_tensor is not a Keras tensor of shape (batch, height, width, channels); make one with "
                         "keras.Input")
    if not str(tensor.dtype).startswith(("float", "bfloat")):
        raise UsageError(f"input_tensor is of {tensor.dtype}, and the network's convolutions take floating-point "
                         "numbers; put keras.layers.Rescaling between")
    if given is not None and (len(given) != 3 or any(a != b for a, b in zip(given, shape[1:]) if None not in (a, b))):
        raise UsageError(f"input shape {_text(given)} is not that of the input tensor, {_text(shape[1:])}; "
                         "leave one out")
    return shape[1:]


def _to_draw(model: Any, input_tensor: Any, top_alone: bool) -> set[int] | None:
    """The ids of the layers whose weights are drawn, None for all; what is before ``input_tensor`` is the caller's."""
    if input_tensor is None and not top_alone:
        return None
    import keras

    chosen = {id(layer) for layer in model.layers if not top_alone or layer.trainable}
    if input_tensor is not None:
        front = keras.Model(keras.utils.get_source_inputs(input_tensor), input_tensor)
        chosen -= {id(layer) for layer in front.layers}
    return chosen


def check_options(spec: Architecture, options: ConvertOptions) -> None:
    """keras.applications' rules, refused in one line before Keras is imported. Raises as ``build`` does."""
    weights, include_top, pooling = options.weights or "random", options.include_top, options.pooling
    classes, input_shape, imagenet = options.classes, options.input_shape, weights == "imagenet"
    if include_top not in (True, False):
        raise UsageError(f"include_top is {include_top!r}; it must be True or False")
    if not imagenet and weights != "random" and not Path(weights).exists():
        raise InputError(f"the weights {weights} do not exist; give random, imagenet or a Keras weights or model file")
    if imagenet and "imagenet" not in spec.weights:
        raise UsageError(f"{spec.name} has no ImageNet weights; use --weights random or a weights file")
    if not options.groups and not spec.grouped:
        raise UsageError(f"{spec.name} has no grouped convolutions; leave out --no-groups")
    if pooling not in (None, "avg", "max"):
        raise UsageError(f"pooling '{pooling}' is unknown; choose none, avg or max")
    if pooling and include_top:
        raise UsageError("pooling applies only without the top; add --no-top")
    if options.logits and not include_top:
        raise UsageError("logits applies only with the top; leave out --no-top or --logits")
    fixed = imagenet and include_top and not spec.backbone
    if classes is not None:
        if classes < 1:
            raise UsageError(f"classes is {classes}; it must be 1 or more")
        if not include_top:
            raise UsageError("classes applies only with the top; leave out --no-top or --classes")
        if fixed and classes != spec.classes:
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
    if fixed and tuple(input_shape) != spec.input_shape:
        raise UsageError(f"ImageNet weights with the top need {_text(spec.input_shape)}; add --no-top for other sizes")
    if imagenet and channels != 3:
        raise UsageError("ImageNet weights need 3 channels; use --weights random")


def _text(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)
