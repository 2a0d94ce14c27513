"""The bundle: a folder with the model, its evidence and what another team needs to run it.

| file | what |
|---|---|
| ``model.onnx`` | the model (``model.onnx.data`` beside it above 2 GB) |
| ``manifest.json`` | what it is and where it comes from; ``manifest.schema.json`` in this package documents it |
| ``parity.json`` | the comparison with Keras, for the model file of that hash |
| ``verdict.json`` | what models in another precision (``model.int8.onnx``) are worth beside the first |
| ``layers.svg`` | the error of each layer along the depth |
| ``layers.int8.svg`` | what each layer of such a model lost beside the first, and its time in both |
| ``test_data_set_0/`` | inputs and Keras' outputs as TensorProtos, as the ONNX model zoo lays them out |
| ``README.md`` | a model card made from the manifest |
| ``SHA256SUMS`` | the checksum of every other file, as ``sha256sum -c`` reads it, and its own in a last comment |

Written beside its place and renamed in whole, so that a kill at any moment leaves the old bundle or none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cnnexport.bundle.opening import SUMS, Bundle, check_sums, file_facts, is_bundle, located, read_manifest, write_sums
from cnnexport.bundle.publishing import publish, refuse_existing, require_space, reserved, set_aside, staging, sweep
from cnnexport.bundle.records import CARD, MANIFEST, MODEL, PARITY, VERDICTS, Manifest, Parity, Verdicts, values
from cnnexport.files import sha256

LAYERS = "layers.svg"

__all__ = [
    "CARD", "LAYERS", "MANIFEST", "MODEL", "PARITY", "SUMS", "VERDICTS", "Bundle", "Manifest", "Parity", "Verdicts",
    "check_sums", "file_facts", "is_bundle", "located", "publish", "read_manifest", "refuse_existing", "require_space",
    "reserved", "set_aside", "sha256", "staging", "sweep", "write_json", "write_record", "write_sums",
]


def write_record(path: Path, record: Manifest | Parity | Verdicts) -> None:
    """Write a record. Raises ValueError for a number in it that is not finite."""
    write_json(path, values(record))


def write_json(path: Path, value: Any) -> None:
    """JSON with two spaces of indentation and a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
