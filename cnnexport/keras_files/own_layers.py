"""Layers of the papers that Keras lacks, which a file may hold. Importing this module imports Keras and TensorFlow."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("cnnexport")
class LocalResponseNormalization(keras.layers.Layer):  # type: ignore[misc]
    """Divides each value by a power of the squares around it: ``x / (bias + alpha * sum(x**2))**beta``.

    The sum runs over ``size`` (odd) neighbouring channels, the value's own in the middle. Input and output
    are (N, height, width, channels). The constants are those of Krizhevsky, Sutskever and Hinton (2012),
    section 3.3. ONNX's LRN divides its alpha by the size, so that there it is ``size * alpha``, 5e-4.
    """

    def __init__(
        self, size: int = 5, bias: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, **options: Any
    ) -> None:
        super().__init__(**options)
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size is {size}; it must be odd")
        self.size, self.bias, self.alpha, self.beta = size, bias, alpha, beta

    def call(self, inputs: Any) -> Any:
        return tf.nn.local_response_normalization(
            inputs, depth_radius=self.size // 2, bias=self.bias, alpha=self.alpha, beta=self.beta)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "bias": self.bias, "alpha": self.alpha, "beta": self.beta}
