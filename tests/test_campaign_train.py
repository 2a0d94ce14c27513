"""Killed by the system, again and again: whatever the moment, the same command ends with the same run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from cnnexport.training import runs
from tests.outside import COMMAND

TRAIN = [COMMAND, "train", "lenet5", "--epochs", "2", "--quiet", "-o", "R"]


def _run(place: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TRAIN, *more], cwd=place, capture_output=True, text=True, timeout=300)


def _left(run: Path) -> tuple[bytes, bytes, set[str]]:
    """Weights, history and names of what a run left."""
    with zipfile.ZipFile(run / runs.MODEL) as model:
        return model.read("model.weights.h5"), (run / runs.HISTORY).read_bytes(), {p.name for p in run.iterdir()}


def _campaign(place: Path, kills: int) -> list[str]:
    """What went otherwise than in an undisturbed run, for so many kills spread evenly over its duration."""
    began = time.monotonic()
    done = _run(place)
    lasts = time.monotonic() - began
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    whole = _left(place / "R")
    assert whole[2] == {runs.RUN, *runs.RESULTS}
    wrong = []
    for number in range(kills):
        shutil.rmtree(place / "R")
        after = lasts * (number + 0.5) / kills
        with subprocess.Popen(TRAIN, cwd=place, stderr=subprocess.DEVNULL) as process:
            time.sleep(after)
            process.kill()
        again = _run(place)
        finished = (again.returncode, "holds a finished run already" in again.stderr) == (2, True)
        if (again.returncode, again.stderr) != (0, "") and not finished:
            wrong.append(f"after {after:.2f} s: exit {again.returncode}: {again.stderr[-300:]}")
        elif _left(place / "R") != whole:
            wrong.append(f"after {after:.2f} s: another run, {sorted(_left(place / 'R')[2])}")
    return wrong


def test_three_kills_change_nothing(tmp_path: Path) -> None:
    assert not _campaign(tmp_path, 3)


@pytest.mark.slow
def test_fifty_kills_change_nothing(tmp_path: Path) -> None:
    assert not _campaign(tmp_path, int(os.environ.get("CNNEXPORT_KILLS", "50")))


def test_two_trainings_in_one_folder_are_one_and_a_line(tmp_path: Path) -> None:
    both = []
    for seed in "12":
        both.append(subprocess.Popen([*TRAIN, "--seed", seed], cwd=tmp_path, stderr=subprocess.PIPE, text=True))
        time.sleep(1.0)
    told = [process.communicate(timeout=300)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], told
    line = told[codes.index(2)]
    # The second waits a little, so that it may find the run of the first finished.
    assert line.count("\n") == 1 and ("another cnnexport is writing R just now" in line
                                      or "R holds a finished run already" in line)
    weights, history, names = _left(tmp_path / "R")
    assert names == {runs.RUN, *runs.RESULTS}
    seed = json.loads((tmp_path / "R" / runs.RUN).read_text())["options"]["seed"]
    assert seed == 1 + codes.index(0)
    shutil.move(tmp_path / "R", tmp_path / "first")
    assert _run(tmp_path, "--seed", str(seed)).returncode == 0
    assert _left(tmp_path / "R") == (weights, history, names)
