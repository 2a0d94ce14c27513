"""What is measured: a bundle whose gate passed, or any ONNX file; and what it is fed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnexport import files, onnx_file
from cnnexport.bundle import Bundle, located
from cnnexport.errors import BundleError, InputError, UsageError

UNVERIFIED = "unverified"
_LARGEST_INPUT = 1 << 31
_OPEN_IMAGE = 224


@dataclass(frozen=True)
class Input:
    """One input of the graph; a dimension is an int, or None where the file leaves it open.

    ``batched`` tells that the first dimension is the batch. ``given`` is what ``--shape`` said.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    value_range: tuple[float, float] | None = None
    batched: bool = False
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A file to measure, with its hash and what is known of its correctness.

    ``parity`` is the record of a bundle's gate, for this very hash; None makes each row ``unverified``.
    """

    name: str
    path: str
    file: str
    sha256: str
    external: dict[str, str]
    inputs: tuple[Input, ...]
    fixed_batch: int | None
    dynamic_batch: bool
    parity: dict[str, Any] | None
    untrained: bool | None
    weight_bytes: int
    skeleton: bytes = field(default=b"", repr=False)

    @property
    def verified(self) -> bool:
        return self.parity is not None

    def batches(self, asked: tuple[int, ...] | None, default: tuple[int, ...]) -> tuple[int, ...]:
        """The batch sizes to measure. Raises UsageError where the file's own is another."""
        if self.dynamic_batch:
            return asked or default
        fixed = self.fixed_batch or 1
        wrong = [b for b in asked or () if b != fixed]
        if wrong:
            why = (f"its batch is fixed at {fixed}" if self.fixed_batch is not None
                   else "its inputs share no open batch dimension")
            raise UsageError(f"{self.path} cannot run at batch {wrong[0]}: {why}; leave --batch out, or export it with "
                             "a dynamic batch")
        return (fixed,)

    def shapes(self, batch: int) -> dict[str, list[int]]:
        """The shape of each input at a batch size."""
        return {i.name: [batch if (i.batched and axis == 0 and d is None) else d or 1 for axis, d in enumerate(i.shape)]
                for i in self.inputs}

    def macs(self, batch: int) -> int | None:
        """Multiply-accumulates of one run at a batch size; None where shapes cannot be inferred."""
        import onnx

        model = onnx.ModelProto.FromString(self.skeleton)
        shapes = self.shapes(batch)
        for value in model.graph.input:
            if value.name in shapes and len(value.type.tensor_type.shape.dim) == len(shapes[value.name]):
                for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name]):
                    dim.dim_value = size
        return onnx_file.count_macs(model, batch)[0]

    def specs(self, batch: int) -> list[dict[str, Any]]:
        """What ``fill`` needs to know of the inputs at a batch size."""
        shapes = self.shapes(batch)
        return [{"name": i.name, "dtype": i.dtype, "shape": shapes[i.name], "value_range": i.value_range}
                for i in self.inputs]

    def check_unchanged(self) -> None:
        """Raises BundleError where the file is no longer the one that was read."""
        changed = [name for name, digest in {Path(self.file).name: self.sha256, **self.external}.items()
                   if _hash_of(Path(self.file).parent / name) != digest]
        if changed:
            raise BundleError(f"{Path(self.file).parent / changed[0]} was altered while it was measured; its timings "
                              "are void: run again on a file that nothing writes to")


def _hash_of(path: Path) -> str:
    try:
        return files.sha256(path)
    except OSError:
        return "gone"


