"""Latency of every architecture, and of the peers on the same networks, by the loops of ``cnnexport bench``."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bundles import bundle_subject
from cnnexport import architectures, runtime
from cnnexport.bench.forks import Stop
from cnnexport.bench.measure import measure, record
from cnnexport.bench.plan import LATENCY, Goal, Row, default_threads
from cnnexport.bench.replay import clock
from cnnexport.errors import ProviderError

ARCHITECTURES = tuple(spec.name for spec in architectures.all_architectures())
PEERED = ("lenet5", "resnet50", "vgg16")
PEERS = {
    "onnxruntime": "cnnexport.bench.ort:Session",
    "openvino": "benchmarks.peers:OpenVino",
    "tf.function": "benchmarks.peers:TensorFlow",
    "keras predict": "benchmarks.peers:Keras",
}
CUDA_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def cases(names: tuple[str, ...], batches: tuple[int, ...]) -> list[Any]:
    return [pytest.param(name, batch, id=f"{name}-b{batch}",
                         marks=pytest.mark.benchmark(group=f"latency {name} batch {batch}", timer=clock))
            for name in names for batch in batches]


@pytest.mark.parametrize(("name", "batch"), cases(ARCHITECTURES, (1, 8)))
def test_latency(
    benchmark: Any, bundles: Path, goal: Goal, stop: Stop, limit: dict[str, Any], name: str, batch: int
) -> None:
    row = Row(bundle_subject(bundles, name), LATENCY, batch=batch, threads=default_threads())
    record(benchmark, measure(row, goal, stop, limit=limit))


@pytest.mark.parametrize("contender", [c for c in PEERS if c != "onnxruntime"])
@pytest.mark.parametrize(("name", "batch"), cases(PEERED, (1, 8)))
def test_peer(
    benchmark: Any, bundles: Path, goal: Goal, stop: Stop, limit: dict[str, Any], name: str, batch: int, contender: str
) -> None:
    """A peer on the network that ``test_latency`` times in ONNX Runtime in the same run, by the same loop."""
    if contender == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed: pip install openvino")
    subject = bundle_subject(bundles, name)
    assert subject.parity is not None
    row = Row(subject, LATENCY, batch=batch, threads=default_threads(), runner=PEERS[contender], contender=contender,
              options={"architecture": name})
    vectors = {"folder": str(bundles / name / "test_data_set_0"), "max_error": subject.parity["tolerance"]["max_error"]}
    # A process of TensorFlow takes seconds before it runs.
    patient = replace(goal, max_time=max(2 * goal.max_time, 40.0))
    record(benchmark, measure(row, patient, stop, limit=limit, vectors=vectors))


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "batch"), cases(PEERED, CUDA_BATCHES))
def test_cuda(benchmark: Any, bundles: Path, goal: Goal, stop: Stop, name: str, batch: int) -> None:
    try:
        runtime.probe("cuda")
    except ProviderError as error:
        pytest.skip(f"no CUDA: {error}")
    row = Row(bundle_subject(bundles, name), LATENCY, provider="cuda", batch=batch, threads=default_threads())
    record(benchmark, measure(row, goal, stop))
