"""How exactly Keras itself computes: the same network in float64, or its answer to changes of the size of rounding.

A bound that follows from a network's depth alone refuses right files of networks that lose digits: large means before
a normalisation, sums over thousands of pixels, exponentials of large numbers. What Keras' own float32 loses is what any
float32 may lose. It is asked only of what the bounds did not let pass, because float64 takes its time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from cnnexport.keras_files import internals
from cnnexport.parity import live
from cnnexport.parity.answers import CaseAnswer, KerasAnswers
from cnnexport.parity.comparison import Array
from cnnexport.parity.groups import InGroups, groups
from cnnexport.parity.layers import Call
from cnnexport.parity.witness import FLOAT64, ROUNDING, Teller, Truth, Witness

_TURNS = 3
"""Times that rounding is imitated: one draw may be lucky."""
LAYER_BYTES = 32 << 20
"""Layer outputs asked for at a time: each is held in float64 and three or more times in float32."""


def teller(model: Any, heads: Sequence[Any], answers: KerasAnswers, *, dropped: bool = False) -> Teller:
    """What asks ``model``, whose ``answers`` are known; ``heads`` are the final activations that were kept, unless they
    were ``dropped`` from the model for the while.

    Its layers are asked in float64 as they are, or those of a clone where one of them insists on its type; a model that
    cannot be (a SavedModel) is asked how it answers to changes of the size of rounding.
    """
    from cnnexport.keras_files import heads as endings

    most = live.rows_at_once(answers.calls, 8)
    clone_once = functools.cache(lambda: _clone(model))

    @contextmanager
    def in_place() -> Iterator[tuple[Any, Sequence[Any]]]:
        with internals.in_float64(model):
            yield model, heads

    @contextmanager
    def cloned() -> Iterator[tuple[Any, Sequence[Any]]]:
        exact = clone_once()
        found = endings.heads(exact)
        with endings.without(found) if dropped else nullcontext():
            yield exact, [h if k is not None else None for h, k in zip(found, heads, strict=True)]

    def tell(cases: Sequence[int], layers: Sequence[str], calls: Mapping[str, Call] | None = None) -> Truth:
        known = answers if calls is None else replace(answers, calls=dict(calls))
        held = {path: call.output for path in layers if (call := known.calls.get(path)) and call.output is not None}
        names = groups({path: y.nbytes for path, y in held.items()}, LAYER_BYTES)
        return replace(of_outputs(known, sorted(cases)) if cases else Truth(ROUNDING),
                       layers=InGroups(names, lambda group: of_layers(known, group)) if held else {})

    def of_outputs(answers: KerasAnswers, numbers: Sequence[int]) -> Truth:
        rounded = _by_rounding(model, heads, answers, numbers, most)
        for wide in (in_place, cloned):
            # Whatever a model's own code raises in another type than it was written for.
            with suppress(Exception), wide() as (exact, kept):
                return _sharper(rounded, {i: _run(exact, kept, _widened(answers.answers[i]), most) for i in numbers})
        return rounded

    def of_layers(answers: KerasAnswers, names: Sequence[str]) -> dict[str, Witness]:
        counts = {name: answers.calls[name].count for name in names}
        case = answers.answers[0]
        exact: dict[str, Array] = {}
        for wide in (in_place, cloned):
            with suppress(Exception), wide() as (wider, kept):
                exact = _doubles(live.layer_outputs(wider, kept, _widened(case), counts))
                break
        rng = np.random.default_rng(0)
        runs = []
        for _ in range(1 if exact else _TURNS):  # beside Keras' own distance from a truth, over all of a layer's values
            with _moved(model, rng):
                runs.append(live.layer_outputs(model, heads, [_nudged(a, rng) for a in case.case.inputs], counts))
        rounded = _layers({name: answers.calls[name] for name in names}, runs)
        return {name: _sharp(w, exact[name]) if name in exact and exact[name].shape == w.keras.shape else w
                for name, w in rounded.items()}

    return tell


def _run(model: Any, heads: Sequence[Any], inputs: Sequence[Array], most: int) -> live.LiveRun:
    """``live.run``, with no more than ``most`` rows at once where the model takes any number of them."""
    rows = len(inputs[0])
    if rows <= most or any(x.shape[0] is not None for x in getattr(model, "inputs", None) or []):
        return live.run(model, heads, inputs)
    parts = [live.run(model, heads, [a[i:i + most] for a in inputs]) for i in range(0, rows, most)]

    def joined(arrays: Sequence[Any]) -> Any:
        return None if arrays[0] is None else np.concatenate(arrays)

    made = live.LiveRun([joined(p) for p in zip(*(part.outputs for part in parts))],
                        [joined(p) for p in zip(*(part.logits for part in parts))])
    whole = all(len(y) == rows for y in made.outputs)
    return made if whole else live.run(model, heads, inputs)  # an output that is none of each row


def _widened(answer: CaseAnswer) -> list[Array]:
    return [a.astype(np.float64) if np.issubdtype(a.dtype, np.floating) else a for a in answer.case.inputs]


def _doubles(exact: dict[str, Array]) -> dict[str, Array]:
    """What layers gave in float64. Raises ValueError where one gave other floating-point numbers."""
    if any(np.issubdtype(y.dtype, np.floating) and y.dtype != np.float64 for y in exact.values()):
        raise ValueError("this model does not compute in float64")
    return exact


def _sharp(witness: Witness, exact: Array | None) -> Witness:
    """The same witness with what was ``exact`` as the truth. Raises ValueError where that is not in float64."""
    floating = np.issubdtype(witness.keras.dtype, np.floating)
    if exact is None or exact.shape != witness.keras.shape or (floating and exact.dtype != np.float64):
        raise ValueError("this model does not compute in float64")
    return Witness(witness.keras, exact, (witness.keras, *witness.others))


def _sharper(rounded: Truth, runs: Mapping[int, live.LiveRun]) -> Truth:
    """The same witnesses with what the ``runs`` in float64 say as the truth."""
    return Truth(
        FLOAT64,
        {i: [_sharp(w, x) for w, x in zip(rounded.outputs[i], run.outputs, strict=True)] for i, run in runs.items()},
        {i: [None if w is None else _sharp(w, x) for w, x in zip(rounded.logits[i], run.logits, strict=True)]
         for i, run in runs.items()})


def _clone(model: Any) -> Any:
    """The same network with every layer in float64, its weights those of ``model``."""
    import keras

    def wide(layer: Any) -> Any:
        return type(layer).from_config(_of_float64(layer.get_config()))

    made = keras.models.clone_model(model, clone_function=wide, recursive=True)
    ours, theirs = list(model.variables), list(made.variables)
    if [tuple(v.shape) for v in ours] != [tuple(v.shape) for v in theirs]:
        raise ValueError("the clone has other variables")
    for old, new in zip(ours, theirs):
        new.assign(keras.ops.convert_to_numpy(old).astype(new.dtype))
    return made


def _of_float64(config: Any) -> Any:
    """A layer's configuration with every floating-point dtype, policy or input in it as float64."""
    if isinstance(config, dict):
        if config.get("class_name") in ("DTypePolicy", "FloatDTypePolicy"):
            return "float64"
        return {k: "float64" if k == "dtype" and str(v).startswith(("float", "bfloat", "mixed")) else _of_float64(v)
                for k, v in config.items()}
    return [_of_float64(v) for v in config] if isinstance(config, list) else config


