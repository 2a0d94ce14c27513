"""A bundle that is there: opened, and checked, in one way by all that read one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cnnexport import files
from cnnexport.bundle import records
from cnnexport.bundle.records import (
    MANIFEST,
    MODEL,
    PARITY,
    VERDICTS,
    FileFacts,
    Manifest,
    ModelFacts,
    Parity,
    VariantVerdict,
    Verdicts,
)
from cnnexport.errors import BundleError, InputError, ParityError, RejectedError, UsageError
from cnnexport.files import sha256

SUMS = "SHA256SUMS"
_LARGEST_TEXT = 64 << 20
"""Bytes of a manifest, record or list of checksums; no larger one is read."""


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds what only a bundle has, be it whole or not. Raises InputError for what cannot be told."""
    return files.is_folder(folder) and any(files.exists(folder / name) for name in (MANIFEST, SUMS, PARITY))


def _plainly(name: str, work: Callable[[], str]) -> None:
    work()


@dataclass(frozen=True)
class Bundle:
    """A bundle: its folder, manifest and the record of its gate; the seconds of each step where it was just made.

    ``strangers`` are files that lie in its folder and are no part of it. ``variant`` is the id of the model that was
    asked for (``FOLDER#int8``) and ``verdict`` the record of it; None for the first.
    """

    path: Path
    about: Manifest
    proof: Parity
    strangers: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    variant: str | None = None
    verdict: VariantVerdict | None = None

    @classmethod
    def open(
        cls, path: str | Path, *, proven: bool = True, step: Callable[[str, Callable[[], str]], None] = _plainly
    ) -> Bundle:
        """The bundle in folder ``path``: its checksums, schemas and records checked, and that its gate passed.

        ``FOLDER#ID`` opens it at another of its models. ``proven=False`` opens one that did not pass too.
        ``step`` hears each check by name and makes it, which gives its finding in a few words.

        Raises:
            InputError: no bundle.
            BundleError: a bundle incomplete or altered, or of a version newer than ours.
            ParityError: a bundle whose gate did not pass.
            UsageError: no model of that id.
            RejectedError: a model whose verdict is ``reject``.
        """
        path, variant = parted(path)
        if not files.is_folder(path):
            what = "is a file" if files.exists(path) else "does not exist"
            raise InputError(f"{path} {what}; give a bundle, the folder that cnnexport convert makes")
        if not is_bundle(path):
            raise InputError(f"{path} is a folder without {MANIFEST}; give a bundle or an ONNX file")
        sums: dict[str, str] = {}
        strangers: list[str] = []
        found: dict[str, Any] = {}

        def checksums() -> str:
            sums.update(check_sums(path))
            strangers.extend(_strangers(path, sums))
            return f"{len(sums) + 1} files"

        def manifest() -> str:
            about = found["about"] = read_manifest(path)
            _check_files(path, about, sums)
            return f"version {about.schema_version}"

        def parity() -> str:
            proof = found["proof"] = read_parity(path, found["about"])
            if proven and not proof.passed:
                raise ParityError(f"{path / PARITY} says that the model did not pass; convert it again")
            told = "unknown" if proof.worst_error is None else f"{proof.worst_error:.1e}"
            return f"{'passed' if proof.passed else 'failed'}, worst error {told} {proof.tolerance.unit}"

        def verdict() -> str:
            judged = found["verdict"] = _verdict_of(path, found["about"], str(variant))
            if judged is None:
                return "of the first model: none"
            if proven and judged.verdict == "reject":
                raise RejectedError(f"{path / VERDICTS} rejects '{variant}': {judged.reasons[0]}; use the first model")
            return f"{judged.verdict}, by {judged.criterion}"

        steps = [("checksums", checksums), ("manifest", manifest), ("parity record", parity)]
        for name, work in (*steps, *([("verdict", verdict)] if variant else [])):
            step(name, work)
        judged = found.get("verdict")
        return cls(path, found["about"], found["proof"], tuple(strangers), variant=variant if judged else None,
                   verdict=judged)

    @property
    def models(self) -> tuple[ModelFacts, ...]:
        """The ONNX files of the network, the first as Keras computes it."""
        precision = self.proof.tolerance.precision
        return self.about.models or (ModelFacts(id=precision, file=MODEL, precision=precision, parity=PARITY),)

    @property
    def file(self) -> Path:
        """The ONNX file of the model that was asked for: the first, or the ``variant``."""
        return self.path / self.model.file

    @property
    def model(self) -> ModelFacts:
        """The model that was asked for."""
        return next((m for m in self.models if m.id == self.variant), self.models[0])

    @property
    def sha256(self) -> str:
        """The hash of that model's file."""
        return self.about.files[self.model.file].sha256

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """``manifest.json`` as JSON values."""
        return records.values(self.about)

    @cached_property
    def parity(self) -> dict[str, Any]:
        """``parity.json`` as JSON values."""
        return records.values(self.proof)

    def to_dict(self) -> dict[str, Any]:
        """The bundle as JSON values."""
        return {
            "bundle": str(self.path),
            "untrained": self.about.untrained,
            "manifest": self.manifest,
            "parity": self.parity,
            "seconds": {step: round(value, 3) for step, value in self.seconds.items()},
        }


