"""`convert`: an architecture or a model file to a proven bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnexport.cli.app import command, fail, json_option, progress, warn_of_plugins
from cnnexport.cli.quantize import NAMES, given, variant_options, warn_of
from cnnexport.cli.types import BATCH, SHAPE
from cnnexport.console import Progress, debugging, say, say_json, warn
from cnnexport.errors import CnnexportError, ParityError, describe
from cnnexport.interrupts import Interrupted

if TYPE_CHECKING:
    from cnnexport.bundle import Bundle


@command()
@click.argument("target", required=False)
@click.option("--all", "every", is_flag=True,
              help="Convert every registered architecture, each to a folder in DIR; a failure does not stop the rest.")
@click.option("--weights", metavar="random|imagenet|PATH",
              help="random (seeded, untrained; the default of an architecture), imagenet, or a Keras weights or "
                   "model file. A model file keeps its own weights unless this is given.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Seed of random weights, of the test images and of the images of --precision.")
@click.option("--input-shape", type=SHAPE, metavar="HxWxC",
              help="Such as 224x224x3; ? leaves height or width open (with --no-top).")
@click.option("--classes", type=click.IntRange(min=1), metavar="N", help="Number of classes of the top.")
@click.option("--no-top", is_flag=True, help="Leave the classifier out; the output is features.")
@click.option("--pooling", type=click.Choice(["none", "avg", "max"]), default="none", show_default=True,
              help="Global pooling, with --no-top.")
@click.option("--no-groups", is_flag=True, help="Join grouped convolutions (alexnet).")
@click.option("--logits", is_flag=True, help="Leave the final softmax (or other activation) out.")
@click.option("--layout", type=click.Choice(["nhwc", "nchw"]), default="nhwc", show_default=True,
              help="Layout of the ONNX input.")
@click.option("--batch", type=BATCH, metavar="dynamic|N", default="dynamic", show_default=True, help="Batch size.")
@click.option("--opset", type=int, default=18, show_default=True, help="ONNX operator set.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
              help="Folder of the bundle.  [default: exported/NAME; with --all, exported]")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@click.option("--custom-objects", type=click.Path(path_type=Path), metavar="FILE.py",
              help="Python file that defines the model's own layers; it is run.")
@click.option("--unsafe-load", is_flag=True, help="Let the model file run code stored in it (Lambda layers).")
@variant_options(optional=True)
@json_option
@click.option("--quiet", is_flag=True, help="Neither progress nor summary.")
def convert(
    target: str | None,
    every: bool,
    weights: str | None,
    seed: int,
    input_shape: tuple[int | None, ...] | None,
    classes: int | None,
    no_top: bool,
    pooling: str,
    no_groups: bool,
    logits: bool,
    layout: str,
    batch: int | str,
    opset: int,
    output: Path | None,
    force: bool,
    custom_objects: Path | None,
    unsafe_load: bool,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Convert TARGET to ONNX and prove it: an architecture (see `cnnexport list`) or a Keras model file.

    A model file is .keras, .h5, .hdf5 or a SavedModel folder. The result is a bundle: model.onnx,
    manifest.json, parity.json, test vectors and a model card. It is published only if ONNX Runtime agrees
    with Keras. With --precision the bundle is quantized at once; if that is rejected (exit code 9), it stays
    as it was converted.
    """
    from cnnexport import pipeline, register
    from cnnexport.options import ConvertOptions

    if target is None and not every:
        raise click.UsageError("Missing argument 'TARGET'.")
    own = {"TARGET": target is not None, "--custom-objects": custom_objects is not None,
           "--weights with a file": weights not in (None, "random", "imagenet")}
    if every and any(own.values()):
        raise click.UsageError(f"--all converts the registered architectures; leave out "
                               f"{' and '.join(name for name, given in own.items() if given)}")
    variant = _variant(asked, every=every, top=not no_top)
    accept = _before_conversion(str(target), variant | {"seed": seed}) if variant else _anything
    options = ConvertOptions(
        weights=weights, seed=seed, input_shape=input_shape, classes=classes, include_top=not no_top, pooling=pooling,
        groups=not no_groups, logits=logits, layout=layout, batch=None if isinstance(batch, str) else batch,
        opset=opset)
    outcomes: list[register.Conversion] = []
    refused: ParityError | None = None
    if every:
        warn_of_plugins()
    with progress(Progress, quiet=quiet, downloads=True) as steps:
        try:
            objects = None
            if custom_objects is not None:
                from cnnexport.keras_files import import_custom_objects

                objects = import_custom_objects(custom_objects)
            if every:
                outcomes.extend(register.convert_all(options, output=output, force=force, progress=steps))
            else:
                made = pipeline.convert(target, options, output=output, unsafe_load=unsafe_load, force=force,
                                        custom_objects=objects, progress=steps, accept=accept)
                if variant:
                    ending = _quantized(made, variant | {"seed": seed}, steps)
        except ParityError as error:
            refused = error
        except Interrupted:
            done = sum(outcome.bundle is not None for outcome in outcomes)
            raise Interrupted(f"the {done} bundles made before are published" if done else "") from None
    if refused is not None:
        if as_json:
            say_json({"bundle": None, "passed": False, "error": str(refused), "exit_code": refused.exit_code})
        raise refused
    if every:
        _report_all(outcomes, as_json=as_json, quiet=quiet)
    elif variant:
        _report_both(made, ending, as_json=as_json, quiet=quiet)
    elif as_json:
        say_json(made.to_dict())
    elif not quiet:
        say(_summary(made))


