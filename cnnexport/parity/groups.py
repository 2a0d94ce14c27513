"""Large values by name, some of them in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from cnnexport import memory

Value = TypeVar("Value")


def groups(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """The names of ``sizes`` (bytes) in their order, in groups of up to ``most`` bytes or of one name; one or more."""
    made: list[list[str]] = [[]]
    total = 0
    for name, size in sizes.items():
        if total and total + size > most:
            made.append([])
            total = 0
        made[-1].append(name)
        total += size
    return made


class InGroups(Mapping[str, Value]):
    """Values by name, fetched in groups as they are asked for: of ``names`` one group is held at a time.

    ``fetch`` gives what there is of a group; ``first`` is that of the first, where it was fetched before.
    """

    def __init__(
        self, names: Sequence[Sequence[str]], fetch: Callable[[Sequence[str]], Mapping[str, Value]],
        first: Mapping[str, Value] | None = None,
    ) -> None:
        self._names, self._fetch = names, fetch
        self._group = {name: number for number, group in enumerate(names) for name in group}
        self._held: Mapping[str, Value] = first or {}
        self._number = -1 if first is None else 0

    def __getitem__(self, name: str) -> Value:
        if (number := self._group[name]) != self._number:
            if self._held:
                self._held = {}
                memory.give_back()
            self._number, self._held = number, self._fetch(self._names[number])
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._group)

    def __len__(self) -> int:
        return len(self._group)
