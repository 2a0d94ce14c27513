"""Tensors inside a float32 file and a variant on the same images: how much each layer lost."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnexport.bundle.layer_records import LayerError
from cnnexport.bundle.records import Kept, LayerFacts
from cnnexport.parity.exposed import Exposed
from cnnexport.precision.calibration import Array, Batches

_EXACT = 200.0
"""Decibels of what is the same."""


def layer_errors(
    layers: Sequence[LayerFacts], source: Path, variant: Path, batches: Batches, scratch: Path,
    kept: Sequence[Kept] = (),
) -> tuple[LayerError, ...]:
    """The signal in the noise of each layer's tensor that both files have, on the first batch, in the layers' order.

    A layer whose activation is in the ranges of int8 has no tensor of its own there: the activation's stands for it.
    Of those that share a tensor, the one that its node is named after stands for all: ``--keep`` takes its name. Marked
    are those with nodes among ``kept`` and no rounded weights.
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
    ratios = {name: _decibels(wanted[name], got[place]) for name, place in places.items()
              if name in wanted and place in got}
    names = {layer.layer for layer in layers}
    makers = {output: owner(node.name, names) for node in first.graph.node for output in node.output}
    holders = {layer.tensor: makers.get(layer.tensor) or layer.layer for layer in layers if layer.tensor in ratios}
    floating = _floating(second, kept, names)
    return tuple(LayerError(layer=layer, tensor=str(name), sqnr_db=ratios[str(name)], kept=layer in floating)
                 for name, layer in holders.items())


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


def _decibels(wanted: Array, got: Array) -> float:
    noise = float(np.square(wanted.astype(np.float64) - got.astype(np.float64)).sum())
    signal = float(np.square(wanted, dtype=np.float64).sum())
    if not noise or not signal:
        return _EXACT if not noise else 0.0
    return min(10 * math.log10(signal / noise), _EXACT)


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
