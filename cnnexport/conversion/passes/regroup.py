"""When a Transpose and a Reshape can change places: the arithmetic of shapes alone."""

from __future__ import annotations

from collections.abc import Sequence

from cnnexport.conversion.passes.rewriting import Size, product


def groups(before: Sequence[Size], after: Sequence[Size]) -> list[tuple[list[int], list[int]]] | None:
    """The axes of ``before`` and of ``after`` that a Reshape maps onto each other.

    Axes of length 1 are left out. None where the shapes hold different numbers of elements.
    """
    left, right = ([i for i, d in enumerate(shape) if d != 1] for shape in (before, after))
    # The first axes of both belong together where they hold equally many elements.
    products = [product(before[i] for i in left[:n]) for n in range(len(left) + 1)]
    found, m, n = [], 0, 0
    for end in range(1, len(right) + 1):
        held = product(after[i] for i in right[:end])
        if held in products:
            found.append((left[m:products.index(held)], right[n:end]))
            m, n = products.index(held), end
    return found if (m, n) == (len(left), len(right)) else None


def swap(
    source: Sequence[Size], perm: Sequence[int], target: Sequence[Size]
) -> tuple[list[Size], list[int]] | None:
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
