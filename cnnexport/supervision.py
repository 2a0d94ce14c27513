"""A command's work in a child process, whose death is seen and told.

Foreign files reach native code (TensorFlow, ONNX Runtime, HDF5, image decoders) that can crash, never end, or ask for
all memory there is. The parent has imported next to nothing: it waits, passes signals on, holds the child to its
limits, and puts in order what a dead child left: its folder for temporary files, and what it was about to write.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import select
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cnnexport import interrupts
from cnnexport.errors import INTERRUPTED, EndedError, InputError, StoppedError

GRACE_SECONDS = 10.0
"""How long a child may take to put things in order after a signal before it is killed."""
_POLL_SECONDS = 0.2
_MEMORY_SHARE = 0.9
_STORAGE = "cnnexport-work-"
_SETTLED_SECONDS = 10.0
_SIZE, _HEARD, _CONCLUDED, _STEP, _PLACES = 1 << 16, 8, 9, 16, 16 + 4096
_NATIVE = {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP"}


class Board:
    """What the child says of itself in memory that both see: its step, when that must be over, what it writes to."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, _SIZE)

    def _put(self, place: int, end: int, text: str) -> None:
        held = text.encode(errors="surrogateescape")[:end - place - 4]
        self._map[place:place + 4 + len(held)] = struct.pack("<I", len(held)) + held

    def _get(self, place: int, end: int) -> str:
        (size,) = struct.unpack("<I", self._map[place:place + 4])
        return self._map[place + 4:place + 4 + min(size, end - place - 4)].decode(errors="surrogateescape")

    @property
    def deadline(self) -> float:
        """When the step must be over, of ``time.monotonic``; 0 where it need not."""
        return float(struct.unpack("<d", self._map[:8])[0])

    @deadline.setter
    def deadline(self, value: float) -> None:
        self._map[:8] = struct.pack("<d", value)

    @property
    def heard(self) -> bool:
        """Whether the child has taken a signal."""
        return self._map[_HEARD] != 0

    @heard.setter
    def heard(self, value: bool) -> None:
        self._map[_HEARD] = int(value)

    @property
    def concluded(self) -> bool:
        """Whether the child's work came to its end; where it did not, a library left the process."""
        return self._map[_CONCLUDED] != 0

    @concluded.setter
    def concluded(self, value: bool) -> None:
        self._map[_CONCLUDED] = int(value)

    @property
    def step(self) -> str:
        return self._get(_STEP, _PLACES)

    @step.setter
    def step(self, text: str) -> None:
        self._put(_STEP, _PLACES, text)

    @property
    def places(self) -> list[list[str]]:
        """Where the child was writing: what puts a place in order, the place, the folders that were made for it."""
        return [entry.split("\0") for entry in self._get(_PLACES, _SIZE).split("\0\0") if entry]

    @places.setter
    def places(self, places: list[list[str]]) -> None:
        self._put(_PLACES, _SIZE, "\0\0".join("\0".join(entry) for entry in places))


_board: Board | None = None


@contextmanager
def doing(step: str, seconds: float | None = None) -> Iterator[None]:
    """Say what the block does, for whoever must tell of its death, and within how many seconds it must be over."""
    if _board is None:
        yield
        return
    before = (_board.step, _board.deadline)
    _board.step = step
    if seconds:
        # The nearest of the limits that hold.
        _board.deadline = min(time.monotonic() + seconds, before[1] or float("inf"))
    try:
        yield
    finally:
        _board.step, _board.deadline = before


def note(step: str) -> None:
    """Say that a step begins, until the next one does."""
    if _board is not None:
        _board.step = step


def heard() -> None:
    """Say that a signal was taken: the parent need not pass it on."""
    if _board is not None:
        _board.heard = True


@contextmanager
def writing_to(place: Path, sweep: str, made: Sequence[Path] = ()) -> Iterator[None]:
    """Say that the block writes to ``place``: if the process dies in it, its parent calls ``sweep``.

    That is ``module:function``, and is given the place. ``made`` are the folders that were made for it, innermost
    first; they go too where they are empty then.
    """
    if _board is None:
        yield
        return
    before = _board.places
    _board.places = [*before, [sweep, *(str(path.absolute()) for path in (place, *made))]]
    try:
        yield
    finally:
        _board.places = before


def possible() -> bool:
    """Whether a child can be made here: by fork, before any library has started threads of its own."""
    import threading

    return hasattr(os, "fork") and threading.active_count() == 1 and not {"numpy", "tensorflow"} & set(sys.modules)


def run(work: Callable[[], int], fail: Callable[[Exception], int]) -> int:
    """Run ``work`` in a child and return its exit code; of a child that died, ``fail`` prints the error instead.

    ``work`` handles its own errors. Temporary files of the child lie in a folder of its own.
    """
    board = Board()
    storage = _storage()
    keras = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    had_keras = os.path.lexists(keras)
    alive, born = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.NUMBERS)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(alive)
        _work(work, board, storage, parent)
    os.close(born)
    try:
        end = _watch(child, alive, board)
        if storage is not None:
            shutil.rmtree(storage, ignore_errors=True)
        if not had_keras:
            _remove_configuration(keras)
        if isinstance(end, int):
            return end
        for sweep, place, *made in board.places:
            module, _, name = sweep.partition(":")
            with contextlib.suppress(Exception):
                getattr(importlib.import_module(module), name)(Path(place))
            for folder in made:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        return fail(end)
    finally:
        os.close(alive)


