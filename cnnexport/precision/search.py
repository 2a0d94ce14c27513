"""The int8 file that keeps the budget with the fewest layers in float32, found on images that set no range.

Ranges first: the least and largest numbers, then others; then NNCF, where it is installed, whose biases are corrected.
Where none of them keeps the budget, the parts that add most
noise go back to float32: one, two, four, until it holds, and then as few of those as hold it. Test images are never
seen here, so that the verdict stands on others than those that chose the file.
"""

from __future__ import annotations

import functools
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from cnnexport import memory, runtimes
from cnnexport.bundle.records import LayerFacts
from cnnexport.classifier import Classifier
from cnnexport.errors import UsageError
from cnnexport.precision import by_nncf, int8, measuring
from cnnexport.precision.calibration import Array, Calibration
from cnnexport.precision.int8 import BETWEEN, OUTPUT_ONLY, PRODUCTS, Activations, Made
from cnnexport.precision.layers import Source, noise_added, noises
from cnnexport.precision.ranges import METHODS, Method, Ranges, measure
from cnnexport.precision.verdict import ALLOWED_RMS

Quantizer = Literal["onnxruntime", "nncf"]
LUCK = 2
"""Images more that are answered wrongly than before may be chance, however few there are."""
MOST_BACK = 0.5
"""The share of the parts that may go back: beyond, it is no int8 file any more."""
_SESSIONS, _SECONDS = 2, 1.0
"""Of the comparison of two kinds of activations."""


@dataclass(frozen=True)
class Wanted:
    """What is searched for: the file ``source`` in int8 at ``place``, whose ``layers`` the bundle knows.

    ``keep`` are nodes that stay in float32, and why; ``method``, ``activations`` and ``quantizer`` are
    tried and measured where they are None; without ``budget`` (points of accuracy) the first file is taken as it is.
    """

    source: Path
    place: Path
    layers: Sequence[LayerFacts]
    keep: Mapping[str, str] = field(default_factory=dict)
    method: Method | None = None
    activations: Activations | None = None
    quantizer: Quantizer | None = None
    budget: float | None = 0.5


@dataclass(frozen=True)
class Found:
    """A file that was tried: how it was made, on which ranges, and what it is worth on the images held apart.

    ``rms`` is how far logits are from the float32 file's, in their standard deviations; ``worse`` are the images more
    that are answered wrongly (None without labels), of ``images``.
    """

    file: Path
    made: Made
    method: Method | Literal["nncf"]
    ranges: Ranges
    rms: float
    worse: int | None
    images: int

    def keeps(self, budget: float) -> bool:
        """Whether the file does, as far as these images tell: within half the budget, or within chance."""
        return self.rms <= ALLOWED_RMS["int8"] and (
            self.worse is None or self.worse <= max(LUCK, budget / 200 * self.images))

    @property
    def rank(self) -> tuple[float, float]:
        """Less is better."""
        return (max(self.worse or 0, LUCK) / self.images, self.rms)


Trial: TypeAlias = Callable[[Method | Literal["nncf"], Mapping[str, str]], Found]
"""Makes the file of these ranges with these nodes in float32, for the reasons given, and says what it is worth."""


