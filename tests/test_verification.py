"""`verify` from outside: whole bundles pass, every flipped byte is found and named, hostile files end in one line."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnexport import bundle, verification
from cnnexport.errors import BundleError, CnnexportError, ParityError


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cnnexport import convert

    return convert("lenet5", seed=3, output=tmp_path_factory.mktemp("made") / "lenet5").path


@pytest.fixture
def lenet(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "lenet5"))


def test_a_whole_bundle_passes(lenet: Path, cnnexport: Any) -> None:
    result = cnnexport("verify", lenet, "--json")
    made = json.loads(result.out)
    assert result.code == 0 and result.err == "" and made["passed"] and made["verified"]
    names = [c["name"] for c in made["checks"]]
    assert names == ["checksums", "manifest", "parity record", "ONNX checker", "ort on cpu"]
    assert cnnexport("verify", lenet).out.splitlines()[-1] == f"passed: {lenet}"
    assert cnnexport("verify", lenet, "--quiet").out == ""


def test_reference_evaluator(lenet: Path, cnnexport: Any) -> None:
    result = cnnexport("verify", lenet, "--runtime", "reference", "--runtime", "ort")
    assert result.code == 0 and "ok   reference" in result.out and "ok   ort on cpu" in result.out


def test_openvino(lenet: Path, cnnexport: Any) -> None:
    result = cnnexport("verify", lenet, "--runtime", "openvino")
    if importlib.util.find_spec("openvino") is None:
        assert result.code == 2 and "pip install openvino" in result.err
    else:
        assert result.code == 0 and "OpenVINO" in result.out


def test_cuda_is_had_or_refused(lenet: Path, cnnexport: Any) -> None:
    result = cnnexport("verify", lenet, "--provider", "cuda")
    assert (result.code == 0 and "nodes on CUDAExecutionProvider" in result.out) or (
        result.code == 5 and result.err.count("\n") == 1)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.999])
def test_any_flipped_byte_is_found_and_its_file_named(lenet: Path, place: float) -> None:
    files = sorted(p for p in lenet.rglob("*") if p.is_file())
    assert len(files) == 8
    for file in files:
        content = file.read_bytes()
        at = int(place * (len(content) - 1))
        for bit in (1, 128):
            changed = bytearray(content)
            changed[at] ^= bit
            file.write_bytes(changed)
            with pytest.raises(BundleError, match="altered") as error:
                verification.verify(lenet)
            assert str(file.relative_to(lenet)) in str(error.value)
        file.write_bytes(content)
    assert verification.verify(lenet).passed


def test_a_missing_file_is_named(lenet: Path, cnnexport: Any) -> None:
    for file in sorted(p for p in lenet.rglob("*") if p.is_file()):
        content = file.read_bytes()
        file.unlink()
        result = cnnexport("verify", lenet)
        assert result.code == 6 and file.name in result.err, result
        file.write_bytes(content)


def test_a_foreign_file_is_a_warning(lenet: Path, cnnexport: Any) -> None:
    (lenet / "notes.txt").write_text("mine")
    result = cnnexport("verify", lenet)
    assert result.code == 0
    assert result.err == f"cnnexport: warning: {lenet} holds notes.txt, which is no part of the bundle\n"


def _again(folder: Path) -> None:
    """What one who wants to deceive does: checksums that fit."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    bundle.write_json(folder / "manifest.json", manifest)
    bundle.write_sums(folder)


def test_another_model_under_an_old_record(lenet: Path) -> None:
    model = onnx.load(lenet / "model.onnx")
    model.doc_string = "another"
    onnx.save(model, lenet / "model.onnx")
    _again(lenet)
    with pytest.raises(BundleError, match=r"is of another model\.onnx"):
        verification.verify(lenet)


def test_a_wrong_model_with_a_forged_record(lenet: Path) -> None:
    """The test vectors tell."""
    model = onnx.load(lenet / "model.onnx")
    kernel = next(t for t in model.graph.initializer if t.name == "c3/kernel")
    array = numpy_helper.to_array(kernel)
    kernel.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array.swapaxes(2, 3)), "c3/kernel"))
    onnx.save(model, lenet / "model.onnx")
    record = json.loads((lenet / "parity.json").read_text())
    record["model_sha256"] = hashlib.sha256((lenet / "model.onnx").read_bytes()).hexdigest()
    record["tolerance"] |= {"max_error": 1e9, "rms_error": 1e9}
    bundle.write_json(lenet / "parity.json", record)
    _again(lenet)
    with pytest.raises(ParityError, match="disagrees with Keras' stored"):
        verification.verify(lenet)


