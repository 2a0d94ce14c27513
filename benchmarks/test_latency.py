"""Latency of every architecture, and of the peers on the same networks, by the loops of ``cnnexport bench``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bundles import bundle_subject
from cnnexport import architectures, runtimes
from cnnexport.bench.forks import Stop
from cnnexport.bench.measure import measure, record
from cnnexport.bench.options import LATENCY, Goal
from cnnexport.bench.plan import SESSION, Row, default_threads
from cnnexport.bench.replay import clock
from cnnexport.errors import ProviderError

ARCHITECTURES = tuple(spec.name for spec in architectures.all_architectures())
PEERED = ("lenet5", "resnet50", "vgg16")
OURS = "onnxruntime"
PEERS = {
    OURS: SESSION,
    "openvino": SESSION,
    "tf.function": "benchmarks.peers:TensorFlow",
    "keras predict": "benchmarks.peers:Keras",
}
SLOW_TO_START = ("tf.function", "keras predict")  # a process of TensorFlow takes seconds before it runs
CUDA_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def cases(names: tuple[str, ...], batches: tuple[int, ...], peered: tuple[str, ...] = ()) -> list[Any]:
    """Rows of one network and batch follow each other: a host drifts, and they are to be compared."""
    return [pytest.param(name, batch, contender,
                         id=f"{name}-b{batch}" + ("" if contender == OURS else f"-{contender.replace(' ', '-')}"),
                         marks=pytest.mark.benchmark(group=f"latency {name} batch {batch}", timer=clock))
            for name in names for batch in batches for contender in (PEERS if name in peered else (OURS,))]


@pytest.mark.parametrize(("name", "batch", "contender"), cases(ARCHITECTURES, (1, 8), PEERED))
def test_latency(
    benchmark: Any, bundles: Path, goal: Goal, stop: Stop, limit: dict[str, Any], name: str, batch: int, contender: str
) -> None:
    """A network in ONNX Runtime or in a peer, by the same loop."""
    if contender == "openvino" and not runtimes.get("openvino").installed():
        pytest.skip(f"OpenVINO is not installed: {runtimes.get('openvino').install}")
    subject = bundle_subject(bundles, name)
    row = Row(subject, LATENCY, batch=batch, threads=default_threads())
    if contender == OURS:
        record(benchmark, measure(row, goal, stop, limit=limit))
        return
    runtime = contender if contender in runtimes.names() else row.runtime
    row = replace(row, runner=PEERS[contender], runtime=runtime, contender=contender, options={"architecture": name})
    if contender in SLOW_TO_START:
        goal = replace(goal, max_time=max(2 * goal.max_time, 40.0))
    record(benchmark, measure(row, goal, stop, limit=limit))


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "batch", "contender"), cases(PEERED, CUDA_BATCHES))
def test_cuda(benchmark: Any, bundles: Path, goal: Goal, stop: Stop, name: str, batch: int, contender: str) -> None:
    try:
        runtimes.get(runtimes.DEFAULT).probe("cuda")
    except ProviderError as error:
        pytest.skip(f"no CUDA: {error}")
    row = Row(bundle_subject(bundles, name), LATENCY, provider="cuda", batch=batch, threads=default_threads(),
              contender=contender)
    record(benchmark, measure(row, goal, stop))
