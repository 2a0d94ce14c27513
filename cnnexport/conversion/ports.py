"""The inputs and outputs of a converted model, as a record that needs no Keras."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Port:
    """An input or output of the ONNX model: its name, Keras' shape (batch first) and dtype.

    ``keras_name`` is Keras' own name where ONNX' tools would stumble over it.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    channels_first: bool = False
    keras_name: str | None = None

    @property
    def onnx_shape(self) -> tuple[int | None, ...]:
        """The shape in ONNX: channels second where ``channels_first``."""
        if not self.channels_first:
            return self.shape
        return (self.shape[0], self.shape[-1], *self.shape[1:-1])


def safe_names(names: Sequence[str], taken: Sequence[str] = (), *, instead: str) -> list[str]:
    """``names`` in letters, digits and ``_.-/`` alone, each one other than the rest and than those ``taken``.

    One that has none of its letters left is called ``instead``.
    """
    used, found = set(taken), []
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9_.\-/]+", "_", name)
        safe = safe if re.search("[A-Za-z0-9]", safe) else instead
        while safe in used:
            safe += "_1"
        used.add(safe)
        found.append(safe)
    return found