def test_a_record_that_did_not_pass(lenet: Path, cnnexport: Any) -> None:
    record = json.loads((lenet / "parity.json").read_text())
    bundle.write_json(lenet / "parity.json", record | {"passed": False})
    _again(lenet)
    assert cnnexport("verify", lenet).code == 4


@pytest.mark.parametrize("content", ["{", "[]", '{"files": 3}', "[" * 100_000, "\x00"])
def test_a_broken_manifest(lenet: Path, content: str, cnnexport: Any) -> None:
    (lenet / "manifest.json").write_text(content)
    bundle.write_sums(lenet)
    result = cnnexport("verify", lenet)
    assert result.code == 6 and result.err.count("\n") == 1 and "Traceback" not in result.err


def test_a_manifest_against_its_schema(lenet: Path, cnnexport: Any) -> None:
    manifest = json.loads((lenet / "manifest.json").read_text())
    bundle.write_json(lenet / "manifest.json", manifest | {"opset": "new"})
    bundle.write_sums(lenet)
    result = cnnexport("verify", lenet)
    assert result.code == 6 and "does not follow its schema at opset" in result.err


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "test_data_set_0", "link", ""])
def test_nothing_outside_is_opened(lenet: Path, name: str, cnnexport: Any) -> None:
    outside = lenet.parent / "outside"
    outside.write_text("secret")
    (lenet / "link").symlink_to(outside)
    lines = f"{hashlib.sha256(b'secret').hexdigest()}  {name}\n"
    (lenet / "SHA256SUMS").write_text(f"{lines}# {hashlib.sha256(lines.encode()).hexdigest()}  SHA256SUMS\n")
    result = cnnexport("verify", lenet)
    assert result.code == 6 and "no file inside it" in result.err and result.err.count("\n") == 1


def test_a_bundle_behind_links(lenet: Path, cnnexport: Any) -> None:
    """A model file that is a link to one elsewhere is refused, however well its hash fits."""
    moved = lenet.parent / "elsewhere.onnx"
    (lenet / "model.onnx").rename(moved)
    (lenet / "model.onnx").symlink_to(moved)
    assert cnnexport("verify", lenet).code == 6


def _tiny(**changes: Any) -> onnx.ModelProto:
    kernel = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "k")
    nodes = [helper.make_node("Conv", ["x", "k"], ["c"]), helper.make_node(changes.get("op", "Relu"), ["c"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, changes.get("shape", [1, 3, 8, 8]))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2, None, None])], [kernel])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_bare_file_is_unverified(tmp_path: Path, cnnexport: Any) -> None:
    onnx.save(_tiny(), tmp_path / "m.onnx")
    result = cnnexport("verify", tmp_path / "m.onnx")
    assert result.code == 0 and "unverified: nothing to compare it with" in result.out
    assert json.loads(cnnexport("verify", tmp_path / "m.onnx", "--json").out)["verified"] is False


def test_open_sizes_are_filled_as_bench_fills_them(tmp_path: Path, cnnexport: Any) -> None:
    """A window of 7 x 7 does not fit into one pixel, which is what open sizes once became."""
    kernel = numpy_helper.from_array(np.ones((2, 3, 7, 7), np.float32), "k")

    def value(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph([helper.make_node("Conv", ["x", "k"], ["y"])], "g", [value("x", ["N", 3, "H", "W"])],
                              [value("y", ["N", 2, None, None])], [kernel])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "m.onnx")
    result = cnnexport("verify", tmp_path / "m.onnx")
    assert result.code == 0 and "dimension 2 (H) of 'x' taken as 224" in result.err, result
    result = cnnexport("verify", tmp_path / "m.onnx", "--shape", "x=2x3x9x9")
    assert result.code == 0 and result.err == ""
    result = cnnexport("verify", tmp_path / "m.onnx", "--shape", "1x3x5x5")
    assert result.code == 3 and result.err.count("\n") == 1
    for wrong, told in (("z=1x3x9x9", "no input 'z'"), ("x=1x4x9x9", "contradicts"), ("x=1", "contradicts")):
        for command in ("verify", "inspect"):
            result = cnnexport(command, tmp_path / "m.onnx", "--shape", wrong)
            assert result.code == 2 and told in result.err and result.out == "", result
    made = json.loads(cnnexport("inspect", tmp_path / "m.onnx", "--shape", "x=2x3x9x8", "--json").out)
    assert made["macs"] == 2 * 2 * 3 * 2 * 3 * 49 and made["macs_shapes"] == {"x": [2, 3, 9, 8]}


