"""Rows run by pytest-benchmark: machine info, statistics and JSON are its own; evidence goes to ``extra_info``.

pytest runs in this process on ``rows_test.py`` alone. No configuration, plugin or variable of whoever's folder the
command is called in reaches it.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnexport import distribution, files, supervision
from cnnexport.bench import machine, measure
from cnnexport.bench.forks import Fork, RowInterrupted, Stop
from cnnexport.bench.options import LATENCY, THROUGHPUT, BenchOptions, Goal
from cnnexport.bench.plan import Row
from cnnexport.bench.replay import MEASURING
from cnnexport.errors import CnnexportError

_ROWS = Path(__file__).with_name("rows_test.py")
_LIMIT_SECONDS = 60.0
LOAD = "load"


def _kind(row: Row) -> str:
    """Which function of ``rows_test`` a row is for."""
    return row.scenario if row.scenario in (LATENCY, THROUGHPUT) else LOAD


def _id(row: Row) -> str:
    return row.id if _kind(row) != LOAD else f"{row.scenario}-{row.id}"


@dataclass
class SuiteOutcome:
    """The document of a run (pytest-benchmark's JSON; None where no row came to be), and what failed, by row."""

    document: dict[str, Any] | None = None
    failures: list[tuple[str, CnnexportError]] = field(default_factory=list)
    interrupted: bool = False
    pending: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self.document["benchmarks"]) if self.document else []


def run(
    rows: Sequence[Row],
    goal: Goal,
    options: BenchOptions | None = None,
    *,
    save: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    limits: bool = True,
) -> SuiteOutcome:
    """Measure ``rows`` and return what came of it; ``save`` is written whole after each row, with the ``options``.

    A row that fails does not stop the others. SIGINT or SIGTERM ends the row under way, keeps what it has, and
    leaves the rest.

    Raises:
        OutputError: ``save`` cannot be written.
    """
    import pytest

    distribution.require(distribution.BENCH)
    if save is not None:
        files.check_writable(save)
    outcome = SuiteOutcome()
    stop = Stop()
    plugin = _Plugin(rows, goal, options, outcome, save, tell, stop, limits)
    printed = io.StringIO()
    try:
        with (tempfile.TemporaryDirectory(prefix="cnnexport-") as storage, _own_surroundings(), _signals(stop),
              contextlib.redirect_stdout(printed)):
            code = pytest.main(
                [str(_ROWS), "-c", os.devnull, "--rootdir", str(_ROWS.parent), "-p", "no:cacheprovider",
                 "-p", "pytest_benchmark.plugin", "-p", "no:unraisableexception", "-p", "no:threadexception",
                 "--noconftest", "--capture=no", "--benchmark-quiet", "-q", "-q", "--assert=plain",
                 "-W", "ignore", f"--benchmark-storage=file://{storage}", "--import-mode=importlib",
                 "-o", "python_files=rows_test.py"],
                plugins=[plugin])
    finally:
        stop.close()
    if plugin.error is not None:
        raise plugin.error
    # 0 all passed, 1 some failed, 2 interrupted, 5 none collected: ours are told apart in the outcome.
    if int(code) not in (0, 2) and not outcome.interrupted:
        raise RuntimeError(f"pytest ended with {code}: {printed.getvalue()[-2000:]}")
    return outcome


