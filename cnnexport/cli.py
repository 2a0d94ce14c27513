"""The command line: parses, calls and prints. Heavy imports live inside the commands that need them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from cnnexport import __version__, interrupts
from cnnexport.console import debugging, open_streams, put, say, say_json, warn
from cnnexport.errors import INTERRUPTED, InputError, ParityError, ProviderError, describe
from cnnexport.interrupts import Interrupted

_EPILOG = """
\b
Exit codes: 0 done; 1 an error in cnnexport itself; 2 usage or a bad value; 3 an input that
cannot be read, fetched or converted, or takes too long; 4 parity failed; 5 an execution
provider is unavailable or did not run the graph; 6 a bundle incomplete or altered; 7 compare
found a regression; 8 memory ran out or native code crashed; 130 interrupted.
CNNEXPORT_DEBUG=1 shows tracebacks and the libraries' own logs.
"""


_MOST_DIGITS = 18  # of a number that is worth reading; Python itself refuses more than 4,300


def _whole(text: str) -> int | None:
    """The whole number that ``text`` is, None where it is none or has absurdly many digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def _shape(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int | None, ...] | None:
    """``224x224x3`` as (224, 224, 3); ``?`` as None."""
    if value is None:
        return None
    parts = value.lower().replace("×", "x").split("x")
    if not all(p == "?" or _whole(p) is not None for p in parts):
        raise click.BadParameter(f"'{value}' is not a shape such as 224x224x3")
    return tuple(_whole(p) for p in parts)


