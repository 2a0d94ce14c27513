"""No death without a word, no hang, nothing left: the command from outside, where things go wrong around it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.outside import COMMAND, complaint, left, run

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, uses /dev and prctl of Linux")

_BOOM = '''
import os, signal, time
import keras

@keras.saving.register_keras_serializable()
class Boom(keras.layers.Layer):
    def call(self, x):
        if os.environ["BOOM"] == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if os.environ["BOOM"] == "exit":
            os._exit(1)  # as OpenBLAS does where memory lacks
        if os.environ["BOOM"] == "memory":
            held = []
            while True:
                held.append(bytes(1 << 26))
        if os.environ["BOOM"] == "hang":
            time.sleep(600)
        return x
'''


@pytest.fixture(scope="module")
def boom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layer does what the variable BOOM says when it is called, as native code might."""
    folder = tmp_path_factory.mktemp("boom")
    (folder / "boom.py").write_text(_BOOM)
    make = _BOOM + '''
os.environ["BOOM"] = "no"
image = keras.Input((8, 8, 3))
keras.Model(image, keras.layers.Conv2D(3, 3)(Boom()(image))).save("boom.keras")
'''
    subprocess.run([sys.executable, "-c", make], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of lenet5."""
    folder = tmp_path_factory.mktemp("made")
    assert run("convert", "lenet5", "-o", "b", "--quiet", cwd=folder).code == 0
    return folder / "b"


def _surroundings(folder: Path) -> dict[str, str]:
    """A fresh home and a fresh folder for temporary files."""
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    return {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}


@pytest.mark.parametrize("what,word", [("crash", "SIGSEGV"), ("memory", "memory"), ("exit", "exit code 1")])
def test_the_death_of_native_code_is_told_and_leaves_nothing(boom: Path, tmp_path: Path, what: str, word: str) -> None:
    surroundings = _surroundings(tmp_path)
    done = run("convert", boom / "boom.keras", "--custom-objects", boom / "boom.py", "-o", "exported/b", "--json",
               cwd=tmp_path, env={**surroundings, "BOOM": what, "CNNEXPORT_MEMORY_GB": "3"})
    assert done.code == 8 and complaint(done) is None, done
    assert word in done.err and "build" in done.err
    assert json.loads(done.out)["exit_code"] == 8 and json.loads(done.out)["passed"] is False
    assert left(tmp_path) == ["home", "tmp"]


@linux
@pytest.mark.parametrize("number,code", [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_no_orphan_and_no_litter_after_a_signal(boom: Path, tmp_path: Path, number: int, code: int) -> None:
    surroundings = _surroundings(tmp_path)
    process = subprocess.Popen(
        [COMMAND, "convert", boom / "boom.keras", "--custom-objects", boom / "boom.py", "-o", "exported/b"],
        cwd=tmp_path, env={**os.environ, **surroundings, "BOOM": "hang"}, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 60
    while time.monotonic() < until and not list((tmp_path / "exported").glob(".b.partial-*")):
        time.sleep(0.05)
    child = int(children.read_text().split()[0])
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    until = time.monotonic() + 5
    while time.monotonic() < until and Path(f"/proc/{child}").exists():
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
    if number == signal.SIGKILL:  # nobody was left to put things in order: the next one does
        assert run("convert", "nosuch", "-o", "exported/b", cwd=tmp_path).code != 0
        again = run("convert", boom / "boom.keras", "--custom-objects", boom / "boom.py", "-o", "exported/b",
                    cwd=tmp_path, env={"BOOM": "no", **surroundings})
        assert again.code == 0 and [p.name for p in (tmp_path / "exported").iterdir()] == ["b"], again
    else:
        assert err.startswith("cnnexport: error: interrupted") and err.count("\n") == 1
        assert left(tmp_path) == ["home", "tmp"]


@linux
def test_a_training_that_dies_before_its_first_epoch_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([COMMAND, "train", "lenet5", "--batch-size", "1", "-o", "runs/r"], cwd=tmp_path,
                               stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while time.monotonic() < until and not (tmp_path / "runs" / "r" / "run.json").exists():
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGBUS)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 8 and "SIGBUS" in err and err.count("\n") == 1, err
    assert left(tmp_path) == []


def _loop(path: Path) -> None:
    """A graph whose Loop never ends."""
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h

    body = h.make_graph(
        [h.make_node("Identity", ["go"], ["goes"]), h.make_node("Add", ["at", "one"], ["next"])], "body",
        [h.make_tensor_value_info("i", T.INT64, []), h.make_tensor_value_info("go", T.BOOL, []),
         h.make_tensor_value_info("at", T.FLOAT, [1])],
        [h.make_tensor_value_info("goes", T.BOOL, []), h.make_tensor_value_info("next", T.FLOAT, [1])],
        [h.make_tensor("one", T.FLOAT, [1], [1.0])])
    graph = h.make_graph(
        [h.make_node("Loop", ["", "yes", "x"], ["y"], body=body)], "g", [h.make_tensor_value_info("x", T.FLOAT, [1])],
        [h.make_tensor_value_info("y", T.FLOAT, [1])], [h.make_tensor("yes", T.BOOL, [], [True])])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize("runtime,seconds", [("ort", "2s"), ("reference", "0.3s")])
def test_an_endless_loop_is_ended(tmp_path: Path, runtime: str, seconds: str) -> None:
    _loop(tmp_path / "loop.onnx")
    done = run("verify", "loop.onnx", "--runtime", runtime, "--max-time", seconds, "--json", cwd=tmp_path, seconds=60)
    assert done.code == 3 and complaint(done) is None, done
    assert json.loads(done.out)["exit_code"] == 3
    if runtime == "ort":
        assert run("bench", "loop.onnx", "--max-time", "2", cwd=tmp_path, seconds=60).code == 3


def test_a_function_that_calls_itself_is_named(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h

    functions = [h.make_function("own", name, ["a"], ["b"], [h.make_node(other, ["a"], ["b"], domain="own")],
                                 [h.make_opsetid("own", 1)]) for name, other in (("f", "g"), ("g", "f"))]
    value = {name: h.make_tensor_value_info(name, T.FLOAT, [1]) for name in "xy"}
    graph = h.make_graph([h.make_node("f", ["x"], ["y"], domain="own")], "g", [value["x"]], [value["y"]])
    opsets = [h.make_opsetid("", 17), h.make_opsetid("own", 1)]
    onnx.save(h.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8), tmp_path / "m.onnx")
    for command in ("inspect", "verify", "bench"):
        done = run(command, "m.onnx", cwd=tmp_path)
        assert done.code == 3 and complaint(done) is None and "calls itself" in done.err, done


@linux
def test_pipes_and_devices_are_named_and_neither_read_nor_replaced(bundle: Path, tmp_path: Path) -> None:
    for name in ("f.fifo", "f.keras", "f.npz", "f.onnx", "f.html"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    lines = {
        3: ["report f.fifo", "report zero", "compare f.fifo zero", "inspect f.onnx", "verify f.onnx", "bench f.onnx",
            "predict B f.fifo zero.png", "convert f.keras -o x", "evaluate B --data f.npz", "verify zero",
            "convert lenet5 --weights f.keras -o x", "train lenet5 --data f.npz -o x",
            "train lenet5 --weights f.keras -o x", "verify B --against f.keras"],
        2: ["bench B --save f.fifo", "bench B --save zero", "report R -o f.html", "convert lenet5 -o f.fifo",
            "train lenet5 -o zero"]}
    from tests.test_report import document

    (tmp_path / "R").write_text(json.dumps(document()))
    for code, commands in lines.items():
        for line in commands:
            words = [str(bundle) if word == "B" else word for word in line.split()]
            done = run(*words, cwd=tmp_path, seconds=60)
            assert done.code == code and complaint(done) is None, (line, done)
    assert (tmp_path / "f.fifo").is_fifo() and os.path.realpath(tmp_path / "zero") == "/dev/zero"
    assert not (tmp_path / "x").exists()


@linux
def test_closed_and_full_streams(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "b").symlink_to(bundle)
    for line, code in {
            "cnnexport verify b 2>&-": 0, "cnnexport verify b >&- 2>&-": 0, "cnnexport verify nosuch 2>&-": 3,
            "cnnexport verify nosuch 2>/dev/full": 3, "cnnexport list >/dev/full": 2, "cnnexport --help >/dev/full": 2,
            "cnnexport inspect b --json >/dev/full": 2, "cnnexport inspect b <&-": 0,
            "set -o pipefail; cnnexport list | true": 0, "set -o pipefail; cnnexport verify b | true": 0}.items():
        done = run(cwd=tmp_path, shell=line)
        assert done.code == code, (line, done)
        if "/dev/full" in line and "2>" not in line:
            assert complaint(done) is None, (line, done)
        else:
            assert not done.err, (line, done)
    done = run(cwd=tmp_path, shell="cnnexport convert lenet5 -o made 2>&-; cnnexport evaluate made --data digits 2>&-")
    assert done.code == 0 and "accuracy" in done.out and not done.err


def test_a_reader_that_goes_away_does_not_turn_a_failure_into_success(bundle: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(bundle, tmp_path / "b")
    with open(tmp_path / "b" / "model.onnx", "r+b") as file:
        file.seek(1000)
        file.write(b"x")
    assert run(cwd=tmp_path, shell="set -o pipefail; cnnexport verify b --json | true").code == 6


def test_nothing_appears_but_our_own_output(bundle: Path, tmp_path: Path) -> None:
    surroundings = _surroundings(tmp_path)
    (tmp_path / "b").symlink_to(bundle)
    for line in ("verify b", "bench b --min-time 0.1 --max-time 3 --save r.json", "doctor", "report r.json",
                 "verify b --against lenet5", "evaluate b --data digits", "inspect b", "list"):
        done = run(*line.split(), cwd=tmp_path, env=surroundings)
        assert done.code == 0, (line, done)
        assert left(tmp_path / "home") == [] and left(tmp_path / "tmp") == [], line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "home", "r.json", "report.html", "tmp"]


def test_telemetry_is_off_for_every_import_of_the_runtime() -> None:
    """No module of ours imports ONNX Runtime but by the function that turns its telemetry off."""
    import cnnexport

    found = {p.name for p in Path(cnnexport.__file__).parent.rglob("*.py") if "import onnxruntime" in p.read_text()}
    assert found == {"ort.py"}


@linux
@pytest.mark.parametrize("kilobytes", [300_000, 1_100_000, 1_500_000, 2_000_000])
def test_too_little_memory_is_called_so(tmp_path: Path, kilobytes: int) -> None:
    done = run(cwd=tmp_path, shell=f"ulimit -v {kilobytes}; cnnexport convert lenet5 -o b")
    assert done.code in (2, 8) and complaint(done) is None and "memory" in done.err, done
    assert left(tmp_path) == []


@pytest.mark.skipif(subprocess.run(["which", "setpriv"], capture_output=True).returncode != 0 or os.geteuid() != 0,
                    reason="needs root, who gives up the right to read everything, and setpriv")
def test_what_may_not_be_read_is_named(bundle: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("model", "folder"):
        shutil.copytree(bundle, tmp_path / name)
    shutil.copytree(bundle, tmp_path / "closed" / "b")
    for path in (tmp_path / "model" / "model.onnx", tmp_path / "folder" / "test_data_set_0", tmp_path / "closed"):
        path.chmod(0)
        os.chown(path, 65534, 65534)
    away = "setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all cnnexport "
    for line, codes in {"verify model": (6,), "inspect model": (6,), "bench model": (6,), "verify folder": (6,),
                        "evaluate folder --data digits": (6,), "inspect closed/b": (3,), "verify closed/b": (3,),
                        "report closed/r.json": (3,), "predict model closed/a.png": (3, 6),
                        "convert closed/m.keras": (3,),
                        "convert lenet5 -o closed/new": (2,), "train lenet5 -o closed/r": (2,),
                        "train lenet5 --data closed/a.npz": (3,), "compare closed/r.json closed/r.json": (3,)}.items():
        done = run(cwd=tmp_path, shell=away + line)
        assert done.code in codes and complaint(done) is None, (line, done)


def test_names_are_shown_and_cut_and_numbers_bounded(bundle: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h

    strange = "\x1b[31mred\x07\x9b2J\u202e" + "n" * 100_000
    x, y = (h.make_tensor_value_info(name, T.FLOAT, [1]) for name in (strange, "y"))
    graph = h.make_graph([h.make_node("Relu", [strange], ["y"])], "g", [x], [y])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    for line in ("inspect m.onnx", "inspect m.onnx --json", "verify m.onnx", "bench m.onnx --shape q=1"):
        done = run(*line.split(), cwd=tmp_path)
        assert not any(c in done.out + done.err for c in "\x1b\x07\x9b\u202e"), line
        assert complaint(done) is None or done.code == 0, (line, done.err[:300])
        if "--json" in line:
            assert json.loads(done.out)["inputs"][0]["name"] == strange
        else:
            assert len(done.out + done.err) < 10_000
    digits = "9" * 5000
    for words in (["convert", "lenet5", "--input-shape", f"{digits}x3x3"], ["convert", "lenet5", "--seed", digits],
                  ["bench", bundle, "--batch", digits], ["bench", bundle, "--threads", "2147483648"],
                  ["evaluate", bundle, "--data", "digits", "--threads", "2147483648"],
                  ["bench", bundle, "--shape", f"input={digits}x1"], ["convert", "lenet5", "--batch", digits]):
        done = run(*words, cwd=tmp_path)
        assert done.code == 2 and complaint(done) is None and len(done.err) < 1000, (words[:3], done)
    for name in (b"\xff\xfe\x1b[0m.onnx", b"n" * 300, b"a/" * 3000):
        for command in ("inspect", "verify", "convert", "report", "bench"):
            done = run(command, name, cwd=tmp_path)
            assert done.code in (2, 3) and complaint(done) is None, (command, name[:20], done)


_STRIDED = [(11, 32, 5, 8, 2, "SAME"), (3, 32, 5, 8, 4, "VALID"), (2, 31, 8, 16, 2, "SAME"), (8, 14, 1, 8, 3, "VALID"),
            (1, 56, 3, 64, 2, "VALID"), (11, 56, 1, 8, 4, "VALID"), (3, 16, 2, 32, 3, "SAME"), (8, 7, 12, 4, 2, "SAME")]


def test_weight_gradients_of_strided_pointwise_convolutions_are_right() -> None:
    """oneDNN's kernel for them corrupts the heap; ours is asked in a process of its own, should it do so too."""
    code = f'''
import numpy as np, tensorflow as tf
from cnnexport.keras_files.onednn import sound_gradients

def gradients(shape, dtype, transposed, graph):
    n, h, c, f, s, padding = shape
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(n, h, h, c)), rng.normal(size=(1, 1, f, c) if transposed else (1, 1, c, f))
    x, w = tf.constant(x, dtype), tf.constant(w, dtype)
    def run(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = tf.nn.conv2d_transpose(x, w, (n, h * s, h * s, f), s, padding) if transposed else tf.nn.conv2d(
                x, w, s, padding)
            total = tf.reduce_sum(y * tf.cast(tf.reshape(tf.range(tf.size(y)) % 7, tf.shape(y)), dtype))
        return tape.gradient(total, [x, w])
    return [np.asarray(g) for g in (tf.function(run) if graph else run)(x, w)]

with sound_gradients():
    for shape in {_STRIDED!r}:
        for transposed in (False, True):
            for graph in (False, True):
                for _ in range(3):
                    ours = gradients(shape, tf.float32, transposed, graph)
                # float64 never runs in oneDNN
                for a, b in zip(ours, gradients(shape, tf.float64, transposed, graph)):
                    assert np.abs(a - b).max() <= 1e-4 * (np.abs(b).max() + 1), (shape, transposed, graph)
from tensorflow.python.ops import gen_nn_ops
assert gen_nn_ops.conv2d_backprop_filter.__module__.endswith("gen_nn_ops"), "put back after the block"
'''
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_network_with_a_strided_pointwise_convolution_converts(tmp_path: Path) -> None:
    make = '''
import keras
from keras import layers
image = keras.Input((32, 32, 8))
x = layers.Conv2D(16, 1, strides=2, padding="same")(layers.Conv2D(8, 3, padding="same")(image))
keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))).save("m.keras")
'''
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True, capture_output=True)
    done = run("convert", "m.keras", "-o", "b", cwd=tmp_path)
    assert done.code == 0, done


