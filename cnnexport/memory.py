"""What is freed goes back to the system, so that one library's memory does not come on top of another's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

_MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of malloc.h: arrays from this size on are mapped one by one, and unmapped when freed."""


def give_back() -> None:
    """Free what nothing holds any more, and let the system have its memory: glibc keeps it for what comes."""
    import gc

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        _libc().malloc_trim(0)


@contextlib.contextmanager
def frugal() -> Iterator[None]:
    """Let the memory of large arrays go back to the system as they are freed while the block runs.

    TensorFlow's own allocator never returns any, so that a second model, or ONNX Runtime, would come on top; it is
    left out where TensorFlow was not imported before. What either computes stays the same.
    """
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    with contextlib.suppress(OSError, AttributeError):
        _libc().mallopt(_MMAP_THRESHOLD, 2 << 20)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, AttributeError):
            _libc().mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc goes to by itself


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL("libc.so.6")
