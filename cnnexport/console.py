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
from typing import TextIO


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
