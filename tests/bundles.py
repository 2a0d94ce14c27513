"""The least that makes a folder with a model a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnnexport import bundle
from cnnexport.bundle import records
from cnnexport.options import ConvertOptions


def complete(folder: Path) -> Path:
    """Make a bundle of a ``folder`` that holds a ``model.onnx``."""
    bundle.write_record(folder / "manifest.json", manifest({"model.onnx": folder / "model.onnx"}))
    bundle.write_record(folder / "parity.json", parity(folder))
    bundle.write_sums(folder)
    return folder


def manifest(files: dict[str, Path]) -> records.Manifest:
    facts = {name: records.FileFacts(bytes=path.stat().st_size, sha256=bundle.sha256(path))
             for name, path in files.items()}
    tensor = records.Tensor(name="x", dtype="float32", shape=("batch", 3), layout=None, value_range=None)
    return records.Manifest(
        name="b", untrained=True, architecture=None, options=ConvertOptions(), inputs=(tensor,), preprocessing=None,
        provenance=records.Provenance(weights="random", untrained=True, statement="Untrained."), outputs=(tensor,),
        labels=None, opset=18, ir_version=8, parameters=3, macs=None, files=facts, versions={})


def parity(folder: Path, **others: Any) -> records.Parity:
    tolerance = records.ToleranceFacts(precision="float32", max_error=1e-3, rms_error=1e-4)
    facts = {"passed": True, "worst_error": 0.0, **others}
    return records.Parity(model_sha256=bundle.sha256(folder / "model.onnx"), tolerance=tolerance, **facts)
