"""ONNX Runtime: sessions, where their nodes run, and what this machine can run.

The only module that makes ONNX Runtime sessions.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import platform
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnnexport import files, supervision
from cnnexport.errors import InputError, NewerModelError, ProviderError, UsageError

MOST_THREADS = 1024
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
INSTALL_CUDA = "pip install 'cnnexport[cuda]'"
_CPU_WHEEL_REMEDY = f"pip uninstall onnxruntime && pip install onnxruntime-gpu (or {INSTALL_CUDA})"
_BOTH_WHEELS_REMEDY = (
    "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install only one of them "
    "(onnxruntime-gpu runs on the CPU too)"
)
_DRIVER_REMEDY = "install NVIDIA's driver (nvidia.com/drivers; in a container, pass the GPU through)"
_SILENT, _ERRORS, _WARNINGS = 4, 3, 2
_PACKAGES = ("cnnexport", "click", "numpy", "onnx", "onnx_ir", "tf2onnx", "tensorflow", "keras")
_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
LIMIT_SECONDS = 600.0
"""How long one run, or making one session, may take: a loop in a hostile file never ends."""
_UNPROBED = {"AzureExecutionProvider": "compiled in; it calls remote services, so it is not probed"}


@dataclass(frozen=True)
class Check:
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


def session(
    path_or_bytes: str | os.PathLike[str] | bytes,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    optimise: bool = True,
    profile: str | os.PathLike[str] | None = None,
    debug: bool = False,
    provider_options: Mapping[str, str] | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` on ``provider`` ("cpu" or "cuda").

    ``threads`` sets the threads inside an operator (None: ONNX Runtime's choice); ``optimise=False`` turns
    off graph optimisation; ``profile`` is the path prefix of a profile to write. With "cuda", nodes that
    CUDA cannot run go to the CPU: ``placement`` tells which. Bytes must hold their weights: external data is
    found only from a path. Raises UsageError for a bad value, InputError for a model that does not load, and
    ProviderError where the provider cannot be had.
    """
    name = _provider_name(provider)
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        bound = "1 or more" if threads < 1 else f"{MOST_THREADS} or less"
        raise UsageError(f"threads is {threads}: it must be {bound}; leave it out for the default.")
    onnxruntime = library()

    if not isinstance(path_or_bytes, bytes):
        path = files.regular(Path(path_or_bytes), "give an ONNX file.")
        source: str | bytes = str(path)
        label = str(path)
    else:
        source, label = path_or_bytes, "the model in memory"
    onnxruntime.set_default_logger_severity(_ERRORS if debug else _SILENT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS if debug else _SILENT
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = os.fspath(profile)
    with supervision.doing(f"ONNX Runtime loads {label}", LIMIT_SECONDS):
        if name == PROVIDERS["cpu"]:
            return _create(onnxruntime, source, label, options, name, provider_options)
        return _create_accelerated(onnxruntime, source, label, options, name, provider_options, debug=debug)


def library() -> Any:
    """The ``onnxruntime`` module, with its telemetry off.

    Official builds from 1.31 on keep a device identifier and a data base of events under the home folder and send them
    to Microsoft; the variable is the documented switch (Privacy.md), and counts before the first import.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    with contextlib.suppress(Exception):  # imported by others before; older builds have none
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def run(
    session: Any, names: Sequence[str] | None, feeds: Mapping[str, Any], *, seconds: float = LIMIT_SECONDS
) -> list[Any]:
    """The outputs ``names`` (None: all) of a session for ``feeds``, arrays by input name.

    Raises InputError where it has not ended after ``seconds``, and what ONNX Runtime raises.
    """
    options = library().RunOptions()
    options.log_severity_level = _SILENT
    late = threading.Event()

    def stop() -> None:
        late.set()
        options.terminate = True

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        # ONNX Runtime looks between two nodes; what does not end inside one is ended from outside.
        with supervision.doing("ONNX Runtime runs the graph", seconds + 5):
            return list(session.run(names, dict(feeds), options))
    except Exception as error:
        if late.is_set():
            raise InputError(f"one run did not end within {seconds:g} s: the graph may loop without end; check the "
                             "file, or give more time") from error
        raise
    finally:
        timer.cancel()


def probe(provider: str) -> None:
    """Raises ProviderError where ``provider`` ("cpu" or "cuda") makes no session here, whatever the model."""
    session(_tiny_convolution(), provider=provider)


def placement(
    path: str | os.PathLike[str] | bytes, feeds: Mapping[str, Any], provider: str = "cpu"
) -> dict[str, int]:
    """The nodes that each execution provider ran, from ONNX Runtime's own profile of one run.

    ``feeds`` maps input names to arrays. The nodes are those of the optimised graph: fused nodes count once,
    folded ones not at all. Keys are provider names such as ``CPUExecutionProvider``. Raises what ``session``
    raises, and InputError where the run fails.
    """
    name = _provider_name(provider)
    with tempfile.TemporaryDirectory(prefix="cnnexport-", ignore_cleanup_errors=True) as folder:
        runner = session(path, provider=provider, profile=os.path.join(folder, "profile"))
        try:
            with _quiet() as log:
                run(runner, None, feeds)
        except InputError:
            raise
        except Exception as error:
            if name == PROVIDERS["cpu"]:
                raise InputError(
                    f"ONNX Runtime could not run the model: {_line(error)}; check its inputs."
                ) from error
            reason, remedy = _explain(f"{error}\n{log.text}")
            raise ProviderError(f"{name} could not run the model: {reason}; {remedy}.") from error
        finally:
            written = runner.end_profiling()
        return _nodes_per_provider(json.loads(Path(written).read_text(encoding="utf-8")))


def doctor() -> list[Check]:
    """What is installed and what really runs here: versions, machine, and each execution provider.

    A provider counts as working only when it made a session and ran a convolution. TensorFlow and Keras are
    looked up, not imported.
    """
    checks = [Check("python", True, f"{platform.python_version()} ({sys.executable})")]
    checks.extend(_package(name) for name in _PACKAGES)
    checks.append(_wheel())
    checks.append(Check("platform", True, f"{platform.platform()}, {platform.machine()}"))
    checks.append(Check("cores", True, _cores()))
    checks.append(Check("memory", True, _memory()))
    checks.extend(_provider_checks())
    return checks


def format_doctor(checks: list[Check]) -> str:
    """The checks as aligned text, one a line, a remedy on the line after its check."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        mark = "ok" if check.ok else ("no" if check.optional else "FAIL")
        lines.append(f"{mark:<4}  {check.name:<{width}}  {check.detail}".rstrip())
        if check.remedy:
            lines.append(f"{'':<4}  {'':<{width}}  -> {check.remedy}")
    return "\n".join(lines)


def _provider_name(provider: str) -> str:
    if provider not in PROVIDERS:
        raise UsageError(f"Unknown provider {provider!r}: choose {' or '.join(PROVIDERS)}.")
    return PROVIDERS[provider]


def _create(
    onnxruntime: Any,
    source: str | bytes,
    label: str,
    options: Any,
    name: str,
    provider_options: Mapping[str, str] | None = None,
) -> Any:
    """A session on ``name``, then the CPU; InputError where the model does not load."""
    providers: list[Any] = [(name, dict(provider_options or {}))]
    if name != PROVIDERS["cpu"]:
        providers.append(PROVIDERS["cpu"])
    try:
        return onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=0)
    except Exception as error:
        if newer := re.search(r"Unsupported model IR version: \d+|Opset \d+ is under development", str(error)):
            what = newer.group().replace("Unsupported model ", "").replace(" is under development", "").replace(":", "")
            raise NewerModelError(
                f"ONNX Runtime {onnxruntime.__version__} does not load {label}: it is older than the file's {what}; "
                "export the file with a lower opset and IR version, or install a newer onnxruntime."
            ) from error
        raise InputError(
            f"ONNX Runtime cannot load {label}: {_line(error)}; check the file, or export it again."
        ) from error


