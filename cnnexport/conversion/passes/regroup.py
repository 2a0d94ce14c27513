"""When a Transpose and a Reshape can change places: the arithmetic of shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod


def groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """The axes of ``before`` and of ``after`` that a Reshape maps onto each other.

    Axes of length 1 are left out. None where the shapes hold different numbers of elements.
    """
    left = [i for i, d in enumerate(before) if d != 1]
    right = [i for i, d in enumerate(after) if d != 1]
    if prod(before) != prod(after) or 0 in before:
        return None
    found = []
    while left or right:
        if not left or not right:
            return None
        ins, outs = [left.pop(0)], [right.pop(0)]
        a, b = before[ins[0]], after[outs[0]]
        while a != b:
            if a < b:
                if not left:
                    return None
                ins.append(left.pop(0))
                a *= before[ins[-1]]
            else:
                if not right:
                    return None
                outs.append(right.pop(0))
                b *= after[outs[-1]]
        found.append((ins, outs))
    return found


def swap(
    source: Sequence[int], perm: Sequence[int], target: Sequence[int]
) -> tuple[list[int], list[int]] | None:
    """``Reshape(Transpose(x, perm), target)`` as ``Transpose(Reshape(x, shape), perm2)``: (shape, perm2).

    ``source`` is the shape of x. None where the Reshape mixes what the Transpose took apart.
    """
    found = groups([source[p] for p in perm], target)
    if found is None:
        return None
    order = [a for a, d in enumerate(source) if d != 1]
    placed = []
    for ins, outs in found:
        places = [order.index(perm[i]) for i in ins]
        if places != list(range(places[0], places[0] + len(places))):
            return None
        placed.append((places[0], outs))
    # The axes of the target that are longer than 1, in the order in which x holds them.
    wanted = [axis for _, outs in sorted(placed) for axis in outs]
    rank = len(target)
    layouts = [list(range(rank)), [0, rank - 1, *range(1, rank - 1)]]
    layouts.append(wanted + [a for a in range(rank) if target[a] == 1])
    for layout in layouts:
        if [a for a in layout if target[a] != 1] == wanted:
            return [target[a] for a in layout], [layout.index(a) for a in range(rank)]
    return None
