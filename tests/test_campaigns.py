"""Campaigns from outside: kills, signals, bad inputs, flipped bytes. A slice of each always; all with ``-m slow``."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cnnexport import bundle as bundles
from cnnexport.errors import BundleError
from tests.outside import COMMAND, complaint, left, run

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills, signals and pipes of POSIX")


def _sizes(few: int, many: int) -> list[object]:
    return [pytest.param(few, id="slice"), pytest.param(many, id="whole", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An undisturbed bundle of lenet5, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("made")
    start = time.perf_counter()
    assert run("convert", "lenet5", "-o", "b", "--quiet", cwd=folder).code == 0
    return folder / "b", time.perf_counter() - start


@pytest.mark.parametrize("count", _sizes(3, 50))
def test_a_kill_at_any_moment_of_convert(made: tuple[Path, float], tmp_path: Path, count: int) -> None:
    bundle, seconds = made
    model = bundles.sha256(bundle / "model.onnx")
    for number in range(count):
        place = tmp_path / str(number) / "exported"
        command = [COMMAND, "convert", "lenet5", "-o", str(place / "b"), "--quiet"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(seconds * 1.1 * (number + 0.5) / count)
        process.kill()
        process.wait()
        if place.exists() and (place / "b").exists():
            bundles.Bundle.open(place / "b")
        again = run(*command[1:], cwd=tmp_path)
        assert again.code == 0 or (again.code == 2 and "exists already" in again.err), again
        assert [p.name for p in place.iterdir()] == ["b"]
        assert bundles.Bundle.open(place / "b").parity["passed"] and bundles.sha256(place / "b" / "model.onnx") == model


def _orphans(mark: str) -> list[int]:
    """Processes that were started with the variable MARK set to ``mark``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"MARK={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize("count", _sizes(5, 50))
