"""`quantize`: the same network in int8, fp16 or bf16, a further model of its bundle, and the verdict on it. No Keras.

| module | what |
|---|---|
| ``ahead`` | what is refused before there is a bundle |
| ``calibration`` | the images that set the ranges of int8 |
| ``ranges`` | the least and largest number of each tensor on them, or what of it is worth telling apart |
| ``int8``, ``half`` | write the file, by ONNX Runtime's own tools |
| ``by_nncf`` | writes it by NNCF, where that is installed |
| ``search`` | the int8 file that keeps the budget with the fewest layers in float32 |
| ``layers``, ``times`` | tensors inside both files: how much each layer lost; how long it takes in both |
| ``audit`` | whether each weight and range follows from the float32 file |
| ``measuring``, ``paired`` | both files on the same images and in turn on the clock; what that says |
| ``shown`` | the layers as a picture and as a table |
| ``verdict`` | ``ship``, ``reject`` or ``inconclusive`` |
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from msgspec import UNSET

from cnnexport import bundle, memory, runtimes
from cnnexport.bundle import Bundle, variants
from cnnexport.bundle.manifest import versions
from cnnexport.bundle.opening import parted
from cnnexport.bundle.records import Fidelity, ModelFacts, PairedAccuracy, VariantVerdict
from cnnexport.classifier import Classifier
from cnnexport.data import load
from cnnexport.errors import BundleError, InputError, RejectedError, UsageError
from cnnexport.evaluation import matched_labels, split_of
from cnnexport.parity.stored import distance, scores
from cnnexport.precision import ahead, audit, by_nncf, half, int8, measuring
from cnnexport.precision.calibration import (
    DEFAULT_IMAGES,
    FEWEST_IMAGES,
    Calibration,
    batch_size,
    choose,
    probes,
    synthetic,
)
from cnnexport.precision.layers import layer_errors
from cnnexport.precision.ranges import METHODS, Method, Ranges
from cnnexport.precision.search import Quantizer, Wanted, find
from cnnexport.precision.shown import picture
from cnnexport.precision.times import layer_times, undone
from cnnexport.precision.verdict import ALLOWED_RMS, Purpose, judge
from cnnexport.verification import check_model, stored_vectors

Precision = Literal["int8", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "bf16")
_PROBES = 64
"""Synthetic images that nearness is measured on, where there are no labelled ones."""


@dataclass(frozen=True)
class _Plan:
    """What is asked of a variant."""

    precision: Precision
    io: Literal["float32", "same"]
    purpose: Purpose
    max_drop: float
    seed: int
    threads: int | None
    keep: tuple[str, ...]
    ranges: Method | None
    activations: int8.Activations | None
    quantizer: Quantizer | None
    search: bool


def quantize(
    path: str | Path,
    precision: str,
    *,
    calibration: str | None = None,
    data: str | None = None,
    max_drop: float = 0.5,
    io: str = "float32",
    purpose: str | None = None,
    images: int = DEFAULT_IMAGES,
    seed: int = 0,
    threads: int | None = None,
    keep: Sequence[str] = (),
    ranges: str = "auto",
    activations: str = "auto",
    quantizer: str = "auto",
    search: bool = True,
    keep_rejected: bool = False,
    force: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> VariantVerdict:
    """Write the network of the bundle at ``path`` in ``precision`` beside its first model, and judge it.

    ``calibration`` names the ``images`` that ranges are measured on (``data.load``'s sources, or "synthetic"), ``data``
    labelled images whose test split tells what accuracy is lost; ``max_drop`` are the points that it may. ``purpose``
    is what must be gained, "speed" (of int8) or "size".
    ``keep`` are layers that int8 leaves in float32; ``ranges``, ``activations`` and ``quantizer`` are how it is made:
    what suits is found out ("auto"). With ``search``, layers go back to float32 until ``max_drop`` holds on training
    images. A variant whose verdict is ``reject`` is not published; ``keep_rejected`` keeps it aside.

    Raises:
        UsageError: values that do not go together, images that are not named, or a variant that is there already.
        InputError: no bundle of a classifier, images that cannot be read, or nothing to quantise.
        RejectedError: the verdict is ``reject``.
    """
    plan = _plan(precision, io, purpose, max_drop, seed, threads, tuple(keep), ranges, activations, quantizer, search)
    _check_together(precision, calibration, images, keep)
    if (asked := parted(path)[1]) is not None:
        raise UsageError(f"{path} names the model '{asked}', and quantize starts from the first model; leave "
                         f"'#{asked}' out")
    place = Path(os.path.realpath(path))
    first = Classifier.open(place, threads=threads)  # told before anything is written beside it
    with ExitStack() as stack:
        stack.enter_context(memory.frugal())
        stack.enter_context(bundle.reserved(place))
        folder = stack.enter_context(bundle.staging(place))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cnnexport-")))
        found = Bundle.open(place)
        if first.bundle is None or first.bundle.sha256 != found.sha256:
            raise BundleError(f"{path} was replaced by another bundle just now; give the command again")
        variants.copied(found, folder, precision, force=force)
        _refuse_external(found)
        named = choose(first, calibration, count=images, seed=seed) if precision == "int8" else None
        labelled = load(data, training=False) if data is not None else None  # told before minutes of work
        if labelled is not None:
            matched_labels(labelled, split_of(labelled, "test"), first.labels)
        progress(f"quantize to {precision}")
        file = folder / variants.file_name(precision)
        made, measured = _write(plan, found, file, first, named, scratch, progress)
        verdict = _judged(plan, found, first, file, made, measured, named, labelled, scratch, progress)
        model = ModelFacts(id=precision, file=file.name, precision=precision, parity=bundle.VERDICTS,
                           io="float16" if io == "same" else UNSET)
        variants.add(found, folder, model, verdict, picture(found.about.name, verdict))
        if verdict.verdict == "reject":
            kept = ""
            if keep_rejected:
                kept = f"; kept as {bundle.set_aside(folder, place.with_name(f'{place.name}.{precision}'))}"
            raise Rejected(f"{path} in {precision} is rejected: {verdict.reasons[0]}{kept}", verdict)
        bundle.publish(folder, place)
    return verdict


def checked(
    precision: str, *, calibration: str | None = None, data: str | None = None, max_drop: float = 0.5,
    io: str = "float32", purpose: str | None = None, images: int = DEFAULT_IMAGES, seed: int = 0,
    keep: Sequence[str] = (), ranges: str = "auto", activations: str = "auto",
    quantizer: str = "auto", search: bool = True, keep_rejected: bool = False,
) -> Callable[..., None]:
    """Refuse what ``quantize`` would refuse of any bundle, before there is one; ``ahead.check_network`` for the rest.

    Returns that function with what is known by now. Raises as ``quantize``.
    """
    _plan(precision, io, purpose, max_drop, seed, None, tuple(keep), ranges, activations, quantizer, search)
    _check_together(precision, calibration, images, keep)
    if precision == "int8" and calibration is None:
        raise UsageError("int8 needs images to measure its ranges on: give --calibration SOURCE, whose training images "
                         "are used, or --calibration synthetic")
    return partial(ahead.check_network, keep=tuple(keep), found=ahead.images_of(calibration, data))


class Rejected(RejectedError):
    """A variant that was just made and rejected, with its ``verdict``."""

    def __init__(self, message: str, verdict: VariantVerdict) -> None:
        super().__init__(message)
        self.verdict = verdict


def _plan(
    precision: str, io: str, purpose: str | None, max_drop: float, seed: int, threads: int | None,
    keep: tuple[str, ...], ranges: str, activations: str, quantizer: str, search: bool,
) -> _Plan:
    """What is asked, checked. Raises UsageError."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision '{precision}' is unknown; choose one of {', '.join(PRECISIONS)}")
    if io not in ("float32", "same") or (io == "same" and precision != "fp16"):
        raise UsageError(f"--io {io} does not go with {precision}: its inputs and outputs are float32; leave it out")
    if purpose not in (None, "speed", "size"):
        raise UsageError(f"purpose '{purpose}' is unknown; choose speed or size")
    if not 0 < max_drop <= 100:
        raise UsageError(f"--max-drop is {max_drop:g}: give points of accuracy, above 0 and up to 100")
    if ranges not in ("auto", *METHODS):
        raise UsageError(f"ranges '{ranges}' are unknown; choose one of auto, {', '.join(METHODS)}")
    if activations not in ("auto", "uint8", "int8"):
        raise UsageError(f"activations '{activations}' are unknown; choose one of auto, uint8, int8")
    if quantizer not in ("auto", "onnxruntime", "nncf"):
        raise UsageError(f"quantizer '{quantizer}' is unknown; choose one of auto, onnxruntime, nncf")
    if precision != "int8" and {ranges, activations, quantizer} != {"auto"}:
        raise UsageError(f"--ranges, --activations and --quantizer are for int8; {precision} has none: leave them out")
    if quantizer == "nncf" and {ranges, activations} != {"auto"}:
        raise UsageError("--ranges and --activations are onnxruntime's; nncf chooses its own: leave them out")
    if quantizer == "nncf" and not by_nncf.installed():
        raise UsageError("NNCF is not installed: pip install 'cnnexport[nncf]', or leave --quantizer out")
    chosen = purpose or ("speed" if precision == "int8" else "size")
    return _Plan(precision, cast(Any, io), cast(Purpose, chosen), max_drop, seed, threads, keep,
                 None if ranges == "auto" else cast(Any, ranges),
                 None if activations == "auto" else cast(Any, activations),
                 None if quantizer == "auto" else cast(Any, quantizer), search)


def _check_together(precision: str, calibration: str | None, images: int, keep: Sequence[str]) -> None:
    """Raises UsageError for values that do not go with the precision."""
    if not FEWEST_IMAGES <= images <= 100_000:
        raise UsageError(f"{images} calibration images: give {FEWEST_IMAGES} to 100,000")
    if precision != "int8" and keep:
        raise UsageError(f"--keep is for int8; {precision} measures what to keep: leave it out")
    if precision != "int8" and calibration is not None:
        raise UsageError(f"--calibration is for int8; {precision} has no ranges to measure: leave it out")


def _refuse_external(found: Bundle) -> None:
    if any(name.startswith(f"{found.file.name}.") for name in found.about.files):
        raise InputError(f"{found.file} keeps its weights in a file beside it; models above 2 GB are not quantised yet")


def _write(
    plan: _Plan, found: Bundle, file: Path, first: Classifier, named: Calibration | None, scratch: Path,
    progress: Callable[[str], None],
) -> tuple[int8.Made, Ranges | None]:
    """Write the variant, in its precision; and its ranges, where they are not the least and largest numbers."""
    if named is not None:
        import onnx

        graph = onnx.load(found.file, load_external_data=False).graph
        keep = {node: f"--keep {layer}" for layer in plan.keep for node in int8.nodes_of(graph, layer)}
        wanted = Wanted(found.file, file, found.about.layers, keep, plan.ranges, plan.activations,
                        plan.quantizer, plan.max_drop if plan.search else None)
        best = find(wanted, first, named, scratch, threads=plan.threads, progress=progress)
        made = replace(best.made, settings={**best.made.settings, "ranges": best.method})
        return made, best.ranges if best.method in METHODS[1:] else None
    if plan.precision == "bf16":
        return half.write_bf16(found.file, file), None
    return half.write_fp16(
        found.file, file, synthetic(first, 2 * batch_size(first), plan.seed), scratch, plan.io), None


