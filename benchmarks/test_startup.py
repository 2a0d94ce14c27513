"""How long ``cnnexport --help`` takes beside ``python -c "import click"``, both in fresh processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from conftest import Seen
from processes import CLOCK

ROUNDS = 30


@pytest.mark.benchmark(timer=CLOCK, group="start-up")
def test_startup(benchmark: Any, seen: Seen) -> None:
    script = shutil.which("cnnexport", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("the cnnexport command is not installed beside this Python")
    commands = {"cnnexport --help": [script, "--help"], "import click": [sys.executable, "-c", "import click"]}
    times: dict[str, list[float]] = {name: [] for name in commands}

    def run() -> None:
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times[name].append(time.perf_counter() - start)
        CLOCK.now += times["cnnexport --help"][-1]

    run()  # fills the page cache
    benchmark.pedantic(run, rounds=ROUNDS, iterations=1)
    seen.startup.update({name: median(t[1:]) for name, t in times.items()})
    benchmark.extra_info.update({f"median of {name}": value for name, value in seen.startup.items()})
