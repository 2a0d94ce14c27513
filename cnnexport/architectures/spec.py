"""What is recorded about one architecture: its figures, its paper, its input and how to build it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from cnnexport.architectures.table import LayerRow


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
class Source:
    """The paper that an architecture comes from."""

    authors: str
    title: str
    venue: str
    year: int

    def __str__(self) -> str:
        return f"{self.authors}, {self.title}, {self.venue}, {self.year}"


@dataclass(frozen=True)
class Figure:
    """A paper's figure: its value, how it is printed and where; it is rounded to a multiple of ``step``.

    ``counted`` marks one that the paper does not print: it is counted from the layers that the paper describes.
    """

    value: int
    printed: str
    where: str
    step: int = 1
    counted: bool = False


def counted(value: int, where: str) -> Figure:
    """A figure that the paper does not print, counted from the layers that it describes at ``where``."""
    return Figure(value, f"({value:,})", where, counted=True)


@dataclass(frozen=True)
class Difference:
    """What the network built has and the paper's has not, why, and what that adds to its figures."""

    what: str
    parameters: int = 0
    macs: int = 0


@dataclass(frozen=True)
class Architecture:
    """One architecture at its default build (batch 1, default input and classes).

    ``depth`` counts weight layers on the longest path, ``parameters`` all elements of the Keras model's
    variables, ``macs`` the multiply-adds of convolutions and fully connected layers, ``input_shape`` is
    (height, width, channels) and ``min_size`` the smallest height or width. The paper's figures, with what
    the ``differences`` add, are those of the network (``audit`` checks it); None where nothing is recorded.

    ``build`` has the signature ``build(*, include_top, weights, input_tensor, input_shape, pooling, classes,
    classifier_activation) -> keras.Model``, and ``groups`` besides where ``grouped``; ``network.network``
    makes one. It imports Keras only when called. ``table`` gives the paper's layer table, ``table(False)``
    that without groups. ``folded`` parameters are not in the ONNX file, because conversion folds batch
    normalisation into the layer before. ``backbone`` marks a network whose ImageNet weights leave its own
    top untrained.
    """

    name: str
    family: str
    depth: int
    parameters: int
    macs: int
    input_shape: tuple[int, int, int]
    min_size: int
    build: Callable[..., Any]
    source: Source
    paper_parameters: Figure | None = None
    paper_macs: Figure | None = None
    differences: tuple[Difference, ...] = ()
    table: Callable[[bool], tuple[LayerRow, ...]] | None = None
    weights: tuple[str, ...] = ("random",)
    preprocessing: Preprocessing | None = None
    aliases: tuple[str, ...] = ()
    classes: int = 1000
    grouped: bool = False
    backbone: bool = False
    folded: int = 0
