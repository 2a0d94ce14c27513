"""Ctrl-C and SIGTERM, from the first import to the last write: one exception, raised once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

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
