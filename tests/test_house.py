"""The house itself: imports run one way, rooms keep their private names, and no file grows too long to be read."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cnnexport"
LONGEST = 400
TOO_LONG: dict[str, int] = {}
"""Files that are longer than LONGEST today, and what they may have at most: the list is there to shrink."""

LIBRARY = re.compile(r"(keras\.src|tensorflow\.(python|core))\b")
"""Modules of Keras and TensorFlow that have no public name."""
PRIVATE = {
    ("bench/suite.py", "_benchmarksession"): "pytest-benchmark has no other way to the rows that it is about to save",
    ("interrupts.py", "_exit"): "public in Python's documentation, whatever its name",
    ("supervision.py", "_exit"): "public in Python's documentation, whatever its name",
    ("keras_files/objects_allowed.py", "keras.src"): "names in a list; keras_files/internals.py imports the modules",
}
"""Private names of other packages outside ``keras_files/internals.py``, and why: the list is there to shrink."""


def modules() -> Iterator[tuple[str, Path]]:
    """The dotted name and file of each module of the package."""
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), file


def room_of(module: str) -> str:
    """The room that a module stands in; the package's own ``__init__`` is one by itself."""
    return module.split(".")[1] if "." in module else module


def test_imports_run_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def contracts() -> dict[str, dict[str, Any]]:
    """The import contracts by their id."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {contract["id"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}


def table() -> list[tuple[list[str], str]]:
    """The rows of ARCHITECTURE.md's table: the rooms of each, and whether they need Keras."""
    rows = re.findall(r"^\| (`.*?) \| .* \| (.*?) \|$", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.M)
    return [([name.rstrip("/") for name in re.findall(r"`([^`]+)`", rooms)], keras) for rooms, keras in rows]


def test_the_contract_is_the_architecture() -> None:
    """The rooms come in the order of ARCHITECTURE.md's table, and those without Keras are held to it."""
    held = [{name.strip(" ()") for name in layer.split("|")} for layer in reversed(contracts()["rooms"]["layers"])]
    place = {name: index for index, layer in enumerate(held) for name in layer}
    told = [name for rooms, _ in table() for name in rooms]
    assert sorted(told) == sorted(place)
    assert [place[name] for name in told] == sorted(place.values())
    sources = {*contracts()["keras"]["source_modules"], *contracts()["cli"]["source_modules"]}
    assert {f"cnnexport.{name}" for rooms, keras in table() if keras == "no" for name in rooms} <= sources


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_uses(module: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the name of each private name of another room that a module uses."""
    foreign: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cnnexport":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if room_of(whole) == room_of(module):
                    continue
                foreign[alias.asname or alias.name] = whole
                if any(private(part) for part in whole.split(".")):
                    yield node.lineno, whole
        elif isinstance(node, ast.Import):
            foreign.update((alias.asname, alias.name) for alias in node.names
                           if alias.asname and alias.name.startswith("cnnexport."))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            holder = node.value
            while isinstance(holder, ast.Attribute):
                holder = holder.value
            if isinstance(holder, ast.Name) and holder.id in foreign:
                yield node.lineno, f"{foreign[holder.id]}: {ast.unparse(node)}"


def test_private_names_stay_in_their_room() -> None:
    found = [f"{file.relative_to(ROOT)}:{line}: {name}" for module, file in modules()
             for line, name in private_uses(module, ast.parse(file.read_text(encoding="utf-8")))]
    assert not found, "\n".join(found)


def test_a_private_name_of_another_room_is_seen() -> None:
    source = ("from cnnexport import files\nfrom cnnexport.bench import plan\nfrom cnnexport.files import _BLOCK\n"
              "def f():\n    from cnnexport.bench.plan import Row as R\n    return files._FULL, plan._labels, R._x.y\n")
    assert [line for line, _ in private_uses("cnnexport.report.page", ast.parse(source))] == [3, 6, 6, 6]
    assert [line for line, _ in private_uses("cnnexport.bench.tune", ast.parse(source))] == [3, 6]


def foreign_uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the name of each private name of another package: attributes, their names in strings, modules."""
    nodes = list(ast.walk(tree))
    ours = {"self", "cls", *(alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom)
                             and (node.module or "").split(".")[0] == "cnnexport" for alias in node.names)}
    for node in nodes:
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ours
            if not own and (private(node.attr) or node.attr in ("__dict__", "__setattr__")):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if isinstance(name, str) and private(name):
                yield node.lineno, name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for whole in (start + alias.name for alias in node.names):
                if found := LIBRARY.match(whole):
                    yield node.lineno, found[0]
                elif not whole.startswith("cnnexport.") and any(map(private, whole.split("."))):
                    yield node.lineno, whole
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (found := LIBRARY.match(node.value)):
            yield node.lineno, found[0]


def test_other_packages_private_names_are_asked_in_one_place() -> None:
    found = {(file.relative_to(PACKAGE).as_posix(), name): line for _, file in modules()
             for line, name in foreign_uses(ast.parse(file.read_text(encoding="utf-8")))
             if file != PACKAGE / "keras_files" / "internals.py"}
    assert set(found) == set(PRIVATE), {use: found.get(use) for use in set(found) ^ set(PRIVATE)}


@pytest.mark.parametrize("planted", [
    "layer._flatten_layers()", "keras.Model(x)._nodes", "x.__dict__['call']", "getattr(x, '_layers', None)",
    "a.self._b", "hasattr(t, '_keras_history')", "object.__setattr__(layer, 'call', f)", "from keras.src.ops import nn",
    "from keras import src", "from tensorflow.python.ops import gen_nn_ops", "import tensorflow.core.protobuf as p",
    "from keras import _tf_keras", "import keras.src", "importlib.import_module('keras.src.ops')",
    "importlib.import_module(f'tensorflow.python.{part}')", "import tensorflow as tf\ntf._api.v2"])
def test_a_private_name_of_another_package_is_seen(planted: str) -> None:
    assert list(foreign_uses(ast.parse(planted)))


def test_ones_own_private_names_are_no_other_packages() -> None:
    source = ("from __future__ import annotations\nfrom cnnexport.bench import plan, _x\nself._a, cls._b, plan._c\n"
              "getattr(keras, 'src'), layer.__class__, super().__init__(), keras.layers\n'a file of keras.src.ops'\n")
    assert not list(foreign_uses(ast.parse(source)))


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    """TensorFlow, Keras, tf2onnx and ONNX Runtime are imported inside the functions that use them."""
    names = [name for name, _ in modules() if name != "cnnexport.keras_files.own_layers"]
    code = ("import importlib, sys\n"
            "for name in ('tensorflow', 'keras', 'tf2onnx', 'onnxruntime'):\n    sys.modules[name] = None\n"
            f"for name in {names!r}:\n    importlib.import_module(name)\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_files_are_short() -> None:
    lengths = {str(file.relative_to(PACKAGE).as_posix()): len(file.read_text(encoding="utf-8").splitlines())
               for _, file in modules()}
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST}
    assert set(long) == set(TOO_LONG), "shorten the file, or take it off the list"
    assert all(lines <= TOO_LONG[name] for name, lines in long.items()), long
