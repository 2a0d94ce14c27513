"""What a ``.keras`` or HDF5 file may hold: known members of bounded size, and arrays that lie in the file itself."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnnexport import files
from cnnexport.errors import InputError
from cnnexport.text import one_line

_AGAIN = "copy or save it again"
_WEIGHTS = ("model.weights.h5", "variables.h5")
# What Keras writes, and what a Mac's archiver adds.
_MEMBERS = re.compile(r"config\.json|metadata\.json|model\.weights\.h5|variables\.h5|assets/.*|__MACOSX/.*|"
                      r"(assets/.*)?\.DS_Store", re.DOTALL)
_MOST_MEMBERS = 10_000
_MOST_JSON = 64 << 20
_ROOM, _EXPANSION = 256 << 20, 100
"""What a file may expand to: this much, or so many times its size. Keras compresses nothing; re-packed zeros do."""
_MOST_DEPTH = 64


# --- .keras ----------------------------------------------------------------------------------------------------


def zip_config(path: Path) -> tuple[Any, str]:
    """The configuration and Keras version in a ``.keras`` file, all of whose members are checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "config.json" not in names or not names & set(_WEIGHTS):
                missing = "config.json" if "config.json" not in names else "model.weights.h5"
                raise InputError(f"{path.name} holds no {missing}, so it is no Keras model; save it by "
                                 "model.save(...keras)")
            _check_members(path, archive)
            # Keras reads the weights out of order, which skips their checksums.
            bad = archive.testzip()
            if bad is not None:
                raise InputError(f"{path.name} is damaged: the checksum of its {bad} is wrong; {_AGAIN}")
            config = _json(path, archive, "config.json")
            metadata = _json(path, archive, "metadata.json") if "metadata.json" in names else {}
        with zip_weights(path):
            pass  # opening them checks them
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name} is truncated or damaged ({one_line(error)}); {_AGAIN}") from error
    known = metadata.get("keras_version", "3") if isinstance(metadata, dict) else "3"
    return _checked_config(path, config), _version(known)


def _check_members(path: Path, archive: zipfile.ZipFile) -> set[str]:
    """The names in a ``.keras`` file. Raises InputError for members that Keras does not write, and for bombs."""
    members = archive.infolist()
    names = [member.filename for member in members]
    what = None
    if len(names) > _MOST_MEMBERS:
        what = f"has {len(names)} members, more than any Keras model"
    elif len(set(names)) != len(names):
        what = f"holds {_shown(next(n for n in names if names.count(n) > 1))} twice"
    elif strange := next((m for m in members if not _is_known(m)), None):
        what = f"holds '{_shown(strange.filename)}', which Keras does not write"
    elif (whole := sum(m.file_size for m in members)) > _most(path):
        what = f"expands to {whole >> 20} MiB, which no Keras model of its size does"
    elif large := next((n for n in ("config.json", "metadata.json") if n in names
                        and archive.getinfo(n).file_size > _MOST_JSON), None):
        what = f"has a {large} of more than {_MOST_JSON >> 20} MiB, which no Keras model has"
    if what:
        raise InputError(f"{path.name} {what}; save it again by model.save(...keras)")
    return set(names)


def _is_known(member: zipfile.ZipInfo) -> bool:
    parts = member.filename.rstrip("/").split("/")
    mode = stat.S_IFMT(member.external_attr >> 16)  # of a link, for one
    return (_MEMBERS.fullmatch(member.filename) is not None and "\\" not in member.filename
            and not {"", ".", ".."} & set(parts) and mode in (0, stat.S_IFREG, stat.S_IFDIR)
            and member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))


def _most(path: Path) -> int:
    return max(_ROOM, _EXPANSION * path.stat().st_size)


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:80])


def _json(path: Path, archive: zipfile.ZipFile, name: str) -> Any:
    with archive.open(name) as file:
        content = file.read(_MOST_JSON + 1)
    if len(content) > _MOST_JSON:
        raise InputError(f"{path.name} has a {name} of more than {_MOST_JSON >> 20} MiB, which no Keras model has; "
                         f"{_AGAIN}")
    return json.loads(content)


@contextmanager
def zip_weights(path: Path) -> Iterator[Any]:
    """The HDF5 file in a ``.keras`` file, open and checked, without holding all of it in memory."""
    with zipfile.ZipFile(files.regular(path)) as archive:
        _check_members(path, archive)
        member = archive.getinfo(next(name for name in _WEIGHTS if name in archive.namelist()))
        if member.compress_type == zipfile.ZIP_STORED:
            stream: Any = _Stored(path, member)
        else:
            stream = tempfile.TemporaryFile()  # noqa: SIM115  (closed below)
            _check_space(path, member.file_size)
        with stream:
            if member.compress_type != zipfile.ZIP_STORED:
                with archive.open(member) as packed:
                    shutil.copyfileobj(packed, stream, 1 << 20)
            with _opened(path, stream) as file:
                yield file


