"""The machine's own limit, measured as the rows are: by ONNX Runtime, on the same provider, threads and options."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cnnexport.bench import machine
from cnnexport.runtimes import ort

_SECONDS = 0.4
_SIZES = {"cpu": (512, 1024, 1536), "cuda": (2048, 4096, 8192)}
_COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 29}


def measure(provider: str, threads: int | None, provider_options: dict[str, str]) -> dict[str, Any]:
    """The best rate of square single-precision matrix products (operations/s), and the memory bandwidth (bytes/s).

    A limit is the best that was seen, not the median. Bandwidth counts bytes read and written. Raises what
    ``ort.session`` raises.
    """
    rates = {}
    for size in _SIZES[provider]:
        rates[size] = 2 * size**3 / _best(_product(size), size, provider, threads, provider_options)
    best = max(rates, key=lambda size: rates[size])
    return {
        "provider": provider, "threads": threads, "flops": rates[best], "size": best,
        "flops_by_size": {str(k): v for k, v in rates.items()},
        "bandwidth": _bandwidth(provider, threads, provider_options),
        "how": "best of repeated float32 MatMul in ONNX Runtime; bandwidth by copying "
               f"{_COPY_BYTES[provider] >> 20} MiB",
    }


def _product(size: int) -> bytes:
    """A model of one float32 matrix product with constant weights, size x size."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal((size, size), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], "limit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size, size])],
        [numpy_helper.from_array(weights, "w")])
    return bytes(helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString())


def _best(model: bytes, size: int, provider: str, threads: int | None, provider_options: dict[str, str]) -> float:
    """The least seconds of a run of ``model`` on (size, size), of as many as fit the time."""
    import numpy as np
    onnxruntime = ort.library()
    options = {k: v for k, v in provider_options.items() if k != "enable_cuda_graph"}
    session = ort.session(model, provider=provider, threads=threads, provider_options=options or None)
    device = "cuda" if provider == "cuda" else "cpu"
    x = np.random.default_rng(1).standard_normal((size, size), np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x, device, 0))
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_shape_and_type(
        [size, size], np.float32, device, 0))
    best, end, runs = float("inf"), time.perf_counter() + _SECONDS, 0
    while time.perf_counter() < end or runs < 3:
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best


def _bandwidth(provider: str, threads: int | None, provider_options: dict[str, str]) -> float:
    import numpy as np

    size = _COPY_BYTES[provider]
    if provider == "cuda":
        side = int((size // 4) ** 0.5)
        return 2 * side * side * 4 / _best(_negation(side), side, provider, threads, provider_options)
    count = threads or machine.usable_cores()
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    parts = list(zip(np.array_split(source, count), np.array_split(target, count)))
    best, end = float("inf"), time.perf_counter() + _SECONDS
    with ThreadPoolExecutor(count) as pool:
        while time.perf_counter() < end:
            start = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), parts))
            best = min(best, time.perf_counter() - start)
    return 2 * size / best


def _negation(side: int) -> bytes:
    """A model that reads and writes side x side floats once."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"], name="copy")], "limit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [side, side])])
    return bytes(helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString())
