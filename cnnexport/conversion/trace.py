"""Trace a Keras model into a TensorFlow graph that holds no weights.

The traced function takes every variable as an argument (``keras.StatelessScope``), so that
weights never become TensorFlow constants: they stay where they are and are read once, when
the ONNX file is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from cnnexport.conversion.inputs import input_structure
from cnnexport.errors import InputError
from cnnexport.keras_files import internals
from cnnexport.text import one_line

SCOPE = "cnnexport_layer_"
"""Prefix of the TensorFlow name scope that marks the ops of one layer, followed by its index."""

LONGEST_UNROLLED = 128
"""Steps up to which a recurrent layer is unrolled."""


@dataclass(frozen=True)
class Trace:
    """A weight-free TensorFlow graph of a model.

    ``graph_def`` has one placeholder an input and one a variable; ``inputs``, ``variables`` and
    ``outputs`` are tensor names (``name:0``) in the model's order. ``scopes[i]`` is the path of
    the layer or operation whose ops carry the scope ``cnnexport_layer_<i>``; ``layers`` are the paths of
    the layers that hold no other. ``filled`` are the variables that are constants in the graph. ``output_specs`` are
    the outputs' (shape, dtype) in TensorFlow, ``ends`` the operators that make them, and ``keys`` their names where the
    model returns a dict.
    """

    graph_def: Any
    inputs: tuple[str, ...]
    variables: tuple[str, ...]
    outputs: tuple[str, ...]
    scopes: tuple[str, ...]
    layers: tuple[str, ...]
    output_specs: tuple[tuple[tuple[int | None, ...], str], ...]
    filled: frozenset[str] = frozenset()
    ends: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


def named_operations(model: Any) -> list[tuple[str, Any]]:
    """Every layer and operation in ``model`` as (path, operation), containers after what they hold.

    Operations (``keras.ops`` on symbolic tensors) are no layers, but have names in a Functional model too.
    """
    found: list[tuple[str, Any]] = []
    seen: set[int] = {id(model)}

    def visit(layer: Any, path: str) -> None:
        for child in internals.children(layer):
            if id(child) in seen:
                continue
            seen.add(id(child))
            child_path = f"{path}/{child.name}" if path else str(child.name)
            visit(child, child_path)
            found.append((child_path, child))

    visit(model, "")
    found.append((str(model.name), model))
    return found


def is_leaf(layer: Any) -> bool:
    """Whether ``layer`` is a Keras layer that holds no other."""
    import keras

    return isinstance(layer, keras.Layer) and not internals.children(layer)


def is_operation(layer: Any) -> bool:
    """Whether ``layer`` is an operation of a Functional model (``keras.ops`` on symbolic tensors) and no layer."""
    import keras

    return isinstance(layer, keras.Operation) and not isinstance(layer, keras.Layer)


@contextmanager
def _layer_scopes(layers: Sequence[tuple[str, Any]], failed: list[str]) -> Iterator[None]:
    """Make each layer's ops carry ``cnnexport_layer_<i>`` while the block runs.

    The paths of layers that raise are added to ``failed``.

    Keras' own name scopes are made unique by suffixes, which cannot be told apart from layer
    names such as ``conv2d_1``; an absolute scope can.
    """
    import keras
    import tensorflow as tf

    def scoped(index: int, layer: Any, call: Any) -> Any:
        if isinstance(layer, keras.layers.TimeDistributed):
            call = _steps_as_items(layer, call)
        elif isinstance(layer, keras.layers.UpSampling2D) and layer.interpolation != "nearest":
            call = _resized(layer, call)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                with tf.name_scope(f"{SCOPE}{index}/"), _unrolled(layer, args):
                    return call(*args, **kwargs)
            except Exception:
                failed.append(layers[index][0])
                raise

        return wrapper

    with ExitStack() as stack:
        for index, (_, layer) in enumerate(layers):
            stack.enter_context(internals.replaced(layer, "call", scoped(index, layer, layer.call)))
        yield


@contextmanager
def _named_for_tensorflow(operations: Sequence[tuple[str, Any]]) -> Iterator[None]:
    """Give layers whose names TensorFlow's name scopes do not take others while the block runs."""
    with ExitStack() as stack:
        for index, (_, operation) in enumerate(operations):
            if not re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*", operation.name):
                stack.enter_context(internals.replaced(operation, "name", f"cnnexport_named_{index}"))
        yield


@contextmanager
def _unrolled(layer: Any, args: Sequence[Any]) -> Iterator[None]:
    """Unroll a recurrent layer over a known number of steps while the block runs.

    tf2onnx turns TensorFlow's loops into ONNX's only where the weights are constants, and the values inside
    a loop have no shapes.
    """
    import keras

    steps = args[0].shape[1] if args and len(getattr(args[0], "shape", ())) > 1 else None
    if not isinstance(layer, keras.layers.RNN) or layer.unroll or steps is None or steps > LONGEST_UNROLLED:
        yield
        return
    with internals.replaced(layer, "unroll", True):
        yield


def _steps_as_items(layer: Any, call: Any) -> Any:
    """Let a layer see the steps of an open time axis as items of one batch, where Keras loops over them."""
    from keras import ops

    def at_once(x: Any, *args: Any, **kwargs: Any) -> Any:
        if x.shape[1] is not None or kwargs.get("mask") is not None or len(args) > 1:
            return call(x, *args, **kwargs)
        batch, steps, *rest = ops.shape(x)
        made = layer.layer.call(ops.reshape(x, (-1, *rest)))
        if not hasattr(made, "shape"):
            return call(x, *args, **kwargs)
        return ops.reshape(made, (batch, steps, *ops.shape(made)[1:]))

    return at_once


