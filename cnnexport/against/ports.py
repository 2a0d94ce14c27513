"""Which tensor of a file is which of a Keras model, and in which layout: by name, by size, else by the numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexport.errors import UsageError

if TYPE_CHECKING:
    from cnnexport.bundle import Manifest
    from cnnexport.conversion import Port

_MOST_TRIED = 64


@dataclass(frozen=True)
class Ports:
    """The ports of a file in the order of Keras' inputs and outputs, and its fixed batch size (None: dynamic)."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    batch: int | None


def possible_ports(model: Any, graph: Any, about: Manifest | None) -> list[Ports]:
    """The ports of an ONNX graph in every layout that sizes allow, channels last first.

    Where the file has Keras' names, they tell which is which, else the order does. Raises UsageError where they do
    not fit.
    """
    import keras

    from cnnexport.conversion.inputs import input_ports

    wanted = input_ports(model)
    given = [v for v in graph.inputs if v.name not in graph.initializers]
    results = [(tuple(t.shape), keras.backend.standardize_dtype(t.dtype))
               for t in keras.tree.flatten(getattr(model, "outputs", None) or [])]
    choices: list[list[Port]] = []
    for kind, keras_side, values in (
            ("inputs", [(p.shape, p.dtype) for p in wanted], given), ("outputs", results, list(graph.outputs))):
        if len(keras_side) != len(values):
            raise UsageError(f"the file has {len(values)} {kind}, the Keras model {len(keras_side)}; "
                             "give the model that the file was made of")
        names = [p.name for p in wanted] if kind == "inputs" else list(getattr(model, "output_names", None) or [])
        by_name = {str(value.name): value for value in values}
        if set(names) == set(by_name) and len(names) == len(values):
            values = [by_name[name] for name in names]
        # Of a bundle the layouts are known; sizes alone do not tell them apart where all are alike.
        layouts = {} if about is None else {tensor.name: tensor.layout for tensor in getattr(about, kind)}
        for (shape, dtype), value in zip(keras_side, values):
            found = _layouts(value, shape, dtype, layouts.get(str(value.name)))
            choices.append(found[:1] if about is not None else found)
    made = list(itertools.islice(itertools.product(*choices), _MOST_TRIED + 1))
    if len(made) > _MOST_TRIED:  # too many tensors to try them one by one: all are of one layout
        made = [tuple(c[0] for c in choices), tuple(c[-1] for c in choices)]
    sizes = _sizes(given[0]) if given else None
    return [Ports(ports[:len(wanted)], ports[len(wanted):], sizes[0] if sizes else None) for ports in made]


def _layouts(value: Any, shape: tuple[int | None, ...], dtype: str, known: str | None) -> list[Port]:
    """A tensor of the file as a port, in the layouts that its sizes allow. Raises UsageError where none fits."""
    from cnnexport.conversion import Port

    sizes = _sizes(value)
    last = _fits(sizes, shape) and known != "NCHW"
    first = len(shape) > 2 and _fits(sizes, (shape[0], shape[-1], *shape[1:-1]))
    if not last and not first:
        text = "x".join("?" if s is None else str(s) for s in shape)
        theirs = "x".join("?" if s is None else str(s) for s in sizes or ())
        raise UsageError(f"'{value.name}' of the file is {theirs}, the Keras model has {text}; give the model "
                         "that the file was made of")
    return [Port(str(value.name), _known(shape, sizes, channels_first), dtype, channels_first)
            for channels_first, fits in ((False, last), (True, first)) if fits]


def told_apart(
    model: Any, heads: Sequence[Any], file: Path, possible: Sequence[Ports], *, seed: int,
    value_range: tuple[float, float] | None, scratch: Path | None,
) -> Ports:
    """Those ports of the ``possible`` with which the file's outputs come nearest to Keras', on the first images.

    A 3 x 3 image of three channels, or a file whose sizes are all open, fits in either layout.
    """
    from cnnexport.parity import compare, to_onnx_layout
    from cnnexport.parity.exposed import Exposed
    from cnnexport.parity.inputs import first_case
    from cnnexport.parity.live import run

    if len(possible) == 1:
        return possible[0]
    names = [port.name for port in possible[0].outputs]
    ran: dict[tuple[Port, ...], Any] = {}

    def error(ports: Ports) -> float:
        if ports.inputs not in ran:
            images = first_case(ports.inputs, seed=seed, value_range=value_range, batch=ports.batch).inputs
            try:
                ran[ports.inputs] = (run(model, heads, images).outputs,
                                     exposed.run(session, names, images, ports.inputs))
            except Exception:  # sizes that only one layout makes sense of, refused by Keras or the runtime
                ran[ports.inputs] = None
        if ran[ports.inputs] is None:
            return float("inf")
        outputs, produced = ran[ports.inputs]
        return max(compare(p.name, "output", to_onnx_layout(y, p), produced[p.name]).rms_error
                   for p, y in zip(ports.outputs, outputs, strict=True))

    with closing(Exposed(file, names, scratch)) as exposed:
        session, _ = exposed.session([])
        errors = [error(ports) for ports in possible]
    return possible[errors.index(min(errors))]


def _sizes(value: Any) -> tuple[int | None, ...] | None:
    return None if value.shape is None else tuple(d if isinstance(d, int) else None for d in value.shape)


def _fits(sizes: tuple[int | None, ...] | None, shape: tuple[int | None, ...]) -> bool:
    return sizes is None or (
        len(sizes) == len(shape) and all(a is None or b is None or a == b for a, b in zip(sizes, shape)))


def _known(
    shape: tuple[int | None, ...], sizes: tuple[int | None, ...] | None, first: bool
) -> tuple[int | None, ...]:
    """Keras' shape with the sizes that only the file knows."""
    if sizes is None:
        return shape
    own = (sizes[0], *sizes[2:], sizes[1]) if first else sizes
    return tuple(a if a is not None else b for a, b in zip(shape, own))
