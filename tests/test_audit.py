"""The audit: paper, registry, Keras model and ONNX file agree for every architecture, and every one converts.

The fast part proves the same as ``pytest -m slow tests/test_audit.py`` at small sizes; that one takes all at
their own.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnexport import architectures
from cnnexport.architectures.audit import audit
from cnnexport.architectures.built import read
from cnnexport.architectures.spec import Architecture, Difference

SPECS = {spec.name: spec for spec in architectures.all_architectures()}

PUBLISHED = {
    "lenet5": 61_706, "alexnet": 60_965_224, "vgg11": 132_863_336, "vgg11-lrn": 132_863_336, "vgg13": 133_047_848,
    "vgg16-c": 133_638_952, "vgg16": 138_357_544, "vgg19": 143_667_240, "resnet50": 25_636_712,
    "resnet101": 44_707_176, "resnet152": 60_419_944,
}
TABLE_1 = {"resnet18": 1.8e9, "resnet34": 3.6e9, "resnet50": 3.8e9, "resnet101": 7.6e9, "resnet152": 11.3e9}


@pytest.fixture(autouse=True)
def forget() -> Any:
    """Keras keeps what it built; 17 networks of up to 600 MB each must not add up."""
    yield
    import keras

    keras.backend.clear_session()


@pytest.mark.parametrize("name", SPECS)
def test_figures_agree(name: str) -> None:
    assert audit(SPECS[name]) == []


def test_published_figures() -> None:
    """Against literals, so that registry and audit cannot be wrong together."""
    assert {name: SPECS[name].parameters for name in PUBLISHED} == PUBLISHED
    for name, macs in TABLE_1.items():
        assert abs(SPECS[name].macs / macs - 1) < 0.02
    millions = {"vgg11": 133, "vgg11-lrn": 133, "vgg13": 133, "vgg16-c": 134, "vgg16": 138, "vgg19": 144}
    assert {n: round(SPECS[n].parameters / 1e6) for n in millions} == millions
    table = SPECS["alexnet"].table
    assert table is not None and sum(row.parameters for row in table(False)) == 62_378_344


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parameters": 61_707}, "+1 parameters are explained by no difference"),
        ({"macs": 430_000}, "multiply-adds are explained by no difference"),
        ({"differences": ()}, "+1,706 parameters"),
        ({"macs": 416_521}, "the layer table has 416,520 multiply-adds"),
        ({"paper_parameters": None, "differences": ()}, "no difference says why"),
    ],
)
def test_audit_finds_a_wrong_figure(change: dict[str, Any], words: str) -> None:
    assert any(words in line for line in audit(dataclasses.replace(SPECS["lenet5"], **change)))


def test_audit_accepts_what_is_explained() -> None:
    spec = dataclasses.replace(SPECS["lenet5"], table=None)
    more = dataclasses.replace(
        spec, parameters=spec.parameters + 5, differences=(*spec.differences, Difference("five more", 5)))
    assert audit(more) == []


def _model_agrees(spec: Architecture) -> Any:
    """Keras model and layer table have the figures of the registry, row by row; the model, which is alive."""
    model = architectures.build(spec.name, logits=True)
    assert model.count_params() == spec.parameters
    assert tuple(model.input_shape[1:]) == spec.input_shape and model.output_shape == (None, spec.classes)
    rows = read(model)
    assert sum(row.parameters for row in rows) == spec.parameters
    assert sum(row.macs for row in rows) == spec.macs
    assert spec.table is not None
    printed = [(r.output, r.macs) for r in spec.table(True) if r.macs]
    if "resnet" in spec.name:  # printed stage by stage: where each ends, and what the classifier takes
        assert {output for output, _ in printed} <= {row.output for row in rows}
        assert printed[0] in [(r.output, r.macs) for r in rows] and printed[-1] == (rows[-1].output, rows[-1].macs)
    else:
        assert printed == [(r.output, r.macs) for r in rows if r.macs]

    low, high = spec.preprocessing.value_range if spec.preprocessing else (-1.0, 1.0)
    x = np.random.default_rng(1).uniform(low, high, (3, *spec.input_shape)).astype(np.float32)
    _alive(model, x)
    return model


def _alive(model: Any, x: np.ndarray) -> None:
    """Every weighted layer's output keeps its spread, and different images give clearly different logits."""
    import keras

    outputs = [layer.output for layer in model.layers if layer.weights]
    spreads = [float(np.std(y)) for y in keras.Model(model.inputs, outputs)(x, training=False)]
    # Noise has up to twice the contrast of the images that the weights were scaled on, in every layer alike.
    assert min(spreads) > 0.4 and max(spreads) < 4
    logits = np.asarray(model(x, training=False))
    assert np.abs(logits[0] - logits[1]).mean() > 0.2 * logits.std()