def test_a_coarser_precision_in_the_file_is_named_and_loosens_nothing(tmp_path: Path) -> None:
    import keras
    import onnx
    from onnx import helper as h

    from cnnexport import convert
    from cnnexport.against import verify_against
    from cnnexport.errors import InputError, ParityError

    class Coarse(keras.layers.Layer):
        def call(self, x):  # type: ignore[no-untyped-def]
            return keras.ops.cast(keras.ops.cast(x, "float16"), "float32")

    def network(*more: keras.layers.Layer) -> keras.Model:
        keras.utils.set_random_seed(0)
        layers = keras.layers
        return keras.Sequential([keras.Input((12, 12, 3)), layers.Conv2D(8, 3, bias_initializer="normal", name="conv"),
                                 *more, layers.GlobalAveragePooling2D(), layers.Dense(4, bias_initializer="normal")])

    with pytest.raises(ParityError, match=r"Cast.*float16.*float32"):
        convert(network(Coarse()), output=tmp_path / "coarse")
    assert not (tmp_path / "coarse").exists()

    right = network()
    right.save(tmp_path / "m.keras")
    made = convert(right, output=tmp_path / "right")
    assert made.parity["tolerance"]["precision"] == "float32" and made.parity["lower_precision"] is None
    model = onnx.load(tmp_path / "right" / "model.onnx")
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    index, (name,) = list(model.graph.node).index(conv), conv.output
    conv.output[0] = "before"
    for step, (source, kind, target) in enumerate(
            (("before", onnx.TensorProto.FLOAT16, "half"), ("half", onnx.TensorProto.FLOAT, name)), 1):
        model.graph.node.insert(index + step, h.make_node("Cast", [source], [target], to=kind, name=f"planted{step}"))
    onnx.save(model, tmp_path / "planted.onnx")
    found = verify_against(tmp_path / "planted.onnx", str(tmp_path / "m.keras"))
    assert not found.passed and "planted1" in str(found.verdict.lower_precision) and found.max_error <= 1e-3

    with pytest.raises(InputError, match="bfloat16"):
        convert(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, dtype="bfloat16")]),
                output=tmp_path / "brain")

    # What was asked for is no fault: layers of a half-precision policy, variables stored so.
    half = keras.Sequential([keras.Input((12, 12, 3)), keras.layers.Conv2D(8, 3, bias_initializer="normal",
                                                                           dtype="mixed_float16"),
                             keras.layers.GlobalAveragePooling2D(dtype="float32"),
                             keras.layers.Dense(4, bias_initializer="normal", dtype="float32")])
    assert convert(half, output=tmp_path / "half").parity["tolerance"]["precision"] == "float16"
    assert np.isfinite(made.parity["worst_error"])