def _create_accelerated(
    onnxruntime: Any,
    source: str | bytes,
    label: str,
    options: Any,
    name: str,
    provider_options: Mapping[str, str] | None = None,
    *,
    debug: bool = False,
) -> Any:
    """A session that has ``name`` among its providers, else ProviderError.

    ONNX Runtime itself falls back to the CPU without an error.
    """
    if name not in onnxruntime.get_available_providers():
        reason, remedy = _not_compiled_in(name)
        raise ProviderError(f"{name} is unavailable: {reason}; {remedy}.")
    failure: InputError | None = None
    made: Any = None
    with _quiet() as log:
        if name == PROVIDERS["cuda"] and hasattr(onnxruntime, "preload_dlls"):
            with contextlib.suppress(Exception):
                onnxruntime.preload_dlls()
        onnxruntime.set_default_logger_severity(_WARNINGS)
        try:
            made = _create(onnxruntime, source, label, options, name, provider_options)
        except InputError as error:
            failure = error
        finally:
            onnxruntime.set_default_logger_severity(_ERRORS if debug else _SILENT)
    if debug and log.text:
        sys.stderr.write(log.text)
    if made is not None and name in made.get_providers():
        return made
    if failure is not None:
        # The model or the provider: only the CPU tells which.
        _create(onnxruntime, source, label, options, PROVIDERS["cpu"])
    text = log.text if failure is None else f"{failure.__cause__}\n{log.text}"
    reason, remedy = _explain(text)
    raise ProviderError(f"{name} is unavailable: {reason}; {remedy}.") from failure


