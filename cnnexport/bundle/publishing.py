"""How a bundle comes to its place: one writer, beside it, in whole."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cnnexport import files, supervision
from cnnexport.bundle.records import MANIFEST, PARITY
from cnnexport.errors import OutputError, UsageError


@contextmanager
def reserved(target: Path) -> Iterator[None]:
    """Be the only one who writes ``target`` while the block runs.

    What killed runs left beside it is cleared first, and an old bundle that one took away is put back: who holds the
    lock knows that none of them is alive, also in other containers. Folders made for it go again if they stay empty.

    Raises:
        UsageError: another process is writing there.
        OutputError: the place cannot be written.
    """
    made = [p for p in (target.parent, *target.parent.parents) if not os.path.lexists(p)]
    try:
        with files.writing(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.parent / f".{target.name}.lock"
        with files.sole_writer(lock, str(target)), supervision.writing_to(target, f"{__name__}:sweep", made):
            _recover(target)
            yield
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def sweep(target: Path) -> None:
    """Clear what a killed run left beside ``target``. Raises as ``reserved``."""
    with reserved(target):
        pass


def refuse_existing(target: Path, *, force: bool) -> None:
    """Raises UsageError where ``target`` exists and may not be replaced."""
    if not os.path.lexists(target):
        return
    if not target.is_dir() or target.is_symlink():
        raise UsageError(f"{target} exists already and is no folder; give another --output")
    if not any(target.iterdir()):
        return
    if not (target / MANIFEST).is_file():
        raise UsageError(f"{target} exists already and is no bundle, so nothing replaces it; give another --output")
    if not force:
        raise UsageError(f"{target} exists already; give --force to replace it, or another --output")


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A new folder beside ``target``, removed at the end unless it was published or set aside.

    Raises:
        OutputError: the place cannot be written, or is full, at the start or inside the block.
    """
    folder = target.parent / f".{target.name}.partial-{os.getpid()}"
    # One block from the first write on: an interrupt between any two lines still clears up.
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        except OSError as error:
            reason = error.strerror
            raise OutputError(f"{target.parent} cannot be written ({reason}); give another --output") from error
        yield folder
    except OSError as error:
        if not _concerns(error, folder):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise OutputError(f"{target} cannot be written ({error.strerror}); "
                          f"{'free some space, or ' if full else ''}give another --output") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether ``error`` comes from writing to ``folder``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return True
    return any(str(folder.parent) in str(name) for name in (error.filename, error.filename2) if name)


def require_space(folder: Path, size: int) -> None:
    """Raises OutputError where ``folder`` has no room for ``size`` bytes."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OutputError(f"{folder.parent} has {free / 1e6:.0f} MB free and the bundle needs {size / 1e6:.0f} MB; "
                          "free some space, or give another --output")


def publish(folder: Path, target: Path, *, replace: bool = True) -> None:
    """Put ``folder`` at ``target`` in one step; a bundle that was there is removed after.

    Raises UsageError where something has come there meanwhile that is not to be replaced.
    """
    if not replace:
        with suppress(OSError):
            target.rmdir()  # an empty folder is as good as none
        if os.path.lexists(target):
            raise UsageError(f"{target} exists already; give --force to replace it, or another --output")
        os.rename(folder, target)
    elif os.path.lexists(target):
        old = target.parent / f".{target.name}.old-{os.getpid()}"
        if not _exchange(folder, target):
            os.rename(target, old)
            os.rename(folder, target)
        else:
            os.rename(folder, old)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(folder, target)


def set_aside(folder: Path, target: Path) -> Path:
    """Keep a rejected ``folder`` beside ``target`` and say where; an earlier rejected one gives way."""
    place = target.parent / f"{target.name}.rejected"
    count = 1
    while os.path.lexists(place) and not (place / PARITY).is_file():
        count += 1
        place = target.parent / f"{target.name}.rejected-{count}"
    publish(folder, place)
    return place


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one system call, where the system has one (Linux)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(a.absolute()), here, os.fsencode(b.absolute()), exchange) == 0)


def _recover(target: Path) -> None:
    """Clear what a killed run left beside ``target``; put its old bundle back where it was taken away."""
    for kind in ("old", "partial"):
        start = f".{target.name}.{kind}-"
        for left in [p for p in target.parent.iterdir() if p.name.startswith(start)]:
            if not left.name.removeprefix(start).isdigit():
                continue
            if kind == "old" and not os.path.lexists(target):
                os.rename(left, target)
            else:
                shutil.rmtree(left, ignore_errors=True)
