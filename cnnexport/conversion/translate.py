"""tf2onnx on a weight-free graph: TensorFlow ops to ONNX ops, channels-last to channels-first."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cnnexport.conversion.trace import SCOPE, Trace
from cnnexport.errors import InputError
from cnnexport.text import one_line

if TYPE_CHECKING:
    import onnx_ir as ir

MAX_TRANSLATED_OPSET = 18
"""The highest opset that tf2onnx writes; above it ONNX's version converter takes over."""


@contextmanager
def _undistracted() -> Iterator[None]:
    """No garbage collection, and tf2onnx's log off the terminal: what matters of it is raised as an error.

    tf2onnx makes hundreds of thousands of small objects, none of them garbage before it ends.
    """
    collecting, disabled = gc.isenabled(), logging.root.manager.disable
    gc.disable()
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        if collecting:
            gc.enable()


def _all_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


def translate(
    trace: Trace, *, opset: int, channels_first: Sequence[bool], outputs_first: Sequence[bool]
) -> tuple[Any, dict[str, tuple[list[int], int | None]]]:
    """The ONNX ``ModelProto`` of ``trace``, and the shapes (-1: not fixed) and dtypes that tf2onnx knows.

    Variables are graph inputs, named as in the trace.

    ``channels_first[i]`` asks for input *i* as NCHW, ``outputs_first[i]`` for output *i*.

    Raises:
        InputError: naming the first layer that tf2onnx has no ONNX operators for.
    """
    import onnx
    import tensorflow as tf
    from tf2onnx import tfonnx

    from cnnexport.conversion import operators, resizing

    target = min(opset, MAX_TRANSLATED_OPSET)
    try:
        with _undistracted(), tf.Graph().as_default() as graph:
            tf.import_graph_def(trace.graph_def, name="")
            # Inside the graph each output needs a name of its own, also when it is an input.
            result = tfonnx.process_tf_graph(
                graph,
                opset=target,
                custom_op_handlers=operators.HANDLERS | resizing.HANDLERS,
                input_names=[*trace.inputs, *(v for v in trace.variables if v not in trace.filled)],
                output_names=list(dict.fromkeys(trace.outputs)),
                inputs_as_nchw=[n for n, first in zip(trace.inputs, channels_first) if first],
                outputs_as_nchw=[n for n, first in zip(trace.outputs, outputs_first) if first],
            )
            names = [name for node in result.get_nodes() for name in node.output]
            known = {name: (shape, result.get_dtype(name)) for name in names
                     if (shape := result.get_shape(name)) is not None}
            proto = result.make_model("cnnexport")
    except Exception as error:
        raise InputError(_unconvertible(trace, error)) from error
    # tf2onnx leaves operators that it does not know under TensorFlow's names.
    for node in _all_nodes(proto.graph):
        if node.domain not in ("", "ai.onnx.ml") or not onnx.defs.has(node.op_type, node.domain):
            layers = [layer_of(trace, name) for name in (node.name, *node.output, *node.input)]
            layer = next(filter(None, layers), None)
            where = f"layer '{layer}'" if layer else f"node '{node.name}'"
            raise InputError(
                f"{where} cannot be converted: TensorFlow's {node.op_type} has no ONNX operator; "
                "replace the layer by one that has"
            )
    if opset > target:
        proto = _raise_opset(proto, opset)
    return proto, known


def _raise_opset(proto: Any, opset: int) -> Any:
    from onnx import version_converter

    try:
        return version_converter.convert_version(proto, opset)
    except Exception as error:
        raise InputError(f"the graph cannot be raised to opset {opset} ({one_line(error)}); "
                         f"use --opset {MAX_TRANSLATED_OPSET}") from error


_SCOPED = re.compile(rf"{SCOPE}(\d+)/")


def layer_of(trace: Trace, name: str) -> str | None:
    """The path of the Keras layer that made the op or tensor called ``name``, if one did."""
    found = _SCOPED.findall(name)
    return trace.scopes[int(found[-1])] if found and int(found[-1]) < len(trace.scopes) else None


def inherit_scopes(graph: ir.Graph) -> None:
    """Let nodes that tf2onnx made on the way to an op carry that op's layer in their names."""
    for node in reversed(list(graph)):
        names = [node.name, *(v.name for v in node.outputs)]
        names += [u.node.name for v in node.outputs for u in v.uses()]
        scope = next((f for n in names for f in _SCOPED.findall(n or "")[-1:]), None)
        if scope is not None and not _SCOPED.search(node.name or ""):
            node.name = f"{SCOPE}{scope}/{node.name}"


def _unconvertible(trace: Trace, error: Exception) -> str:
    text = str(error)
    layer = layer_of(trace, text)
    reason = one_line(error)
    for i, path in enumerate(trace.scopes):
        reason = reason.replace(f"{SCOPE}{i}/", f"{path}/")
    where = f"layer '{layer}'" if layer else "the model"
    return f"{where} cannot be converted to ONNX: {reason}; replace that layer by one with ONNX operators"
