"""Would a changed weight be seen? How far a small change of each layer's weights moves the outputs.

Random changes of standard deviation ``PERTURBATION * rms(weights)`` on all weights of a layer move the
outputs, to first order, by a root mean square of ``PERTURBATION * rms * |J|``, with J the outputs' Jacobian.
For a random vector v of signs, the mean of ``|J^T v|**2`` is ``|J|**2`` (Hutchinson's estimator), so that one
backward pass tells all layers at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnexport.parity import live
from cnnexport.parity.comparison import Array
from cnnexport.parity.tolerances import PERTURBATION as PERTURBATION


def effects(model: Any, heads: Sequence[Any], arrays: Sequence[Array], *, seed: int = 0) -> dict[str, float | None]:
    """The effect of each weighted leaf layer of ``model`` on its logits (outputs where there are none).

    Values are in standard deviations of those; None for all where the model has no gradient.
    """
    import keras
    import tensorflow as tf

    from cnnexport.conversion.trace import is_leaf, named_operations
    from cnnexport.keras_files.onednn import sound_gradients

    layers = {path: [v for v in layer.variables if "float" in str(v.dtype)]
              for path, layer in named_operations(model) if is_leaf(layer)}
    layers = {path: variables for path, variables in layers.items() if variables}
    if not layers:
        return {}
    flat = [v for variables in layers.values() for v in variables]
    rng = np.random.default_rng([seed, 17])
    fed = [keras.ops.convert_to_tensor(a) for a in arrays]
    try:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for variable in flat:
                tape.watch(variable.value)
            total = tf.zeros(())
            for result, before in zip(*live.call(model, heads, fed)):
                output = result if before is None else before
                if not output.dtype.is_floating:
                    continue
                values = tf.cast(output, tf.float32)
                signs = rng.choice((-1.0, 1.0), tuple(values.shape)).astype(np.float32)
                # Divided by the spread and the root of the count: the mean square over all values.
                unit = float(tf.math.reduce_std(values)) or 1.0
                total += tf.reduce_sum(values * signs) / (unit * math.sqrt(max(values.shape.num_elements(), 1)))
        with sound_gradients():
            gradients = tape.gradient(total, [v.value for v in flat])
    except Exception:  # an operation without a gradient, or no memory for one: nothing is known then
        return dict.fromkeys(layers)
    squares = {}
    for variable, gradient in zip(flat, gradients):
        if gradient is None:
            squares[id(variable)] = 0.0
            continue
        gradient = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
        size = float(tf.sqrt(tf.reduce_mean(tf.square(tf.cast(variable.value, tf.float32))))) or 1.0
        squares[id(variable)] = float(tf.reduce_sum(tf.square(tf.cast(gradient, tf.float32)))) * size**2
    return {path: PERTURBATION * math.sqrt(sum(squares[id(v)] for v in variables))
            for path, variables in layers.items()}
