"""What is converted, and where it comes from: an architecture, a model file, a training run, a live Keras model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexport.architectures.spec import Architecture, Preprocessing
from cnnexport.bundle.records import Provenance
from cnnexport.errors import InputError, UsageError
from cnnexport.options import ConvertOptions

if TYPE_CHECKING:
    from cnnexport.trained import TestSet

_SUFFIXES = (".keras", ".h5", ".hdf5")


@dataclass(frozen=True)
class KnownModel:
    """A Keras model, and what is known about it."""

    model: Any
    provenance: Provenance
    value_range: tuple[float, float] | None
    recipe: Preprocessing | None = None
    labels: Sequence[str] | None = None
    test: TestSet | None = None


@dataclass(frozen=True)
class Target:
    """What is to be converted: an architecture, a path, or else a Keras model in memory.

    ``name`` is what its bundle is called; ``registered`` is the architecture that it is of, where that is known.
    """

    name: str
    spec: Architecture | None
    path: Path | None
    model: Any
    registered: Architecture | None


def target(given: Any, options: ConvertOptions, *, input_tensor: Any = None) -> Target:
    """What ``given`` means, with ``options`` (resolved) that go together with it.

    Raises:
        UsageError: options that do not go with it.
        InputError: a path that does not exist, or a run that has not finished.
    """
    from cnnexport import architectures

    spec, path = find(given)
    registered = spec
    if spec is not None:
        architectures.check_options(spec, options)
    else:
        _check_own(options, input_tensor)
        if path is not None and _is_run(path):
            registered = _check_run(path, options)
    name = spec.name if spec is not None else _name(path.name if path is not None else given.name)
    return Target(name, spec, path, given if path is None and spec is None else None, registered)


def opened(
    target: Target,
    options: ConvertOptions,
    *,
    input_tensor: Any = None,
    unsafe_load: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
) -> KnownModel:
    """Build or load ``target``. Raises InputError for a model or weights that cannot be read or fetched."""
    if target.spec is not None:
        return _build(target.spec, options, input_tensor=input_tensor, unsafe_load=unsafe_load)
    return _load(target, options, unsafe_load=unsafe_load, custom_objects=custom_objects)


def source_of(
    given: str,
    options: ConvertOptions,
    *,
    unsafe_load: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
) -> KnownModel:
    """The Keras model ``given`` as a bundle was made of it; ``options`` are its manifest's.

    Raises:
        UsageError: the bundle's weights are not in the architecture: the model file must be given.
        InputError: a model that cannot be read.
    """
    spec, path = find(given)
    if spec is None:
        random = "random" if options.weights == "random" else None
        return _load(Target("", None, path, None, None), replace(options, weights=random), unsafe_load=unsafe_load,
                     custom_objects=custom_objects)
    if options.weights not in (None, "random", "imagenet"):
        raise UsageError(f"the bundle has weights of its own ({options.weights}); give the Keras model file, not "
                         f"{given}")
    return _build(spec, options, input_tensor=None, unsafe_load=unsafe_load)


def find(target: Any) -> tuple[Architecture | None, Path | None]:
    """The registered architecture that ``target`` names, or else the path that it is; neither for a model."""
    from cnnexport import architectures

    if not isinstance(target, (str, Path)):
        if not (callable(target) and hasattr(target, "variables") and hasattr(target, "name")):
            raise UsageError(f"the target is a {type(target).__name__}; give an architecture's name, a model file or "
                             "a Keras model")
        return None, None
    if isinstance(target, str) and (spec := architectures.find(target)) is not None:
        return spec, None
    path = Path(target)
    if path.exists() or path.suffix.lower() in _SUFFIXES or any(mark in str(target) for mark in "/\\"):
        if not path.exists():
            raise InputError(f"{path} does not exist; give the path of a Keras model, or an architecture's name "
                             "(cnnexport list)")
        return None, path
    return architectures.get(str(target)), None


def _is_run(path: Path) -> bool:
    from cnnexport.training import runs

    return path.is_dir() and runs.is_run(path)


def _check_run(path: Path, options: ConvertOptions) -> Architecture | None:
    """The architecture of a finished run, where it is still registered. Refuses what would make it another model."""
    from cnnexport import architectures
    from cnnexport.training import runs

    if options.weights is not None or options.input_shape is not None:
        raise UsageError(f"{path} is a training run, with weights and an input shape of its own; leave out "
                         f"{'--weights' if options.weights is not None else '--input-shape'}")
    return architectures.find(runs.finished(path).record.architecture.name)


def _name(given: str) -> str:
    stem = given
    for suffix in _SUFFIXES:
        stem = stem.removesuffix(suffix)
    return re.sub(r"[^\w.-]+", "_", stem).strip(".") or "model"


def _check_own(options: ConvertOptions, input_tensor: Any) -> None:
    """A model file has its own top, pooling and classes."""
    weights = options.weights
    given = {"--no-top": not options.include_top, "--pooling": options.pooling is not None,
             "--classes": options.classes is not None,
             "--no-groups": not options.groups, "input_tensor": input_tensor is not None,
             "--weights imagenet": weights == "imagenet"}
    wrong = [option for option, present in given.items() if present]
    if wrong:
        raise UsageError(f"{' and '.join(wrong)} applies only to registered architectures, not to a model file; "
                         "leave it out")
    if weights is not None and weights not in ("random", "imagenet") and not Path(weights).exists():
        raise InputError(f"the weights {weights} do not exist; give random or a Keras weights or model file")


def _build(spec: Architecture, options: ConvertOptions, *, input_tensor: Any, unsafe_load: bool) -> KnownModel:
    from cnnexport import architectures

    weights, seed = options.weights or "random", options.seed
    model = architectures.build(
        spec.name, weights=weights, seed=seed, input_shape=options.input_shape, classes=options.classes,
        include_top=options.include_top, pooling=options.pooling, groups=options.groups, logits=options.logits,
        input_tensor=input_tensor, unsafe_load=unsafe_load)
    channels = model.inputs[0].shape[-1]
    recipe = spec.preprocessing if spec.preprocessing and len(spec.preprocessing.mean) in (1, channels) else None
    span = spec.preprocessing.value_range if spec.preprocessing else (-1.0, 1.0)
    if input_tensor is not None:
        recipe = None  # what the caller put before the network is his own
    labels = None
    if weights == "random":
        provenance = _random(seed)
    elif weights == "imagenet" and spec.backbone and options.include_top:
        provenance = Provenance(weights="imagenet", untrained=True, seed=seed, statement=(
            "Untrained: the backbone's weights are ImageNet's, as keras.applications publishes them, but those of the "
            f"top are random (seed {seed}); what the model answers means nothing."))
    elif weights == "imagenet":
        statement = "Weights trained on ImageNet-1k (ILSVRC 2012), as keras.applications publishes them."
        provenance = Provenance(weights="imagenet", untrained=False, statement=statement)
        # A network of another package may have a top of its own.
        labels = _imagenet_labels() if options.include_top and model.output_shape[-1] == 1000 else None
    else:
        provenance = _from_file(Path(weights), model)
    return KnownModel(model, provenance, span, recipe, labels)


def _random(seed: int) -> Provenance:
    return Provenance(
        weights="random", untrained=True, seed=seed,
        statement=f"Untrained: the weights are random (seed {seed}); what the model answers means nothing.")


def _from_file(path: Path, model: Any) -> Provenance:
    from cnnexport import keras_files

    steps = keras_files.saved_training_steps(path)
    untrained: bool | None = None
    statement = f"Weights from {path.name}; the file does not say whether they were trained."
    if steps:
        untrained = False
        statement = f"Weights from {path.name}, trained for {steps:,} optimizer steps."
    elif _untouched(model):
        untrained = True
        statement = (f"Untrained: every bias and moving mean in {path.name} is still at its initial zero; what the "
                     "model answers means nothing.")
    return Provenance(weights="file", untrained=untrained, statement=statement, file=path.name,
                      sha256=keras_files.sha256(path), training_steps=steps)


def _untouched(model: Any) -> bool:
    """Whether every variable that training moves from zero is at zero still; False where there is none."""
    import numpy as np

    starting = [v for v in model.weights if v.name in ("bias", "beta", "moving_mean")]
    return bool(starting) and not any(np.any(np.asarray(v)) for v in starting)


def _imagenet_labels() -> list[str] | None:
    """The 1000 class names by index, or None where they cannot be fetched."""
    import json

    import keras

    from cnnexport.keras_files.internals import imagenet_index_url

    url = imagenet_index_url()
    try:
        path = keras.utils.get_file("imagenet_class_index.json", url, cache_subdir="models")
        index = json.loads(Path(path).read_text(encoding="utf-8"))
        return [index[str(i)][1] for i in range(len(index))]
    except Exception:
        return None


def _load(
    target: Target, options: ConvertOptions, *, unsafe_load: bool, custom_objects: Mapping[str, Any] | None
) -> KnownModel:
    from cnnexport import keras_files

    path, weights = target.path, options.weights
    if path is not None and _is_run(path):
        from cnnexport import trained

        run = trained.load(path, unsafe_load=unsafe_load)
        return KnownModel(run.model, run.provenance, run.preparation.recipe.value_range, run.preparation.recipe,
                       run.labels, run.test)
    if path is None:
        model, provenance = target.model, _in_memory(target.model)
    else:
        model = keras_files.load_model(path, unsafe_load=unsafe_load, custom_objects=custom_objects)
        provenance = _from_file(path, model)
    span = _input_range(model)
    if weights == "random":
        if path is None:
            raise UsageError("weights 'random' would overwrite the weights of a model in memory; leave them out")
        from cnnexport.architectures.weights import randomise

        if not model.weights:
            raise UsageError("weights 'random' needs a model with Keras weights, which a SavedModel has not")
        randomise(model, options.seed, value_range=span or (-1.0, 1.0))
        provenance = _random(options.seed)
    elif weights is not None:
        keras_files.load_weights(model, Path(weights), unsafe_load=unsafe_load)
        provenance = _from_file(Path(weights), model)
    return KnownModel(model, provenance, span)


def _in_memory(model: Any) -> Provenance:
    untouched = model.weights and _untouched(model)
    return Provenance(
        weights="memory", untrained=True if untouched else None,
        statement="Untrained: every bias and moving mean is still at its initial zero; what the model answers "
                  "means nothing." if untouched
                  else "Weights of a Keras model in memory; nothing says whether they were trained.")


def _input_range(model: Any) -> tuple[float, float] | None:
    """0 to 255 for a model whose first layers rescale pixels; None where nothing is known."""
    layers = [layer for layer in getattr(model, "layers", []) if type(layer).__name__ != "InputLayer"]
    for layer in layers[:4]:
        if type(layer).__name__ == "Rescaling" and isinstance(layer.scale, (int, float)):
            return (0.0, 255.0) if 0 < layer.scale < 0.1 else None
    return None