DEEPEST = ("resnet101", "resnet152")  # more of the blocks of resnet50
SMALL = ["lenet5", "lenet5-same", "vgg16-transfer", "resnet18", "resnet50-transfer", "alexnet"]


@pytest.mark.parametrize("name", SMALL)
def test_model_and_graph_agree(name: str) -> None:
    from cnnexport.conversion import convert_model
    from cnnexport.conversion.write import skeleton
    from cnnexport.onnx_file import count_macs

    spec = SPECS[name]
    graph = convert_model(_model_agrees(spec), output_names=["logits"]).model
    assert count_macs(skeleton(graph))[0] == spec.macs
    floats = [v.shape.numpy() for v in graph.graph.initializers.values()
              if v.shape is not None and v.dtype is not None and v.dtype.is_floating_point()]
    assert sum(math.prod(shape) for shape in floats) == spec.parameters - spec.folded


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in SPECS if n not in SMALL])
def test_large_model_agrees(name: str) -> None:
    """Its ONNX file has the same figures: ``test_converts_at_its_own_size``."""
    _model_agrees(SPECS[name])


def _convert(cnnexport: Any, *arguments: Any) -> dict[str, Any]:
    result = cnnexport("convert", *arguments, "--json", "-o", "out", "--force")
    assert result.code == 0, result.err
    made: dict[str, Any] = json.loads(result.out)
    assert made["parity"]["passed"]
    return made


def _other(spec: Architecture) -> str:
    """A size that is not the default one: the smallest, wider than it is high where that is its default."""
    size = spec.min_size
    return f"{size}x{size if size < spec.input_shape[0] else size + 13}x{spec.input_shape[2]}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in DEEPEST else []) for name in SPECS])
def test_converts_at_another_size(name: str, cnnexport: Any) -> None:
    """With the top, with 10 classes, and without the top; in either layout."""
    size = _other(SPECS[name])
    made = _convert(cnnexport, name, "--input-shape", size, "--classes", 10)
    assert made["manifest"]["outputs"][0]["shape"] == ["batch", 10] and made["untrained"]
    made = _convert(cnnexport, name, "--input-shape", size, "--no-top", "--layout", "nchw")
    assert made["manifest"]["outputs"][0]["layout"] == "NCHW"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """What ``convert --all`` publishes, and how it ended."""
    folder = tmp_path_factory.mktemp("everything")
    command = [sys.executable, "-c", "from cnnexport.cli import main; main()", "convert", "--all", "-o", str(folder)]
    yield folder, subprocess.run(command, capture_output=True, text=True)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_all_at_once(everything: tuple[Path, Any]) -> None:
    folder, result = everything
    assert result.returncode == 0 and result.stderr == ""
    for name in SPECS:
        assert (folder / name / "manifest.json").is_file()
        assert any(line.split()[:2] == [name, "passed"] for line in result.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_converts_at_its_own_size(name: str, everything: tuple[Path, Any], cnnexport: Any) -> None:
    """With the top, in the course of ``convert --all``; and without it."""
    spec, path = SPECS[name], everything[0] / name
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["parameters"], manifest["macs"]) == (spec.parameters, spec.macs)
    assert manifest["outputs"][0]["shape"] == ["batch", spec.classes]
    assert json.loads((path / "parity.json").read_text(encoding="utf-8"))["passed"]
    # ONNX Runtime sees what the registry says.
    facts = json.loads(cnnexport("inspect", path, "--json").out)
    assert (facts["parameters"], facts["macs"]) == (spec.parameters - spec.folded, spec.macs)
    pooled = _convert(cnnexport, name, "--no-top", "--pooling", "avg")["manifest"]
    assert len(pooled["outputs"][0]["shape"]) == 2
