"""A run that was stopped, at whatever moment and however, ends as one that was not; what a run leaves and refuses."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnexport import architectures, files, trained, training
from cnnexport.architectures.spec import Architecture, Source
from cnnexport.errors import CnnexportError, InputError, OutputError, UsageError
from cnnexport.training import loop, runs

_STOPPING = {"early_stopping": 1, "epochs": 6, "learning_rate": 0.2}
_TUNING = {"fine_tune": 1, "fine_tune_epochs": 2, "fine_tune_rate": 0.02}
COURSES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("lenet5", {"epochs": 2}),
    "best weights": ("small", {**_STOPPING, "augment": ("shift",)}),
    "fine-tuning": ("small", {**_TUNING, "epochs": 1, "class_weights": "balanced"}),
    "both": ("small", {**_STOPPING, **_TUNING, "fine_tune_epochs": 4, "fine_tune_rate": 0.1}),
}
WRITES = ("replace", "unlink")
"""The system's calls after which a folder is another one: all else that a run writes is written beside its place."""


def _small(*, input_shape: tuple[int, ...], classes: int, **rest: Any) -> Any:
    """A frozen residual front with batch normalisation, and a top with dropout: small, but nothing is missing."""
    import keras

    layers = keras.layers
    image = keras.Input(input_shape)
    x = layers.Conv2D(6, 3, padding="same", name="c1", trainable=False)(image)
    x = layers.BatchNormalization(name="b1", trainable=False)(x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="c2", trainable=False)(x)
    x = layers.Add(name="add")([x, y])
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="c3", trainable=False)(x)
    x = layers.Dense(16, activation="relu", name="d1")(layers.Flatten(name="flat")(x))
    x = layers.Dropout(0.3, name="drop")(x)
    return keras.Model(image, layers.Dense(classes, activation="softmax", name="d2")(x), name="small")


SMALL = Architecture(
    name="small", family="small", depth=5, parameters=0, macs=0, input_shape=(12, 12, 1), min_size=8, build=_small,
    source=Source("Nobody", "Small", "Nowhere", 2024), backbone=True, classes=10)


@pytest.fixture(autouse=True)
def _small_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = architectures.get
    monkeypatch.setattr(architectures, "get", lambda name: SMALL if name == "small" else real(name))
    monkeypatch.chdir(tmp_path)


def _train(course: str, folder: Path, **more: Any) -> training.TrainedRun:
    name, options = COURSES[course]
    return training.train(name, output=folder, **{"limit": 120, "validation": 0.25, "seed": 5, **options, **more})


def _weights(path: Path) -> dict[str, bytes]:
    """The weights of a model file, bit for bit, without the names of its layers, which count what was built before."""
    import h5py

    found: dict[str, bytes] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with zipfile.ZipFile(path) as model, h5py.File(io.BytesIO(model.read("model.weights.h5"))) as weights:
        weights.visititems(take)
    assert found
    return found


def _left(folder: Path) -> dict[str, Any]:
    """What a finished run leaves, without times."""
    assert {p.name for p in folder.iterdir()} == {runs.RUN, *runs.RESULTS}
    found: dict[str, Any] = {"weights": _weights(folder / runs.MODEL)}
    for name in (runs.HISTORY, runs.CURVES, runs.CONFUSION, runs.MISTAKES):
        found[name] = (folder / name).read_bytes()
    metrics, record = (json.loads((folder / name).read_text()) for name in (runs.METRICS, runs.RUN))
    assert record["state"] == "finished"
    return {**found, "metrics": {k: v for k, v in metrics.items() if k != "seconds"},
            "record": {k: v for k, v in record.items() if k not in ("started", "finished", "files")}}


def _moments(course: str, folder: Path, place: Path) -> list[Path]:
    """Train to the end; copies of the folder as a kill before each of its changes would have left it."""
    taken: list[Path] = []

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if folder.is_dir():
                taken.append(Path(shutil.copytree(folder, place / str(len(taken)))))
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(os, name, watched(getattr(os, name)))
        _train(course, folder)
    return taken


