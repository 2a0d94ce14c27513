"""Both models on the same images, and in turn on the clock."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnexport import runtimes
from cnnexport.bundle.records import Fidelity, PairedAccuracy, SpeedFacts
from cnnexport.classifier import Classifier
from cnnexport.data import Dataset, Split
from cnnexport.parity.stored import distance, scores
from cnnexport.precision import paired
from cnnexport.precision.calibration import Array
from cnnexport.results.statistics import percentile
from cnnexport.training.measures import interval

SESSIONS, ROUNDS, SECONDS = 5, 30, 5.0
"""Pairs of sessions, rounds of each, and the seconds that all may take."""


@dataclass(frozen=True)
class Answers:
    """The logits of both models for the same images, (N, classes); of probabilities, their logarithms."""

    first: Array
    second: Array

    @property
    def distance(self) -> tuple[float, float]:
        """How far apart they are, in standard deviations of the first's: root mean square, and largest."""
        return distance(self.first, self.second)


def answers(
    first: Classifier, second: Classifier, batches: Iterable[Array], say: Callable[[int], None] = lambda done: None
) -> Answers:
    """Ask both models for each batch (N, height, width, channels)."""
    found: tuple[list[Array], list[Array]] = ([], [])
    done = 0
    for pixels in batches:
        for rows, model in zip(found, (first, second)):
            rows.append(model.answers(pixels))
        done += len(pixels)
        say(done)
    return Answers(*map(all_scores, found))


def all_scores(batches: Iterable[Array]) -> Array:
    """The scores behind a model's answers to batches, as one array."""
    return np.concatenate([scores(rows) for rows in batches])


def fidelity(both: Answers, source: str, allowed: float) -> Fidelity:
    """How near the second model's answers are to the first's."""
    rms, most = both.distance
    same = int((both.first.argmax(1) == both.second.argmax(1)).sum())
    low, high = interval(same, len(both.first))
    return Fidelity(images=len(both.first), source=source, top_1_agreement=same / len(both.first),
                    agreement_interval_95=(low, high), logits_rms=rms, logits_max=most, allowed_rms=allowed)


def accuracy(both: Answers, labels: Array, found: Dataset, part: Split, max_drop: float) -> PairedAccuracy:
    """What the second model loses against the first on labelled images; ``labels`` count classes as the models do."""
    first, second = both.first.argmax(1), both.second.argmax(1)
    right, still = first == labels, second == labels
    lost, gained, images = int((right & ~still).sum()), int((~right & still).sum()), len(labels)
    low, high = paired.interval(lost, gained, images)
    names = Counter(found.class_names[int(i)] for i in part.labels[first != second])
    return PairedAccuracy(
        data=found.name, data_sha256=found.sha256, images=images, float_correct=int(right.sum()),
        correct=int(still.sum()), only_float_correct=lost, only_variant_correct=gained,
        drop_points=100 * (lost - gained) / images, drop_interval_95=(100 * low, 100 * high),
        p_value=paired.p_value(lost, gained), agreement=float((first == second).mean()),
        flips=dict(sorted(names.items())), max_drop=max_drop,
        images_needed=paired.images_needed(lost, gained, images, max_drop / 100))


def speed(
    first: Path, second: Path, feeds: tuple[dict[str, Array], dict[str, Array]], batch: int, *,
    threads: int | None = None, sessions: int = SESSIONS, seconds: float = SECONDS,
) -> SpeedFacts:
    """Time two files in turn in this process: each round runs one, then the other, and the next the other way round.

    On one thread unless told otherwise: idle threads of one session's pool go on spinning, at the other's expense.
    """
    threads = threads or 1
    engine = runtimes.get(runtimes.DEFAULT)
    ratios: list[Array] = []
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(sessions):
        runs = []
        for file, given in zip((first, second), feeds):
            run = engine.open(file, threads=threads).bind(given)
            run.first_run()
            runs.append(run.stream())
        once = min(_timed(run, 1) for run in runs for _ in range(3))
        repeats = max(1, round(1e-3 / max(once, 1e-7)))  # a round is a millisecond or more
        end = time.perf_counter() + seconds / sessions
        found: list[float] = []
        while len(found) < ROUNDS and (len(found) < 6 or time.perf_counter() < end):
            order = (0, 1) if len(found) % 2 else (1, 0)
            took = {i: _timed(runs[i], repeats) for i in order}
            found.append(took[0] / took[1])
            for i in order:
                times[i].append(took[i])
        ratios.append(np.asarray(found, np.float64))
    told = percentile(ratios, 50)
    assert told.value is not None and told.low is not None and told.high is not None  # 18 rounds or more
    return SpeedFacts(
        runtime=engine.title, batch=batch, threads=threads, sessions=sessions, rounds=sum(map(len, ratios)),
        float_ms=1e3 * float(np.median(times[0])), variant_ms=1e3 * float(np.median(times[1])), speed_up=told.value,
        speed_up_interval_95=(told.low, told.high))


def _timed(run: Callable[[], None], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats
