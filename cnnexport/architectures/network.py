"""From two functions to a ``build`` that takes keras.applications' arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def network(name: str, features: Callable[..., Any], top: Callable[[Any, int, str | None], Any]) -> Callable[..., Any]:
    """The ``build`` of an architecture whose layers are ``features(x)`` and then ``top(x, classes, activation)``.

    ``features`` maps an (N, height, width, channels) Keras tensor to a 4-D one; further options of the
    architecture (``groups``) reach it by name. ``top`` ends in ``Dense(classes, activation=activation)``.
    The model built is untrained; its output is that of ``top``, or without it (``include_top=False``) the
    features, pooled to (N, channels) if ``pooling`` is "avg" or "max".
    """

    def build(
        *,
        include_top: bool,
        weights: None,
        input_tensor: Any,
        input_shape: tuple[int | None, int | None, int],
        pooling: str | None,
        classes: int,
        classifier_activation: str | None,
        **options: Any,
    ) -> Any:
        import keras

        image = keras.Input(input_shape) if input_tensor is None else input_tensor
        x = features(image, **options)
        if include_top:
            x = top(x, classes, classifier_activation)
        elif pooling == "avg":
            x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
        elif pooling == "max":
            x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
        inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
        return keras.Model(inputs, x, name=name)

    return build
