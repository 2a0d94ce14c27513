"""The registry of runtimes, those of other packages, and that all of them do the same work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnexport import runtimes
from cnnexport.bench import bench
from cnnexport.bench.options import Goal
from cnnexport.errors import ParityError, ProviderError, UsageError
from cnnexport.runtimes import base
from cnnexport.verification import verify

OWN = ("ort", "openvino", "reference")
QUICK = {"min_time": 0.05, "max_time": 6.0, "precision": 0.5}
MIRROR = """
from cnnexport.runtimes import ort


class Mirror(ort.OnnxRuntime):
    name = "mirror"
    title = "Mirror"
    providers = {"cpu": "CPUExecutionProvider"}
    install = "pip install mirror"


RUNTIME = Mirror()
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A convolution, Relu, an average and a flatten: x (N, 3, 16, 16) to y (N, 4)."""
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
             helper.make_node("Relu", ["a"], ["b"], name="relu"),
             helper.make_node("GlobalAveragePool", ["b"], ["c"], name="pool"),
             helper.make_node("Flatten", ["c"], ["y"], name="flat")]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])], [numpy_helper.from_array(weights, "w")])
    path = tmp_path / "small.onnx"
    path.write_bytes(helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
    return path


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cnnexport import convert

    return convert("lenet5", output=tmp_path_factory.mktemp("bundle") / "lenet5").path


def runtime(name: str) -> runtimes.Runtime:
    found = runtimes.get(name)
    if not found.installed():
        pytest.skip(f"{found.title} is not installed: {found.install}")
    return found


def package(place: Path, code: str, entry: str) -> Path:
    """A package as pip leaves it, with one entry point."""
    facts = place / "other-1.0.dist-info"
    facts.mkdir(parents=True)
    (place / "other.py").write_text(code)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[cnnexport.runtimes]\n{entry}\n")
    return place


def run(place: Path, cwd: Path, code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(place), str(Path(runtimes.__file__).parents[2])])
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": path})


def test_the_registry_imports_no_runtime() -> None:
    code = ("import sys; from cnnexport import runtimes\n"
            f"assert runtimes.names()[:3] == {OWN}, runtimes.names()\n"
            "[(r.providers, r.slowness, r.installed()) for r in map(runtimes.get, runtimes.names())]\n"
            "heavy = {'onnxruntime', 'openvino', 'onnx', 'numpy', 'tensorflow'} & set(sys.modules)\n"
            "assert not heavy, heavy\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_each_says_of_itself() -> None:
    for name in OWN:
        found = runtimes.get(name)
        assert isinstance(found, runtimes.Runtime) and found.name == name and next(iter(found.providers)) == "cpu"
    assert list(runtimes.get("ort").providers) == ["cpu", "cuda"]
    assert runtimes.get("reference").slowness == 10 and runtimes.get("ort").slowness == 1
    with pytest.raises(ProviderError, match="use cpu"):
        runtimes.get("reference").probe("cuda")


def test_unknown_names_are_refused_in_one_line(small: Path, cnnexport: Callable[..., Any]) -> None:
    for call in (lambda: runtimes.get("tensorrt"), lambda: verify(small, runtimes=("tensorrt",)),
                 lambda: bench([str(small)], runtimes=("ort", "tensorrt"))):
        with pytest.raises(UsageError) as error:
            call()
        assert str(error.value) == "runtime 'tensorrt' is unknown; choose one of ort, openvino, reference"
    result = cnnexport("verify", small, "--runtime", "tensorrt")
    assert result.code == 2 and "tensorrt" in result.err and result.err.count("\n") == 1


def test_runtimes_and_providers_that_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(r.name, p) for r, p in runtimes.chosen(("ort", "reference", "ort"), ("cuda", "cpu", "cuda"))]
    assert pairs == [("ort", "cuda"), ("ort", "cpu"), ("reference", "cpu")]
    assert [(r.name, p) for r, p in runtimes.chosen(("ort", "reference"), ("cuda",))][-1] == ("reference", "cpu")
    with pytest.raises(UsageError, match="add --runtime ort"):
        runtimes.chosen(("reference",), ("cuda",))
    with pytest.raises(UsageError, match="choose cpu or cuda"):
        runtimes.chosen(("ort",), ("tpu",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="OpenVINO is not installed here; pip install openvino, or leave"):
        runtimes.chosen(("openvino",), ("cpu",))


@pytest.mark.parametrize("name", OWN)
def test_all_do_the_same_work(small: Path, name: str) -> None:
    asked = runtime(name)
    asked.probe("cpu")
    x = np.random.default_rng(1).standard_normal((2, 3, 16, 16)).astype(np.float32)
    (expected,) = runtimes.get("reference").open(small).run(None, {"x": x})
    for shapes in (None, {"x": (2, 3, 16, 16)}, {"x": (1, 3, 16, 16)}):
        session = asked.open(small, threads=1, shapes=shapes)
        for names in (None, ["y"]):
            (actual,) = session.run(names, {"x": x})
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    session = asked.open(small, threads=1, shapes={"x": x.shape})
    bound = session.bind({"x": x})
    assert bound.first_run() > 0 and bound.transfers() is None and bound.how
    for stream in (bound.stream(), bound.stream()):
        stream()
    for runs in (1, 3):
        placed = session.placement({"x": x}, runs=runs)
        assert set(placed["providers"]) == {asked.providers["cpu"]} == {session.device}
        assert len(placed["nodes"]) == placed["providers"][session.device]["nodes"] >= 2
        assert {o["operator"] for o in placed["operators"]} >= ({"Conv"} if name == "reference" else set())
        assert placed["runs"] == (1 if name == "reference" else max(runs - 1, 1))
    facts = json.loads(json.dumps(session.facts()))
    assert facts["providers"] == [asked.providers["cpu"]] and isinstance(facts["session_options"], dict)
    profiled = asked.open(small, threads=1, profiled=True).placement({"x": x}, runs=2)
    assert set(profiled["providers"]) == {session.device}


def test_openvino_computes_in_single_precision(small: Path) -> None:
    facts = runtime("openvino").open(small, threads=1).facts()
    told = facts["session_options"]
    assert told["INFERENCE_PRECISION_HINT"] == "f32" and told["INFERENCE_NUM_THREADS"] == 1 and facts["openvino"]


@pytest.mark.parametrize("name", ["openvino", "reference"])
def test_a_bench_row_with_its_evidence(lenet: Path, name: str, tmp_path: Path) -> None:
    from cnnexport.results import rows as saved

    asked = runtime(name)
    save = tmp_path / "rows.json"
    outcome = bench([str(lenet)], runtimes=("ort", name), threads=(1,), save=save, **QUICK)
    assert outcome.exit_code == 0, outcome.errors
    ours, other = (row["extra_info"] for row in json.loads(save.read_text())["benchmarks"])
    assert (ours["runtime"], ours["contender"], ours["proof"]) == ("ort", "onnxruntime", None)
    assert (other["runtime"], other["contender"], other["provider"]) == (name, name, "cpu")
    device = asked.providers["cpu"]
    assert other["session"]["providers"] == [device] and other["placement"]["elsewhere"] == []
    assert set(other["placement"]["nodes"].values()) == {device} and other["operators"]
    assert other["proof"]["error"] <= other["proof"]["allowed"]
    assert other["verified"] and other["file_sha256"] == ours["file_sha256"]
    assert len(other["sessions"]) >= 2 and other["percentiles"]["p50"]["value"] > 0
    if name == "openvino":
        assert other["session"]["openvino"] and other["session"]["session_options"]["INFERENCE_NUM_THREADS"] == 1
    read = saved.load(save).rows
    assert (len({row.key for row in read}) == 2 and "openvino cpu" in outcome.text) or name != "openvino"


def test_rows_are_compared_with_those_of_their_runtime(
    lenet: Path, tmp_path: Path, cnnexport: Callable[..., Any]
) -> None:
    runtime("openvino")
    for name, asked in (("both", ("ort", "openvino")), ("one", ("openvino",))):
        assert not bench([str(lenet)], runtimes=asked, threads=(1,), save=tmp_path / f"{name}.json", **QUICK).errors
    found = json.loads(cnnexport("compare", "both.json", "one.json", "--fail-over", "900%", "--json").out)
    assert [c["row"].count("openvino") for c in found["changes"]] == [1] and len(found["missing"]) == 1


def test_throughput_has_a_request_for_each_stream(small: Path) -> None:
    runtime("openvino")
    outcome = bench([str(small)], runtimes=("openvino",), scenario="throughput", threads=(2,), batches=(1,),
                    concurrency=(1, 2), **QUICK)
    assert outcome.exit_code == 0, outcome.errors
    told = [row["extra_info"]["session"]["session_options"] for row in outcome.rows]
    assert [t["PERFORMANCE_HINT"] for t in told] == ["LATENCY", "THROUGHPUT"]
    assert told[1]["PERFORMANCE_HINT_NUM_REQUESTS"] in (2, "2")
    assert "best for small on openvino cpu" in outcome.text


def test_a_runtime_that_computes_something_else_is_not_timed(lenet: Path, tmp_path: Path) -> None:
    """Keras' stored outputs lie beside the file: they are asked of every runtime but the gate's."""
    from dataclasses import replace

    from cnnexport.bench import measure, plan, subjects
    from cnnexport.bench.forks import Stop

    place = tmp_path / "altered"
    shutil.copytree(lenet, place)
    stored = place / "test_data_set_0" / "output_0.pb"
    known = subjects.subject(str(place))
    tensor = TensorProto.FromString(stored.read_bytes())
    stored.write_bytes(numpy_helper.from_array(numpy_helper.to_array(tensor)[:, ::-1].copy(), tensor.name)
                       .SerializeToString())
    row = replace(plan.rows([known])[0], runtime="reference", contender="reference")
    stop = Stop()
    try:
        with pytest.raises(ParityError, match="reference evaluator disagrees with Keras' stored 'probabilities'"):
            measure.measure(row, Goal(0.05, 6, 0.5), stop)
    finally:
        stop.close()


def test_a_runtime_of_another_package(small: Path, tmp_path: Path) -> None:
    place = package(tmp_path / "site", MIRROR, "mirror = other:RUNTIME")
    done = run(place, tmp_path, "from cnnexport import runtimes, verification\n"
               "from cnnexport.bench import bench\n"
               "print(*runtimes.names(), runtimes.problems())\n"
               f"print(verification.verify({str(small)!r}, runtimes=('mirror',)).format())\n"
               f"found = bench([{str(small)!r}], runtimes=('mirror',), **{QUICK!r})\n"
               "print(found.errors, [r['extra_info']['contender'] for r in found.rows])\n")
    assert done.returncode == 0, done.stderr
    assert "ort openvino reference mirror []" in done.stdout and "ok   mirror" in done.stdout
    assert "[] ['mirror']" in done.stdout


@pytest.mark.parametrize(("code", "entry", "words"), [
    ("raise OSError('no libfoo')", "bad = other:RUNTIME", "cannot be loaded: OSError: no libfoo"),
    ("RUNTIME = 3", "bad = other:RUNTIME", "holds a int; it must be a Runtime"),
    (MIRROR, "bad = other:Mirror", "holds a Mirror; it must be a Runtime"),
    (MIRROR, "bad = other:RUNTIME", "holds the runtime 'mirror'; the two must agree"),
    (MIRROR, "ort = other:RUNTIME", "uses the name 'ort', which is taken"),
    (MIRROR, "Up = other:RUNTIME", "uses the name 'Up'"),
])
def test_a_broken_package_harms_nobody_else(code: str, entry: str, words: str, small: Path, tmp_path: Path) -> None:
    place = package(tmp_path / "site", code, entry)
    done = run(place, tmp_path, "from cnnexport import doctor, runtimes, verification\n"
               "(problem,) = runtimes.problems()\n"
               "print(problem)\n"
               "try:\n    runtimes.get('bad')\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
               f"assert verification.verify({str(small)!r}).passed\n"
               "assert [c.detail for c in doctor.doctor() if c.name == 'runtimes'] == [problem]\n")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 2 and words in told[0] and told[0].startswith("the entry point '")
    assert told[1].startswith("UsageError runtime 'bad' ")


def test_the_names_of_entries_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    base._others.cache_clear()
    calls = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **group: calls.append(group) or ())
    assert runtimes.names() == runtimes.names() == OWN and calls == [{"group": "cnnexport.runtimes"}]
    base._others.cache_clear()