def _batch(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """A batch size; ``dynamic`` as None."""
    if value == "dynamic":
        return None
    size = _whole(value)
    if not size:
        raise click.BadParameter(f"'{value}' is neither dynamic nor a size of 1 or more")
    return size


def _duration(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Seconds of ``1.5``, ``500ms``, ``20s`` or ``2m``."""
    text = value.strip().lower()
    unit = next((u for u in ("ms", "s", "m") if text.endswith(u)), "")
    try:
        seconds = float(text.removesuffix(unit)) * {"ms": 1e-3, "s": 1.0, "m": 60.0, "": 1.0}[unit]
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e7:
        raise click.BadParameter(f"'{value}' is no time such as 2, 500ms or 2m")
    return seconds


_json_option = click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")


_SUPERVISE = object()
"""What ``main`` hands to the commands; one called from a program runs in that program's process."""


class _Supervised(click.Command):
    """A command that reads foreign files: its work is done in a child process, whose death is told."""

    def invoke(self, ctx: click.Context) -> Any:
        from cnnexport import supervision

        if ctx.obj is not _SUPERVISE or not supervision.possible():
            return super().invoke(ctx)
        call = super().invoke

        def told(error: Exception) -> int:
            message, code = describe(error)
            if ctx.params.get("as_json"):
                say_json({"passed": False, "error": message, "exit_code": code})
            if sys.stderr.isatty():
                put(sys.stderr, "\n")  # a line of progress may be open
            return _fail(message, code)

        ctx.exit(supervision.run(lambda: _conclude(lambda: call(ctx)), told))


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cnnexport")
def cli() -> None:
    """From a Keras CNN to a proven ONNX deployment."""


@cli.command(cls=_Supervised, epilog=_EPILOG)
@click.argument("target", required=False)
@click.option("--all", "every", is_flag=True,
              help="Convert every registered architecture, each to a folder in DIR; a failure does not stop the rest.")
@click.option("--weights", metavar="random|imagenet|PATH",
              help="random (seeded, untrained; the default of an architecture), imagenet, or a Keras weights or "
                   "model file. A model file keeps its own weights unless this is given.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Seed of random weights and of the test images.")
@click.option("--input-shape", callback=_shape, metavar="HxWxC",
              help="Such as 224x224x3; ? leaves height or width open (with --no-top).")
@click.option("--classes", type=click.IntRange(min=1), metavar="N", help="Number of classes of the top.")
@click.option("--no-top", is_flag=True, help="Leave the classifier out; the output is features.")
@click.option("--pooling", type=click.Choice(["none", "avg", "max"]), default="none", show_default=True,
              help="Global pooling, with --no-top.")
@click.option("--no-groups", is_flag=True, help="Join grouped convolutions (alexnet).")
@click.option("--logits", is_flag=True, help="Leave the final softmax (or other activation) out.")
@click.option("--layout", type=click.Choice(["nhwc", "nchw"]), default="nhwc", show_default=True,
              help="Layout of the ONNX input.")
@click.option("--batch", callback=_batch, metavar="dynamic|N", default="dynamic", show_default=True, help="Batch size.")
@click.option("--opset", type=int, default=18, show_default=True, help="ONNX operator set.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
              help="Folder of the bundle.  [default: exported/NAME; with --all, exported]")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@click.option("--custom-objects", type=click.Path(path_type=Path), metavar="FILE.py",
              help="Python file that defines the model's own layers; it is run.")
@click.option("--unsafe-load", is_flag=True, help="Let the model file run code stored in it (Lambda layers).")
@_json_option
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
    batch: int | None,
    opset: int,
    output: Path | None,
    force: bool,
    custom_objects: Path | None,
    unsafe_load: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Convert TARGET to ONNX and prove it: an architecture (see `cnnexport list`) or a Keras model file.

    A model file is .keras, .h5, .hdf5 or a SavedModel folder. The result is a bundle: model.onnx,
    manifest.json, parity.json, test vectors and a model card. It is published only if ONNX Runtime agrees
    with Keras.
    """
    from cnnexport import pipeline
    from cnnexport.console import Progress, quiet_libraries

    if target is None and not every:
        raise click.UsageError("Missing argument 'TARGET'.")
    own = {"TARGET": target is not None, "--custom-objects": custom_objects is not None,
           "--weights with a file": weights not in (None, "random", "imagenet")}
    if every and any(own.values()):
        raise click.UsageError(f"--all converts the registered architectures; leave out "
                               f"{' and '.join(name for name, given in own.items() if given)}")
    options: dict[str, Any] = {
        "weights": weights, "seed": seed, "input_shape": input_shape, "classes": classes, "include_top": not no_top,
        "pooling": pooling, "groups": not no_groups, "logits": logits, "layout": layout, "batch": batch,
        "opset": opset, "force": force}
    outcomes: list[pipeline.Outcome] = []
    refused: ParityError | None = None
    _warn_of_plugins(when=every)
    shown = not quiet and sys.stderr.isatty()
    with quiet_libraries(show_downloads=shown) as stream:
        progress = Progress(stream, quiet=quiet)
        try:
            objects = None
            if custom_objects is not None:
                from cnnexport.models import import_custom_objects

                objects = import_custom_objects(custom_objects)
            if every:
                outcomes.extend(pipeline.convert_all(output=output, progress=progress, **options))
            else:
                made = pipeline.convert(target, output=output, unsafe_load=unsafe_load, custom_objects=objects,
                                        progress=progress, **options)
        except ParityError as error:
            refused = error
        except Interrupted:
            done = sum(outcome.bundle is not None for outcome in outcomes)
            raise Interrupted(f"the {done} bundles made before are published" if done else "") from None
        finally:
            progress.abandon()
    if refused is not None:
        if as_json:
            say_json({"bundle": None, "passed": False, "error": str(refused), "exit_code": refused.exit_code})
        raise refused
    if every:
        _report_all(outcomes, as_json=as_json, quiet=quiet)
    elif as_json:
        say_json(made.to_dict())
    elif not quiet:
        say(_summary(made))


@cli.command(cls=_Supervised, epilog=_EPILOG)
@click.argument("name")
@click.option("--data", default="digits", show_default=True, metavar="SOURCE",
              help="digits (scikit-learn's, offline), mnist, fashion_mnist, cifar10, an .npz file with Keras' keys, or "
                   "a folder with one sub-folder of images a class.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the images.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images a step.")
@click.option("--optimizer", type=click.Choice(["adam", "adamw", "sgd", "rmsprop"]))
@click.option("--learning-rate", type=float, help="At the start; the schedule lowers it.")
@click.option("--momentum", type=float, help="Of SGD.")
@click.option("--weight-decay", type=float, help="Decoupled, on kernels.")
@click.option("--schedule", type=click.Choice(["constant", "cosine", "step", "exponential"]))
@click.option("--augment", metavar="KINDS",
              help="none, or some of flip, shift, zoom, rotate, crop, brightness, with commas.")
@click.option("--validation", type=float, metavar="SHARE", help="Share of the training images held out.")
@click.option("--early-stopping", type=click.IntRange(min=0), metavar="EPOCHS",
              help="Stop after so many epochs without a lower validation loss, and keep the best weights.")
@click.option("--class-weights", type=click.Choice(["none", "balanced"]), help="balanced: all classes count alike.")
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, order, dropout and augmentation.")
@click.option("--recipe", type=click.Choice(["default", "paper"]), help="paper: what the architecture's paper used.")
@click.option("--mixed-precision", is_flag=True, default=None, help="Compute in 16 bits; the model is float32.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N",
              help="Use N training images, each class in its share.")
@click.option("--fine-tune", type=click.IntRange(min=0), metavar="N",
              help="Then let the last N layers of a frozen backbone learn too.")
@click.option("--fine-tune-epochs", type=click.IntRange(min=1))
@click.option("--fine-tune-rate", type=float, help="Learning rate of that, low.")
@click.option("--weights", metavar="random|imagenet|PATH", help="What to start from.  [default: random]")
@click.option("--input-shape", callback=_shape, metavar="HxWxC", help="Images are brought to this size.")
@click.option("--classes", type=click.IntRange(min=2), metavar="N", help="Where the labels do not tell.")
@click.option("--no-groups", is_flag=True, help="Join grouped convolutions (alexnet).")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
              help="Folder of the run.  [default: runs/NAME]")
@click.option("--force", is_flag=True, help="Start anew where a run is there.")
@click.option("--unsafe-load", is_flag=True, help="Let a weights file run code stored in it.")
@_json_option
@click.option("--quiet", is_flag=True, help="Neither progress nor summary.")
def train(
    name: str,
    data: str,
    augment: str | None,
    weights: str | None,
    input_shape: tuple[int | None, ...] | None,
    classes: int | None,
    no_groups: bool,
    output: Path | None,
    force: bool,
    unsafe_load: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train the architecture NAME on labelled images; `cnnexport convert` takes the run's folder as it is.

    A run that was stopped goes on from its last epoch when the same command is given again. The features of a frozen
    backbone are computed once, and its top is trained on them. Defaults are those of the architecture's family.
    """
    from cnnexport import training
    from cnnexport.console import TrainingProgress, quiet_libraries

    if augment is not None:
        options["augment"] = () if augment == "none" else tuple(a.strip() for a in augment.split(","))
    with quiet_libraries(show_downloads=not quiet and sys.stderr.isatty()) as stream:
        progress = TrainingProgress(stream, quiet=quiet)
        try:
            made = training.train(
                name, data, output=output, weights=weights, input_shape=input_shape, classes=classes,
                groups=not no_groups, force=force, unsafe_load=unsafe_load, say=progress, **options)
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted("the run goes on from its last finished epoch when the same command is given "
                               "again") from None
        finally:
            progress.abandon()
    if as_json:
        say_json(made.to_dict())
    elif not quiet:
        say(training.format_run(made))


@cli.command(cls=_Supervised, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@click.argument("images", type=click.Path(path_type=Path), metavar="IMAGE...", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes shown of each image.")
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@_json_option
def predict(path: Path, images: tuple[Path, ...], top: int, provider: str, as_json: bool) -> None:
    """Classify image files with a bundle, preprocessed as its manifest says. Needs no TensorFlow."""
    from cnnexport import evaluation

    answers, manifest = evaluation.predict(path, images, top=top, provider=provider)
    if manifest["untrained"]:
        warn(f"warning: {manifest['provenance']['statement']}")
    if as_json:
        say_json(evaluation.answers_to_dict(answers, manifest))
    else:
        for line in evaluation.format_answers(answers):
            say(line)
    wrong = [answer.error for answer in answers if answer.error is not None]
    for error in wrong:
        warn(f"error: {error}")
    if wrong:
        sys.exit(InputError.exit_code)


@cli.command(cls=_Supervised, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@click.option("--data", required=True, metavar="SOURCE",
              help="As of train: digits, mnist, fashion_mnist, cifar10, an .npz file or a folder of images.")
@click.option("--split", type=click.Choice(["test", "train", "validation", "all"]), default="test", show_default=True,
              help="Of a source without test images, test is every fifth image of each class: training leaves it out.")
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Intra-op threads.  [default: ONNX Runtime's choice]")
@_json_option
@click.option("--quiet", is_flag=True, help="No progress.")
def evaluate(
    path: Path, data: str, split: str, provider: str, batch_size: int, threads: int | None, as_json: bool, quiet: bool
) -> None:
    """Measure the accuracy of a bundle on labelled images, through ONNX Runtime.

    Only mnist, fashion_mnist and cifar10 import TensorFlow, for Keras' loaders.
    """
    from cnnexport import evaluation
    from cnnexport.console import Counting, quiet_libraries

    with quiet_libraries() as stream:
        found = evaluation.evaluate(path, data, split=split, provider=provider, batch=batch_size, threads=threads,
                                    say=Counting(stream, "evaluate", quiet=quiet))
    if found["untrained"]:
        warn(f"warning: {found['statement']}")
    if as_json:
        say_json(found)
    else:
        say(evaluation.format_evaluation(found))


def _report_all(outcomes: Sequence[Any], *, as_json: bool, quiet: bool) -> None:
    """Print how each conversion ended and exit with the highest code."""
    from cnnexport.pipeline import format_outcomes

    if as_json:
        say_json([outcome.to_dict() for outcome in outcomes])
    elif not quiet:
        say(format_outcomes(outcomes))
    for outcome in outcomes:
        if outcome.error:
            warn(f"error: {outcome.name}: {outcome.error}")
    sys.exit(max((outcome.exit_code for outcome in outcomes), default=0))


def _warn_of_plugins(*, when: bool = True) -> None:
    if when:
        from cnnexport.architectures import problems

        for problem in problems():
            warn(f"warning: {problem}")


def _summary(made: Any) -> str:
    """What a user wants to know about a new bundle, in a few lines."""
    manifest, parity = made.manifest, made.parity
    model = manifest["files"]["model.onnx"]
    size = sum(f["bytes"] for n, f in manifest["files"].items() if n.startswith("model.onnx"))
    lines = [f"{made.path}", f"  weights  {manifest['provenance']['statement']}",
             f"  model    model.onnx, {size / 1e6:.1f} MB, opset {manifest['opset']}, "
             f"{manifest['parameters']:,} parameters, sha256 {model['sha256'][:12]}"]
    for kind in ("inputs", "outputs"):
        for tensor in manifest[kind]:
            shape = " x ".join("?" if d is None else str(d) for d in tensor["shape"])
            line = f"  {kind[:-1]:<8} {tensor['name']}: {tensor['dtype']} {shape} {tensor['layout'] or ''}"
            lines.append(line.rstrip())
    lines.append(f"  parity   passed: worst error {parity['worst_error']:.1e} standard deviations "
                 f"({parity['tolerance']['max_error']:.0e} allowed) over batches "
                 f"{', '.join(map(str, parity['batches']))}")
    took = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in made.seconds.items())
    lines.append(f"  took     {took}")
    return "\n".join(lines)


@cli.command("list", epilog=_EPILOG)
@_json_option
def list_(as_json: bool) -> None:
    """List the registered architectures: their figures as built, beside the paper's."""
    from cnnexport.architectures import all_architectures
    from cnnexport.architectures.show import facts, format_list

    specs = all_architectures()
    _warn_of_plugins()
    if as_json:
        say_json([facts(spec) for spec in specs])
    else:
        say(format_list(specs))


@cli.command(cls=_Supervised, epilog=_EPILOG)
@click.argument("name")
@click.option("--no-groups", is_flag=True, help="With grouped convolutions joined (alexnet).")
@_json_option
def show(name: str, no_groups: bool, as_json: bool) -> None:
    """Show the layer table of the architecture NAME as its paper prints it, its source and what differs."""
    from cnnexport import architectures
    from cnnexport.architectures import show as shows

    spec = architectures.get(name)
    architectures.check_options(
        spec, weights="random", include_top=True, input_shape=None, pooling=None, classes=None, groups=not no_groups)
    if spec.table is not None:
        rows = spec.table(not no_groups)
    else:
        from cnnexport.architectures.table import read
        from cnnexport.console import quiet_libraries

        with quiet_libraries():
            rows = read(architectures.plain(spec, groups=not no_groups))
    shown = shows.show(spec, rows, groups=not no_groups)
    if as_json:
        say_json(shown)
    else:
        say(shows.format_show(shown))


@cli.command(cls=_Supervised, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE_OR_BUNDLE")
@_json_option
def inspect(path: Path, as_json: bool) -> None:
    """Show what an ONNX file or a bundle holds: operators, tensors, parameters, MACs, opset, size."""
    from cnnexport.inspection import format_summary, inspect_onnx

    summary = inspect_onnx(path)
    if as_json:
        say_json(summary.to_dict())
    else:
        say(format_summary(summary))


@cli.command(cls=_Supervised, epilog=_EPILOG)
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE_OR_BUNDLE")
@click.option("--provider", "providers", multiple=True, type=click.Choice(["cpu", "cuda"]), default=("cpu",),
              show_default=True, help="Execution provider of ONNX Runtime that must run the graph; repeatable.")
@click.option("--runtime", "runtimes", multiple=True, type=click.Choice(["ort", "openvino", "reference"]),
              default=("ort",), show_default=True,
              help="ONNX Runtime, OpenVINO, or ONNX's slow reference evaluator; repeatable.")
@click.option("--against", metavar="MODEL",
              help="Compare with live Keras too: a Keras model file, or an architecture's name.")
@click.option("--layers", is_flag=True, help="With --against: compare every layer, and name the first that diverges.")
@click.option("--max-time", callback=_duration, default="60s", show_default=True, metavar="TIME",
              help="A runtime that takes longer (the reference evaluator: ten times) is ended: a hostile graph may "
                   "loop without end.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the images compared and of an architecture's weights.")
@click.option("--custom-objects", type=click.Path(path_type=Path), metavar="FILE.py",
              help="Python file that defines the Keras model's own layers; it is run.")
@click.option("--unsafe-load", is_flag=True, help="Let the Keras model file run code stored in it.")
@_json_option
@click.option("--quiet", is_flag=True, help="Neither progress nor result: the exit code tells.")
def verify(
    path: Path,
    providers: tuple[str, ...],
    runtimes: tuple[str, ...],
    against: str | None,
    layers: bool,
    max_time: float,
    seed: int | None,
    custom_objects: Path | None,
    unsafe_load: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Verify a bundle: checksums, manifest, ONNX checker, and that runtimes compute what Keras did.

    Needs no TensorFlow unless --against is given; with it, any exporter's ONNX file can be compared.
    """
    from cnnexport import verification
    from cnnexport.console import Progress, quiet_libraries

    if layers and against is None:
        raise click.UsageError("--layers compares with live Keras: give --against MODEL too")
    compared = None
    with quiet_libraries() as stream:
        progress = Progress(stream, quiet=quiet)
        try:
            found = verification.examine(
                path, providers=providers, runtimes=runtimes, max_time=max_time, progress=progress)
            if against is not None and found.error is None:
                from cnnexport.against import verify_against
                from cnnexport.models import import_custom_objects

                objects = None if custom_objects is None else import_custom_objects(custom_objects)
                compared = verify_against(path, against, layers=layers, seed=seed, unsafe_load=unsafe_load,
                                          custom_objects=objects, progress=progress)
            progress.finish()
        finally:
            progress.abandon()
    for warning in found.warnings:
        warn(f"warning: {warning}")
    if as_json:
        facts = {**found.to_dict(), "against": None if compared is None else compared.to_dict()}
        if compared is not None and not compared.passed:
            facts |= {"passed": False, "error": compared.reason, "exit_code": ParityError.exit_code}
        say_json(facts)
    elif not quiet and found.error is None:
        say(found.format() if compared is None else compared.format())
    if found.error is not None:
        raise found.error
    if compared is not None and not compared.passed:
        raise ParityError(compared.reason)


def _sizes(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """``1,8,32`` as (1, 8, 32)."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(0 < (_whole(p) or 0) < 1 << 20 for p in parts):
        raise click.BadParameter(f"'{value}' is no list of sizes such as 1,8,32")
    return tuple(dict.fromkeys(int(p) for p in parts))


def _share(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """``5%`` or ``0.05`` as 0.05."""
    text = value.strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share < (10 if text.endswith("%") else 1):  # 5 alone would be five times
        raise click.BadParameter(f"'{value}' is no share such as 5%")
    return share


def _input_shapes(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """``NAME=1x3x224x224`` by name; without a name, of the only input."""
    made = {}
    for text in value:
        name, _, shape = text.rpartition("=")
        parts = shape.lower().split("x")
        if not all(_whole(p) for p in parts):
            raise click.BadParameter(f"'{text}' is not NAME=1x3x224x224")
        made[name] = tuple(map(int, parts))
    return made


def _settings(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, list[str]]:
    """``KEY=VALUE,VALUE`` by key."""
    made = {}
    for text in value:
        key, _, values = text.partition("=")
        if not key or not values or not all(values.split(",")):
            raise click.BadParameter(f"'{text}' is not KEY=VALUE or KEY=VALUE,VALUE")
        made[key] = values.split(",")
    return made


@cli.command(cls=_Supervised, epilog=_EPILOG)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--provider", "providers", multiple=True, type=click.Choice(["cpu", "cuda"]), default=("cpu",),
              show_default=True, help="Execution provider of ONNX Runtime that must run the graph; repeatable.")
@click.option("--batch", callback=_sizes, metavar="N,N...", help="Batch sizes.  [default: 1; of throughput 1,8,32]")
@click.option("--threads", callback=_sizes, metavar="N,N...", help="Intra-op threads.  [default: the usable cores]")
@click.option("--scenario", default="latency", show_default=True,
              type=click.Choice(["latency", "throughput", "both", "server", "offline", "single-stream",
                                 "multi-stream"]),
              help="The last four bring load through MLCommons' LoadGen: MLPerf-style, no MLPerf result.")
@click.option("--concurrency", callback=_sizes, metavar="N,N...",
              help="Streams at once on one session, for throughput.  [default: 1,2]")
@click.option("--tune", is_flag=True, help="With throughput: search threads x concurrency x batch, print the frontier.")
@click.option("--min-time", callback=_duration, default="1", show_default=True, metavar="TIME",
              help="Timed for at least this long a row, in seconds (or 500ms, 2m).")
@click.option("--max-time", callback=_duration, default="30", show_default=True, metavar="TIME",
              help="A row is ended after this long, whatever it does; what it measured is kept.")
@click.option("--precision-goal", callback=_share, default="2%", show_default=True, metavar="SHARE",
              help="Half-width of the 95 % interval at which a row is done.")
@click.option("--latency-bound", callback=_duration, default="100ms", show_default=True, metavar="TIME",
              help="With --scenario server: what 99 % of the queries must stay under.")
@click.option("--shape", "shapes", multiple=True, callback=_input_shapes, metavar="NAME=1x3x224x224",
              help="Shape of an input whose dimensions the file leaves open; repeatable.")
@click.option("--cuda-option", "cuda_options", multiple=True, callback=_settings, metavar="KEY=VALUE,VALUE",
              help="tf32, nhwc, conv_algo_search, cuda_graph, or any option of ORT's CUDA provider; several values are "
                   "swept. Repeatable.")
@click.option("--allow-partial", is_flag=True, help="Time a graph of which the provider runs only a part.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE",
              help="Keep the results, as pytest-benchmark's JSON.")
@_json_option
@click.option("--quiet", is_flag=True, help="Neither progress nor table.")
def bench(
    targets: tuple[str, ...],
    providers: tuple[str, ...],
    batch: tuple[int, ...] | None,
    threads: tuple[int, ...] | None,
    scenario: str,
    concurrency: tuple[int, ...] | None,
    tune: bool,
    min_time: float,
    max_time: float,
    precision_goal: float,
    latency_bound: float,
    shapes: dict[str, tuple[int, ...]],
    cuda_options: dict[str, list[str]],
    allow_partial: bool,
    save: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure TARGET..., bundles or ONNX files: latency and throughput, each row with its evidence.

    A bundle is timed only if its gate passed and no file has changed; a bare ONNX file is marked unverified.
    """
    from cnnexport import bench as benching
    from cnnexport.console import Progress, quiet_libraries

    with quiet_libraries() as stream:
        progress = Progress(stream, quiet=quiet)
        try:
            outcome = benching.bench(
                targets, providers=providers, batches=batch, threads=threads, scenario=scenario,
                concurrency=concurrency, tune=tune, min_time=min_time, max_time=max_time, precision=precision_goal,
                latency_bound=latency_bound, shapes=shapes, cuda_options=cuda_options, allow_partial=allow_partial,
                save=save, tell=progress)
            progress.finish()
        finally:
            progress.abandon()
    if as_json:
        say_json(outcome.to_dict())
    elif not quiet and outcome.text:
        say(outcome.text)
    for warning in outcome.warnings:
        warn(f"warning: {warning}")
    for error in outcome.errors:
        warn(f"error: {' '.join(error.split())}")
    if outcome.interrupted:
        kept = f"{len(outcome.rows)} rows measured" + (f" and saved to {save}" if save and outcome.rows else "")
        raise Interrupted(f"{kept}, marked incomplete" if outcome.rows else "nothing was measured")
    sys.exit(outcome.exit_code)


@cli.command(cls=_Supervised, epilog=_EPILOG)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Where to write.  [default: report.html; other formats print]")
@click.option("--format", "form", type=click.Choice(["html", "md", "csv", "svg"]),
              help="[default: by the name of the output, else html]")
@click.option("--title", default="Benchmarks", show_default=True, help="Heading of the page.")
@_json_option
def report(files: tuple[Path, ...], output: Path | None, form: str | None, title: str, as_json: bool) -> None:
    """Make one self-contained page, or a table or chart, of FILE..., which bench or pytest-benchmark saved."""
    from cnnexport import report as reporting

    written, made = reporting.report(files, output=output, form=form, title=title)
    if as_json:
        say_json({"output": written and str(written), "format": made.form, "rows": made.rows, "files": len(files)})
    elif written is None:
        say(made.text.removesuffix("\n"), cut=False)
    else:
        say(f"{written}  ({made.rows} rows)")


@cli.command(cls=_Supervised, epilog=_EPILOG)
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--fail-over", callback=_share, default="5%", show_default=True, metavar="SHARE",
              help="Exit with 7 where a row is slower by more than this, beyond what chance explains.")
@click.option("--allow-different-machines", is_flag=True, help="Compare although the machines differ.")
@_json_option
def compare(old: Path, new: Path, fail_over: float, allow_different_machines: bool, as_json: bool) -> None:
    """Compare two saved results, row by row and on intervals: has NEW become slower than OLD?"""
    from cnnexport.report import compare as comparing
    from cnnexport.report import results

    found = comparing.compare(results.load(old), results.load(new), fail_over,
                              allow_different_machines=allow_different_machines)
    if as_json:
        say_json(found.to_dict())
    else:
        say(comparing.format_comparison(found))
    found.raise_if_regressed()


@cli.command(cls=_Supervised, epilog=_EPILOG)
@_json_option
def doctor(as_json: bool) -> None:
    """Say what is installed, and which execution providers really make a session here.

    Exits with 5 where not even the CPU runs a model, with 1 where another package is missing.
    """
    from cnnexport import runtime

    checks = runtime.doctor()
    if as_json:
        say_json([check.to_dict() for check in checks])
    else:
        say(runtime.format_doctor(checks))
    failed = [check for check in checks if not check.ok and not check.optional]
    if failed:
        providers = any(c.name.endswith("ExecutionProvider") or c.name == "onnxruntime" for c in failed)
        sys.exit(ProviderError.exit_code if providers else 1)


def main() -> None:
    """Run the command line: one line on stderr and a documented exit code for every error."""
    open_streams()
    interrupts.forget()
    interrupts.take_signals()
    sys.exit(_conclude(lambda: cli.main(standalone_mode=False, obj=_SUPERVISE)))


def _conclude(work: Callable[[], Any]) -> int:
    """Do ``work`` and return its exit code; an error is told in one line."""
    try:
        try:
            code = work()
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except (Interrupted, KeyboardInterrupt, click.Abort) as error:
        return _fail(f"interrupted; {str(error) or 'nothing half-written was left'}", INTERRUPTED)
    except BrokenPipeError:
        return 0  # the reader of our output went away (`cnnexport list | head`)
    except Exception as error:
        if interrupts.arrived():
            return _fail("interrupted; nothing half-written was left", INTERRUPTED)
        if isinstance(error, click.ClickException):
            return _fail(error.format_message(), error.exit_code)
        if debugging():
            import traceback

            traceback.print_exc()
        return _fail(*describe(error))


def _fail(message: str, code: int) -> int:
    warn(f"error: {message}")
    return code
