"""What reaches the terminal: progress on standard error, and nothing that TensorFlow or ORT log there."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO


def debugging() -> bool:
    """Whether ``CNNEXPORT_DEBUG=1`` asks for tracebacks and the libraries' own logs."""
    return os.environ.get("CNNEXPORT_DEBUG") == "1"


@contextmanager
def quiet_libraries(*, show_downloads: bool = False) -> Iterator[TextIO]:
    """Send file descriptor 2 nowhere while libraries run; yields a stream that still reaches the user.

    C++ code logs to the descriptor itself, before any logging level can be set. What libraries print on
    standard output (Keras' download bars) goes to that stream if ``show_downloads``, else nowhere: standard
    output is for results.
    """
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
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            yield user
    finally:
        logging.disable(logging.NOTSET)
        user.flush()
        previous.flush()
        os.dup2(user.fileno(), 2)
        user.close()


class Counting:
    """Shows how far one long step is, ``done`` of ``count``, on ``stream`` where it is a terminal."""

    def __init__(self, stream: TextIO, what: str, *, quiet: bool = False) -> None:
        self._stream, self._what = stream, what
        self.shown = not quiet and stream.isatty()

    def __call__(self, done: int, count: int) -> None:
        if self.shown:
            end = "\n" if done >= count else ""
            print(f"\r{self._what} {done:,} of {count:,}", end=end, file=self._stream, flush=True)


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
            print("\r\x1b[K" if erase else "", end="" if erase else "\n", file=self._stream, flush=True)
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
        print(f"\r\x1b[K{text}", end="", file=self._stream, flush=True)
        self._open = True

    def _line(self, text: str) -> None:
        self.abandon(erase=True)
        print(text, file=self._stream, flush=True)


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
        self.finish()
        self._step, self._start = step, time.perf_counter()
        if self.shown:
            print(f"{step:<8} ...", end="", file=self._stream, flush=True)

    def heading(self, text: str) -> None:
        """Print a line above the steps that follow, and start their seconds anew."""
        self.finish()
        self.seconds = {}
        if self.shown:
            print(text, file=self._stream, flush=True)

    def finish(self) -> None:
        """End the step under way."""
        if self._step is None:
            return
        seconds = time.perf_counter() - self._start
        self.seconds[self._step] = self.seconds.get(self._step, 0.0) + seconds
        if self.shown:
            print(f"\r{self._step:<8} {seconds:6.2f} s", file=self._stream, flush=True)
        self._step = None

    def abandon(self) -> None:
        """Leave the line of a step that failed, so that the error starts on its own."""
        if self._step is not None and self.shown:
            print(file=self._stream, flush=True)
        self._step = None