def _by_rounding(
    model: Any, heads: Sequence[Any], answers: KerasAnswers, numbers: Sequence[int], most: int
) -> Truth:
    """Keras' answers beside those with weights and inputs moved at random by up to half a unit in the last place."""
    rng = np.random.default_rng(0)
    runs: dict[int, list[Any]] = {i: [] for i in numbers}
    for _ in range(_TURNS):
        with _moved(model, rng):
            for i in numbers:
                inputs = [_nudged(a, rng) for a in answers.answers[i].case.inputs]
                runs[i].append(_run(model, heads, inputs, most))
    return Truth(
        ROUNDING,
        {i: [Witness(y, y, tuple(r.outputs[k] for r in runs[i])) for k, y in enumerate(answers.answers[i].outputs)]
         for i in numbers},
        {i: [None if y is None else Witness(y, y, tuple(r.logits[k] for r in runs[i]))
             for k, y in enumerate(answers.answers[i].logits)] for i in numbers})


def _layers(known: Mapping[str, Call], runs: Sequence[Mapping[str, Array]]) -> dict[str, Witness]:
    found = {}
    for path, call in known.items():
        others = [run[path] for run in runs if path in run]
        if call.output is not None and others and all(o.shape == call.output.shape for o in others):
            found[path] = Witness(call.output, call.output, tuple(others))
    return found


def _nudged(array: Array, rng: np.random.Generator) -> Array:
    if not np.issubdtype(array.dtype, np.floating):
        return array
    half = np.finfo(array.dtype).eps / 2
    moved: Array = (array * (1 + half * rng.uniform(-1, 1, array.shape))).astype(array.dtype)
    return moved


@contextmanager
def _moved(model: Any, rng: np.random.Generator) -> Iterator[None]:
    """The weights of ``model`` moved as rounding would while the block runs."""
    import keras

    before = [(v, keras.ops.convert_to_numpy(v)) for v in model.variables if str(v.dtype) in ("float32", "float64")]
    try:
        for variable, array in before:
            variable.assign(_nudged(array, rng))
        yield
    finally:
        for variable, array in before:
            variable.assign(array)
