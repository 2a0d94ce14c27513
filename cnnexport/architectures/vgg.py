"""The VGG networks, configurations A, A-LRN, B, C, D (VGG-16) and E (VGG-19) of the paper's Table 1.

D and E are keras.applications' own; the others follow them, layer name for layer name.
"""

from __future__ import annotations

from typing import Any

from cnnexport.architectures.network import network
from cnnexport.architectures.spec import CAFFE, Architecture, Difference, Figure, Source, counted
from cnnexport.architectures.table import LayerRow, Table

SOURCE = Source(
    authors="Simonyan and Zisserman",
    title="Very Deep Convolutional Networks for Large-Scale Image Recognition",
    venue="ICLR, arXiv:1409.1556",
    year=2015,
)
_FILTERS = (64, 128, 256, 512, 512)
_SIZES = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "A-LRN": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
"""Kernel sizes of the convolutions of each block (Table 1)."""

_CAFFE = Difference("channels are in the order BGR, as in the authors' Caffe models and keras.applications")
_NO_DROPOUT = Difference("no dropout after the first two fully connected layers: keras.applications leaves it out")


def _features(configuration: str) -> Any:
    def features(x: Any) -> Any:
        from keras import layers

        for block, (filters, sizes) in enumerate(zip(_FILTERS, _SIZES[configuration]), 1):
            for index, size in enumerate(sizes, 1):
                x = layers.Conv2D(
                    filters, size, padding="same", activation="relu", name=f"block{block}_conv{index}")(x)
            if configuration == "A-LRN" and block == 1:
                from cnnexport.keras_files.own_layers import LocalResponseNormalization

                x = LocalResponseNormalization(name="block1_lrn")(x)
            x = layers.MaxPooling2D(2, strides=2, name=f"block{block}_pool")(x)
        return x

    return features


def _top(x: Any, classes: int, activation: str | None) -> Any:
    from keras import layers

    x = layers.Flatten(name="flatten")(x)
    for index in (1, 2):
        x = layers.Dense(4096, activation="relu", name=f"fc{index}")(x)
        x = layers.Dropout(0.5, name=f"dropout{index}")(x)
    return layers.Dense(classes, activation=activation, name="predictions")(x)


def _vgg16(**options: Any) -> Any:
    import keras

    return keras.applications.VGG16(**options)


def _vgg19(**options: Any) -> Any:
    import keras

    return keras.applications.VGG19(**options)


def blocks(table: Table, configuration: str) -> Table:
    """Append the convolutions and poolings of a configuration to ``table``."""
    for block, (filters, sizes) in enumerate(zip(_FILTERS, _SIZES[configuration]), 1):
        for size in sizes:
            table.conv(f"conv{size}-{filters}", filters, size)
        if configuration == "A-LRN" and block == 1:
            table.note("LRN", "5 channels")
        table.pool("maxpool", 2, 2)
    return table


def _table(configuration: str) -> Any:
    def table(groups: bool) -> tuple[LayerRow, ...]:
        t = blocks(Table(224, 224, 3), configuration)
        return tuple(t.dense("FC-4096", 4096).dense("FC-4096", 4096).dense("FC-1000", 1000).rows)

    return table


def _architecture(
    name: str,
    configuration: str,
    *,
    depth: int,
    parameters: int,
    macs: int,
    millions: int,
    paper_macs: Figure | None = None,
    differences: tuple[Difference, ...] = (),
    build: Any = None,
    aliases: tuple[str, ...] = (),
) -> Architecture:
    return Architecture(
        name=name,
        family="vgg",
        depth=depth,
        parameters=parameters,
        macs=macs,
        input_shape=(224, 224, 3),
        min_size=32,
        build=build or network(name, _features(configuration), _top),
        source=SOURCE,
        paper_parameters=Figure(millions * 1_000_000, f"{millions} million", "Table 2", step=1_000_000),
        paper_macs=paper_macs or counted(macs, "Table 1, the paper prints none"),
        differences=(_CAFFE, *differences),
        table=_table(configuration),
        weights=("random", "imagenet") if build else ("random",),
        preprocessing=CAFFE,
        aliases=(f"vgg-{configuration.lower()}", *aliases),
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    _architecture("vgg11", "A", depth=11, parameters=132_863_336, macs=7_609_090_048, millions=133,
                  aliases=("vgg-11",)),
    _architecture("vgg11-lrn", "A-LRN", depth=11, parameters=132_863_336, macs=7_609_090_048, millions=133,
                  differences=(Difference("the constants of LRN are those of AlexNet, as the paper says"),),
                  aliases=("vgg-11-lrn",)),
    _architecture("vgg13", "B", depth=13, parameters=133_047_848, macs=11_308_466_176, millions=133,
                  aliases=("vgg-13",)),
    _architecture("vgg16-c", "C", depth=16, parameters=133_638_952, macs=11_770_888_192, millions=134,
                  aliases=("vgg-16-c",)),
    _architecture("vgg16", "D", depth=16, parameters=138_357_544, macs=15_470_264_320, millions=138,
                  paper_macs=Figure(15_300_000_000, "15.3 x 10^9", "He et al. 2016, section 3.3, of VGG-16"),
                  differences=(_NO_DROPOUT,), build=_vgg16, aliases=("vgg-16",)),
    _architecture("vgg19", "E", depth=19, parameters=143_667_240, macs=19_632_062_464, millions=144,
                  paper_macs=Figure(19_600_000_000, "19.6 x 10^9", "He et al. 2016, section 3.3, of VGG-19"),
                  differences=(_NO_DROPOUT,), build=_vgg19, aliases=("vgg-19",)),
)
