"""What libraries print: kept off the terminal, collected, and told in one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from cnnexport.text import shortened


@dataclass
class Log:
    """What was printed during a ``captured`` block; set at its end."""

    text: str = ""


@contextlib.contextmanager
def captured() -> Iterator[Log]:
    """Keep Python's output and the process' standard error (fd 2) off the terminal, and collect both."""
    log = Log()
    printed = io.StringIO()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no standard error to redirect
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield log
        log.text = printed.getvalue()
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                yield log
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            log.text = file.read().decode(errors="replace") + printed.getvalue()


def shorten(text: str) -> str:
    """Text on one line, without terminal colours, about 300 characters at most."""
    return shortened(re.sub(r"\x1b\[[\d;]*m", "", text))


def line(error: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing."""
    return shorten(str(error)) or type(error).__name__
