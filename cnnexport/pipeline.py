"""From a name or a model file to a proven bundle: build, convert, write, verify, publish."""

from __future__ import annotations

import functools
import gc
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from cnnexport import bundle, memory, sources
from cnnexport.architectures.spec import Preprocessing
from cnnexport.bundle import Bundle, Manifest, Parity
from cnnexport.bundle.records import FileFacts, Provenance
from cnnexport.console import Progress
from cnnexport.errors import InputError, NewerModelError, ParityError
from cnnexport.options import ConvertOptions
from cnnexport.sources import KnownModel, Target

if TYPE_CHECKING:
    from cnnexport.conversion.write import WrittenFile
    from cnnexport.keras_files.heads import Ending
    from cnnexport.parity import GraphFacts, KerasAnswers, Verdict
    from cnnexport.parity.layers import Call
    from cnnexport.parity.witness import Teller, Truth
    from cnnexport.trained import TestSet

EXPORTED = Path("exported")


def convert(
    target: Any,
    options: ConvertOptions | None = None,
    *,
    output: str | Path | None = None,
    input_tensor: Any = None,
    unsafe_load: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    accept: Callable[[KnownModel], None] = lambda model: None,
    **asked: Any,
) -> Bundle:
    """Convert a model to ONNX, prove it against Keras and publish the bundle.

    ``target`` is the name of a registered architecture, the path of a Keras model file (``.keras``, ``.h5``,
    ``.hdf5``, SavedModel folder) or of the folder of a training run, or a Keras model. A run's test images are
    classified again in ONNX Runtime, and each must get the class that Keras gives it. ``asked`` are fields of
    ``ConvertOptions`` by name, in place of those of ``options``; ``input_tensor`` has keras.applications' meaning and
    belongs to registered architectures. ``output`` defaults to ``exported/NAME``; ``force`` replaces a bundle there.
    ``unsafe_load`` lets a model file run code stored in it. ``accept`` is shown the model as soon as it is built, and
    raises what is to end it there: nothing is converted then.

    Raises:
        UsageError: values that do not go together, or a place that cannot be written.
        InputError: a model or weights that cannot be read, fetched or converted.
        ParityError: ONNX Runtime disagrees with Keras; a rejected copy is kept aside and named.
    """
    steps = progress or Progress(io.StringIO(), quiet=True)
    options = replace(options or ConvertOptions(), **asked).resolved()
    found = sources.target(target, options, input_tensor=input_tensor)
    place = Path(output) if output is not None else EXPORTED / found.name

    def source() -> KnownModel:
        return sources.opened(found, options, input_tensor=input_tensor, unsafe_load=unsafe_load,
                              custom_objects=custom_objects)

    with ExitStack() as stack:
        stack.enter_context(bundle.reserved(place))
        bundle.refuse_existing(place, force=force)
        folder = stack.enter_context(bundle.staging(place))
        stack.enter_context(_seldom_collecting())
        stack.enter_context(memory.frugal())
        written = _convert(source, folder, options, steps, accept, own=found.spec is None)
        # Keras' weights are gone by now: ONNX Runtime makes a copy of its own.
        memory.give_back()
        parity, verdict = _prove(written, folder, options, lambda: _again(source, options, found))
        if not parity.passed:
            aside = bundle.set_aside(folder, place)
            raise ParityError(f"{_rejection(parity)}; nothing was written to {place}, the rejected bundle is kept in "
                              f"{aside} with its parity.json")
        manifest = _describe(written, folder, found, options, parity, verdict)
        bundle.publish(folder, place, replace=force)
    steps.finish()
    return Bundle(place, manifest, parity, seconds=dict(steps.seconds))


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
class _Written:
    """A model file on disk, what Keras computes, and the facts that need the model in memory."""

    files: list[WrittenFile]
    keras: KerasAnswers
    graph: GraphFacts
    opset: int
    ir_version: int
    parameters: int
    macs: int | None
    provenance: Provenance
    value_range: tuple[float, float] | None
    recipe: Preprocessing | None
    labels: Sequence[str] | None
    test: TestSet | None = None


