"""The inputs and outputs of a converted model, as a record that needs no Keras."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Port:
    """An input or output of the ONNX model: its name, Keras' shape (batch first) and dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    channels_first: bool = False

    @property
    def onnx_shape(self) -> tuple[int | None, ...]:
        """The shape in ONNX: channels second where ``channels_first``."""
        if not self.channels_first:
            return self.shape
        return (self.shape[0], self.shape[-1], *self.shape[1:-1])
