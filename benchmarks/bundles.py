"""The bundles that the benchmarks time: converted once, in a process of their own, by the gate that all pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cnnexport.bench.subjects import Subject, subject


def bundle(folder: Path, name: str) -> Path:
    """The bundle of architecture ``name`` in ``folder``, converted where it is not there."""
    place = folder / name
    if not (place / "manifest.json").is_file():
        done = subprocess.run(
            [str(Path(sys.executable).parent / "cnnexport"), "convert", name, "-o", str(place), "--quiet"],
            capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"{name} could not be converted: {done.stderr.strip()[-500:]}", pytrace=False)
    return place


def bundle_subject(folder: Path, name: str) -> Subject:
    """The bundle as ``cnnexport bench`` reads it: whole, unaltered, and its gate passed."""
    return subject(str(bundle(folder, name)))
