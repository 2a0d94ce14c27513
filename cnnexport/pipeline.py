"""From a name or a model file to a proven bundle: build, convert, write, verify, publish."""

from __future__ import annotations

import gc
import io
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexport import bundle, sources
from cnnexport.architectures.spec import Preprocessing
from cnnexport.console import Progress
from cnnexport.errors import InputError, NewerModelError, ParityError, describe
from cnnexport.options import DEFAULT_OPSET, ConvertOptions
from cnnexport.sources import Source, Target

if TYPE_CHECKING:
    from cnnexport.conversion import Port
    from cnnexport.conversion.write import WrittenFile
    from cnnexport.parity import GateReference, Verdict
    from cnnexport.parity.layers import LayerComparison
    from cnnexport.trained import TestSet

EXPORTED = Path("exported")


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
    options = ConvertOptions(
        weights=None if weights is None else str(weights), seed=seed, input_shape=input_shape, classes=classes,
        include_top=include_top, pooling=pooling, groups=groups, logits=logits, layout=layout, batch=batch,
        opset=opset).resolved()
    found = sources.target(target, options, input_tensor=input_tensor)
    place = Path(output) if output is not None else EXPORTED / found.name

    def source() -> Source:
        return sources.opened(found, options, input_tensor=input_tensor, unsafe_load=unsafe_load,
                              custom_objects=custom_objects)

    with ExitStack() as stack:
        stack.enter_context(bundle.reserved(place))
        bundle.refuse_existing(place, force=force)
        folder = stack.enter_context(bundle.staging(place))
        stack.enter_context(_seldom_collecting())
        written = _convert(source, folder, options, steps, own=found.spec is None)
        # Keras' weights are gone by now: ONNX Runtime makes a copy of its own.
        gc.collect()
        parity, verdict = _prove(written, folder, options)
        if not parity["passed"]:
            aside = bundle.set_aside(folder, place)
            raise ParityError(f"{_rejection(parity)}; nothing was written to {place}, the rejected bundle is kept in "
                              f"{aside} with its parity.json")
        manifest = _describe(written, folder, found, options, parity, verdict.layers)
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
    from cnnexport import architectures, distribution

    distribution.require(distribution.KERAS)  # told once, not of each
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
    from cnnexport.text import columns

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
    open_source: Callable[[], Source], folder: Path, options: ConvertOptions, steps: Progress, *, own: bool
) -> _Written:
    """Build or load, convert, write, and ask Keras for the answers to compare with. ``own``: no architecture."""
    from cnnexport import heads, parity
    from cnnexport.conversion import convert_model
    from cnnexport.conversion.write import skeleton, write_model
    from cnnexport.onnx_file import count_macs

    steps("build")
    source = open_source()
    model = source.model
    found = heads.heads(model)
    drop = options.logits and own
    kept = [None] * len(found) if drop else found
    with heads.without(found) if drop else nullcontext():
        names = heads.output_names(model, kept, features=not options.include_top) if found else []
        converted = convert_model(
            model, output_names=names, layout=options.layout, batch=options.batch, opset=options.opset,
            input_shape=options.input_shape if own else None, progress=steps)
        steps("write")
        size = sum(v.const_value.nbytes for v in converted.model.graph.initializers.values()
                   if v.const_value is not None)
        # Twice: the comparison opens a copy. Some room for the small files.
        bundle.require_space(folder, 2 * size + (16 << 20))
        files = write_model(converted.model, folder)
        steps("verify")
        macs = count_macs(skeleton(converted.model))[0]
        keras = parity.reference(
            model, converted, seed=options.seed, value_range=source.value_range, batch=options.batch, macs=macs,
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
    written: _Written, folder: Path, options: ConvertOptions
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
        verdict.comparisons, sha256=written.files[0].sha256, versions=versions(), seed=options.seed,
        allowed=written.keras.tolerance, layers=verdict.layers, sensitivity=verdict.sensitivity,
        insensitive=verdict.insensitive, lower_precision=verdict.lower_precision)
    if written.test is not None and record["passed"]:
        from cnnexport import runtimes
        from cnnexport.evaluation import Classifier

        (port,) = written.inputs
        session = runtimes.get(runtimes.DEFAULT).open(folder / "model.onnx")
        record["test_set"] = written.test.judge(
            Classifier(session, port.name, port.dtype, options.layout == "nchw", options.batch))
        if not record["test_set"]["passed"]:
            record["passed"], record["reason"] = False, "predictions"
    bundle.write_json(folder / bundle.PARITY, record)
    return record, verdict


def _describe(
    written: _Written,
    folder: Path,
    target: Target,
    options: ConvertOptions,
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
    chart = error_growth(target.name, verdict_layers, parity["tolerance"]["max_error"])
    (folder / bundle.LAYERS).write_text(chart, encoding="utf-8")
    small.append(bundle.LAYERS)
    files |= {file: _facts(folder / file) for file in small}
    manifest = manifests.manifest(
        name=target.name, spec=target.registered,
        options=options.to_dict("random" if target.spec is not None else "own"), provenance=written.provenance,
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
