"""tf2onnx on a weight-free graph: TensorFlow ops to ONNX ops, channels-last to channels-first."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cnnexport.conversion.trace import SCOPE, Trace, one_line
from cnnexport.errors import InputError

MAX_TRANSLATED_OPSET = 18
"""The highest opset that tf2onnx writes; above it ONNX's version converter takes over."""

MIN_OPSET = 13
"""The lowest opset that the passes write (axes of Squeeze and ReduceSum are inputs from here on)."""


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    # tf2onnx makes hundreds of thousands of small objects, none of them garbage before it ends.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def translate(
    trace: Trace, *, opset: int, channels_first: Sequence[bool], outputs_first: Sequence[bool]
) -> tuple[Any, dict[str, list[int]]]:
    """The ONNX ``ModelProto`` of ``trace``, and the shapes that tf2onnx knows (-1: not fixed).

    Variables are graph inputs, named as in the trace.

    ``channels_first[i]`` asks for input *i* as NCHW, ``outputs_first[i]`` for output *i*.

    Raises:
        InputError: naming the first layer that tf2onnx has no ONNX operators for.
    """
    import tensorflow as tf
    from tf2onnx import optimizer, tfonnx
    from tf2onnx.optimizer.back_to_back_optimizer import BackToBackOptimizer
    from tf2onnx.optimizer.identity_optimizer import IdentityOptimizer
    from tf2onnx.optimizer.merge_duplicated_nodes_optimizer import MergeDuplicatedNodesOptimizer
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    target = min(opset, MAX_TRANSLATED_OPSET)
    # The other optimizers of tf2onnx do what our passes do in numpy, and copy more.
    optimizers = {
        "transpose": TransposeOptimizer,
        "merge": MergeDuplicatedNodesOptimizer,
        "identity": IdentityOptimizer,
        "back_to_back": BackToBackOptimizer,
    }
    try:
        with _without_garbage_collection(), tf.Graph().as_default() as graph:
            tf.import_graph_def(trace.graph_def, name="")
            # Inside the graph each output needs a name of its own, also when it is an input.
            result = tfonnx.process_tf_graph(
                graph,
                opset=target,
                input_names=[*trace.inputs, *trace.variables],
                output_names=list(dict.fromkeys(trace.outputs)),
                inputs_as_nchw=[n for n, first in zip(trace.inputs, channels_first) if first],
                outputs_as_nchw=[n for n, first in zip(trace.outputs, outputs_first) if first],
            )
            result = optimizer.optimize_graph(result, catch_errors=False, optimizers=optimizers)
            shapes = {name: shape for node in result.get_nodes() for name in node.output
                      if (shape := result.get_shape(name)) is not None}
            proto = result.make_model("cnnexport")
    except Exception as error:
        raise InputError(_unconvertible(trace, error)) from error
    unknown = [n for n in proto.graph.node if n.domain not in ("", "ai.onnx", "ai.onnx.ml")]
    if unknown:
        raise InputError(
            f"layer '{layer_of(trace, unknown[0].name) or unknown[0].name}' cannot be converted: "
            f"TensorFlow's {unknown[0].op_type} has no ONNX operator; replace the layer by one that has"
        )
    if opset > target:
        proto = _raise_opset(proto, opset)
    return proto, shapes


def _raise_opset(proto: Any, opset: int) -> Any:
    from onnx import version_converter

    try:
        return version_converter.convert_version(proto, opset)
    except Exception as error:
        raise InputError(f"the graph cannot be raised to opset {opset} ({one_line(error)}); "
                         f"use --opset {MAX_TRANSLATED_OPSET}") from error


def layer_of(trace: Trace, name: str) -> str | None:
    """The path of the Keras layer that made the op or tensor called ``name``, if one did."""
    at = name.rfind(SCOPE)
    if at < 0:
        return None
    digits = ""
    for char in name[at + len(SCOPE):]:
        if not char.isdigit():
            break
        digits += char
    return trace.layers[int(digits)] if digits and int(digits) < len(trace.layers) else None


def _unconvertible(trace: Trace, error: Exception) -> str:
    text = str(error)
    layer = layer_of(trace, text)
    reason = one_line(error)
    for i, path in enumerate(trace.layers):
        reason = reason.replace(f"{SCOPE}{i}/", f"{path}/")
    where = f"layer '{layer}'" if layer else "the model"
    return f"{where} cannot be converted to ONNX: {reason}; replace that layer by one with ONNX operators"
