"""The layer table of a network, read from a Keras model."""

from __future__ import annotations

import math
from typing import Any

from cnnexport.architectures.table import LayerRow
from cnnexport.keras_files.internals import all_layers


def read(model: Any) -> tuple[LayerRow, ...]:
    """The table of a functional Keras ``model``, a row for each layer but its input."""
    rows = []
    for layer in all_layers(model, itself=False):
        if type(layer).__name__ == "InputLayer" or getattr(layer, "layers", None):
            continue
        # A layer outside the graph of the model's inputs has no output: it is left out.
        try:
            output, source = layer.output, layer.input
        except (AttributeError, ValueError):
            continue
        shape = () if isinstance(output, (list, tuple, dict)) else tuple(output.shape[1:])
        macs = 0
        for variable in layer.weights:
            if variable.name in ("kernel", "depthwise_kernel", "pointwise_kernel") and shape:
                moved = source.shape if "Transpose" in type(layer).__name__ else output.shape
                macs += math.prod(variable.shape) * math.prod(size or 1 for size in moved[1:-1])
        size = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
        kernel = "x".join(map(str, size)) if isinstance(size, tuple) else type(layer).__name__
        if getattr(layer, "filters", None):
            kernel += f", {layer.filters}"
        if getattr(layer, "groups", 1) > 1:
            kernel += f", {layer.groups} groups"
        strides = getattr(layer, "strides", None)
        stride = strides[0] if isinstance(strides, tuple) else strides if isinstance(strides, int) else None
        rows.append(LayerRow(layer.name, kernel, stride, shape, layer.count_params() if layer.built else 0, macs))
    return tuple(rows)
