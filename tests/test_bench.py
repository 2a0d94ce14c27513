"""`cnnexport bench`, from the command line: rows, evidence, what is refused, what is kept."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnexport.bench import measure, placement, plan, subjects
from cnnexport.bench.forks import Fork, Stalled, Stop
from cnnexport.bench.options import Goal
from cnnexport.errors import BundleError, InputError, ParityError, ProviderError, UsageError
from cnnexport.onnx_file.inputs import Input
from cnnexport.runtimes import ort, profile

QUICK = ("--min-time", "0.05", "--max-time", "4", "--precision-goal", "50%")
COMMAND = str(Path(sys.executable).parent / "cnnexport")


def write(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], stored: list[Any] | None = None) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def value(name: str, kind: int, shape: Any) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A convolution of ones: x (N, 3, 16, 16) to y (N, 4, 14, 14)."""
    weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    return write(tmp_path / "small.onnx", [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
                 [value("x", TensorProto.FLOAT, ["N", 3, 16, 16])], [value("y", TensorProto.FLOAT, ["N", 4, 14, 14])],
                 [weights])


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A loop that does not end while anybody waits."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["s", "s"], ["t"])], "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("s", TensorProto.FLOAT, [1])],
        [value("d", TensorProto.BOOL, []), value("t", TensorProto.FLOAT, [1])])
    return write(tmp_path / "endless.onnx", [helper.make_node("Loop", ["n", "go", "x"], ["y"], body=body)],
                 [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])],
                 [numpy_helper.from_array(np.array(10**13, np.int64), "n"),
                  numpy_helper.from_array(np.array(True), "go")])


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cnnexport import convert

    return convert("lenet5", output=tmp_path_factory.mktemp("bundle") / "lenet5").path


@pytest.fixture
def stop() -> Any:
    held = Stop()
    yield held
    held.close()


def rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [row["extra_info"] for row in document["benchmarks"]]


