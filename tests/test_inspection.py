"""Inspection of ONNX files: counts checked by hand, and files that must be refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnexport.bundle import write_sums
from cnnexport.errors import BundleError, InputError
from cnnexport.onnx_file import count_macs, format_summary, inspect_onnx
from tests.bundles import complete


def _value(name: str, shape: list[Any] | None) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _weight(name: str, *shape: int) -> Any:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def _model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any], domain: str | None = None
) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="maker")


def _cnn() -> Any:
    """Conv 3x3 (3 to 8), grouped Conv 3x3 stride 2 (8 to 16, 4 groups), flatten, Gemm (to 10)."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w2"], ["b"], name="grouped", group=4, strides=[2, 2]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "w3", "b3"], ["y"], name="head", transB=1),
    ]
    shapes = {"w1": (8, 3, 3, 3), "w2": (16, 2, 3, 3), "w3": (10, 144), "b3": (10,)}
    weights = [_weight(name, *shape) for name, shape in shapes.items()]
    return _model(nodes, [_value("x", ["N", 3, 8, 8])], [_value("y", ["N", 10])], weights)


def _saved(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_macs_by_hand() -> None:
    # first: 8x8 outputs x 8 channels x 27; grouped: 3x3 x 16 x (2 x 9); head: 10 x 144.
    expected = {"first": 64 * 8 * 27, "grouped": 9 * 16 * 18, "head": 1440}
    assert count_macs(_cnn()) == (sum(expected.values()), expected)
    assert count_macs(_cnn(), batch=3)[0] == 3 * sum(expected.values())


def test_macs_leave_the_model_alone() -> None:
    model = _cnn()
    before = model.SerializeToString()
    count_macs(model)
    assert model.SerializeToString() == before


def test_macs_of_transposed_convolution_and_matmul() -> None:
    deconvolution = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], group=2)
    model = _model(
        [deconvolution], [_value("x", [1, 4, 5, 5])], [_value("y", None)], [_weight("w", 4, 3, 2, 2)]
    )
    assert count_macs(model) == (25 * 4 * 3 * 4, {"ConvTranspose_0": 25 * 4 * 3 * 4})

    product = helper.make_node("MatMul", ["p", "q"], ["y"], name="m")
    model = _model([product], [_value("p", [2, 3, 4, 5]), _value("q", [5, 6])], [_value("y", None)], [])
    assert count_macs(model) == (2 * 3 * 4 * 6 * 5, {"m": 720})

    gemm = helper.make_node("Gemm", ["p", "q"], ["y"], name="g", transA=1)
    model = _model([gemm], [_value("p", [7, 2]), _value("q", [7, 3])], [_value("y", None)], [])
    assert count_macs(model)[0] == 2 * 3 * 7


def test_macs_through_a_large_constant_and_a_computed_reshape() -> None:
    constant = helper.make_node("Constant", [], ["w"], value=_weight("", 2000, 16))
    nodes = [
        constant,
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="m"),
    ]
    integers = [
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([2000], np.int64), "rest"),
    ]
    model = _model(nodes, [_value("x", [None, 20, 100])], [_value("y", [None, 16])], integers)
    assert count_macs(model, batch=2)[0] == 2 * 2000 * 16


def test_macs_unknown() -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["h"], domain="made.up"),
        helper.make_node("Conv", ["h", "w"], ["y"], name="c"),
    ]
    model = _model(
        nodes, [_value("x", [1, 3, 8, 8])], [_value("y", None)], [_weight("w", 4, 3, 3, 3)], "made.up"
    )
    assert count_macs(model) == (None, {})
    # The shape that inference cannot find may be stored in the file.
    model.graph.value_info.append(_value("h", [1, 3, 8, 8]))
    assert count_macs(model) == (36 * 4 * 27, {"c": 36 * 4 * 27})


def test_summary(tmp_path: Path) -> None:
    path = _saved(_cnn(), tmp_path / "m.onnx")
    summary = inspect_onnx(path)
    assert summary.operators == {"Conv": 2, "Flatten": 1, "Gemm": 1}
    assert summary.nodes == 4
    assert summary.parameters == 216 + 288 + 1440 + 10
    assert summary.initializer_bytes == 4 * summary.parameters
    assert summary.inputs[0].shape == ("N", 3, 8, 8) and summary.inputs[0].dtype == "float32"
    assert summary.macs == 13824 + 2592 + 1440
    assert summary.macs_shapes == {"x": [1, 3, 8, 8]}
    assert (summary.opsets, summary.ir_version, summary.producer) == ({"ai.onnx": 17}, 9, "maker")
    assert summary.file_bytes == path.stat().st_size and not summary.bundle
    assert summary.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(json.dumps(summary.to_dict()))["outputs"][0]["shape"] == ["N", 10]
    text = format_summary(summary)
    assert "17,856 (at x 1x3x8x8)" in text and "float32  [N, 3, 8, 8]" in text


