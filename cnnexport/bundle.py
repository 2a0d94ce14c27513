"""The bundle: a folder with the model, its evidence and what another team needs to run it.

Written beside its place and renamed in whole, so that a kill at any moment leaves the old bundle or none.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnnexport.errors import InputError, UsageError


def refuse_existing(target: Path, *, force: bool) -> None:
    """Raises UsageError where ``target`` exists and may not be replaced."""
    if not target.exists():
        return
    if not force:
        raise UsageError(f"{target} exists already; give --force to replace it, or another --output")
    if not target.is_dir() or (any(target.iterdir()) and not (target / "manifest.json").is_file()):
        raise UsageError(f"{target} is no bundle, so --force does not replace it; give another --output")


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A new folder beside ``target``, removed at the end unless it was published or set aside."""
    folder = target.parent / f".{target.name}.partial-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    except OSError as error:
        raise InputError(f"{target.parent} cannot be written ({error.strerror}); give another --output") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, target: Path) -> None:
    """Rename ``folder`` to ``target``; an old bundle there steps aside first and is removed after."""
    old = target.parent / f".{target.name}.old-{os.getpid()}"
    if target.exists():
        os.rename(target, old)
    os.rename(folder, target)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """JSON with two spaces of indentation and a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
