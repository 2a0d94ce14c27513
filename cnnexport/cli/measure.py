"""`bench`, `report` and `compare`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cnnexport.cli.app import command, json_option, progress
from cnnexport.cli.types import DURATION, RUNTIME, SETTING, SHARE, SIZES, Shapes, shape_option, varied
from cnnexport.console import Progress, say, say_json, warn
from cnnexport.interrupts import Interrupted


@command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--provider", "providers", multiple=True, type=click.Choice(["cpu", "cuda"]), default=("cpu",),
              show_default=True, help="Execution provider of ONNX Runtime that must run the graph; repeatable.")
@click.option("--runtime", "runtimes", multiple=True, type=RUNTIME, default=("ort",), show_default=True,
              help="What runs the file, with the same evidence: ONNX Runtime, OpenVINO, a package's own; repeatable.")
@click.option("--batch", type=SIZES, help="Batch sizes.  [default: 1; of throughput 1,8,32]")
@click.option("--threads", type=SIZES, help="Intra-op threads.  [default: the usable cores]")
@click.option("--scenario", default="latency", show_default=True,
              type=click.Choice(["latency", "throughput", "both", "server", "offline", "single-stream",
                                 "multi-stream"]),
              help="The last four bring load through MLCommons' LoadGen: MLPerf-style, no MLPerf result.")
@click.option("--concurrency", type=SIZES,
              help="Streams at once on one session, for throughput.  [default: 1,2]")
@click.option("--tune", is_flag=True, help="With throughput: search threads x concurrency x batch, print the frontier.")
@click.option("--min-time", type=DURATION, default="1", show_default=True,
              help="Timed for at least this long a row, in seconds (or 500ms, 2m).")
@click.option("--max-time", type=DURATION, default="30", show_default=True,
              help="A row is ended after this long, whatever it does; what it measured is kept.")
@click.option("--precision-goal", type=SHARE, default="2%", show_default=True,
              help="Half-width of the 95 % interval at which a row is done.")
@click.option("--latency-bound", type=DURATION, default="100ms", show_default=True,
              help="With --scenario server: what 99 % of the queries must stay under.")
@shape_option
@click.option("--variant", "variants", multiple=True, metavar="ID|all",
              help="Models of each bundle: float32, int8, fp16, bf16; repeatable, or all of them side by side.")
@click.option("--cuda-option", "cuda_options", multiple=True, type=SETTING,
              help="tf32, nhwc, conv_algo_search, cuda_graph, or any option of ORT's CUDA provider; several values are "
                   "swept. Repeatable.")
@click.option("--allow-partial", is_flag=True, help="Time a graph of which the provider runs only a part.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE",
              help="Keep the results, as pytest-benchmark's JSON.")
@json_option
@click.option("--quiet", is_flag=True, help="Neither progress nor table.")
def bench(
    targets: tuple[str, ...],
    providers: tuple[str, ...],
    runtimes: tuple[str, ...],
    batch: tuple[int, ...] | None,
    threads: tuple[int, ...] | None,
    scenario: str,
    concurrency: tuple[int, ...] | None,
    tune: bool,
    min_time: float,
    max_time: float,
    precision_goal: float,
    latency_bound: float,
    shapes: Shapes,
    variants: tuple[str, ...],
    cuda_options: tuple[tuple[str, tuple[str, ...]], ...],
    allow_partial: bool,
    save: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure TARGET..., bundles or ONNX files: latency and throughput, each row with its evidence.

    A bundle is timed only if its gate passed and no file has changed; a bare ONNX file is marked unverified.
    """
    from cnnexport import bench as benching
    from cnnexport.bench.options import BenchOptions
    from cnnexport.runtimes import problems

    with progress(Progress, quiet=quiet) as steps:
        named = [str(varied(Path(target), variant)) for target in targets for variant in _variants(target, variants)]
        outcome = benching.bench(named, BenchOptions(
            providers=providers, runtimes=runtimes, batches=batch, threads=threads, scenario=scenario,
            concurrency=concurrency, tune=tune, min_time=min_time, max_time=max_time, precision=precision_goal,
            latency_bound=latency_bound, shapes=dict(shapes), cuda_options=dict(cuda_options),
            allow_partial=allow_partial), save=save, tell=steps)
        steps.finish()
    if as_json:
        say_json(outcome.to_dict())
    elif not quiet and outcome.text:
        say(outcome.text)
    for warning in (*outcome.warnings, *problems()):
        warn(f"warning: {warning}")
    for error in outcome.errors:
        warn(f"error: {' '.join(error.split())}")
    if outcome.interrupted:
        kept = f"{len(outcome.rows)} rows measured" + (f" and saved to {save}" if save and outcome.rows else "")
        raise Interrupted(f"{kept}, marked incomplete" if outcome.rows else "nothing was measured")
    sys.exit(outcome.exit_code)


def _variants(target: str, asked: tuple[str, ...]) -> list[str | None]:
    """The models of a target that ``--variant`` asks for; None is what its path names."""
    from cnnexport.bundle import Bundle

    if not asked:
        return [None]
    if "all" not in asked:
        return list(dict.fromkeys(asked))
    varied(Path(target), "all")  # what has no variants is told before it is opened
    return [model.id for model in Bundle.open(target).models]


@command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Where to write.  [default: report.html; other formats print]")
@click.option("--format", "form", type=click.Choice(["html", "md", "csv", "svg"]),
              help="[default: by the name of the output, else html]")
@click.option("--title", default="Benchmarks", show_default=True, help="Heading of the page.")
@json_option
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


@command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--fail-over", type=SHARE, default="5%", show_default=True,
              help="Exit with 7 where a row is slower by more than this, beyond what chance explains.")
@click.option("--allow-different-machines", is_flag=True, help="Compare although the machines differ.")
@json_option
def compare(old: Path, new: Path, fail_over: float, allow_different_machines: bool, as_json: bool) -> None:
    """Compare two saved results, row by row and on intervals: has NEW become slower than OLD?"""
    from cnnexport.report import compare as comparing
    from cnnexport.results import rows

    found = comparing.compare(rows.load(old), rows.load(new), fail_over,
                              allow_different_machines=allow_different_machines)
    if as_json:
        say_json(found.to_dict())
    else:
        say(comparing.format_comparison(found))
    found.raise_if_regressed()
