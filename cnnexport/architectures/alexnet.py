"""AlexNet as the paper describes it, and the course's version with batch normalisation."""

from __future__ import annotations

from typing import Any

from cnnexport.architectures.network import network
from cnnexport.architectures.spec import Architecture, Difference, Figure, Preprocessing, Source, counted
from cnnexport.architectures.table import LayerRow, Table

_SOURCE = Source(
    authors="Krizhevsky, Sutskever and Hinton",
    title="ImageNet Classification with Deep Convolutional Neural Networks",
    venue="NIPS",
    year=2012,
)
_PARAMETERS = Figure(60_000_000, "60 million", "abstract")
_ROUNDED = Difference("the abstract rounds down: the layers it describes hold 60,965,224", 965_224)
_MACS = counted(724_406_816, "section 3.5, the paper prints none")


def _features(x: Any, *, groups: bool = True) -> Any:
    from keras import layers

    from cnnexport.keras_files.own_layers import LocalResponseNormalization

    two = 2 if groups else 1
    x = layers.Conv2D(96, 11, strides=4, activation="relu", name="conv1")(x)
    x = LocalResponseNormalization(name="norm1")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    x = layers.Conv2D(256, 5, padding="same", groups=two, activation="relu", name="conv2")(x)
    x = LocalResponseNormalization(name="norm2")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool2")(x)
    x = layers.Conv2D(384, 3, padding="same", activation="relu", name="conv3")(x)
    x = layers.Conv2D(384, 3, padding="same", groups=two, activation="relu", name="conv4")(x)
    x = layers.Conv2D(256, 3, padding="same", groups=two, activation="relu", name="conv5")(x)
    return layers.MaxPooling2D(3, strides=2, name="pool5")(x)


def _top(x: Any, classes: int, activation: str | None) -> Any:
    from keras import layers

    x = layers.Flatten(name="flatten")(x)
    for name in ("fc6", "fc7"):
        x = layers.Dense(4096, activation="relu", name=name)(x)
        x = layers.Dropout(0.5, name=f"{name}_dropout")(x)
    return layers.Dense(classes, activation=activation, name="predictions")(x)


def _table(groups: bool) -> tuple[LayerRow, ...]:
    two = 2 if groups else 1
    t = Table(227, 227, 3)
    t.conv("conv1", 96, 11, 4, pad="valid").note("norm1", "LRN, 5 channels").pool("pool1", 3, 2)
    t.conv("conv2", 256, 5, groups=two).note("norm2", "LRN, 5 channels").pool("pool2", 3, 2)
    t.conv("conv3", 384, 3).conv("conv4", 384, 3, groups=two).conv("conv5", 256, 3, groups=two).pool("pool5", 3, 2)
    t.dense("fc6", 4096).note("dropout", "0.5").dense("fc7", 4096).note("dropout", "0.5").dense("fc8", 1000)
    return tuple(t.rows)


def _bn_features(x: Any) -> Any:
    from keras import layers

    for index, (filters, size, stride, pooled) in enumerate(_BN_CONVOLUTIONS, 1):
        x = layers.Conv2D(filters, size, strides=stride, padding="same", activation="relu", name=f"conv{index}")(x)
        if pooled:
            x = layers.MaxPooling2D(2, strides=2, padding="same", name=f"pool{index}")(x)
        x = layers.BatchNormalization(name=f"bn{index}")(x)
    return x


def _bn_top(x: Any, classes: int, activation: str | None) -> Any:
    from keras import layers

    x = layers.Flatten(name="flatten")(x)
    for index, units in enumerate((4096, 4096, 1000), 6):
        x = layers.Dense(units, activation="relu", name=f"fc{index}")(x)
        x = layers.Dropout(0.4, name=f"dropout{index}")(x)
        x = layers.BatchNormalization(name=f"bn{index}")(x)
    return layers.Dense(classes, activation=activation, name="predictions")(x)


def _bn_table(groups: bool) -> tuple[LayerRow, ...]:
    t = Table(227, 227, 3)
    for index, (filters, size, stride, pooled) in enumerate(_BN_CONVOLUTIONS, 1):
        t.conv(f"conv{index}", filters, size, stride)
        if pooled:
            t.pool(f"pool{index}", 2, 2, pad="same")
        t.norm(f"bn{index}")
    for index, units in enumerate((4096, 4096, 1000), 6):
        t.dense(f"fc{index}", units).note(f"dropout{index}", "0.4").norm(f"bn{index}")
    return tuple(t.dense("output", 10).rows)


_BN_CONVOLUTIONS = ((96, 11, 4, True), (256, 11, 1, True), (384, 3, 1, False), (384, 3, 1, False), (256, 3, 1, True))
"""Filters, kernel size, stride, and whether a pooling follows."""

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        name="alexnet",
        family="alexnet",
        depth=8,
        parameters=60_965_224,
        macs=724_406_816,
        input_shape=(227, 227, 3),
        min_size=67,
        build=network("alexnet", _features, _top),
        source=_SOURCE,
        paper_parameters=_PARAMETERS,
        paper_macs=_MACS,
        differences=(
            _ROUNDED,
            Difference("the input is 227x227: from the 224x224 that the paper says, its 55x55 maps do not follow"),
            Difference("one device, not two GPUs: what each computed alone is a group of the convolution; --no-groups "
                       "joins them (62,378,344 parameters, 1,135,256,096 multiply-adds)"),
            Difference("the mean subtracted is one for each channel; the paper's, one for each pixel, is not printed"),
        ),
        table=_table,
        preprocessing=Preprocessing(
            description="pixels 0..255, RGB, minus the ImageNet mean of each channel; no scaling",
            color_order="RGB",
            scale=1.0,
            mean=(123.68, 116.779, 103.939),
            std=(),
            value_range=(-123.68, 151.061),
        ),
        grouped=True,
    ),
    Architecture(
        name="alexnet-bn",
        family="alexnet",
        depth=9,
        parameters=94_150_050,
        macs=3_398_821_168,
        input_shape=(227, 227, 3),
        min_size=8,
        build=network("alexnet-bn", _bn_features, _bn_top),
        source=_SOURCE,
        paper_parameters=_PARAMETERS,
        paper_macs=_MACS,
        differences=(
            _ROUNDED,
            Difference("the course's code: no groups, which the paper has because of its two GPUs", 1_413_120,
                       410_849_280),
            Difference("conv2 is 11x11, in the paper 5x5", 2_359_296, 1_719_926_784),
            Difference("batch normalisation, which is younger than the paper, instead of LRN: four tensors for each",
                       42_272),
            Difference("all convolutions and poolings keep the size but for their stride, and poolings are 2x2: the "
                       "features are 8x8 and not 6x6", 29_360_128, 543_628_288),
            Difference("the third layer of 1000 units is hidden, before a softmax over 10 classes", 10_010, 10_000),
            Difference("dropout is 0.4, in the paper 0.5"),
        ),
        table=_bn_table,
        preprocessing=Preprocessing(
            description="pixels 0..255, RGB, divided by 255",
            color_order="RGB",
            scale=1 / 255,
            mean=(0.0, 0.0, 0.0),
            std=(),
            value_range=(0.0, 1.0),
        ),
        classes=10,
    ),
)