def _distinct(taken: list[Path]) -> list[Path]:
    """Of the moments with the same state to go on from, the first and the last, which has the most beside it."""
    found: dict[Any, list[Path]] = {}
    for folder in taken:
        kept = tuple((p.name, files.sha256(p)) for p in sorted(folder.iterdir())
                     if p.name in (runs.RUN, runs.CHECKPOINT) or p.match("features-*.npy"))
        found.setdefault(kept, []).append(folder)
    return [folder for same in found.values() for folder in dict.fromkeys([same[0], same[-1]])]


def _check_moments(course: str, taken: list[Path], whole: dict[str, Any]) -> None:
    for folder in taken:
        had = sorted(p.name for p in folder.iterdir())
        if (folder / runs.RUN).is_file() and runs.read(folder).record.state == "finished":
            runs.finished(folder)  # what is to be converted is whole
            with pytest.raises(UsageError, match="holds a finished run already"):
                _train(course, folder)
        else:
            _train(course, folder)
        assert _left(folder) == whole, had


@pytest.mark.parametrize("course", COURSES)
def test_a_kill_at_any_moment_changes_nothing(course: str, tmp_path: Path) -> None:
    taken = _moments(course, tmp_path / "whole", tmp_path)
    assert len(taken) > 12
    some = _distinct(taken)
    chosen = np.unique(np.linspace(0, len(some) - 1, 5 if course == "plain" else 3).astype(int))
    _check_moments(course, [some[i] for i in chosen], _left(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("course", COURSES)
def test_a_kill_at_every_moment_changes_nothing(course: str, tmp_path: Path) -> None:
    taken = _moments(course, tmp_path / "whole", tmp_path)
    _check_moments(course, taken, _left(tmp_path / "whole"))


class _Interrupted(BaseException):
    pass


def _failing(patch: pytest.MonkeyPatch, at: int, error: BaseException, *, after: bool) -> None:
    """Let the change with number ``at`` of the folder raise ``error``, before or after it is made."""
    count = 0

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if real is not os_unlink:
                count += 1
                if count == at and not after:
                    raise error
            result = real(*arguments, **options)
            if real is not os_unlink and count == at and after:
                raise error
            return result

        return call

    os_unlink = os.unlink
    patch.setattr(os, "replace", failing(os.replace))


def _errors() -> Iterator[tuple[BaseException, bool]]:
    while True:
        yield OSError(errno.ENOSPC, "No space left on device"), False
        yield _Interrupted(), True
        yield KeyboardInterrupt(), False


@pytest.mark.parametrize("course", ["plain", pytest.param("both", marks=pytest.mark.slow)])
def test_stopped_at_one_write_after_another(course: str, tmp_path: Path) -> None:
    """The disk is full, or somebody presses Ctrl-C: at the first write, then at the second of what goes on, ..."""
    _train(course, tmp_path / "whole")
    folder = tmp_path / "new" / "run"
    for at, (error, after) in enumerate(_errors(), 1):
        with pytest.MonkeyPatch.context() as patch:
            _failing(patch, at, error, after=after)
            try:
                _train(course, folder)
                break
            except (OutputError, _Interrupted, KeyboardInterrupt) as caught:
                assert isinstance(caught, OutputError) == isinstance(error, OSError)
        if folder.exists():
            left = {p.name for p in folder.iterdir()}
            assert {runs.RUN, runs.CHECKPOINT} <= left and not [n for n in left if n.startswith(".")]
        else:
            assert not folder.parent.exists()
    assert at > 6
    assert _left(folder) == _left(tmp_path / "whole")


def test_features_that_are_not_the_runs_are_computed_anew(tmp_path: Path) -> None:
    taken = _moments("fine-tuning", tmp_path / "whole", tmp_path)
    folder = next(f for f in taken if (f / runs.CHECKPOINT).is_file() and loop.restore(f, _of(f)).epoch == 2)
    found = sorted(folder.glob("features-*.npy"))
    assert len(found) == 2
    for path in found:
        np.save(path, np.zeros_like(np.load(path)))
    _train("fine-tuning", folder)
    assert _left(folder) == _left(tmp_path / "whole")


def _of(folder: Path) -> str:
    with np.load(folder / runs.CHECKPOINT) as file:
        return str(json.loads(str(file["facts"]))["of"])


def test_a_checkpoint_of_another_run_is_none(tmp_path: Path) -> None:
    state = loop.State(epoch=2, arrays=[np.zeros(3)])
    loop.checkpoint(tmp_path, state, "one")
    assert loop.restore(tmp_path, "one").epoch == 2
    assert loop.restore(tmp_path, "other").epoch == 0


def test_weights_that_are_not_those_of_the_history_are_never_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.learn

    def forgetful(model: Any, *rest: Any) -> Any:
        before = model.get_weights()
        state = real(model, *rest)
        model.set_weights(before)
        return state

    monkeypatch.setattr(loop, "learn", forgetful)
    with pytest.raises(CnnexportError, match="these are not the weights that were trained; give --force") as caught:
        _train("plain", tmp_path / "r", limit=600, epochs=3)
    assert "\n" not in str(caught.value)
    assert runs.read(tmp_path / "r").record.state == "running" and not (tmp_path / "r" / runs.MODEL).exists()
    monkeypatch.undo()
    with pytest.raises(InputError, match="has not finished"):
        runs.finished(tmp_path / "r")


def test_what_the_validation_says_is_on_record_and_the_test_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _train("best weights", tmp_path / "r")
    found, best = made.metrics["validation"], min(made.history, key=lambda row: row["val_loss"])
    assert best != made.history[-1]
    assert (found["epoch"], found["history_accuracy"]) == (best["epoch"], best["val_accuracy"])
    assert found["accuracy"] == pytest.approx(best["val_accuracy"], abs=1e-5) and found["images"] == 30
    assert _train("plain", tmp_path / "none", validation=0.0).metrics["validation"] is None

    run = trained.load(tmp_path / "none")
    run.test.asked(run.model)
    real = trained.predictions
    monkeypatch.setattr(trained, "predictions", lambda *arguments: np.roll(real(*arguments), 1, axis=1))
    with pytest.raises(InputError, match=r"of 355 test images rightly and its metrics.json says"):
        run.test.asked(run.model)


def test_answers_that_are_no_numbers_are_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "predictions", lambda *arguments: np.full((355, 10), np.nan, np.float32))
    with pytest.raises(InputError, match="the training diverged"):
        _train("plain", tmp_path / "r", validation=0.0, epochs=1)


def test_a_folder_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    hold = ("import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
            "print('held', flush=True); time.sleep(60)")
    monkeypatch.setattr(files, "WAIT_SECONDS", 0.3)
    with subprocess.Popen([sys.executable, "-c", hold, folder / runs.LOCK], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"another cnnexport is writing {folder} just now") as caught:
            _train("plain", folder)
        assert "\n" not in str(caught.value) and {p.name for p in folder.iterdir()} == {runs.LOCK}
        other.kill()
    _train("plain", folder, epochs=1)  # a lock that was left counts for nothing
    _left(folder)


def test_what_killed_processes_left_goes(tmp_path: Path) -> None:
    folder = tmp_path / "m[1]"
    folder.mkdir()
    for name in (runs.LOCK, ".run.partial-1.json", ".features-train-train.partial-12.npy"):
        (folder / name).write_text("x")  # nothing of a run yet: as good as empty
    _train("plain", folder, epochs=1)
    _left(folder)
    left = [".model.partial-77.keras", ".checkpoint.partial-77.npz", runs.CHECKPOINT, "best.npz", runs.LOCK,
            "features-train-validation.npy"]
    for name in left:
        (folder / name).write_text("x")
    (folder / "notes.txt").write_text("mine")
    trained.load(folder)
    with pytest.raises(UsageError, match="holds a finished run already"):
        _train("plain", folder, epochs=1)
    assert not [name for name in left if (folder / name).exists()]
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_run_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diverged"):
        _train("plain", tmp_path / "a" / "b", optimizer="sgd", learning_rate=1e38)
    assert not (tmp_path / "a").exists()

    folder = tmp_path / "r"
    _train("plain", folder, epochs=1)
    before = _left(folder)
    (tmp_path / "bad.h5").write_text("no weights")
    with pytest.raises(InputError):
        _train("plain", folder, weights="bad.h5", force=True)
    assert _left(folder) == before  # what could not even be read has not cost the run that was there

    def stop(event: dict[str, Any]) -> None:
        if "batch" in event or "epoch" in event:
            raise KeyboardInterrupt

    (folder / "notes.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        _train("plain", folder, epochs=2, force=True, say=stop)
    left = {p.name for p in folder.iterdir()} - {"notes.txt"}
    assert not left or {runs.RUN, runs.CHECKPOINT} <= left


def test_a_kill_while_a_run_takes_the_place_of_another(tmp_path: Path) -> None:
    """With --force: no record is beside a model or a state that is not its own."""
    folder = tmp_path / "r"
    _train("plain", folder, epochs=1, seed=1)
    old = files.sha256(folder / runs.MODEL)
    (folder / runs.CHECKPOINT).write_text("of an even older run")
    taken: list[Path] = []

    class _Enough(BaseException):
        pass

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            taken.append(Path(shutil.copytree(folder, tmp_path / str(len(taken)))))
            if (folder / runs.CHECKPOINT).is_file() and runs.read(folder).record.state == "running":
                raise _Enough
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(os, name, watched(getattr(os, name)))
        with pytest.raises(_Enough):
            _train("plain", folder, force=True)
    assert len(taken) > 5
    for moment in taken:
        if runs.read(moment).record.state == "finished":
            assert files.sha256(moment / runs.MODEL) == old == (runs.finished(moment).record.files or {})[runs.MODEL]
        else:
            assert not (moment / runs.CHECKPOINT).exists() or loop.restore(moment, _of(moment)).epoch == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_neither_waited_for_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(InputError, match=r"pipe\.h5 is a pipe, not a file"):
        _train("plain", tmp_path / "r", weights="pipe.h5")
    with pytest.raises(InputError, match="is a folder"):
        _train("plain", tmp_path / "r", weights=str(tmp_path))
    assert not (tmp_path / "r").exists()
    _train("plain", tmp_path / "r", epochs=1)
    for name in (runs.METRICS, runs.CHECKPOINT, runs.LOCK):
        (tmp_path / "r" / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / "r" / name)
        with pytest.raises(OutputError, match="is a pipe, not a file, and nothing replaces it"):
            _train("plain", tmp_path / "r", force=True)
        assert stat.S_ISFIFO((tmp_path / "r" / name).lstat().st_mode)
        (tmp_path / "r" / name).unlink()


def test_a_record_that_lacks_what_is_needed_is_one_line(tmp_path: Path) -> None:
    _train("plain", tmp_path / "r", epochs=1)
    record = json.loads((tmp_path / "r" / runs.RUN).read_text())
    for part, key in (("data", "source"), ("data", "images"), ("preprocessing", "image"), ("options", "seed")):
        less = {**record, part: {k: v for k, v in record[part].items() if k != key}}
        (tmp_path / "r" / runs.RUN).write_text(json.dumps(less))
        with pytest.raises(InputError, match="is no record of a training run; train again"):
            trained.load(tmp_path / "r")


def test_a_record_that_is_none_is_not_replaced(tmp_path: Path) -> None:
    for text in ("{}", "[]", '{"state": "running", "architecture": {"name": 1}, "data": 1, "options": 2, '
                             '"preprocessing": 3}'):
        (tmp_path / "r").mkdir(exist_ok=True)
        (tmp_path / "r" / runs.RUN).write_text(text)
        with pytest.raises(UsageError, match="no record of a training run, so nothing replaces it"):
            _train("plain", tmp_path / "r", force=True)
        assert (tmp_path / "r" / runs.RUN).read_text() == text