def located(path: Path, *, proven: bool = True) -> tuple[Path, Bundle | None]:
    """The ONNX file that ``path`` means, and the bundle that it is of; None for a file alone. Raises as ``open``."""
    if not files.is_folder(parted(path)[0]):
        return path, None
    found = Bundle.open(path, proven=proven)
    return found.file, found


def parted(path: str | Path) -> tuple[Path, str | None]:
    """The folder and the model's id that ``FOLDER#ID`` means; ``path`` and None for any other."""
    folder, mark, variant = str(path).rpartition("#")
    if mark and folder and variant and not files.exists(Path(path)) and files.is_folder(Path(folder)):
        return Path(folder), variant
    return Path(path), None


def read_verdicts(folder: Path, manifest: Manifest) -> tuple[VariantVerdict, ...]:
    """The verdicts of a bundle, each of a model of it. Raises BundleError where one is of another file."""
    if VERDICTS not in manifest.files:
        return ()
    found = records.decode(folder / VERDICTS, _read(folder, VERDICTS), Verdicts).verdicts
    places = {m.id: m.file for m in manifest.models}
    for verdict in found:
        file = places.get(verdict.model, "")
        if (file not in manifest.files or manifest.files[file].sha256 != verdict.model_sha256
                or manifest.files[manifest.models[0].file].sha256 != verdict.float_sha256):
            raise BundleError(f"{folder / VERDICTS} is of another '{verdict.model}' (its SHA-256 differs); quantize "
                              "the bundle again with --force")
    return found


def _verdict_of(folder: Path, manifest: Manifest, variant: str) -> VariantVerdict | None:
    """The verdict of a model; None for the first. Raises UsageError where there is no such model."""
    ids = [m.id for m in manifest.models]
    if variant not in ids:
        raise UsageError(f"{folder} has no model '{variant}'; it has {', '.join(ids) or 'float32'}")
    if variant == ids[0]:
        return None
    found = next((v for v in read_verdicts(folder, manifest) if v.model == variant), None)
    if found is None:
        raise BundleError(f"{folder} has no verdict of '{variant}'; quantize the bundle again with --force")
    return found


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle. Raises BundleError where it is missing or is no manifest."""
    return records.decode(folder / MANIFEST, _read(folder, MANIFEST), Manifest)


def read_parity(folder: Path, manifest: Manifest) -> Parity:
    """The parity record of a bundle, which must be of its model file. Raises BundleError where it is not."""
    record = records.decode(folder / PARITY, _read(folder, PARITY), Parity)
    if MODEL not in manifest.files or record.model_sha256 != manifest.files[MODEL].sha256:
        raise BundleError(f"{folder / PARITY} is of another {MODEL} (its SHA-256 differs); convert the model again")
    return record


def file_facts(path: Path) -> FileFacts:
    """What a manifest says of a file."""
    return FileFacts(bytes=path.stat().st_size, sha256=sha256(path))


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` for all files of ``folder``; its last line is a comment with the hash of those before."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    lines = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    own = hashlib.sha256(lines.encode()).hexdigest()
    (folder / SUMS).write_bytes(f"{lines}# {own}  {SUMS}\n".encode())


def check_sums(folder: Path) -> dict[str, str]:
    """Check every file of a bundle against ``SHA256SUMS``; returns the hashes by name.

    Raises BundleError naming the first file that is missing or altered, or that does not lie in the bundle: nothing
    outside of it is opened.
    """
    try:
        text = _read(folder, SUMS).decode("utf-8")
    except ValueError:
        text = ""
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
    return entries


def _strangers(folder: Path, sums: dict[str, str]) -> list[str]:
    """The names of files in a bundle's folder that ``SHA256SUMS`` does not list."""
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()}
    return sorted(found - set(sums) - {SUMS})


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


def _read(folder: Path, name: str) -> bytes:
    path = _inside(folder, name)
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise BundleError(f"{path} is larger than {_LARGEST_TEXT >> 20} MiB, which none of its kind is; convert "
                              "the model again")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{folder} has no {name}: it is incomplete; convert the model again") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({files.reason_of(error)}); make it readable") from error


def _check_files(folder: Path, manifest: Manifest, sums: dict[str, str]) -> None:
    """Raises BundleError naming the first file of ``manifest`` that is not among ``sums``, or is another there."""
    for name, facts in manifest.files.items():
        path = _inside(folder, name)
        if name not in sums:
            raise BundleError(f"{folder} has no {name}: it is incomplete; convert the model again")
        if path.stat().st_size != facts.bytes or sums[name] != facts.sha256:
            raise BundleError(f"{path} was altered after it was written (its SHA-256 is not the manifest's); "
                              "convert the model again")
    for model in manifest.models:
        if {model.file, model.parity} - set(manifest.files):
            raise BundleError(f"{folder / MANIFEST} has the model '{model.id}' without its files; convert the model "
                              "again")
