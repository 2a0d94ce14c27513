"""Arrays of an ``.npz`` file: what each member claims to hold is checked before room is made for it."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnexport.errors import InputError
from cnnexport.text import all_in_line, shortened

_ROOM, _EXPANSION = 1 << 30, 200
"""What a file may expand to: this much, or so many times its size. Black pictures compress well; bombs better."""
_MOST_MEMBERS = 10_000
_NUMBERS, _TEXTS = "biuf", "biufSU"
_MOST_ITEM = 8
"""Bytes of a number: NumPy's long doubles differ between machines."""


def read(path: Path, wanted: Sequence[str], texts: Sequence[str]) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """The names in an ``.npz`` file, and the ``wanted`` arrays of numbers (and ``texts``, of text too) that it holds.

    Raises InputError for a file that is none, is damaged, or claims more than it holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [m.filename.removesuffix(".npy") for m in members]
            if len(members) > _MOST_MEMBERS or len(set(names)) != len(names):
                what = "too many arrays" if len(members) > _MOST_MEMBERS else "a name twice"
                raise InputError(f"{path} holds {what}; save it by numpy.savez")
            present = [m for m in members if m.filename.removesuffix(".npy") in (*wanted, *texts)]
            if (whole := sum(m.file_size for m in present)) > max(_ROOM, _EXPANSION * path.stat().st_size):
                raise InputError(f"{path} expands to {whole >> 20} MiB, which no images of its size do; save it by "
                                 "numpy.savez")
            found = {}
            for member in present:
                name = member.filename.removesuffix(".npy")
                found[name] = _read(path, archive, member, name, _TEXTS if name in texts else _NUMBERS)
            return names, found
    except (InputError, MemoryError):
        raise
    except Exception as error:  # zipfile, NumPy and zlib raise many kinds
        reason = all_in_line(error)
        raise InputError(f"{path} is no .npz file that can be read ({reason}); save it by numpy.savez") from error


def _read(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, kinds: str) -> NDArray[Any]:
    with archive.open(member) as file:
        major = np.lib.format.read_magic(file)[0]
        header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        held = member.file_size - file.tell()
    if dtype.kind not in kinds or (dtype.kind in _NUMBERS and dtype.itemsize > _MOST_ITEM):
        raise InputError(f"{path}: {name} is of type {shortened(str(dtype), 60)}; "
                         f"{_expected(name)}")
    if math.prod(shape) * dtype.itemsize != held:
        raise InputError(f"{path}: {name} claims {math.prod(shape) * dtype.itemsize} bytes and holds {held}; save it "
                         "again by numpy.savez")
    with archive.open(member) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _expected(name: str) -> str:
    return ("pixels are numbers" if name.startswith("x_") else
            "labels are the numbers of classes, from 0" if name.startswith("y_") else "names are text")
