"""VGG-16 and VGG-19, as keras.applications defines them."""

from __future__ import annotations

from typing import Any

from cnnexport.architectures.spec import CAFFE, Architecture

_SOURCE = (
    "Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, "
    "ICLR 2015, arXiv:1409.1556"
)


def _vgg16(**options: Any) -> Any:
    import keras

    return keras.applications.VGG16(**options)


def _vgg19(**options: Any) -> Any:
    import keras

    return keras.applications.VGG19(**options)


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        name="vgg16",
        family="vgg",
        depth=16,
        parameters=138_357_544,
        macs=15_470_264_320,
        input_shape=(224, 224, 3),
        min_size=32,
        weights=("random", "imagenet"),
        build=_vgg16,
        preprocessing=CAFFE,
        source=_SOURCE,
        aliases=("vgg-16",),
    ),
    Architecture(
        name="vgg19",
        family="vgg",
        depth=19,
        parameters=143_667_240,
        macs=19_632_062_464,
        input_shape=(224, 224, 3),
        min_size=32,
        weights=("random", "imagenet"),
        build=_vgg19,
        preprocessing=CAFFE,
        source=_SOURCE,
        aliases=("vgg-19",),
    ),
)
