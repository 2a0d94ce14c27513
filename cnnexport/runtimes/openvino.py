"""OpenVINO on the CPU, in float32: what the gate's tolerances are about, whatever the processor could do faster."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnexport.errors import InputError, ProviderError
from cnnexport.runtimes import profile
from cnnexport.runtimes.base import LIMIT_SECONDS, Feeds, Run, Runtime
from cnnexport.runtimes.printed import line

_PROVIDERS = {"cpu": "CPU"}
_TOLD = ("EXECUTION_DEVICES", "INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS", "PERFORMANCE_HINT",
         "PERFORMANCE_HINT_NUM_REQUESTS", "EXECUTION_MODE_HINT", "ENABLE_CPU_PINNING", "ENABLE_HYPER_THREADING",
         "CPU_DENORMALS_OPTIMIZATION", "RUNTIME_REQUIREMENTS")
_NO_WORK = ("Parameter", "Result", "Constant", "Const")


@dataclass
class OpenVinoBound:
    """Inputs shared with OpenVINO; outputs stay in its own memory."""

    session: OpenVinoSession
    inputs: dict[str, Any]
    how: str = field(default="inputs and outputs", init=False)
    _first: Run | None = field(default=None, init=False)

    def first_run(self) -> float:
        """As ``Bound.first_run``, with the making of the request."""
        start = time.perf_counter()
        self._first = self._request()
        self._first()
        return time.perf_counter() - start

    def _request(self) -> Run:
        request = self.session.compiled.create_infer_request()
        for name, tensor in self.inputs.items():
            request.set_tensor(name, tensor)
        run: Run = request.infer
        return run

    def stream(self) -> Run:
        """As ``Bound.stream``, each a request of its own."""
        held, self._first = self._first, None
        return held or self._request()

    def transfers(self) -> None:
        return None


@dataclass(frozen=True)
class OpenVinoSession:
    """One file compiled by OpenVINO, for the ``shapes`` of its inputs where they are known."""

    core: Any
    compiled: Any
    source: str
    settings: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def device(self) -> str:
        return ", ".join(self.compiled.get_property("EXECUTION_DEVICES"))

    def run(self, names: Sequence[str] | None, feeds: Feeds, *, seconds: float = LIMIT_SECONDS) -> list[Any]:
        """As ``Session.run``; nothing ends a run from inside. Other shapes than compiled for are compiled anew."""
        compiled = self.compiled
        if any(tuple(feeds[name].shape) != shape for name, shape in self.shapes.items() if name in feeds):
            compiled = _compile(self.core, self.source, self.settings, {})
        results = compiled(dict(feeds))
        return [results[name] for name in names or [output.get_any_name() for output in compiled.outputs]]

    def bind(self, feeds: Feeds) -> OpenVinoBound:
        import openvino

        inputs = {}
        for name, array in feeds.items():
            try:
                inputs[name] = openvino.Tensor(array, shared_memory=True)
            except Exception as error:
                raise InputError(
                    f"{self.source}: OpenVINO takes no input of {array.dtype}; {line(error)}") from error
        return OpenVinoBound(self, inputs)

    def placement(self, feeds: Feeds, *, runs: int = 1) -> dict[str, Any]:
        """As ``Session.placement``, from OpenVINO's counters; the first run is left out where there are others."""
        compiled = self.compiled
        if str(compiled.get_property("PERF_COUNT")).upper() not in ("YES", "TRUE"):
            compiled = _compile(self.core, self.source, {**self.settings, "PERF_COUNT": True}, self.shapes)
        (device,) = compiled.get_property("EXECUTION_DEVICES")
        request = compiled.create_infer_request()
        found: dict[str, dict[str, Any]] = {}
        counted = max(runs - 1, 1)
        try:
            for index in range(runs):
                request.infer(dict(feeds))
                if index == 0 and runs > 1:
                    continue
                for counter in request.profiling_info:
                    executed = counter.status == counter.Status.EXECUTED
                    # Less than a microsecond counts as not run; what was fused away has no kernel at all.
                    if counter.node_type in _NO_WORK or (not executed and counter.exec_type.startswith("un")):
                        continue
                    node = found.setdefault(counter.node_name, {
                        "name": counter.node_name, "operator": counter.node_type, "provider": device,
                        "kernel": counter.exec_type, "microseconds": 0.0})
                    node["microseconds"] += counter.real_time.total_seconds() * 1e6 / counted
        except Exception as error:
            raise InputError(f"OpenVINO could not run {self.source}: {line(error)}; check its inputs") from error
        return profile.summary(list(found.values()), runs=counted, traffic_bytes=None)

    def facts(self) -> dict[str, Any]:
        """Version, device and the properties of the compiled model as OpenVINO reports them."""
        import openvino

        known = {str(name) for name in self.compiled.get_property("SUPPORTED_PROPERTIES")}
        told = {name: _plain(self.compiled.get_property(name)) for name in _TOLD if name in known}
        return {"openvino": _version(openvino), "build": openvino.__version__,
                "providers": told.pop("EXECUTION_DEVICES", []), "provider_options": {}, "session_options": told}

    def describe(self) -> str:
        import openvino

        return f"OpenVINO {_version(openvino)}"


class OpenVino:
    """OpenVINO as one of the runtimes."""

    name = "openvino"
    title = "OpenVINO"
    providers: Mapping[str, str] = _PROVIDERS
    slowness = 1.0
    install = "pip install openvino"

    def installed(self) -> bool:
        return importlib.util.find_spec("openvino") is not None

    def probe(self, provider: str) -> None:
        if provider not in self.providers:
            raise ProviderError(f"OpenVINO has no provider '{provider}' here; use cpu")
        try:
            import openvino

            devices = openvino.Core().available_devices
        except Exception as error:
            raise ProviderError(f"OpenVINO does not start: {line(error)}; {self.install}") from error
        if _PROVIDERS[provider] not in devices:
            raise ProviderError(f"OpenVINO finds no CPU here, only {', '.join(devices) or 'nothing'}; {self.install}")

    def open(
        self, source: str | os.PathLike[str], *, provider: str = "cpu", threads: int | None = None,
        options: Mapping[str, str] | None = None, shapes: Mapping[str, Sequence[int]] | None = None, streams: int = 1,
        profiled: bool = False, optimise: bool = True, brief: bool = False,
    ) -> OpenVinoSession:
        """As ``Runtime.open``: for one stream tuned for latency, for more for as many requests at once."""
        import openvino

        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", **(options or {})}
        if threads is not None:
            settings |= {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if streams > 1:
            settings |= {"PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": streams}
        if profiled:
            settings["PERF_COUNT"] = True
        fixed = {name: tuple(shape) for name, shape in (shapes or {}).items()}
        core = openvino.Core()
        path = os.fspath(source)
        return OpenVinoSession(core, _compile(core, path, settings, fixed), path, settings, fixed)


def _compile(
    core: Any, source: str, settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Any:
    import openvino

    model = core.read_model(source)
    if shapes:
        model.reshape({name: openvino.PartialShape(list(shape)) for name, shape in shapes.items()})
    return core.compile_model(model, _PROVIDERS["cpu"], dict(settings))


def _version(openvino: Any) -> str:
    return str(openvino.__version__).split("-")[0]


def _plain(value: Any) -> Any:
    """A property as a JSON value."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    name = getattr(value, "get_type_name", None)
    return name() if name is not None else str(value)


RUNTIME: Runtime = OpenVino()
