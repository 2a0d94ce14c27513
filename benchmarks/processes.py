"""Contenders in fresh processes: started, watched, killed above their limit, and the clock they run by."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
WALL_LIMIT = 600.0
"""Seconds after which a child is given up."""

MEMORY_SHARE = 0.8
"""Share of the memory available at the start that a child may take."""

_POLL_SECONDS = 0.05
_TREE_POLLS = 20
_LOG_LINES = 30
_OUT_OF_MEMORY = (
    "MemoryError", "bad_alloc", "Cannot allocate memory", "ResourceExhausted", "RESOURCE_EXHAUSTED")

OK = "ok"
OUT_OF_MEMORY = "out of memory"
OUT_OF_TIME = "out of time"


class ChildClock:
    """A timer for pytest-benchmark that counts only the seconds that children measured themselves."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self._seconds = 0.0

    def __call__(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Let the time pass that a child measured."""
        self._seconds += seconds


clock = ChildClock("child_clock")
"""The timer of every benchmark here: give it to the ``benchmark`` marker as ``timer``."""


@dataclass(frozen=True)
class Ended:
    """How a child ended (``ok``, ``out of memory``, ``out of time`` or ``failed: REASON``) and what it told.

    ``seen_bytes`` is the most memory seen from outside, ``wall_seconds`` the whole life of the process,
    ``log`` the end of its standard error unless it ended well.
    """

    status: str
    detail: str
    events: dict[str, dict[str, Any]]
    seen_bytes: int
    wall_seconds: float
    log: str = ""


@dataclass(frozen=True)
class Run:
    """One conversion. ``facts`` holds what the child reported after it was done, else nothing.

    ``parity`` is the comparison with Keras of the very file with hash ``sha256``.
    """

    contender: str
    architecture: str
    status: str
    detail: str
    seen_bytes: int
    wall_seconds: float
    path: Path
    facts: dict[str, Any]
    sha256: str = ""
    parity: dict[str, Any] | None = None
    log: str = ""

    @property
    def seconds(self) -> float:
        """Seconds of the conversion by the child's clock."""
        return float(self.facts["seconds"])

    @property
    def peak_above_model(self) -> int:
        """The bytes that conversion took at its peak, over those of the built model and its libraries."""
        return int(self.facts["rss_peak"] - self.facts["rss_before"])


def available_memory() -> int:
    """Bytes that can be taken now, in the machine and in the control group."""
    available = psutil.virtual_memory().available
    for limit, usage, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        root = Path("/sys/fs/cgroup")
        with suppress(OSError, ValueError):  # absent, or "max"
            free = int((root / limit).read_text(encoding="ascii"))
            free -= int((root / usage).read_text(encoding="ascii"))
            # Cached files count as used, and go when memory is needed.
            for line in (root / stat).read_text(encoding="ascii").splitlines():
                if line.startswith(("inactive_file ", "total_inactive_file ")):
                    free += int(line.split()[1])
                    break
            available = min(available, free)
    return available


def default_memory_limit() -> int:
    """The bytes that a child may take where no limit is given."""
    return int(MEMORY_SHARE * available_memory())


def run_contender(contender: str, name: str, folder: Path, memory_limit: int) -> Run:
    """Convert architecture ``name`` in a fresh process to ``folder/model.onnx``."""
    folder.mkdir(parents=True, exist_ok=True)
    ended = run_child([HERE / "contender.py", contender, name, folder], folder, memory_limit)
    compared = ended.events.get("compared", {})
    return Run(
        contender, name, ended.status, ended.detail, ended.seen_bytes, ended.wall_seconds,
        folder / "model.onnx", ended.events.get("converted", {}), compared.get("sha256", ""),
        compared.get("parity"), ended.log)


def run_child(arguments: Sequence[str | Path], folder: Path, memory_limit: int) -> Ended:
    """Run a Python script that prints one JSON object a line, under a limit on its memory and its time."""
    out, err = folder / "child.out", folder / "child.err"
    start = time.monotonic()
    # -P: the script's folder must not shadow what it imports.
    command = [sys.executable, "-P", *map(str, arguments)]
    with open(out, "wb") as stdout, open(err, "wb") as stderr:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"})
        verdict, seen = _watch(child, memory_limit)
    events = {}
    for line in out.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            facts = json.loads(line)
            events[facts.pop("event")] = facts
    wall = time.monotonic() - start
    log = err.read_text(encoding="utf-8", errors="replace")
    status, detail = verdict or _verdict(child.returncode, log)
    if status != OK:
        last = next(reversed(events), "")
        stage = {"built": "converting", "converted": "comparing with Keras"}.get(last, "building")
        detail = f"{detail} while {stage}, after {wall:.0f} s"
    tail = "" if status == OK else "\n".join(log.splitlines()[-_LOG_LINES:])
    return Ended(status, detail, events, seen, wall, tail)


def _watch(child: subprocess.Popen[bytes], memory_limit: int) -> tuple[tuple[str, str] | None, int]:
    """Wait for ``child``, and kill it above a limit. Returns why it was killed, and the most memory seen."""
    deadline = time.monotonic() + WALL_LIMIT
    tree = [psutil.Process(child.pid)]
    polls = most = 0
    try:
        while child.poll() is None:
            if polls % _TREE_POLLS == 0:  # looking for children is dear, and none is expected
                with suppress(psutil.Error):
                    tree = [tree[0], *tree[0].children(recursive=True)]
            polls += 1
            resident = 0
            for process in tree:
                with suppress(psutil.Error):
                    resident += process.memory_info().rss
            most = max(most, resident)
            if resident > memory_limit:
                return (OUT_OF_MEMORY, f"killed above {memory_limit / 2**30:.1f} GiB"), most
            if time.monotonic() > deadline:
                return (OUT_OF_TIME, f"killed at {most / 2**30:.1f} GiB"), most
            with suppress(subprocess.TimeoutExpired):
                child.wait(_POLL_SECONDS)
        return None, most
    finally:
        for process in tree[1:]:
            with suppress(psutil.Error):
                process.kill()
        with suppress(OSError):
            child.kill()
        child.wait()


def _verdict(code: int, log: str) -> tuple[str, str]:
    """How a child ended by itself, told from its exit code and its log."""
    if code == 0:
        return OK, ""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else ""
    if code == -getattr(signal, "SIGKILL", 9):
        return OUT_OF_MEMORY, "killed by the system"
    if any(sign in line for line in lines[-20:] for sign in _OUT_OF_MEMORY):
        return OUT_OF_MEMORY, last
    return f"failed: {last or f'exit code {code}'}", f"exit code {code}"


def seconds_of(command: Sequence[str], cwd: Path) -> tuple[float, int]:
    """Seconds of a whole process from start to end, and its exit code."""
    start = time.perf_counter()
    code = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd,
        check=False).returncode
    return time.perf_counter() - start, code


def replay(seconds: Sequence[float]) -> Callable[[], None]:
    """A target for ``benchmark.pedantic`` that lets times pass that were measured already, one a round."""
    remaining = iter(seconds)

    def target() -> None:
        clock.advance(next(remaining))

    return target
