"""The two distributions of the tree: the whole tool, and cnnexport-runtime, which goes without Keras and TensorFlow."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import cnnexport as package
from cnnexport import distribution, doctor
from cnnexport.errors import UsageError, describe
from tests.outside import Done
from tests.test_report import document

ROOT = Path(__file__).parent.parent
ABSENT = ("tensorflow", "keras", "tf2onnx", "onnx_ir", "h5py")
LIGHT = ("--version", "--help", "list", "show resnet34", "show vgg16-transfer", "inspect lenet", "verify lenet",
         "verify lenet --runtime reference", "predict lenet digit.png", "evaluate lenet --data images.npz",
         "report rows.json -o rows.html", "report rows.json --format md", "compare rows.json rows.json")
"""What who has a bundle does with it."""
HEAVY = ("convert lenet5", "convert resnet50 --weights imagenet", "convert model.keras", "convert --all",
         "train lenet5", "train lenet5 --data images.npz", "evaluate lenet --data mnist",
         "verify lenet --against lenet5", "verify lenet --against model.keras --json")
"""What needs Keras, in one way or another."""
BENCH = "bench lenet --min-time 0.05 --max-time 2 --save new.json"

WITHOUT = """
import sys

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in {absent!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Absent)
from cnnexport.start import main
main()
"""
"""The command line where modules are not installed."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, an image, images with labels, a model file and saved rows."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("consumer")
    package.convert("lenet5", output=folder / "lenet")
    package.build("lenet5").save(folder / "model.keras")
    images = np.random.default_rng(0).integers(0, 255, (40, 32, 32), np.uint8)
    labels = np.arange(40) % 10
    Image.fromarray(images[0]).save(folder / "digit.png")
    np.savez(folder / "images.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    (folder / "rows.json").write_text(json.dumps(document()))
    return folder


def without(place: Path, *absent: str) -> Callable[[str], Done]:
    """The command line of this interpreter, in ``place`` and without the modules."""
    return runner(place, sys.executable, "-c", WITHOUT.format(absent=absent))


def runner(place: Path, *command: str | Path) -> Callable[[str], Done]:
    def run(line: str) -> Done:
        done = subprocess.run([*command, *line.split()], capture_output=True, text=True, cwd=place, timeout=120,
                              env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | path)
        return Done(done.returncode, done.stdout, done.stderr)

    path = {"PYTHONPATH": str(ROOT)} if command[0] == sys.executable else {}
    return run


def test_a_consumers_commands_go_without_keras(place: Path) -> None:
    run = without(place, *ABSENT)
    for line in (*LIGHT, BENCH):
        done = run(line)
        assert done.code == 0 and done.out and "error" not in done.err, (line, done)


def test_what_needs_keras_says_so_in_one_line(place: Path) -> None:
    before = sorted(place.iterdir())
    run = without(place, *ABSENT)
    for line in HEAVY:
        assert_one_line(run(line), "needs Keras", "pip install cnnexport")
    assert sorted(place.iterdir()) == before


def assert_one_line(done: Done, *words: str) -> None:
    assert done.code == 1 and done.err.startswith("cnnexport: error: ") and done.err.count("\n") == 1, done
    assert all(word in done.err for word in words) and not done.out, done


@pytest.mark.parametrize("absent", ["tensorflow", "keras", "tf2onnx"])
def test_any_of_them_is_told(place: Path, absent: str) -> None:
    assert_one_line(without(place, absent)("convert lenet5 -o new"), f"{absent} is not installed")
    assert not (place / "new").exists()


@pytest.mark.parametrize("absent", ["pytest", "pytest_benchmark"])
def test_bench_without_what_measures_is_one_line(place: Path, absent: str) -> None:
    assert_one_line(without(place, absent)(BENCH), f"{absent} is not installed", "pip install 'cnnexport[bench]'")


def test_a_step_that_told_it_in_its_own_words() -> None:
    error = UsageError("lenet5 cannot be built: No module named 'keras'")
    error.__cause__ = ModuleNotFoundError("No module named 'keras'", name="keras")
    assert describe(error)[1] == 1 and "needs Keras" in describe(error)[0]
    error.__cause__ = ModuleNotFoundError("No module named 'keras.src.nonsense'", name="keras.src.nonsense")
    assert describe(error) == (str(error), 2)  # Keras is there, and of another version


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, doctor.Finding]:
    """What the doctor says of packages where only those of ours are installed."""
    monkeypatch.setattr(distribution, "installed", lambda: dict.fromkeys(names, "1.2.3"))
    monkeypatch.setattr(doctor.cuda, "installed_version", lambda name: None)
    without_keras = distribution.without_keras()
    return {check.name: check for check in (doctor._own(), doctor._package("keras", without=without_keras))}


