"""What is to be measured: rows. Plain values, checked before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cnnexport import runtimes as registry
from cnnexport.bench import machine
from cnnexport.bench.options import BOTH, LATENCY, THROUGHPUT, BenchOptions
from cnnexport.bench.subjects import Subject
from cnnexport.bundle.opening import parted

SESSION = "cnnexport.bench.session:TimedSession"
"""What runs a file in a runtime, as the worker opens it."""
CUDA_SHORT = {"tf32": "use_tf32", "nhwc": "prefer_nhwc", "conv_algo_search": "cudnn_conv_algo_search",
              "cuda_graph": "enable_cuda_graph"}


@dataclass(frozen=True)
class Row:
    """One line of the results. ``runner`` names what runs the file: ``runtime`` unless a benchmark brings a peer.

    ``contender`` is what the results call that.
    """

    subject: Subject
    scenario: str
    provider: str = "cpu"
    batch: int = 1
    threads: int = 0
    concurrency: int = 1
    provider_options: tuple[tuple[str, str], ...] = ()
    allow_partial: bool = False
    runtime: str = registry.DEFAULT
    runner: str = SESSION
    contender: str = "onnxruntime"
    label: str = ""
    options: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def id(self) -> str:
        """What tells this row from others, in one word."""
        parts = [self.label or self.subject.name, self.provider, f"b{self.batch}", f"t{self.threads}"]
        if self.runtime != registry.DEFAULT:
            parts.insert(1, self.runtime)
        if self.scenario != LATENCY:
            parts.append(f"c{self.concurrency}")
        parts += [f"{key}={value}" for key, value in self.provider_options]
        return "-".join(parts)

    def request(self) -> dict[str, Any]:
        """The options of the session, as the worker takes them."""
        return {"runtime": self.runtime, "file": self.subject.file, "provider": self.provider,
                "threads": self.threads or None, "concurrency": self.concurrency,
                "provider_options": dict(self.provider_options), "inputs": self.subject.specs(self.batch), "seed": 0,
                **self.options}


def default_threads() -> int:
    """The cores that may be used: of the affinity, and no more than the control group allows."""
    allowed = machine.cgroup_limits()["cpu_cores"]
    cores = machine.usable_cores()
    return cores if allowed is None else max(1, min(cores, round(allowed)))


def rows(subjects: Sequence[Subject], options: BenchOptions | None = None, **asked: Any) -> list[Row]:
    """Every combination asked for; ``asked`` are fields of ``BenchOptions`` in place of those of ``options``.

    Rows of one network and setting follow each other, runtime by runtime: a host drifts, and they are to be compared.
    Raises UsageError for a bad value, a runtime that is not there, or a batch that a file cannot run at.
    """
    options = replace(options or BenchOptions(), **asked)
    places: dict[str, list[str]] = {}
    for runtime, provider in registry.chosen(options.runtimes, options.providers):
        places.setdefault(provider, []).append(runtime.name)
    settings = [tuple(zip(map(_cuda_key, options.cuda_options), values))
                for values in itertools.product(*options.cuda_options.values())]
    labels = labels_of(subjects)
    made = []
    kinds = (LATENCY, THROUGHPUT) if options.scenario == BOTH else (options.scenario,)
    for (subject, label), kind, provider in itertools.product(zip(subjects, labels), kinds, places):
        sweep = subject.batches(options.batches, (1,) if kind == LATENCY else (1, 8, 32))
        counts = dict.fromkeys(options.threads or (default_threads(),))
        streams = (1,) if kind == LATENCY else tuple(dict.fromkeys(options.concurrency or (1, 2)))
        for batch, count, stream, name in itertools.product(
                dict.fromkeys(sweep), counts, streams, places[provider]):
            for setting in settings if (name, provider) == ("ort", "cuda") else [()]:
                if stream > 1 and dict(setting).get("enable_cuda_graph") in ("1", "true"):
                    continue  # a captured graph has one set of buffers
                made.append(Row(subject, kind, provider, batch, count, stream, setting, options.allow_partial,
                                runtime=name, contender=registry.saved_as(name), label=label))
    return made


def _cuda_key(key: str) -> str:
    return CUDA_SHORT.get(key, key)


def labels_of(subjects: Sequence[Subject]) -> list[str]:
    """A name for each subject, its path or a number besides where two are called the same."""
    bundles: dict[str, set[str]] = {}
    for subject in subjects:
        bundles.setdefault(_first(subject), set()).add(str(parted(subject.path)[0]))
    names = [s.name for s in subjects]
    made: list[str] = []
    for subject, name in zip(subjects, names):
        alone = names.count(name) == 1 and len(bundles[_first(subject)]) == 1
        label = name if alone else subject.path.strip("/.").replace("/", ".")
        again = sum(m == label or m.removeprefix(f"{label}#").isdigit() for m in made)
        made.append(f"{label}#{again + 1}" if again else label)
    return made


def _first(subject: Subject) -> str:
    """What the first model of a subject's bundle is called."""
    return subject.name.rpartition("#")[0] if (subject.parity or {}).get("verdict") else subject.name
