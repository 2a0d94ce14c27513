"""The folder that a training run lives in, and what it says of itself. Needs no Keras.

| file | what |
|---|---|
| ``run.json`` | architecture, options, data and its checksum, preprocessing, versions; state: running or finished |
| ``checkpoint.npz`` | the state after the last epoch, best weights among it; gone when it is finished |
| ``features-*.npy`` | what the frozen front makes of the images, which the checkpoint knows by checksum; gone as well |
| ``history.csv`` | a line an epoch |
| ``model.keras`` | the trained model |
| ``metrics.json`` | what it is worth on the test images |
| ``curves.svg``, ``confusion.svg``, ``mistakes.png`` | pictures of the run |
| ``.lock`` | held by the process that writes, and gone with it |

Every file is written beside its place and renamed, so that a kill at any moment leaves a state to go on from: the
record says running before results of an earlier run go, and finished after all of its own are there.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cnnexport import bundle, files, supervision
from cnnexport.bundle.records import values
from cnnexport.errors import CnnexportError, InputError, UsageError
from cnnexport.files import check_replaceable, partial_prefix, sole_writer
from cnnexport.files import replacing as replacing
from cnnexport.files import write_text as write_text
from cnnexport.files import writing as writing
from cnnexport.training.record import RunRecord

RUN = "run.json"
MODEL = "model.keras"
CHECKPOINT = "checkpoint.npz"
HISTORY, METRICS = "history.csv", "metrics.json"
CURVES, CONFUSION, MISTAKES = "curves.svg", "confusion.svg", "mistakes.png"
RESULTS = (MODEL, HISTORY, METRICS, CURVES, CONFUSION, MISTAKES)
LOCK = ".lock"
FEATURES = "features"
COLUMNS = ("epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
_EARLIER = "best.npz"
"""Where versions before this one kept the best weights."""
_LARGEST_RECORD = 64 << 20


@dataclass(frozen=True)
class Run:
    """A run folder and its ``run.json``."""

    path: Path
    record: RunRecord


def is_run(path: Path) -> bool:
    """Whether a folder is one of a training run."""
    return (path / RUN).is_file()


def read(path: Path) -> Run:
    """The run in a folder. Raises InputError where its record cannot be read."""
    try:
        given = msgspec.json.decode(files.read(path / RUN, most=_LARGEST_RECORD))
        record = msgspec.convert(given, RunRecord)
        # Options that an older version did not have are at their defaults; these two it always had.
        given["options"]["seed"], given["options"]["weights"]
        return Run(path, record)
    except (ValueError, KeyError, RecursionError) as error:  # msgspec's own are ValueErrors
        raise InputError(f"{path / RUN} is no record of a training run; train again") from error


def finished(path: Path) -> Run:
    """As ``read``. Raises InputError where the run did not end, or its model is not the one that was measured."""
    run = read(path)
    if run.record.state != "finished":
        raise InputError(f"{path} is a run that has not finished; give its train command again, and it goes on from "
                         "its last epoch")
    sums = run.record.files or {}
    for name in (MODEL, METRICS):
        file = path / name
        if not file.is_file():
            raise InputError(f"{path} has no {name}; train again")
        if files.sha256(files.regular(file)) != sums.get(name):
            raise InputError(f"{file} was altered after the run measured it; train again")
    return run


def metrics(run: Run) -> dict[str, Any]:
    """What the run measured on its test images."""
    return dict(json.loads((run.path / METRICS).read_text(encoding="utf-8")))


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raises UsageError where ``path`` is something else than a run, or a finished one without ``force``."""
    if not os.path.lexists(path):
        return
    if not path.is_dir() or path.is_symlink():
        raise UsageError(f"{path} exists already and is no folder; give another --output")
    if is_run(path):
        try:
            state = read(path).record.state
        except InputError as error:
            raise UsageError(f"{path / RUN} is no record of a training run, so nothing replaces it; give another "
                             "--output") from error
        if state == "finished" and not force:
            raise UsageError(f"{path} holds a finished run already; give --force to replace it, or another --output")
        return
    with writing(path):
        foreign = [name for name in sorted(os.listdir(path)) if name != LOCK and not _is_partial(name)]
    if foreign:
        raise UsageError(f"{path} exists already and is no training run, so nothing replaces it; give another "
                         "--output")


