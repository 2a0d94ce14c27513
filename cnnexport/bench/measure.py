"""One row: proof of where it runs, cold start, warm-up, and sessions until the interval is narrow enough.

Each session is a process of its own, because where a process' memory lies moves its timings more than chance within
it does. A row is done when its interval meets the goal and the least time was measured, or when the time is up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import to_builtins

from cnnexport import runtimes as registry
from cnnexport.bench import machine, placement
from cnnexport.bench.forks import Fork, RowInterrupted, Stalled, Stop
from cnnexport.bench.options import THROUGHPUT, Goal
from cnnexport.bench.plan import SESSION, Row
from cnnexport.bundle.vectors import FOLDER
from cnnexport.errors import InputError
from cnnexport.results import statistics
from cnnexport.results.evidence import Evidence

SCHEMA = 1
_WARMUP_SHARE, _WARMUP_MOST = 0.25, 3.0
_MOST_RUNS = 200_000
_PROFILE_SECONDS = 0.5

LOAD_DONE = "load test done"
REACHED, OUT_OF_TIME, STALLED, INTERRUPTED = "precision reached", "max-time", "stalled", "interrupted"


@dataclass
class MeasuredSession:
    """What one process measured; ``runs`` holds seconds, of every stream."""

    create_s: float
    first_run_s: float
    warm_up: dict[str, Any]
    runs: statistics.Seconds
    rate: float | None = None
    transfers: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    load: dict[str, Any] | None = None


@dataclass
class Measured:
    """A row's timings and evidence, as far as it came; ``stopped`` says what ended it."""

    row: Row
    goal: Goal
    before: dict[str, Any]
    sessions: list[MeasuredSession] = field(default_factory=list)
    profile: dict[str, Any] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    proof: dict[str, Any] | None = None
    limit: dict[str, Any] | None = None
    stopped: str = ""
    after: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def incomplete(self) -> bool:
        return self.stopped in (STALLED, INTERRUPTED)

    @property
    def data(self) -> list[float]:
        """Seconds of every timed run, session after session."""
        return [float(t) for s in self.sessions for t in s.runs]

    def figure(self) -> statistics.Estimate:
        """What the goal is about: the median of latency (s), or runs per second."""
        if self.row.scenario == THROUGHPUT:
            return statistics.mean_of([s.rate for s in self.sessions if s.rate is not None])
        return statistics.percentile([s.runs for s in self.sessions if len(s.runs)], 50)

    def extra_info(self) -> dict[str, Any]:
        """Everything but the timings, as JSON values: the ``extra_info`` of a pytest-benchmark row."""
        row, subject = self.row, self.row.subject
        runs = [s.runs for s in self.sessions if len(s.runs)]
        figure = self.figure()
        macs = subject.macs(row.batch)
        rates = [s.rate if s.rate is not None else len(s.runs) / float(s.runs.sum()) for s in self.sessions
                 if len(s.runs)]
        throughput = statistics.mean_of([rate * row.batch for rate in rates])
        made: dict[str, Any] = to_builtins(Evidence(
            cnnexport=SCHEMA,
            scenario=row.scenario, name=row.label or subject.name, runtime=row.runtime,
            contender=row.contender,
            target=subject.path, file_sha256=subject.sha256, external_sha256=subject.external,
            verified=subject.verified, parity=subject.parity or "unverified",
            untrained=subject.untrained, proof=self.proof,
            batch=row.batch, threads=row.threads, concurrency=row.concurrency,
            inputs=subject.specs(row.batch), assumed=[a for i in subject.inputs for a in i.assumed],
            provider=row.provider, provider_options_asked=dict(row.provider_options), session=self.facts,
            placement={"providers": self.profile.get("providers", {}), "elsewhere": self.elsewhere,
                       "nodes": {n["name"]: n["provider"] for n in self.profile.get("nodes", ())},
                       "runs_profiled": self.profile.get("runs")},
            operators=self.profile.get("operators", []),
            percentiles={f"p{p}": statistics.percentile(runs, p).to_dict() for p in statistics.PERCENTILES},
            throughput={"unit": "images/s", **throughput.to_dict()},
            precision={"goal": self.goal.precision, "reached": figure.half_width,
                       "met": figure.half_width is not None and figure.half_width <= self.goal.precision,
                       "confidence": statistics.CONFIDENCE, "min_time_s": self.goal.min_time,
                       "max_time_s": self.goal.max_time},
            stopped=self.stopped, incomplete=self.incomplete,
            sessions=[{"runs": len(s.runs), "median_s": float(np.median(s.runs)) if len(s.runs) else None,
                       "runs_per_s": s.rate} for s in self.sessions],
            cold_start={"create_s": [s.create_s for s in self.sessions],
                        "first_run_s": [s.first_run_s for s in self.sessions]},
            warm_up=[s.warm_up for s in self.sessions],
            outliers=statistics.outliers(np.concatenate(runs)) if runs else None,
            transfers=self._transfers(),
            limit=self._share(macs, throughput.value),
            machine={"identity": machine.identity(), **machine.facts(), "before": self.before,
                     "after": self.after},
            seconds=self.seconds,
            loadgen=next((s.load for s in self.sessions if s.load), None)))
        return made

    def _transfers(self) -> dict[str, Any] | None:
        """Medians of the copies to the device and back; None where nothing is copied."""
        names = {name for s in self.sessions for name in s.transfers}
        made = {name: statistics.percentile([np.array(s.transfers.get(name, [])) for s in self.sessions], 50).to_dict()
                for name in sorted(names)}
        return made or None

    def _share(self, macs: int | None, images_per_second: float | None) -> dict[str, Any]:
        """The row's multiply-adds against the machine's own limit."""
        found: dict[str, Any] = {"macs": macs, "machine": self.limit, "flops": None, "share": None,
                                 "traffic_bytes": self.profile.get("traffic_bytes")}
        if macs and images_per_second:
            found["flops"] = 2 * macs / self.row.batch * images_per_second
            if self.limit:
                found["share"] = found["flops"] / self.limit["flops"]
        return found


