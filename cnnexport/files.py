"""Files: what others give is looked at before it is opened, what is ours is written whole, and a place has one writer.

A pipe, a device or a socket can hang a reader or fill its memory, and must never be replaced: only regular files are
read and written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnnexport.errors import InputError, OutputError, UsageError
from cnnexport.text import all_in_line

_BLOCK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_KINDS = ((stat.S_ISDIR, "is a folder"), (stat.S_ISFIFO, "is a pipe, not a file"),
          (stat.S_ISSOCK, "is a socket, not a file"), (stat.S_ISCHR, "is a device, not a file"),
          (stat.S_ISBLK, "is a device, not a file"))
WAIT_SECONDS = 5.0
"""How long a place that is taken is waited for: a process that was killed may still be going."""


def mode_of(path: Path) -> int | None:
    """The mode of what ``path`` (or the link there) leads to; None where nothing is.

    Raises InputError where that cannot be told: a folder without search permission, a name that is too long.
    """
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({reason_of(error)}); check the path") from error


def exists(path: Path) -> bool:
    """Whether something is at ``path``. Raises as ``mode_of``."""
    return mode_of(path) is not None


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder, or a link to one. Raises as ``mode_of``."""
    return (mode := mode_of(path)) is not None and stat.S_ISDIR(mode)


def regular(path: Path, advice: str = "check the path") -> Path:
    """``path``, where it is a regular file or a link to one that may be read; ``advice`` says what to give instead.

    Raises InputError for anything else.
    """
    mode = mode_of(path)
    if mode is None:
        raise InputError(f"{path} does not exist; {advice}")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} {what_is(mode)}; {advice}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read (Permission denied); make it readable")
    return path


def what_is(mode: int) -> str:
    """What a mode that is no regular file's says, as ``is a pipe, not a file``."""
    return next((text for test, text in _KINDS if test(mode)), "is not a regular file")


def read(path: Path, *, most: int, advice: str = "check the path") -> bytes:
    """The content of a regular file of up to ``most`` bytes. Raises InputError."""
    regular(path, advice)
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason_of(error)}); {advice}") from error
    if len(content) > most:
        raise InputError(f"{path} is larger than {most >> 20} MiB, which none of its kind is; {advice}")
    return content


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal, read block by block."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def reason_of(error: BaseException) -> str:
    """Why the system refused, in a few words."""
    return getattr(error, "strerror", None) or all_in_line(error)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises OutputError, in one line, for whatever keeps the block from writing to ``path``."""
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        remedy = "free some space" if getattr(error, "errno", None) in _FULL else "make it writable"
        raise OutputError(f"{path} cannot be written ({reason_of(error)}); {remedy} and give the command again, or "
                          "give another --output") from error


def check_replaceable(path: Path) -> None:
    """Raises OutputError where ``path`` is something that writing a file there must not replace."""
    with writing(path):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            return
    if not stat.S_ISREG(mode):
        raise OutputError(f"{path} {what_is(mode)}, and nothing replaces it; give another file")


def check_writable(path: Path) -> None:
    """Raises OutputError where a file cannot be written at ``path``; told before the work that fills it begins."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give a file")
    check_replaceable(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=partial_prefix(path)):
            pass


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A place beside ``path`` to write to; it takes the place of ``path`` at the end of the block, in one step.

    Through a link, the file that it leads to is replaced. What is not ``durable`` outlives the process and perhaps not
    the machine, and nobody waits for the disk. Raises OutputError where it cannot be written, or where something else
    than a file is there.
    """
    check_replaceable(path)
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    # Short, so that a long name of the file's own still leaves room; one process writes one file at a time.
    partial = path.with_name(f"{partial_prefix(path)}{os.getpid()}{path.suffix[:16]}")
    with writing(path):
        try:
            yield partial
            if durable:
                with open(partial, "rb+") as file:
                    os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def partial_prefix(path: Path) -> str:
    """How the names of files start that ``replacing`` writes beside ``path``."""
    return f".{path.stem[:40]}.partial-"


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, in one step. Raises as ``replacing``."""
    with replacing(path) as place:
        place.write_bytes(text.encode("utf-8"))


@contextmanager
def sole_writer(lock: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``lock`` while the block runs: ``what`` is written by one process at a time.

    The system gives the lock up with the process, however that ends, also one in another container on the same
    machine; the file is removed at the end.

    Raises:
        UsageError: another process holds it, after WAIT_SECONDS.
        OutputError: the lock file cannot be made.
    """
    import filelock

    held = filelock.FileLock(lock, timeout=WAIT_SECONDS)
    with writing(lock.parent):
        try:
            held.acquire()
        except filelock.Timeout:
            raise UsageError(f"another cnnexport is writing {what} just now; wait for it, or give another "
                             "--output") from None
    try:
        yield
    finally:
        # Removed while it is held: who waits for the same file sees that it is gone, and makes a new one.
        with contextlib.suppress(OSError):
            os.unlink(lock)
        held.release()