def extract_weights(path: Path, folder: Path) -> Path:
    """Copy the HDF5 file out of a ``.keras`` file into ``folder``."""
    with zipfile.ZipFile(files.regular(path)) as archive:
        names = _check_members(path, archive)
        member = next(name for name in _WEIGHTS if name in names)
        _check_space(path, archive.getinfo(member).file_size)
        return Path(archive.extract(member, folder))


def _check_space(path: Path, needed: int) -> None:
    if (free := shutil.disk_usage(tempfile.gettempdir()).free) < needed:
        raise InputError(f"{path.name} expands to {needed >> 20} MiB, and {tempfile.gettempdir()} has {free >> 20} MiB "
                         "left; free some space, or set TMPDIR")


class _Stored(io.RawIOBase):
    """A zip's uncompressed member, seen in place: Python's own reader starts anew whenever it seeks back."""

    def __init__(self, path: Path, member: zipfile.ZipInfo) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  (closed by close)
        self._file.seek(member.header_offset)
        header = self._file.read(30)
        self._start = member.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(
            header[28:30], "little")
        self._size, self._place = member.file_size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + (0, self._place, self._size)[whence])
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._place)
        data = self._file.read(max(0, min(len(buffer), self._size - self._place)))
        buffer[:len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


# --- HDF5 ------------------------------------------------------------------------------------------------------


def h5_config(path: Path) -> tuple[Any, str]:
    """The configuration and Keras version in a legacy ``.h5`` model file."""
    try:
        with open_h5(path) as file:
            raw, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "1")
            if raw is None:
                raise InputError(f"{path.name} holds weights without a model; build the model (an architecture's name, "
                                 "or its .keras file) and give this file by --weights")
            if "model_weights" not in file:
                raise InputError(f"{path.name} holds a model without weights; save it by model.save(...keras)")
        if len(raw) > _MOST_JSON:
            raise InputError(f"{path.name} has a model_config of more than {_MOST_JSON >> 20} MiB, which no Keras "
                             "model has; save it again")
        return _checked_config(path, json.loads(raw)), _version(version)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name}'s model_config cannot be read ({one_line(error)}); save it again") from error


def _checked_config(path: Path, config: Any) -> Any:
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str) or "config" not in config:
        raise InputError(f"{path.name}'s configuration describes no Keras model; save it again by model.save(...keras)")
    return config


def _version(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if re.match(r"\d", text) else "1"


def open_h5(path: Path) -> Any:
    """An HDF5 file, open and checked. Raises InputError."""
    return _opened(path, files.regular(path))


def _opened(path: Path, source: Any) -> Any:
    """The HDF5 file ``source``, which is ``path`` or lies in it."""
    import h5py

    try:
        file = h5py.File(source, "r")
    except Exception as error:
        raise InputError(f"{path.name} is truncated or damaged ({one_line(error)}); {_AGAIN}") from error
    try:
        _check_h5(path, file)
    except BaseException as error:
        file.close()
        if isinstance(error, InputError) or not isinstance(error, Exception):
            raise
        raise InputError(f"{path.name} is truncated or damaged ({one_line(error)}); {_AGAIN}") from error
    return file


def _check_h5(path: Path, file: Any) -> None:
    """Refuse links, arrays of other files, and shapes that the file's size does not bear out."""
    import h5py

    most, total = _most(path), 0
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(file, 0)]
    while waiting:
        item, depth = waiting.pop()
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        what = "has groups nested deeper than any model's" if depth > _MOST_DEPTH else None
        for name in item.attrs:
            attribute = h5py.h5a.open(item.id, name.encode())
            if math.prod(attribute.shape or ()) * attribute.get_type().get_size() > path.stat().st_size:
                what = f"has the attribute '{_shown(name)}', larger than the file"
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                what = f"has the array '{_shown(item.name)}', which lies in another file"
            total += math.prod(item.shape or ()) * item.dtype.itemsize
            if total > most:
                what = f"claims arrays of {total >> 20} MiB, which no model file of its size holds"
        elif isinstance(item, h5py.Group):
            for name in item:
                if not isinstance(item.get(name, getlink=True), h5py.HardLink):
                    what = f"holds '{_shown(name)}', which is a link to somewhere else"
                    break
                waiting.append((item[name], depth + 1))
        if what:
            raise InputError(f"{path.name} {what}; save it again by model.save(...keras)")
