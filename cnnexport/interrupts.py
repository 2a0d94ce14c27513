"""Ctrl-C and SIGTERM, from the first import to the last write: one exception, raised once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

TYPE_CHECKING = False  # not typing's: this module comes before all else, and that one takes its time
if TYPE_CHECKING:
    from typing import NoReturn

NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_arrived: list[int] = []
_tell: list[Callable[[], None]] = []


class Interrupted(BaseException):
    """A termination signal; its text says what is left. Not KeyboardInterrupt, before which Click prints a line."""


def take_signals(tell: Callable[[], None] | None = None) -> None:
    """Let the first termination signal raise Interrupted; those after it, while things are put in order, do nothing.

    ``tell`` is called first.
    """
    _tell[:] = [tell] if tell is not None else []
    for number in NUMBERS:
        # What a caller ignores (nohup) stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def arrived() -> bool:
    """Whether a signal has come: whatever failed since then failed for it."""
    return bool(_arrived)


def forget() -> None:
    """Take the next signal as the first again."""
    _arrived.clear()


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _arrived:
        _arrived.append(number)
        for tell in _tell:
            tell()
        raise Interrupted


def leave(code: int) -> NoReturn:
    """End the process at once: what a library still does at its end can crash, and a signal then says nothing."""
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - contextlib would be imported before signals are taken
            stream.flush()
        except Exception:
            pass
    os._exit(code)
