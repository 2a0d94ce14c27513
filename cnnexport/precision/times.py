"""How long each layer takes in both files: ONNX Runtime's profile, whose nodes are given to layers by their names.

A runtime joins nodes, and not the same ones in both files: an activation runs in the convolution before it, a sum in
the later of its convolutions. A layer that has no node of its own in one of the files is therefore counted, in both,
with the product that it follows; what else has no layer's name (a reordering, the first quantisation) is told apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnexport import runtimes
from cnnexport.bundle.layer_records import LayerError, LayerTime, LayerTimes
from cnnexport.bundle.records import LayerFacts
from cnnexport.precision.calibration import Array
from cnnexport.precision.int8 import PRODUCTS
from cnnexport.precision.layers import owner

SESSIONS, SECONDS = 3, 0.3
"""Profiled sessions of each file in turn, and the seconds that the runs of one may take."""
_FEWEST, _MOST = 4, 50
_ROUNDED = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger")
_ADDED = "InsertedPrecisionFreeCast_"
"""What ONNX Runtime puts before the name of a node of fp16 that it runs in float32."""


def layer_times(
    layers: Sequence[LayerFacts], source: Path, variant: Path, feeds: tuple[dict[str, Array], dict[str, Array]],
    batch: int, *, threads: int | None, run_ms: float,
) -> LayerTimes | None:
    """The time of each layer in the two files, in the layers' order; None where the bundle does not name its layers.

    A run of the first takes about ``run_ms``.
    """
    import onnx

    names = {layer.layer: None for layer in layers}
    nodes = list(onnx.load(source, load_external_data=False).graph.node)
    if not any(owner(node.name, names) for node in nodes):
        return None
    engine, threads = runtimes.get(runtimes.DEFAULT), threads or 1
    runs = int(np.clip(1e3 * SECONDS / max(run_ms, 1e-3), _FEWEST, _MOST))
    found: list[list[_Run]] = [[], []]
    for _ in range(SESSIONS):
        for kept, file, given in zip(found, (source, variant), feeds):
            profiled = engine.open(file, threads=threads, profiled=True)
            kept.append(_by_layer(profiled.placement(given, runs=runs + 1)["nodes"], names))
    first, second = ({layer: float(np.median([one.milliseconds.get(layer, 0.0) for one in sessions]))
                      for layer in sessions[0].milliseconds} for sessions in found)
    order = list(names)
    rows = sorted(_rows(nodes, names, found[0][0], found[1][0]).items(), key=lambda row: order.index(row[0]))
    made = [LayerTime(layer=head, within=tuple(n for n in members if n != head),
                      float_ms=sum(first.get(n, 0.0) for n in members),
                      variant_ms=sum(second.get(n, 0.0) for n in members),
                      operators=tuple(o for n in members for o in found[1][0].operators.get(n, ())))
            for head, members in rows]
    return LayerTimes(
        runtime=engine.title, batch=batch, threads=threads, sessions=SESSIONS, runs=runs,
        layers=tuple(row for row in made if row.float_ms or row.variant_ms), other_float_ms=first.get(None, 0.0),
        other_variant_ms=second.get(None, 0.0))


def undone(errors: Sequence[LayerError], times: LayerTimes | None) -> tuple[str, ...]:
    """A note on the layers that stayed in float32 in the file, and that the runtime rounds when it loads it."""
    kept = {error.layer for error in errors if error.kept}
    again = ", ".join(row.layer for row in (times.layers if times else ()) if row.layer in kept and rounded(row))
    return (f"ONNX Runtime rounds the weights of {again} itself when it loads the file, as what is before and behind "
            "is in 8 bits: what is kept in the file does not run in float32 there",) if again else ()


def rounded(row: LayerTime) -> bool:
    """Whether the runtime ran a layer in 8 bits."""
    return any(operator.startswith(_ROUNDED) for operator in row.operators)


@dataclass(frozen=True)
class _Run:
    """What ran of a file: the nodes' names, and by layer milliseconds, in the order of their last nodes, and operators.

    Of None are those of what has no layer's name.
    """

    nodes: tuple[str, ...]
    milliseconds: dict[str | None, float]
    operators: dict[str | None, tuple[str, ...]]

    def has(self, node: str) -> bool:
        """Whether a node of the file ran by its own name, whatever the runtime added to it."""
        return any(name.startswith(node) for name in self.nodes)


def _by_layer(nodes: Iterable[dict[str, Any]], layers: Collection[str]) -> _Run:
    found: dict[str | None, float] = {}
    operators: dict[str | None, tuple[str, ...]] = {}
    names = []
    for node in nodes:
        names.append(str(node["name"]).removeprefix(_ADDED))
        layer = owner(names[-1], layers)
        found[layer] = found.pop(layer, 0.0) + 1e-3 * node["microseconds"]  # at the place of its last node
        operators[layer] = (*operators.get(layer, ()), str(node["operator"]))
    return _Run(tuple(names), found, operators)


def _rows(nodes: Sequence[Any], layers: Collection[str], *runs: _Run) -> dict[str, list[str]]:
    """The layers that are counted together, by the product that they follow; each other one by itself.

    ``runs`` are of both files. Where a product has no node of its own, it was joined to what follows it first.
    """
    heads, products = _heads(nodes, layers, list(runs[0].milliseconds))
    joined = {layer for layer in heads if any(layer not in run.milliseconds for run in runs)}
    for head, product in products.items():
        for run in runs:
            if not run.has(product):
                joined.update([n for n, h in heads.items() if h == head and n != head and n in run.milliseconds][:1])
    rows: dict[str, list[str]] = {}
    for layer, head in heads.items():
        rows.setdefault(head if layer in joined else layer, []).append(layer)
    return rows


def _heads(
    nodes: Sequence[Any], layers: Collection[str], ran: Sequence[str | None]
) -> tuple[dict[str, str], dict[str, str]]:
    """For each layer with nodes the layer of the product that it follows, itself where there is none; and the products.

    Of several, the one that ``ran`` last: only there can what follows them all have been joined to it.
    """
    places = {layer: place for place, layer in enumerate(ran)}
    made: dict[str, str | None] = {}
    latest: dict[str | None, int] = {}
    heads: dict[str, str] = {}
    products: dict[str, str] = {}
    for node in nodes:
        layer = owner(node.name, layers)
        before = [made[name] for name in node.input if made.get(name) is not None]
        head = layer if node.op_type in PRODUCTS or not before else max(before, key=lambda h: latest.get(h, -1))
        for name in node.output:
            made[name] = head
        latest[head] = max(latest.get(head, -1), places.get(layer, -1))
        if layer is not None and head is not None:
            heads[layer] = head
            if node.op_type in PRODUCTS:
                products[head] = node.name
    return heads, products
