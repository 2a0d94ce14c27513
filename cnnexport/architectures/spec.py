"""What is recorded about one architecture: its size, its input and how to build it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Preprocessing:
    """How pixels of 0..255 become the network's input: ``(pixels * scale - mean) / std`` per channel.

    ``mean`` and ``std`` hold one number per channel, in ``color_order``; ``std`` is empty when nothing is
    divided.  ``value_range`` is the exact (lowest, highest) value of the resulting tensor.
    """

    description: str
    color_order: Literal["RGB", "BGR", "grey"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float]


CAFFE = Preprocessing(
    description="pixels 0..255, RGB to BGR, minus the ImageNet mean of each channel; no scaling",
    color_order="BGR",
    scale=1.0,
    mean=(103.939, 116.779, 123.68),
    std=(),
    value_range=(-123.68, 151.061),
)
"""The preprocessing of the networks first trained in Caffe (``mode="caffe"`` in keras.applications)."""


@dataclass(frozen=True)
class Architecture:
    """One architecture at its default build (batch 1, default input and classes).

    ``depth`` counts weight layers on the longest path, ``macs`` the multiply-adds of convolutions and dense
    layers, ``input_shape`` is (height, width, channels) and ``min_size`` the smallest height or width.
    ``build`` has the signature ``build(*, include_top, weights, input_tensor, input_shape, pooling, classes,
    classifier_activation) -> keras.Model`` and imports Keras only when called.
    """

    name: str
    family: str
    depth: int
    parameters: int
    macs: int
    input_shape: tuple[int, int, int]
    min_size: int
    weights: tuple[str, ...]
    build: Callable[..., Any]
    preprocessing: Preprocessing | None
    source: str
    aliases: tuple[str, ...] = ()
    pooling: bool = True
    classes: int = 1000