def test_a_signal_at_any_moment(made: tuple[Path, float], tmp_path: Path, count: int) -> None:
    bundle, seconds = made
    start = time.perf_counter()
    run("list", cwd=tmp_path)
    first = time.perf_counter() - start
    commands = [(["convert", "lenet5", "-o", "out/b"], seconds),
                (["train", "lenet5", "--epochs", "1", "-o", "out/r"], 7),
                (["bench", str(bundle), "--max-time", "3", "--save", "r.json"], 4), (["verify", str(bundle)], 0.7),
                (["evaluate", str(bundle), "--data", "digits"], 1.5)]
    clean = 0
    for number in range(count):
        words, length = commands[number % len(commands)]
        # From the moment that Python has found us: before it, a signal is the system's to answer.
        share = (number // len(commands) + 0.5) / max(count // len(commands), 1)
        moment = first * 0.6 + (length - first * 0.6) * share
        place = tmp_path / str(number)
        for name in ("home", "tmp"):
            (place / name).mkdir(parents=True)
        environment = {**os.environ, "HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), "MARK": str(place)}
        process = subprocess.Popen([COMMAND, *map(str, words)], cwd=place, env=environment, text=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(moment)
        process.send_signal((signal.SIGINT, signal.SIGTERM)[number % 2])
        _, err = process.communicate(timeout=60)
        told = [line for line in err.splitlines() if line.startswith("cnnexport: error: ")]
        assert process.returncode in (0, 130), (words, moment, process.returncode, err)
        assert process.returncode == 0 or (len(told) == 1 and "interrupted" in told[0]), (words, moment, err)
        assert "Traceback" not in err and "error: unexpected" not in err
        assert _orphans(str(place)) == [], (words, moment)
        assert left(place / "tmp") == [] and left(place / "home") == [], (words, moment)
        litter = [p for p in left(place) if ".partial" in p or ".lock" in p or ".old-" in p]
        assert not litter, (words, moment, litter)
        clean += 1
    assert clean == count


@pytest.mark.parametrize("count", _sizes(100, 1000))
def test_every_flipped_byte_is_found(made: tuple[Path, float], tmp_path: Path, count: int) -> None:
    target = tmp_path / "b"
    shutil.copytree(made[0], target)
    files = sorted(p for p in target.rglob("*") if p.is_file())
    draw = random.Random(0)
    for number in range(count):
        file = files[number % len(files)]
        before = file.read_bytes()
        place = draw.randrange(len(before))
        changed = bytearray(before)
        changed[place] ^= 1 << draw.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(BundleError):
            bundles.Bundle.open(target)
        if number % (count // 4) == 0:
            done = run("verify", target, cwd=tmp_path)
            assert done.code == 6 and complaint(done) is None, (file.name, place, done)
        file.write_bytes(before)
    bundles.Bundle.open(target)


def _bad_files(folder: Path, bundle: Path) -> list[str]:
    """Files and folders that are not what any command takes, or not whole."""
    from PIL import Image

    model = (bundle / "model.onnx").read_bytes()
    contents = {
        "empty.onnx": b"", "empty.keras": b"", "text.onnx": b"hello\n" * 50, "noise.onnx": bytes(range(256)) * 40,
        "cut.onnx": model[:len(model) // 2], "noise.keras": b"PK\x03\x04" + bytes(range(256)) * 20,
        "noise.h5": b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 20, "noise.npz": b"PK\x03\x04" + b"\0" * 500,
        "deep.json": b"[" * 100_000, "digits.json": b'{"benchmarks": ' + b"9" * 5000 + b"}",
        "nan.json": b'{"benchmarks": [{"stats": {"data": [NaN, Infinity]}}]}', "null.json": b"null",
        "rows.json": b'{"benchmarks": [1, null, {"extra_info": [], "stats": 3, "name": {}}]}',
        "latin.json": '{"benchmarks": ["é"]}'.encode("latin-1"), "noise.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 99,
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "bad.py": b"import nothing_like_it",
        "exit.py": b"raise SystemExit(7)", "model.pt": b"PK\x03\x04", "graph.pb": b"\x08\x01"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "other.keras", "w") as archive:
        archive.writestr("a.txt", "a")
    with zipfile.ZipFile(folder / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (200 << 20))
        archive.writestr("model.weights.h5", b"")
    np.savez(folder / "dates.npz", x_train=np.zeros((4, 2, 2), "datetime64[s]"), y_train=np.arange(4) % 2)
    np.savez(folder / "objects.npz", x_train=np.array([{}], object), y_train=np.zeros(1))
    np.savez(folder / "alone.npz", x_train=np.zeros((9, 8, 8)))
    Image.new("F", (4, 4)).save(folder / "deep.tiff")
    os.mkfifo(folder / "pipe.keras")
    (folder / "zero.json").symlink_to("/dev/zero")
    (folder / "loop.onnx").symlink_to("loop.onnx")
    (folder / "folder").mkdir()
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").write_bytes(b"\x08\x01\x12\xff")
    (folder / "torn").mkdir()
    (folder / "torn" / "manifest.json").write_text("{}")
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text('{"state": "finished", "architecture": {"name": 3}}')
    return [*sorted(p.name for p in folder.iterdir()), "missing.onnx", "missing", "n" * 300, "\udcff\x1b[2J.keras", ""]


def _bad_lines(files: list[str], bundle: str, good: str) -> Iterator[list[str]]:
    """Command lines over all commands, each with something that cannot be taken."""
    yield from (["convert", "lenet5", "--opset", "3"], ["convert", "lenet5", "--input-shape", "0x0x0"],
                ["convert", "lenet5", "--input-shape", "axb"], ["convert"], ["convert", "lenet5", "--classes", "0"],
                ["convert", "lenet5", "--batch", "-1"], ["convert", "lenet5", "--layout", "hwcn"],
                ["convert", "vgg16", "--no-groups"], ["convert", "lenet5", "--pooling", "avg"],
                ["convert", "lenet5", "--no-top", "--logits"], ["convert", "--all", "lenet5"], ["convert", "lenet"],
                ["convert", "lenet5", "--seed", "9" * 5000], ["convert", "lenet5", "--weights", ""],
                ["train", "lenet"], ["train", "lenet5", "--learning-rate", "nan"],
                ["train", "lenet5", "--epochs", "0"],
                ["train", "lenet5", "--validation", "1.5"], ["train", "lenet5", "--augment", "flop"],
                ["train", "lenet5", "--fine-tune", "2"], ["train", "lenet5", "--data", "digit"],
                ["bench", bundle, "--batch", "0"], ["bench", bundle, "--threads", "99999999"],
                ["bench", bundle, "--max-time", "-1s"], ["bench", bundle, "--shape", "no=1"],
                ["bench", bundle, "--cuda-option", "x"], ["bench", bundle, "--tune"],
                ["bench", bundle, "--save", "/"],
                ["verify", bundle, "--layers"], ["verify", bundle, "--max-time", "0"],
                ["verify", bundle, "--runtime", "tvm"], ["verify", bundle, "--against", "lenet"],
                ["verify", bundle, "--against", "vgg16"], ["compare", good, good, "--fail-over", "5"],
                ["report", good, "-o", "x.pdf"], ["report", good, "-o", good], ["show", "lenet"], ["show"],
                ["nothing"],
                ["evaluate", bundle, "--data", "digits", "--split", "half"], ["predict", bundle],
                ["evaluate", bundle, "--data", "digits", "--threads", "2147483648"])
    for file in files:
        yield from (["inspect", file], ["verify", file], ["report", file], ["bench", file], ["compare", good, file],
                    ["predict", bundle, file], ["evaluate", bundle, "--data", file],
                    ["train", "lenet5", "--data", file], ["convert", file], ["verify", bundle, "--against", file],
                    ["evaluate", file, "--data", "digits"],
                    ["convert", "lenet5", "--weights", file], ["train", "lenet5", "--weights", file],
                    ["convert", "lenet5", "--custom-objects", file])


@pytest.mark.parametrize("share", [pytest.param(30, id="slice"),
                                   pytest.param(1, id="whole", marks=pytest.mark.slow)])
def test_bad_inputs_to_all_commands(made: tuple[Path, float], tmp_path: Path, share: int) -> None:
    from tests.test_report import document

    stuff, good = tmp_path / "stuff", tmp_path / "good.json"
    stuff.mkdir()
    good.write_text(json.dumps(document()))
    names = _bad_files(stuff, made[0])
    files = [str(stuff / name) if name else "" for name in names]
    lines = list(_bad_lines(files, str(made[0]), str(good)))
    random.Random(share).shuffle(lines)
    lines = lines[::share]
    wrong = []
    for number, words in enumerate(lines):
        place = tmp_path / f"at{number}"
        place.mkdir()
        try:
            done = run(*(os.fsencode(w) for w in words), cwd=place, seconds=120)
        except subprocess.TimeoutExpired:
            wrong.append((words, "a hang"))
            continue
        said = complaint(done)
        # Some files are right for a command, and untrained is said of its weights.
        if said is None and done.code not in (0, 7) and left(place):
            said = f"left {left(place)}"
        if said is not None:
            wrong.append(([w[-60:] for w in words], f"{said}: {done.code} {done.err[-300:]}"))
    assert share > 1 or len(lines) >= 300
    assert not wrong, "\n".join(map(str, wrong))
