"""What is fed to both sides: images, and inputs that faults hide from images would show on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cnnexport.conversion.ports import Port
from cnnexport.parity.comparison import Array

OPEN_SIZE = 64
"""Pixels tried where a model leaves height or width open."""

LARGEST = 64
BUDGET = 10_000_000_000
"""The largest batch is the one whose multiply-adds fit this budget, but at most LARGEST images."""

NON_FINITE = ("not a number", "infinity", "minus infinity")


@dataclass(frozen=True)
class Case:
    """One run: its ``inputs`` in Keras' layout, batch first, and what each row of them is."""

    kinds: tuple[str, ...]
    inputs: list[Array]

    @property
    def batch(self) -> int:
        return len(self.kinds)


def images(ports: Sequence[Port], batch: int, seed: int, value_range: tuple[float, float] | None) -> list[Array]:
    """Seeded inputs in Keras' layout: coarse blocks and noise over ``value_range`` ([-1, 1] if None)."""
    rng = np.random.default_rng([seed, batch])
    low, high = value_range or (-1.0, 1.0)
    result: list[Array] = []
    for port in ports:
        shape = (batch, *(OPEN_SIZE if d is None else d for d in port.shape[1:]))
        if not _is_float(port):
            # Small whole numbers are valid for every embedding and every image; True and False for masks.
            top = 2 if port.dtype == "bool" or len(shape) < 4 else 256
            result.append(rng.integers(0, top, shape).astype(port.dtype))
            continue
        values = rng.random(shape)
        if len(shape) == 4:
            blocks = rng.random((batch, 8, 8, shape[3]))
            rows, columns = (np.arange(n) * 8 // n for n in shape[1:3])
            values = 0.5 * values + 0.5 * blocks[:, rows][:, :, columns]
        result.append((low + (high - low) * values).astype(_dtype(port)))
    return result


def first_case(
    ports: Sequence[Port], *, seed: int = 0, value_range: tuple[float, float] | None = None, batch: int | None = None
) -> Case:
    """The first of ``cases``: a ``batch`` of images, by default one."""
    count = batch or 1
    return Case(("image",) * count, images(ports, count, seed, value_range))


def cases(
    ports: Sequence[Port],
    *,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
    batch: int | None = None,
    macs: int | None = None,
    most: int = LARGEST,
) -> list[Case]:
    """The runs of one comparison. ``batch`` is the model's fixed batch size, ``macs`` its multiply-adds for one image.

    A dynamic model runs one image, two, a prime number of rows that are all the kinds of ``_probes`` and images
    besides, the largest batch in the budget where that is more, and the non-finite rows. No more than ``most`` rows
    run at once, or two.
    """
    probes = _probes(ports, seed, value_range)
    broken = _non_finite(ports, seed, value_range)
    if batch is not None:
        rows = [*probes, *broken]
        made = []
        for start in range(0, len(rows), batch):
            made.append(_case(rows[start:start + batch], ports, seed, value_range, batch))
        return [first_case(ports, seed=seed, value_range=value_range, batch=batch), *made]
    prime = next(n for n in (5, 7, 11, 13, 17, 19, 23) if n >= len(probes))
    made = [first_case(ports, seed=seed, value_range=value_range, batch=n) for n in (1, 2)]
    made += _parts(probes, ports, seed, value_range, prime, most)
    largest = min(LARGEST, most, BUDGET // macs) if macs else 0
    if largest > prime:
        made.append(Case(("image",) * largest, images(ports, largest, seed, value_range)))
    if broken:
        made += _parts(broken, ports, seed, value_range, len(broken), most)
    return made


def _parts(
    rows: Sequence[_Row], ports: Sequence[Port], seed: int, value_range: tuple[float, float] | None, batch: int,
    most: int,
) -> list[Case]:
    """``rows`` as one batch of that size, or as several where that is more than ``most``."""
    if batch <= most:
        return [_case(rows, ports, seed, value_range, batch)]
    parts = [rows[start:start + most] for start in range(0, len(rows), most)]
    return [_case(part, ports, seed, value_range, len(part)) for part in parts]


SIZES = ((33, 64), (50, 41), (37, 53), (160, 144))
"""Heights and widths at which a network that leaves them open is tried too: odd, even, prime, large."""
SMALLEST = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
"""Sizes of which the first that the network takes is tried."""


def is_open(ports: Sequence[Port]) -> bool:
    """Whether an input leaves a size besides the batch open."""
    return any(d is None for port in ports for d in port.shape[1:])


def sized(
    ports: Sequence[Port], size: tuple[int, int], batch: int, seed: int, value_range: tuple[float, float] | None
) -> Case:
    """``batch`` images whose first open size is ``size[0]``, and the next ``size[1]``."""
    fixed = []
    for port in ports:
        left = itertools.cycle(size)
        fixed.append(replace(port, shape=(port.shape[0], *(next(left) if d is None else d for d in port.shape[1:]))))
    return Case((f"{SIZED} {size[0]}x{size[1]}",) * batch, images(fixed, batch, seed, value_range))


SIZED = "size"
"""What the kind of such a case begins with."""

_Row = tuple[str, list[Array]]


def _case(
    rows: Sequence[_Row], ports: Sequence[Port], seed: int, value_range: tuple[float, float] | None, batch: int
) -> Case:
    """``rows`` as one batch, filled up with images."""
    filled = images(ports, batch, seed + 1, value_range)
    for index, (_, arrays) in enumerate(rows):
        for whole, array in zip(filled, arrays):
            whole[index] = array
    return Case((*(kind for kind, _ in rows), *["image"] * (batch - len(rows))), filled)


def _probes(ports: Sequence[Port], seed: int, value_range: tuple[float, float] | None) -> list[_Row]:
    """One row of each kind but images: noise, zeros, channels one by one, an impulse, the range's edges, ties."""
    low, high = value_range or (-1.0, 1.0)
    rng = np.random.default_rng([seed, 0])
    shapes = [tuple(OPEN_SIZE if d is None else d for d in port.shape[1:]) for port in ports]
    floats = [_is_float(port) for port in ports]
    channels = max((s[-1] for s, f in zip(shapes, floats) if f and len(s) == 3), default=0)

    def row(kind: str, fill: object) -> _Row:
        arrays = []
        for port, shape, is_float in zip(ports, shapes, floats):
            if is_float:
                array: Array = np.asarray(fill(shape), np.float64)  # type: ignore[operator]
            elif kind == "noise":
                array = rng.integers(0, 2, shape)
            else:
                array = np.zeros(shape)
            arrays.append(array.astype(_dtype(port)))
        return kind, arrays

    def channel(index: int) -> object:
        def fill(shape: tuple[int, ...]) -> Array:
            array: Array = np.zeros(shape)
            array[..., index % max(shape[-1] if shape else 1, 1)] = 1.0
            return array
        return fill

    def impulse(shape: tuple[int, ...]) -> Array:
        array = np.zeros(shape)
        array[tuple(size // 2 for size in shape)] = high or 1.0
        return array

    def checkered(shape: tuple[int, ...]) -> Array:
        odd = np.indices(shape[:-1] if len(shape) > 1 else shape).sum(0) % 2 == 1
        return np.broadcast_to(np.where(odd, high, low)[..., None] if len(shape) > 1 else np.where(odd, high, low),
                               shape)

    def ties(shape: tuple[int, ...]) -> Array:
        # Few values in blocks of two by two: neighbours tie in every pooling window.
        values: Array = rng.integers(0, 3, shape) / 2
        for axis in range(len(shape) - 1):
            values = np.repeat(np.take(values, range(0, shape[axis], 2), axis), 2, axis).take(range(shape[axis]), axis)
        return low + (high - low) * values

    rows = [
        row("noise", lambda shape: rng.uniform(low, high, shape)),
        row("zeros", np.zeros),
        row("impulse", impulse),
        row("low edge", lambda shape: np.full(shape, low)),
        row("high edge", lambda shape: np.full(shape, high)),
        row("checkered", checkered),
        row("ties", ties),
    ]
    # Of many channels the first, the middle and the last.
    chosen = range(channels) if channels <= 4 else (0, channels // 2, channels - 1)
    rows += [row(f"ones in channel {index}", channel(index)) for index in chosen]
    return rows


def _non_finite(ports: Sequence[Port], seed: int, value_range: tuple[float, float] | None) -> list[_Row]:
    """An image with one value that is not finite, for each kind of such a value."""
    if not any(_is_float(port) for port in ports):
        return []
    base = images(ports, 1, seed + 2, value_range)
    rows = []
    for kind, value in zip(NON_FINITE, (np.nan, np.inf, -np.inf)):
        arrays = [array[0].copy() for array in base]
        for array, port in zip(arrays, ports):
            if _is_float(port):
                array[tuple(size // 2 for size in array.shape)] = value
        rows.append((kind, arrays))
    return rows


def _is_float(port: Port) -> bool:
    return port.dtype.startswith(("float", "bfloat"))


def _dtype(port: Port) -> str:
    return "float32" if port.dtype == "bfloat16" else port.dtype