def measure(
    row: Row,
    goal: Goal,
    stop: Stop,
    *,
    limit: dict[str, Any] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Measure ``row``; ``limit`` is the machine's (``limits.measure``), kept with it.

    The gate asked ONNX Runtime alone: whatever else runs a bundle must give Keras' stored outputs before it is timed.

    Raises:
        ParityError: it does not.
        InputError: a file that does not run, or not once within the time.
        ProviderError: a provider that cannot be had, or that runs less than the whole graph.
        BundleError: a file that changed while it was measured.
        RowInterrupted: stopped before anything was timed.
    """
    begin = time.monotonic()
    deadline = begin + goal.max_time
    made = Measured(row, goal, machine.state(), limit=limit)
    try:
        if row.runner == SESSION:
            _prove(made, stop, deadline, tell)
        while not made.stopped:
            _session(made, stop, deadline, tell)
            _decide(made, deadline)
    except Stalled as stalled:
        made.stopped = STALLED
        if not made.data:
            raise InputError(f"not one timed run ended within --max-time {goal.max_time:g} s (stopped while: {stalled})"
                             "; give more time, or a smaller --batch") from None
    except RowInterrupted:
        made.stopped = INTERRUPTED
        if not made.data:
            raise
    made.seconds = time.monotonic() - begin
    made.after = machine.state()
    row.subject.check_unchanged()
    return made


def _prove(made: Measured, stop: Stop, deadline: float, tell: Callable[[str], None]) -> None:
    """Where the nodes run, from a session of its own: profiling slows the one it watches."""
    row = made.row
    tell("profile")
    with Fork(stop) as fork:
        left = deadline - time.monotonic()
        made.profile = fork.ask("profile", deadline, options=row.request(), limit=min(_PROFILE_SECONDS, left / 10))
    made.facts = made.profile.pop("facts")
    if not made.profile["nodes"]:
        raise InputError(f"{row.subject.path} runs no node once its constants are folded, so there is nothing to time")
    made.elsewhere = placement.judge(made.profile, row.provider, row.subject.path, allow_partial=row.allow_partial,
                                     runtime=row.runtime)


def _stored(row: Row) -> dict[str, Any] | None:
    """Where Keras' stored answers lie, and what may be off them; None where the gate proved this very thing, or none.
    """
    if (row.runner, row.runtime) == (SESSION, registry.DEFAULT):
        return None
    folder = str(Path(row.subject.file).with_name(FOLDER))
    if row.subject.stored_rms is not None:
        return {"folder": folder, "judged": row.subject.stored_rms}
    return None if row.subject.stored is None else {"folder": folder, "allowed": asdict(row.subject.stored)}


def _session(made: Measured, stop: Stop, deadline: float, tell: Callable[[str], None]) -> None:
    """One more process: create, first run, warm-up, timed runs. What was timed is kept however it ends."""
    row, goal = made.row, made.goal
    start = time.monotonic()
    tell(f"session {len(made.sessions) + 1}")
    with Fork(stop) as fork:
        timing = False
        session = MeasuredSession(0.0, 0.0, {}, np.empty(0))
        try:
            session.create_s = fork.ask("open", deadline, runner=row.runner, options=row.request())["create_s"]
            first = fork.ask("first_run", deadline)
            session.first_run_s, made.facts = first["first_run_s"], first["facts"]
            if made.proof is None and (vectors := _stored(row)) is not None:
                made.proof = fork.ask("check", deadline, vectors=vectors)
            left = deadline - time.monotonic()
            session.warm_up = fork.ask("warm_up", deadline, cap=min(_WARMUP_MOST, max(left, 0) * _WARMUP_SHARE))
            run = session.warm_up["window_medians_s"][-1]
            left = deadline - time.monotonic()
            least = 6
            wanted = max(goal.min_time / goal.sessions, least * run)
            # The last run must end before the deadline too.
            seconds = min(wanted, left - 1.5 * run - 0.1)
            if seconds <= 0 and made.data:
                made.stopped = OUT_OF_TIME
                return
            timing = True
            if "latency_bound" in row.options:
                left -= 1.5 * run * row.concurrency
                session.load = fork.ask(
                    "loadgen", deadline, scenario=row.scenario, batch=row.batch, streams=row.concurrency,
                    seconds=max(min(2 * goal.min_time, left / 3), 0.1), bound=row.options["latency_bound"],
                    run_seconds=run, left=left)
                session.rate = session.load["per_second"]
                made.stopped = LOAD_DONE
            elif row.scenario == THROUGHPUT:
                wanted = max(goal.min_time / goal.sessions, least * run * row.concurrency)
                seconds = min(wanted, left - 1.5 * run * row.concurrency - 0.1)
                done = fork.ask("streams", deadline, concurrency=row.concurrency, seconds=max(seconds, 0.0), least=1)
                session.rate = done["per_second"]
            else:
                fork.ask("latency", deadline, seconds=max(seconds, 0.0), least=1, most=_MOST_RUNS)
            if row.provider == "cuda":
                session.transfers = fork.ask("transfers", deadline, seconds=0.1)
        finally:
            if timing:
                runs = fork.times(row.concurrency if row.scenario == THROUGHPUT else 1)
                session.runs = np.concatenate(runs)
                session.seconds = time.monotonic() - start
                if len(session.runs):
                    made.sessions.append(session)


def _decide(made: Measured, deadline: float) -> None:
    """Say whether the row is done, and why."""
    if made.stopped:
        return
    goal = made.goal
    timed = sum(float(s.runs.sum()) for s in made.sessions) / max(made.row.concurrency, 1)
    width = made.figure().half_width
    if (len(made.sessions) >= goal.sessions and timed >= 0.95 * goal.min_time and width is not None
            and width <= goal.precision):
        made.stopped = REACHED
    elif time.monotonic() + max(s.seconds for s in made.sessions[-3:]) > deadline:
        made.stopped = OUT_OF_TIME


def record(benchmark: Any, made: Measured) -> None:
    """Give a measured row to pytest-benchmark's ``benchmark`` fixture, which must have ``clock`` as its timer."""
    from cnnexport.bench.replay import replay

    data = made.data
    benchmark.pedantic(replay(data), rounds=len(data), iterations=1, warmup_rounds=0)
    benchmark.extra_info.update(made.extra_info())


def figures(sessions: Sequence[Sequence[float]], percent: float) -> statistics.Estimate:
    """A percentile of stored timings, session by session."""
    return statistics.percentile([np.asarray(s) for s in sessions], percent)
