"""Random weights under which an untrained network is alive: its outputs depend on its input.

Keras' own initialisers leave deep networks nearly constant (biases at zero, batch normalisation as the
identity), so that two runtimes agree on them whatever they get wrong.  Here every variable carries a
random value, and a small seeded batch is run once, layer by layer, to keep the signal near unit variance
(layer-sequential unit variance: Mishkin and Matas, All You Need is a Good Init, ICLR 2016).  What the batch
decides is rounded coarsely, and all values are uniform ones times constants, so that neither the last bits of
one machine's arithmetic nor its mathematical library show: the same seed gives the same bytes everywhere.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnexport.keras_files import internals

_UNKNOWN_SIZE = 224  # pixels, where the model leaves height or width open
_BATCH = 2
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")


def randomise(
    model: Any, seed: int, *, value_range: tuple[float, float] = (-1.0, 1.0), only: set[int] | None = None
) -> None:
    """Give every weight of a functional ``model`` a value fixed by ``seed``, in place.

    ``value_range`` is the range of the inputs the model will see; the calibrating batch spans it. ``only`` holds the
    ids of the layers whose weights are drawn, None for all; the others keep theirs.
    """
    order = {id(variable): index for index, variable in enumerate(model.weights)}
    halved = _before_add(model)
    seen: set[int] = set()

    def draw(variable: Any) -> np.random.Generator:
        # By position and short name: the full path holds counters that depend on what was built before.
        key = (order[id(variable)], zlib.crc32(variable.name.encode()))
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))

    def wrapped(op: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if (graph := internals.graph_of(op)) is not None:
                return internals.run_graph(graph, args[0], wrapped)
            kept = only is not None and id(op) not in only
            if id(op) in seen or kept or not getattr(op, "weights", None):
                return op(*args, **kwargs)
            seen.add(id(op))
            if hasattr(op, "moving_variance"):
                return _normalisation(op, args, kwargs, draw, 0.5 if id(op) in halved else 1.0)
            return _linear(op, args, kwargs, draw)

        return run

    root = internals.graph_of(model)
    internals.run_graph(root, _calibration(root.inputs, seed, value_range), wrapped)


def _before_add(model: Any) -> set[int]:
    """The ids of the layers that end the residual branch of an addition: all its inputs but the first."""
    import keras

    return {
        id(origin[0])
        for layer in internals.all_layers(model, itself=False)
        if isinstance(layer, keras.layers.Add)
        for tensor in layer.input[1:]
        if (origin := internals.made_by(tensor))
    }


def _calibration(inputs: list[Any], seed: int, value_range: tuple[float, float]) -> list[Any]:
    """Two images for each input: blocks of 8 by 8 of the image's size plus noise, within ``value_range``."""
    import keras

    low, high = value_range
    batches = []
    for index, tensor in enumerate(inputs):
        sequence = np.random.SeedSequence(seed, spawn_key=(index, zlib.crc32(b"calibration")))
        rng = np.random.Generator(np.random.PCG64(sequence))
        shape = (_BATCH, *(_UNKNOWN_SIZE if size is None else size for size in tensor.shape[1:]))
        values = rng.random(shape, dtype=np.float32)
        if len(shape) == 4:
            blocks = rng.random((_BATCH, 8, 8, shape[3]), dtype=np.float32)
            rows, columns = (np.arange(size) * 8 // size for size in shape[1:3])
            values = 0.5 * values + 0.5 * blocks[:, rows][:, :, columns]
        batches.append(keras.ops.convert_to_tensor((low + (high - low) * values).astype(tensor.dtype)))
    return batches


def _power_of_two(value: float) -> float:
    return 2.0 ** round(math.log2(value)) if value > 0 and math.isfinite(value) else 1.0


def _array(tensor: Any) -> NDArray[np.float32]:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor), np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> NDArray[np.float32]:
    """Uniform values around 0 with a standard ``deviation``."""
    values = rng.random(shape, dtype=np.float32)
    values -= np.float32(0.5)
    values *= np.float32(math.sqrt(12) * deviation)
    return values


def _he(variable: Any, rng: np.random.Generator, *, centred: bool) -> NDArray[np.float32]:
    """He-uniform values; ``centred`` ones sum to nothing over each output's inputs."""
    shape = tuple(variable.shape)
    inputs = tuple(range(len(shape) - 1))
    if variable.name == "depthwise_kernel" or getattr(variable, "depthwise", False):
        inputs = inputs[:-1]
    fan_in = math.prod(shape[axis] for axis in inputs)
    values = _noise(rng, shape, math.sqrt(2 / fan_in))
    if centred and fan_in > 1:
        values -= values.mean(axis=inputs, keepdims=True)
    return values


def _linear(op: Any, args: Any, kwargs: Any, draw: Any) -> Any:
    """Set a convolution or dense layer so that its output before the activation has a deviation near 1."""
    import keras

    kernels = [variable for variable in op.weights if variable.name in _KERNELS]
    for variable in op.weights:
        rng = draw(variable)
        if variable.name in _KERNELS or (len(variable.shape) > 1 and variable.name not in ("bias", "beta")):
            # After a ReLU, or on pixels, centred kernels keep the common mean from drowning the rest.
            spread = float(keras.ops.std(args[0]))
            centred = len(op.weights) <= 2 and abs(float(keras.ops.mean(args[0]))) > 0.25 * spread
            variable.assign(_he(variable, rng, centred=centred))
        elif variable.name in ("gamma", "scale"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape).astype(np.float32))
        elif variable.name != "bias" and not str(variable.dtype).startswith("float"):
            continue
        else:
            variable.assign(np.zeros(variable.shape, np.float32))
    biases = [variable for variable in op.weights if variable.name in ("bias", "beta")]
    values = {id(b): _noise(draw(b), tuple(b.shape), 0.1) for b in biases}
    if not kernels or not hasattr(op, "activation"):
        for bias in biases:
            bias.assign(values[id(bias)])
        return op(*args, **kwargs)

    activation = op.activation
    op.activation = keras.activations.linear
    try:
        output = op(*args, **kwargs)
    finally:
        op.activation = activation
    scale = _power_of_two(1 / max(float(keras.ops.std(output)), 1e-30))
    kernels[-1].assign(kernels[-1] * scale)
    output = output * scale
    for bias in biases:
        bias.assign(values[id(bias)])
        output = output + keras.ops.cast(bias, output.dtype)
    return output if activation is None else activation(output)


def _normalisation(op: Any, args: Any, kwargs: Any, draw: Any, gain: float) -> Any:
    """Set a batch normalisation whose statistics fit its input to a factor of two."""
    import keras

    variance = _power_of_two(float(keras.ops.var(args[0])))
    shape = tuple(op.moving_variance.shape)
    if op.gamma is not None:
        op.gamma.assign((gain * draw(op.gamma).uniform(0.5, 1.5, shape)).astype(np.float32))
    if op.beta is not None:
        op.beta.assign(_noise(draw(op.beta), shape, 0.1))
    unit = math.sqrt(variance)
    mean = unit / 4 * round(4 * float(keras.ops.mean(args[0])) / unit)
    op.moving_mean.assign(np.float32(mean) + _noise(draw(op.moving_mean), shape, 0.05 * unit))
    spread = draw(op.moving_variance).uniform(0.7, 1.4, shape)
    op.moving_variance.assign((variance * spread).astype(np.float32))
    return op(*args, **kwargs)