def test_the_doctor_knows_which_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = installed(monkeypatch, "cnnexport")
    assert found["cnnexport"].ok and not found["keras"].ok and not found["keras"].optional
    found = installed(monkeypatch, "cnnexport-runtime")
    assert found["cnnexport"].ok and "cnnexport-runtime" in found["cnnexport"].detail and found["keras"].optional
    assert "uninstall -y cnnexport-runtime && pip install cnnexport" in found["keras"].remedy
    assert distribution.extra("cuda") == "pip install 'cnnexport-runtime[cuda]'"
    found = installed(monkeypatch, "cnnexport", "cnnexport-runtime")
    assert not found["cnnexport"].ok and not found["cnnexport"].optional
    assert "overwrite" in found["cnnexport"].detail and "only one of them" in found["cnnexport"].remedy
    assert not installed(monkeypatch)["cnnexport"].ok


def backend() -> ModuleType:
    """What builds cnnexport-runtime."""
    spec = importlib.util.spec_from_file_location("backend", ROOT / "packaging" / "runtime" / "backend.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_each_installs() -> None:
    build = backend()
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    whole, out = settings["project"], settings["tool"]["cnnexport-runtime"]["without"]
    assert {"train", "bench", "openvino", "nncf", "cuda", "loadgen", "test"} == set(whole["optional-dependencies"])
    for extra in ("train", "bench"):
        assert set(whole["optional-dependencies"][extra]) <= set(whole["dependencies"])
    names = {build.required(need) for need in whole["dependencies"]}
    assert set(out) <= names
    own = tomllib.loads(build.toml("project", build.derived()))["project"]
    assert own == build.derived() and own["name"] == distribution.RUNTIME
    assert {build.required(need) for need in own["dependencies"]} == names - set(out)
    assert {name.replace("-", "_") for name in out} >= {*distribution.KERAS, *distribution.BENCH}


def test_the_version_stands_once() -> None:
    literal = re.compile(rf"""["']{re.escape(package.__version__)}["']""")
    files = [ROOT / "pyproject.toml", *(ROOT / "packaging").rglob("*.*"), *(ROOT / "cnnexport").rglob("*.py")]
    found = [file for file in files if file.suffix in (".py", ".toml") and literal.search(file.read_text("utf-8"))]
    assert found == [ROOT / "cnnexport" / "__init__.py"]


@pytest.mark.slow
@pytest.mark.network
def test_the_runtime_installed_alone(place: Path, tmp_path: Path) -> None:
    """Built from the checkout into an environment of its own: a consumer's commands work there, the others say why."""
    venv.create(tmp_path / "env", with_pip=True)
    scripts = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")

    def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([scripts / "python", "-m", "pip", *arguments], capture_output=True, text=True, cwd=ROOT)

    if (done := pip("install", "click")).returncode != 0:
        pytest.skip(f"no package registry is reached: {done.stderr.strip().splitlines()[-1]}")
    done = pip("install", "./packaging/runtime")
    assert done.returncode == 0, done.stderr[-2000:]
    listed = {entry["name"]: entry["version"] for entry in json.loads(pip("list", "--format=json").stdout)}
    assert listed["cnnexport-runtime"] == package.__version__
    assert not {name.replace("_", "-") for name in listed} & {"tensorflow", "keras", "tf2onnx", "onnx-ir", "pytest"}
    run = runner(place, scripts / "cnnexport")
    for line in (*LIGHT, "doctor"):
        end = run(line)
        assert end.code == 0 and end.out and "error" not in end.err, (line, end)
    assert run("--version").out.split()[-1] == package.__version__
    for line in HEAVY:
        assert_one_line(run(line), "needs Keras", "pip uninstall -y cnnexport-runtime && pip install cnnexport")
    assert_one_line(run(BENCH), "pip install 'cnnexport-runtime[bench]'")
    done = pip("install", "./packaging/runtime[bench]")
    assert done.returncode == 0, done.stderr[-2000:]
    assert run(BENCH).code == 0
