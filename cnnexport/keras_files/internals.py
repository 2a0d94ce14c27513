"""What the package needs of Keras and TensorFlow beyond their public interfaces, one function a need.

No other module touches their private names (``tests/test_house.py``). ``tests/test_internals.py`` says of each function
what must stay true of the libraries, so that a version that changes it fails there, by name.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

# --- Keras: layers ---------------------------------------------------------------------------------------------


def all_layers(model: Any, *, itself: bool = True) -> list[Any]:
    """Every layer in a model at any depth, once; with the model itself first unless told otherwise."""
    return list(model._flatten_layers(include_self=itself))


def children(layer: Any) -> list[Any]:
    """The layers that a layer holds directly, then the layers and operations of its graph; some come twice."""
    return [*(getattr(layer, "_layers", None) or ()), *(getattr(layer, "_operations", None) or ())]


def seed_generators(layer: Any) -> list[Any]:
    """The random generators that a layer draws from while training."""
    return list(getattr(layer, "_seed_generators", None) or ())


@contextmanager
def replaced(operation: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a layer or operation, such as its ``call``, unseen by Keras' tracker while the block runs."""
    had, before = name in vars(operation), vars(operation).get(name)
    object.__setattr__(operation, name, value)
    try:
        yield
    finally:
        if had:
            object.__setattr__(operation, name, before)
        else:
            vars(operation).pop(name, None)


@contextmanager
def in_float64(model: Any) -> Iterator[None]:
    """Let every layer of a model compute in float64, from the weights that it has, while the block runs.

    A weight is cast where it is read, so that no second set of them is held.
    """
    import keras

    class Wide(keras.DTypePolicy):  # type: ignore[misc]
        compute_dtype = "float64"

    with ExitStack() as stack:
        for layer in all_layers(model):
            if str(getattr(layer, "compute_dtype", None)) in ("float32", "float16", "bfloat16"):
                stack.enter_context(replaced(layer, "_dtype_policy", Wide(layer.variable_dtype)))
            for symbol in getattr(graph_of(layer), "inputs", ()):  # a model casts what it is given to their types
                if "float" in str(symbol.dtype):
                    stack.enter_context(replaced(symbol, "_dtype", "float64"))
        yield


# --- Keras: graphs ---------------------------------------------------------------------------------------------


def graph_of(layer: Any) -> Any:
    """The functional graph that a layer is, or that a Sequential model holds; None where there is none."""
    graph = getattr(layer, "_functional", None) or layer
    return graph if hasattr(graph, "_run_through_graph") else None


def nodes(model: Any) -> list[Any]:
    """The calls (operation, tensors in and out) of a model's graph, inputs first; none where it has no graph."""
    depths = getattr(graph_of(model), "_nodes_by_depth", {})
    return [node for depth in sorted(depths, reverse=True) for node in depths[depth]]


def calls(model: Any) -> list[Any]:
    """The nodes of a model's graph but for its inputs."""
    return [node for node in nodes(model) if not node.is_input]


def run_graph(graph: Any, inputs: Any, each: Callable[[Any], Callable[..., Any]] = lambda operation: operation) -> Any:
    """Run a graph on tensors with ``each(operation)`` called in every operation's place.

    A tensor is let go once all that read it have run. Keras keeps them all to the end: gigabytes, of a large network.
    """
    import keras

    tensors = {id(x): y for x, y in zip(graph.inputs, keras.tree.flatten(inputs))}
    made = calls(graph)
    left = Counter(id(x) for x in [*(x for node in made for x in node.input_tensors), *graph.outputs])
    for node in made:
        run_node(node, tensors, each)
        for x in node.input_tensors:
            left[id(x)] -= 1
        for x in [*node.input_tensors, *node.outputs]:
            if not left[id(x)]:
                tensors.pop(id(x), None)
    return keras.tree.pack_sequence_as(graph._outputs_struct, [tensors[id(x)] for x in graph.outputs])


