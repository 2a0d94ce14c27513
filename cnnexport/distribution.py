"""Which of this tree's two distributions is installed, and what to do where that one lacks what is asked for."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable

WHOLE, RUNTIME = "cnnexport", "cnnexport-runtime"
KERAS = ("keras", "tensorflow", "tf2onnx", "onnx_ir", "h5py")
BENCH = ("pytest", "pytest_benchmark")
_DEPTH = 12


def installed() -> dict[str, str]:
    """The installed distributions of this tree and their versions; none where it runs from its sources."""
    found = {}
    for name in (WHOLE, RUNTIME):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def without_keras() -> bool:
    """Whether what is installed is the distribution that goes without Keras."""
    return list(installed()) == [RUNTIME]


def extra(name: str) -> str:
    """The command that adds an extra to what is installed; the other distribution's would overwrite its files."""
    return f"pip install '{RUNTIME if without_keras() else WHOLE}[{name}]'"


def whole() -> str:
    """The command that makes the whole tool of what is installed."""
    return f"pip uninstall -y {RUNTIME} && pip install {WHOLE}" if without_keras() else f"pip install {WHOLE}"


def require(names: Iterable[str]) -> None:
    """Raises ModuleNotFoundError where one of the modules is not there; none is imported."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def lacking(error: BaseException) -> str | None:
    """The line that tells of a module whose absence ``error`` comes from; None of a module that is always there."""
    seen: BaseException | None = error
    for _ in range(_DEPTH):
        if isinstance(seen, ModuleNotFoundError) and seen.name in KERAS:
            return (f"this needs Keras, TensorFlow and what goes with them, and {seen.name} is not installed here; "
                    f"{whole()}")
        if isinstance(seen, ModuleNotFoundError) and seen.name in BENCH:
            return (f"rows are measured with pytest and pytest-benchmark, and {seen.name} is not installed here; "
                    f"{extra('bench')}")
        seen = seen and (seen.__cause__ or seen.__context__)
    return None
