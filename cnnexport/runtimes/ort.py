"""ONNX Runtime: sessions, and where their nodes run.

The only module that makes ONNX Runtime sessions.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexport import files, supervision
from cnnexport.errors import InputError, NewerModelError, ProviderError, UsageError
from cnnexport.runtimes import cuda, profile
from cnnexport.runtimes.base import LIMIT_SECONDS, Feeds, Runtime
from cnnexport.runtimes.printed import captured, line

if TYPE_CHECKING:
    from cnnexport.runtimes.binding import Binding

MOST_THREADS = 1024
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": cuda.EXECUTION_PROVIDER}
SILENT, _ERRORS, _WARNINGS = 4, 3, 2


@dataclass(frozen=True)
class OrtSession:
    """One file in ONNX Runtime. ``raw`` is its ``InferenceSession``, ``folder`` where its profile goes, if anywhere."""

    raw: Any
    source: str | os.PathLike[str] | bytes
    provider: str
    threads: int | None
    options: Mapping[str, str]
    folder: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def open(
        cls, source: str | os.PathLike[str] | bytes, *, provider: str = "cpu", threads: int | None = None,
        options: Mapping[str, str] | None = None, profiled: bool = False, optimise: bool = True, brief: bool = False,
    ) -> OrtSession:
        """As ``Runtime.open``; ``source`` may be the model itself. Raises what ``session`` raises."""
        folder = None
        if profiled:
            folder = tempfile.TemporaryDirectory(prefix="cnnexport-", ignore_cleanup_errors=True)
        try:
            raw = session(source, provider=provider, threads=threads, optimise=optimise, brief=brief,
                          provider_options=options or None,
                          profile=None if folder is None else os.path.join(folder.name, "profile"))
        except BaseException:
            if folder is not None:
                folder.cleanup()
            raise
        return cls(raw, source, provider, threads, dict(options or {}), folder)

    @property
    def device(self) -> str:
        return str(self.raw.get_providers()[0])

    def run(self, names: Sequence[str] | None, feeds: Feeds, *, seconds: float = LIMIT_SECONDS) -> list[Any]:
        return run(self.raw, names, feeds, seconds=seconds)

    def bind(self, feeds: Feeds) -> Binding:
        from cnnexport.runtimes.binding import Binding

        return Binding(library(), self, feeds)

    def placement(self, feeds: Feeds, *, runs: int = 1) -> dict[str, Any]:
        """As ``Session.placement``, once for a session that is profiled; another makes a second session for it."""
        if self.folder is None:
            profiled = OrtSession.open(self.source, provider=self.provider, threads=self.threads, options=self.options,
                                       profiled=True)
            return profiled.placement(feeds, runs=runs)
        with self.folder:
            try:
                with captured() as log:
                    for _ in range(runs):
                        self.run(None, feeds)
            except InputError:
                raise
            except Exception as error:
                if self.provider == "cpu":
                    raise InputError(
                        f"ONNX Runtime could not run the model: {line(error)}; check its inputs."
                    ) from error
                reason, remedy = cuda.explain(f"{error}\n{log.text}")
                raise ProviderError(
                    f"{PROVIDERS[self.provider]} could not run the model: {reason}; {remedy}.") from error
            finally:
                written = self.raw.end_profiling()
            return profile.read(json.loads(Path(written).read_text(encoding="utf-8")))

    def facts(self) -> dict[str, Any]:
        """Providers, options and build of the session as ONNX Runtime reports them."""
        onnxruntime, options = library(), self.raw.get_session_options()
        return {
            "onnxruntime": onnxruntime.__version__,
            "build": onnxruntime.get_build_info() if hasattr(onnxruntime, "get_build_info") else None,
            "providers": self.raw.get_providers(),
            "provider_options": self.raw.get_provider_options(),
            "session_options": {
                "intra_op_num_threads": options.intra_op_num_threads,
                "inter_op_num_threads": options.inter_op_num_threads,
                "graph_optimization_level": str(options.graph_optimization_level).rpartition(".")[2],
                "execution_mode": str(options.execution_mode).rpartition(".")[2],
                "enable_mem_pattern": options.enable_mem_pattern,
                "enable_cpu_mem_arena": options.enable_cpu_mem_arena,
            },
        }

    def describe(self) -> str:
        return f"in a session of the {'CPU' if self.provider == 'cpu' else self.provider} provider alone"


class OnnxRuntime:
    """ONNX Runtime as one of the runtimes."""

    name = "ort"
    title = "ONNX Runtime"
    providers: Mapping[str, str] = PROVIDERS
    slowness = 1.0
    install = "pip install onnxruntime"

    def installed(self) -> bool:
        return importlib.util.find_spec("onnxruntime") is not None

    def probe(self, provider: str) -> None:
        probe(provider)

    def open(
        self, source: str | os.PathLike[str], *, provider: str = "cpu", threads: int | None = None,
        options: Mapping[str, str] | None = None, shapes: Mapping[str, Sequence[int]] | None = None, streams: int = 1,
        profiled: bool = False, optimise: bool = True, brief: bool = False,
    ) -> OrtSession:
        """As ``Runtime.open``; nothing is compiled for shapes or streams."""
        return OrtSession.open(source, provider=provider, threads=threads, options=options, profiled=profiled,
                               optimise=optimise, brief=brief)


def session(
    path_or_bytes: str | os.PathLike[str] | bytes,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    optimise: bool = True,
    brief: bool = False,
    profile: str | os.PathLike[str] | None = None,
    debug: bool = False,
    provider_options: Mapping[str, str] | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` on ``provider`` ("cpu" or "cuda").

    ``threads`` sets the threads inside an operator (None: ONNX Runtime's choice); ``optimise=False`` turns
    off graph optimisation, ``brief`` the arena, which keeps memory for the next run; ``profile`` is the path prefix
    of a profile to write. With "cuda", nodes that CUDA cannot run go to the CPU: ``placement`` tells which. Bytes
    must hold their weights: external data is found only from a path. Raises UsageError for a bad value, InputError
    for a model that does not load, and ProviderError where the provider cannot be had.
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
    onnxruntime.set_default_logger_severity(_ERRORS if debug else SILENT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS if debug else SILENT
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = not brief
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = os.fspath(profile)
    with supervision.doing(f"ONNX Runtime loads {label}", LIMIT_SECONDS):
        if name == PROVIDERS["cpu"]:
            return create(onnxruntime, source, label, options, name, provider_options)
        return create_accelerated(onnxruntime, source, label, options, name, provider_options, debug=debug)


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
    options.log_severity_level = SILENT
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
    session(tiny_convolution(), provider=provider)


def placement(
    path: str | os.PathLike[str] | bytes, feeds: Mapping[str, Any], provider: str = "cpu"
) -> dict[str, int]:
    """The nodes that each execution provider ran, from ONNX Runtime's own profile of one run.

    ``feeds`` maps input names to arrays. The nodes are those of the optimised graph: fused nodes count once,
    folded ones not at all. Keys are provider names such as ``CPUExecutionProvider``. Raises what ``session``
    raises, and InputError where the run fails.
    """
    return profile.counts(OrtSession.open(path, provider=provider, profiled=True).placement(feeds))


def _provider_name(provider: str) -> str:
    if provider not in PROVIDERS:
        raise UsageError(f"Unknown provider {provider!r}: choose {' or '.join(PROVIDERS)}.")
    return PROVIDERS[provider]


def create(
    onnxruntime: Any, source: str | bytes, label: str, options: Any, name: str,
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
            f"ONNX Runtime cannot load {label}: {line(error)}; check the file, or export it again."
        ) from error


def create_accelerated(
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
        reason, remedy = cuda.not_compiled_in(name)
        raise ProviderError(f"{name} is unavailable: {reason}; {remedy}.")
    failure: InputError | None = None
    made: Any = None
    with captured() as log:
        if name == PROVIDERS["cuda"] and hasattr(onnxruntime, "preload_dlls"):
            with contextlib.suppress(Exception):
                onnxruntime.preload_dlls()
        onnxruntime.set_default_logger_severity(_WARNINGS)
        try:
            made = create(onnxruntime, source, label, options, name, provider_options)
        except InputError as error:
            failure = error
        finally:
            onnxruntime.set_default_logger_severity(_ERRORS if debug else SILENT)
    if debug and log.text:
        sys.stderr.write(log.text)
    if made is not None and name in made.get_providers():
        return made
    if failure is not None:
        # The model or the provider: only the CPU tells which.
        create(onnxruntime, source, label, options, PROVIDERS["cpu"])
    text = log.text if failure is None else f"{failure.__cause__}\n{log.text}"
    reason, remedy = cuda.explain(text)
    raise ProviderError(f"{name} is unavailable: {reason}; {remedy}.") from failure


def tiny_convolution() -> bytes:
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


RUNTIME: Runtime = OnnxRuntime()
