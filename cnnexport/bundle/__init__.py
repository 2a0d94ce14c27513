"""The bundle: a folder with the model, its evidence and what another team needs to run it.

| file | what |
|---|---|
| ``model.onnx`` | the model (``model.onnx.data`` beside it above 2 GB) |
| ``manifest.json`` | what it is and where it comes from; ``manifest.schema.json`` in this package documents it |
| ``parity.json`` | the comparison with Keras, for the model file of that hash |
| ``layers.svg`` | the error of each layer along the depth |
| ``test_data_set_0/`` | inputs and Keras' outputs as TensorProtos, as the ONNX model zoo lays them out |
| ``README.md`` | a model card made from the manifest |
| ``SHA256SUMS`` | the checksum of every other file, as ``sha256sum -c`` reads it, and its own in a last comment |

Written beside its place and renamed in whole, so that a kill at any moment leaves the old bundle or none.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnexport import files, supervision
from cnnexport.errors import BundleError, OutputError, UsageError
from cnnexport.files import sha256 as sha256

MANIFEST = "manifest.json"
PARITY = "parity.json"
CARD = "README.md"
LAYERS = "layers.svg"
SUMS = "SHA256SUMS"
_NEWEST = {MANIFEST: 1, PARITY: 2}
"""The versions of the schemas that are read; older ones are too."""
_LARGEST_TEXT = 64 << 20
"""Bytes of a manifest, record or list of checksums; no larger one is read."""


@contextmanager
def reserved(target: Path) -> Iterator[None]:
    """Be the only one who writes ``target`` while the block runs.

    What killed runs left beside it is cleared first, and an old bundle that one took away is put back: who holds the
    lock knows that none of them is alive, also in other containers. Folders made for it go again if they stay empty.

    Raises:
        UsageError: another process is writing there.
        OutputError: the place cannot be written.
    """
    made = [p for p in (target.parent, *target.parent.parents) if not os.path.lexists(p)]
    try:
        with files.writing(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.parent / f".{target.name}.lock"
        with files.sole_writer(lock, str(target)), supervision.writing_to(target, f"{__name__}:sweep", made):
            _recover(target)
            yield
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def sweep(target: Path) -> None:
    """Clear what a killed run left beside ``target``. Raises as ``reserved``."""
    with reserved(target):
        pass


def refuse_existing(target: Path, *, force: bool) -> None:
    """Raises UsageError where ``target`` exists and may not be replaced."""
    if not os.path.lexists(target):
        return
    if not target.is_dir() or target.is_symlink():
        raise UsageError(f"{target} exists already and is no folder; give another --output")
    if not any(target.iterdir()):
        return
    if not (target / MANIFEST).is_file():
        raise UsageError(f"{target} exists already and is no bundle, so nothing replaces it; give another --output")
    if not force:
        raise UsageError(f"{target} exists already; give --force to replace it, or another --output")


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A new folder beside ``target``, removed at the end unless it was published or set aside.

    Raises:
        OutputError: the place cannot be written, or is full, at the start or inside the block.
    """
    folder = target.parent / f".{target.name}.partial-{os.getpid()}"
    # One block from the first write on: an interrupt between any two lines still clears up.
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        except OSError as error:
            reason = error.strerror
            raise OutputError(f"{target.parent} cannot be written ({reason}); give another --output") from error
        yield folder
    except OSError as error:
        if not _concerns(error, folder):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise OutputError(f"{target} cannot be written ({error.strerror}); "
                          f"{'free some space, or ' if full else ''}give another --output") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether ``error`` comes from writing to ``folder``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return True
    return any(str(folder.parent) in str(name) for name in (error.filename, error.filename2) if name)