def test_a_bundle_runs_on_its_own_inputs(lenet: Path, cnnexport: Any) -> None:
    result = cnnexport("verify", lenet, "--shape", "input=1x32x32x1")
    assert result.code == 2 and "--shape is of a bare ONNX file" in result.err
    made = json.loads(cnnexport("inspect", lenet, "--shape", "input=3x32x32x1", "--json").out)
    assert made["macs"] == 3 * json.loads(cnnexport("inspect", lenet, "--json").out)["macs"]


def _hostile(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "m.onnx"
    model = _tiny()
    if kind == "unknown operator":
        model = _tiny(op="Frobnicate")
    elif kind == "unknown domain":
        model.graph.node[1].domain = "com.example"
        model.opset_import.append(helper.make_opsetid("com.example", 1))
    elif kind == "absurd input":
        model = _tiny(shape=[1, 3, 10**6, 10**6])
    elif kind == "absurd tensor inside":
        shape = numpy_helper.from_array(np.array([10**6, 10**6], np.int64), "s")
        model.graph.initializer.append(shape)
        model.graph.node.append(helper.make_node("ConstantOfShape", ["s"], ["huge"]))
    elif kind == "negative size":
        model.graph.initializer[0].dims[0] = -2
    elif kind == "data too short":
        model.graph.initializer[0].dims[0] = 2_000_000
    elif kind == "outside data":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../../../../etc/hostname")
    elif kind == "linked data":
        (tmp_path / "secret").write_bytes(bytes(216))
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "w").symlink_to(tmp_path / "secret")
        path = tmp_path / "in" / "m.onnx"
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w")
    elif kind == "cycle":
        model.graph.node[0].input[0] = "y"
    path.write_bytes(model.SerializeToString())
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    "kind", ["unknown operator", "unknown domain", "absurd input", "absurd tensor inside", "negative size",
             "data too short", "outside data", "linked data", "cycle", "empty", "pipe"])
def test_hostile_files_end_in_one_line(kind: str, tmp_path: Path, cnnexport: Any) -> None:
    result = cnnexport("verify", _hostile(tmp_path, kind))
    assert result.code == 3 and result.out == "", result
    assert result.err.startswith("cnnexport: error: ") and result.err.count("\n") == 1


def test_truncated_and_damaged_files_never_crash(tmp_path: Path) -> None:
    """In this process: a crash would end the tests."""
    content = _tiny().SerializeToString()
    rng = np.random.default_rng(0)
    damaged = [content[:n] for n in np.linspace(1, len(content) - 1, 60).astype(int)]
    for _ in range(150):
        changed = bytearray(content)
        changed[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(changed))
    refused = 0
    for data in damaged:
        (tmp_path / "m.onnx").write_bytes(data)
        try:
            verification.verify(tmp_path / "m.onnx")
        except CnnexportError as error:
            refused += 1
            assert error.exit_code in (2, 3) and "\n" not in " ".join(str(error).split())
    assert refused > 60


def test_against(lenet: Path, cnnexport: Any) -> None:
    """The architecture by its recorded seed; another seed is another model."""
    result = cnnexport("verify", lenet, "--against", "lenet5", "--layers")
    assert result.code == 0, result.err
    rows = {line.split()[0]: line for line in result.out.splitlines() if line.strip()}
    assert "Conv2D" in rows["c1"] and "28x28x6" in rows["c1"] and result.out.splitlines()[-1].startswith("passed")
    other = cnnexport("verify", lenet, "--against", "lenet5", "--seed", "4", "--layers", "--json")
    made = json.loads(other.out)
    assert other.code == 4 and made["against"]["first_diverging_layer"] == "c1" and not made["passed"]
    assert "first in layer 'c1'" in other.err
    assert cnnexport("verify", lenet, "--layers").code == 2
    wrong = cnnexport("verify", lenet, "--against", "resnet18")
    assert wrong.code == 2 and "give the model that the file was made of" in wrong.err


