"""A further model in a bundle: the same network in another precision, with its verdict."""

from __future__ import annotations

import shutil
from pathlib import Path

from msgspec import structs

from cnnexport.bundle import card, records, write_record
from cnnexport.bundle.opening import SUMS, Bundle, file_facts, read_verdicts, write_sums
from cnnexport.bundle.records import CARD, MANIFEST, VERDICTS, ModelFacts, VariantVerdict
from cnnexport.errors import UsageError
from cnnexport.files import write_text


def file_name(variant: str) -> str:
    """What the file of a variant is called."""
    return f"model.{variant}.onnx"


def picture_name(variant: str) -> str:
    """What the picture of a variant's layers is called."""
    return f"layers.{variant}.svg"


def copied(found: Bundle, folder: Path, variant: str, *, force: bool) -> None:
    """Copy a bundle to ``folder``, without the ``variant`` that is to be made.

    Raises UsageError where it has that variant already, and ``force`` does not replace it, or holds files that are no
    part of it and would be lost.
    """
    if found.strangers:
        raise UsageError(f"{found.path} holds {found.strangers[0]}, which is no part of the bundle; move it away")
    if any(m.id == variant for m in found.models) and not force:
        raise UsageError(f"{found.path} has the model '{variant}' already; give --force to replace it")
    for name in (*found.about.files, MANIFEST, SUMS):
        if name not in (file_name(variant), picture_name(variant)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found.path / name, folder / name)


def add(found: Bundle, folder: Path, model: ModelFacts, verdict: VariantVerdict, picture: str | None = None) -> None:
    """Write the records of the copy of ``found`` in ``folder``, which holds the file of ``model`` by now.

    ``picture`` is the text of its layers' picture, where there is one.
    """
    verdicts = (*(v for v in read_verdicts(found.path, found.about) if v.model != model.id), verdict)
    write_record(folder / VERDICTS, records.Verdicts(verdicts=verdicts))
    pictures = (picture_name(model.id),) if picture is not None else ()
    for name in pictures:
        write_text(folder / name, str(picture))
    files = {name: facts for name, facts in found.about.files.items() if name != picture_name(model.id)}
    files |= {name: file_facts(folder / name) for name in (model.file, VERDICTS, *pictures)}
    about = structs.replace(
        found.about, schema_version=2, files=files,
        models=(*(m for m in found.models if m.id != model.id), model))
    write_text(folder / CARD, card.model_card(about, found.proof, verdicts))
    files[CARD] = file_facts(folder / CARD)
    write_record(folder / MANIFEST, structs.replace(about, files=files))
    write_sums(folder)
