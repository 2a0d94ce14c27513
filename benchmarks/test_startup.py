"""Time to the first line of help, against the time that click itself takes to import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import clock, replay, seconds_of
from benchmarks.targets import Results

ROUNDS = 20
COMMANDS = {
    "import click": [sys.executable, "-c", "import click"],
    "cnnexport --help": [str(Path(sys.executable).parent / "cnnexport"), "--help"],
}


def measure(results: Results, folder: Path) -> dict[str, list[float]]:
    """Seconds of each command as a whole process, in turn, once in a session."""
    if not results.startup:
        times: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for counted in (False, *[True] * ROUNDS):  # the first round compiles and fills the file cache
            for name, command in COMMANDS.items():
                try:
                    seconds, code = seconds_of(command, folder)
                except OSError as error:
                    pytest.skip(f"{name} cannot be run: {error}")
                if code:
                    pytest.skip(f"{name} fails with exit code {code}")
                if counted:
                    times[name].append(seconds)
        results.startup.update(times)
    return results.startup


@pytest.mark.benchmark(timer=clock, group="startup")
@pytest.mark.parametrize("command", COMMANDS)
def test_startup(
    benchmark: Any, results: Results, tmp_path: Path, surroundings: dict[str, Any], command: str
) -> None:
    times = measure(results, tmp_path)[command]
    benchmark.pedantic(replay(times), rounds=len(times))
    benchmark.extra_info.update(command=command, **surroundings)
