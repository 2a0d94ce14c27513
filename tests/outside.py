"""The installed command as a user or an attacker calls it: a process of its own, and what it may leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("cnnexport"))
IN_PROCESS = "from cnnexport import supervision; supervision.possible = lambda: False; "
"""What makes ``main`` work in the process that calls it, so that its modules can be looked at."""
CODES = frozenset((0, 2, 3, 4, 5, 6, 7, 8, 130))
"""The documented exit codes that are no fault of ours."""


@dataclass(frozen=True)
class Done:
    """How a command ended; the streams as they came, undecodable bytes escaped."""

    code: int
    out: str
    err: str


def run(
    *arguments: Any, cwd: Path, env: Mapping[str, str] | None = None, seconds: float = 120, shell: str | None = None
) -> Done:
    """Run ``cnnexport ARGUMENTS`` (or the ``shell`` line, where it is on the PATH) and wait for its end."""
    place = str(Path(COMMAND).parent)
    environment = {**os.environ, "PATH": f"{place}{os.pathsep}{os.environ['PATH']}", **(env or {})}
    words: list[Any] = [COMMAND, *arguments] if shell is None else ["bash", "-c", shell]
    done = subprocess.run([w if isinstance(w, bytes) else str(w) for w in words], capture_output=True, cwd=cwd,
                          env=environment, timeout=seconds)
    return Done(done.returncode, done.stdout.decode(errors="backslashreplace"),
                done.stderr.decode(errors="backslashreplace"))


def complaint(done: Done) -> str | None:
    """What is wrong with the way a command ended, None where nothing is."""
    if "Traceback" in done.err + done.out:
        return "a traceback"
    if "error: unexpected " in done.err:
        return "an error of ours"
    if done.code not in CODES:
        return f"exit code {done.code}"
    errors = [line for line in done.err.splitlines() if not line.startswith("cnnexport: warning: ")]
    if done.code not in (0, 7) and not errors:
        return "no word"
    if done.code not in (0, 7) and not all(line.startswith("cnnexport: error: ") for line in errors):
        return "more than its line"
    if any((ord(c) < 32 and c not in "\n\r") or 0x7F <= ord(c) < 0xA0 for c in done.err):
        return "control characters"
    if max(map(len, done.err.splitlines()), default=0) > 5000:
        return "an endless line"
    return None


def left(folder: Path) -> list[str]:
    """Everything under a folder, by relative name."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))
