"""Train a registered architecture: from labelled images to a run folder that ``convert`` takes as it is."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from cnnexport import data as sources
from cnnexport.architectures.spec import Architecture, Preprocessing
from cnnexport.bundle.manifest import versions
from cnnexport.bundle.records import ImageSteps, values
from cnnexport.data import Dataset, Preparation, Split
from cnnexport.data.images import image_steps
from cnnexport.data.sources import limited, stratified
from cnnexport.errors import CnnexportError, InputError, OutputError, UsageError
from cnnexport.files import regular, sha256
from cnnexport.options import ConvertOptions
from cnnexport.text import all_in_line, shortened
from cnnexport.training import runs
from cnnexport.training.measures import AGREEING, same_measure
from cnnexport.training.options import Options, resolve
from cnnexport.training.record import RunArchitecture, RunData, RunOptions, RunPreprocessing, RunRecord

RUNS = Path("runs")
_GREY = Preprocessing("pixels 0..255, grey, divided by 255", "grey", 1 / 255, (0.0,), (), (0.0, 1.0))
_RGB = Preprocessing("pixels 0..255, RGB, divided by 255", "RGB", 1 / 255, (0.0, 0.0, 0.0), (), (0.0, 1.0))
_TEST_BYTES = 64 << 20
_LOOSE = 0.03
"""As ``AGREEING``, where the history was computed in 16 bits."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its folder, what ``run.json`` and ``metrics.json`` say, and the epochs of its history."""

    path: Path
    record: dict[str, Any]
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    resumed_from: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON-ready values."""
        return {"run": str(self.path), "resumed_from_epoch": self.resumed_from, "record": self.record,
                "metrics": self.metrics, "history": self.history}


def train(
    name: str,
    data: str | Path = "digits",
    *,
    output: str | Path | None = None,
    weights: str | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    classes: int | None = None,
    groups: bool = True,
    force: bool = False,
    unsafe_load: bool = False,
    say: Callable[[dict[str, Any]], None] = lambda event: None,
    **options: Any,
) -> TrainedRun:
    """Train architecture ``name`` on ``data`` and leave a run in ``output`` (default ``runs/NAME``).

    ``data`` is one of ``data.NAMED``, an ``.npz`` file or a folder; ``weights`` ("random", "imagenet" or a file) are
    those it starts from; ``options`` are ``options.Options``. A run that was stopped goes on from its last epoch when
    it is asked for again with the same options and data, and ends as it had ended; ``force`` starts anew.

    Raises:
        UsageError: values that do not go together, a place that cannot be written or that another process writes to.
        InputError: data or weights that cannot be read, fetched or learned from, or a training that diverged.
        CnnexportError: the trained model does not classify as its history says.
    """
    from cnnexport import architectures, distribution

    spec = architectures.get(name)
    chosen, weights = resolve(spec, options), "random" if weights is None else str(weights)
    distribution.require(distribution.KERAS)  # before data is asked for, and read
    if classes is not None and classes < 2:
        raise UsageError(f"classes is {classes}; a classifier needs two or more")
    network = ConvertOptions(weights=weights, input_shape=input_shape, groups=groups)
    architectures.check_options(spec, network)
    shape = tuple(input_shape or spec.input_shape)
    if shape[2] not in (1, 3):
        raise UsageError(f"input shape {'x'.join(map(str, shape))} has {shape[2]} channels; images have 1 or 3")
    folder = Path(output) if output is not None else RUNS / spec.name
    try:
        runs.refuse_existing(folder, force=force)
    except UsageError:
        runs.tidy(folder)
        raise
    if _is_file(weights):
        regular(Path(weights), "give random, imagenet or a Keras weights or model file")
    say({"step": "data"})
    found = sources.load(data, classes=classes)
    architectures.check_options(spec, replace(
        network, classes=len(found.class_names) if weights != "imagenet" or not spec.backbone else None))
    training, validation, found = _parts(found, chosen)
    preparation = Preparation(int(shape[0] or 0), int(shape[1] or 0), int(shape[2]), recipe_of(spec, int(shape[2])))
    asked = _asked(spec, found, chosen, weights, preparation, groups, training, validation)
    with runs.opened(folder):
        try:
            runs.refuse_existing(folder, force=force)  # again: another process may have ended it meanwhile
            record = None if force else _unfinished(folder, asked)
            with _deterministic(chosen.seed):
                return _train(spec, found, training, validation, chosen, weights, preparation, groups, folder, asked,
                              record, unsafe_load, say)
        except BaseException:
            with contextlib.suppress(CnnexportError, OSError):
                runs.settle(folder)
            raise


def recipe_of(spec: Architecture, channels: int) -> Preprocessing:
    """The preprocessing of an architecture at so many channels: its own, or plain division by 255."""
    if spec.preprocessing is not None and len(spec.preprocessing.mean) == channels:
        return spec.preprocessing
    return _GREY if channels == 1 else _RGB


def _parts(found: Dataset, chosen: Options) -> tuple[Split, Split | None, Dataset]:
    """The images that are learned from, those held out of them for validation, and the data set."""
    if chosen.limit:
        if chosen.limit < len(found.class_names):
            raise UsageError(f"limit is {chosen.limit}; {len(found.class_names)} classes need an image each")
        found = limited(found, chosen.limit, chosen.seed)
    if not chosen.validation:
        return found.train, None, found
    if found.validation is not None:
        return found.train, found.validation, found
    labels = found.train.labels
    held = stratified(labels, round(chosen.validation * len(labels)), chosen.seed)
    rest = np.setdiff1d(np.arange(len(labels)), held)
    if missing := set(np.unique(labels)) - set(np.unique(labels[rest])):
        few = found.class_names[int(min(missing))]
        raise InputError(f"{found.name} has too few images of the class '{few}' to hold some out for validation; give "
                         "more, or --validation 0")
    return found.train.take(rest), found.train.take(held), found


def _asked(
    spec: Architecture, found: Dataset, chosen: Options, weights: str, preparation: Preparation, groups: bool,
    training: Split, validation: Split | None,
) -> RunRecord:
    """The record of a run that would begin now."""
    file = _is_file(weights)
    return RunRecord(
        state="running", architecture=RunArchitecture(name=spec.name, family=spec.family, source=str(spec.source)),
        options=RunOptions(**asdict(chosen), weights=Path(weights).name if file else weights, groups=groups,
                           weights_sha256=sha256(Path(weights)) if file else None),
        data=RunData(
            name=found.name, source=found.source, sha256=found.sha256, classes=tuple(found.class_names),
            images={"train": len(training), "validation": len(validation) if validation else 0,
                    "test": len(found.test)},
            test=found.test_origin, scale=found.train.scale),
        preprocessing=RunPreprocessing(
            image=ImageSteps(**image_steps(preparation.height, preparation.width, preparation.channels)),
            **asdict(preparation.recipe)),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), versions=versions(),
        machine={"cores": os.cpu_count()})


def _is_file(weights: str) -> bool:
    return weights not in ("random", "imagenet")


def _unfinished(folder: Path, asked: RunRecord) -> RunRecord | None:
    """The record of the run that goes on; None where none has finished an epoch. Raises UsageError for another one."""
    if not (runs.is_run(folder) and (folder / runs.CHECKPOINT).is_file()):
        return None
    record = runs.read(folder).record
    before = record.asked
    for part, now in asked.asked.items():
        then = before[part]
        if then == now:
            continue
        key = next((k for k in sorted({*now, *then}) if now.get(k) != then.get(k)), "")
        details = f"{part}: {key} was {then.get(key)!r} and is {now.get(key)!r}"
        raise UsageError(f"{folder} holds an unfinished run with other options ({shortened(details)}); give the same "
                         "ones to go on, --force to start anew, or another --output")
    return record


@contextlib.contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """The same numbers for a seed on one machine, while the block runs."""
    import keras

    from cnnexport.keras_files.internals import deterministic_operations

    keras.utils.set_random_seed(seed)
    with deterministic_operations():
        yield


def _train(
    spec: Architecture, found: Dataset, training: Split, validation: Split | None, chosen: Options, weights: str,
    preparation: Preparation, groups: bool, folder: Path, asked: RunRecord, record: RunRecord | None,
    unsafe_load: bool, say: Callable[[dict[str, Any]], None],
) -> TrainedRun:
    import keras

    from cnnexport import architectures
    from cnnexport.training import loop
    from cnnexport.training.batches import Images

    say({"step": "build"})
    began = time.perf_counter()
    shape = (preparation.height, preparation.width, preparation.channels)
    classes = len(found.class_names)
    model = architectures.build(spec.name, weights=weights, seed=chosen.seed, input_shape=shape, classes=classes,
                                groups=groups, unsafe_load=unsafe_load)
    # One of its own to compile: the model that is written holds no optimizer, at whatever epoch this session began.
    learner = (_in_mixed_precision(spec, model, shape, classes, groups) if chosen.mixed_precision
               else keras.Model(model.inputs[0], model.outputs[0]))
    _renew_statistics(learner, -(-len(training) // chosen.batch_size))
    images = Images(training, preparation)
    held = None if validation is None else Images(validation, preparation)
    if record is None:
        # Only now: what could not be built or read has not cost the run that was there.
        record = asked
        runs.begin(folder, record)
    else:
        runs.sweep(folder)
    of = hashlib.sha256(json.dumps(asked.asked, sort_keys=True).encode()).hexdigest()
    state = loop.learn(learner, images, held, chosen, folder, say, of)
    del images, held
    if chosen.mixed_precision:
        model.set_weights(learner.get_weights())

    say({"step": "measure"})
    checked = None if validation is None else _checked(
        folder, validation.labels, predictions(model, validation, preparation, say), state.chosen_row,
        _LOOSE if chosen.mixed_precision else AGREEING)
    probabilities = predictions(model, found.test, preparation, say)
    if not np.isfinite(probabilities).all():
        raise InputError("the trained network answers with values that are no numbers: the training diverged; give a "
                         f"smaller --learning-rate than {chosen.learning_rate:g} (with --force)")
    measured = _measured(found, probabilities)
    frozen_front = not chosen.augment and bool(spec.backbone)
    metrics = {
        "data": found.name, "split": "test", **measured,
        "chance": round(float(np.bincount(found.test.labels).max() / len(found.test)), 6),
        "parameters": model.count_params(),
        "trainable_parameters": int(sum(np.prod(v.shape) for v in learner.trainable_weights)),
        "epochs": len(state.rows), "features_cached": frozen_front,
        "seconds": {k: round(v, 3) for k, v in state.seconds.items()},
        "last_epoch": state.rows[-1], "validation": checked,
    }
    _finish(folder, model, found, probabilities, metrics, state.rows, record, began)
    return TrainedRun(folder, values(runs.read(folder).record), metrics, state.rows, state.resumed)


def _renew_statistics(model: Any, steps: int) -> None:
    """Let an epoch of ``steps`` batches renew the moving statistics of the batch normalisations that learn.

    Keras' momentum of 0.99 forgets over hundreds of batches: on a small data set the statistics of the network before
    training would still decide what it answers after.
    """
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            layer.momentum = min(layer.momentum, max(0.5, 1 - 5 / steps))


def _checked(
    folder: Path, labels: NDArray[np.int64], said: NDArray[np.float32], row: dict[str, Any], share: float
) -> dict[str, Any]:
    """The accuracy of the final model on the images held out, beside the one that the history has for its epoch.

    Raises CnnexportError where they differ by more than ``share`` of the images: such a model is not what was trained.
    """
    right, count, then = int((said.argmax(axis=1) == labels).sum()), len(labels), row["val_accuracy"]
    if not same_measure(right, round(then * count), count, share):
        raise CnnexportError(
            f"{folder} is not finished: its model classifies {right} of {count} validation images rightly and its "
            f"history says {round(then * count)} (epoch {row['epoch']}), so these are not the weights that were "
            "trained; give --force to train anew, and report it if it comes again")
    return {"images": count, "correct": right, "accuracy": right / count, "epoch": row["epoch"],
            "history_accuracy": then}


def _measured(found: Dataset, probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """The measures of predictions of a data set's test images."""
    from cnnexport.training.measures import measure

    return measure(found.test.labels, probabilities, found.class_names)


