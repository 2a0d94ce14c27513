"""What is asked of a measurement: checked once, kept with the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cnnexport import runtimes as registry
from cnnexport.errors import UsageError

LATENCY, THROUGHPUT, BOTH = "latency", "throughput", "both"
LOAD_SCENARIOS = ("server", "offline", "single-stream", "multi-stream")
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Goal:
    """When a row is done: at ``precision`` (relative half-width of the 95 % interval), or after ``max_time`` seconds.

    ``sessions`` is the least number of sessions, each a fresh process; ``min_time`` seconds are timed in all.
    """

    min_time: float = 1.0
    max_time: float = 30.0
    precision: float = 0.02
    sessions: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.min_time < float("inf") or not 0 < self.max_time < float("inf"):
            raise UsageError("--min-time and --max-time are seconds above 0")
        if self.min_time > self.max_time:
            raise UsageError(f"--min-time {self.min_time:g} is above --max-time {self.max_time:g}; lower it, or raise "
                             "the other")
        if not 0 < self.precision < 1:
            raise UsageError("--precision-goal is a share between 0 and 100 %, such as 2%")


@dataclass(frozen=True)
class BenchOptions:
    """What is asked of ``bench``.

    A runtime that has none of ``providers`` runs on its default. ``batches``, ``threads`` (intra-op) and
    ``concurrency`` (streams at once on one session) None: what suits the file, the machine and the ``scenario``.
    ``min_time``, ``max_time`` and ``latency_bound`` (of a server's p99) are seconds, ``precision`` a share. ``shapes``
    fixes open dimensions by input name ("" for the only input); ``cuda_options`` are those of ONNX Runtime's CUDA
    provider, each with the values to sweep; ``allow_partial`` times a graph of which the provider runs only a part.
    """

    providers: tuple[str, ...] = ("cpu",)
    runtimes: tuple[str, ...] = (registry.DEFAULT,)
    batches: tuple[int, ...] | None = None
    threads: tuple[int, ...] | None = None
    scenario: str = LATENCY
    concurrency: tuple[int, ...] | None = None
    tune: bool = False
    min_time: float = Goal.min_time
    max_time: float = Goal.max_time
    precision: float = Goal.precision
    latency_bound: float = 0.1
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    cuda_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    allow_partial: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError for values that none of their kind has, or that do not go together."""
        if self.scenario not in (LATENCY, THROUGHPUT, BOTH, *LOAD_SCENARIOS):
            raise UsageError(f"scenario '{self.scenario}' is unknown; choose one of "
                             f"{', '.join((LATENCY, THROUGHPUT, BOTH, *LOAD_SCENARIOS))}")
        if self.tune and self.scenario != THROUGHPUT:
            raise UsageError("--tune searches for throughput: give --scenario throughput too")
        if self.concurrency and self.scenario == LATENCY:
            raise UsageError("--concurrency is of --scenario throughput (or both): latency is that of one stream")
        if any(t < 1 or t > _MOST_THREADS for t in self.threads or ()):
            raise UsageError(f"--threads is between 1 and {_MOST_THREADS}")
        if self.cuda_options and "cuda" not in self.providers:
            raise UsageError("--cuda-option needs --provider cuda")
        Goal(self.min_time, self.max_time, self.precision)  # it checks these

    @property
    def goal(self) -> Goal:
        """When a row is done."""
        return Goal(self.min_time, self.max_time, self.precision)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values, as the saved results hold them."""
        return {**asdict(self), "shapes": {name: list(shape) for name, shape in self.shapes.items()},
                "cuda_options": {name: list(values) for name, values in self.cuda_options.items()}}
