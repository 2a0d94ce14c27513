"""The epochs of a run: what learns, on what, and a state after each epoch to go on from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnexport.errors import InputError, OutputError
from cnnexport.files import sha256
from cnnexport.keras_files import internals
from cnnexport.keras_files.onednn import sound_gradients
from cnnexport.text import all_in_line
from cnnexport.training import frozen, runs
from cnnexport.training.batches import Images, order_of, stream
from cnnexport.training.options import Options

_FRONT_BATCH, _FRONT_BYTES = 256, 16 << 20
_TELL_SECONDS = 0.1
_IN_MEMORY = 1 << 30
"""Bytes of features that are kept in memory; above it they are read from the file batch by batch."""


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with one optimizer. ``unfrozen`` is the number of backbone layers that learn in it."""

    name: str
    epochs: int
    learning_rate: float
    unfrozen: int = 0


@dataclass
class State:
    """How far a run has come, and all that it goes on from: a checkpoint is this, and nothing beside it counts.

    ``arrays`` are those of the phase with number ``phase``: weights and optimizer after epoch ``epoch``, or, once the
    phase is ``over``, its final weights. ``chosen`` is the epoch whose weights the phase ends with, as far as it has
    come; where that is not the last one, ``best`` are they. ``features`` holds the checksums of the files of features
    in use. ``resumed`` is the number of epochs that were finished before this session.
    """

    epoch: int = 0
    phase: int = 0
    over: bool = False
    chosen: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)
    arrays: list[NDArray[Any]] | None = None
    best: list[NDArray[Any]] | None = None
    resumed: int = 0

    @property
    def chosen_row(self) -> dict[str, Any]:
        """The row of the epoch ``chosen``."""
        return next(row for row in self.rows if row["epoch"] == self.chosen)


Report = Callable[[dict[str, Any]], None]
"""Called with what just happened: a batch ("epoch", "batch", "batches", "loss", "accuracy") or an epoch's row."""


def phases(options: Options) -> list[Phase]:
    """The phases of a run, in order."""
    first = Phase("train", options.epochs, options.learning_rate)
    if not options.fine_tune:
        return [first]
    return [first, Phase("fine-tune", options.fine_tune_epochs, options.fine_tune_rate, options.fine_tune)]


def learn(
    model: Any, training: Images, validation: Images | None, options: Options, folder: Path, say: Report, of: str = ""
) -> State:
    """Train ``model`` in place, from the last epoch that ``folder`` holds a state of; returns the final state.

    A state counts that says it is one ``of`` this run. However often and wherever a run was stopped, ``model`` ends
    with the weights that it has when it was not. Raises OutputError where ``folder`` cannot be written; the state
    before is intact then.
    """
    state = restore(folder, of)
    state.resumed = state.epoch
    if state.resumed:
        say({"resumed": state.resumed})
    start = 0
    for number, phase in enumerate(phases(options)):
        for layer in frozen.backbone_layers(model, phase.unfrozen):
            layer.trainable = True
        if number == state.phase and state.over and state.arrays is not None:
            # What learned in this phase learns in the next one too, and begins there with what it ends with here.
            put(_part(model, options)[1], None, state.arrays)
        elif number >= state.phase:
            _phase(model, training, validation, options, number, start, state, folder, say, of)
            runs.forget_features(folder)
        start += phase.epochs
    return state


def _part(model: Any, options: Options) -> tuple[Any, Any]:
    """The front whose features are computed once (None where there is none), and the part that learns."""
    cut = None if options.augment else frozen.split(model)
    return cut or (None, model)