def _in_mixed_precision(spec: Architecture, model: Any, shape: tuple[int, ...], classes: int, groups: bool) -> Any:
    """The same network and weights, computing in 16 bits: float16 on a GPU, bfloat16 on a CPU, which is quicker at it.

    Variables and the last layer stay in float32.
    """
    import keras
    import tensorflow as tf

    from cnnexport import architectures

    policy = "mixed_float16" if tf.config.list_physical_devices("GPU") else "mixed_bfloat16"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        made = architectures.plain(spec, input_shape=shape, classes=classes, groups=groups)
    finally:
        keras.config.set_dtype_policy(before)
    made.layers[-1].dtype_policy = keras.DTypePolicy("float32")
    made.set_weights(model.get_weights())
    for ours, theirs in zip(made.layers, model.layers):
        ours.trainable = theirs.trainable
    return made


def predictions(
    model: Any, split: Split, preparation: Preparation, say: Callable[[dict[str, Any]], None] = lambda event: None
) -> NDArray[np.float32]:
    """What Keras answers, (N, classes) float32, for images prepared as a bundle's consumer prepares them."""
    size = batch_of(preparation)
    parts = []
    for batch in split.batches(preparation, size):
        parts.append(np.asarray(model.predict_on_batch(batch), np.float32))
        say({"measured": sum(map(len, parts)), "images": len(split)})
    return np.concatenate(parts)


