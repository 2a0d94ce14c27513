"""Trace a Keras model into a TensorFlow graph that holds no weights.

The traced function takes every variable as an argument (``keras.StatelessScope``), so that
weights never become TensorFlow constants: they stay where they are and are read once, when
the ONNX file is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from cnnexport.errors import InputError

SCOPE = "cnnexport_layer_"
"""Prefix of the TensorFlow name scope that marks the ops of one layer, followed by its index."""


@dataclass(frozen=True)
class Trace:
    """A weight-free TensorFlow graph of a model.

    ``graph_def`` has one placeholder an input and one a variable; ``inputs``, ``variables`` and
    ``outputs`` are tensor names (``name:0``) in the model's order. ``layers[i]`` is the path of
    the layer whose ops carry the scope ``cnnexport_layer_<i>``; ``output_specs`` are the outputs'
    (shape, dtype) in TensorFlow.
    """

    graph_def: Any
    inputs: tuple[str, ...]
    variables: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    output_specs: tuple[tuple[tuple[int | None, ...], str], ...]


def leaf_layers(model: Any) -> list[tuple[str, Any]]:
    """Every layer that holds no other, as (path, layer), nested models flattened into paths."""
    found: list[tuple[str, Any]] = []
    seen: set[int] = set()

    def visit(layer: Any, path: str) -> None:
        for child in getattr(layer, "_layers", None) or ():
            child_path = f"{path}/{child.name}" if path else child.name
            if id(child) in seen:
                continue
            seen.add(id(child))
            if getattr(child, "_layers", None):
                visit(child, child_path)
            else:
                found.append((child_path, child))

    visit(model, "")
    return found


@contextmanager
def _layer_scopes(layers: Sequence[tuple[str, Any]]) -> Iterator[None]:
    """Make each layer's ops carry ``cnnexport_layer_<i>`` while the block runs.

    Keras' own name scopes are made unique by suffixes, which cannot be told apart from layer
    names such as ``conv2d_1``; an absolute scope can.
    """
    import tensorflow as tf

    def scoped(index: int, call: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with tf.name_scope(f"{SCOPE}{index}/"):
                return call(*args, **kwargs)

        return wrapper

    with ExitStack() as stack:
        for index, (_, layer) in enumerate(layers):
            # object.__setattr__: Keras' tracker must not see the wrapper.
            previous = layer.__dict__.get("call")
            object.__setattr__(layer, "call", scoped(index, layer.call))
            if previous is None:
                stack.callback(layer.__dict__.pop, "call", None)
            else:
                stack.callback(object.__setattr__, layer, "call", previous)
        yield


def trace(model: Any, signature: Sequence[tuple[str, tuple[int | None, ...], str]]) -> Trace:
    """Trace ``model`` at inference for ``signature``: (name, shape with batch, dtype) of each input.

    Raises:
        InputError: the model cannot be run as a graph (said in one line).
    """
    import keras
    import tensorflow as tf

    variables = list(model.variables)
    layers = leaf_layers(model)
    count = len(signature)
    structure = model.input if hasattr(model, "input") else [None] * count

    def function(*values: Any) -> Any:
        inputs = values[0] if count == 1 and not isinstance(structure, (dict, list, tuple)) else None
        if inputs is None:
            inputs = keras.tree.pack_sequence_as(structure, list(values[:count]))
        mapping = list(zip(variables, values[count:]))
        with keras.StatelessScope(state_mapping=mapping):
            return model(inputs, training=False)

    specs = [tf.TensorSpec(shape, tf.as_dtype(dtype), name=f"cnnexport_input_{i}")
             for i, (_, shape, dtype) in enumerate(signature)]
    specs += [tf.TensorSpec(v.shape, tf.as_dtype(v.dtype), name=f"cnnexport_variable_{i}")
              for i, v in enumerate(variables)]
    try:
        with _layer_scopes(layers):
            concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    except Exception as error:
        raise InputError(f"cannot trace model '{model.name}': {one_line(error)}") from error
    results = keras.tree.flatten(concrete.structured_outputs)
    outputs = [t.name for t in results]
    output_specs = [(tuple(t.shape), t.dtype.name) for t in results]
    if concrete.captured_inputs:
        concrete = _freeze(concrete, model)
        outputs = [t.name for t in concrete.outputs]
    names = [t.name for t in concrete.inputs]
    return Trace(
        graph_def=concrete.graph.as_graph_def(add_shapes=True),
        inputs=tuple(names[:count]),
        variables=tuple(names[count:]),
        outputs=tuple(outputs),
        layers=tuple(path for path, _ in layers),
        output_specs=tuple(output_specs),
    )


def _freeze(concrete: Any, model: Any) -> Any:
    """Bake what a custom layer captured beside Keras variables (``tf.Variable``, tables) into constants."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        return convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    except Exception as error:
        raise InputError(
            f"cannot convert model '{model.name}': it captures a resource that ONNX cannot hold "
            f"({one_line(error)}); keep such state outside the model"
        ) from error


def one_line(error: BaseException, limit: int = 300) -> str:
    """The first sentence of an exception that says something, on one line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (text or type(error).__name__)[:limit]
