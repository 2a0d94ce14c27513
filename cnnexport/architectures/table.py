"""The layer table of a network, computed from what its paper prints; ``built.py`` reads one from a Keras model.

Parameters count every variable (of a batch normalisation scale, shift, mean and variance). Multiply-adds
(MACs) count the convolutions and fully connected layers for one image, a multiplication and its addition as
one; biases, pooling, normalisation and activations are not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

CONVENTION = (
    "Multiply-adds (MACs) are those of convolutions and fully connected layers for one image, a multiplication with "
    "its addition counted once; biases, pooling, normalisation and activations are not counted."
)


@dataclass(frozen=True)
class LayerRow:
    """One line of a layer table; ``output`` is (height, width, channels) or (units,), None where a size is open."""

    layer: str
    kernel: str
    stride: int | None
    output: tuple[int | None, ...]
    parameters: int
    macs: int


class Table:
    """Collects the rows of a network, layer by layer, and keeps the size of what flows."""

    def __init__(self, *shape: int) -> None:
        self.shape: tuple[int, ...] = shape
        self.rows: list[LayerRow] = []

    def _add(
        self, layer: str, kernel: str, stride: int | None, shape: tuple[int, ...], parameters: int = 0, macs: int = 0
    ) -> Table:
        self.shape = shape
        self.rows.append(LayerRow(layer, kernel, stride, shape, parameters, macs))
        return self

    def conv(
        self,
        layer: str,
        filters: int,
        size: int,
        stride: int = 1,
        *,
        pad: Literal["same", "valid"] | int = "same",
        groups: int = 1,
        bias: bool = True,
        norm: bool = False,
    ) -> Table:
        """A convolution, with a batch normalisation if ``norm``; a number pads both sides by so much."""
        height, width, channels = self.shape
        shape = (_slide(height, size, stride, pad), _slide(width, size, stride, pad), filters)
        kernel = size * size * channels // groups * filters
        text = f"{size}x{size}, {filters}" + (f", {groups} groups" if groups > 1 else "")
        return self._add(layer, text, stride, shape, kernel + filters * (bias + 4 * norm), kernel * shape[0] * shape[1])

    def pool(
        self, layer: str, size: int, stride: int, *, pad: Literal["same", "valid"] | int = "valid", kind: str = "max"
    ) -> Table:
        """A max or average pooling."""
        height, width, channels = self.shape
        shape = (_slide(height, size, stride, pad), _slide(width, size, stride, pad), channels)
        return self._add(layer, f"{size}x{size} {kind}", stride, shape)

    def norm(self, layer: str) -> Table:
        """A batch normalisation on its own."""
        return self._add(layer, "", None, self.shape, 4 * self.shape[-1])

    def note(self, layer: str, text: str = "") -> Table:
        """A layer that neither weighs nor changes the size, such as LRN or dropout."""
        return self._add(layer, text, None, self.shape)

    def global_pool(self, layer: str) -> Table:
        """The average over height and width."""
        return self._add(layer, f"{self.shape[0]}x{self.shape[1]} average", None, (self.shape[-1],))

    def dense(self, layer: str, units: int) -> Table:
        """A fully connected layer on all values before it."""
        inputs = math.prod(self.shape)
        return self._add(layer, f"{inputs} to {units}", None, (units,), (inputs + 1) * units, inputs * units)

    def stage(self, layer: str, kernel: str, stride: int, rows: tuple[LayerRow, ...], shape: tuple[int, ...]) -> Table:
        """Several layers that the paper prints as one line."""
        return self._add(
            layer, kernel, stride, shape, sum(r.parameters for r in rows), sum(r.macs for r in rows))


def _slide(length: int, size: int, stride: int, pad: Literal["same", "valid"] | int) -> int:
    if pad == "same":
        return -(-length // stride)
    return (length + (0 if pad == "valid" else 2 * pad) - size) // stride + 1
