"""The ResNets of the paper's Table 1: basic blocks for 18 and 34, keras.applications' own for 50, 101 and 152."""

from __future__ import annotations

from typing import Any

from cnnexport.architectures.network import network
from cnnexport.architectures.spec import CAFFE, Architecture, Difference, Figure, Source, counted
from cnnexport.architectures.table import LayerRow, Table

SOURCE = Source(
    authors="He, Zhang, Ren and Sun",
    title="Deep Residual Learning for Image Recognition",
    venue="CVPR, arXiv:1512.03385",
    year=2016,
)
_FILTERS = (64, 128, 256, 512)
_EPSILON = 1.001e-5  # as in keras.applications' ResNets


def _basic(name: str, blocks: tuple[int, int, int, int]) -> Any:
    """The ``build`` of a ResNet of basic blocks: two 3x3 convolutions, and a 1x1 where the size changes."""

    def norm(x: Any, layer: str) -> Any:
        from keras import layers

        return layers.BatchNormalization(epsilon=_EPSILON, name=f"{layer}_bn")(x)

    def conv(x: Any, filters: int, size: int, stride: int, layer: str) -> Any:
        from keras import layers

        if size > 1:
            # Padded on both sides alike, as the authors' code does; "same" pads a stride of 2 on one side.
            x = layers.ZeroPadding2D(size // 2, name=f"{layer}_pad")(x)
        x = layers.Conv2D(filters, size, strides=stride, use_bias=False, name=f"{layer}_conv")(x)
        return norm(x, layer)

    def block(x: Any, filters: int, stride: int, layer: str) -> Any:
        from keras import layers

        shortcut = x if x.shape[-1] == filters else conv(x, filters, 1, stride, f"{layer}_0")
        y = conv(x, filters, 3, stride, f"{layer}_1")
        y = layers.ReLU(name=f"{layer}_1_relu")(y)
        y = conv(y, filters, 3, 1, f"{layer}_2")
        return layers.ReLU(name=f"{layer}_out")(layers.Add(name=f"{layer}_add")([shortcut, y]))

    def features(x: Any) -> Any:
        from keras import layers

        x = layers.ReLU(name="conv1_relu")(conv(x, 64, 7, 2, "conv1"))
        # Zeros lose against no maximum: all values are 0 or more.
        x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
        for stage, (filters, count) in enumerate(zip(_FILTERS, blocks), 2):
            for index in range(1, count + 1):
                x = block(x, filters, 2 if stage > 2 and index == 1 else 1, f"conv{stage}_block{index}")
        return x

    def top(x: Any, classes: int, activation: str | None) -> Any:
        from keras import layers

        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        return layers.Dense(classes, activation=activation, name="predictions")(x)

    return network(name, features, top)


def _resnet50(**options: Any) -> Any:
    import keras

    return keras.applications.ResNet50(**options)


def _resnet101(**options: Any) -> Any:
    import keras

    return keras.applications.ResNet101(**options)


def _resnet152(**options: Any) -> Any:
    import keras

    return keras.applications.ResNet152(**options)


def stages(table: Table, blocks: tuple[int, int, int, int], *, bottleneck: bool) -> Table:
    """Append conv1 to conv5_x to ``table``, each stage as one row."""
    bias = bottleneck  # keras.applications' convolutions have biases
    table.conv("conv1", 64, 7, 2, pad=3, bias=bias, norm=True).pool("maxpool", 3, 2, pad=1)
    for stage, (filters, count) in enumerate(zip(_FILTERS, blocks), 2):
        wide, stride, rows = filters * (4 if bottleneck else 1), 1 if stage == 2 else 2, []
        shape = table.shape
        for index in range(count):
            step = stride if index == 0 else 1
            if bottleneck:
                main = Table(*shape).conv("", filters, 1, step, norm=True).conv("", filters, 3, norm=True)
                main.conv("", wide, 1, norm=True)
            else:
                main = Table(*shape).conv("", filters, 3, step, pad=1, bias=False, norm=True)
                main.conv("", filters, 3, bias=False, norm=True)
            rows += main.rows
            if shape[-1] != wide:
                rows += Table(*shape).conv("", wide, 1, step, bias=bias, norm=True).rows
            shape = main.shape
        kernels = (f"1x1, {filters}; 3x3, {filters}; 1x1, {wide}" if bottleneck
                   else f"3x3, {filters}; 3x3, {filters}")
        table.stage(f"conv{stage}_x", f"[{kernels}] x {count}", stride, tuple(rows), shape)
    return table


def _table(blocks: tuple[int, int, int, int], *, bottleneck: bool) -> Any:
    def table(groups: bool) -> tuple[LayerRow, ...]:
        t = stages(Table(224, 224, 3), blocks, bottleneck=bottleneck)
        return tuple(t.global_pool("average pool").dense("fc", 1000).rows)

    return table


def _architecture(
    depth: int,
    blocks: tuple[int, int, int, int],
    *,
    parameters: int,
    macs: int,
    implied: int,
    flops: str,
    channels: int,
    build: Any = None,
) -> Architecture:
    """``implied``: parameters counted from Table 1; ``channels``: the sum over all batch normalisations."""
    differences = [
        Difference("the moving mean and variance of each batch normalisation count as parameters, as in Keras: the "
                   "paper's gradient descent does not train them", 2 * channels),
    ]
    if build:
        differences += [
            Difference("each convolution has a bias, as in keras.applications; the batch normalisation after it makes "
                       "it superfluous, and conversion folds both into one", channels),
            Difference("the stride of 2 lies in the first 1x1 convolution of a stage, as in the authors' code; other "
                       "libraries move it to the 3x3"),
        ]
    else:
        differences.append(Difference(
            "a shortcut between different sizes is a 1x1 convolution (option B); for 18 and 34 layers the paper's main "
            "results pad with zeros (option A), and its Table 3 finds B slightly better"))
    return Architecture(
        name=f"resnet{depth}",
        family="resnet",
        depth=depth,
        parameters=parameters,
        macs=macs,
        input_shape=(224, 224, 3),
        min_size=32,
        build=build or _basic(f"resnet{depth}", blocks),
        source=SOURCE,
        paper_parameters=counted(implied, "Table 1, the paper prints none: kernels, scale and shift of each batch "
                                 "normalisation, and fc"),
        paper_macs=Figure(round(float(flops) * 1e9), f"{flops} x 10^9", "Table 1, FLOPs (multiply-adds)"),
        differences=tuple(differences),
        table=_table(blocks, bottleneck=bool(build)),
        weights=("random", "imagenet") if build else ("random",),
        preprocessing=CAFFE,
        aliases=(f"resnet-{depth}",),
        # Scale, shift, mean and variance go into the kernel and the bias, which is new where there was none.
        folded=(4 if build else 3) * channels,
    )


BLOCKS_50 = (3, 4, 6, 3)

ARCHITECTURES: tuple[Architecture, ...] = (
    _architecture(18, (2, 2, 2, 2), parameters=11_699_112, macs=1_814_073_344, implied=11_689_512, flops="1.8",
                  channels=4_800),
    _architecture(34, (3, 4, 6, 3), parameters=21_814_696, macs=3_663_761_408, implied=21_797_672, flops="3.6",
                  channels=8_512),
    _architecture(50, BLOCKS_50, parameters=25_636_712, macs=3_857_973_248, implied=25_557_032, flops="3.8",
                  channels=26_560, build=_resnet50),
    _architecture(101, (3, 4, 23, 3), parameters=44_707_176, macs=7_570_194_432, implied=44_549_160, flops="7.6",
                  channels=52_672, build=_resnet101),
    _architecture(152, (3, 8, 36, 3), parameters=60_419_944, macs=11_282_415_616, implied=60_192_808, flops="11.3",
                  channels=75_712, build=_resnet152),
)
