"""Test vectors as the ONNX model zoo lays them out: one TensorProto a file in ``test_data_set_0``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = "test_data_set_0"


def write_vectors(folder: Path, inputs: Sequence[tuple[str, Any]], outputs: Sequence[tuple[str, Any]]) -> list[str]:
    """Write (name, array) pairs as ``input_<i>.pb`` and ``output_<i>.pb``; returns the files' relative names."""
    from onnx import numpy_helper

    place = folder / FOLDER
    place.mkdir()
    written = []
    for kind, pairs in (("input", inputs), ("output", outputs)):
        for index, (name, array) in enumerate(pairs):
            file = f"{FOLDER}/{kind}_{index}.pb"
            (folder / file).write_bytes(numpy_helper.from_array(array, name).SerializeToString())
            written.append(file)
    return written
