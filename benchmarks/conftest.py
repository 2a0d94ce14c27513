"""What the benchmarks share: the limit, the results of the run, and the report at its end."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks import processes
from benchmarks.targets import Results, as_json, conversion_lines, target_lines
from cnnexport.bench import machine
from cnnexport.bench.forks import Fork, Stop
from cnnexport.bench.options import Goal
from cnnexport.bench.plan import default_threads

_RESULTS = pytest.StashKey[Results]()
_PACKAGES = ("cnnexport", "tf2onnx", "keras", "tensorflow", "onnx", "onnx-ir", "numpy")
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """None beside this process: what is measured has the machine for itself."""
    return 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--memory-limit-gib", type=float, default=None, metavar="GIB",
        help="memory that a contender may take (default: 80%% of what is available at the start)")


    parser.addoption(
        "--bundles", type=Path, default=None, metavar="DIR",
        help="folder of bundles to time, made where they are missing (default: a temporary one)")
    parser.addoption(
        "--row-seconds", type=float, default=20.0, metavar="S", help="wall time of a timed row at most (default: 20)")


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--memory-limit-gib")
    limit = processes.default_memory_limit() if given is None else int(given * 2**30)
    config.stash[_RESULTS] = Results(limit)


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    """What this run has measured so far."""
    return request.config.stash[_RESULTS]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the files of this run, which are large and go with it."""
    folder = tmp_path_factory.mktemp("files")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def bundles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the bundles that are timed."""
    given = request.config.getoption("--bundles")
    folder = tmp_path_factory.mktemp("bundles") if given is None else given.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def goal(request: pytest.FixtureRequest) -> Goal:
    """When a timed row is done."""
    return Goal(min_time=0.5, max_time=request.config.getoption("--row-seconds"))


@pytest.fixture(scope="session")
def stop() -> Iterator[Stop]:
    """Never asked to: pytest's own Ctrl-C ends the run."""
    held = Stop()
    yield held
    held.close()


@pytest.fixture(scope="session")
def limit(stop: Stop) -> dict[str, Any]:
    """The CPU's own limit, measured once in the run."""
    with Fork(stop) as fork:
        found = fork.ask(
            "limits", time.monotonic() + 60, provider="cpu", threads=default_threads(), provider_options={})
    return dict(found)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def _cpu() -> str:
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {usable_cores()} cores"


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(scope="session")
def surroundings(results: Results) -> dict[str, Any]:
    """What a figure depends on besides the code: versions, the processor, the limit, the weights."""
    versions = {name: _version(name) for name in _PACKAGES}
    versions["onnxruntime"] = next((v for name in _RUNTIMES if (v := _version(name))), None)
    return {
        "versions": versions,
        "cpu": _cpu(),
        "memory_limit_bytes": results.memory_limit,
        "weights": "random, seed 0: untrained",
    }


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What `cnnexport compare` knows a machine by."""
    machine_info["cnnexport"] = {"identity": machine.identity(), **machine.facts()}


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Keep the verdicts, and what did not end, with the figures."""
    output_json["extra_info"] = as_json(config.stash[_RESULTS])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash[_RESULTS]
    if found.conversions:
        limit = f"memory limit {found.memory_limit / 2**30:.1f} GiB"
        terminalreporter.section(f"conversions (median time, highest peak; {limit}; untrained weights)")
        for line in conversion_lines(found):
            terminalreporter.write_line(line)
    if found.conversions or found.inference or found.startup:
        terminalreporter.section("targets")
        for line in target_lines(found):
            terminalreporter.write_line(line)
