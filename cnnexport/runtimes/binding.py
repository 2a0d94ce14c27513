"""Inputs and outputs of an ONNX Runtime session in memory of their own, with explicit synchronisation."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from cnnexport.errors import InputError
from cnnexport.runtimes.base import Feeds, Run
from cnnexport.runtimes.printed import line

if TYPE_CHECKING:
    from cnnexport.runtimes.ort import OrtSession

# TensorProto's numbers of the types that NumPy has not.
_ONNX_TYPES = {"bfloat16": 16, "float8_e4m3fn": 17, "float8_e5m2": 19}


class Binding:
    """Arrays on the device of a session. Raises InputError where ONNX Runtime takes no such array."""

    def __init__(self, onnxruntime: Any, session: OrtSession, feeds: Feeds) -> None:
        self._ort, self._opened, self._session = onnxruntime, session, session.raw
        self._device = "cuda" if session.provider == "cuda" else "cpu"
        self._label = "the model in memory" if isinstance(session.source, bytes) else os.fspath(session.source)
        self._feeds = dict(feeds)
        self._inputs = {name: self._on_device(array) for name, array in feeds.items()}
        self._outputs: list[tuple[str, str, tuple[int, ...]]] | None = None
        self._captured: Run | None = None

    def _on_device(self, array: Any) -> Any:
        try:
            if array.dtype.name in _ONNX_TYPES:
                return self._ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_TYPES[array.dtype.name])
            return self._ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)
        except Exception as error:
            raise InputError(f"{self._label}: ONNX Runtime takes no input of {array.dtype}; {line(error)}") from error

    @property
    def how(self) -> str:
        return "inputs and outputs" if self._outputs else "inputs"

    def first_run(self) -> float:
        """As ``Bound.first_run``; it also tells the outputs' shapes."""
        graph = str(self._opened.options.get("enable_cuda_graph", "0")).lower() in ("1", "true")
        # A captured graph replays addresses: it may only ever see the bound buffers, so another session tells shapes.
        teller = self._session if not graph else self._opened.open(
            self._opened.source, provider=self._opened.provider, threads=self._opened.threads).raw
        start = time.perf_counter()
        outputs = teller.run(None, self._feeds)
        seconds = time.perf_counter() - start
        # What is no array (a sequence, a map), or has another shape each time, is left to ONNX Runtime.
        self._outputs = [(o.name, str(v.dtype), v.shape) for o, v in zip(self._session.get_outputs(), outputs)
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
        """As ``Bound.stream``, with buffers of its own; the only one there is where a CUDA graph was captured."""
        import numpy as np

        if self._captured is not None:
            return self._captured
        binding = self._session.io_binding()
        for name, value in self._inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, dtype, shape in self._outputs or ():
            binding.bind_ortvalue_output(name, self._ort.OrtValue.ortvalue_from_shape_and_type(
                list(shape), np.dtype(dtype), self._device, 0))
        if not self._outputs:
            for output in self._session.get_outputs():
                binding.bind_output(output.name, self._device)
        run, options = self._session.run_with_iobinding, self._ort.RunOptions()
        options.log_severity_level = 4
        if self._device == "cpu":
            return lambda: run(binding, options)
        synchronise = binding.synchronize_outputs
        binding.synchronize_inputs()

        def on_device() -> None:
            run(binding, options)
            synchronise()

        return on_device

    def transfers(self) -> dict[str, Run] | None:
        """As ``Bound.transfers``: the inputs to the device, the outputs back.

        The host's side is pageable memory, as a caller's arrays are.
        """
        import numpy as np

        if self._device == "cpu" or not self._outputs:
            return None
        values = [(self._inputs[name], array) for name, array in self._feeds.items()]
        results = [self._ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype), self._device, 0)
                   for _, dtype, shape in self._outputs]

        def to_device() -> None:
            for value, array in values:
                value.update_inplace(array)

        def to_host() -> None:
            for value in results:
                value.numpy()

        return {"host_to_device": to_device, "device_to_host": to_host}
