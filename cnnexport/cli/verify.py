"""`verify`."""

from __future__ import annotations

from pathlib import Path

import click

from cnnexport.cli.app import command, json_option, progress
from cnnexport.cli.types import DURATION, RUNTIME, Shapes, shape_option, variant_option, varied
from cnnexport.console import Progress, say, say_json, warn
from cnnexport.errors import ParityError


@command()
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE_OR_BUNDLE")
@click.option("--provider", "providers", multiple=True, type=click.Choice(["cpu", "cuda"]), default=("cpu",),
              show_default=True, help="Execution provider of ONNX Runtime that must run the graph; repeatable.")
@click.option("--runtime", "runtimes", multiple=True, type=RUNTIME, default=("ort",), show_default=True,
              help="ONNX Runtime, OpenVINO, or ONNX's slow reference evaluator; repeatable.")
@click.option("--against", metavar="MODEL",
              help="Compare with live Keras too: a Keras model file, or an architecture's name.")
@click.option("--layers", is_flag=True, help="With --against: compare every layer, and name the first that diverges.")
@click.option("--max-time", type=DURATION, default="60s", show_default=True,
              help="A runtime that takes longer (the reference evaluator: ten times) is ended: a hostile graph may "
                   "loop without end.")
@shape_option
@variant_option
@click.option("--seed", type=click.IntRange(min=0), help="Of the images compared and of an architecture's weights.")
@click.option("--custom-objects", type=click.Path(path_type=Path), metavar="FILE.py",
              help="Python file that defines the Keras model's own layers; it is run.")
@click.option("--unsafe-load", is_flag=True, help="Let the Keras model file run code stored in it.")
@json_option
@click.option("--quiet", is_flag=True, help="Neither progress nor result: the exit code tells.")
def verify(
    path: Path,
    providers: tuple[str, ...],
    runtimes: tuple[str, ...],
    against: str | None,
    layers: bool,
    max_time: float,
    shapes: Shapes,
    variant: str | None,
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
    from cnnexport.runtimes import problems

    if layers and against is None:
        raise click.UsageError("--layers compares with live Keras: give --against MODEL too")
    compared, path = None, varied(path, variant)
    with progress(Progress, quiet=quiet) as steps:
        found = verification.examine(
            path, providers=providers, runtimes=runtimes, max_time=max_time, shapes=dict(shapes),
            progress=steps)
        if against is not None and found.error is None:
            from cnnexport.against import verify_against
            from cnnexport.keras_files import import_custom_objects

            objects = None if custom_objects is None else import_custom_objects(custom_objects)
            compared = verify_against(path, against, layers=layers, seed=seed, unsafe_load=unsafe_load,
                                      custom_objects=objects, progress=steps)
        steps.finish()
    for warning in (*found.warnings, *problems()):
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
