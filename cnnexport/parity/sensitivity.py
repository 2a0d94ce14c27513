"""Would a changed weight be seen? How far a small change of each layer's weights moves the outputs.

Random changes of standard deviation ``PERTURBATION * rms(weights)`` on all weights of a layer move the
outputs, to first order, by a root mean square of ``PERTURBATION * rms * |J|``, with J the outputs' Jacobian.
For a random vector v of signs, the mean of ``|J^T v|**2`` is ``|J|**2`` (Hutchinson's estimator), so that one
backward pass tells all layers at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnexport.keras_files import internals
from cnnexport.parity import live
from cnnexport.parity.comparison import Array
from cnnexport.parity.stretches import Stretch, run, stretches
from cnnexport.parity.tolerances import PERTURBATION as PERTURBATION


def effects(model: Any, heads: Sequence[Any], arrays: Sequence[Array], *, seed: int = 0) -> dict[str, float | None]:
    """The effect of each weighted leaf layer of ``model`` on its logits (outputs where there are none).

    Values are in standard deviations of those; None for all where the model has no gradient.
    """
    import keras

    from cnnexport.conversion.trace import is_leaf, named_operations
    from cnnexport.keras_files.onednn import sound_gradients

    layers = {path: [v for v in layer.variables if "float" in str(v.dtype)]
              for path, layer in named_operations(model) if is_leaf(layer)}
    layers = {path: variables for path, variables in layers.items() if variables}
    if not layers:
        return {}
    fed = [keras.ops.convert_to_tensor(a) for a in arrays]
    flat = {id(v): v for variables in layers.values() for v in variables}
    graph = internals.graph_of(model)
    parts = stretches(graph, int(fed[0].shape[0])) if graph is not None else []
    try:
        with sound_gradients():
            squares = (_in_stretches(graph, parts, heads, fed, flat, seed) if len(parts) > 1 else
                       _at_once(model, heads, fed, flat, seed))
    except Exception:  # an operation without a gradient, or no memory for one: nothing is known then
        return dict.fromkeys(layers)
    return {path: PERTURBATION * math.sqrt(sum(squares.get(id(v), 0.0) for v in variables))
            for path, variables in layers.items()}


def _at_once(
    model: Any, heads: Sequence[Any], fed: Sequence[Any], variables: Mapping[int, Any], seed: int
) -> dict[int, float]:
    """For each variable, by its id, the square of what a change as large as itself does to the outputs."""
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for variable in variables.values():
            tape.watch(variable.value)
        loss = sum(_loss(index, output if before is None else before, seed)
                   for index, (output, before) in enumerate(zip(*live.call(model, heads, fed))))
    gradients = tape.gradient(loss, [v.value for v in variables.values()])
    return {key: _square(v, g) for (key, v), g in zip(variables.items(), gradients) if g is not None}


def _in_stretches(
    graph: Any, parts: Sequence[Stretch], heads: Sequence[Any], fed: Sequence[Any], variables: Mapping[int, Any],
    seed: int,
) -> dict[int, float]:
    """``_at_once``, with the tensors of one stretch of the ``graph`` in memory at a time."""
    import keras
    import tensorflow as tf

    from cnnexport.keras_files import heads as endings

    held = {id(x): keras.ops.cast(y, x.dtype) for x, y in zip(graph.inputs, fed)}
    for part in parts[:-1]:
        held |= run(part, held)
    ends = {id(x): index for index, x in enumerate(graph.outputs)}
    uses = Counter(key for part in parts for key in part.variables)
    arriving: dict[int, Any] = {}  # the gradient of each tensor between stretches
    shared: dict[int, Any] = {}  # and so far of each variable of more than one
    squares = {}
    for part in reversed(parts):
        before = {i: held[i] for i in part.needs}
        watched = {i: x for i, x in before.items() if x.dtype.is_floating}
        own = {key: v for key, v in part.variables.items() if key in variables}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for tensor in [*watched.values(), *(v.value for v in own.values())]:
                tape.watch(tensor)
            with endings.recording(heads) as records:
                made = run(part, before)
            losses = [_loss(ends[i], next((x for x, y in records if y is made[i] and heads[ends[i]] is not None),
                                          made[i]), seed) for i in made if i in ends]
            targets = [(x, arriving.pop(i)) for i, x in made.items() if i in arriving]
            targets += [(x, tf.ones_like(x)) for x in losses]
        del made, records, losses
        gradients = tape.gradient([x for x, _ in targets], [*watched.values(), *(v.value for v in own.values())],
                                  output_gradients=[g for _, g in targets])
        del targets, tape
        for i, gradient in zip(watched, gradients):
            if gradient is not None:
                arriving[i] = arriving[i] + gradient if i in arriving else gradient
        for (key, variable), gradient in zip(own.items(), gradients[len(watched):]):
            uses[key] -= 1
            if gradient is not None:
                shared[key] = shared[key] + gradient if key in shared else gradient
            if not uses[key] and key in shared:
                squares[key] = _square(variable, shared.pop(key))
    return squares


def _loss(index: int, values: Any, seed: int) -> Any:
    """The product of an output with random signs, its mean square over all values one."""
    import tensorflow as tf

    if not values.dtype.is_floating:
        return tf.zeros(())
    values = tf.cast(values, tf.float32)
    signs = np.random.default_rng([seed, 17, index]).choice((-1.0, 1.0), tuple(values.shape)).astype(np.float32)
    unit = float(tf.math.reduce_std(values)) or 1.0
    return tf.reduce_sum(values * signs) / (unit * math.sqrt(max(values.shape.num_elements(), 1)))


def _square(variable: Any, gradient: Any) -> float:
    import tensorflow as tf

    gradient = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    size = float(tf.sqrt(tf.reduce_mean(tf.square(tf.cast(variable.value, tf.float32))))) or 1.0
    return float(tf.reduce_sum(tf.square(tf.cast(gradient, tf.float32)))) * size**2