def _storage() -> Path | None:
    """A new folder for temporary files, locked while this process or its child lives; None where none can be made.

    Those of processes that were killed together with their parent are removed.
    """
    import fcntl
    import tempfile

    try:
        made = Path(tempfile.mkdtemp(prefix=_STORAGE))
        fcntl.flock(os.open(made, os.O_RDONLY), fcntl.LOCK_EX)
    except OSError:
        return None  # the step that needs one will say so
    with contextlib.suppress(OSError):
        for left in [p for p in made.parent.iterdir() if p.name.startswith(_STORAGE) and p != made]:
            _remove_if_left(left)
    return made


def _remove_if_left(folder: Path) -> None:
    """Remove a folder for temporary files that no process holds any more."""
    import fcntl

    with contextlib.suppress(OSError):
        held = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        try:
            facts = os.fstat(held)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # One that was made just now may not be locked yet.
            if facts.st_uid == os.getuid() and time.time() - facts.st_mtime > _SETTLED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(held)


def _remove_configuration(keras: Path) -> None:
    """Remove the settings file that Keras writes at its first import, where that is all that is there."""
    with contextlib.suppress(OSError):
        if os.listdir(keras) == ["keras.json"]:
            os.unlink(keras / "keras.json")
            os.rmdir(keras)


def _work(work: Callable[[], int], board: Board, storage: Path | None, parent: int) -> None:
    """The child's whole life."""
    global _board
    import tempfile

    code = 1
    try:
        _board = board
        die_with(parent)
        if storage is not None:
            os.environ["TMPDIR"] = tempfile.tempdir = str(storage)
        interrupts.take_signals(heard)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.NUMBERS)
        code = work()
        board.concluded = True
    except interrupts.Interrupted:
        code = INTERRUPTED
        board.concluded = True
    finally:
        # A library that crashes at its own end must not spoil what is done.
        interrupts.leave(code)


def die_with(parent: int) -> None:
    """End this process when its parent ends, however that comes about (Linux; elsewhere a thread looks)."""
    if sys.platform.startswith("linux"):
        import ctypes

        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, signal.SIGKILL, 0, 0, 0)
    else:
        import threading

        def look() -> None:
            while os.getppid() == parent:
                time.sleep(1.0)
            os._exit(1)

        threading.Thread(target=look, daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch(child: int, alive: int, board: Board) -> int | Exception:
    """Wait for the child, pass signals on, end it where it passes a limit; its exit code, or what is to be told."""
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    came: list[int] = []

    def arrived(number: int, frame: object) -> None:
        came.append(number)
        with contextlib.suppress(OSError):
            os.write(waker, b"x")

    for number in interrupts.NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, arrived)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.NUMBERS)
    limit = _memory_limit()
    terminal = any(os.isatty(number) for number in range(3))
    told: float | None = None
    passed_on = False
    error: Exception | None = None
    while True:
        ready, _, _ = select.select([alive, wake], [], [], _POLL_SECONDS)
        if alive in ready:
            break
        if wake in ready:
            os.read(wake, 64)
        now = time.monotonic()
        if came:
            told = told or now
            # A terminal sends Ctrl-C to the child too, for which a second one would mean: leave at once.
            if not passed_on and not board.heard and (not terminal or now - told > _POLL_SECONDS / 2):
                passed_on = True
                os.kill(child, came[0])
        elif error is None:
            error = _passed_limit(child, board, limit, now)
        if error is not None or (told is not None and now - told > GRACE_SECONDS):
            os.kill(child, signal.SIGKILL)
            break
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        if came and code != INTERRUPTED:
            return StoppedError("interrupted, when the command had come to its end")
        if not board.concluded:
            during = f" during: {board.step}" if board.step else ""
            return EndedError(f"a library left the process with exit code {code}{during}; nothing half-written was "
                              "left. Most likely too little memory: try a smaller model or batch, or a machine with "
                              "more")
        return code
    if error is None:
        stopped = StoppedError(f"interrupted during: {board.step}" if board.step else "interrupted")
        error = stopped if came else death(-code, board.step)
    return error


def _passed_limit(child: int, board: Board, limit: int, now: float) -> Exception | None:
    deadline = board.deadline
    if deadline and now > deadline:
        return InputError(f"it takes too long ({board.step}), and was ended at its time limit; check the file, or give "
                          "more time (verify: --max-time)")
    used = _memory_of(child)
    if used > limit:
        during = f" during: {board.step}" if board.step else ""
        return EndedError(
            f"the memory does not hold this: {used / 1e9:.3g} GB were in use, {limit / 1e9:.3g} GB are allowed"
            f"{during}; check the file, try a smaller model or batch, or set CNNEXPORT_MEMORY_GB")
    return None


def death(number: int, step: str) -> EndedError:
    """The error that tells of a process that died of signal ``number`` during ``step``."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    during = f" during: {step}" if step else ""
    if name == "SIGKILL":
        return EndedError(f"the process was killed (SIGKILL){during}; most likely the machine's memory ran out: try a "
                          "smaller model or batch, or a machine with more")
    what = "native code crashed" if name in _NATIVE else "the process was ended"
    return EndedError(f"{what} ({name}){during}; nothing half-written was left. A damaged or hostile file can do this, "
                      "too little memory, or a fault in the library that ran: CNNEXPORT_DEBUG=1 shows its log")


def _memory_limit() -> int:
    """Bytes that the child may take: nine tenths of the machine's or the container's, or CNNEXPORT_MEMORY_GB."""
    asked = os.environ.get("CNNEXPORT_MEMORY_GB", "")
    with contextlib.suppress(ValueError, OverflowError):
        if (gigabytes := float(asked)) > 0:
            return int(gigabytes * 1e9)
    total = 1 << 62
    with contextlib.suppress(OSError, ValueError, AttributeError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return int(total * _MEMORY_SHARE)


def _memory_of(process: int) -> int:
    """Bytes of memory that a process holds for itself; 0 where the system does not tell."""
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("RssAnon:", "RssShmem:"))) * 1024
