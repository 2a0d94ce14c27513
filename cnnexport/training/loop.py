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
from cnnexport.onednn import sound_gradients
from cnnexport.training import frozen, runs
from cnnexport.training.batches import Images, order_of, stream
from cnnexport.training.options import Options

_FEATURES = "features"
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
    """How far a run has come: epochs finished, their rows, seconds spent, and the arrays to go on with.

    ``resumed`` is the number of epochs that were finished before this session.
    """

    epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    arrays: list[NDArray[Any]] | None = None
    resumed: int = 0


Report = Callable[[dict[str, Any]], None]
"""Called with what just happened: a batch ("epoch", "batch", "batches", "loss", "accuracy") or an epoch's row."""


def phases(options: Options) -> list[Phase]:
    """The phases of a run, in order."""
    first = Phase("train", options.epochs, options.learning_rate)
    if not options.fine_tune:
        return [first]
    return [first, Phase("fine-tune", options.fine_tune_epochs, options.fine_tune_rate, options.fine_tune)]


def learn(
    model: Any, training: Images, validation: Images | None, options: Options, folder: Path, say: Report
) -> State:
    """Train ``model`` in place, from the last epoch that ``folder`` holds a state of; returns the final state.

    Raises OutputError where ``folder`` cannot be written; the state before is intact then.
    """
    state = restore(folder)
    state.resumed = state.epoch
    if state.resumed:
        say({"resumed": state.resumed})
    start = 0
    for phase in phases(options):
        end = start + phase.epochs
        if state.epoch == start and state.arrays is not None:
            # The phase before ended in this state; what learned in it learns in this one too.
            before = _part(model, options)[1]
            put(before, None, state.arrays)
            _restore_best(before, folder, options)
        for layer in frozen.backbone_layers(model, phase.unfrozen):
            layer.trainable = True
        if phase.name in state.stopped:
            state.epoch = max(state.epoch, end)
        if state.epoch < end:
            _phase(model, training, validation, options, phase, start, state, folder, say)
        elif phase is phases(options)[-1] and state.arrays is not None:
            # Killed after the last epoch: only its weights are missing.
            part = _part(model, options)[1]
            put(part, None, state.arrays)
            _restore_best(part, folder, options)
        start = end
    return state


def _part(model: Any, options: Options) -> tuple[Any, Any]:
    """The front whose features are computed once (None where there is none), and the part that learns."""
    cut = None if options.augment else frozen.split(model)
    return cut or (None, model)


