"""The command line itself: one line on stderr and a documented exit code for every error, in whatever process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from cnnexport import __version__, interrupts
from cnnexport.console import debugging, open_streams, put, quiet_libraries, say_json, warn
from cnnexport.errors import INTERRUPTED, describe
from cnnexport.interrupts import Interrupted

EPILOG = """
\b
Exit codes: 0 done; 1 an error in cnnexport itself, or something is not installed; 2 usage or
a bad value; 3 an input that cannot be read, fetched or converted, or takes too long; 4 parity
failed; 5 an execution provider is unavailable or did not run the graph; 6 a bundle incomplete
or altered; 7 compare found a regression; 8 memory ran out or native code crashed; 9
quantize judged a model reject; 130 interrupted.
CNNEXPORT_DEBUG=1 shows tracebacks and the libraries' own logs.
"""

json_option = click.option("--json", "as_json", is_flag=True, help="Print machine-readable JSON.")
_SUPERVISE = object()
"""What ``main`` hands to the commands; one called from a program runs in that program's process."""


class Supervised(click.Command):
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
            return fail(message, code)

        ctx.exit(supervision.run(lambda: conclude(lambda: call(ctx)), told))


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cnnexport")
def cli() -> None:
    """From a Keras CNN to a proven ONNX deployment."""


def command(name: str | None = None, *, supervised: bool = True) -> Callable[[Callable[..., Any]], click.Command]:
    """As ``cli.command``: what reads foreign files does its work in a child process."""
    return cli.command(name, cls=Supervised if supervised else click.Command, epilog=EPILOG)


def warn_of_plugins() -> None:
    """Warn of packages whose architectures cannot be had."""
    from cnnexport.architectures import problems

    for problem in problems():
        warn(f"warning: {problem}")


@contextmanager
def progress(kind: Callable[..., Any], *, quiet: bool, downloads: bool = False) -> Iterator[Any]:
    """Progress of a ``kind`` on the user's stderr while libraries are kept quiet; its open line is left at the end.

    ``downloads`` lets the download bars of libraries through, where that is a terminal.
    """
    with quiet_libraries(show_downloads=downloads and not quiet and sys.stderr.isatty()) as stream:
        made = kind(stream, quiet=quiet)
        try:
            yield made
        finally:
            made.abandon()


def main() -> None:
    """Run the command line: one line on stderr and a documented exit code for every error."""
    open_streams()
    interrupts.forget()
    interrupts.take_signals()
    sys.exit(conclude(lambda: cli.main(standalone_mode=False, obj=_SUPERVISE)))


def conclude(work: Callable[[], Any]) -> int:
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
        return fail(f"interrupted; {str(error) or 'nothing half-written was left'}", INTERRUPTED)
    except BrokenPipeError:
        return 0  # the reader of our output went away (`cnnexport list | head`)
    except Exception as error:
        if interrupts.arrived():
            return fail("interrupted; nothing half-written was left", INTERRUPTED)
        if isinstance(error, click.ClickException):
            return fail(error.format_message(), error.exit_code)
        if debugging():
            import traceback

            traceback.print_exc()
        return fail(*describe(error))


def fail(message: str, code: int) -> int:
    warn(f"error: {message}")
    return code
