"""A kernel of TensorFlow that must not be asked: oneDNN's weight gradient of 1x1 convolutions with a stride.

Seen with TensorFlow 2.21 on x86-64: of 270 such shapes 24 corrupted the heap (the process dies, now or later), none of
250 others did. A 1x1 convolution with stride *s* reads every *s*-th pixel and nothing else, so its gradient is that of
the convolution without a stride over those pixels, which oneDNN computes rightly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from cnnexport.keras_files import internals


def sound_gradients() -> AbstractContextManager[None]:
    """Compute and trace weight gradients without the faulty kernel while the block runs: the same numbers."""
    return internals.filter_gradients(_sound)


def _sound(faulty: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(faulty)
    def sound(
        input: Any, filter_sizes: Any, out_backprop: Any, strides: Any, padding: Any, *rest: Any,
        data_format: str | bytes = "NHWC", **options: Any,
    ) -> Any:
        first = 2 if data_format in ("NCHW", b"NCHW") else 1
        steps = [int(step) for step in strides[first:first + 2]]
        if max(steps) > 1 and padding in ("SAME", "VALID", b"SAME", b"VALID") and _kernel(filter_sizes) == (1, 1):
            places = [slice(None)] * 4
            places[first:first + 2] = [slice(None, None, step) for step in steps]
            input, strides = input[tuple(places)], [1, 1, 1, 1]
        return faulty(input, filter_sizes, out_backprop, strides, padding, *rest, data_format=data_format, **options)

    return sound


def _kernel(filter_sizes: Any) -> tuple[int, int] | None:
    """Height and width in a tensor of a filter's shape; None where no graph tells."""
    import tensorflow as tf

    operation = None if hasattr(filter_sizes, "numpy") else getattr(filter_sizes, "op", None)
    if operation is not None and operation.type in ("Shape", "ShapeN"):
        shape = operation.inputs[filter_sizes.value_index if operation.type == "ShapeN" else 0].shape
        return None if shape.rank != 4 or None in shape[:2].as_list() else (int(shape[0]), int(shape[1]))
    known = tf.get_static_value(filter_sizes)
    return None if known is None else (int(known[0]), int(known[1]))
