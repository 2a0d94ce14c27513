"""LeNet-5, in its common modern form: full C3 connections and a softmax classifier."""

from __future__ import annotations

from typing import Any

from cnnexport.architectures.network import network
from cnnexport.architectures.spec import Architecture, Difference, Figure, Preprocessing, Source
from cnnexport.architectures.table import LayerRow, Table

_SOURCE = Source(
    authors="LeCun, Bottou, Bengio and Haffner",
    title="Gradient-Based Learning Applied to Document Recognition",
    venue="Proceedings of the IEEE 86(11)",
    year=1998,
)
_PREPROCESSING = Preprocessing(
    description="grey 0 (background) to 255 (ink), mapped linearly to -0.1 .. 1.175",
    color_order="grey",
    scale=1.275 / 255,
    mean=(0.1,),
    std=(),
    value_range=(-0.1, 1.175),
)
_PARAMETERS = Figure(60_000, "60,000", "section II.B, trainable parameters")
_MACS = Figure(340_908, "340,908", "section II.B, connections")
_DIFFERENCES = (
    Difference("C3 reads all 6 maps of S2, where Table I of the paper leaves out 4 of 10 connections to break "
               "symmetry: Keras has no such layer, and none is needed with random initial weights", 900, 90_000),
    Difference("S2 and S4 are plain averages: the paper's have a trained coefficient and bias a map", -44, -7_880),
    Difference("the output is Dense with softmax; the paper's 10 units measure the distance to fixed codes", 850),
    Difference("biases are not multiply-adds; the paper counts them as connections", 0, -6_508),
    Difference("tanh instead of the paper's 1.7159 tanh(2/3 x)"),
)


def _features(padding: str) -> Any:
    def features(x: Any) -> Any:
        from keras import layers

        x = layers.Conv2D(6, 5, padding=padding, activation="tanh", name="c1")(x)
        x = layers.AveragePooling2D(2, name="s2")(x)
        x = layers.Conv2D(16, 5, padding=padding, activation="tanh", name="c3")(x)
        return layers.AveragePooling2D(2, name="s4")(x)

    return features


def _top(x: Any, classes: int, activation: str | None) -> Any:
    from keras import layers

    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(120, activation="tanh", name="c5")(x)
    x = layers.Dense(84, activation="tanh", name="f6")(x)
    return layers.Dense(classes, activation=activation, name="predictions")(x)


def _table(size: int, pad: Any) -> Any:
    def table(groups: bool) -> tuple[LayerRow, ...]:
        t = Table(size, size, 1)
        t.conv("C1", 6, 5, pad=pad).pool("S2", 2, 2, kind="average")
        t.conv("C3", 16, 5, pad=pad).pool("S4", 2, 2, kind="average")
        t.dense("C5", 120).dense("F6", 84).dense("OUTPUT", 10)
        return tuple(t.rows)

    return table


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        name="lenet5",
        family="lenet",
        depth=5,
        parameters=61_706,
        macs=416_520,
        input_shape=(32, 32, 1),
        min_size=16,
        build=network("lenet5", _features("valid"), _top),
        source=_SOURCE,
        paper_parameters=_PARAMETERS,
        paper_macs=_MACS,
        differences=_DIFFERENCES,
        table=_table(32, "valid"),
        preprocessing=_PREPROCESSING,
        aliases=("lenet", "lenet-5"),
        classes=10,
    ),
    Architecture(
        name="lenet5-same",
        family="lenet",
        depth=5,
        parameters=107_786,
        macs=693_000,
        input_shape=(28, 28, 1),
        min_size=4,
        build=network("lenet5-same", _features("same"), _top),
        source=_SOURCE,
        paper_parameters=_PARAMETERS,
        paper_macs=_MACS,
        differences=(
            *_DIFFERENCES,
            Difference("the course's code: 28x28 images, which the paper pads to 32x32, and convolutions that keep the "
                       "size, so that S4 is 7x7 and not 5x5", 46_080, 276_480),
        ),
        table=_table(28, "same"),
        preprocessing=_PREPROCESSING,
        classes=10,
    ),
)