def test_two_conversions_to_one_place(tmp_path: Path) -> None:
    one, two = (subprocess.Popen([COMMAND, "convert", "lenet5", "--seed", seed, "-o", "x", "--quiet"], cwd=tmp_path,
                                 stderr=subprocess.PIPE, text=True) for seed in ("1", "2"))
    errors = [process.communicate(timeout=120)[1] for process in (one, two)]
    assert sorted((one.returncode, two.returncode)) == [0, 2], errors
    line = max(errors)
    assert line.count("\n") == 1 and ("another cnnexport" in line or "exists already" in line)
    kept = json.loads((tmp_path / "x" / "manifest.json").read_text())["options"]["seed"]
    assert kept == (1 if one.returncode == 0 else 2)
    assert left(tmp_path)[0] == "x" and run("verify", "x", cwd=tmp_path).code == 0


def test_inspect_checks_a_bundle_as_far_as_it_can(bundle: Path, tmp_path: Path) -> None:
    import shutil

    for missing in ("manifest.json", "parity.json", "SHA256SUMS"):
        target = tmp_path / missing
        shutil.copytree(bundle, target)
        (target / missing).unlink()
        with open(target / "model.onnx", "r+b") as file:
            file.seek(5000)
            file.write(b"\x00\x01\x02")
        done = run("inspect", target, cwd=tmp_path)
        assert done.code == 6 and complaint(done) is None, (missing, done)


