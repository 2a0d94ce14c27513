"""What an ONNX file is fed: its inputs, the sizes of those that it leaves open, and seeded numbers for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnexport.errors import InputError, UsageError
from cnnexport.onnx_file.load import tensor_info

Shapes = Mapping[str, Sequence[int]]
"""What ``--shape`` said: shapes by the name of the input, "" for the only one."""

_LARGEST_INPUT = 1 << 31
_OPEN_IMAGE = 224


@dataclass(frozen=True)
class Input:
    """One input of the graph; a dimension is an int, or None where the file leaves it open.

    ``batched`` tells that the first dimension is the batch. ``assumed`` says in words which sizes were made up.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    value_range: tuple[float, float] | None = None
    batched: bool = False
    assumed: tuple[str, ...] = ()

    def at(self, batch: int) -> list[int]:
        """The shape at a batch size."""
        return [batch if (self.batched and axis == 0 and d is None) else d or 1 for axis, d in enumerate(self.shape)]

    def spec(self, batch: int) -> dict[str, Any]:
        """What ``fill`` needs to know at a batch size."""
        return {"name": self.name, "dtype": self.dtype, "shape": self.at(batch), "value_range": self.value_range}


def given_inputs(model: Any) -> list[Any]:
    """The inputs of a ``ModelProto`` that must be fed: those that are no initializers."""
    graph = model.graph
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [v for v in graph.input if v.name not in stored]


def named_shapes(model: Any, target: str, shapes: Shapes) -> dict[str, list[int]]:
    """``shapes`` with the name of the only input for "". Raises UsageError for an input that the file has not."""
    values = given_inputs(model)
    if "" in shapes and len(values) == 1:
        shapes = {**{k: v for k, v in shapes.items() if k}, values[0].name: shapes[""]}
    unknown = set(shapes) - {v.name for v in values}
    if unknown:
        raise UsageError(f"{target} has no input '{min(unknown)}' for --shape; its inputs are "
                         f"{', '.join(v.name for v in values) or 'none'}")
    for value in values:
        if value.name in shapes:
            _resolve(target, value.name, tensor_info(value).shape, shapes[value.name])
    return {name: list(shape) for name, shape in shapes.items()}


def read_inputs(
    model: Any, target: str, shapes: Shapes, ranges: Mapping[str, tuple[float, float] | None] | None = None, *,
    most: int = _LARGEST_INPUT,
) -> tuple[Input, ...]:
    """The inputs of a ``ModelProto`` with their open sizes filled as ``shapes`` say, or as is likely.

    ``ranges`` are the values that inputs take, where that is known; ``most`` the elements that one may have.

    Raises:
        InputError: inputs that nothing can fill.
        UsageError: a shape that contradicts the file.
    """
    values = given_inputs(model)
    shapes = named_shapes(model, target, shapes)
    symbols = {d.dim_param for v in values for d in v.type.tensor_type.shape.dim[:1] if d.dim_param}
    made = []
    for value in values:
        name = value.name
        if not value.type.HasField("tensor_type"):
            raise InputError(f"{target}: input '{name}' is a {value.type.WhichOneof('value') or 'value of no type'}, "
                             "not a tensor; only tensors can be filled")
        info = tensor_info(value)
        dims = _resolve(target, name, info.shape, shapes.get(name))
        if info.dtype == "string" or info.dtype.startswith("complex") or _numpy_type(info.dtype) is None:
            raise InputError(f"{target}: input '{name}' is of type {info.dtype}, which nothing sensible fills")
        rank = len(dims)
        # A first dimension left open is the batch; a fixed one is, where the tensor has the rank of a batch of images.
        batched = rank > 0 and (dims[0] is None or rank in (2, 4, 5))
        assumed = []
        filled: list[int | None] = []
        for axis, dim in enumerate(dims):
            symbol = info.shape[axis] if info.shape is not None and axis < len(info.shape) else None
            if dim is None and not (axis == 0 and batched):
                if isinstance(symbol, str) and symbol in symbols and any(v.name != name for v in values):
                    dim = 1
                else:
                    dim = _guess(axis, dims)
                assumed.append(f"dimension {axis} ({symbol or 'unnamed'}) of '{name}' taken as {dim}")
            filled.append(dim)
        if math.prod(d or 1 for d in filled) > most:
            raise InputError(f"{target}: input '{name}' of {filled} is too large to fill; give --shape {name}=...")
        span = (ranges or {}).get(name)
        made.append(Input(name, info.dtype, tuple(filled), span or None, batched, tuple(assumed)))
    return tuple(made)