def batch_of(preparation: Preparation) -> int:
    """A batch whose input takes no more than 64 MB."""
    return max(1, min(256, _TEST_BYTES // (4 * preparation.height * preparation.width * preparation.channels)))


def _finish(
    folder: Path, model: Any, found: Dataset, probabilities: NDArray[np.float32], metrics: dict[str, Any],
    rows: list[dict[str, Any]], record: RunRecord, began: float,
) -> None:
    """Write what the run leaves, the record last; only then what it could go on from goes."""
    from cnnexport.training import pictures

    title = f"{record.architecture.name} on {found.name}"
    with runs.replacing(folder / runs.MODEL) as place:
        try:
            model.save(place)
        except OSError:
            raise
        except Exception as error:  # h5py tells a full disk in its own way
            raise OutputError(f"{folder / runs.MODEL} cannot be written ({all_in_line(error)}); free "
                              "some space and give the command again") from error
    with runs.replacing(folder / runs.MISTAKES) as place:
        pictures.mistakes(place, found.test, probabilities, found.class_names)
    runs.write_text(folder / runs.CURVES, pictures.curves(title, rows))
    runs.write_text(folder / runs.CONFUSION, pictures.confusion(
        f"{title}: {metrics['accuracy']:.2%} of {metrics['images']}", metrics["confusion"], found.class_names))
    runs.write_text(folder / runs.HISTORY, runs.history_csv(rows))
    metrics["seconds"]["session"] = round(time.perf_counter() - began, 3)
    runs.write_json(folder / runs.METRICS, metrics)
    runs.write_record(folder, structs.replace(
        record, state="finished", finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files={name: sha256(folder / name) for name in runs.RESULTS}))
    runs.forget(folder)


def format_run(made: TrainedRun) -> str:
    """What a run is worth, in a few lines."""
    from cnnexport.training.measures import format_measures

    found, images = made.metrics, made.record["data"]["images"]
    took = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in found["seconds"].items())
    lines = [
        f"{made.path}: {made.record['architecture']['name']} on {found['data']}, {found['epochs']} epochs",
        f"  images    {images['train']:,} training, {images['validation']:,} validation, {images['test']:,} test "
        f"({made.record['data']['test']})",
        *format_measures(found),
        f"  chance    {found['chance']:.2%} (the commonest class)",
        f"  took      {took}",
        f"  next      cnnexport convert {made.path}",
    ]
    weights = made.record["options"]["weights"]
    if weights == "random" and found["trainable_parameters"] < found["parameters"] // 2:
        lines.append("  note      the frozen backbone's weights are random; --weights imagenet gives trained ones")
    return "\n".join(lines)
