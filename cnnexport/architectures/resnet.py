"""ResNet-50, -101 and -152 (version 1), as keras.applications defines them."""

from __future__ import annotations

from typing import Any

from cnnexport.architectures.spec import CAFFE, Architecture

_SOURCE = "He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385"


def _resnet50(**options: Any) -> Any:
    import keras

    return keras.applications.ResNet50(**options)


def _resnet101(**options: Any) -> Any:
    import keras

    return keras.applications.ResNet101(**options)


def _resnet152(**options: Any) -> Any:
    import keras

    return keras.applications.ResNet152(**options)


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        name="resnet50",
        family="resnet",
        depth=50,
        parameters=25_636_712,
        macs=3_857_973_248,
        input_shape=(224, 224, 3),
        min_size=32,
        weights=("random", "imagenet"),
        build=_resnet50,
        preprocessing=CAFFE,
        source=_SOURCE,
        aliases=("resnet-50",),
    ),
    Architecture(
        name="resnet101",
        family="resnet",
        depth=101,
        parameters=44_707_176,
        macs=7_570_194_432,
        input_shape=(224, 224, 3),
        min_size=32,
        weights=("random", "imagenet"),
        build=_resnet101,
        preprocessing=CAFFE,
        source=_SOURCE,
        aliases=("resnet-101",),
    ),
    Architecture(
        name="resnet152",
        family="resnet",
        depth=152,
        parameters=60_419_944,
        macs=11_282_415_616,
        input_shape=(224, 224, 3),
        min_size=32,
        weights=("random", "imagenet"),
        build=_resnet152,
        preprocessing=CAFFE,
        source=_SOURCE,
        aliases=("resnet-152",),
    ),
)