def _not_compiled_in(name: str) -> tuple[str, str]:
    """Why the installed wheel lacks provider ``name``, and what to do."""
    if name != PROVIDERS["cuda"]:
        return "this ONNX Runtime was built without it", "install a build of ONNX Runtime that has it"
    installed = _installed_wheels()
    if "onnxruntime-gpu" in installed and "onnxruntime" in installed:
        return "the onnxruntime and onnxruntime-gpu wheels overwrite each other", _BOTH_WHEELS_REMEDY
    if sys.platform == "darwin":
        return "macOS has no CUDA", "use the cpu provider"
    return "the plain onnxruntime wheel has no CUDA provider", _CPU_WHEEL_REMEDY


def _explain(text: str) -> tuple[str, str]:
    """Why CUDA did not start, told from ONNX Runtime's errors and from the libraries here, and what to do."""
    found = re.search(r"(lib[\w+-]+\.so[.\d]*): cannot open shared object", text)
    missing = found.group(1) if found else None
    if missing is None and (found := re.search(r"depends on \"?([\w.-]+\.dll)", text)):
        missing = found.group(1)
    driver = _driver_problem()
    if missing is not None and not missing.startswith(("libcuda.so", "nvcuda")):
        also = f" ({driver} too)" if driver else ""
        remedy = INSTALL_CUDA + (f", and {_DRIVER_REMEDY}" if driver else "")
        return f"{missing} is missing{also}", remedy
    if driver:
        return driver, _DRIVER_REMEDY
    absent = _absent_libraries()
    if absent:
        return f"{', '.join(absent)} missing", INSTALL_CUDA
    failure = re.search(r"((?:CUDA|CUDNN) (?:failure|error)[^\n]*|CUDNN_[^\n]*)", text, re.IGNORECASE)
    reason = failure.group(1) if failure else text
    return (
        _shorten(reason) or "ONNX Runtime gave no reason",
        f"check that the driver and the GPU fit this onnxruntime-gpu (nvidia-smi), or {INSTALL_CUDA}",
    )


def _driver_problem() -> str | None:
    """What keeps the CUDA driver from working; None when it sees a device."""
    import ctypes

    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"the driver library {library} is missing"
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code == 100 or (code == 0 and count.value == 0):
        return "the driver finds no CUDA device"
    return f"the CUDA driver does not start (error {code})" if code else None


def _absent_libraries() -> list[str]:
    """The CUDA libraries that the dynamic loader does not find (Linux; elsewhere none is reported)."""
    import ctypes

    if not sys.platform.startswith("linux"):
        return []
    wanted = {
        "libcudart": ("libcudart.so.12", "libcudart.so.13"),
        "libcublasLt": ("libcublasLt.so.12", "libcublasLt.so.13"),
        "libcudnn": ("libcudnn.so.9",),
        "libcufft": ("libcufft.so.11", "libcufft.so.12"),
        "libcurand": ("libcurand.so.10",),
    }
    absent = []
    for versions in wanted.values():
        for version in versions:
            with contextlib.suppress(OSError):
                ctypes.CDLL(version)
                break
        else:
            absent.append(" or ".join(versions))
    return absent


def _provider_checks() -> list[Check]:
    """One check of each provider worth knowing: CPU, CUDA, and others compiled in."""
    try:
        onnxruntime = library()
    except Exception as error:
        return [Check("onnxruntime", False, f"does not import: {_line(error)}", "pip install onnxruntime")]
    available = onnxruntime.get_available_providers()
    names = [*PROVIDERS.values(), *(name for name in available if name not in PROVIDERS.values())]
    checks = []
    for name in names:
        optional = name != PROVIDERS["cpu"]
        if name in _UNPROBED:
            checks.append(Check(name, True, _UNPROBED[name], optional=True))
        elif name not in available:
            reason, remedy = _not_compiled_in(name)
            checks.append(Check(name, False, reason, remedy, optional))
        else:
            checks.append(_probe(onnxruntime, name, optional=optional))
    return checks