def find(
    wanted: Wanted, first: Classifier, named: Calibration, scratch: Path, *, threads: int | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Found:
    """The best file for ``wanted``, at its place; ``first`` is the bundle's float32 model.

    Raises as ``int8.write`` and ``ranges.measure``.
    """
    import onnx

    tried = _trial(wanted, first, named, scratch, progress)
    if wanted.quantizer == "nncf":
        best = tried("nncf", wanted.keep)
        shutil.copyfile(best.file, wanted.place)
        return best
    best = tried(wanted.method or "minmax", wanted.keep)
    if wanted.budget is not None:
        if not best.keeps(wanted.budget) and wanted.method is None:
            best = min((best, *(tried(method, wanted.keep) for method in METHODS[1:])), key=lambda f: f.rank)
        if not best.keeps(wanted.budget) and wanted.quantizer is None and by_nncf.installed():
            other = tried("nncf", wanted.keep)
            if other.keeps(wanted.budget):
                shutil.copyfile(other.file, wanted.place)
                return other
        if not best.keeps(wanted.budget):
            best = _fewest_back(wanted, best, onnx.load(wanted.source).graph, named, scratch, tried)
    best = _faster(wanted, best, first, named, scratch, threads, progress)
    shutil.copyfile(best.file, wanted.place)
    return best


def _trial(
    wanted: Wanted, first: Classifier, named: Calibration, scratch: Path, progress: Callable[[str], None]
) -> Trial:
    """What makes a file and asks it; the float32 file's answers and each kind of ranges are measured once."""
    numbers = itertools.count(1)

    @functools.cache
    def ranges(method: Method) -> Ranges:
        progress(f"ranges: {method}")
        return measure(wanted.source, named.batches, scratch, (*PRODUCTS, *BETWEEN), method)

    @functools.cache
    def reference() -> Array:
        return measuring.all_scores(first.answers(pixels) for pixels in named.held.pixels())

    def tried(method: Method | Literal["nncf"], keep: Mapping[str, str]) -> Found:
        memory.give_back()  # what the quantiser and sessions before held
        found, number = {} if method == "nncf" else ranges(method), next(numbers)
        progress(f"file {number}" + (f", {len(keep)} nodes in float32" if keep else ""))
        file = scratch / f"int8.{number}.onnx"
        if method == "nncf":
            made = by_nncf.write(wanted.source, file, named.batches, keep)
        else:
            made = int8.write(wanted.source, file, found, keep, wanted.activations or "uint8")
        if wanted.budget is None:
            return Found(file, made, method, found, 0.0, None, 1)
        second = replace(first, session=runtimes.get(runtimes.DEFAULT).open(file))
        both = measuring.Answers(
            reference(), measuring.all_scores(second.answers(pixels) for pixels in named.held.pixels()))
        worse = None
        if (labels := named.held.labels) is not None:
            worse = int((both.first.argmax(1) == labels).sum() - (both.second.argmax(1) == labels).sum())
        return Found(file, made, method, found, both.distance[0], worse, len(both.first))

    return tried


def _fewest_back(
    wanted: Wanted, best: Found, graph: Any, named: Calibration, scratch: Path, tried: Trial
) -> Found:
    """The file with the fewest of the noisiest parts in float32 that keeps the budget, or the best of those tried."""
    assert wanted.budget is not None
    found = noises(wanted.layers, wanted.source, best.file, named.batches, scratch)
    back = [nodes for part in noise_added(graph, found, PRODUCTS) if (nodes := _nodes(part, best.made, graph))]
    most = int(len(back) * MOST_BACK)

    def with_back(count: int) -> Found | None:
        keep = {**wanted.keep}
        for nodes in back[:count]:
            keep = {**nodes, **keep}
        try:
            return tried(best.method, keep)
        except UsageError:  # no product is left
            return None

    fails, count, holds = 0, 1, None
    while count <= most and holds is None:
        one = with_back(count)
        if one is None:
            break
        best = min(best, one, key=lambda f: f.rank)
        if one.keeps(wanted.budget):
            holds = one
        else:
            fails, count = count, min(2 * count, most) if count < most else most + 1
    while holds is not None and count - fails > 1:
        middle = (fails + count) // 2
        one = with_back(middle)
        if one is not None and one.keeps(wanted.budget):
            holds, count = one, middle
        else:
            fails = middle
    return holds or best


def _nodes(part: Source, made: Made, graph: Any) -> dict[str, str]:
    """The quantised nodes of a part that are to be in float32, and why; none where it holds none."""
    already = _floating(made)
    kinds = {node.name: node.op_type for node in graph.node}
    why = f"put back: {part.layer} added noise of {part.added:.0%} of a channel's signal, the mean of all channels"
    return {name: why for name in (*part.nodes, *part.readers)
            if kinds.get(name) in (*PRODUCTS, *BETWEEN) and name not in already}


def _floating(made: Made) -> dict[str, str]:
    """The nodes of a file that are in float32 as a whole, and why."""
    return {kept.node: kept.reason for kept in made.kept if kept.reason != OUTPUT_ONLY}


def _faster(
    wanted: Wanted, best: Found, first: Classifier, named: Calibration, scratch: Path, threads: int | None,
    progress: Callable[[str], None],
) -> Found:
    """The file with the kind of activations that is faster on this machine, as measured; it is said in its settings."""
    if wanted.activations is not None:
        return best
    progress("uint8 or int8 activations")
    memory.give_back()
    other = scratch / "int8.signed.onnx"
    made = int8.write(wanted.source, other, best.ranges, _floating(best.made), "int8")
    feeds = {name: np.ascontiguousarray(a[:first.batch or 1]) for name, a in next(named.batches()).items()}
    told = measuring.speed(best.file, other, (feeds, feeds), first.batch or 1, threads=threads, sessions=_SESSIONS,
                           seconds=_SECONDS)
    signed = told.speed_up_interval_95[0] > 1
    measured = {"uint8_ms": told.float_ms, "int8_ms": told.variant_ms, "int8_times_as_fast": told.speed_up,
                "interval_95": list(told.speed_up_interval_95)}
    chosen = replace(best, file=other, made=made) if signed else best
    return replace(chosen, made=replace(chosen.made, settings={**chosen.made.settings, "measured": measured}))