def _judged(
    plan: _Plan, found: Bundle, first: Classifier, file: Path, made: int8.Made, measured: Ranges | None,
    named: Calibration | None, labelled: Any, scratch: Path, progress: Callable[[str], None],
) -> VariantVerdict:
    """Measure the variant beside the first model, and judge it."""
    progress("audit")
    memory.give_back()
    check_model(file)
    faults = audit.faults(found.file, file, named.batches if named else None, scratch, measured,
                          corrected=made.settings.get("ranges") == "nncf")
    dtype = "float16" if plan.io == "same" else first.dtype
    second = replace(first, session=runtimes.get(runtimes.DEFAULT).open(file, threads=plan.threads), dtype=dtype)
    probes = named.batches if named else synthetic(first, 2 * batch_size(first), plan.seed)
    errors = () if plan.io == "same" else layer_errors(
        found.about.layers, found.file, file, probes, scratch, made.kept)
    progress("compare")
    accuracy, near = _compared(plan, first, second, labelled)
    vectors = stored_vectors(found)
    given = {name: a.astype(dtype) if a.dtype == np.float32 else a for name, a in vectors[0].items()}
    stored = distance(scores(next(iter(vectors[1].values()))), scores(second.session.run(None, given)[0]))
    progress("time")
    probe = next(synthetic(first, 1, plan.seed)())
    feeds, batch = (probe, {n: a.astype(dtype) for n, a in probe.items()}), first.batch or 1
    speed = measuring.speed(found.file, file, feeds, batch, threads=plan.threads)
    progress("layers")
    times = layer_times(found.about.layers, found.file, file, feeds, batch, threads=plan.threads, run_ms=speed.float_ms)
    untrained, size, float_size = found.about.untrained, file.stat().st_size, found.file.stat().st_size
    outcome, reasons = judge(purpose=plan.purpose, untrained=untrained, faults=faults, accuracy=accuracy, near=near,
                             speed=speed, size=size, float_size=float_size)
    return VariantVerdict(
        model=plan.precision, precision=plan.precision, model_sha256=bundle.sha256(file), float_sha256=found.sha256,
        verdict=outcome, criterion="fidelity" if accuracy is None or untrained else "accuracy", purpose=plan.purpose,
        reasons=reasons, faults=faults, accuracy=accuracy, fidelity=near, speed=speed, bytes=size,
        float_bytes=float_size, stored_rms=stored[0], calibration=None if named is None else named.facts,
        settings=made.settings, kept=made.kept, layers=errors, times=times,
        notes=(*made.notes, *(named.notes if named else ()), *undone(errors, times)),
        versions=versions())


def _compared(
    plan: _Plan, first: Classifier, second: Classifier, labelled: Any
) -> tuple[PairedAccuracy | None, Fidelity]:
    """What labelled images say, where there are any, and how near the answers are."""
    allowed = ALLOWED_RMS[plan.precision]
    if labelled is None:
        both = measuring.answers(first, second, probes(first, _PROBES, plan.seed + 1))
        return None, measuring.fidelity(both, "synthetic", allowed)
    part = split_of(labelled, "test")
    assert first.preparation is not None
    both = measuring.answers(first, second, part.batches(first.preparation, first.batch or 32))
    labels = matched_labels(labelled, part, first.labels)
    return (measuring.accuracy(both, labels, labelled, part, plan.max_drop),
            measuring.fidelity(both, labelled.name, allowed))