def subject(target: str, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Subject:
    """The subject meant by ``target``, a bundle folder or an ONNX file.

    ``shapes`` fixes open dimensions by input name ("" for the only input).

    Raises:
        InputError: a file that cannot be read, or inputs that nothing can fill.
        UsageError: a shape that contradicts the file.
        BundleError: a bundle incomplete or altered.
        ParityError: a bundle whose gate did not pass.
    """
    path = Path(target)
    file, found = located(path)
    model, size, digest = onnx_file.load_model(file)
    external = onnx_file.external_files(model, file)
    weights = sum(onnx_file.tensor_bytes(t) for t in onnx_file.initializers(model.graph))
    slim = onnx_file.without_weights(model, in_place=True)
    inputs = _inputs(model, str(target), shapes or {}, found)
    dynamic = any(i.batched and i.shape[0] is None for i in inputs)
    firsts = {i.shape[0] for i in inputs if i.batched}
    fixed = next(iter(firsts)) if len(firsts) == 1 and not dynamic else None
    del size
    stem = path.stem if path.stem != "model" else path.absolute().parent.name
    name = (found.about.name if found else "") or stem or path.stem
    return Subject(
        name=name, path=str(target), file=str(file.absolute()), sha256=digest,
        external={e.location: e.sha256 for e in external}, inputs=inputs, fixed_batch=fixed, dynamic_batch=dynamic,
        parity=None if found is None else _record(found.parity),
        untrained=None if found is None else found.about.untrained,
        weight_bytes=weights, skeleton=slim.SerializeToString())


def _record(parity: Mapping[str, Any]) -> dict[str, Any]:
    """What a row needs of a parity record."""
    return {"passed": True, "model_sha256": parity["model_sha256"], "worst_error": parity.get("worst_error"),
            "tolerance": parity["tolerance"], "versions": parity.get("versions")}


def _inputs(
    model: Any, target: str, shapes: Mapping[str, tuple[int, ...]], found: Bundle | None
) -> tuple[Input, ...]:
    stored = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    values = [v for v in model.graph.input if v.name not in stored]
    if "" in shapes and len(values) == 1:
        shapes = {**{k: v for k, v in shapes.items() if k}, values[0].name: shapes[""]}
    unknown = set(shapes) - {v.name for v in values}
    if unknown:
        raise UsageError(f"{target} has no input '{sorted(unknown)[0]}' for --shape; its inputs are "
                         f"{', '.join(v.name for v in values) or 'none'}")
    ranges = {t.name: t.value_range for t in found.about.inputs} if found else {}
    symbols = {d.dim_param for v in values for d in v.type.tensor_type.shape.dim[:1] if d.dim_param}
    made = []
    for value in values:
        name = value.name
        if not value.type.HasField("tensor_type"):
            raise InputError(f"{target}: input '{name}' is a {value.type.WhichOneof('value') or 'value of no type'}, "
                             "not a tensor; only tensors can be filled")
        info = onnx_file.tensor_info(value)
        dims = _resolve(target, name, info.shape, shapes.get(name))
        if info.dtype in ("string", "unknown") or info.dtype.startswith("complex"):
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
        if math.prod(d or 1 for d in filled) > _LARGEST_INPUT:
            raise InputError(f"{target}: input '{name}' of {filled} is too large to fill; give --shape {name}=...")
        span = ranges.get(name)
        made.append(Input(name, info.dtype, tuple(filled), span or None, batched, tuple(assumed)))
    return tuple(made)


def _resolve(
    target: str, name: str, shape: tuple[int | str | None, ...] | None, given: tuple[int, ...] | None
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


def _guess(axis: int, dims: list[int | None]) -> int:
    """A size for an open dimension: of images height and width 224 and channels 3, else 1."""
    if len(dims) != 4:
        return 1
    last, second = dims[3], dims[1]
    channels_last = last is not None and last <= 4
    channels_first = second is not None and second <= 4
    if axis == (3 if channels_last else 1) and not (channels_last or channels_first):
        return 3
    return _OPEN_IMAGE


def fill(inputs: list[dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Seeded arrays for inputs given as ``{"name", "dtype", "shape", "value_range"}``.

    Floats are noise over the value range (0 to 1 where unknown), integers 0 or 1, which every table and mask can
    take, booleans both values.
    """
    import ml_dtypes
    import numpy as np

    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for spec in inputs:
        shape, dtype = spec["shape"], spec["dtype"]
        if dtype == "bool":
            arrays[spec["name"]] = rng.integers(0, 2, shape).astype(bool)
        elif dtype.startswith(("int", "uint")):
            top = 256 if dtype == "uint8" and len(shape) == 4 else 2
            kind = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
            arrays[spec["name"]] = rng.integers(0, top, shape).astype(kind)
        else:
            low, high = spec.get("value_range") or (0.0, 1.0)
            kind = np.dtype(dtype) if dtype in ("float16", "float32", "float64") else getattr(ml_dtypes, dtype)
            arrays[spec["name"]] = np.asarray(low + (high - low) * rng.random(shape, np.float32)).astype(kind)
    return arrays
