"""From a name or a model file to a proven bundle: build, convert, write, verify, publish."""

from __future__ import annotations

import gc
import io
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexport import bundle
from cnnexport.architectures import optional_whole, sizes, whole
from cnnexport.architectures.spec import Architecture, Preprocessing
from cnnexport.console import Progress
from cnnexport.errors import InputError, NewerModelError, ParityError, UsageError, describe

if TYPE_CHECKING:
    from cnnexport.conversion import Port
    from cnnexport.conversion.write import WrittenFile
    from cnnexport.parity import GateReference, Verdict
    from cnnexport.parity.layers import LayerComparison
    from cnnexport.trained import TestSet

DEFAULT_OPSET = 18
LAYOUTS = ("nhwc", "nchw")
EXPORTED = Path("exported")
_SUFFIXES = (".keras", ".h5", ".hdf5")
_LARGEST_BATCH = 2**31 - 1


@dataclass(frozen=True)
class Bundle:
    """A published bundle: its folder, what its manifest and parity record say, and the seconds of each step."""

    path: Path
    manifest: dict[str, Any]
    parity: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The bundle as JSON-ready values."""
        return {
            "bundle": str(self.path),
            "untrained": self.manifest["untrained"],
            "manifest": self.manifest,
            "parity": self.parity,
            "seconds": {step: round(value, 3) for step, value in self.seconds.items()},
        }


@dataclass(frozen=True)
class _Source:
    """A Keras model, and what is known about it."""

    model: Any
    provenance: dict[str, Any]
    value_range: tuple[float, float] | None
    recipe: Preprocessing | None = None
    labels: Sequence[str] | None = None
    test: TestSet | None = None


def convert(
    target: Any,
    *,
    output: str | Path | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    input_shape: tuple[int | None, ...] | None = None,
    classes: int | None = None,
    include_top: bool = True,
    pooling: str | None = None,
    groups: bool = True,
    logits: bool = False,
    layout: str = "nhwc",
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    input_tensor: Any = None,
    unsafe_load: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Convert a model to ONNX, prove it against Keras and publish the bundle.

    ``target`` is the name of a registered architecture, the path of a Keras model file (``.keras``, ``.h5``,
    ``.hdf5``, SavedModel folder) or of the folder of a training run, or a Keras model. A run's test images are
    classified again in ONNX Runtime, and each must get the class that Keras gives it. ``weights`` is "random"
    (seeded; the default of a registered architecture), "imagenet" or a Keras weights or model file; a model file
    keeps its own unless others are given. ``input_shape`` is (height, width, channels). ``include_top``, ``pooling``,
    ``classes`` and ``input_tensor`` have keras.applications' meaning and belong to registered architectures;
    ``groups=False`` joins the grouped convolutions of one that has them. ``logits`` leaves the final activation out;
    ``layout`` ("nhwc", "nchw") is that of the ONNX input; ``batch`` fixes the batch size (None: dynamic). ``output``
    defaults to ``exported/NAME``; ``force`` replaces a bundle there. ``unsafe_load`` lets a model file run code
    stored in it.

    Raises:
        UsageError: values that do not go together, or a place that cannot be written.
        InputError: a model or weights that cannot be read, fetched or converted.
        ParityError: ONNX Runtime disagrees with Keras; a rejected copy is kept aside and named.
    """
    steps = progress or Progress(io.StringIO(), quiet=True)
    pooling = None if pooling == "none" else pooling
    weights = None if weights is None else str(weights)
    if weights == "":
        raise UsageError("the weights are an empty name; give random, imagenet or a Keras weights or model file")
    seed, input_shape = whole("seed", seed, least=0), sizes(input_shape)
    classes, batch, opset = optional_whole("classes", classes), optional_whole("batch", batch), whole("opset", opset)
    spec, path = _find(target)
    registered = spec
    _check_options(layout=layout, batch=batch, opset=opset, seed=seed, input_shape=input_shape)
    if spec is not None:
        from cnnexport import architectures

        origin = weights or "random"
        if logits and not include_top:
            raise UsageError("logits applies only with the top; leave out --no-top or --logits")
        architectures.check_options(
            spec, weights=origin, include_top=include_top, input_shape=input_shape, pooling=pooling,
            classes=classes, groups=groups)
    else:
        _check_own(weights, include_top=include_top, pooling=pooling, classes=classes, groups=groups,
                   input_tensor=input_tensor)
        if path is not None and _is_run(path):
            registered = _check_run(path, weights, input_shape)
    name = spec.name if spec is not None else _name(path.name if path is not None else target.name)
    place = Path(output) if output is not None else EXPORTED / name

    options = {
        "weights": Path(weights).name if weights else "random" if spec is not None else "own", "seed": seed,
        "input_shape": None if input_shape is None else list(input_shape), "classes": classes,
        "include_top": include_top, "pooling": pooling, "groups": groups, "logits": logits, "layout": layout,
        "batch": batch, "opset": opset,
    }

    def source() -> _Source:
        if spec is not None:
            return _build(
                spec, weights or "random", seed=seed, input_shape=input_shape, classes=classes,
                include_top=include_top, pooling=pooling, groups=groups, logits=logits, input_tensor=input_tensor,
                unsafe_load=unsafe_load)
        return _load(target, path, weights, seed=seed, unsafe_load=unsafe_load, custom_objects=custom_objects)

    with ExitStack() as stack:
        stack.enter_context(bundle.reserved(place))
        bundle.refuse_existing(place, force=force)
        folder = stack.enter_context(bundle.staging(place))
        stack.enter_context(_seldom_collecting())
        written = _convert(source, folder, options, steps, own=spec is None)
        # Keras' weights are gone by now: ONNX Runtime makes a copy of its own.
        gc.collect()
        parity, verdict = _prove(written, folder, seed, layout=layout, batch=batch)
        if not parity["passed"]:
            aside = bundle.set_aside(folder, place)
            raise ParityError(f"{_rejection(parity)}; nothing was written to {place}, the rejected bundle is kept in "
                              f"{aside} with its parity.json")
        manifest = _describe(written, folder, name, registered, options, parity, verdict.layers)
        bundle.publish(folder, place, replace=force)
    steps.finish()
    return Bundle(place, manifest, parity, dict(steps.seconds))


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Let Python look for garbage less often while the block runs.

    It walks all that Keras, TensorFlow and ONNX hold each time: a fifth of the time of a deep network.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], 50_000) if before[0] else 0, max(before[1], 20), max(before[2], 50))
    try:
        yield
    finally:
        gc.set_threshold(*before)


