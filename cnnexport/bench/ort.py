"""One session of ONNX Runtime as the worker drives it: bound inputs and outputs, explicit synchronisation."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnexport import runtime
from cnnexport.bench import placement, subjects
from cnnexport.errors import InputError, ProviderError

Run = Callable[[], None]


class Session:
    """A session with its inputs on the device.

    ``options`` holds file, provider, threads, provider_options, inputs (as ``subjects.fill`` takes them) and seed.
    ``create_seconds`` is the time of making the session. Raises what ``runtime.session`` raises.
    """

    def __init__(self, options: dict[str, Any], profile: str | None = None) -> None:
        self.options = options
        self.provider: str = options["provider"]
        self.device = "cuda" if self.provider == "cuda" else "cpu"
        start = time.perf_counter()
        self.session = runtime.session(
            options["file"], provider=self.provider, threads=options.get("threads"),
            provider_options=options.get("provider_options") or None, profile=profile)
        self.create_seconds = time.perf_counter() - start
        self.feeds = subjects.fill(options["inputs"], options.get("seed", 0))
        self._ort = runtime.library()
        self._inputs = {name: self._on_device(array) for name, array in self.feeds.items()}
        self._outputs: list[tuple[str, str, tuple[int, ...]]] | None = None
        self._captured: Run | None = None

    def _on_device(self, array: Any) -> Any:
        kinds = {"bfloat16": 16, "float8_e4m3fn": 17, "float8_e5m2": 19}
        try:
            if array.dtype.name in kinds:
                return self._ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, kinds[array.dtype.name])
            return self._ort.OrtValue.ortvalue_from_numpy(array, self.device, 0)
        except Exception as error:
            raise InputError(f"{self.options['file']}: ONNX Runtime takes no input of {array.dtype}; "
                             f"{_line(error)}") from error

    def first_run(self) -> float:
        """Seconds of the first run, which also tells the outputs' shapes. Raises InputError where it fails."""
        graph = _graph(self.options)
        # A captured graph replays addresses: it may only ever see the bound buffers, so another session tells shapes.
        teller = self.session if not graph else runtime.session(
            self.options["file"], provider=self.provider, threads=self.options.get("threads"))
        start = time.perf_counter()
        try:
            outputs = teller.run(None, self.feeds)
        except Exception as error:
            if self.provider == "cuda":
                raise ProviderError(f"CUDAExecutionProvider cannot run {self.options['file']}: {_line(error)}; run "
                                    "`cnnexport doctor`, or ask for --provider cpu") from error
            shapes = ", ".join(f"{i['name']} {'x'.join(map(str, i['shape']))}" for i in self.options["inputs"])
            raise InputError(f"ONNX Runtime cannot run {self.options['file']} on {shapes}: {_line(error)}; "
                             "give --shape or another --batch") from error
        seconds = time.perf_counter() - start
        # What is no array (a sequence, a map), or has another shape each time, is left to ONNX Runtime.
        self._outputs = [(o.name, str(v.dtype), v.shape) for o, v in zip(self.session.get_outputs(), outputs)
                         if hasattr(v, "dtype") and v.dtype.kind in "fiub"]
        if len(self._outputs) != len(outputs):
            self._outputs = []
        if graph:
            run = self.stream()
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            self._captured = run
        return seconds

    def stream(self) -> Run:
        """A run with buffers of its own, that returns when the outputs are there."""
        import numpy as np

        if self._captured is not None:
            return self._captured
        binding = self.session.io_binding()
        for name, value in self._inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, dtype, shape in self._outputs or ():
            binding.bind_ortvalue_output(name, self._ort.OrtValue.ortvalue_from_shape_and_type(
                list(shape), np.dtype(dtype), self.device, 0))
        if not self._outputs:
            for output in self.session.get_outputs():
                binding.bind_output(output.name, self.device)
        run, options = self.session.run_with_iobinding, self._ort.RunOptions()
        options.log_severity_level = 4
        if self.device == "cpu":
            return lambda: run(binding, options)
        synchronise = binding.synchronize_outputs
        binding.synchronize_inputs()

        def on_device() -> None:
            run(binding, options)
            synchronise()

        return on_device

    def transfers(self) -> dict[str, Run] | None:
        """What copies the inputs to the device and the outputs back; None on the CPU, where nothing is copied.

        The host's side is pageable memory, as a caller's arrays are.
        """
        import numpy as np

        if self.device == "cpu" or not self._outputs:
            return None
        values = [(self._inputs[name], array) for name, array in self.feeds.items()]
        results = [self._ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype), self.device, 0)
                   for _, dtype, shape in self._outputs]

        def to_device() -> None:
            for value, array in values:
                value.update_inplace(array)

        def to_host() -> None:
            for value in results:
                value.numpy()

        return {"host_to_device": to_device, "device_to_host": to_host}

    def facts(self) -> dict[str, Any]:
        """Providers, options and build of the session as ONNX Runtime reports them."""
        options = self.session.get_session_options()
        return {
            "onnxruntime": self._ort.__version__,
            "build": self._ort.get_build_info() if hasattr(self._ort, "get_build_info") else None,
            "providers": self.session.get_providers(),
            "provider_options": self.session.get_provider_options(),
            "session_options": {
                "intra_op_num_threads": options.intra_op_num_threads,
                "inter_op_num_threads": options.inter_op_num_threads,
                "graph_optimization_level": str(options.graph_optimization_level).rpartition(".")[2],
                "execution_mode": str(options.execution_mode).rpartition(".")[2],
                "enable_mem_pattern": options.enable_mem_pattern,
                "enable_cpu_mem_arena": options.enable_cpu_mem_arena,
            },
            "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "io_binding": "inputs and outputs" if self._outputs else "inputs",
        }


def _graph(options: dict[str, Any]) -> bool:
    """Whether the session captures a CUDA graph."""
    return str((options.get("provider_options") or {}).get("enable_cuda_graph", "0")).lower() in ("1", "true")


def profile(options: dict[str, Any], limit: float) -> dict[str, Any]:
    """Where the nodes of a file run, from a session of its own that is profiled; ``limit`` seconds of runs at most."""
    # Replays of a captured graph run no node that a profile could see.
    plain = {k: v for k, v in (options.get("provider_options") or {}).items() if k != "enable_cuda_graph"}
    options = {**options, "provider_options": plain}
    with tempfile.TemporaryDirectory(prefix="cnnexport-", ignore_cleanup_errors=True) as folder:
        held = Session(options, profile=os.path.join(folder, "profile"))
        try:
            first = held.first_run()
            for _ in range(max(1, min(20, int(limit / max(first, 1e-6))))):
                held.session.run(None, held.feeds)
        finally:
            written = held.session.end_profiling()
        found = placement.read(json.loads(Path(written).read_text(encoding="utf-8")))
    return {**found, "facts": held.facts()}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:240] or type(error).__name__
