"""What ``verdict.json`` says of each layer of a variant."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class LayerError(Struct, frozen=True, kw_only=True):
    """How much of a layer's output is left in a variant."""

    layer: str
    tensor: str
    sqnr_db: Annotated[float, Meta(description="Signal in the noise of quantisation, against the first model.")]
    kept: Annotated[bool, Meta(description="Whether its nodes stayed in float32.")] = False


class LayerTime(Struct, frozen=True, kw_only=True):
    """A layer's share of one run of each file."""

    layer: str
    within: Annotated[tuple[str, ...], Meta(
        description="Layers counted with it: the runtime joined them to it in one of the files.")] = ()
    float_ms: float
    variant_ms: float
    operators: Annotated[tuple[str, ...], Meta(description="What the runtime made of them in this model.")] = ()


class LayerTimes(Struct, frozen=True, kw_only=True):
    """The time of each layer in both files, from the runtime's profile, which slows what it watches."""

    runtime: str
    batch: int
    threads: int
    sessions: int
    runs: Annotated[int, Meta(description="Of each session; a time is the median of the sessions' means.")]
    layers: tuple[LayerTime, ...]
    other_float_ms: Annotated[float, Meta(description="Of what carries no layer's name.")]
    other_variant_ms: float