def _convert(
    open_source: Callable[[], KnownModel], folder: Path, options: ConvertOptions, steps: Progress,
    accept: Callable[[KnownModel], None], *, own: bool
) -> _Written:
    """Build or load, convert, write, and ask Keras for the answers to compare with. ``own``: no architecture."""
    from cnnexport import parity
    from cnnexport.conversion import convert_model
    from cnnexport.conversion.write import skeleton, write_model
    from cnnexport.keras_files import heads
    from cnnexport.onnx_file import count_macs
    from cnnexport.parity import live

    steps("build")
    source = open_source()
    accept(source)
    model = source.model
    with heads.ended(model, logits=options.logits, own=own) as ending:
        names = heads.output_names(model, ending.kept, features=not options.include_top) if ending.kept else []
        converted = convert_model(
            model, output_names=names, layout=options.layout, batch=options.batch, opset=options.opset,
            input_shape=options.input_shape if own else None, progress=steps)
        # A subclassed model does not know its outputs before it runs, and so nothing of what ends them.
        kept = ending.kept or [None] * len(converted.outputs)
        steps("write")
        size = sum(v.const_value.nbytes for v in converted.model.graph.initializers.values()
                   if v.const_value is not None)
        # Twice: the comparison opens a copy. Some room for the small files.
        bundle.require_space(folder, 2 * size + (16 << 20))
        files = write_model(converted.model, folder)
        steps("verify")
        macs = count_macs(skeleton(converted.model))[0]
        graph = parity.graph_facts(converted.model, converted.inputs, converted.outputs,
                                   [None if head is None else head.activation for head in kept])
        opset, ir_version = converted.model.graph.opset_imports[""], converted.model.ir_version or 0
        # A SavedModel counts no Keras weights: the initializers are all there is.
        parameters = model.count_params() or _elements(converted.model)
        del converted  # its weights lie in the file now
        keras = _asked(lambda: live.ask(
            model, graph.inputs, seed=options.seed, value_range=source.value_range, batch=options.batch, macs=macs,
            kept_heads=kept))
        test = source.test.asked(model) if source.test is not None else None
    return _Written(
        files=files,
        keras=keras,
        graph=graph,
        opset=opset,
        ir_version=ir_version,
        parameters=parameters,
        macs=macs,
        provenance=source.provenance,
        value_range=source.value_range,
        recipe=source.recipe,
        labels=source.labels,
        test=test,
    )


@contextmanager
def _again(
    open_source: Callable[[], KnownModel], options: ConvertOptions, target: Target
) -> Iterator[tuple[Any, Ending]]:
    """The model made anew, to ask Keras more, and how it ends while the block runs."""
    from cnnexport.keras_files import heads

    model = open_source().model
    with heads.ended(model, logits=options.logits, own=target.spec is None) as ending:
        yield model, ending


def _asked(ask: Callable[[], KerasAnswers]) -> KerasAnswers:
    """Keras' answers. Raises InputError where TensorFlow has no kernel for what the model asks of it."""
    import tensorflow as tf

    from cnnexport.text import one_line

    try:
        return ask()
    except (tf.errors.UnimplementedError, tf.errors.AbortedError, tf.errors.InvalidArgumentError) as error:
        raise InputError(f"Keras itself cannot run the model here, so nothing can be compared: {one_line(error)}; "
                         "change the layer that it names") from error


def _prove(
    written: _Written, folder: Path, options: ConvertOptions,
    again: Callable[[], AbstractContextManager[tuple[Any, Ending]]],
) -> tuple[Parity, Verdict]:
    """Compare in ONNX Runtime and write ``parity.json``; returns the record and what it is of.

    Keras is asked ``again`` only for what its answers leave open: the model takes memory and time to make.
    """
    from cnnexport import parity
    from cnnexport.bundle.manifest import versions

    answers, file = written.keras, folder / bundle.MODEL
    criterion = parity.numeric(answers, written.graph)
    with ExitStack() as stack:
        made = functools.cache(lambda: stack.enter_context(again()))

        @functools.cache
        def teller() -> Teller:
            from cnnexport.parity import truth

            model, ending = made()
            return truth.teller(model, ending.kept, answers, dropped=ending.dropped)

        def tell(cases: Sequence[int], layers: Sequence[str], calls: Mapping[str, Call] | None = None) -> Truth:
            return teller()(cases, layers, calls)

        try:
            verdict = parity.judge(answers, written.graph, file, criterion, tell=tell)
        except NewerModelError as error:
            raise InputError(f"the ONNX Runtime installed here does not load opset {written.opset} yet, so the model "
                             "cannot be proven; use a lower --opset") from error
        if left := parity.left_open(verdict, answers, written.graph):
            from cnnexport.parity.streaming import stream_the_rest

            model, ending = made()
            verdict = stream_the_rest(
                verdict, model, ending.kept, answers, written.graph, file, criterion, left, tell=tell)
    record = parity.record(verdict, sha256=written.files[0].sha256, versions=versions(), seed=options.seed,
                           allowed=criterion.tolerance)
    if written.test is not None and record.passed:
        from cnnexport import runtimes
        from cnnexport.classifier import Classifier

        (port,) = written.graph.inputs
        session = runtimes.get(runtimes.DEFAULT).open(folder / bundle.MODEL)
        found = written.test.judge(
            Classifier(session, port.name, port.dtype, options.layout == "nchw", options.batch))
        record = structs.replace(record, test_set=found, passed=found.passed,
                                 reason=None if found.passed else "predictions")
    bundle.write_record(folder / bundle.PARITY, record)
    return record, verdict


