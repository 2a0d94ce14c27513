"""The course's transfer-learning models: a frozen backbone, and a small top of its own for few classes."""

from __future__ import annotations

from typing import Any

from cnnexport.architectures import resnet, vgg
from cnnexport.architectures.spec import CAFFE, Architecture, Difference, counted
from cnnexport.architectures.table import LayerRow, Table

_SIZE = Difference("the input is 32x32x3, the smallest: MNIST in RGB, padded")
_FROZEN = Difference("the backbone is frozen: training moves the top alone")


def _transfer(name: str, application: str) -> Any:
    def build(
        *,
        include_top: bool,
        weights: str | None,
        input_tensor: Any,
        input_shape: tuple[int | None, int | None, int],
        pooling: str | None,
        classes: int,
        classifier_activation: str | None,
    ) -> Any:
        import keras

        own = set()
        if input_tensor is not None:
            front = keras.Model(keras.utils.get_source_inputs(input_tensor), input_tensor)
            own = {id(layer) for layer in front.layers}
        backbone = getattr(keras.applications, application)(
            include_top=False, weights=weights, input_tensor=input_tensor, input_shape=input_shape,
            pooling=None if include_top else pooling)
        for layer in backbone.layers:
            if id(layer) not in own:
                layer.trainable = False
        x = backbone.output
        if include_top:
            x = keras.layers.Flatten(name="flatten")(x)
            x = keras.layers.Dense(256, activation="relu", name="top_fc1")(x)
            x = keras.layers.Dense(64, activation="relu", name="top_fc2")(x)
            x = keras.layers.Dense(classes, activation=classifier_activation, name="predictions")(x)
        return keras.Model(backbone.inputs, x, name=name)

    return build


def _vgg16_table(groups: bool) -> tuple[LayerRow, ...]:
    t = vgg.blocks(Table(32, 32, 3), "D")
    return tuple(t.dense("FC-256", 256).dense("FC-64", 64).dense("FC-10", 10).rows)


def _resnet50_table(groups: bool) -> tuple[LayerRow, ...]:
    t = resnet.stages(Table(32, 32, 3), resnet.BLOCKS_50, bottleneck=True)
    return tuple(t.dense("FC-256", 256).dense("FC-64", 64).dense("FC-10", 10).rows)


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        name="vgg16-transfer",
        family="transfer",
        depth=16,
        parameters=14_863_114,
        macs=313_344_640,
        input_shape=(32, 32, 3),
        min_size=32,
        build=_transfer("vgg16-transfer", "VGG16"),
        source=vgg.SOURCE,
        paper_parameters=counted(14_714_688, "configuration D of Table 1 without its fully connected layers"),
        paper_macs=counted(313_196_544, "configuration D of Table 1 at 32x32, without its fully connected layers"),
        differences=(
            Difference("Dense 256, 64 and 10 instead of FC-4096, FC-4096 and FC-1000", 148_426, 148_096),
            _SIZE,
            _FROZEN,
        ),
        table=_vgg16_table,
        weights=("random", "imagenet"),
        preprocessing=CAFFE,
        classes=10,
        backbone=True,
    ),
    Architecture(
        name="resnet50-transfer",
        family="transfer",
        depth=52,
        parameters=24_129_354,
        macs=79_233_664,
        input_shape=(32, 32, 3),
        min_size=32,
        build=_transfer("resnet50-transfer", "ResNet50"),
        source=resnet.SOURCE,
        paper_parameters=counted(23_508_032, "Table 1 without its fc: kernels, scale and shift of each batch "
                                 "normalisation"),
        paper_macs=counted(78_692_352, "Table 1 at 32x32, without its fc"),
        differences=(
            Difference("the moving mean and variance of each batch normalisation count as parameters, as in Keras",
                       53_120),
            Difference("each convolution has a bias, as in keras.applications", 26_560),
            Difference("Flatten and Dense 256, 64 and 10 instead of average pooling and fc", 541_642, 541_312),
            _SIZE,
            _FROZEN,
        ),
        table=_resnet50_table,
        weights=("random", "imagenet"),
        preprocessing=CAFFE,
        classes=10,
        folded=4 * 26_560,
        backbone=True,
    ),
)