def run_node(
    node: Any, tensors: dict[int, Any], each: Callable[[Any], Callable[..., Any]] = lambda operation: operation
) -> None:
    """Run one call of a graph on the ``tensors`` by the ids of their symbols, and add what it makes."""
    import keras

    args, kwargs = node.arguments.fill_in(tensors)
    made = each(node.operation)(*args, **kwargs)
    tensors.update(zip(map(id, node.outputs), keras.tree.flatten(made)))


@contextmanager
def letting_go(model: Any) -> Iterator[None]:
    """Let every graph in a model be run by ``run_graph`` while the block runs, and so without keeping its tensors."""
    def runs(graph: Any) -> Callable[..., Any]:
        own = graph._run_through_graph

        def run(inputs: Any, operation_fn: Any = lambda operation: operation, call_fn: Any = None) -> Any:
            # Symbols are no memory, and Keras calls something else for them.
            return run_graph(graph, inputs, operation_fn) if call_fn is None else own(inputs, operation_fn, call_fn)

        return run

    with ExitStack() as stack:
        for graph in {id(g): g for layer in all_layers(model) if (g := graph_of(layer)) is not None}.values():
            stack.enter_context(replaced(graph, "_run_through_graph", runs(graph)))
        yield


def made_by(tensor: Any) -> tuple[Any, int] | None:
    """The operation that a symbolic tensor comes from, and which of its outputs it is; None for any other tensor."""
    history = getattr(tensor, "_keras_history", None)
    return None if history is None else (history.operation, history.tensor_index)


# --- Keras: names ----------------------------------------------------------------------------------------------


def symbol(name: str) -> Any:
    """What Keras finds by a public name (``keras.layers.Dense``) when it reads a file; None where it finds nothing."""
    from keras.src import api_export

    return api_export.get_symbol_from_name(name)


def unqualified_names() -> frozenset[str]:
    """By which Keras finds what a file names without a module: its layers, and the tools imported beside them."""
    from keras.src import layers

    return frozenset(vars(layers))


def members(module: str) -> dict[str, Any]:
    """What a module of Keras holds, with a public name or without; nothing where this version has no such module."""
    try:
        return vars(importlib.import_module(module))
    except ImportError:
        return {}


def operation_module(name: str) -> str | None:
    """The module of Keras' operation class ``name``, as Keras names it in ``.keras`` files."""
    modules = (f"keras.src.ops.{part}" for part in ("numpy", "nn", "core", "math", "image", "linalg"))
    return next((module for module in modules if isinstance(members(module).get(name), type)), None)


def give_to_lambdas(objects: Mapping[str, Any]) -> None:
    """Add what is missing to the globals that the code of a Lambda in a file runs in."""
    from keras.src.utils import python_utils

    for name, value in objects.items():
        vars(python_utils).setdefault(name, value)


def imagenet_index_url() -> str:
    """Where keras.applications has the names of ImageNet's classes."""
    from keras.src.applications import imagenet_utils

    return str(imagenet_utils.CLASS_INDEX_PATH)


# --- TensorFlow ------------------------------------------------------------------------------------------------


def saved_model(content: bytes) -> Any:
    """The protocol buffer in a ``saved_model.pb``, which is parsed and nothing more."""
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel.FromString(content)


def revive_optimizers() -> None:
    """Let TensorFlow load SavedModels whose optimizer keeps variables beside the model's, as those of Keras 2 do.

    TensorFlow asks Keras 2 for such optimizers; without it, none of the model could be loaded. What is put in their
    place holds what they held and trains nothing.
    """
    import tensorflow as tf
    from tensorflow.python.saved_model import revived_types

    if "optimizer" in revived_types.registered_identifiers():
        return  # by Keras 2 itself

    class Optimizer(tf.__internal__.tracking.AutoTrackable):  # type: ignore[misc]
        def add_slot(self, var: Any, slot_name: str, **_: Any) -> Any:
            # Nothing that serves reads it, but functions for training may name it: it has the right shape.
            return tf.Variable(tf.zeros(var.shape, var.dtype), trainable=False, name=slot_name)

        def _create_or_restore_slot_variable(self, **_: Any) -> None:
            """Asked for where a checkpoint has values for such a variable, which stays as it is."""

    revived_types.register_revived_type("optimizer", lambda item: isinstance(item, Optimizer), versions=[
        revived_types.VersionedTypeRegistration(
            object_factory=lambda proto: Optimizer(), version=version, min_producer_version=1, min_consumer_version=1,
            setter=setattr) for version in (1, 2)])


