"""`quantize`, and its options as `convert` takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from msgspec import to_builtins

from cnnexport.cli.app import command, json_option, progress
from cnnexport.console import Progress, say, say_json, warn


def variant_options(*, optional: bool = False) -> Callable[[Any], Any]:
    """What a variant is and when it is good enough: ``quantize``'s options, and those of what may make one too.

    None has a default here, so that ``given`` tells which were given.
    """
    when = "With --precision: " if optional else ""
    options = (
        click.option("--precision", required=not optional, type=click.Choice(["int8", "fp16", "bf16"]),
                     help="What the further model computes in; bf16 is of the stored weights alone." if not optional
                     else "Write a further model in it and judge it, as quantize does."),
        click.option("--calibration", metavar="SOURCE",
                     help=f"{when}Images that set the ranges of int8: as of train; its training split, never its test "
                          "images. 'synthetic' takes seeded blocks and noise."),
        click.option("--calibration-images", "images", type=click.IntRange(min=16), metavar="N",
                     help=f"{when}How many of them.  [default: 128]"),
        click.option("--data", metavar="SOURCE",
                     help=f"{when}Labelled images whose test split tells what accuracy is lost; without them nothing "
                          "ships."),
        click.option("--max-drop", type=click.FloatRange(min=0, max=100, min_open=True), metavar="POINTS",
                     help=f"{when}Points of accuracy that may be lost, by the whole 95 % interval.  [default: 0.5]"),
        click.option("--for", "purpose", type=click.Choice(["speed", "size"]),
                     help=f"{when}What must be gained.  [default: speed of int8, size of the others]"),
        click.option("--io", type=click.Choice(["float32", "same"]),
                     help=f"{when}Inputs and outputs of fp16.  [default: float32]"),
        click.option("--keep", multiple=True, metavar="LAYER",
                     help=f"{when}A layer that int8 leaves in float32; repeatable. verdict.json says how much each "
                          "loses."),
        click.option("--ranges", type=click.Choice(["auto", "minmax", "percentile", "entropy"]),
                     help=f"{when}How int8 sets the range of a tensor; auto tries others where minmax loses.  "
                          "[default: auto]"),
        click.option("--activations", type=click.Choice(["auto", "uint8", "int8"]),
                     help=f"{when}What int8 stores between layers; auto measures which is faster here.  "
                          "[default: auto]"),
        click.option("--quantizer", type=click.Choice(["auto", "onnxruntime", "nncf"]),
                     help=f"{when}What writes int8; auto tries nncf too where it is installed and onnxruntime's files "
                          "lose.  [default: auto]"),
        click.option("--search/--no-search", default=None,
                     help=f"{when}Put the noisiest layers back to float32 until --max-drop holds on training images "
                          "that set no range.  [default: search]"),
        click.option("--keep-rejected", is_flag=True, default=None,
                     help=f"{when}Keep a rejected bundle aside, as BUNDLE.PRECISION.rejected."))

    def with_options(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return with_options


NAMES = {"images": "--calibration-images", "purpose": "--for"}
"""Options that are called otherwise than what they set."""


def given(asked: dict[str, Any]) -> dict[str, Any]:
    """Those of ``variant_options`` that were given."""
    return {name: value for name, value in asked.items() if value is not None and value != ()}


@command()
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@variant_options()
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the images that are drawn.")
@click.option("--threads", type=click.IntRange(min=1), help="Intra-op threads.  [default: the runtime's choice]")
@click.option("--force", is_flag=True, help="Replace the model of that precision.")
@json_option
@click.option("--quiet", is_flag=True, help="No progress.")
def quantize(path: Path, seed: int, threads: int | None, force: bool, as_json: bool, quiet: bool, **asked: Any) -> None:
    """Write a bundle's network in int8, fp16 or bf16 beside its first model, with a verdict.

    The verdict is ship, inconclusive or reject; a rejected model is not published (exit code 9). Only mnist,
    fashion_mnist and cifar10 import TensorFlow, for Keras' loaders.
    """
    from cnnexport import precision as precisions
    from cnnexport.precision.verdict import format_verdict

    rejected = None
    with progress(Progress, quiet=quiet) as steps:
        try:
            verdict = precisions.quantize(path, **given(asked), seed=seed, threads=threads, force=force, progress=steps)
        except precisions.Rejected as error:
            rejected, verdict = error, error.verdict
        steps.finish()
    if as_json:
        ending = {"error": str(rejected), "exit_code": rejected.exit_code} if rejected else {
            "error": None, "exit_code": 0}
        say_json({"bundle": str(path), **to_builtins(verdict), **ending})
    else:
        say(format_verdict(verdict))
    if rejected is not None:
        raise rejected
    warn_of(verdict)


def warn_of(verdict: Any) -> None:
    """Say on stderr that a verdict settles nothing."""
    if verdict.verdict == "inconclusive":
        warn(f"warning: inconclusive: {verdict.reasons[0]}")
