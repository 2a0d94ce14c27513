"""Every layer of a live Keras model against its tensor, in groups of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from cnnexport.parity.answers import KerasAnswers
from cnnexport.parity.exposed import Exposed
from cnnexport.parity.gate import Criterion, layer_map
from cnnexport.parity.graph import GraphFacts
from cnnexport.parity.layers import LayerComparison, compare_layers

STREAM_BYTES = 128 << 20
"""Layer outputs of each side held at a time."""


def stream_layers(
    model: Any, heads: Sequence[Any], keras: KerasAnswers, facts: GraphFacts, path: Path, criterion: Criterion, *,
    agree: bool = False, limit: int = STREAM_BYTES, scratch: Path | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> list[LayerComparison]:
    """Compare every mapped layer on the first case, in groups whose outputs take up to ``limit`` bytes.

    ``model`` is the Keras model that ``keras`` is of; ``agree`` tells that the outputs do. Both sides run once
    for each group.
    """
    from cnnexport.parity import live

    inputs = keras.answers[0].case.inputs
    mapped = layer_map(keras, facts)
    holders = list(dict.fromkeys(row.holds for row in mapped if row.holds))
    results: dict[str, LayerComparison] = {}
    rows = {row.layer: row for row in mapped}
    with closing(Exposed(Path(path), [p.name for p in facts.outputs], scratch)) as exposed:
        tensors = [t for t in dict.fromkeys(row.tensor for row in mapped) if t is not None]
        session, present = exposed.session(tensors)
        left = holders
        while left:
            progress(f"layers {len(holders) - len(left) + 1} to {len(holders)}")
            members = set(left)
            calls = live.run(model, heads, inputs, layers=True, wanted=members.__contains__, limit=limit).calls
            group = [layer for layer in left if calls[layer].output is not None] or left[:1]
            names = [n for n in dict.fromkeys(rows[layer].tensor for layer in group) if n in present]
            produced = exposed.run(session, [n for n in names if n], inputs, facts.inputs)
            mine = [row for row in mapped if row.holds in group]
            for result in compare_layers(mine, calls, produced, criterion.tolerance, agree=agree):
                results[result.layer] = result
            left = [layer for layer in left if layer not in group]
    rest = compare_layers([row for row in mapped if row.layer not in results], {}, {}, criterion.tolerance)
    results |= {row.layer: row for row in rest}
    return [results[row.layer] for row in mapped]
