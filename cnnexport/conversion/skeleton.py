"""A model's protobuf message without its weights, for what needs shapes only."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

_SMALL = 1024
"""Bytes up to which an initializer stays: shapes and axes are among them."""


def skeleton(model: ir.Model) -> Any:
    """The ``ModelProto`` of ``model`` without its weights: large initializers are graph inputs.

    Shape inference and checking need no more.
    """
    initializers = dict(model.graph.initializers)
    large = {
        k: v for k, v in initializers.items() if v.const_value is not None and v.const_value.nbytes > _SMALL}
    for name in large:
        del model.graph.initializers[name]
    try:
        proto = ir.to_proto(model)
    finally:
        model.graph.initializers.clear()
        for value in initializers.values():
            model.graph.register_initializer(value)
    for name, value in large.items():
        info = proto.graph.input.add()
        info.name = name
        info.type.tensor_type.elem_type = int(value.const_value.dtype)  # type: ignore[union-attr]
        for size in value.const_value.shape.numpy():  # type: ignore[union-attr]
            info.type.tensor_type.shape.dim.add().dim_value = size
        if info.type.tensor_type.shape.ByteSize() == 0:
            info.type.tensor_type.shape.SetInParent()
    return proto