def _describe(
    written: _Written, folder: Path, target: Target, options: ConvertOptions, parity: Parity, verdict: Verdict
) -> Manifest:
    """Write the test vectors, the chart of errors, the model card and the manifest; returns the manifest."""
    from cnnexport.bundle import card, records, vectors
    from cnnexport.bundle import manifest as manifests
    from cnnexport.parity import layer_map, to_onnx_layout
    from cnnexport.parity.chart import error_growth

    graph, first = written.graph, written.keras.answers[0]
    small = [bundle.PARITY, *vectors.write_vectors(
        folder,
        [(p.name, to_onnx_layout(a, p)) for p, a in zip(graph.inputs, first.case.inputs)],
        [(p.name, to_onnx_layout(a, p)) for p, a in zip(graph.outputs, first.outputs)])]
    files = {f.name: FileFacts(bytes=f.bytes, sha256=f.sha256) for f in written.files}
    chart = error_growth(target.name, verdict.layers, parity.tolerance.max_error)
    (folder / bundle.LAYERS).write_text(chart, encoding="utf-8")
    small.append(bundle.LAYERS)
    files |= {file: bundle.file_facts(folder / file) for file in small}
    inputs = tuple(manifests.input_tensor(p, written.value_range if p.dtype.startswith("float") else None)
                   for p in graph.inputs)
    precision = parity.tolerance.precision
    about = records.Manifest(
        name=target.name, untrained=written.provenance.untrained, provenance=written.provenance,
        architecture=manifests.architecture(target.registered),
        options=options.recorded("random" if target.spec is not None else "own"), inputs=inputs,
        preprocessing=manifests.preprocessing(written.recipe, inputs),
        outputs=tuple(map(manifests.output_tensor, graph.outputs)),
        labels=None if written.labels is None else tuple(written.labels), opset=written.opset,
        ir_version=written.ir_version, parameters=written.parameters, macs=written.macs,
        layers=tuple(records.LayerFacts(layer=row.layer, kind=row.kind, tensor=row.tensor, holds=row.holds,
                                        reason=row.reason) for row in layer_map(written.keras, graph)),
        evaluation=parity.test_set or None,
        models=(records.ModelFacts(id=precision, file=bundle.MODEL, precision=precision, parity=bundle.PARITY),),
        files=files, versions=manifests.versions())
    (folder / bundle.CARD).write_text(card.model_card(about, parity), encoding="utf-8")
    files[bundle.CARD] = bundle.file_facts(folder / bundle.CARD)
    bundle.write_record(folder / bundle.MANIFEST, about)
    bundle.write_sums(folder)
    return about


def _elements(model: Any) -> int:
    """Elements of the floating-point initializers of an ONNX graph, lone numbers aside."""
    values = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    return sum(math.prod(v.shape.numpy()) for v in values if v.dtype.is_floating_point() and len(v.shape))


def _rejection(parity: Parity) -> str:
    """Why a parity record did not pass, in one clause."""
    from cnnexport.parity.gate import DID_NOT_RUN

    if parity.reason == "insensitive" and parity.sensitivity is not None:
        named = ", ".join(f"'{layer}'" for layer in parity.sensitivity.insensitive[:3])
        return (f"insensitive: a change of the weights of {named} would be seen neither in the outputs nor in a "
                "layer's own, so nothing is proven of them (dead units, or weights that are all alike)")
    if parity.reason == "precision":
        return (f"{parity.lower_precision}, which was not asked for: the Keras model computes in "
                f"{parity.tolerance.precision} (its layers' dtype policies say what is asked for)")
    if parity.reason == "predictions" and parity.test_set:
        test = parity.test_set
        return (f"ONNX Runtime gives {test.differing} of {test.images} test images another class than Keras "
                f"(the first at index {test.first_differing[0]})")
    layer = parity.first_diverging_layer
    where = f", first in layer '{layer}'" if layer else ""
    failed = [c for c in parity.comparisons if not c["passed"]]
    if not failed and not layer:
        return "every row is too ill-conditioned for float32 to mean anything, so nothing is proven"
    if not failed:
        return f"ONNX Runtime disagrees with Keras inside the network{where}"
    worst = max(failed, key=lambda c: math.inf if c["max_error"] is None else c["max_error"])
    if worst.get("failed") == DID_NOT_RUN:
        return (f"ONNX Runtime does not run the file at {worst['kind']}, which the network takes: the conversion holds "
                "for some sizes only")
    told = (f"ONNX Runtime disagrees with Keras on '{worst['output']}' ({worst['level']}, {worst['kind']}, batch "
            f"{worst['batch']}): {_off(worst)}{where}")
    if parity.optimiser == "wrong":
        told += "; without its graph optimisation the file is right: that is what changes it"
    elif not layer and any(row["passed"] for row in parity.layers):
        told += "; every layer by itself agrees"
    return told


def _off(c: dict[str, Any]) -> str:
    """How far off a comparison is, by the bound that it did not keep."""
    if c["max_error"] is None:
        return f"no finite error (they differ in {c.get('failed') or 'shape'})"
    mean = c.get("failed") == "root mean square"
    error, allowed = (c["rms_error"], c["allowed_rms_error"]) if mean else (c["max_error"], c["allowed_error"])
    keras = c["keras_rms_error" if mean else "keras_error"]
    own = "" if keras is None else f", Keras itself {keras:.2g} from the truth"
    return (f"off by {error:.2g} standard deviations{' (root mean square)' if mean else ''}, {allowed:.0e} "
            f"allowed{own}")