def require_space(folder: Path, size: int) -> None:
    """Raises OutputError where ``folder`` has no room for ``size`` bytes."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OutputError(f"{folder.parent} has {free / 1e6:.0f} MB free and the bundle needs {size / 1e6:.0f} MB; "
                          "free some space, or give another --output")


def publish(folder: Path, target: Path, *, replace: bool = True) -> None:
    """Put ``folder`` at ``target`` in one step; a bundle that was there is removed after.

    Raises UsageError where something has come there meanwhile that is not to be replaced.
    """
    if not replace:
        with suppress(OSError):
            target.rmdir()  # an empty folder is as good as none
        if os.path.lexists(target):
            raise UsageError(f"{target} exists already; give --force to replace it, or another --output")
        os.rename(folder, target)
    elif os.path.lexists(target):
        old = target.parent / f".{target.name}.old-{os.getpid()}"
        if not _exchange(folder, target):
            os.rename(target, old)
            os.rename(folder, target)
        else:
            os.rename(folder, old)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(folder, target)


def set_aside(folder: Path, target: Path) -> Path:
    """Keep a rejected ``folder`` beside ``target`` and say where; an earlier rejected one gives way."""
    place = target.parent / f"{target.name}.rejected"
    count = 1
    while os.path.lexists(place) and not (place / PARITY).is_file():
        count += 1
        place = target.parent / f"{target.name}.rejected-{count}"
    publish(folder, place)
    return place


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one system call, where the system has one (Linux)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(a.absolute()), here, os.fsencode(b.absolute()), exchange) == 0)


def _recover(target: Path) -> None:
    """Clear what a killed run left beside ``target``; put its old bundle back where it was taken away."""
    for kind in ("old", "partial"):
        start = f".{target.name}.{kind}-"
        for left in [p for p in target.parent.iterdir() if p.name.startswith(start)]:
            if not left.name.removeprefix(start).isdigit():
                continue
            if kind == "old" and not os.path.lexists(target):
                os.rename(left, target)
            else:
                shutil.rmtree(left, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """JSON with two spaces of indentation and a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds what only a bundle has, be it whole or not. Raises InputError for what cannot be told."""
    return files.is_folder(folder) and any(files.exists(folder / name) for name in (MANIFEST, SUMS, PARITY))


@dataclass(frozen=True)
class Opened:
    """A bundle whose files are those that were written, with its manifest and the record of its gate.

    ``strangers`` are files that lie in its folder and are no part of it.
    """

    path: Path
    manifest: dict[str, Any]
    parity: dict[str, Any]
    strangers: tuple[str, ...]


def opened(folder: Path) -> Opened:
    """The bundle in ``folder``, its checksums, schemas and records checked; nothing else is asked of it.

    Raises BundleError where it is incomplete or altered, or where a file says what none of its kind says.
    """
    strangers = check_sums(folder)
    manifest = read_manifest(folder)
    validate(folder / MANIFEST, manifest)
    check_files(folder, manifest, hashed=True)
    return Opened(folder, manifest, read_parity(folder, manifest), tuple(strangers))


def validate(path: Path, value: Any) -> None:
    """Raises BundleError where the JSON ``value`` of ``path``, a manifest or parity record, does not follow its schema.

    A version of the schema that is newer than ours is told as such.
    """
    import jsonschema

    version = value.get("schema_version") if isinstance(value, dict) else None
    newest = _NEWEST[path.name]
    if isinstance(version, int) and not isinstance(version, bool) and version > newest:
        raise BundleError(f"{path} is of schema version {version}, and this cnnexport reads up to {newest}; install a "
                          "newer one, or convert the model again")
    text = (Path(__file__).parent / path.name.replace(".json", ".schema.json")).read_text(encoding="utf-8")
    try:
        jsonschema.validate(value, json.loads(text))
    except jsonschema.ValidationError as error:
        where = "/".join(map(str, error.absolute_path))[:100] or "its top"
        raise BundleError(f"{path} does not follow its schema at {where}: {error.message[:150]}; convert the model "
                          "again") from error


def _read_json(folder: Path, name: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        return json.loads(_read_text(folder, name), parse_constant=refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or ["no JSON"])[0][:150]
        raise BundleError(f"{folder / name} cannot be read ({reason}); convert the model again") from error


def _finite(text: str) -> float:
    if abs(value := float(text)) == float("inf"):
        raise ValueError(f"{text[:20]} is no number that can be held")
    return value


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle. Raises BundleError where it is missing or is no manifest."""
    path = folder / MANIFEST
    manifest = _read_json(folder, MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise BundleError(f"{path} is no manifest of a bundle; convert the model again")
    return manifest


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` for all files of ``folder``; its last line is a comment with the hash of those before."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    lines = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    own = hashlib.sha256(lines.encode()).hexdigest()
    (folder / SUMS).write_bytes(f"{lines}# {own}  {SUMS}\n".encode())


def check_sums(folder: Path) -> list[str]:
    """Check every file of a bundle against ``SHA256SUMS``; returns the names of files that it does not list.

    Raises BundleError naming the first file that is missing or altered, or that does not lie in the bundle: nothing
    outside of it is opened.
    """
    text = _read_text(folder, SUMS)
    lines, mark, last = text.rpartition("# ")
    entries: dict[str, str] = {}
    for line in lines.splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64 or name in entries:
            mark = ""
        entries[name] = digest
    if not mark or not entries or last != f"{hashlib.sha256(lines.encode()).hexdigest()}  {SUMS}\n":
        raise BundleError(f"{folder / SUMS} was altered after it was written; convert the model again")
    for name, digest in entries.items():
        path = _inside(folder, name)
        if not path.is_file():
            raise BundleError(f"{folder} has no {name}: it is incomplete; convert the model again")
        if _hash(path) != digest:
            raise BundleError(f"{path} was altered after it was written (its SHA-256 is not that of {SUMS}); "
                              "convert the model again")
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()}
    return sorted(found - set(entries) - {SUMS})


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({files.reason_of(error)}); make it readable") from error


def _inside(folder: Path, name: str) -> Path:
    """The file ``name`` of a bundle. Raises BundleError where it is not a file of its own, inside the folder."""
    try:
        return _found_inside(folder, name)
    except OSError as error:
        raise BundleError(f"{folder / name} cannot be read ({files.reason_of(error)}); make it readable") from error


def _found_inside(folder: Path, name: str) -> Path:
    parts = name.split("/")
    path = folder / name
    wrong = (not name or len(name) > 4096 or "\\" in name or "\0" in name
             or any(part in ("", ".", "..") for part in parts)
             or any((folder.joinpath(*parts[:i + 1])).is_symlink() for i in range(len(parts))))
    if wrong or (os.path.lexists(path) and not path.is_file()):
        raise BundleError(f"{folder} names '{name[:200]}', which is no file inside it; not opened: take the bundle "
                          "from its maker again")
    return path


def _read_text(folder: Path, name: str) -> str:
    path = _inside(folder, name)
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise BundleError(f"{path} is larger than {_LARGEST_TEXT >> 20} MiB, which none of its kind is; convert "
                              "the model again")
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise BundleError(f"{folder} has no {name}: it is incomplete; convert the model again") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({str(error).splitlines()[0]}): it was altered after it was written; "
                          "convert the model again") from error


def check_files(folder: Path, manifest: dict[str, Any], *, hashed: bool = False) -> None:
    """Raises BundleError naming the first file of ``manifest`` that is missing or altered.

    ``hashed`` tells that ``check_sums`` has read the files already: the manifest must say the same.
    """
    known = _sums(folder) if hashed else {}
    for name, facts in manifest["files"].items():
        path = _inside(folder, name)
        if not isinstance(facts, dict):
            raise BundleError(f"{folder / MANIFEST} names the file '{name}' wrongly; convert the model again")
        if not path.is_file():
            raise BundleError(f"{folder} has no {name}: it is incomplete; convert the model again")
        if path.stat().st_size != facts.get("bytes") or (
                known.get(name) or _hash(path)) != facts.get("sha256"):
            raise BundleError(f"{path} was altered after it was written (its SHA-256 is not the manifest's); "
                              "convert the model again")


def _sums(folder: Path) -> dict[str, str]:
    """The hashes by name that ``check_sums`` has found true."""
    lines = (line.partition("  ") for line in (folder / SUMS).read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, _, name in lines if not digest.startswith("#")}


def read_parity(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The parity record of a bundle, which must be of its model file. Raises BundleError where it is not."""
    path = folder / PARITY
    record = _read_json(folder, PARITY)
    validate(path, record)
    facts = manifest["files"].get("model.onnx")
    if not isinstance(facts, dict) or record["model_sha256"] != facts.get("sha256"):
        raise BundleError(f"{path} is of another model.onnx (its SHA-256 differs); convert the model again")
    return dict(record)
