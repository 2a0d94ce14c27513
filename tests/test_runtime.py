"""Sessions, placement and the doctor, on the machine at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnexport import doctor
from cnnexport.errors import InputError, NewerModelError, ProviderError, UsageError
from cnnexport.runtimes import cuda, ort


@pytest.fixture(scope="module")
def checks() -> dict[str, doctor.Finding]:
    return {check.name: check for check in doctor.doctor()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two convolutions, a global average and a flatten: x (N, 3, 8, 8) to y (N, 4)."""
    weights = [
        numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in (("w1", (4, 3, 3, 3)), ("w2", (4, 4, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Conv", ["a", "w2"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        weights,
    )
    path = tmp_path / "m.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(proto.SerializeToString())
    return path


def _feeds(batch: int = 2) -> dict[str, Any]:
    return {"x": np.ones((batch, 3, 8, 8), np.float32)}


def test_session_from_path_and_bytes(model: Path) -> None:
    for source in (model, str(model), model.read_bytes()):
        (out,) = ort.session(source, threads=1).run(None, _feeds())
        np.testing.assert_allclose(out, np.full((2, 4), 27 * 36))
    plain = ort.session(model, optimise=False)
    assert plain.get_providers() == ["CPUExecutionProvider"]
    assert plain.get_session_options().log_severity_level == 4
    assert ort.session(model, debug=True).get_session_options().log_severity_level == 3


def test_placement_is_all_cpu(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(ort.tempfile, "tempdir", str(temporary))
    ran = ort.placement(model, _feeds())
    assert set(ran) == {"CPUExecutionProvider"} and ran["CPUExecutionProvider"] >= 4
    assert list(temporary.iterdir()) == []


def test_placement_with_wrong_inputs(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="could not run") as caught:
        ort.placement(model, {"x": np.ones((1, 2, 8, 8), np.float32)})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_models_that_do_not_load(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model.read_bytes()[:200])
    for source in (cut, b"junk", b"", tmp_path / "none.onnx", tmp_path):
        with pytest.raises(InputError) as caught:
            ort.session(source)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_bad_values(model: Path) -> None:
    with pytest.raises(UsageError, match="cpu or cuda"):
        ort.session(model, provider="tpu")
    with pytest.raises(UsageError, match="1 or more"):
        ort.session(model, threads=0)


def test_cuda_is_refused_where_it_does_not_work(
    model: Path, checks: dict[str, doctor.Finding], capfd: pytest.CaptureFixture[str]
) -> None:
    if checks["CUDAExecutionProvider"].ok:
        pytest.skip("CUDA works on this machine")
    for call in (
        lambda: ort.session(model, provider="cuda"),
        lambda: ort.placement(model, _feeds(), "cuda"),
    ):
        with pytest.raises(ProviderError) as caught:
            call()
        text = str(caught.value)
        assert "CUDAExecutionProvider" in text and "\n" not in text
        assert "pip install 'cnnexport[cuda]'" in text or "driver" in text
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_cuda_runs_the_convolutions(model: Path, checks: dict[str, doctor.Finding]) -> None:
    if not checks["CUDAExecutionProvider"].ok:
        pytest.skip(f"no CUDA: {checks['CUDAExecutionProvider'].detail}")
    ran = ort.placement(model, _feeds(), "cuda")
    assert ran["CUDAExecutionProvider"] >= 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "Failed to load library /a/libonnxruntime_providers_cuda.so with error: "
            "libcublasLt.so.12: cannot open shared object file: No such file",
            "libcublasLt.so.12 is missing",
        ),
        ('CUDA depends on "cudnn64_9.dll" which is missing.', "cudnn64_9.dll is missing"),
    ],
)
def test_the_missing_library_is_named(text: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_driver_problem", lambda: None)
    assert cuda.explain(text) == (reason, "pip install 'cnnexport[cuda]'")
    monkeypatch.setattr(cuda, "_driver_problem", lambda: "the driver library libcuda.so.1 is missing")
    assert "driver" in cuda.explain(text)[1]
    assert cuda.explain("")[0] == "the driver library libcuda.so.1 is missing"


def test_a_silent_fallback_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists CUDA, yet makes a CPU session: ProviderError, not a slow run."""
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda source, options, **rest: real(source, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(ProviderError, match="CUDAExecutionProvider is unavailable"):
        ort.session(model, provider="cuda")


@pytest.mark.parametrize(("opset", "ir_version", "named"), [(18, 99, "IR version 99"), (99, 10, "Opset 99")])
def test_a_model_newer_than_the_runtime_is_told_from_a_broken_one(opset: int, ir_version: int, named: str) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    made = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y]),
                             opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    with pytest.raises(NewerModelError, match=f"older than the file's {named}; export the file with a lower opset"):
        ort.session(made.SerializeToString())


def test_doctor(checks: dict[str, doctor.Finding]) -> None:
    assert checks["CPUExecutionProvider"].ok
    assert checks["CPUExecutionProvider"].detail == "made a session and ran a convolution"
    assert {"python", "numpy", "onnx", "onnxruntime", "platform", "cores", "memory"} <= set(checks)
    cuda = checks["CUDAExecutionProvider"]
    assert cuda.ok or cuda.remedy
    json.dumps([check.to_dict() for check in checks.values()])
    lines = doctor.format_doctor(list(checks.values())).splitlines()
    assert len({line.index(check.detail) for line, check in zip(lines, list(checks.values())[:5])}) == 1


def test_doctor_tells_wheels_in_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "installed_version", lambda name: "1.22.0" if name in cuda._WHEELS[:2] else None)
    check = doctor._wheel()
    assert not check.ok and "overwrite" in check.detail and "uninstall" in check.remedy


def test_doctor_imports_no_tensorflow_and_prints_nothing() -> None:
    code = (
        "import sys; from cnnexport import doctor\n"
        "heavy = {'tensorflow', 'keras', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "checks = doctor.doctor()\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
        "assert {c.name: c for c in checks}['CPUExecutionProvider'].ok\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (run.stdout, run.stderr) == ("", "")