def test_records_of_wrong_types_behind_right_checksums(bundle: Path, tmp_path: Path) -> None:
    import shutil

    from cnnexport import bundle as bundles

    changes = [("manifest.json", key, value) for key, value in (
        ("inputs", 3), ("inputs", [{"name": 1}]), ("outputs", []), ("preprocessing", "x"), ("labels", {"a": 1}),
        ("provenance", None), ("options", {"seed": "x"}), ("untrained", "no"), ("schema_version", 99))]
    changes += [("parity.json", key, value) for key, value in (
        ("tolerance", None), ("tolerance", {"precision": "x"}), ("worst_error", "small"), ("passed", "yes"))]
    for number, (name, key, value) in enumerate(changes):
        target = tmp_path / str(number)
        shutil.copytree(bundle, target)
        record = json.loads((target / name).read_text())
        record[key] = value
        (target / name).write_text(json.dumps(record))
        manifest = json.loads((target / "manifest.json").read_text())
        if name == "parity.json":
            manifest["files"][name] = {"bytes": (target / name).stat().st_size,
                                       "sha256": bundles.sha256(target / name)}
            (target / "manifest.json").write_text(json.dumps(manifest))
        bundles.write_sums(target)
        from cnnexport.errors import BundleError

        with pytest.raises(BundleError):
            bundles.Bundle.open(target)
        if number % 4 == 0:
            for command in (["verify", target], ["evaluate", target, "--data", "digits"], ["bench", target]):
                done = run(*command, cwd=tmp_path)
                assert done.code == 6 and complaint(done) is None, (name, key, value, done)
