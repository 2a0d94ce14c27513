"""What is installed and what really runs here: versions, machine, and each execution provider."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnnexport import distribution, runtimes
from cnnexport.errors import InputError, ProviderError
from cnnexport.runtimes import cuda, ort, profile
from cnnexport.runtimes.ort import PROVIDERS
from cnnexport.runtimes.printed import captured, line, shorten

_PACKAGES = ("click", "numpy", "onnx")
_WITH_KERAS = ("onnx_ir", "tf2onnx", "tensorflow", "keras")
_UNPROBED = {"AzureExecutionProvider": "compiled in; it calls remote services, so it is not probed"}


@dataclass(frozen=True)
class Finding:
    """One finding of ``doctor``; ``remedy`` is empty where nothing is to be done.

    A check that is ``optional`` may fail without harm to exporting and verifying on the CPU.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    optional: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON-ready values."""
        return asdict(self)


def doctor() -> list[Finding]:
    """What is installed and what really runs here: versions, machine, and each execution provider.

    A provider counts as working only when it made a session and ran a convolution. TensorFlow and Keras are
    looked up, not imported.
    """
    checks = [Finding("python", True, f"{platform.python_version()} ({sys.executable})")]
    checks.append(_own())
    checks.extend(_package(name) for name in _PACKAGES)
    checks.extend(_package(name, without=distribution.without_keras()) for name in _WITH_KERAS)
    checks.append(_wheel())
    checks.append(Finding("platform", True, f"{platform.platform()}, {platform.machine()}"))
    checks.append(Finding("cores", True, _cores()))
    checks.append(Finding("memory", True, _memory()))
    checks.extend(_provider_checks())
    checks.extend(Finding("runtimes", False, problem, optional=True) for problem in runtimes.problems())
    return checks


def format_doctor(checks: list[Finding]) -> str:
    """The checks as aligned text, one a line, a remedy on the line after its check."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        mark = "ok" if check.ok else ("no" if check.optional else "FAIL")
        lines.append(f"{mark:<4}  {check.name:<{width}}  {check.detail}".rstrip())
        if check.remedy:
            lines.append(f"{'':<4}  {'':<{width}}  -> {check.remedy}")
    return "\n".join(lines)


def _provider_checks() -> list[Finding]:
    """One check of each provider worth knowing: CPU, CUDA, and others compiled in."""
    try:
        onnxruntime = ort.library()
    except Exception as error:
        return [Finding("onnxruntime", False, f"does not import: {line(error)}", "pip install onnxruntime")]
    available = onnxruntime.get_available_providers()
    names = [*PROVIDERS.values(), *(name for name in available if name not in PROVIDERS.values())]
    checks = []
    for name in names:
        optional = name != PROVIDERS["cpu"]
        if name in _UNPROBED:
            checks.append(Finding(name, True, _UNPROBED[name], optional=True))
        elif name not in available:
            reason, remedy = cuda.not_compiled_in(name)
            checks.append(Finding(name, False, reason, remedy, optional))
        else:
            checks.append(_probe(onnxruntime, name, optional=optional))
    return checks


def _probe(onnxruntime: Any, name: str, *, optional: bool) -> Finding:
    """Whether ``name`` makes a session and runs a convolution, shown by ONNX Runtime's profile."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="cnnexport-", ignore_cleanup_errors=True) as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ort.SILENT
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "probe")
        model = ort.tiny_convolution()
        try:
            if name == PROVIDERS["cpu"]:
                onnxruntime.set_default_logger_severity(ort.SILENT)
                runner = ort.create(onnxruntime, model, "the probe", options, name)
            else:
                runner = ort.create_accelerated(onnxruntime, model, "the probe", options, name)
        except (InputError, ProviderError) as error:
            detail, _, remedy = str(error).partition("; ")
            detail = f"compiled in, but {detail.removeprefix(f'{name} is unavailable: ')}"
            if name not in PROVIDERS.values():
                remedy = "none needed: cnnexport does not use it"
            return Finding(name, False, detail, remedy.removesuffix("."), optional)
        failure = ""
        with captured() as log:
            try:
                (out,) = runner.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
                if out.shape != (1, 1, 2, 2) or not np.allclose(out, 9.0, rtol=1e-2):
                    failure = "it computed a wrong convolution"
            except Exception as error:
                failure = str(error)
        written = runner.end_profiling()
        ran = profile.counts(profile.read(json.loads(Path(written).read_text(encoding="utf-8"))))
    if failure:
        reason, remedy = shorten(failure), "reinstall onnxruntime"
        if name == PROVIDERS["cuda"]:
            reason, remedy = cuda.explain(f"{failure}\n{log.text}")
        return Finding(name, False, f"made a session but ran nothing: {reason}", remedy, optional)
    if not ran.get(name):
        return Finding(name, False, "made a session, but the convolution ran elsewhere", optional=optional)
    return Finding(name, True, "made a session and ran a convolution", optional=optional)


def _own() -> Finding:
    """Which of our own distributions is installed; both at once have the same files."""
    found = distribution.installed()
    if not found:
        return Finding("cnnexport", False, "not installed", "pip install cnnexport")
    if len(found) == 1:
        ((name, version),) = found.items()
        more = "" if name == distribution.WHOLE else f" ({name}, without Keras)"
        return Finding("cnnexport", True, f"{version}{more}")
    detail = " and ".join(f"{name} {version}" for name, version in found.items())
    return Finding("cnnexport", False, f"{detail}: these overwrite each other's files",
                 f"pip uninstall -y {' '.join(found)}, then pip install only one of them (cnnexport does all that "
                 f"{distribution.RUNTIME} does)")


def _package(name: str, *, without: bool = False) -> Finding:
    """One package; ``without`` says that what is installed goes without it."""
    version = cuda.installed_version(name)
    if version is not None:
        return Finding(name, True, version)
    if name == "tensorflow" and (version := cuda.installed_version("tensorflow-cpu")):
        return Finding(name, True, f"{version} (tensorflow-cpu)")
    if without:
        return Finding(name, False, "not installed: converting and training need it", distribution.whole(),
                       optional=True)
    return Finding(name, False, "not installed", f"pip install {name.replace('_', '-')}")


def _wheel() -> Finding:
    installed = cuda.installed_wheels()
    detail = ", ".join(f"{version} ({name} wheel)" for name, version in installed.items())
    if not installed:
        return Finding("onnxruntime", False, "not installed", "pip install onnxruntime")
    if len(installed) > 1:
        return Finding(
            "onnxruntime", False, f"{detail}: these overwrite each other's files", cuda.BOTH_WHEELS_REMEDY
        )
    return Finding("onnxruntime", True, detail)


def _cores() -> str:
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return str(total) if usable == total else f"{usable} of {total} usable"


def _memory() -> str:
    """Installed memory, and the container's limit where there is a lower one."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    text = f"{total / 2**30:.1f} GiB"
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        if limit < total:
            text += f", limited to {limit / 2**30:.1f} GiB"
    return text