def _probe(onnxruntime: Any, name: str, *, optional: bool) -> Check:
    """Whether ``name`` makes a session and runs a convolution, shown by ONNX Runtime's profile."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="cnnexport-", ignore_cleanup_errors=True) as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SILENT
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "probe")
        model = _tiny_convolution()
        try:
            if name == PROVIDERS["cpu"]:
                onnxruntime.set_default_logger_severity(_SILENT)
                runner = _create(onnxruntime, model, "the probe", options, name)
            else:
                runner = _create_accelerated(onnxruntime, model, "the probe", options, name)
        except (InputError, ProviderError) as error:
            detail, _, remedy = str(error).partition("; ")
            detail = f"compiled in, but {detail.removeprefix(f'{name} is unavailable: ')}"
            if name not in PROVIDERS.values():
                remedy = "none needed: cnnexport does not use it"
            return Check(name, False, detail, remedy.removesuffix("."), optional)
        failure = ""
        with _quiet() as log:
            try:
                (out,) = runner.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
                if out.shape != (1, 1, 2, 2) or not np.allclose(out, 9.0, rtol=1e-2):
                    failure = "it computed a wrong convolution"
            except Exception as error:
                failure = str(error)
        written = runner.end_profiling()
        ran = _nodes_per_provider(json.loads(Path(written).read_text(encoding="utf-8")))
    if failure:
        reason, remedy = _shorten(failure), "reinstall onnxruntime"
        if name == PROVIDERS["cuda"]:
            reason, remedy = _explain(f"{failure}\n{log.text}")
        return Check(name, False, f"made a session but ran nothing: {reason}", remedy, optional)
    if not ran.get(name):
        return Check(name, False, "made a session, but the convolution ran elsewhere", optional=optional)
    return Check(name, True, "made a session and ran a convolution", optional=optional)


def _tiny_convolution() -> bytes:
    """A model of one 3x3 convolution, all weights 1: x (1, 1, 4, 4) to y (1, 1, 2, 2), float32."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="probe")],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _nodes_per_provider(events: list[dict[str, Any]]) -> dict[str, int]:
    """Distinct nodes by provider, from the events of an ONNX Runtime profile."""
    seen: dict[str, set[str]] = {}
    for event in events:
        name = str(event.get("name", ""))
        provider = event.get("args", {}).get("provider")
        if event.get("cat") == "Node" and name.endswith("_kernel_time") and provider:
            node = f"{event['args'].get('node_index', '')}:{name}"
            seen.setdefault(str(provider), set()).add(node)
    return {provider: len(nodes) for provider, nodes in sorted(seen.items())}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Check:
    version = _version(name)
    if version is not None:
        return Check(name, True, version)
    if name == "tensorflow" and (version := _version("tensorflow-cpu")):
        return Check(name, True, f"{version} (tensorflow-cpu)")
    return Check(name, False, "not installed", f"pip install {name.replace('_', '-')}")


def _installed_wheels() -> dict[str, str]:
    """The installed ONNX Runtime wheels and their versions."""
    return {name: version for name in _WHEELS if (version := _version(name)) is not None}


def _wheel() -> Check:
    installed = _installed_wheels()
    detail = ", ".join(f"{version} ({name} wheel)" for name, version in installed.items())
    if not installed:
        return Check("onnxruntime", False, "not installed", "pip install onnxruntime")
    if len(installed) > 1:
        return Check(
            "onnxruntime", False, f"{detail}: these overwrite each other's files", _BOTH_WHEELS_REMEDY
        )
    return Check("onnxruntime", True, detail)


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


@dataclass
class _Log:
    """What was printed during a ``_quiet`` block; set at its end."""

    text: str = ""


@contextlib.contextmanager
def _quiet() -> Iterator[_Log]:
    """Keep Python's output and the process' standard error (fd 2) off the terminal, and collect both."""
    log = _Log()
    printed = io.StringIO()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no standard error to redirect
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield log
        log.text = printed.getvalue()
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                yield log
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            log.text = file.read().decode(errors="replace") + printed.getvalue()


def _shorten(text: str) -> str:
    """Text on one line, without terminal colours, at most 300 characters."""
    return " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split())[:300].rstrip(" .;")


def _line(error: BaseException) -> str:
    return _shorten(str(error)) or type(error).__name__