def _resolve(
    target: str, name: str, shape: Sequence[int | str | None] | None, given: Sequence[int] | None
) -> list[int | None]:
    """The dimensions that file and ``--shape`` fix. Raises where they contradict, or the rank is unknown."""
    if shape is None:
        if given is None:
            raise InputError(f"{target}: nothing tells the shape of input '{name}'; give --shape {name}=1x3x224x224")
        return list(given)
    dims: list[int | None] = [d if isinstance(d, int) and d > 0 else None for d in shape]
    if given is None:
        return dims
    if len(given) != len(dims) or any(d is not None and d != g for d, g in zip(dims, given)):
        own = "x".join(str(d) if d is not None else "?" for d in dims)
        raise UsageError(f"{target}: input '{name}' is {own}, which --shape {name}={'x'.join(map(str, given))} "
                         "contradicts")
    return list(given)


def _guess(axis: int, dims: Sequence[int | None]) -> int:
    """A size for an open dimension: of images height and width 224 and channels 3, else 1."""
    if len(dims) != 4:
        return 1
    last, second = dims[3], dims[1]
    channels_last = last is not None and last <= 4
    channels_first = second is not None and second <= 4
    if axis == (3 if channels_last else 1) and not (channels_last or channels_first):
        return 3
    return _OPEN_IMAGE


def set_shapes(model: Any, shapes: Shapes) -> dict[str, int]:
    """Write ``shapes`` into the inputs of ``model`` that have those names; returns the sizes of named dimensions."""
    symbols: dict[str, int] = {}
    for value in model.graph.input:
        if value.name in shapes and value.type.HasField("tensor_type"):
            kind, shape = value.type.tensor_type, shapes[value.name]
            while len(kind.shape.dim) < len(shape):  # a file may leave the rank open too
                kind.shape.dim.add()
            for dim, size in zip(kind.shape.dim, shape):
                if dim.dim_param:
                    symbols[dim.dim_param] = size
                dim.dim_value = size
    return symbols


def _numpy_type(name: str) -> Any:
    """NumPy's type (or ml_dtypes') of one that ``dtype_name`` names; None of one that ONNX has not."""
    from onnx import TensorProto, helper

    code = {"float32": "FLOAT", "float64": "DOUBLE"}.get(name, name.upper())
    try:
        return helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(code))
    except (KeyError, ValueError):
        return None


def fill(inputs: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Seeded arrays for inputs given as ``{"name", "dtype", "shape", "value_range"}``.

    Floats are noise over the value range (0 to 1 where unknown), integers 0 or 1, which every table and mask can
    take, booleans both values.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for spec in inputs:
        shape, dtype = spec["shape"], spec["dtype"]
        if dtype == "bool":
            arrays[spec["name"]] = rng.integers(0, 2, shape).astype(bool)
        elif dtype.startswith(("int", "uint")):
            top = 256 if dtype == "uint8" and len(shape) == 4 else 2
            arrays[spec["name"]] = rng.integers(0, top, shape).astype(_numpy_type(dtype))
        else:
            low, high = spec.get("value_range") or (0.0, 1.0)
            numbers = np.asarray(low + (high - low) * rng.random(shape, np.float32))
            arrays[spec["name"]] = numbers.astype(_numpy_type(dtype))
    return arrays
