"""The command line from outside: exit codes, one line an error, silence where it is asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnexport import bundle
from tests.outside import IN_PROCESS
from tests.test_report import document

COMMAND = [sys.executable, "-c", "from cnnexport.cli import main; main()"]


def _assert_one_line(err: str) -> None:
    assert err.startswith("cnnexport: error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["list", "--json"], ["doctor"], ["doctor", "--json"], ["inspect", "m.onnx"],
                  ["verify", "m.onnx"], ["show", "vgg-c"],
                  ["inspect", "m.onnx", "--json"], ["convert", "--help"], ["convert", "nosuch"],
                  ["bench", "m.onnx", "--min-time", "0.05", "--max-time", "2"], ["report", "r.json"],
                  ["compare", "r.json", "r.json"]])
def test_light_commands_import_neither_tensorflow_nor_keras(arguments: list[str], tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    opset = [helper.make_opsetid("", 17)]  # onnx's own default may be newer than ONNX Runtime
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    (tmp_path / "r.json").write_text(json.dumps(document()))
    code = ("import atexit, sys; atexit.register(lambda: print(sorted(m for m in ('tensorflow', 'keras', 'tf2onnx')"
            " if m in sys.modules), file=sys.stderr)); from cnnexport.cli import main; main()")
    done = subprocess.run([sys.executable, "-c", IN_PROCESS + code, *arguments], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "[]", done.stderr
    assert done.returncode == (2 if "nosuch" in arguments else 0)


def test_help_documents_exit_codes_and_every_option(cnnexport) -> None:
    result = cnnexport("convert", "--help")
    for text in ("--weights", "--seed", "--input-shape", "--classes", "--no-top", "--pooling", "--logits", "--layout",
                 "--batch", "--opset", "--output", "--force", "--json", "--quiet", "--unsafe-load", "--custom-objects",
                 "Exit codes:", "130"):
        assert text in result.out
    assert result.code == 0


def test_list(cnnexport) -> None:
    rows = json.loads(cnnexport("list", "--json").out)
    assert {r["name"] for r in rows} >= {"lenet5", "vgg16", "vgg19", "resnet50", "resnet101", "resnet152"}
    table = cnnexport("list").out
    for row in rows:
        line = next(x for x in table.splitlines() if x.startswith(row["name"] + " "))
        assert f"{row['parameters']:,}" in line and f"{row['macs']:,}" in line and row["family"] in line


def test_doctor(cnnexport) -> None:
    result = cnnexport("doctor", "--json")
    checks = {c["name"]: c for c in json.loads(result.out)}
    assert result.code == 0 and checks["CPUExecutionProvider"]["ok"] and checks["tensorflow"]["ok"]
    assert checks["CUDAExecutionProvider"]["ok"] or checks["CUDAExecutionProvider"]["remedy"]
    assert "CPUExecutionProvider" in cnnexport("doctor").out


def test_exit_5_when_no_provider_runs(tmp_path: Path) -> None:
    broken = tmp_path / "onnxruntime"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')\n")
    done = subprocess.run([*COMMAND, "doctor"], capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 5 and "libgomp" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["convert"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
        (["convert", "lenet5", "--nonsense"], 2, "No such option"),
        (["convert", "resnet5"], 2, "resnet50"),
        (["convert", "lenet5", "--batch", "0"], 2, "dynamic"),
        (["convert", "lenet5", "--batch", "x"], 2, "dynamic"),
        (["convert", "lenet5", "--opset", "7"], 2, "13 to"),
        (["convert", "lenet5", "--opset", "999"], 2, "13 to"),
        (["convert", "lenet5", "--seed", "-1"], 2, "-1"),
        (["convert", "lenet5", "--layout", "chwn"], 2, "nchw"),
        (["convert", "lenet5", "--input-shape", "axbxc"], 2, "224x224x3"),
        (["convert", "lenet5", "--input-shape", "32x32"], 2, "height x width x channels"),
        (["convert", "resnet50", "--input-shape", "31x224x3"], 2, "32 or more"),
        (["convert", "resnet50", "--input-shape", "?x?x3"], 2, "--no-top"),
        (["convert", "lenet5", "--classes", "0"], 2, "classes"),
        (["convert", "lenet5", "--pooling", "avg"], 2, "--no-top"),
        (["convert", "lenet5", "--pooling", "sum", "--no-top"], 2, "pooling"),
        (["convert", "lenet5", "--no-top", "--classes", "5"], 2, "with the top"),
        (["convert", "lenet5", "--no-top", "--logits"], 2, "--logits"),
        (["convert", "lenet5", "--weights", "imagenet"], 2, "no ImageNet weights"),
        (["convert", "vgg16", "--weights", "imagenet", "--classes", "10"], 2, "1000 classes"),
        (["convert", "vgg16", "--weights", "imagenet", "--input-shape", "64x64x3"], 2, "--no-top"),
        (["convert", "vgg16", "--weights", "imagenet", "--no-top", "--input-shape", "64x64x1"], 2, "3 channels"),
        (["convert", "vgg16", "--weights", "no-such.h5"], 3, "do not exist"),
        (["convert", "no-such.keras"], 3, "does not exist"),
        (["convert", "./nosuch"], 3, "does not exist"),
        (["convert", "junk.keras"], 3, "junk.keras"),
        (["convert", "junk.h5"], 3, "junk.h5"),
        (["convert", "junk.keras", "--no-top"], 2, "registered architectures"),
        (["convert", "junk.keras", "--classes", "3"], 2, "registered architectures"),
        (["convert", "junk.keras", "--weights", "imagenet"], 2, "registered architectures"),
        (["convert", "lenet5", "-o", "junk.h5/bundle"], 2, "cannot be written"),
        (["convert", "lenet5", "-o", "junk.h5"], 2, "no folder"),
        (["convert", "lenet5", "--custom-objects", "no-such.py"], 3, "no-such.py"),
        (["inspect", "no-such.onnx"], 3, "does not exist"),
        (["inspect", "junk.h5"], 3, "junk.h5"),
        (["inspect", "broken-bundle"], 6, "incomplete"),
    ],
)
def test_errors(cnnexport, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    (tmp_path / "junk.keras").write_bytes(b"PK\x03\x04 not a model")
    (tmp_path / "junk.h5").write_bytes(b"\x89HDF\r\n\x1a\n not a model")
    (tmp_path / "broken-bundle").mkdir()
    (tmp_path / "broken-bundle" / "manifest.json").write_text('{"files": {}}')
    before = sorted(tmp_path.rglob("*"))
    result = cnnexport(*arguments)
    assert result.code == code, result.err
    assert words in result.err and result.out == ""
    _assert_one_line(result.err)
    after = [p for p in sorted(tmp_path.rglob("*")) if p.name != "exported"]
    assert after == before, "nothing may be left behind"


def test_no_arguments_show_help(cnnexport) -> None:
    result = cnnexport()
    assert result.code == 2 and "Usage:" in result.err + result.out


def test_debugging_shows_the_traceback(tmp_path: Path) -> None:
    for debug in ("0", "1"):
        done = subprocess.run([*COMMAND, "convert", "nosuch"], capture_output=True, text=True, cwd=tmp_path,
                              env=os.environ | {"CNNEXPORT_DEBUG": debug})
        assert ("Traceback" in done.stderr) is (debug == "1")


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A bundle made by a process of its own, as a user does, with nothing to hide the libraries' logs."""
    folder = tmp_path_factory.mktemp("cli")
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([*COMMAND, "convert", "lenet5"], capture_output=True, text=True, cwd=folder, env=environment)
    return folder / "exported" / "lenet5", done