def variable(content: bytes) -> Any:
    """A variable as TensorFlow 1 describes it in a graph's collections."""
    from tensorflow.core.framework import variable_pb2

    return variable_pb2.VariableDef.FromString(content)


def with_constants(concrete: Any) -> Any:
    """A traced function with what it captured as constants in its graph."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(concrete, lower_control_flow=False)


def simplified(concrete: Any) -> tuple[Any, list[str], list[str]]:
    """A traced function as one graph: what it captured as constants, what it calls inlined, constants folded.

    The graph, and the names of its tensors in and out. Raises where it captured what is no constant.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
    from tensorflow.python.grappler import tf_optimizer

    frozen = with_constants(concrete)
    if len(frozen.inputs) != len(concrete.inputs) - len(concrete.captured_inputs):
        raise ValueError("it holds more than variables")
    inputs, outputs = [t.name for t in frozen.inputs], [t.name for t in frozen.outputs]
    with tf.Graph().as_default():
        meta = tf.compat.v1.train.export_meta_graph(graph_def=frozen.graph.as_graph_def(add_shapes=True))
    meta.collection_def["train_op"].CopyFrom(meta_graph_pb2.CollectionDef(
        node_list=meta_graph_pb2.CollectionDef.NodeList(value=[*inputs, *outputs])))
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.optimizers[:] = ["constfold", "function", "dependency"]
    return tf_optimizer.OptimizeGraph(config, meta), inputs, outputs


@contextmanager
def deterministic_operations() -> Iterator[None]:
    """Let TensorFlow compute the same numbers each time while the block runs: publicly it can only be told to begin."""
    import tensorflow as tf
    from tensorflow.python.framework import config

    before = config.is_op_determinism_enabled()
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not before:
            config.disable_op_determinism()


@contextmanager
def filter_gradients(wrapped: Callable[[Any], Any]) -> Iterator[None]:
    """Let convolutions' weight gradients be computed by ``wrapped(TensorFlow's own function)`` while the block runs."""
    from tensorflow.python.ops import gen_nn_ops  # where the gradients of convolutions look the operation up

    own = gen_nn_ops.conv2d_backprop_filter
    gen_nn_ops.conv2d_backprop_filter = wrapped(own)
    try:
        yield
    finally:
        gen_nn_ops.conv2d_backprop_filter = own


@contextmanager
def native_dilations() -> Iterator[None]:
    """Let TensorFlow write a dilated convolution as one operation with that attribute, while the block traces.

    It does so for a TPU; elsewhere it moves pixels to the batch, convolves and moves them back.
    """
    import types

    import tensorflow as tf
    from tensorflow.python.ops import nn_impl, nn_ops

    def separable(
        input: Any, depthwise_filter: Any, pointwise_filter: Any, strides: Any, padding: Any,
        data_format: Any = None, dilations: Any = None, name: Any = None,
    ) -> Any:
        if not dilations or max(dilations) == 1:
            return own(input, depthwise_filter, pointwise_filter, strides, padding, data_format, dilations, name)
        deep = tf.nn.depthwise_conv2d(input, depthwise_filter, strides, padding, data_format, dilations, name)
        return tf.nn.conv2d(deep, pointwise_filter, 1, "VALID", data_format or "NHWC", name=name)

    own, asked = tf.nn.separable_conv2d, nn_ops.device_context
    stand_in = types.SimpleNamespace(enclosing_tpu_context=lambda: True)
    tf.nn.separable_conv2d = separable
    nn_ops.device_context = nn_impl.device_context = stand_in
    try:
        yield
    finally:
        tf.nn.separable_conv2d = own
        nn_ops.device_context = nn_impl.device_context = asked