def test_a_bundle_and_its_evidence(lenet: Path, cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    result = cnnexport("bench", lenet, "--batch", "1,2", *QUICK, "--save", "out.json", "--json")
    assert result.code == 0, result.err
    saved = json.loads((tmp_path / "out.json").read_text())
    assert json.loads(result.out)["benchmarks"] == saved["benchmarks"]
    assert saved["machine_info"]["cpu"] and saved["commit_info"] and saved["version"]
    assert not (tmp_path / ".benchmarks").exists()
    manifest = json.loads((lenet / "manifest.json").read_text())
    for row, batch in zip(saved["benchmarks"], (1, 2), strict=True):
        info, stats = row["extra_info"], row["stats"]
        assert info["batch"] == batch and info["file_sha256"] == manifest["files"]["model.onnx"]["sha256"]
        assert info["parity"]["passed"] and info["parity"]["model_sha256"] == info["file_sha256"] and info["verified"]
        assert info["provider"] == "cpu" and info["session"]["providers"] == ["CPUExecutionProvider"]
        ran = info["placement"]["providers"]
        assert list(ran) == ["CPUExecutionProvider"] and ran["CPUExecutionProvider"]["share"] == pytest.approx(1)
        assert set(info["placement"]["nodes"].values()) == {"CPUExecutionProvider"}
        assert info["session"]["onnxruntime"] and info["session"]["session_options"]["intra_op_num_threads"]
        assert {"before", "after", "cgroup", "cpu", "affinity"} <= set(info["machine"])
        assert stats["rounds"] == len(stats["data"]) == sum(s["runs"] for s in info["sessions"])
        assert len(info["sessions"]) >= 2 and all(w["runs"] >= 3 and w["timings_s"] for w in info["warm_up"])
        assert len(info["cold_start"]["create_s"]) == len(info["sessions"])
        assert info["percentiles"]["p50"]["value"] == pytest.approx(stats["median"])
        assert info["percentiles"]["p50"]["low"] <= stats["median"] <= info["percentiles"]["p50"]["high"]
        assert info["limit"]["macs"] == manifest["macs"] * batch and 0 < info["limit"]["share"] < 1.2
        assert {o["operator"] for o in info["operators"]} and info["outliers"]["share"] <= 1
        assert info["stopped"] in ("precision reached", "max-time") and not info["incomplete"]
    compared = subprocess.run([str(Path(sys.executable).parent / "pytest-benchmark"), "compare", "out.json"],
                              cwd=tmp_path, capture_output=True, text=True, check=False)
    assert compared.returncode == 0 and "test_latency[lenet5-cpu-b1" in compared.stdout


def test_throughput_and_the_best_setting(small: Path, cnnexport: Callable[..., Any]) -> None:
    result = cnnexport("bench", small, "--scenario", "both", "--concurrency", "1,2",
                       "--batch", "1", *QUICK)
    assert result.code == 0 and result.out.count("throughput") == 2 and "best for small on cpu" in result.out
    assert "unverified" in result.out and "unverified" in result.err
    tuned = cnnexport("bench", small, "--scenario", "throughput", "--tune", "--batch", "1,4", "--threads", "1",
                      "--concurrency", "1", "--min-time", "0.05", "--max-time", "2", "--save", "t.json")
    assert [(i["batch"], i["concurrency"]) for i in rows(json.loads(Path("t.json").read_text()))] == [(1, 1), (4, 1)]
    assert "frontier of small on cpu" in tuned.out


def test_altered_bundles_get_no_row(lenet: Path, cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(lenet, copy)
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    result = cnnexport("bench", copy, *QUICK, "--save", "none.json")
    assert result.code == 6 and "altered" in result.err and result.err.count("\n") == 1 and not result.out
    assert not (tmp_path / "none.json").exists()


def test_a_gate_that_did_not_pass(lenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from msgspec import structs

    from cnnexport.bundle import opening

    real = opening.read_parity
    monkeypatch.setattr(opening, "read_parity", lambda *a: structs.replace(real(*a), passed=False))
    with pytest.raises(ParityError, match="did not pass"):
        subjects.subject(str(lenet))


def test_a_file_that_changes_while_it_is_measured(small: Path, stop: Stop) -> None:
    row = plan.rows([subjects.subject(str(small))])[0]
    changed = False

    def tell(step: str) -> None:
        nonlocal changed
        if step.startswith("session") and not changed:
            changed = True
            with small.open("ab") as file:
                file.write(b"\x62\x00")  # an empty field: it still loads
    with pytest.raises((BundleError, InputError)) as caught:
        measure.measure(row, Goal(0.05, 4, 0.5), stop, tell=tell)
    assert changed and "altered while it was measured" in str(caught.value)


def test_cuda_where_there_is_none(small: Path, cnnexport: Callable[..., Any]) -> None:
    try:
        ort.probe("cuda")
    except ProviderError:
        pass
    else:
        pytest.skip("CUDA works on this machine")
    result = cnnexport("bench", small, "--provider", "cuda", *QUICK)
    assert result.code == 5 and "CUDAExecutionProvider is unavailable" in result.err and not result.out
    assert "pip install 'cnnexport[cuda]'" in result.err or "driver" in result.err
    both = cnnexport("bench", small, "--provider", "cpu", "--provider", "cuda", *QUICK, "--json")
    assert both.code == 5 and [i["provider"] for i in rows(json.loads(both.out))] == ["cpu"]


def profile_events() -> list[dict[str, Any]]:
    """Two runs of three nodes in the form of ONNX Runtime's profile, one node left on the CPU."""
    events: list[dict[str, Any]] = []
    for run in range(2):
        at = run * 1000
        events.append({"cat": "Session", "name": "model_run", "ts": at, "dur": 900})
        for index, (name, kind, provider, dur) in enumerate((
                ("conv", "Conv", "CUDAExecutionProvider", 300), ("relu", "Relu", "CUDAExecutionProvider", 50),
                ("shape", "Shape", "CPUExecutionProvider", 150))):
            events.append({"cat": "Node", "name": f"{name}_kernel_time", "ts": at + 10 + index,
                           "dur": dur * (10 - 9 * run),
                           "args": {"op_name": kind, "provider": provider, "node_index": str(index)}})
    return events


def test_a_provider_that_takes_only_part_of_the_graph() -> None:
    found = profile.read(profile_events())
    assert found["runs"] == 1
    assert found["providers"]["CUDAExecutionProvider"] == {"nodes": 2, "share": pytest.approx(0.7)}
    with pytest.raises(ProviderError, match=r"ran 2 of 3 nodes of m; 30\.0% of the time went to shape \(Shape"):
        placement.judge(found, "cuda", "m", allow_partial=False)
    assert placement.judge(found, "cuda", "m", allow_partial=True) == ["shape (Shape, CPUExecutionProvider)"]
    with pytest.raises(ProviderError, match="conv"):
        placement.judge(found, "cpu", "m", allow_partial=False)
    nowhere = profile.read(
        [e for e in profile_events() if e.get("args", {}).get("provider") != "CUDAExecutionProvider"])
    with pytest.raises(ProviderError, match="no node"):
        placement.judge(nowhere, "cuda", "m", allow_partial=True)


def test_a_run_that_never_ends(endless: Path, small: Path, cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    start = time.monotonic()
    result = cnnexport("bench", small, endless, "--min-time", "0.05", "--max-time", "3", "--precision-goal", "50%",
                       "--save", "part.json")
    assert time.monotonic() - start < 30
    assert result.code == 3 and "--max-time 3 s" in result.err
    saved = json.loads((tmp_path / "part.json").read_text())
    assert [i["name"] for i in rows(saved)] == ["small"] and saved["cnnexport"]["incomplete"]
    assert "endless" in saved["cnnexport"]["not_measured"][0] and saved["cnnexport"]["failures"][0]["exit_code"] == 3


def test_a_worker_that_stalls_in_the_middle(small: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process stopped by a signal while it is timed: its timings are kept, the row marked."""
    row = plan.rows([subjects.subject(str(small))])[0]
    ask = Fork.ask

    def stalling(self: Fork, do: str, deadline: float, **request: Any) -> Any:
        if do != "latency":
            return ask(self, do, deadline, **request)
        import threading

        threading.Timer(0.5, os.kill, (self._process.pid, signal.SIGSTOP)).start()
        return ask(self, do, deadline, **{**request, "seconds": 60.0})

    monkeypatch.setattr(Fork, "ask", stalling)
    start = time.monotonic()
    made = measure.measure(row, Goal(1, 4, 0.02), stop)
    assert time.monotonic() - start < 10
    assert made.stopped == "stalled" and made.incomplete and len(made.data) > 100
    assert made.extra_info()["incomplete"] and 0 < made.data[0] < 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle(small: Path, tmp_path: Path, number: int) -> None:
    other = tmp_path / "other.onnx"
    shutil.copy(small, other)
    screen, terminal = pty.openpty()  # progress tells there when a row begins
    process = subprocess.Popen(
        [COMMAND, "bench", str(small), str(other), "--min-time", "30", "--max-time", "60", "--save", "kept.json"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=terminal, text=True)
    os.close(terminal)
    err = ""
    while "latency" not in err:
        err += os.read(screen, 1000).decode()
    time.sleep(5)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(screen, 1000).decode():
            err += piece
    assert process.returncode == 130, err
    saved = json.loads((tmp_path / "kept.json").read_text())
    (row,) = saved["benchmarks"]
    assert row["extra_info"]["incomplete"] and row["extra_info"]["stopped"] == "interrupted" and row["stats"]["rounds"]
    assert saved["cnnexport"]["not_measured"] and saved["cnnexport"]["incomplete"]
    assert "incomplete" in out and "marked incomplete" in err and "Traceback" not in err


def test_several_inputs_unknown_dimensions_and_integers(tmp_path: Path, cnnexport: Callable[..., Any]) -> None:
    path = write(
        tmp_path / "several.onnx",
        [helper.make_node("Gather", ["table", "ids"], ["e"]),
         helper.make_node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
         helper.make_node("GlobalAveragePool", ["image"], ["g"]), helper.make_node("Flatten", ["g"], ["f"]),
         helper.make_node("Cast", ["mask"], ["k"], to=TensorProto.FLOAT), helper.make_node("Mul", ["m", "k"], ["w"]),
         helper.make_node("Concat", ["f", "w"], ["y"], axis=1)],
        [value("image", TensorProto.FLOAT, ["N", 3, "H", "W"]), value("ids", TensorProto.INT64, ["N", "L"]),
         value("mask", TensorProto.BOOL, ["N", 1])],
        [value("y", TensorProto.FLOAT, ["N", None])],
        [numpy_helper.from_array(np.ones((2, 4), np.float32), "table")])
    result = cnnexport("bench", path, "--batch", "2", "--shape", "image=2x3x8x8", *QUICK, "--json")
    assert result.code == 0, result.err
    (info,) = rows(json.loads(result.out))
    assert {i["name"]: i["shape"] for i in info["inputs"]} == {"image": [2, 3, 8, 8], "ids": [2, 1], "mask": [2, 1]}
    assert info["assumed"] == ["dimension 1 (L) of 'ids' taken as 1"] and "taken as 1" in result.err


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["none.onnx"], 3, "does not exist"),
    (["{small}", "--batch", "0"], 2, "--batch"),
    (["{small}", "--batch", "1,x"], 2, "1,x"),
    (["{small}", "--threads", "-1"], 2, "--threads"),
    (["{small}", "--precision-goal", "lots"], 2, "share such as 5%"),
    (["{small}", "--min-time", "9", "--max-time", "1"], 2, "above --max-time"),
    (["{small}", "--max-time", "0"], 2, "no time"),
    (["{small}", "--concurrency", "2"], 2, "throughput"),
    (["{small}", "--tune"], 2, "--scenario throughput"),
    (["{small}", "--shape", "z=1x3x16x16"], 2, "no input 'z'"),
    (["{small}", "--shape", "x=1x4x16x16"], 2, "contradicts"),
    (["{small}", "--shape", "x=big"], 2, "NAME=1x3x224x224"),
    (["{small}", "--cuda-option", "tf32=0"], 2, "--provider cuda"),
    (["{small}", "--save", "."], 2, "folder"),
    (["."], 3, "manifest.json"),
    ([], 2, "TARGET"),
])
def test_bad_values(
    small: Path, cnnexport: Callable[..., Any], arguments: list[str], code: int, words: str
) -> None:
    result = cnnexport("bench", *(a.format(small=small) for a in arguments))
    assert result.code == code and words in result.err
    assert result.err.count("\n") == 1 and "Traceback" not in result.err and not result.out


def test_a_fixed_batch_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "four.onnx", [helper.make_node("Relu", ["x"], ["y"])],
                 [value("x", TensorProto.FLOAT, [4, 3, 8, 8])], [value("y", TensorProto.FLOAT, [4, 3, 8, 8])])
    found = subjects.subject(str(path))
    assert found.batches(None, (1, 8)) == (4,) and found.shapes(4) == {"x": [4, 3, 8, 8]}
    with pytest.raises(UsageError, match="fixed at 4"):
        found.batches((8,), (1,))


def test_a_fork_is_given_up_at_its_deadline(endless: Path, stop: Stop) -> None:
    row = plan.rows([subjects.subject(str(endless))])[0]
    with Fork(stop) as fork:
        fork.ask("open", time.monotonic() + 20, runner=row.runner, options=row.request())
        start = time.monotonic()
        with pytest.raises(Stalled):
            fork.ask("first_run", start + 0.5)
        assert time.monotonic() - start < 3
    assert fork._process.poll() is not None


def test_names_that_clash_are_told_apart(small: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    shutil.copy(small, tmp_path / "b" / "small.onnx")
    found = [subjects.subject(str(p)) for p in (small, tmp_path / "b" / "small.onnx", small)]
    ids = [row.id for row in plan.rows(found)]
    assert len(set(ids)) == 3


def test_cuda_options_are_swept() -> None:
    given = (Input("x", "float32", (None, 3), batched=True),)
    known = subjects.Subject("m", "m", "m", "", {}, given, None, True, None, None, 0)
    made = plan.rows([known], providers=("cuda",), scenario="throughput", batches=(1,), concurrency=(1, 2),
                     cuda_options={"tf32": ("0", "1"), "cuda_graph": ("0", "1")})
    assert len({row.id for row in made}) == 6  # a captured graph serves one stream
    assert dict(made[0].provider_options) == {"use_tf32": "0", "enable_cuda_graph": "0"}
    assert replace(made[0], batch=2) != made[0]


@pytest.mark.gpu
def test_cuda_rows(lenet: Path, cnnexport: Callable[..., Any]) -> None:
    try:
        ort.probe("cuda")
    except ProviderError as error:
        pytest.skip(f"no CUDA: {error}")
    result = cnnexport("bench", lenet, "--provider", "cuda", *QUICK, "--json")
    assert result.code == 0, result.err
    (info,) = rows(json.loads(result.out))
    assert set(info["placement"]["nodes"].values()) == {"CUDAExecutionProvider"}
    assert set(info["transfers"]) == {"host_to_device", "device_to_host"}


def test_loadgen(small: Path, cnnexport: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from cnnexport.bench import loadgen

    try:
        loadgen.require()
    except UsageError as error:
        assert "pip install 'cnnexport[loadgen]'" in str(error)
        result = cnnexport("bench", small, "--scenario", "server")
        assert result.code == 2 and "cnnexport[loadgen]" in result.err
        pytest.skip(str(error))
    for scenario in ("server", "offline", "single-stream", "multi-stream"):
        result = cnnexport("bench", small, "--scenario", scenario, "--min-time", "0.1", "--max-time", "3", "--json",
                           "--latency-bound", "50ms")
        assert result.code == 0, result.err
        (info,) = rows(json.loads(result.out))
        assert info["scenario"] == scenario and "not an MLPerf result" in info["loadgen"]["statement"]
        assert info["loadgen"]["mlperf_result"] is False
        if scenario == "server":
            assert info["loadgen"]["rate"] > 0 and info["loadgen"]["p99_s"] <= 0.05 and info["loadgen"]["trials"]
