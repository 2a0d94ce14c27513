"""Builds cnnexport-runtime: a copy of the package with a pyproject.toml derived from the repository's, by setuptools.

A copy, because setuptools takes no file from above its own folder, and because it leaves nothing in the checkout. The
source distribution is that copy, and builds by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAME = "cnnexport-runtime"


def settings() -> dict[str, Any]:
    """The repository's pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def derived() -> dict[str, Any]:
    """The runtime's ``[project]``: the whole tool's, less what [tool.cnnexport-runtime] leaves out."""
    whole, own = settings()["project"], settings()["tool"][NAME]
    missing = own["without"]
    return {
        **{key: whole[key] for key in ("readme", "requires-python", "license", "license-files", "scripts")},
        "name": NAME, "description": own["description"], "dynamic": ["version"],
        "dependencies": [need for need in whole["dependencies"] if required(need) not in missing],
        "optional-dependencies": {extra: whole["optional-dependencies"][extra] for extra in own["extras"]},
    }


def required(need: str) -> str:
    """The name of the distribution that a requirement is for."""
    return re.split(r"[^A-Za-z0-9._-]", need.strip(), maxsplit=1)[0].lower().replace("_", "-")


def toml(name: str, table: dict[str, Any]) -> str:
    """A table of texts, lists of texts and such tables; JSON's notation of these is TOML's too."""
    own = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items() if not isinstance(value, dict))
    return f"[{name}]\n{own}\n" + "".join(
        toml(f"{name}.{key}", value) for key, value in table.items() if isinstance(value, dict))


@contextlib.contextmanager
def _copy() -> Iterator[None]:
    """A folder with what is built, as the current one."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="cnnexport-") as place:
        shutil.copytree(ROOT / "cnnexport", Path(place, "cnnexport"), ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("README.md", "LICENSE"):
            shutil.copy(ROOT / name, place)
        whole = settings()
        Path(place, "pyproject.toml").write_text(
            toml("build-system", whole["build-system"]) + toml("project", derived())
            + toml("tool.setuptools", whole["tool"]["setuptools"]), encoding="utf-8")
        os.chdir(place)
        try:
            yield
        finally:
            os.chdir(before)


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    from setuptools import build_meta

    wheel_directory = str(Path(wheel_directory).resolve())
    with _copy():
        return str(build_meta.build_wheel(wheel_directory, config_settings))


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    from setuptools import build_meta

    sdist_directory = str(Path(sdist_directory).resolve())
    with _copy():
        return str(build_meta.build_sdist(sdist_directory, config_settings))