@dataclass(frozen=True)
class Outcome:
    """How the conversion of one architecture ended: the bundle, or the error's line and exit code."""

    name: str
    exit_code: int
    error: str | None = None
    bundle: Bundle | None = None

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON-ready values; those of the bundle beside it."""
        facts = {"name": self.name, "exit_code": self.exit_code, "error": self.error}
        return facts | (self.bundle.to_dict() if self.bundle else {})


def convert_all(
    *, output: str | Path | None = None, progress: Progress | None = None, **options: Any
) -> Iterator[Outcome]:
    """Convert every registered architecture with the same ``options`` (of ``convert``), one after the other.

    Bundles go to ``output/NAME`` (default ``exported/NAME``). An architecture that fails does not stop the
    rest. Each outcome is yielded as soon as it is known.
    """
    from cnnexport import architectures

    steps = progress or Progress(io.StringIO(), quiet=True)
    specs = architectures.all_architectures()
    for index, spec in enumerate(specs, 1):
        steps.heading(f"{spec.name} ({index} of {len(specs)})")
        place = Path(output or EXPORTED) / spec.name
        try:
            made = convert(spec.name, output=place, progress=steps, **options)
        except Exception as error:
            steps.abandon()
            message, code = describe(error)
            yield Outcome(spec.name, code, error=" ".join(message.split()))
        else:
            yield Outcome(spec.name, 0, bundle=made)
        if (keras := sys.modules.get("keras")) is not None:
            keras.backend.clear_session()
        gc.collect()


def format_outcomes(outcomes: Sequence[Outcome]) -> str:
    """A line for each architecture: whether it passed, its size, its error and the seconds it took."""
    from cnnexport.architectures.show import columns

    rows: list[tuple[str, ...]] = [("name", "result", "parameters", "MACs", "MB", "worst error", "seconds")]
    for outcome in outcomes:
        made = outcome.bundle
        if made is None:
            rows.append((outcome.name, f"failed ({outcome.exit_code})", *[""] * 5))
            continue
        size = sum(f["bytes"] for n, f in made.manifest["files"].items() if n.startswith("model.onnx"))
        macs = "" if made.manifest["macs"] is None else f"{made.manifest['macs']:,}"
        rows.append((outcome.name, "passed", f"{made.manifest['parameters']:,}", macs, f"{size / 1e6:.1f}",
                     f"{made.parity['worst_error']:.1e}", f"{sum(made.seconds.values()):.1f}"))
    failed = sum(outcome.bundle is None for outcome in outcomes)
    return (columns(rows, right=(2, 3, 4, 5, 6)) +
            f"\n{len(outcomes) - failed} of {len(outcomes)} converted and proven"
            + (f", {failed} failed" if failed else ""))


@dataclass(frozen=True)
class _Written:
    """A model file on disk, what Keras computes, and the facts that need the model in memory."""

    files: list[WrittenFile]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    keras: GateReference
    opset: int
    ir_version: int
    parameters: int
    macs: int | None
    provenance: dict[str, Any]
    value_range: tuple[float, float] | None
    recipe: Preprocessing | None
    labels: Sequence[str] | None
    test: TestSet | None = None


def _convert(
    open_source: Callable[[], _Source], folder: Path, options: dict[str, Any], steps: Progress, *, own: bool
) -> _Written:
    """Build or load, convert, write, and ask Keras for the answers to compare with. ``own``: no architecture."""
    from cnnexport import heads, parity
    from cnnexport.conversion import convert_model
    from cnnexport.conversion.write import skeleton, write_model
    from cnnexport.inspection import count_macs

    steps("build")
    source = open_source()
    model = source.model
    found = heads.heads(model)
    drop = options["logits"] and own
    kept = [None] * len(found) if drop else found
    with heads.without(found) if drop else nullcontext():
        names = heads.output_names(model, kept, features=not options["include_top"]) if found else []
        converted = convert_model(
            model, output_names=names, layout=options["layout"], batch=options["batch"], opset=options["opset"],
            input_shape=tuple(options["input_shape"]) if own and options["input_shape"] else None, progress=steps)
        steps("write")
        size = sum(v.const_value.nbytes for v in converted.model.graph.initializers.values()
                   if v.const_value is not None)
        # Twice: the comparison opens a copy. Some room for the small files.
        bundle.require_space(folder, 2 * size + (16 << 20))
        files = write_model(converted.model, folder)
        steps("verify")
        macs = count_macs(skeleton(converted.model))[0]
        keras = parity.reference(
            model, converted, seed=options["seed"], value_range=source.value_range, batch=options["batch"], macs=macs,
            kept_heads=kept)
        test = source.test.asked(model) if source.test is not None else None
    return _Written(
        files=files,
        inputs=converted.inputs,
        outputs=converted.outputs,
        keras=keras,
        opset=converted.model.graph.opset_imports[""],
        ir_version=converted.model.ir_version or 0,
        # A SavedModel counts no Keras weights: the initializers are all there is.
        parameters=model.count_params() or _elements(converted.model),
        macs=macs,
        provenance=source.provenance,
        value_range=source.value_range,
        recipe=source.recipe,
        labels=source.labels,
        test=test,
    )


def _prove(
    written: _Written, folder: Path, seed: int, *, layout: str, batch: int | None
) -> tuple[dict[str, Any], Verdict]:
    """Compare in ONNX Runtime and write ``parity.json``; returns the record and what it is of."""
    from cnnexport import parity
    from cnnexport.bundle.manifest import versions

    try:
        verdict = parity.judge(written.keras, folder / "model.onnx")
    except NewerModelError as error:
        raise InputError(f"the ONNX Runtime installed here does not load opset {written.opset} yet, so the model "
                         "cannot be proven; use a lower --opset") from error
    record = parity.record(
        verdict.comparisons, sha256=written.files[0].sha256, versions=versions(), seed=seed,
        allowed=written.keras.tolerance, layers=verdict.layers, sensitivity=verdict.sensitivity,
        insensitive=verdict.insensitive, lower_precision=verdict.lower_precision)
    if written.test is not None and record["passed"]:
        from cnnexport import runtime
        from cnnexport.evaluation import Classifier

        (port,) = written.inputs
        session = runtime.session(folder / "model.onnx")
        record["test_set"] = written.test.judge(Classifier(session, port.name, port.dtype, layout == "nchw", batch))
        if not record["test_set"]["passed"]:
            record["passed"], record["reason"] = False, "predictions"
    bundle.write_json(folder / bundle.PARITY, record)
    return record, verdict


def _describe(
    written: _Written,
    folder: Path,
    name: str,
    spec: Architecture | None,
    options: dict[str, Any],
    parity: dict[str, Any],
    verdict_layers: Sequence[LayerComparison],
) -> dict[str, Any]:
    """Write the test vectors, the chart of errors, the model card and the manifest; returns the manifest."""
    from cnnexport.bundle import card, vectors
    from cnnexport.bundle import manifest as manifests
    from cnnexport.parity import to_onnx_layout
    from cnnexport.parity.chart import error_growth

    first = written.keras.references[0]
    small = [bundle.PARITY, *vectors.write_vectors(
        folder,
        [(p.name, to_onnx_layout(a, p)) for p, a in zip(written.inputs, first.case.inputs)],
        [(p.name, to_onnx_layout(a, p)) for p, a in zip(written.outputs, first.outputs)])]
    files = {f.name: {"bytes": f.bytes, "sha256": f.sha256} for f in written.files}
    chart = error_growth(name, verdict_layers, parity["tolerance"]["max_error"])
    (folder / bundle.LAYERS).write_text(chart, encoding="utf-8")
    small.append(bundle.LAYERS)
    files |= {file: _facts(folder / file) for file in small}
    manifest = manifests.manifest(
        name=name, spec=spec, options=options, provenance=written.provenance,
        inputs=[manifests.tensor(p, value_range=written.value_range if p.dtype.startswith("float") else None)
                for p in written.inputs],
        outputs=[manifests.output(p) for p in written.outputs], recipe=written.recipe, labels=written.labels,
        opset=written.opset, ir_version=written.ir_version, parameters=written.parameters, macs=written.macs,
        evaluation=parity.get("test_set"), files=files,
        layers=[{k: v for k, v in asdict(row).items() if k != "channels_first"} for row in written.keras.layers])
    (folder / bundle.CARD).write_text(card.model_card(manifest, parity), encoding="utf-8")
    files[bundle.CARD] = _facts(folder / bundle.CARD)
    bundle.write_json(folder / bundle.MANIFEST, manifest)
    bundle.write_sums(folder)
    return manifest


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": bundle.sha256(path)}


def _find(target: Any) -> tuple[Architecture | None, Path | None]:
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


def _check_run(path: Path, weights: str | None, input_shape: tuple[int | None, ...] | None) -> Architecture | None:
    """The architecture of a finished run, where it is still registered. Refuses what would make it another model."""
    from cnnexport import architectures
    from cnnexport.training import runs

    if weights is not None or input_shape is not None:
        raise UsageError(f"{path} is a training run, with weights and an input shape of its own; leave out "
                         f"{'--weights' if weights is not None else '--input-shape'}")
    return architectures.find(str(runs.finished(path).record["architecture"]["name"]))


def _name(given: str) -> str:
    stem = given
    for suffix in _SUFFIXES:
        stem = stem.removesuffix(suffix)
    return re.sub(r"[^\w.-]+", "_", stem).strip(".") or "model"


def _check_options(
    *, layout: str, batch: int | None, opset: int, seed: int, input_shape: tuple[int | None, ...] | None
) -> None:
    if layout not in LAYOUTS:
        raise UsageError(f"layout '{layout}' is unknown; choose nhwc or nchw")
    if batch is not None and not 1 <= batch <= _LARGEST_BATCH:
        raise UsageError(f"batch is {batch}; give dynamic, or a size of 1 or more")
    if seed < 0:
        raise UsageError(f"seed is {seed}; it must be 0 or more")
    if input_shape is not None and any(d is not None and d < 1 for d in input_shape):
        raise UsageError(f"input shape {'x'.join(map(str, input_shape))} has a size below 1")
    import onnx

    from cnnexport.conversion.translate import MIN_OPSET

    newest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        raise UsageError(f"opset {opset} cannot be written: choose one from {MIN_OPSET} to {newest}")


def _check_own(
    weights: str | None, *, include_top: bool, pooling: str | None, classes: int | None, groups: bool, input_tensor: Any
) -> None:
    """A model file has its own top, pooling and classes."""
    given = {"--no-top": not include_top, "--pooling": pooling is not None, "--classes": classes is not None,
             "--no-groups": not groups, "input_tensor": input_tensor is not None,
             "--weights imagenet": weights == "imagenet"}
    wrong = [option for option, present in given.items() if present]
    if wrong:
        raise UsageError(f"{' and '.join(wrong)} applies only to registered architectures, not to a model file; "
                         "leave it out")
    if weights is not None and weights not in ("random", "imagenet") and not Path(weights).exists():
        raise InputError(f"the weights {weights} do not exist; give random or a Keras weights or model file")


def source_of(
    target: str,
    options: Mapping[str, Any],
    *,
    seed: int,
    unsafe_load: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
) -> _Source:
    """The Keras model ``target`` as a bundle was made of it; ``options`` are its manifest's (empty: defaults).

    Raises:
        UsageError: the bundle's weights are not in the architecture: the model file must be given.
        InputError: a model that cannot be read.
    """
    spec, path = _find(target)
    shape = options.get("input_shape")
    if spec is None:
        random = "random" if options.get("weights") == "random" else None
        return _load(target, path, random, seed=seed, unsafe_load=unsafe_load, custom_objects=custom_objects)
    weights = str(options.get("weights") or "random")
    if weights not in ("random", "imagenet"):
        raise UsageError(f"the bundle has weights of its own ({weights}); give the Keras model file, not {target}")
    return _build(
        spec, weights, seed=seed, input_shape=tuple(shape) if shape else None, classes=options.get("classes"),
        include_top=options.get("include_top", True), pooling=options.get("pooling"),
        groups=options.get("groups", True), logits=bool(options.get("logits")), input_tensor=None,
        unsafe_load=unsafe_load)


def _build(spec: Architecture, weights: str, *, logits: bool, unsafe_load: bool, **options: Any) -> _Source:
    from cnnexport import architectures

    model = architectures.build(spec.name, weights=weights, logits=logits, unsafe_load=unsafe_load, **options)
    channels = model.inputs[0].shape[-1]
    recipe = spec.preprocessing if spec.preprocessing and len(spec.preprocessing.mean) in (1, channels) else None
    span = spec.preprocessing.value_range if spec.preprocessing else (-1.0, 1.0)
    seed = options["seed"]
    if options["input_tensor"] is not None:
        recipe = None  # what the caller put before the network is his own
    labels = None
    if weights == "random":
        provenance = _random(seed)
    elif weights == "imagenet" and spec.backbone and options["include_top"]:
        provenance = {"weights": "imagenet", "untrained": True, "seed": seed, "statement": (
            "Untrained: the backbone's weights are ImageNet's, as keras.applications publishes them, but those of the "
            f"top are random (seed {seed}); what the model answers means nothing.")}
    elif weights == "imagenet":
        statement = "Weights trained on ImageNet-1k (ILSVRC 2012), as keras.applications publishes them."
        provenance = {"weights": "imagenet", "untrained": False, "statement": statement}
        # A network of another package may have a top of its own.
        labels = _imagenet_labels() if options["include_top"] and model.output_shape[-1] == 1000 else None
    else:
        provenance = _from_file(Path(weights), model)
    return _Source(model, provenance, span, recipe, labels)


def _random(seed: int) -> dict[str, Any]:
    return {"weights": "random", "untrained": True, "seed": seed,
            "statement": f"Untrained: the weights are random (seed {seed}); what the model answers means nothing."}


def _from_file(path: Path, model: Any) -> dict[str, Any]:
    from cnnexport import models

    steps = models.saved_training_steps(path)
    untrained: bool | None = None
    statement = f"Weights from {path.name}; the file does not say whether they were trained."
    if steps:
        untrained = False
        statement = f"Weights from {path.name}, trained for {steps:,} optimizer steps."
    elif _untouched(model):
        untrained = True
        statement = (f"Untrained: every bias and moving mean in {path.name} is still at its initial zero; what the "
                     "model answers means nothing.")
    return {"weights": "file", "untrained": untrained, "statement": statement, "file": path.name,
            "sha256": models.sha256(path), "training_steps": steps}


def _untouched(model: Any) -> bool:
    """Whether every variable that training moves from zero is at zero still; False where there is none."""
    import numpy as np

    starting = [v for v in model.weights if v.name in ("bias", "beta", "moving_mean")]
    return bool(starting) and not any(np.any(np.asarray(v)) for v in starting)


def _imagenet_labels() -> list[str] | None:
    """The 1000 class names by index, or None where they cannot be fetched."""
    import json

    import keras
    from keras.src.applications import imagenet_utils

    try:
        path = keras.utils.get_file("imagenet_class_index.json", imagenet_utils.CLASS_INDEX_PATH, cache_subdir="models")
        index = json.loads(Path(path).read_text(encoding="utf-8"))
        return [index[str(i)][1] for i in range(len(index))]
    except Exception:
        return None


def _load(
    target: Any,
    path: Path | None,
    weights: str | None,
    *,
    seed: int,
    unsafe_load: bool,
    custom_objects: Mapping[str, Any] | None,
) -> _Source:
    from cnnexport import models

    if path is not None and _is_run(path):
        from cnnexport import trained

        run = trained.load(path, unsafe_load=unsafe_load)
        return _Source(run.model, run.provenance, run.preparation.recipe.value_range, run.preparation.recipe,
                       run.labels, run.test)
    if path is None:
        model, provenance = target, _in_memory(target)
    else:
        model = models.load_model(path, unsafe_load=unsafe_load, custom_objects=custom_objects)
        provenance = _from_file(path, model)
    span = _input_range(model)
    if weights == "random":
        if path is None:
            raise UsageError("weights 'random' would overwrite the weights of a model in memory; leave them out")
        from cnnexport.architectures.weights import randomise

        if not model.weights:
            raise UsageError("weights 'random' needs a model with Keras weights, which a SavedModel has not")
        randomise(model, seed, value_range=span or (-1.0, 1.0))
        provenance = _random(seed)
    elif weights is not None:
        models.load_weights(model, Path(weights), unsafe_load=unsafe_load)
        provenance = _from_file(Path(weights), model)
    return _Source(model, provenance, span)


def _in_memory(model: Any) -> dict[str, Any]:
    untouched = model.weights and _untouched(model)
    return {
        "weights": "memory", "untrained": True if untouched else None,
        "statement": "Untrained: every bias and moving mean is still at its initial zero; what the model answers "
                     "means nothing." if untouched
                     else "Weights of a Keras model in memory; nothing says whether they were trained.",
    }


def _input_range(model: Any) -> tuple[float, float] | None:
    """0 to 255 for a model whose first layers rescale pixels; None where nothing is known."""
    layers = [layer for layer in getattr(model, "layers", []) if type(layer).__name__ != "InputLayer"]
    for layer in layers[:4]:
        if type(layer).__name__ == "Rescaling" and isinstance(layer.scale, (int, float)):
            return (0.0, 255.0) if 0 < layer.scale < 0.1 else None
    return None


def _elements(model: Any) -> int:
    """Elements of the floating-point initializers of an ONNX graph, lone numbers aside."""
    values = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    return sum(math.prod(v.shape.numpy()) for v in values if v.dtype.is_floating_point() and len(v.shape))


def _rejection(parity: dict[str, Any]) -> str:
    """Why a parity record did not pass, in one clause."""
    if parity["reason"] == "insensitive":
        named = ", ".join(f"'{layer}'" for layer in parity["sensitivity"]["insensitive"][:3])
        return (f"insensitive: a change of the weights of {named} would be seen neither in the outputs nor in a "
                "layer's own, so nothing is proven of them (dead units, or weights that are all alike)")
    if parity["reason"] == "precision":
        return (f"{parity['lower_precision']}, which was not asked for: the Keras model computes in "
                f"{parity['tolerance']['precision']} (its layers' dtype policies say what is asked for)")
    if parity["reason"] == "predictions":
        test = parity["test_set"]
        return (f"ONNX Runtime gives {test['differing']} of {test['images']} test images another class than Keras "
                f"(the first at index {test['first_differing'][0]})")
    layer = parity["first_diverging_layer"]
    where = f", first in layer '{layer}'" if layer else ""
    failed = [c for c in parity["comparisons"] if not c["passed"]]
    if not failed:
        return f"ONNX Runtime disagrees with Keras inside the network{where}"
    worst = max(failed, key=lambda c: math.inf if c["max_error"] is None else c["max_error"])
    size = "no finite number of" if worst["max_error"] is None else f"{worst['max_error']:.2g}"
    return (f"ONNX Runtime disagrees with Keras on '{worst['output']}' ({worst['level']}, {worst['kind']}, batch "
            f"{worst['batch']}): off by {size} standard deviations, {parity['tolerance']['max_error']:.0e} allowed"
            f"{where}")