def test_a_clean_run_is_silent_on_stderr(lenet) -> None:
    folder, done = lenet
    assert done.returncode == 0 and done.stderr == ""
    assert "Untrained" in done.stdout and "parity   passed" in done.stdout
    for step in ("build", "trace", "convert", "fold", "write", "verify"):
        assert step in done.stdout
    assert (folder / "model.onnx").is_file()


def test_an_existing_bundle_needs_force(lenet, cnnexport) -> None:
    folder, _ = lenet
    before = bundle.sha256(folder / "manifest.json")
    result = cnnexport("convert", "lenet5", "-o", folder)
    assert result.code == 2 and "--force" in result.err
    assert bundle.sha256(folder / "manifest.json") == before
    result = cnnexport("convert", "lenet5", "-o", folder, "--force", "--seed", "4", "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert json.loads((folder / "manifest.json").read_text())["provenance"]["seed"] == 4


def test_json(lenet, cnnexport) -> None:
    folder, _ = lenet
    made = json.loads(cnnexport("convert", "lenet5", "--json", "-o", "here").out)
    assert made["bundle"] == "here" and made["untrained"] is True and made["parity"]["passed"] is True
    assert list(made["seconds"]) == ["build", "trace", "convert", "fold", "write", "verify"]
    assert made["manifest"] == json.loads(Path("here/manifest.json").read_text())
    seen = json.loads(cnnexport("inspect", folder, "--json").out)
    assert seen["bundle"] is True and seen["untrained"] is True and seen["opsets"] == {"ai.onnx": 18}


def test_inspect_names_an_altered_file(cnnexport) -> None:
    assert cnnexport("convert", "lenet5", "-o", "b", "--quiet").code == 0
    assert "untrained" in cnnexport("inspect", "b").out
    for name in ("model.onnx", "parity.json", "test_data_set_0/input_0.pb", "README.md"):
        path = Path("b") / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        result = cnnexport("inspect", "b")
        assert result.code == 6 and name in result.err
        _assert_one_line(result.err)
        path.write_bytes(content)
    assert cnnexport("inspect", "b").code == 0


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_progress_on_a_terminal(tmp_path: Path) -> None:
    import pty

    main, side = pty.openpty()
    child = subprocess.Popen([*COMMAND, "convert", "lenet5"], stdout=subprocess.PIPE, stderr=side, cwd=tmp_path)
    os.close(side)
    shown = b""
    while True:
        try:
            block = os.read(main, 4096)
        except OSError:  # Linux: the other side closed
            break
        if not block:
            break
        shown += block
    assert child.wait() == 0
    lines = [line.rpartition(b"\r")[2].split() for line in shown.replace(b"\r\n", b"\n").strip().split(b"\n")]
    assert [line[0] for line in lines] == [b"build", b"trace", b"convert", b"fold", b"write", b"verify"]
    assert all(float(line[1]) >= 0 and line[2] == b"s" for line in lines)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path: Path, number: int) -> None:
    child = subprocess.Popen([*COMMAND, "convert", "lenet5", "-o", "b"], stderr=subprocess.PIPE, cwd=tmp_path,
                             text=True)
    _wait_for(lambda: list(tmp_path.glob(".b.partial-*")), child)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    _assert_one_line(err)
    assert list(tmp_path.iterdir()) == []