def _phase(
    model: Any, training: Images, validation: Images | None, options: Options, number: int, start: int, state: State,
    folder: Path, say: Report, of: str,
) -> None:
    import keras

    phase = phases(options)[number]
    front, part = _part(model, options)
    steps = -(-training.count // options.batch_size)
    part.compile(optimizer=optimizer(options, phase.learning_rate, steps * phase.epochs),
                 loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    part.optimizer.build(part.trainable_variables)
    if number == state.phase and state.arrays is not None:
        put(part, part.optimizer, state.arrays)
    else:
        state.chosen = 0
    learned, held = (training, validation) if front is None else _features(
        front, training, validation, options, phase, folder, state, say)
    kept = (state.best or state.arrays or [])[:len(variables(part))]
    lowest = state.chosen_row["val_loss"] if state.chosen and options.early_stopping else np.inf
    epochs = range(max(state.epoch, start), start + phase.epochs)
    began = told = time.perf_counter()

    def batch_ends(batch: int, logs: dict[str, Any]) -> None:
        nonlocal told
        # Reading the measures takes longer than a step of a small network.
        if (now := time.perf_counter()) - told >= _TELL_SECONDS:
            told = now
            say({"epoch": max(state.epoch, start) + 1, "batch": batch + 1, "batches": steps,
                 **{k: float(v) for k, v in logs.items()}})

    def epoch_ends(epoch: int, logs: dict[str, Any]) -> None:
        nonlocal kept, lowest, began
        row: dict[str, Any] = {
            "epoch": epoch + 1, "phase": phase.name, **{k: round(float(v), 6) for k, v in logs.items()},
            "learning_rate": float(np.asarray(part.optimizer.learning_rate))}
        if not np.isfinite([row["loss"], row.get("val_loss", 0.0)]).all():
            raise InputError(f"the loss is no number after epoch {epoch + 1}: the training diverged; give a smaller "
                             f"--learning-rate than {phase.learning_rate:g} (with --force), or a smaller --batch-size")
        now = time.perf_counter()
        began, seconds = now, now - began
        state.rows.append(row)
        state.epoch, state.phase, state.over = epoch + 1, number, epoch + 1 == epochs.stop
        state.seconds[phase.name] = state.seconds.get(phase.name, 0.0) + seconds
        state.arrays, state.best = arrays(part, part.optimizer), None
        if not options.early_stopping or row["val_loss"] < lowest:
            state.chosen = epoch + 1
            if options.early_stopping:
                lowest, kept = row["val_loss"], [a.copy() for a in state.arrays[:len(variables(part))]]
        else:
            state.best = kept
            state.over |= epoch + 1 - state.chosen >= options.early_stopping
        if state.over:
            # The last state of a phase is its result: there is no moment at which the one is there without the other.
            state.arrays = (state.best or state.arrays)[:len(variables(part))]
            state.best, state.features = None, {}
            part.stop_training = True
        checkpoint(folder, state, of)
        say({**row, "seconds": seconds})

    orders = np.stack([order_of(training.count, options.seed, epoch) for epoch in epochs])
    with sound_gradients():
        part.fit(
            learned.batches(orders, options.batch_size, augment=options.augment, seed=options.seed, first=epochs.start),
            initial_epoch=epochs.start, epochs=epochs.stop, steps_per_epoch=steps, shuffle=False, verbose=0,
            validation_data=None if held is None else held.batches(np.arange(held.count)[None], options.batch_size),
            class_weight=_class_weights(np.asarray(training.labels)) if options.class_weights == "balanced" else None,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=batch_ends, on_epoch_end=epoch_ends)])
    assert state.over and state.arrays is not None
    put(part, None, state.arrays)


@dataclass(frozen=True)
class Features:
    """What the frozen front of a network makes of images: (N, ...) float32, and the labels, int64 (N,)."""

    values: NDArray[np.float32]
    labels: Any

    @property
    def count(self) -> int:
        return len(self.values)

    def batches(
        self, orders: NDArray[np.int64], size: int, *, augment: tuple[str, ...] = (), seed: int = 0, first: int = 0
    ) -> Any:
        """A ``stream`` of (features, labels), as ``Images.batches``; there is nothing to augment."""
        import tensorflow as tf

        if self.values.nbytes <= _IN_MEMORY:
            held = tf.constant(self.values)

            def take(indices: Any) -> Any:
                return tf.gather(held, indices)
        else:
            def take(indices: Any) -> Any:
                read = tf.numpy_function(lambda places: self.values[places], [indices], tf.float32)
                return tf.ensure_shape(read, (None, *self.values.shape[1:]))

        return stream(lambda indices, epoch, place: (take(indices), tf.gather(self.labels, indices)), orders, size,
                      first)


def _features(
    front: Any, training: Images, validation: Images | None, options: Options, phase: Phase, folder: Path,
    state: State, say: Report,
) -> tuple[Features, Features | None]:
    """The front's features of all images, computed once and kept in the run's folder until the phase ends.

    A file counts that the state knows: what another run left there, or a machine that failed, is computed anew.
    """
    found: list[Features | None] = []
    for kind, images in (("train", training), ("validation", validation)):
        if images is None:
            found.append(None)
            continue
        path = folder / f"{runs.FEATURES}-{phase.name}-{kind}.npy"
        shape = (images.count, *front.output.shape[1:])
        known = state.features.get(path.name)
        values = _cached(path, shape) if known and path.is_file() and sha256(path) == known else None
        if values is None:
            began = time.perf_counter()
            with runs.replacing(path, durable=False) as place:
                _compute(front, images, place, say)
            with runs.writing(path):
                state.features[path.name] = sha256(path)
            state.seconds["features"] = state.seconds.get("features", 0.0) + time.perf_counter() - began
            values = _cached(path, shape)
        if values is None:
            raise OutputError(f"{path} cannot be read back; free some space and give the command again")
        found.append(Features(np.asarray(values) if values.nbytes <= _IN_MEMORY else values, images.labels))
    assert found[0] is not None
    return found[0], found[1]


