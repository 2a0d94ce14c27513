"""What reaches the terminal: progress on standard error, and nothing that TensorFlow or ORT log there."""

from __future__ import annotations

import io
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

from cnnexport.errors import OutputError

_LONGEST_WORD, _LONGEST_LINE = 240, 4000

def debugging() -> bool:
    """Whether ``CNNEXPORT_DEBUG=1`` asks for tracebacks and the libraries' own logs."""
    return os.environ.get("CNNEXPORT_DEBUG") == "1"


def shown(text: str, *, cut: bool = True) -> str:
    """``text`` as a terminal may have it: control characters of foreign names visible, and absurdly long words ``cut``.

    Line ends stay.
    """
    if not text.isascii() or not text.replace("\n", "").isprintable():
        text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    if not cut:
        return text
    return re.sub(_LONG, lambda word: f"{word[0][:_LONGEST_WORD // 2]}...({len(word[0]):,} characters)", text)


_LONG = rf"[^\s]{{{_LONGEST_WORD},}}"


def say(text: str, *, cut: bool = True) -> None:
    """Print a result on standard output, with a line end. A reader that went away is no error.

    Raises OutputError where it cannot be written otherwise: the device is full.
    """
    _print_out(f"{shown(text, cut=cut)}\n")


def say_json(value: Any) -> None:
    """Print JSON on standard output. Raises as ``say``."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    # JSON lets DEL, C1 controls and lone surrogates stand; a terminal does not.
    _print_out(re.sub(r"[\x7f-\x9f\ud800-\udfff\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]",
                      lambda c: f"\\u{ord(c[0]):04x}", text) + "\n")


def _print_out(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _to_nowhere()
    except OSError as error:
        _to_nowhere()
        raise OutputError(f"standard output cannot be written ({error.strerror}); free some space, or send it "
                          "elsewhere") from error


def _to_nowhere() -> None:
    """Send what is left of standard output nowhere: Python would fail on it again at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def warn(text: str) -> None:
    """Print one line on standard error, after ``cnnexport: ``; one that cannot be printed is lost."""
    line = shown(" ".join(text.split()))
    if len(line) > _LONGEST_LINE:
        line = f"{line[:_LONGEST_LINE]}..."
    with suppress(OSError, ValueError):
        sys.stderr.write(f"cnnexport: {line}\n")
        sys.stderr.flush()


