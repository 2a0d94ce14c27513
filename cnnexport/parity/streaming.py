"""Every layer of a live Keras model against its tensor, in groups of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from cnnexport.parity.answers import KerasAnswers
from cnnexport.parity.exposed import Exposed
from cnnexport.parity.gate import Criterion, Verdict, held_bytes, layer_map, of_their_tensors, weighed
from cnnexport.parity.graph import GraphFacts
from cnnexport.parity.layers import LayerComparison, compare_layers
from cnnexport.parity.witness import Teller

STREAM_BYTES = 64 << 20
"""Layer outputs of each side held at a time."""


def stream_layers(
    model: Any, heads: Sequence[Any], keras: KerasAnswers, facts: GraphFacts, path: Path, criterion: Criterion, *,
    agree: bool = False, limit: int = STREAM_BYTES, scratch: Path | None = None, only: Collection[str] | None = None,
    tell: Teller | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> list[LayerComparison]:
    """Compare every mapped layer on the first case, in groups whose outputs take up to ``limit`` bytes.

    ``model`` is the Keras model that ``keras`` is of; ``agree`` tells that the outputs do; with ``only``, these layers
    are compared and those that share their tensors. ``tell`` gives the truth of those that do not keep the bounds. Both
    sides run once for each group.
    """
    from cnnexport.parity import live

    inputs = keras.answers[0].case.inputs
    mapped = layer_map(keras, facts)
    if only is not None:  # and with them all that their tensors hold
        asked = {row.holds for row in mapped if row.layer in only and row.holds}
        mapped = [row for row in mapped if row.holds in asked]
    holders = list(dict.fromkeys(row.holds for row in mapped if row.holds))
    results: dict[str, LayerComparison] = {}
    with closing(Exposed(Path(path), [p.name for p in facts.outputs], scratch)) as exposed:
        for group, calls in live.run_in_groups(model, heads, inputs, holders, limit, progress):
            mine = [row for row in mapped if row.holds in group]
            inside = exposed.inside(held_bytes(mine, calls), inputs, facts.inputs)
            found = compare_layers(mine, calls, inside, criterion.tolerance, agree=agree)
            if doubtful := of_their_tensors([row for row in found if row.passed is False], found):
                truth = tell([], doubtful, calls).layers if tell is not None else None
                found = compare_layers(mine, calls, inside, criterion.tolerance, agree=agree, witnesses=truth)
            results |= {row.layer: row for row in found}
    rest = compare_layers([row for row in mapped if row.layer not in results], {}, {}, criterion.tolerance)
    results |= {row.layer: row for row in rest}
    return [results[row.layer] for row in mapped]


def stream_the_rest(
    found: Verdict, model: Any, heads: Sequence[Any], keras: KerasAnswers, facts: GraphFacts, path: Path,
    criterion: Criterion, only: Collection[str], *, scratch: Path | None = None, tell: Teller | None = None,
) -> Verdict:
    """``found`` with the layers ``only`` compared too, those that ``left_open`` names."""
    more = {row.layer: row for row in stream_layers(
        model, heads, keras, facts, path, criterion, agree=found.agree, scratch=scratch, only=only,
        tell=tell)}
    return weighed(keras, facts, criterion, found, [more.get(row.layer, row) for row in found.layers])