def _resized(layer: Any, call: Any) -> Any:
    """Let a layer enlarge images of a size that only the graph knows, where Keras wants to compare it."""
    import tensorflow as tf

    def graphed(x: Any, *args: Any, **kwargs: Any) -> Any:
        first = layer.data_format == "channels_first"
        if None not in x.shape[2 if first else 1:][:2]:
            return call(x, *args, **kwargs)
        images = tf.transpose(x, [0, 2, 3, 1]) if first else x
        made = tf.image.resize(images, tf.shape(images)[1:3] * tf.constant(layer.size), method=layer.interpolation)
        made = tf.cast(made, x.dtype)
        return tf.transpose(made, [0, 3, 1, 2]) if first else made

    return graphed


@contextmanager
def _inlined() -> Iterator[None]:
    """Let ``tf.function``s inside layers trace as part of the whole: ONNX has no calls.

    Keras wraps grouped convolutions into one that is compiled by XLA.
    """
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def trace(model: Any, signature: Sequence[tuple[str, tuple[int | None, ...], str]]) -> Trace:
    """Trace ``model`` at inference for ``signature``: (name, shape with batch, dtype) of each input.

    Raises:
        InputError: the model cannot be run as a graph (said in one line).
    """
    import keras
    import tensorflow as tf

    variables = list(model.variables)
    operations = named_operations(model)
    count = len(signature)
    structure = input_structure(model)

    def function(*values: Any) -> Any:
        inputs = values[0]
        if structure is not None:
            inputs = keras.tree.pack_sequence_as(structure, list(values[:count]))
        mapping = list(zip(variables, values[count:]))
        with keras.StatelessScope(state_mapping=mapping):
            return model(inputs, training=False)

    specs = [tf.TensorSpec(shape, tf.as_dtype(dtype), name=f"cnnexport_input_{i}")
             for i, (_, shape, dtype) in enumerate(signature)]
    specs += [tf.TensorSpec(v.shape, tf.as_dtype(v.dtype), name=f"cnnexport_variable_{i}")
              for i, v in enumerate(variables)]
    for path, operation in operations:
        if "float8" in str(getattr(getattr(operation, "dtype_policy", None), "name", "")):
            raise InputError(f"layer '{path}' of model '{model.name}' computes in float8, which no runtime here does; "
                             "give it another dtype policy (float32, or mixed_float16)")
    failed: list[str] = []
    try:
        with _layer_scopes(operations, failed), _named_for_tensorflow(operations), _inlined(), \
                internals.native_dilations():
            concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    except Exception as error:
        # The innermost layer that an exception passed comes first; the model itself is the outermost.
        where = f"layer '{failed[0]}' of model" if len(failed) > 1 else "model"
        raise InputError(f"cannot trace {where} '{model.name}': {one_line(error)}; "
                         "it must run as a TensorFlow graph") from error
    results = keras.tree.flatten(concrete.structured_outputs)
    outputs = [t.name for t in results]
    output_specs = [(tuple(t.shape), t.dtype.name) for t in results]
    ends = tuple(_maker(t) for t in results)
    structure = concrete.structured_outputs
    keys = tuple(map(str, sorted(structure))) if isinstance(structure, dict) and len(structure) == len(results) else ()
    if concrete.captured_inputs:
        concrete = _freeze(concrete, model)
        outputs = [t.name for t in concrete.outputs]
    names = [t.name for t in concrete.inputs]
    graph_def = concrete.graph.as_graph_def(add_shapes=True)
    filled = _fill_loops(graph_def, dict(zip(names[count:], variables)))
    return Trace(
        graph_def=graph_def,
        inputs=tuple(names[:count]),
        variables=tuple(names[count:]),
        outputs=tuple(outputs),
        scopes=tuple(path for path, _ in operations),
        layers=tuple(path for path, operation in operations if is_leaf(operation)),
        output_specs=tuple(output_specs),
        filled=filled,
        ends=ends,
        keys=keys,
    )


def _maker(tensor: Any) -> str:
    """The operator that makes a tensor of a graph, behind copies of it."""
    operation = tensor.op
    while operation.type == "Identity" and operation.inputs:
        operation = operation.inputs[0].op
    return str(operation.type)


def _fill_loops(graph_def: Any, variables: Mapping[str, Any]) -> frozenset[str]:
    """Make the weights that a loop reads constants, and name them: tf2onnx knows recurrent layers by them.

    They are those of recurrent layers over a number of steps that is open.
    """
    import tensorflow as tf

    read = {name.partition(":")[0] for node in graph_def.node if node.op in ("While", "StatelessWhile")
            for name in node.input}
    filled = set()
    for node in graph_def.node:
        variable = variables.get(f"{node.name}:0")
        if variable is not None and node.name in read:
            constant = tf.make_tensor_proto(variable.numpy())
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = constant.dtype
            node.attr["value"].tensor.CopyFrom(constant)
            filled.add(f"{node.name}:0")
    return frozenset(filled)


def _freeze(concrete: Any, model: Any) -> Any:
    """Bake what a custom layer captured beside Keras variables (``tf.Variable``, tables) into constants."""
    try:
        return internals.with_constants(concrete)
    except Exception as error:
        raise InputError(
            f"cannot convert model '{model.name}': it captures a resource that ONNX cannot hold "
            f"({one_line(error)}); keep such state outside the model"
        ) from error
