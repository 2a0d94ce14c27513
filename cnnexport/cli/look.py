"""`list`, `show`, `inspect` and `doctor`: what there is."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cnnexport.cli.app import command, json_option, warn_of_plugins
from cnnexport.cli.types import Shapes, shape_option
from cnnexport.console import say, say_json
from cnnexport.errors import ProviderError


@command("list", supervised=False)
@json_option
def list_(as_json: bool) -> None:
    """List the registered architectures: their figures as built, beside the paper's."""
    from cnnexport.architectures import all_architectures
    from cnnexport.architectures.show import facts, format_list

    specs = all_architectures()
    warn_of_plugins()
    if as_json:
        say_json([facts(spec) for spec in specs])
    else:
        say(format_list(specs))


@command()
@click.argument("name")
@click.option("--no-groups", is_flag=True, help="With grouped convolutions joined (alexnet).")
@json_option
def show(name: str, no_groups: bool, as_json: bool) -> None:
    """Show the layer table of the architecture NAME as its paper prints it, its source and what differs."""
    from cnnexport import architectures
    from cnnexport.architectures import show as shows
    from cnnexport.options import ConvertOptions

    spec = architectures.get(name)
    architectures.check_options(spec, ConvertOptions(groups=not no_groups))
    if spec.table is not None:
        rows = spec.table(not no_groups)
    else:
        from cnnexport.architectures.built import read
        from cnnexport.console import quiet_libraries

        with quiet_libraries():
            rows = read(architectures.plain(spec, groups=not no_groups))
    shown = shows.show(spec, rows, groups=not no_groups)
    if as_json:
        say_json(shown)
    else:
        say(shows.format_show(shown))


@command()
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE_OR_BUNDLE")
@shape_option
@json_option
def inspect(path: Path, shapes: Shapes, as_json: bool) -> None:
    """Show what an ONNX file or a bundle holds: operators, tensors, parameters, MACs, opset, size.

    Of a variant (BUNDLE#int8) also its verdict, and of each layer what it lost and how long it takes.
    """
    from cnnexport.onnx_file import format_summary, inspect_onnx

    summary = inspect_onnx(path, dict(shapes))
    if as_json:
        say_json(summary.to_dict())
    else:
        say(format_summary(summary))
        if summary.verdict is not None:
            from cnnexport.precision.shown import table
            from cnnexport.precision.verdict import format_verdict

            say("\n".join(["", format_verdict(summary.verdict), "", table(summary.verdict)]).rstrip())


@command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what is installed, and which execution providers really make a session here.

    Exits with 5 where not even the CPU runs a model, with 1 where another package is missing.
    """
    from cnnexport import doctor as examined

    checks = examined.doctor()
    if as_json:
        say_json([check.to_dict() for check in checks])
    else:
        say(examined.format_doctor(checks))
    failed = [check for check in checks if not check.ok and not check.optional]
    if failed:
        providers = any(c.name.endswith("ExecutionProvider") or c.name == "onnxruntime" for c in failed)
        sys.exit(ProviderError.exit_code if providers else 1)
