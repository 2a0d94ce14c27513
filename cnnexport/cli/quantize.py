"""`quantize`."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import to_builtins

from cnnexport.cli.app import command, json_option, progress
from cnnexport.console import Progress, say, say_json, warn


@command()
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@click.option("--precision", required=True, type=click.Choice(["int8", "fp16", "bf16"]),
              help="What the further model computes in; bf16 is of the stored weights alone.")
@click.option("--calibration", metavar="SOURCE",
              help="Images that set the ranges of int8: as of train; its training split, never its test images. "
                   "'synthetic' takes seeded blocks and noise.")
@click.option("--calibration-images", "images", type=click.IntRange(min=16), default=128, show_default=True)
@click.option("--data", metavar="SOURCE",
              help="Labelled images whose test split tells what accuracy is lost; without them nothing ships.")
@click.option("--max-drop", type=click.FloatRange(min=0, max=100, min_open=True), default=0.5, show_default=True,
              help="Points of accuracy that may be lost, by the whole 95 % interval.")
@click.option("--for", "purpose", type=click.Choice(["speed", "size"]),
              help="What must be gained.  [default: speed of int8, size of the others]")
@click.option("--io", type=click.Choice(["float32", "same"]), default="float32", show_default=True,
              help="Inputs and outputs of fp16.")
@click.option("--keep", multiple=True, metavar="LAYER",
              help="A layer that int8 leaves in float32; repeatable. verdict.json says how much each loses.")
@click.option("--ranges", type=click.Choice(["auto", "minmax", "percentile", "entropy"]), default="auto",
              show_default=True, help="How int8 sets the range of a tensor; auto tries others where minmax loses.")
@click.option("--activations", type=click.Choice(["auto", "uint8", "int8"]), default="auto", show_default=True,
              help="What int8 stores between layers; auto measures which is faster here.")
@click.option("--search/--no-search", default=True, show_default=True,
              help="Put the noisiest layers back to float32 until --max-drop holds on images held apart.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the images that are drawn.")
@click.option("--threads", type=click.IntRange(min=1), help="Intra-op threads.  [default: the runtime's choice]")
@click.option("--keep-rejected", is_flag=True, help="Keep a rejected bundle aside, as BUNDLE.PRECISION.rejected.")
@click.option("--force", is_flag=True, help="Replace the model of that precision.")
@json_option
@click.option("--quiet", is_flag=True, help="No progress.")
def quantize(
    path: Path, precision: str, calibration: str | None, images: int, data: str | None, max_drop: float,
    purpose: str | None, io: str, seed: int, threads: int | None, keep: tuple[str, ...], ranges: str,
    activations: str, search: bool, keep_rejected: bool, force: bool, as_json: bool, quiet: bool,
) -> None:
    """Write a bundle's network in int8, fp16 or bf16 beside its first model, with a verdict.

    The verdict is ship, inconclusive or reject; a rejected model is not published (exit code 9). Only mnist,
    fashion_mnist and cifar10 import TensorFlow, for Keras' loaders.
    """
    from cnnexport import precision as precisions
    from cnnexport.precision.verdict import format_verdict

    rejected = None
    with progress(Progress, quiet=quiet) as steps:
        try:
            verdict = precisions.quantize(
                path, precision, calibration=calibration, data=data, max_drop=max_drop, io=io, purpose=purpose,
                images=images, seed=seed, threads=threads, keep=keep, ranges=ranges,
                activations=activations, search=search, keep_rejected=keep_rejected, force=force, progress=steps)
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
    if verdict.verdict == "inconclusive":
        warn(f"warning: inconclusive: {verdict.reasons[0]}")