def _cached(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The features in a file; None where it holds no such ones, or not all that its header tells of."""
    try:
        values: NDArray[np.float32] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return values if values.shape == shape else None


def _compute(front: Any, images: Images, place: Path, say: Report) -> None:
    import tensorflow as tf

    # One trace for all batches, also for the last, which is smaller.
    run = tf.function(lambda inputs: front(inputs, training=False), autograph=False,
                      input_signature=[tf.TensorSpec((None, *front.inputs[0].shape[1:]), tf.float32)])
    shape = (images.count, *front.output.shape[1:])
    size = max(1, min(_FRONT_BATCH, _FRONT_BYTES // (4 * int(np.prod(front.inputs[0].shape[1:])))))
    with open(place, "wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        done = 0
        for inputs, _ in images.batches(np.arange(images.count)[None], size):
            values = np.asarray(run(inputs), np.float32)
            file.write(np.ascontiguousarray(values).data)
            done += len(values)
            say({"features": done, "images": images.count})


def optimizer(options: Options, rate: float, steps: int) -> Any:
    """The Keras optimizer for ``steps`` batches at ``rate``, falling by the schedule.

    "cosine" falls to zero; "step" divides by 10 after a half and three quarters; "exponential" falls to a hundredth.
    """
    import keras

    schedules = keras.optimizers.schedules
    fall: Any = rate
    if options.schedule == "cosine":
        fall = schedules.CosineDecay(rate, steps)
    elif options.schedule == "step":
        fall = schedules.PiecewiseConstantDecay(
            [max(1, steps // 2), max(2, steps * 3 // 4)], [rate, rate / 10, rate / 100])
    elif options.schedule == "exponential":
        fall = schedules.ExponentialDecay(rate, steps, 0.01)
    decay = options.weight_decay or None
    if options.optimizer == "sgd":
        made = keras.optimizers.SGD(fall, momentum=options.momentum, weight_decay=decay)
    elif options.optimizer == "rmsprop":
        made = keras.optimizers.RMSprop(fall, weight_decay=decay)
    elif options.optimizer == "adamw":
        made = keras.optimizers.AdamW(fall, weight_decay=decay or 0.004)
    else:
        made = keras.optimizers.Adam(fall, weight_decay=decay)
    if decay or options.optimizer == "adamw":
        made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return made


def _class_weights(labels: NDArray[np.int64]) -> dict[int, float]:
    """A weight for each class that makes all classes count alike: images / (classes * images of the class)."""
    classes, counts = np.unique(labels, return_counts=True)
    return {int(c): len(labels) / (len(classes) * int(n)) for c, n in zip(classes, counts)}


# --- the state of a run ------------------------------------------------------------------------------------------


def variables(part: Any) -> list[Any]:
    """What a part of a network holds: weights, then the states of its random generators."""
    generators = [g.state for layer in internals.all_layers(part) for g in internals.seed_generators(layer)]
    unique = {id(v): v for v in [*part.weights, *generators]}
    return list(unique.values())


def arrays(part: Any, optimizer: Any) -> list[NDArray[Any]]:
    """The values of ``variables`` and of the optimizer."""
    return [np.asarray(v) for v in [*variables(part), *(optimizer.variables if optimizer is not None else [])]]


def put(part: Any, optimizer: Any, values: list[NDArray[Any]]) -> None:
    """Assign what ``arrays`` took; without an optimizer its values are left out."""
    places = [*variables(part), *(optimizer.variables if optimizer is not None else [])]
    if len(values) < len(places) or any(tuple(p.shape) != v.shape for p, v in zip(places, values)):
        raise InputError("the state of this run is not of this network; give --force to train anew")
    for place, value in zip(places, values):
        place.assign(value)


def checkpoint(folder: Path, state: State, of: str = "") -> None:
    """Write the state of the run that ``of`` tells, and the history that it holds."""
    facts = {"of": of, "epoch": state.epoch, "phase": state.phase, "over": state.over, "chosen": state.chosen,
             "rows": state.rows, "seconds": state.seconds, "features": state.features}
    held: dict[str, Any] = {f"{kind}{i}": value for kind, values in (("a", state.arrays), ("b", state.best))
                            for i, value in enumerate(values or [])}
    with runs.replacing(folder / runs.CHECKPOINT) as place, open(place, "wb") as file:
        np.savez(file, facts=np.asarray(json.dumps(facts)), **held)
    runs.write_text(folder / runs.HISTORY, runs.history_csv(state.rows))


def restore(folder: Path, of: str = "") -> State:
    """The state that a run's folder holds; a new one where it holds none, or that of another run."""
    path = folder / runs.CHECKPOINT
    if not path.is_file():
        return State()
    try:
        with np.load(path, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            if facts.pop("of") != of:
                return State()
            taken, best = ([file[f"{kind}{i}"] for i in range(sum(name[0] == kind for name in file.files))]
                           for kind in "ab")
            return State(**facts, arrays=taken, best=best or None)
    except Exception as error:  # zipfile, NumPy and JSON raise many kinds
        raise InputError(f"{path} cannot be read, so the run cannot go on ({all_in_line(error)}); give --force to "
                         "train anew") from error
