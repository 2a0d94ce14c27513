"""`train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cnnexport.cli.app import command, json_option, progress
from cnnexport.cli.types import SHAPE
from cnnexport.console import TrainingProgress, say, say_json
from cnnexport.interrupts import Interrupted


@command()
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
@click.option("--input-shape", type=SHAPE, metavar="HxWxC", help="Images are brought to this size.")
@click.option("--classes", type=click.IntRange(min=2), metavar="N", help="Where the labels do not tell.")
@click.option("--no-groups", is_flag=True, help="Join grouped convolutions (alexnet).")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
              help="Folder of the run.  [default: runs/NAME]")
@click.option("--force", is_flag=True, help="Start anew where a run is there.")
@click.option("--unsafe-load", is_flag=True, help="Let a weights file run code stored in it.")
@json_option
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

    if augment is not None:
        options["augment"] = () if augment == "none" else tuple(a.strip() for a in augment.split(","))
    with progress(TrainingProgress, quiet=quiet, downloads=True) as told:
        try:
            made = training.train(
                name, data, output=output, weights=weights, input_shape=input_shape, classes=classes,
                groups=not no_groups, force=force, unsafe_load=unsafe_load, say=told, **options)
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted("the run goes on from its last finished epoch when the same command is given "
                               "again") from None
    if as_json:
        say_json(made.to_dict())
    elif not quiet:
        say(training.format_run(made))