def _wait_for(condition, child: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.0005)


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_killed_in_the_middle_of_writing(tmp_path: Path, cnnexport) -> None:
    assert cnnexport("convert", "lenet5", "-o", "b", "--quiet").code == 0
    old = (tmp_path / "b" / "manifest.json").read_bytes()
    child = subprocess.Popen([*COMMAND, "convert", "resnet50", "--input-shape", "32x32x3", "-o", "b", "--force"],
                             cwd=tmp_path, text=True, stderr=subprocess.DEVNULL)
    _wait_for(lambda: any(p.stat().st_size for p in tmp_path.glob(".b.partial-*/model.onnx")), child)
    child.kill()
    child.wait()
    assert (tmp_path / "b" / "manifest.json").read_bytes() == old
    assert bundle.Bundle.open(tmp_path / "b").proof.passed
    assert list(tmp_path.glob(".b.partial-*")), "it was killed too late to prove anything"
    assert cnnexport("convert", "lenet5", "-o", "b", "--force", "--quiet").code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on file sizes")
def test_full_output_folder(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write itself fails, half-way."""
    code = ("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
            "from cnnexport.cli import main; main()")
    done = subprocess.run([sys.executable, "-c", code, "convert", "lenet5", "-o", "b"], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.returncode == 2 and "cannot be written" in done.stderr and "space" in done.stderr
    _assert_one_line(done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_parity_failure_keeps_a_rejected_copy(cnnexport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spatially transposed kernel, planted after folding, in the second convolution of LeNet-5."""
    _plant(monkeypatch, lambda kernel: kernel.transpose(0, 1, 3, 2))
    result = cnnexport("convert", "lenet5", "-o", "b")
    assert result.code == 4 and "b.rejected" in result.err and result.out == ""
    _assert_one_line(result.err)
    assert not Path("b").exists()
    record = json.loads(Path("b.rejected/parity.json").read_text())
    assert record["passed"] is False and Path("b.rejected/model.onnx").is_file()


def _plant(monkeypatch: pytest.MonkeyPatch, fault) -> None:
    import numpy as np
    import onnx_ir as ir

    from cnnexport.conversion import passes

    fold = passes.fold

    def faulty(model: ir.Model) -> ir.Model:
        fold(model)
        conv = [n for n in model.graph if n.op_type == "Conv"][1]
        kernel = conv.inputs[1]
        kernel.const_value = ir.Tensor(np.ascontiguousarray(fault(kernel.const_value.numpy())), name=kernel.name)
        return model

    monkeypatch.setattr(passes, "fold", faulty)


def test_one_wrong_weight_fails_parity(cnnexport, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(kernel):
        wrong = kernel.copy()
        wrong[0, 0, 0, 0] *= -1
        return wrong

    _plant(monkeypatch, fault)
    assert cnnexport("convert", "lenet5", "-o", "b").code == 4


def test_as_a_module(tmp_path: Path) -> None:
    """Where the script is not on the path; it takes signals and exit codes alike."""
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "cnnexport", *arguments], capture_output=True, text=True,
                              cwd=tmp_path, timeout=120)

    assert json.loads(run("list", "--json").stdout)
    told = run("verify", "nowhere")
    assert told.returncode == 3
    _assert_one_line(told.stderr)
