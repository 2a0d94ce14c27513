"""Tensors inside a float32 file and a variant on the same images: how much each layer lost."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnexport.bundle.layer_records import LayerError
from cnnexport.bundle.records import Kept, LayerFacts
from cnnexport.parity.exposed import Exposed
from cnnexport.precision.calibration import Array, Batches

_EXACT = 200.0
"""Decibels of what is the same."""


@dataclass(frozen=True)
class Noise:
    """What a tensor inside a variant is off the float32 file's: mean squares of that and of the difference.

    ``layer`` is the Keras layer that its node is named after. ``share`` is the noise over the signal of a channel,
    the mean of all: one channel of large numbers has most of the signal, and its range drowns the others.
    """

    layer: str
    tensor: str
    signal: float
    noise: float
    share: float

    @property
    def sqnr_db(self) -> float:
        """The ratio of the two in decibels; _EXACT of what is the same."""
        if not self.noise or not self.signal:
            return _EXACT if not self.noise else 0.0
        return min(10 * math.log10(self.signal / self.noise), _EXACT)


def layer_errors(
    layers: Sequence[LayerFacts], source: Path, variant: Path, batches: Batches, scratch: Path,
    kept: Sequence[Kept] = (),
) -> tuple[LayerError, ...]:
    """The signal in the noise of each layer's tensor that both files have, on the first batch, in the layers' order.

    Marked are those with nodes among ``kept`` and no rounded weights.
    """
    import onnx

    floating = _floating(onnx.load(variant), kept, {layer.layer for layer in layers})
    return tuple(LayerError(layer=n.layer, tensor=n.tensor, sqnr_db=n.sqnr_db, kept=n.layer in floating)
                 for n in noises(layers, source, variant, batches, scratch))


def noises(
    layers: Sequence[LayerFacts], source: Path, variant: Path, batches: Batches, scratch: Path
) -> tuple[Noise, ...]:
    """The noise in each layer's tensor that both files have, on the first batch, in the layers' order.

    A layer whose activation is in the ranges of int8 has no tensor of its own there: the activation's stands for it.
    Of those that share a tensor, the one that its node is named after stands for all: ``--keep`` takes its name.
    """
    import onnx

    first, second = onnx.load(source), onnx.load(variant)
    made = {output for node in second.graph.node for output in node.output}
    places = {}
    for layer in layers:
        if layer.tensor:
            restored = f"{layer.tensor}_DequantizeLinear_Output"
            if restored in made or layer.tensor in made:
                places[layer.tensor] = restored if restored in made else layer.tensor
    wanted = next(inside(first, source, batches, scratch, set(places), most=1))
    got = next(inside(second, variant, batches, scratch, set(places.values()), most=1))
    found = {}
    for name, place in places.items():
        if name in wanted and place in got:
            a, b = wanted[name].astype(np.float64), got[place].astype(np.float64)
            found[name] = _mean_squares(a, a - b)
    names = {layer.layer for layer in layers}
    makers = {output: owner(node.name, names) for node in first.graph.node for output in node.output}
    holders = {layer.tensor: makers.get(layer.tensor) or layer.layer for layer in layers if layer.tensor in found}
    return tuple(Noise(layer, str(name), *found[str(name)]) for name, layer in holders.items())


def _mean_squares(signal: Array, noise: Array) -> tuple[float, float, float]:
    """The mean squares of two tensors (batch, channels, ...) and the mean over channels of one over the other."""
    if signal.ndim < 2:
        return float(np.square(signal).mean()), float(np.square(noise).mean()), 0.0
    axes = (0, *range(2, signal.ndim))
    a, b = (np.square(x).mean(axes) for x in (signal, noise))
    share = np.divide(b, a, out=np.zeros_like(a), where=a > 0)
    return float(a.mean()), float(b.mean()), float(np.minimum(share, 1.0).mean())


@dataclass(frozen=True)
class Source:
    """A part of the network that adds noise: the nodes from the tensors before it to its own, and how much.

    ``added`` is noise over signal. ``readers`` are the nodes up to the next products, which must read it in float32
    too: the rounding of a tensor is no less noise than that of the products that make it.
    """

    layer: str
    nodes: tuple[str, ...]
    readers: tuple[str, ...]
    added: float
    sqnr_db: float


def noise_added(graph: Any, found: Sequence[Noise], products: Collection[str]) -> list[Source]:
    """What each part of a float32 ``graph`` adds to the noise of what it reads, the most first.

    ``products`` are the operators that end the way of its readers.
    """
    known = {n.tensor: n for n in found}
    makers = {output: node for node in graph.node for output in node.output}
    parts = []
    for one in found:
        between, before, left = [], [0.0], [one.tensor]
        while left:
            name = left.pop()
            if name in known and name != one.tensor:
                before.append(known[name].share)
            elif (node := makers.get(name)) is not None and node.name not in between:
                between.append(node.name)
                left += node.input
        reading, carries = [], {one.tensor}
        for node in graph.node:  # in topological order
            if carries.intersection(node.input):
                reading.append(node.name)
                carries.update(() if node.op_type in products else node.output)
        parts.append(Source(one.layer, tuple(between), tuple(reading), one.share - max(before), one.sqnr_db))
    return sorted(parts, key=lambda part: -part.added)


def _floating(variant: Any, kept: Sequence[Kept], names: set[str]) -> set[str | None]:
    """The layers of nodes that stayed in float32, without those whose weights were rounded all the same."""
    stored, wanted = {tensor.name for tensor in variant.graph.initializer}, {k.node for k in kept}
    rounded = {output for node in variant.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored
               for output in node.output}
    floating = {owner(n.name, names) for n in variant.graph.node if n.name in wanted}
    return floating - {owner(n.name, names) for n in variant.graph.node if not rounded.isdisjoint(n.input)}


def owner(node: str, layers: Collection[str]) -> str | None:
    """The layer that a node carries the name of, None where it has none's: ``conv1`` of ``conv1/Conv_nchwc``."""
    while node and node not in layers:
        node = node.rpartition("/")[0]
    return node or None


def inside(
    model: Any, file: Path, batches: Batches, scratch: Path, only: set[str] | None = None,
    most: int | None = 2,
) -> Iterator[dict[str, Array]]:
    """All floating-point tensors of a file (or those in ``only``), its inputs too, for the first ``most`` batches."""
    outputs = [v.name for v in model.graph.output]
    names = [o for n in model.graph.node for o in n.output if o and (only is None or o in only)]
    exposed = Exposed(file, outputs, scratch)
    try:
        session, present = exposed.session(names)
        wanted = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
        for index, feeds in enumerate(batches()):
            if index == most:
                return
            given = {name: array.astype(np.float16) if wanted[name] == 10 else array for name, array in feeds.items()}
            found = dict(zip(present, session.run(present, given)))
            found |= {name: array for name, array in feeds.items() if only is None or name in only}
            yield {name: np.asarray(array) for name, array in found.items()
                   if np.issubdtype(np.asarray(array).dtype, np.floating)}
    finally:
        exposed.close()
