"""The registry from outside: `list`, `show`, `convert --all`, and architectures of other packages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cnnexport import architectures
from cnnexport.architectures.spec import Architecture
from tests.outside import IN_PROCESS

COMMAND = [sys.executable, "-c", "from cnnexport.cli import main; main()"]
PACKAGE = Path(__file__).parent / "package"
SPECS = architectures.all_architectures()


def test_every_row_of_the_course_is_there() -> None:
    names = {
        "lenet5", "lenet5-same", "alexnet", "alexnet-bn", "vgg11", "vgg11-lrn", "vgg13", "vgg16-c", "vgg16", "vgg19",
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16-transfer", "resnet50-transfer"}
    assert {spec.name for spec in SPECS} == names
    letters = {"a": "vgg11", "a-lrn": "vgg11-lrn", "b": "vgg13", "c": "vgg16-c", "d": "vgg16", "e": "vgg19"}
    assert {a: architectures.get(f"vgg-{a}").name for a in letters} == letters


def test_list_shows_both_figures(cnnexport: Any) -> None:
    text = cnnexport("list").out
    for row in json.loads(cnnexport("list", "--json").out):
        line = next(x for x in text.splitlines() if x.startswith(row["name"] + " "))
        for figure in ("parameters", "macs"):
            assert f"{row[figure]:,}" in line and row["paper"][figure]["printed"] in line


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_show(spec: Architecture, cnnexport: Any) -> None:
    shown = json.loads(cnnexport("show", spec.name, "--json").out)
    assert sum(row["parameters"] for row in shown["layers"]) == shown["parameters"] == spec.parameters
    assert sum(row["macs"] for row in shown["layers"]) == shown["macs"] == spec.macs
    assert set(shown["layers"][0]) == {"layer", "kernel", "stride", "output_size", "parameters", "macs"}
    assert {"authors", "year", "title"} <= set(shown["source"]) and shown["differences"]
    text = cnnexport("show", spec.name).out
    for word in (spec.source.authors, str(spec.source.year), f"{spec.parameters:,}", f"{spec.macs:,}",
                 "What differs from the paper"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110
    for row in shown["layers"]:
        assert any(line.startswith(row["layer"]) and row["kernel"] in line for line in text.splitlines())


def test_show_as_the_paper_prints_it(cnnexport: Any) -> None:
    """Cells of the papers' own tables."""
    rows = json.loads(cnnexport("show", "resnet34", "--json").out)["layers"]
    assert [(r["layer"], r["output_size"][0]) for r in rows[:6]] == [
        ("conv1", 112), ("maxpool", 56), ("conv2_x", 56), ("conv3_x", 28), ("conv4_x", 14), ("conv5_x", 7)]
    assert rows[4]["kernel"] == "[3x3, 256; 3x3, 256] x 6"
    rows = json.loads(cnnexport("show", "vgg-c", "--json").out)["layers"]
    assert [r["layer"] for r in rows if r["layer"].startswith("conv1-")] == ["conv1-256", "conv1-512", "conv1-512"]
    rows = json.loads(cnnexport("show", "lenet5", "--json").out)["layers"]
    assert [(r["layer"], r["output_size"][0]) for r in rows] == [
        ("C1", 28), ("S2", 14), ("C3", 10), ("S4", 5), ("C5", 120), ("F6", 84), ("OUTPUT", 10)]
    shown = json.loads(cnnexport("show", "alexnet", "--no-groups", "--json").out)
    assert shown["parameters"] == 62_378_344 and not any("groups" in r["kernel"] for r in shown["layers"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show"], "Missing argument 'NAME'"),
        (["show", "vgg17"], "choose one of vgg1"),
        (["show", "lenet5", "--no-groups"], "no grouped convolutions"),
        (["convert", "--all", "lenet5"], "leave out TARGET"),
        (["convert", "--all", "--weights", "w.h5"], "leave out --weights with a file"),
        (["convert", "--all", "--custom-objects", "x.py"], "leave out --custom-objects"),
    ],
)
def test_errors(arguments: list[str], words: str, cnnexport: Any) -> None:
    result = cnnexport(*arguments)
    assert result.code == 2 and result.out == "" and result.err.count("\n") == 1 and words in result.err