def open_streams() -> None:
    """Make the three standard streams usable: one that was closed leads nowhere, and none fails on a name."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            opened = open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, opened)
        elif isinstance(getattr(sys, name), io.TextIOWrapper):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def put(stream: TextIO, text: str) -> None:
    """Show progress; a stream that cannot be written shows none."""
    with suppress(OSError, ValueError):
        stream.write(text)
        stream.flush()


@contextmanager
def quiet_libraries(*, show_downloads: bool = False) -> Iterator[TextIO]:
    """Send file descriptor 2 nowhere while libraries run; yields a stream that still reaches the user.

    C++ code logs to the descriptor itself, before any logging level can be set. What libraries print on
    standard output (Keras' download bars) goes to that stream if ``show_downloads``, else nowhere: standard
    output is for results.
    """
    import logging

    if debugging():
        with redirect_stdout(sys.stderr):
            yield sys.stderr
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    user = os.fdopen(saved, "w", buffering=1, encoding=sys.stderr.encoding or "utf-8", errors="replace")
    os.dup2(null, 2)
    os.close(null)
    previous = sys.stderr
    try:
        with warnings.catch_warnings(), redirect_stdout(user if show_downloads else io.StringIO()):
            # After the filters of who runs us from Python; those of -W, for whole programs, would end libraries.
            warnings.simplefilter("ignore", append=not sys.warnoptions)
            logging.disable(logging.WARNING)
            yield user
    finally:
        logging.disable(logging.NOTSET)
        for stream in (user, previous):
            with suppress(OSError, ValueError):
                stream.flush()
        os.dup2(user.fileno(), 2)
        with suppress(OSError):
            user.close()


class Counting:
    """Shows how far one long step is, ``done`` of ``count``, on ``stream`` where it is a terminal."""

    def __init__(self, stream: TextIO, what: str, *, quiet: bool = False) -> None:
        self._stream, self._what = stream, what
        self.shown = not quiet and stream.isatty()

    def __call__(self, done: int, count: int) -> None:
        if self.shown:
            end = "\n" if done >= count else ""
            put(self._stream, f"\r{self._what} {done:,} of {count:,}{end}")


class TrainingProgress:
    """A training run as it happens: a live bar on a terminal, one line an epoch elsewhere."""

    _BAR = 24

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream, self._quiet = stream, quiet
        self._live = not quiet and stream.isatty()
        self._open = False
        self._epoch: int | None = None
        self._start = self._drawn = time.perf_counter()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show what ``training`` says: a step, a resumption, a batch, features, a measured part or an epoch's row."""
        from cnnexport import supervision

        if "step" in event:
            supervision.note(event["step"])
        elif "batch" in event or "features" in event:
            supervision.note("train" if "batch" in event else "features")
        if self._quiet:
            return
        if "batch" in event:
            self._batch(event)
        elif "epoch" in event:
            self.abandon(erase=True)
            self._line(self._row(event))
            self._epoch = None
        elif "resumed" in event:
            self._line(f"goes on after epoch {event['resumed']}")
        elif self._live:
            if "features" in event:
                self._draw(f"features {event['features']:,} of {event['images']:,} images")
            elif "measured" in event:
                self._draw(f"measure {event['measured']:,} of {event['images']:,} test images")
            elif "step" in event:
                self._draw(f"{event['step']} ...")

    def abandon(self, *, erase: bool = False) -> None:
        """Leave a line that is not finished, or ``erase`` it."""
        if self._open:
            put(self._stream, "\r\x1b[K" if erase else "\n")
            self._open = False

    def _batch(self, event: dict[str, Any]) -> None:
        now = time.perf_counter()
        if self._epoch != event["epoch"]:
            self._epoch, self._start, self._drawn = event["epoch"], now, 0.0
        last = event["batch"] == event["batches"]
        if not self._live or (now - self._drawn < 0.1 and not last):
            return
        self._drawn = now
        share = event["batch"] / event["batches"]
        left = (now - self._start) / event["batch"] * (event["batches"] - event["batch"])
        bar = "=" * round(share * self._BAR)
        self._draw(f"epoch {event['epoch']} [{bar:<{self._BAR}}] {event['batch']}/{event['batches']} "
                   f"loss {event['loss']:.4f} accuracy {event.get('accuracy', 0.0):.4f} {left:.0f} s left")

    def _row(self, row: dict[str, Any]) -> str:
        held = "" if row.get("val_loss") is None else (
            f", validation loss {row['val_loss']:.4f} accuracy {row['val_accuracy']:.4f}")
        return (f"epoch {row['epoch']} ({row['phase']}): loss {row['loss']:.4f} accuracy {row['accuracy']:.4f}{held}, "
                f"{row['seconds']:.1f} s")

    def _draw(self, text: str) -> None:
        put(self._stream, f"\r\x1b[K{text}")
        self._open = True

    def _line(self, text: str) -> None:
        self.abandon(erase=True)
        put(self._stream, f"{text}\n")


class Progress:
    """Names each step of long work and its seconds on ``stream``, where it is a terminal, and keeps them."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self.shown = not quiet and stream.isatty()
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()
        self._step: str | None = None

    def __call__(self, step: str) -> None:
        """Begin ``step``; the one under way ends."""
        from cnnexport import supervision

        self.finish()
        step = shown(step)  # it may hold the name of a foreign file
        supervision.note(step)
        self._step, self._start = step, time.perf_counter()
        if self.shown:
            put(self._stream, f"{step:<8} ...")

    def heading(self, text: str) -> None:
        """Print a line above the steps that follow, and start their seconds anew."""
        self.finish()
        self.seconds = {}
        if self.shown:
            put(self._stream, f"{text}\n")

    def finish(self) -> None:
        """End the step under way."""
        if self._step is None:
            return
        seconds = time.perf_counter() - self._start
        self.seconds[self._step] = self.seconds.get(self._step, 0.0) + seconds
        if self.shown:
            put(self._stream, f"\r{self._step:<8} {seconds:6.2f} s\n")
        self._step = None

    def abandon(self) -> None:
        """Leave the line of a step that failed, so that the error starts on its own."""
        if self._step is not None and self.shown:
            put(self._stream, "\n")
        self._step = None