def _anything(model: Any) -> None:
    pass


def _variant(asked: dict[str, Any], *, every: bool, top: bool) -> dict[str, Any]:
    """What is asked of a variant; nothing where none is. Raises click.UsageError for what does not go together."""
    variant = given(asked)
    names = " and ".join(NAMES.get(name, f"--{name.replace('_', '-')}") for name in variant if name != "precision")
    if variant and "precision" not in variant:
        raise click.UsageError(f"{names} without --precision, which makes what they are of; add it, or leave them out")
    if variant and every:
        raise click.UsageError("--all converts alone; leave out --precision, and quantize the bundles that need it")
    if variant and not top:
        raise click.UsageError("--precision needs a classifier, and --no-top leaves that out; leave one of them out")
    return variant


def _before_conversion(target: str, variant: dict[str, Any]) -> Callable[[Any], None]:
    """What ``quantize`` would refuse is refused now, or as soon as the model is built."""
    from cnnexport import precision

    check = precision.checked(**variant)
    return lambda known: check(target, known.model, described=known.recipe is not None, labels=known.labels)


@dataclass(frozen=True)
class _Ending:
    """How the second half ended: a verdict, an error's line and exit code, or all of them."""

    verdict: Any = None
    error: str | None = None
    exit_code: int = 0


def _quantized(made: Bundle, variant: dict[str, Any], steps: Progress) -> _Ending:
    """Quantize the bundle that was just made; whatever happens, it stays."""
    from cnnexport import precision

    left = f"{made.path} stays published, in float32 alone"
    try:
        verdict = precision.quantize(made.path, **variant, progress=steps)
    except Interrupted:
        raise Interrupted(left) from None
    except Exception as error:
        if debugging() and not isinstance(error, CnnexportError):
            raise
        steps.abandon()
        line, code = describe(error)
        return _Ending(error.verdict if isinstance(error, precision.Rejected) else None, f"{line}; {left}", code)
    steps.finish()
    return _Ending(verdict)


def _report_both(made: Bundle, ending: _Ending, *, as_json: bool, quiet: bool) -> None:
    """Print the bundle and the verdict on its variant, and exit with the error's code where there was one."""
    from msgspec import to_builtins

    from cnnexport.precision.verdict import format_verdict

    if as_json:
        say_json(made.to_dict() | {"variant": to_builtins(ending.verdict), "error": ending.error,
                                   "exit_code": ending.exit_code})
    elif not quiet:
        say(_summary(made))
        if ending.verdict is not None:
            say(format_verdict(ending.verdict))
    if ending.error is not None:
        sys.exit(fail(ending.error, ending.exit_code))
    warn_of(ending.verdict)


def _report_all(outcomes: Sequence[Any], *, as_json: bool, quiet: bool) -> None:
    """Print how each conversion ended and exit with the highest code."""
    from cnnexport.register import format_outcomes

    if as_json:
        say_json([outcome.to_dict() for outcome in outcomes])
    elif not quiet:
        say(format_outcomes(outcomes))
    for outcome in outcomes:
        if outcome.error:
            warn(f"error: {outcome.name}: {outcome.error}")
    sys.exit(max((outcome.exit_code for outcome in outcomes), default=0))


def _summary(made: Bundle) -> str:
    """What a user wants to know about a new bundle, in a few lines."""
    about, proof = made.about, made.proof
    lines = [f"{made.path}", f"  weights  {about.provenance.statement}",
             f"  model    {made.file.name}, {about.model_bytes / 1e6:.1f} MB, opset {about.opset}, "
             f"{about.parameters:,} parameters, sha256 {made.sha256[:12]}"]
    for kind in ("inputs", "outputs"):
        for tensor in getattr(about, kind):
            shape = " x ".join("?" if d is None else str(d) for d in tensor.shape)
            lines.append(f"  {kind[:-1]:<8} {tensor.name}: {tensor.dtype} {shape} {tensor.layout or ''}".rstrip())
    lines.append(f"  parity   passed: worst error {proof.worst_error or 0:.1e} standard deviations "
                 f"({proof.tolerance.max_error:.0e} allowed) over batches {', '.join(map(str, proof.batches))}")
    took = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in made.seconds.items())
    lines.append(f"  took     {took}")
    return "\n".join(lines)
