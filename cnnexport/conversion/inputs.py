"""The ports that a Keras model's inputs become."""

from __future__ import annotations

import re
from typing import Any

from cnnexport.conversion.ports import Port, safe_names
from cnnexport.errors import InputError, UsageError


def input_ports(
    model: Any,
    *,
    batch: int | None = None,
    layout: str = "nhwc",
    input_shape: tuple[int | None, ...] | None = None,
) -> tuple[Port, ...]:
    """The ports that ``model``'s inputs become; a single one is called ``input``.

    ``input_shape`` (without batch) fixes the sizes that a model's only input leaves open, or takes the place of those
    that a subclassed model was first called on.

    Raises:
        InputError: the model does not know its input shapes.
        UsageError: ``input_shape`` or ``batch`` contradicts the model.
    """
    import keras

    known = _inputs(model)
    if input_shape is not None:
        own = known[0][1]
        # What a subclassed model was first called on is no limit: it takes what it runs on.
        fixed_sizes = own if getattr(model, "inputs", None) else (*(None for _ in own[:-1]), *own[-1:])
        fits = len(own) == len(input_shape) and all(a in (None, b) for a, b in zip(fixed_sizes, input_shape))
        if len(known) > 1 or not fits:
            expected = " and ".join("x".join("?" if d is None else str(d) for d in k[1]) for k in known)
            given = "x".join("?" if d is None else str(d) for d in input_shape)
            raise UsageError(f"input shape {given} does not fit the model, which takes {expected}; "
                             "leave --input-shape out")
    ports = []
    fixed = _fixed_batch(model)
    if batch is not None and fixed not in (None, batch):
        raise UsageError(f"batch is {batch}, but the model's Input fixes it to {fixed}; give --batch {fixed}, or "
                         "leave it out")
    names = [name for name, _, _ in known] if len(known) > 1 else ["input"]
    safe = safe_names([re.sub(r":\d+$", "", name) for name in names], instead="input")
    for name, keras_name, (_, own, dtype) in zip(safe, names, known):
        shape = (batch, *(input_shape or own))
        first = layout == "nchw" and len(shape) == 4
        ports.append(Port(name, shape, keras.backend.standardize_dtype(dtype), first,
                          None if name == keras_name else keras_name))
    return tuple(ports)


def input_structure(model: Any) -> Any:
    """``model``'s symbolic inputs in the dict, list or tuple that it is called with, if it has any."""
    return getattr(model, "input", None) if getattr(model, "inputs", None) else None


def _inputs(model: Any) -> list[tuple[str, tuple[int | None, ...], Any]]:
    """(name, shape without batch, dtype) of each input."""
    import keras

    if getattr(model, "inputs", None):
        structure = input_structure(model)
        tensors = model.inputs if structure is None else keras.tree.flatten(structure)
        return [(t.name, tuple(t.shape[1:]), t.dtype) for t in tensors]
    # A subclassed model has no symbolic inputs, but remembers the shape that it was first called on.
    built = (model.get_build_config() or {}).get("input_shape")
    if isinstance(built, (tuple, list)) and len(built) > 1 and all(d is None or isinstance(d, int) for d in built):
        return [("input", tuple(built[1:]), model.input_dtype)]
    raise InputError(f"model '{model.name}' does not know its input shape; call it once on data, or give it "
                     "an Input layer, before saving it")


def _fixed_batch(model: Any) -> int | None:
    """The batch that the model's inputs fix, if one does."""
    import keras

    tensors = keras.tree.flatten(getattr(model, "inputs", None) or [])
    return next((int(t.shape[0]) for t in tensors if t.shape and t.shape[0] is not None), None)