def _phase(
    model: Any, training: Images, validation: Images | None, options: Options, phase: Phase, start: int, state: State,
    folder: Path, say: Report,
) -> None:
    import keras

    front, part = _part(model, options)
    steps = -(-training.count // options.batch_size)
    part.compile(optimizer=optimizer(options, phase.learning_rate, steps * phase.epochs),
                 loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    part.optimizer.build(part.trainable_variables)
    if state.epoch > start and state.arrays is not None:
        put(part, part.optimizer, state.arrays)
    learned, held = (training, validation) if front is None else _features(
        front, training, validation, options, phase, folder, state, say)
    best = _best(state, start)
    began = told = time.perf_counter()

    def batch_ends(batch: int, logs: dict[str, Any]) -> None:
        nonlocal told
        # Reading the measures takes longer than a step of a small network.
        if (now := time.perf_counter()) - told >= _TELL_SECONDS:
            told = now
            say({"epoch": state.epoch + 1, "batch": batch + 1, "batches": steps,
                 **{k: float(v) for k, v in logs.items()}})

    def epoch_ends(epoch: int, logs: dict[str, Any]) -> None:
        nonlocal best, began
        row: dict[str, Any] = {
            "epoch": epoch + 1, "phase": phase.name, **{k: round(float(v), 6) for k, v in logs.items()},
            "learning_rate": float(np.asarray(part.optimizer.learning_rate))}
        if not np.isfinite(row["loss"]):
            raise InputError(f"the loss is no number after epoch {epoch + 1}: the training diverged; give a smaller "
                             f"--learning-rate than {phase.learning_rate:g} (with --force), or a smaller --batch-size")
        now = time.perf_counter()
        began, seconds = now, now - began
        state.rows.append(row)
        state.epoch = epoch + 1
        state.seconds[phase.name] = state.seconds.get(phase.name, 0.0) + seconds
        state.arrays = arrays(part, part.optimizer)
        if options.early_stopping:
            if best is None or row["val_loss"] < best[1]:
                best = (epoch, row["val_loss"])
                _write(folder / runs.BEST, {}, state.arrays[:len(variables(part))])
            elif epoch - best[0] >= options.early_stopping:
                state.stopped.append(phase.name)
                part.stop_training = True
        checkpoint(folder, state)
        say({**row, "seconds": seconds})

    epochs = range(state.epoch, start + phase.epochs)
    orders = np.stack([order_of(training.count, options.seed, epoch) for epoch in epochs])
    with sound_gradients():
        part.fit(
            learned.batches(orders, options.batch_size, augment=options.augment, seed=options.seed, first=epochs.start),
            initial_epoch=epochs.start, epochs=epochs.stop, steps_per_epoch=steps, shuffle=False, verbose=0,
            validation_data=None if held is None else held.batches(np.arange(held.count)[None], options.batch_size),
            class_weight=_class_weights(np.asarray(training.labels)) if options.class_weights == "balanced" else None,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=batch_ends, on_epoch_end=epoch_ends)])
    _restore_best(part, folder, options)
    state.epoch, state.arrays = start + phase.epochs, arrays(part, None)
    checkpoint(folder, state)
    (folder / runs.BEST).unlink(missing_ok=True)


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
    """The front's features of all images, computed once and kept in the run's folder until it ends."""
    found: list[Features | None] = []
    for kind, images in (("train", training), ("validation", validation)):
        if images is None:
            found.append(None)
            continue
        path = folder / f"{_FEATURES}-{phase.name}-{kind}.npy"
        shape = (images.count, *front.output.shape[1:])
        values = _cached(path, shape)
        if values is None:
            began = time.perf_counter()
            with runs.replacing(path, durable=False) as place:
                _compute(front, images, place, say)
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


def clear_features(folder: Path) -> None:
    """Remove the cached features of a run."""
    for path in folder.glob(f"{_FEATURES}-*.npy"):
        path.unlink(missing_ok=True)


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
    generators = [g.state for layer in part._flatten_layers() for g in getattr(layer, "_seed_generators", [])]
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


def _best(state: State, start: int) -> tuple[int, float] | None:
    rows = [row for row in state.rows if row["epoch"] > start and "val_loss" in row]
    row = min(rows, key=lambda r: r["val_loss"], default=None)
    return None if row is None else (row["epoch"] - 1, row["val_loss"])


def _restore_best(part: Any, folder: Path, options: Options) -> None:
    if options.early_stopping and (folder / runs.BEST).is_file():
        put(part, None, _read(folder / runs.BEST)[1])


def checkpoint(folder: Path, state: State) -> None:
    """Write the state, and the history that it holds."""
    facts = {"epoch": state.epoch, "rows": state.rows, "seconds": state.seconds, "stopped": state.stopped}
    _write(folder / runs.CHECKPOINT, facts, state.arrays or [])
    runs.write_text(folder / runs.HISTORY, runs.history_csv(state.rows))


def restore(folder: Path) -> State:
    """The state that a run's folder holds; a new one where it holds none."""
    path = folder / runs.CHECKPOINT
    if not path.is_file():
        return State()
    facts, values = _read(path)
    return State(facts["epoch"], facts["rows"], facts["seconds"], facts["stopped"], values)


def _write(path: Path, facts: dict[str, Any], values: list[NDArray[Any]]) -> None:
    with runs.replacing(path) as place, open(place, "wb") as file:
        held: dict[str, Any] = {f"a{i}": v for i, v in enumerate(values)}
        np.savez(file, facts=np.asarray(json.dumps(facts)), **held)


def _read(path: Path) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return json.loads(str(file["facts"])), [file[f"a{i}"] for i in range(len(file.files) - 1)]
    except Exception as error:  # zipfile, NumPy and JSON raise many kinds
        raise InputError(f"{path} cannot be read, so the run cannot go on ({str(error)[:100]}); give --force to train "
                         "anew") from error
