"""What reaches the terminal: progress on standard error, and nothing that TensorFlow or ORT log there."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def debugging() -> bool:
    """Whether ``CNNEXPORT_DEBUG=1`` asks for tracebacks and the libraries' own logs."""
    return os.environ.get("CNNEXPORT_DEBUG") == "1"


@contextmanager
def quiet_libraries() -> Iterator[TextIO]:
    """Send file descriptor 2 nowhere while libraries run; yields a stream that still reaches the user.

    C++ code logs to the descriptor itself, before any logging level can be set.
    """
    if debugging():
        yield sys.stderr
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    user = os.fdopen(saved, "w", buffering=1, encoding=sys.stderr.encoding or "utf-8", errors="replace")
    os.dup2(null, 2)
    os.close(null)
    previous = sys.stderr
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import logging

            logging.disable(logging.WARNING)
            yield user
    finally:
        import logging

        logging.disable(logging.NOTSET)
        user.flush()
        previous.flush()
        os.dup2(user.fileno(), 2)
        user.close()


class Progress:
    """Names each step of long work and its seconds on ``stream``; silent when it is no terminal."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._shown = not quiet and stream.isatty()
        self._start = time.perf_counter()
        self._step: str | None = None

    def __call__(self, step: str) -> None:
        self.finish()
        self._step, self._start = step, time.perf_counter()
        if self._shown:
            print(f"{step:<8} ...", end="", file=self._stream, flush=True)

    def finish(self) -> None:
        """End the step under way."""
        if self._step is not None and self._shown:
            print(f"\r{self._step:<8} {time.perf_counter() - self._start:6.2f} s", file=self._stream, flush=True)
        self._step = None