class _Plugin:
    """What pytest is told: the rows, how to measure one, and where the document goes."""

    def __init__(self, rows: Sequence[Row], goal: Goal, options: BenchOptions | None, outcome: SuiteOutcome,
                 save: Path | None, tell: Callable[[str], None], stop: Stop, limits: bool) -> None:
        self.options = options.to_dict() if options else None
        self.rows = {f"{_kind(row)} {_id(row)}": row for row in rows}
        self.goal, self.outcome, self.save, self.tell, self.stop = goal, outcome, save, tell, stop
        self.error: BaseException | None = None
        self._with_limits = limits
        self._limits: dict[tuple[Any, ...], dict[str, Any] | None] = {}
        self._machine: Any = None
        self._commit: Any = None
        self._done: set[str] = set()

    def pytest_configure(self, config: Any) -> None:
        config.stash[MEASURING] = self.measuring

    def pytest_generate_tests(self, metafunc: Any) -> None:
        for kind in (LATENCY, THROUGHPUT, LOAD):
            if kind in metafunc.fixturenames:
                ids = [_id(row) for row in self.rows.values() if _kind(row) == kind]
                metafunc.parametrize(kind, ids, ids=ids)

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        items[:] = [item for item in items if "NOTSET" not in item.name]

    def pytest_benchmark_update_machine_info(self, config: Any, machine_info: dict[str, Any]) -> None:
        machine_info["cnnexport"] = {"identity": machine.identity(), **machine.facts()}

    def measuring(self, benchmark: Any, scenario: str, name: str, config: Any) -> None:
        """Measure one row into ``benchmark``, or skip it and keep the reason."""
        import pytest

        row = self.rows[f"{scenario} {name}"]
        if self.stop.requested:
            pytest.skip("interrupted")
        try:
            limit = self._limit(row)
            self.tell(f"{scenario} {name}")
            made = measure.measure(row, self.goal, self.stop, limit=limit)
        except RowInterrupted:
            pytest.skip("interrupted")
        except CnnexportError as error:
            self.outcome.failures.append((f"{scenario} {name}", error))
            pytest.skip(str(error))
        except Exception as error:
            self.error = error
            raise pytest.exit.Exception("broken", 2) from error
        measure.record(benchmark, made)
        self._done.add(f"{scenario} {name}")
        self._write(config)

    def _limit(self, row: Row) -> dict[str, Any] | None:
        """The machine's limit on the row's provider, threads and options; measured once each."""
        key = (row.provider, row.threads, row.provider_options)
        if self._with_limits and key not in self._limits:
            import time

            self.tell("limit of the machine")
            with Fork(self.stop) as fork:
                try:
                    self._limits[key] = fork.ask(
                        "limits", time.monotonic() + _LIMIT_SECONDS, provider=row.provider,
                        threads=row.threads or None, provider_options=dict(row.provider_options))
                except RowInterrupted:
                    raise
                except CnnexportError:
                    if row.provider != "cpu":
                        raise
                    self._limits[key] = None
                except Exception:
                    self._limits[key] = None
        return self._limits.get(key)

    def _write(self, config: Any) -> None:
        session = config._benchmarksession
        if self._machine is None:
            self._machine = session.get_machine_info()
            self._commit = config.hook.pytest_benchmark_generate_commit_info(config=config)
        document = config.hook.pytest_benchmark_generate_json(
            config=config, benchmarks=session.benchmarks, include_data=True, machine_info=self._machine,
            commit_info=self._commit)
        self.outcome.pending = [key for key in self.rows if key not in self._done]
        document["cnnexport"] = {
            "schema": measure.SCHEMA, "options": self.options,
            "incomplete": bool(self.outcome.pending) or any(
                b["extra_info"]["incomplete"] for b in document["benchmarks"]),
            "not_measured": self.outcome.pending,
            "failures": [{"row": name, "error": str(e), "exit_code": e.exit_code}
                         for name, e in self.outcome.failures]}
        self.outcome.document = document
        if self.save is not None:
            files.write_text(self.save, dumps(document))

    def pytest_sessionfinish(self, session: Any) -> None:
        self.outcome.interrupted = self.stop.requested
        benchmarks = getattr(session.config, "_benchmarksession", None)
        if benchmarks is not None and benchmarks.benchmarks:
            self._write(session.config)
        self.outcome.pending = [key for key in self.rows if key not in self._done]


@contextlib.contextmanager
def _own_surroundings() -> Iterator[None]:
    """pytest without what the environment would add to it, and with standard library plugins alone."""
    # Called from a worker of pytest-xdist, pytest-benchmark would measure nothing.
    strange = [name for name in os.environ if name.startswith("PYTEST_XDIST_")]
    held = {name: os.environ.pop(name, None) for name in (
        "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_CURRENT_TEST", *strange)}
    held["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        for name, value in held.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """SIGINT and SIGTERM ask to stop; a second one leaves at once."""

    def handler(number: int, frame: Any) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        supervision.heard()
        stop.request(number)

    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # not the main thread
            previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def dumps(document: dict[str, Any]) -> str:
    """The document as pytest-benchmark writes JSON, but on one line: timings are many."""
    from pytest_benchmark.utils import safe_dumps

    dump: Callable[..., str] = safe_dumps
    return dump(document, ensure_ascii=True) + "\n"