def test_another_exporters_file(tmp_path: Path, cnnexport: Any) -> None:
    import keras

    from cnnexport import build

    model = build("lenet5", seed=5)
    model.save(tmp_path / "m.keras")
    model(np.zeros((1, 32, 32, 1), np.float32))  # Keras exports only what was called
    model.export(tmp_path / "m.onnx", format="onnx", verbose=False)
    result = cnnexport("verify", tmp_path / "m.onnx", "--against", tmp_path / "m.keras")
    assert result.code == 0, result.err
    model.get_layer("c3").kernel.assign(keras.ops.swapaxes(model.get_layer("c3").kernel, 0, 1))
    model.save(tmp_path / "other.keras")
    result = cnnexport("verify", tmp_path / "m.onnx", "--against", tmp_path / "other.keras")
    assert result.code == 4 and "does not compute what" in result.err


def test_a_failed_check_is_in_the_json(lenet: Path, cnnexport: Any) -> None:
    with open(lenet / "parity.json", "ab") as file:
        file.write(b" ")
    result = cnnexport("verify", lenet, "--json")
    made = json.loads(result.out)
    assert result.code == made["exit_code"] == 6 and not made["passed"] and not made["verified"]
    assert made["checks"][-1]["name"] == "checksums" and not made["checks"][-1]["passed"]
    assert "parity.json" in made["error"] and made["error"] in result.err
    assert cnnexport("verify", lenet).out == ""


def test_a_provider_of_a_runtime_that_is_not_asked_for(lenet: Path, cnnexport: Any) -> None:
    """It must not look as if CUDA had been proven."""
    result = cnnexport("verify", lenet, "--provider", "cuda", "--runtime", "reference")
    assert result.code == 2 and "add --runtime ort" in result.err and result.out == ""


def test_ports_are_told_by_name_and_the_bundle_stays_untouched(tmp_path: Path) -> None:
    import keras

    from cnnexport import convert
    from cnnexport.against import verify_against
    from cnnexport.architectures.weights import randomise

    left, right = keras.Input((8, 8, 8), name="left"), keras.Input((8, 8, 8), name="right")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(left)
    x = keras.layers.Subtract(name="difference")([x, right])
    model = keras.Model([left, right], x, name="pair")
    randomise(model, 0)
    model.save(tmp_path / "pair.keras")
    # Height, width and channels alike: the manifest tells the layout.
    made = convert(model, output=tmp_path / "pair", layout="nchw").path
    before = {p: p.stat().st_mtime_ns for p in [made, *made.iterdir()]}
    assert verify_against(made, str(tmp_path / "pair.keras"), layers=True).passed
    assert {p: p.stat().st_mtime_ns for p in [made, *made.iterdir()]} == before
    swapped = onnx.load(convert(model, output=tmp_path / "nhwc").path / "model.onnx")
    inputs = list(swapped.graph.input)
    del swapped.graph.input[:]
    swapped.graph.input.extend(inputs[::-1])
    onnx.save(swapped, tmp_path / "swapped.onnx")
    assert verify_against(tmp_path / "swapped.onnx", str(tmp_path / "pair.keras")).passed


def test_the_reason_of_a_failed_comparison_is_in_the_json(lenet: Path, tmp_path: Path, cnnexport: Any) -> None:
    model = onnx.load(lenet / "model.onnx")
    bias = next(t for t in model.graph.initializer if t.name == "c3/bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(1.5), "c3/bias"))
    onnx.save(model, tmp_path / "faulty.onnx")
    result = cnnexport("verify", tmp_path / "faulty.onnx", "--against", "lenet5", "--seed", "3", "--json")
    made = json.loads(result.out)
    assert result.code == made["exit_code"] == 4 and not made["passed"]
    assert made["against"]["reason"] == "different" and made["against"]["first_diverging_layer"] == "c3"


def test_a_size_that_follows_from_an_open_one(tmp_path: Path, cnnexport: Any) -> None:
    graph = helper.make_graph(
        [helper.make_node("Tile", ["x", "repeats"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])],
        [numpy_helper.from_array(np.array([2**20, 2**10], np.int64), "repeats")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8),
              tmp_path / "tile.onnx")
    for runtime in ("ort", "reference"):
        result = cnnexport("verify", tmp_path / "tile.onnx", "--runtime", runtime)
        assert result.code == 3 and "4,294,967,296 elements" in result.err and result.err.count("\n") == 1