def test_domains_unknown_dimensions_and_constants(tmp_path: Path) -> None:
    constants = [
        helper.make_node("Constant", [], ["k"], value=_weight("", 5)),
        helper.make_node("Constant", [], ["one"], value=_weight("", 1)),
        helper.make_node("Mystery", ["x", "k", "one"], ["y"], domain="made.up"),
    ]
    shape = numpy_helper.from_array(np.zeros(3, np.int64), "ints")
    model = _model(constants, [_value("x", [None, "H"])], [_value("y", None)], [shape], "made.up")
    summary = inspect_onnx(_saved(model, tmp_path / "m.onnx"))
    assert summary.operators == {"Constant": 2, "made.up::Mystery": 1}
    assert summary.inputs[0].shape == (None, "H") and summary.outputs[0].shape is None
    assert (summary.parameters, summary.initializer_bytes, summary.macs) == (5, 24, 0)


def test_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"without model\.onnx"):
        inspect_onnx(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    with pytest.raises(BundleError, match="incomplete"):
        inspect_onnx(tmp_path)
    _saved(_cnn(), tmp_path / "model.onnx")
    complete(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(BundleError, match="no SHA256SUMS"):
        inspect_onnx(tmp_path)
    write_sums(tmp_path)
    summary = inspect_onnx(tmp_path)
    assert summary.bundle and summary.untrained is True and summary.provenance["weights"] == "random"
    assert "untrained" in format_summary(summary)
    manifest.write_text("{")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        inspect_onnx(tmp_path)


def _external(folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save_model(_cnn(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def _relocated(path: Path, location: str) -> Path:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return _saved(model, path)


def test_external_data(tmp_path: Path) -> None:
    path = _external(tmp_path)
    data = tmp_path / "m.data"
    summary = inspect_onnx(path)
    assert summary.parameters == 1954 and summary.initializer_bytes == 7816 and summary.macs == 17856
    (file,) = summary.external_data
    assert (file.location, file.bytes) == ("m.data", data.stat().st_size)
    assert file.sha256 == hashlib.sha256(data.read_bytes()).hexdigest()
    assert summary.file_bytes == path.stat().st_size + data.stat().st_size

    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut short"):
        inspect_onnx(path)
    data.unlink()
    with pytest.raises(InputError, match="missing"):
        inspect_onnx(path)


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = _external(inside)
    secret = tmp_path / "secret"
    (inside / "m.data").rename(secret)
    for location in ("../secret", str(secret), "..\\secret", "C:\\secret", "sub/../../secret"):
        with pytest.raises(InputError, match="outside its folder"):
            inspect_onnx(_relocated(path, location))
    (inside / "link").symlink_to(secret)
    with pytest.raises(InputError, match="outside its folder"):
        inspect_onnx(_relocated(path, "link"))


def test_large_external_data_is_not_loaded(tmp_path: Path) -> None:
    """Weights of 800 MB (a sparse file) are summarised within 400 MB more of address space."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to measure the address space")
    columns = 200_000_000
    model = _model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [_value("x", ["N", 1])], [_value("y", None)], []
    )
    weight = TensorProto(name="w", dims=[1, columns], data_type=TensorProto.FLOAT)
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.data")
    model.graph.initializer.append(weight)
    path = _saved(model, tmp_path / "m.onnx")
    with (tmp_path / "w.data").open("wb") as stream:
        stream.truncate(4 * columns)
    code = (
        "import resource, sys, onnx\n"
        "from cnnexport.onnx_file import inspect_onnx\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 10**8, used + 4 * 10**8))\n"
        "s = inspect_onnx(sys.argv[1])\n"
        "print(s.parameters, s.initializer_bytes, s.macs, s.external_data[0].bytes)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(columns), str(4 * columns), str(columns), str(4 * columns)]


def test_refused_files(tmp_path: Path) -> None:
    whole = _cnn().SerializeToString()
    cases = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "few": whole[:2],
        "text": b"<html>Not found</html>\n" * 20,
        "zip": b"PK\x03\x04" + bytes(200),
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            inspect_onnx(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    with pytest.raises(InputError, match="does not exist"):
        inspect_onnx(tmp_path / "none.onnx")


def test_no_tensorflow_and_a_light_import(tmp_path: Path) -> None:
    path = _saved(_cnn(), tmp_path / "m.onnx")
    code = (
        "import sys; from cnnexport import onnx_file\n"
        "heavy = {'tensorflow', 'keras', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "onnx_file.inspect_onnx(sys.argv[1])\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
