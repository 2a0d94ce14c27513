"""`predict` and `evaluate`: a bundle at work on images."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cnnexport.cli.app import command, json_option
from cnnexport.cli.types import RUNTIME, variant_option, varied
from cnnexport.console import Counting, quiet_libraries, say, say_json, warn
from cnnexport.errors import InputError


@command()
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@click.argument("images", type=click.Path(path_type=Path), metavar="IMAGE...", nargs=-1, required=True)
@click.option("--runtime", type=RUNTIME, default="ort", show_default=True, help="What runs the bundle.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes shown of each image.")
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@variant_option
@json_option
def predict(
    path: Path, images: tuple[Path, ...], top: int, runtime: str, provider: str, variant: str | None,
    as_json: bool,
) -> None:
    """Classify image files with a bundle, preprocessed as its manifest says. Needs no TensorFlow."""
    from cnnexport import evaluation
    from cnnexport.classifier import predict as classify

    answers, manifest = classify(varied(path, variant), images, top=top, runtime=runtime, provider=provider)
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


@command()
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@click.option("--data", required=True, metavar="SOURCE",
              help="As of train: digits, mnist, fashion_mnist, cifar10, an .npz file or a folder of images.")
@click.option("--split", type=click.Choice(["test", "train", "validation", "all"]), default="test", show_default=True,
              help="Of a source without test images, test is every fifth image of each class: training leaves it out.")
@click.option("--runtime", type=RUNTIME, default="ort", show_default=True, help="What runs the bundle.")
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Intra-op threads.  [default: the runtime's choice]")
@variant_option
@json_option
@click.option("--quiet", is_flag=True, help="No progress.")
def evaluate(
    path: Path, data: str, split: str, runtime: str, provider: str, batch_size: int, threads: int | None,
    variant: str | None, as_json: bool, quiet: bool,
) -> None:
    """Measure the accuracy of a bundle on labelled images, in a runtime.

    Only mnist, fashion_mnist and cifar10 import TensorFlow, for Keras' loaders.
    """
    from cnnexport import evaluation

    with quiet_libraries() as stream:
        found = evaluation.evaluate(
            varied(path, variant), data, split=split, runtime=runtime, provider=provider, batch=batch_size,
            threads=threads, say=Counting(stream, "evaluate", quiet=quiet))
    if found["untrained"]:
        warn(f"warning: {found['statement']}")
    if as_json:
        say_json(found)
    else:
        say(evaluation.format_evaluation(found))
