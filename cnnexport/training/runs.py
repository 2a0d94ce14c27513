"""The folder that a training run lives in, and what it says of itself. Needs no Keras.

| file | what |
|---|---|
| ``run.json`` | architecture, options, data and its checksum, preprocessing, versions; state: running or finished |
| ``checkpoint.npz``, ``best.npz`` | the state after the last epoch, and the best weights; gone when it is finished |
| ``history.csv`` | a line an epoch |
| ``model.keras`` | the trained model |
| ``metrics.json`` | what it is worth on the test images |
| ``curves.svg``, ``confusion.svg``, ``mistakes.png`` | pictures of the run |

Every file is written beside its place and renamed, so that a kill at any moment leaves a state to go on from.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnexport import bundle
from cnnexport.errors import InputError, UsageError
from cnnexport.files import replacing as replacing
from cnnexport.files import write_text as write_text
from cnnexport.files import writing as writing

RUN = "run.json"
MODEL = "model.keras"
CHECKPOINT, BEST = "checkpoint.npz", "best.npz"
HISTORY, METRICS = "history.csv", "metrics.json"
CURVES, CONFUSION, MISTAKES = "curves.svg", "confusion.svg", "mistakes.png"
SCHEMA_VERSION = 1
COLUMNS = ("epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Run:
    """A run folder and its ``run.json``."""

    path: Path
    record: dict[str, Any]


def is_run(path: Path) -> bool:
    """Whether a folder is one of a training run."""
    return (path / RUN).is_file()


def read(path: Path) -> Run:
    """The run in a folder. Raises InputError where its record cannot be read."""
    try:
        record = json.loads((path / RUN).read_text(encoding="utf-8"))
        record["state"], record["architecture"]["name"], record["data"], record["options"], record["preprocessing"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path / RUN} is no record of a training run; train again") from error
    return Run(path, record)


def finished(path: Path) -> Run:
    """As ``read``. Raises InputError where the run did not end, or its model is not the one that was measured."""
    run = read(path)
    if run.record["state"] != "finished":
        raise InputError(f"{path} is a run that has not finished; give its train command again, and it goes on from "
                         "its last epoch")
    for name in (MODEL, METRICS):
        file = path / name
        if not file.is_file():
            raise InputError(f"{path} has no {name}; train again")
        if bundle.sha256(file) != run.record["files"].get(name):
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
        if read(path).record["state"] == "finished" and not force:
            raise UsageError(f"{path} holds a finished run already; give --force to replace it, or another --output")
    elif any(path.iterdir()):
        raise UsageError(f"{path} exists already and is no training run, so nothing replaces it; give another "
                         "--output")


def clear(path: Path) -> None:
    """Remove what a run left in its folder, its record last; other files stay."""
    names = (CHECKPOINT, BEST, HISTORY, MODEL, METRICS, CURVES, CONFUSION, MISTAKES)
    with writing(path):
        for name in (*names, RUN):
            (path / name).unlink(missing_ok=True)
        for left in path.glob(f".*{_PARTIAL}*"):
            left.unlink(missing_ok=True)


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
