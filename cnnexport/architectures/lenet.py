"""LeNet-5, in its common modern form: full C3 connections and a softmax classifier."""

from __future__ import annotations

from typing import Any

from cnnexport.architectures.spec import Architecture, Preprocessing


def _lenet5(
    *,
    include_top: bool,
    weights: None,
    input_tensor: Any,
    input_shape: tuple[int | None, int | None, int],
    pooling: str | None,
    classes: int,
    classifier_activation: str | None,
) -> Any:
    """Untrained; the output is (N, classes) with the top, else (N, h, w, 16), or (N, 16) when pooled."""
    import keras
    from keras import layers

    image = keras.Input(input_shape) if input_tensor is None else input_tensor
    x = layers.Conv2D(6, 5, activation="tanh", name="c1")(image)
    x = layers.AveragePooling2D(2, name="s2")(x)
    x = layers.Conv2D(16, 5, activation="tanh", name="c3")(x)
    x = layers.AveragePooling2D(2, name="s4")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(120, activation="tanh", name="c5")(x)
        x = layers.Dense(84, activation="tanh", name="f6")(x)
        x = layers.Dense(classes, activation=classifier_activation, name="predictions")(x)
    elif pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)
    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    return keras.Model(inputs, x, name="lenet5")


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        name="lenet5",
        family="lenet",
        depth=5,
        parameters=61_706,
        macs=416_520,
        input_shape=(32, 32, 1),
        min_size=16,
        weights=("random",),
        build=_lenet5,
        preprocessing=Preprocessing(
            description="grey 0 (background) to 255 (ink), mapped linearly to -0.1 .. 1.175",
            color_order="grey",
            scale=1.275 / 255,
            mean=(0.1,),
            std=(),
            value_range=(-0.1, 1.175),
        ),
        source=(
            "LeCun, Bottou, Bengio and Haffner, Gradient-Based Learning Applied to Document Recognition, "
            "Proceedings of the IEEE 86(11), 1998"
        ),
        aliases=("lenet", "lenet-5"),
        classes=10,
    ),
)
