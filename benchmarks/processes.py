"""Fresh processes under a memory limit, and a clock that runs only inside them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

TIME_LIMIT = 900.0
"""Seconds after which a contender is given up."""


@dataclass(frozen=True)
class Outcome:
    """How a contender ended: ``ok``, ``out of memory``, ``out of time`` or ``failed``; ``facts`` is its JSON line."""

    status: str
    detail: str
    facts: dict[str, Any] = field(default_factory=dict)


class ChildClock:
    """A timer for pytest-benchmark that advances by the seconds measured inside child processes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = ChildClock()


def default_memory_limit() -> int:
    """80 % of the memory available now, in bytes."""
    return int(0.8 * psutil.virtual_memory().available)


def run_contender(contender: str, name: str, folder: Path, memory_limit: int) -> Outcome:
    """Run one contender in a fresh process and advance ``CLOCK`` by its conversion's seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model.onnx*"):
        old.unlink()
    log = folder / "log.txt"
    with open(log, "w") as errors:
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("contender.py")), contender, name, str(folder)],
            stdout=subprocess.PIPE, stderr=errors, text=True)
        stopped = _watch(child, memory_limit)
        out, _ = child.communicate()
    if stopped:
        return Outcome(stopped, f"stopped: {stopped} at {memory_limit / 2**30:.1f} GiB" if "memory" in stopped else stopped)
    text = log.read_text(errors="replace")
    if child.returncode == 0:
        facts = json.loads(out.strip().splitlines()[-1])
        CLOCK.now += facts["seconds"]
        return Outcome("ok", "", facts)
    if child.returncode == -9 or "bad_alloc" in text or "MemoryError" in text:
        return Outcome("out of memory", "killed by the system for memory")
    return Outcome("failed", text.strip().splitlines()[-1][:300] if text.strip() else f"exit {child.returncode}")


def _watch(child: subprocess.Popen[str], memory_limit: int) -> str | None:
    """Wait for ``child``; kill it above the limit and say why."""
    process = psutil.Process(child.pid)
    end = time.monotonic() + TIME_LIMIT
    while child.poll() is None:
        try:
            resident = process.memory_info().rss
        except psutil.NoSuchProcess:
            break
        if resident > memory_limit or time.monotonic() > end:
            child.kill()
            child.wait()
            return "out of memory" if resident > memory_limit else "out of time"
        time.sleep(0.02)
    return None