@contextmanager
def opened(path: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone, made where it is missing; what stays empty goes again.

    Raises UsageError where another process holds it, OutputError where it cannot be made.
    """
    made: list[Path] = []
    try:
        with writing(path):
            for place in (*reversed(path.parents), path):
                if not place.exists():
                    place.mkdir(exist_ok=True)
                    made.append(place)
        check_replaceable(path / LOCK)
        with sole_writer(path / LOCK, str(path)), supervision.writing_to(path, f"{__name__}:put_in_order", made[::-1]):
            yield
    finally:
        with contextlib.suppress(OSError):
            for place in reversed(made):
                place.rmdir()


def begin(path: Path, record: RunRecord) -> None:
    """Put ``record`` of a run that begins in place of what an earlier run left; other files stay."""
    for name in (RUN, *RESULTS):
        check_replaceable(path / name)
    # In this order no record is ever beside a state or a result that is not its own.
    forget(path)
    write_record(path, record)
    for name in RESULTS:
        _remove(path / name)


def settle(path: Path) -> None:
    """Leave no more in a run's folder than its state calls for, however the process before ended.

    A finished run keeps its results, one that has a checkpoint what it goes on from, any other nothing.
    """
    if not is_run(path):
        return
    if read(path).record.state == "finished":
        forget(path)
    elif (path / CHECKPOINT).is_file():
        sweep(path)
    else:
        forget(path)
        for name in (*RESULTS, RUN):
            _remove(path / name)


def put_in_order(path: Path) -> None:
    """As ``settle``, of a run whose process died. Raises as ``opened``."""
    with opened(path):
        settle(path)


def tidy(path: Path) -> None:
    """As ``settle``, for a finished run that was killed before it was; does nothing where it cannot."""
    with contextlib.suppress(CnnexportError, OSError):
        if (path / RUN).is_file() and read(path).record.state == "finished" and any(
                name == LOCK or _is_partial(name) or _is_state(name) for name in os.listdir(path)):
            put_in_order(path)


def sweep(path: Path) -> None:
    """Remove what killed processes were writing."""
    _remove_all(path, _is_partial)


def forget(path: Path) -> None:
    """Remove all that a run goes on from, its checkpoint first, and what killed processes were writing."""
    _remove(path / CHECKPOINT)
    forget_features(path)
    _remove(path / _EARLIER)
    sweep(path)


def forget_features(path: Path) -> None:
    """Remove the features of a run's frozen front."""
    _remove_all(path, _is_features)


def _remove_all(path: Path, meant: Callable[[str], bool]) -> None:
    """Remove the files of a folder whose names are ``meant``. Raises as ``_remove``."""
    with writing(path):
        for name in os.listdir(path):
            if meant(name):
                _remove(path / name)


def _remove(path: Path) -> None:
    """Remove a file, where it is there. Raises OutputError for what is no regular file."""
    check_replaceable(path)
    with writing(path):
        path.unlink(missing_ok=True)


def _is_features(name: str) -> bool:
    return name.startswith(f"{FEATURES}-") and name.endswith(".npy")


def _is_state(name: str) -> bool:
    return name in (CHECKPOINT, _EARLIER) or _is_features(name)


def _is_partial(name: str) -> bool:
    """Whether a file of a run was being written under this name, by whatever process."""
    own = (RUN, CHECKPOINT, _EARLIER, *RESULTS)
    return name.startswith(tuple(partial_prefix(Path(file)) for file in own)) or (
        name.startswith(f".{FEATURES}-") and ".partial-" in name)


def write_record(path: Path, record: RunRecord) -> None:
    """Write the ``run.json`` of the folder ``path``, in one step."""
    write_json(path / RUN, values(record))


def write_json(path: Path, value: Any) -> None:
    """As ``bundle.write_json``, in one step."""
    with replacing(path) as place:
        bundle.write_json(place, value)


def history_csv(rows: list[dict[str, Any]]) -> str:
    """The epochs as CSV; what was not measured is empty."""
    lines = [",".join(COLUMNS)]
    for row in rows:
        lines.append(",".join("" if row.get(c) is None else str(row[c]) for c in COLUMNS))
    return "\n".join(lines) + "\n"