def test_show_does_not_import_tensorflow() -> None:
    code = ("import sys, atexit; atexit.register(lambda: print('tensorflow' in sys.modules, file=sys.stderr));"
            "from cnnexport.cli import main; main()")
    code = IN_PROCESS + code
    done = subprocess.run([sys.executable, "-c", code, "show", "resnet152"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "False\n"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of three, of which one is too small a size for AlexNet."""
    chosen = [architectures.get(name) for name in ("alexnet", "lenet5", "lenet5-same")]
    monkeypatch.setattr(architectures, "_OWN", tuple(chosen))


@pytest.mark.usefixtures("few")
def test_all_goes_on_after_a_failure(cnnexport: Any) -> None:
    result = cnnexport("convert", "--all", "--input-shape", "32x32x1", "-o", "made")
    assert result.code == 2
    lines = [line.split()[:2] for line in result.out.splitlines()]
    assert ["alexnet", "failed"] in lines and ["lenet5", "passed"] in lines and ["lenet5-same", "passed"] in lines
    assert "2 of 3 converted and proven, 1 failed" in result.out
    assert re.fullmatch(r"cnnexport: error: alexnet: input shape 32x32x1 is too small.*\n", result.err)
    assert sorted(p.name for p in Path("made").iterdir()) == ["lenet5", "lenet5-same"]

    again = cnnexport("convert", "--all", "--input-shape", "32x32x1", "-o", "made", "--json")
    assert again.code == 2 and [r["exit_code"] for r in json.loads(again.out)] == [2, 2, 2]
    assert again.err.count("exists") == 2
    forced = cnnexport("convert", "--all", "--input-shape", "32x32x1", "-o", "made", "--json", "--force")
    rows = {row["name"]: row for row in json.loads(forced.out)}
    assert rows["lenet5"]["parity"]["passed"] and rows["lenet5"]["exit_code"] == 0
    assert rows["alexnet"]["error"].startswith("input shape") and "manifest" not in rows["alexnet"]


@pytest.mark.usefixtures("few")
def test_all_ends_with_the_worst_code(cnnexport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parity failure (4) outweighs a bad value (2); an error of our own does not stop the rest either."""
    from cnnexport import parity

    monkeypatch.setitem(parity.MAX_ERROR, "float32", 0.0)
    monkeypatch.setattr("cnnexport.parity.tolerances.ROUNDING_ULPS", 0)
    result = cnnexport("convert", "--all", "--input-shape", "32x32x1", "-o", "made", "--json")
    assert result.code == 4 and [r["exit_code"] for r in json.loads(result.out)] == [2, 4, 4]

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("boom")

    monkeypatch.setattr(architectures.weights, "randomise", broken)
    result = cnnexport("convert", "--all", "--input-shape", "32x32x1", "-o", "other")
    assert result.code == 2 and result.err.count("unexpected RuntimeError: boom") == 2


def test_all_interrupted_keeps_what_is_made(tmp_path: Path) -> None:
    running = subprocess.Popen([*COMMAND, "convert", "--all", "-o", "made"], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while not (tmp_path / "made" / "lenet5-same").exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.3)  # it is there before it is counted; the next one takes seconds
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and out == ""
    assert err == "cnnexport: error: interrupted; the 2 bundles made before are published\n"
    assert (tmp_path / "made" / "lenet5" / "manifest.json").is_file()


@pytest.fixture(scope="session")
def tinynet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of ``tests/package``, installed in a folder."""
    place = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for file in PACKAGE.iterdir():
        if file.is_file():
            (source / file.name).write_text(file.read_text())
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation",
         "--target", place, source], check=True, capture_output=True)
    return place


def _run(place: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=folder,
                          env=os.environ | {"PYTHONPATH": str(place)})


def test_architecture_of_another_package(tinynet: Path, tmp_path: Path) -> None:
    listed = _run(tinynet, tmp_path, "list", "--json")
    row = json.loads(listed.stdout)[-1]
    assert (row["name"], row["parameters"]) == ("tinynet", 1_562) and listed.stderr == ""
    made = _run(tinynet, tmp_path, "convert", "tinynet", "--json", "--input-shape", "40x24x3", "--classes", "7")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["manifest"]["outputs"][0]["shape"] == ["batch", 7]
    assert (tmp_path / "exported" / "tinynet" / "model.onnx").is_file()
    # Without a table of its own, the layers come from the Keras model.
    shown = json.loads(_run(tinynet, tmp_path, "show", "tinynet", "--json").stdout)
    assert (shown["parameters"], shown["macs"]) == (1_562, 466_936)
    assert shown["layers"][0] | {"parameters": 224} == {
        "layer": "conv1", "kernel": "3x3, 8", "stride": 2, "output_size": [31, 31, 8], "parameters": 224,
        "macs": 207_576}
    small = _run(tinynet, tmp_path, "convert", "tinynet", "--input-shape", "4x4x3", "-o", "x")
    assert small.returncode == 2 and "must be 8 or more" in small.stderr


def test_audit_of_another_package(tinynet: Path, tmp_path: Path) -> None:
    code = ("from cnnexport_tinynet import ARCHITECTURE; from cnnexport.architectures.audit import audit;"
            "print(audit(ARCHITECTURE))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(tinynet)})
    assert done.stdout == "[]\n", done.stderr


def test_the_worked_example_is_the_tested_one() -> None:
    page = (PACKAGE.parent.parent / "ARCHITECTURE.md").read_text()
    assert (PACKAGE / "cnnexport_tinynet.py").read_text() in page
    assert 'tinynet = "cnnexport_tinynet:ARCHITECTURE"' in page


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise OSError('no libfoo')", "cannot be loaded: OSError: no libfoo"),
        ("ARCHITECTURE = 3", "holds a int; it must be an Architecture or a sequence of them"),
        ("import dataclasses, cnnexport.architectures as a; ARCHITECTURE = dataclasses.replace(a.get('lenet5'))",
         "uses the name 'lenet5', which is taken"),
        ("import dataclasses, cnnexport.architectures as a; "
         "ARCHITECTURE = [dataclasses.replace(a.get('lenet5'), name='../x', aliases=())]", "uses the name '../x'"),
    ],
)
def test_a_broken_package_harms_nobody_else(code: str, words: str, tmp_path: Path) -> None:
    place = tmp_path / "site"
    facts = place / "bad-1.0.dist-info"
    facts.mkdir(parents=True)
    (place / "bad.py").write_text(code)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[cnnexport.architectures]\nbad = bad:ARCHITECTURE\n")
    listed = _run(place, tmp_path, "list")
    assert listed.returncode == 0 and "resnet50-transfer" in listed.stdout
    assert listed.stderr.startswith("cnnexport: warning: the entry point 'bad' of bad ")
    assert words in listed.stderr and listed.stderr.count("\n") == 1
    shown = _run(place, tmp_path, "show", "lenet5")
    assert shown.returncode == 0 and shown.stderr == ""
    assert words in _run(place, tmp_path, "show", "badnet").stderr


@pytest.mark.parametrize("options", [
    {"input_shape": "32x32x1"}, {"input_shape": 32}, {"input_shape": (32, 32, "a")}, {"input_shape": (32.5, 32, 1)},
    {"classes": "ten"}, {"classes": 2.5}, {"classes": True}, {"include_top": "yes"}, {"include_top": None},
    {"seed": None}, {"seed": -1}, {"seed": 1.5}, {"weights": ""}])
def test_values_of_the_wrong_type_are_refused_in_one_line(options: dict[str, Any], tmp_path: Path) -> None:
    import cnnexport
    from cnnexport.errors import UsageError

    for make in (lambda: cnnexport.build("lenet5", **options),
                 lambda: cnnexport.convert("lenet5", output=tmp_path / "made", **options)):
        with pytest.raises(UsageError) as error:
            make()
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_arguments_of_keras_applications() -> None:
    import keras
    import numpy as np

    import cnnexport
    from cnnexport.errors import UsageError

    seven: Any = np.int64(7)
    model = cnnexport.build("lenet5", classes=seven, classifier_activation=None)
    assert model.output_shape == (None, 7) and model.layers[-1].activation is keras.activations.linear
    with pytest.raises(UsageError, match="floating-point"):
        cnnexport.build("lenet5", input_tensor=keras.Input((32, 32, 1), dtype="uint8"))
    with pytest.raises(UsageError, match="memory does not hold"):
        cnnexport.build("lenet5", classes=10**12)
