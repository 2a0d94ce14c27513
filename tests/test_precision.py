"""`quantize`: right variants pass, planted faults do not, verdicts say no more than the images tell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec import structs
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import cnnexport as package
from cnnexport import bundle, precision, runtimes
from cnnexport.bundle import Bundle
from cnnexport.classifier import Classifier
from cnnexport.errors import BundleError, InputError, RejectedError, UsageError
from cnnexport.parity.stored import scores
from cnnexport.precision import audit, by_nncf, half, int8, measuring, paired, ranges
from cnnexport.precision import calibration as images
from cnnexport.precision.verdict import ALLOWED_RMS, judge
from tests.test_evaluation import _PROBE

MNIST = os.environ.get("CNNEXPORT_MNIST10K")
"""An ``.npz`` file of 10,000 digits, for the tests that need more images than scikit-learn ships."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-5, trained for a few epochs on scikit-learn's digits, as the bundle ``b``; in it int8 and fp16."""
    place = tmp_path_factory.mktemp("precision")
    package.train("lenet5", data="digits", epochs=6, output=place / "run")
    package.convert(place / "run", output=place / "float32")
    shutil.copytree(place / "float32", place / "b")
    precision.quantize(place / "b", "int8", calibration="digits", data="digits", max_drop=3, purpose="size")
    precision.quantize(place / "b", "fp16", data="digits", max_drop=3)
    return place


@pytest.fixture
def fresh(place: Path, tmp_path: Path) -> Path:
    """The bundle as converted, in a folder of its own."""
    shutil.copytree(place / "float32", tmp_path / "own" / "b")
    return tmp_path / "own" / "b"


@pytest.fixture(scope="module")
def calibrated(place: Path) -> images.Calibration:
    return images.choose(Classifier.open(place / "float32"), "digits")


def _int8(source: Path, file: Path, batches: images.Batches, method: ranges.Method = "minmax", **options: Any) -> Any:
    """The file in int8, its ranges measured on ``batches``."""
    with tempfile.TemporaryDirectory() as scratch:
        found = ranges.measure(source, batches, Path(scratch), (*int8.PRODUCTS, *int8.BETWEEN), method)
    return int8.write(source, file, found, **options)


def test_variants_ship_with_their_records(place: Path) -> None:
    found = Bundle.open(place / "b")
    assert [m.id for m in found.models] == ["float32", "int8", "fp16"] and found.file.name == "model.onnx"
    for name, share in (("int8", 0.35), ("fp16", 0.55)):
        variant = Bundle.open(f"{place / 'b'}#{name}")
        verdict = variant.verdict
        assert (verdict.verdict, verdict.criterion, verdict.faults) == ("ship", "accuracy", ())
        assert verdict.model_sha256 == variant.sha256 == bundle.sha256(variant.file)
        assert verdict.float_sha256 == found.sha256
        assert verdict.bytes < share * verdict.float_bytes and verdict.bytes == variant.file.stat().st_size
        low, high = verdict.accuracy.drop_interval_95
        assert low <= verdict.accuracy.drop_points <= high <= 3 and verdict.accuracy.images == 355
        assert verdict.fidelity.logits_rms < ALLOWED_RMS[name] / 2
        assert f"`{name}` | **ship**" in (place / "b" / "README.md").read_text()
    named = Bundle.open(f"{place / 'b'}#int8").verdict.calibration
    assert (named.source, named.split, len(named.indices)) == ("digits", "train", len(set(named.indices)))
    assert len(named.indices) == images.DEFAULT_IMAGES and len(str(named.sha256)) == 64


def test_int8_is_what_the_processor_multiplies(place: Path) -> None:
    model = onnx.load(Bundle.open(f"{place / 'b'}#int8").file)
    weights = {t.name: t for t in model.graph.initializer}
    quantised = [t for t in weights.values() if t.name.endswith("_quantized") and t.data_type == TensorProto.INT8]
    assert len(quantised) == 5  # each convolution and dense layer
    for tensor in quantised:
        scale = weights[tensor.name.removesuffix("_quantized") + "_scale"]
        assert len(scale.dims) == 1 and scale.dims[0] > 1
    softmax = next(n for n in model.graph.node if n.op_type == "Softmax")
    makers = {o: n.op_type for n in model.graph.node for o in n.output}
    assert makers[softmax.input[0]] == "Gemm"  # scores are not rounded on the way
    kinds = {t.data_type for name, t in weights.items() if name.endswith("_zero_point") and not t.dims}
    assert TensorProto.UINT8 in kinds


def test_commands_take_a_variant(place: Path, cnnexport: Any) -> None:
    for name in ("int8", "fp16"):
        target = f"{place / 'b'}#{name}"
        told = cnnexport("verify", target, "--json")
        checks = {c["name"]: c["detail"] for c in json.loads(told.out)["checks"]}
        assert told.code == 0 and checks["verdict"] == "ship, by accuracy"
        assert "when it was judged" in checks["ort on cpu"]
        evaluated = json.loads(cnnexport("evaluate", target, "--data", "digits", "--json", "--quiet").out)
        verdict = Bundle.open(target).verdict
        assert (evaluated["correct"], evaluated["model_sha256"]) == (verdict.accuracy.correct, verdict.model_sha256)
    assert cnnexport("verify", place / "b").code == 0
    told = cnnexport("verify", place / "b", "--variant", "fp16", "--runtime", "reference", "--json")
    assert told.code == 0 and "when it was judged" in json.loads(told.out)["checks"][-1]["detail"]
    image = np.full((8, 8), 99, np.uint8)
    Image.fromarray(image).save(place / "a.png")
    (first,), (second,) = (json.loads(cnnexport("predict", place / "b", place / "a.png", "--json", *more).out)["images"]
                           for more in ((), ("--variant", "int8")))
    assert first["predictions"][0] != second["predictions"][0]  # another file answered
    missing = cnnexport("verify", f"{place / 'b'}#int4")
    assert missing.code == 2 and "it has float32, int8, fp16" in missing.err


def test_each_layer_says_what_it_lost_and_may_be_kept(place: Path, fresh: Path) -> None:
    verdict = Bundle.open(f"{place / 'b'}#int8").verdict
    lost = {layer.layer: layer.sqnr_db for layer in verdict.layers}
    assert {"c3", "c5", "f6"} <= set(lost) and all(15 < db < 70 for db in lost.values()), lost
    half_lost = Bundle.open(f"{place / 'b'}#fp16").verdict.layers
    assert min(layer.sqnr_db for layer in half_lost) > max(lost.values())
    kept = precision.quantize(fresh, "int8", calibration="digits", purpose="size", keep=["c1", "c3"])
    assert ("c3/Conv", "--keep c3") in {(k.node, k.reason) for k in kept.kept} and not kept.faults
    assert {layer.layer: layer.sqnr_db for layer in kept.layers}["c3"] > lost["c3"]
    weights = {t.name: t.data_type for t in onnx.load(fresh / "model.int8.onnx").graph.initializer}
    assert weights["c3/kernel"] == TensorProto.FLOAT and "c5/kernel_quantized" in weights
    with pytest.raises(UsageError, match="no nodes of a layer 'c9'"):
        precision.quantize(fresh, "int8", calibration="digits", keep=["c9"], force=True)
    with pytest.raises(UsageError, match="leaves no convolution"):
        precision.quantize(fresh, "int8", calibration="digits", keep=["c1", "c3", "c5", "f6", "predictions"],
                           force=True)


def test_bench_puts_variants_side_by_side(place: Path, cnnexport: Any) -> None:
    told = cnnexport("bench", place / "b", "--variant", "all", "--min-time", "0.05", "--max-time", "2", "--json")
    rows = [row["extra_info"] for row in json.loads(told.out)["benchmarks"]]
    assert told.code == 0 and [r["name"].partition("#")[2] for r in rows] == ["", "int8", "fp16"]
    hashes = [Bundle.open(f"{place / 'b'}#{v}").sha256 for v in ("float32", "int8", "fp16")]
    assert [r["file_sha256"] for r in rows] == [r["parity"]["model_sha256"] for r in rows] == hashes
    assert [r["parity"].get("verdict") for r in rows] == [None, "ship", "ship"]
    reference = cnnexport("bench", place / "b", "--variant", "fp16", "--runtime", "reference", "--min-time", "0.05",
                          "--max-time", "5", "--json")
    (row,) = json.loads(reference.out)["benchmarks"]
    assert reference.code == 0 and row["extra_info"]["proof"]["judged"] > 0, reference.err


def test_quantize_imports_no_tensorflow_and_tells_json(fresh: Path) -> None:
    arguments = ["quantize", str(fresh), "--precision", "bf16", "--json"]
    done = subprocess.run([sys.executable, "-c", _PROBE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "[]", done.stderr
    told = json.loads(done.stdout)
    assert (told["verdict"], told["criterion"], told["exit_code"]) == ("inconclusive", "fidelity", 0)
    assert "not accuracy" in told["reasons"][0] and told["bytes"] < 0.55 * told["float_bytes"]


def test_fp16_takes_fp16_where_it_is_asked_for(fresh: Path) -> None:
    precision.quantize(fresh, "fp16", io="same")
    classifier = Classifier.open(f"{fresh}#fp16")
    assert classifier.dtype == "float16"
    digits = np.zeros((2, 28, 28), np.uint8)
    assert len(classifier.predict(digits[0], top=1)) == 1
    assert onnx.load(classifier.bundle.file).graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16


def test_an_untrained_network_is_at_most_inconclusive(tmp_path: Path) -> None:
    package.convert("resnet18", input_shape=(32, 32, 3), classes=10, output=tmp_path / "r")
    verdict = precision.quantize(tmp_path / "r", "int8", calibration="synthetic", data="digits", max_drop=99,
                                 purpose="size")
    assert (verdict.verdict, verdict.criterion) == ("inconclusive", "fidelity")
    assert verdict.accuracy is not None and "untrained" in verdict.reasons[0]
    model = onnx.load(tmp_path / "r" / "model.int8.onnx")
    makers = {o: n.op_type for n in model.graph.node for o in n.output}
    sums = [n for n in model.graph.node if n.op_type == "Add"]
    assert sums and all(makers.get(i) == "DequantizeLinear" for n in sums for i in n.input)  # residuals in 8 bits


# Planted faults: each is found in the file itself, by what must be in it.

def _initializer(model: Any, name: str) -> Any:
    return next(t for t in model.graph.initializer if t.name == name)


def _change(model: Any, name: str, change: Callable[[Any], None]) -> None:
    tensor = _initializer(model, name)
    values = numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def _weights(model: Any, index: int) -> str:
    names = [t.name for t in model.graph.initializer if t.data_type == TensorProto.INT8
             and t.name.endswith("_quantized")]
    return names[index % len(names)]


def _range(model: Any, index: int) -> str:
    names = [n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"
             and n.input[1] == f"{n.input[0]}_scale"]
    return names[index % len(names)]


def _scale_halved(model: Any, index: int) -> None:
    def half_of(scale: Any) -> None:
        scale[index % len(scale)] /= 2
    _change(model, _weights(model, index).removesuffix("_quantized") + "_scale", half_of)


def _channels_swapped(model: Any, index: int) -> None:
    name = _weights(model, index)
    dense = len(_initializer(model, name).dims) == 2

    def swap(values: Any) -> None:
        channels = values.T if dense else values
        other = 1 + index % (len(channels) - 1)
        channels[[0, other]] = channels[[other, 0]]
    _change(model, name, swap)


def _one_weight(model: Any, index: int) -> None:
    def off(values: Any) -> None:
        values.reshape(-1)[7 + index] ^= 4
    _change(model, _weights(model, index), off)


def _zero_point_off(model: Any, index: int) -> None:
    def off(value: Any) -> None:
        value += np.uint8(1)
    _change(model, f"{_range(model, index)}_zero_point", off)


def _saturated(model: Any, index: int) -> None:
    def narrower(value: Any) -> None:
        value *= np.float32(0.7)
    _change(model, f"{_range(model, index)}_scale", narrower)


def _anothers_range(model: Any, index: int) -> None:
    other = numpy_helper.to_array(_initializer(model, f"{_range(model, index + 1)}_scale"))

    def taken(value: Any) -> None:
        value[...] = other
    _change(model, f"{_range(model, index)}_scale", taken)


FAULTS = {f.__name__[1:]: f for f in (_scale_halved, _channels_swapped, _one_weight, _zero_point_off, _saturated,
                                      _anothers_range)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(
    place: Path, calibrated: images.Calibration, tmp_path: Path, fault: str
) -> None:
    model = onnx.load(place / "b" / "model.int8.onnx")
    FAULTS[fault](model, 2)
    onnx.save(model, tmp_path / "m.onnx")
    found = audit.faults(place / "b" / "model.onnx", tmp_path / "m.onnx", calibrated.batches, tmp_path)
    assert found, fault


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("lenet5", 32), ("resnet18", 32), ("resnet50", 64), ("vgg11", 32),
                                            ("alexnet", 67)])
def test_planted_faults_in_every_network(name: str, size: int, tmp_path: Path) -> None:
    """30 mutants of each network, and no false alarm."""
    shape = (size, size, 1 if name == "lenet5" else 3)
    package.convert(name, input_shape=shape, classes=10, output=tmp_path / "b")
    source, made, mutant = tmp_path / "b" / "model.onnx", tmp_path / "int8.onnx", tmp_path / "mutant.onnx"
    batches = images.synthetic(Classifier.open(tmp_path / "b"), 16, 0)
    _int8(source, made, batches)
    assert audit.faults(source, made, batches, tmp_path) == ()
    missed = []
    for index in range(5):
        for fault, plant in FAULTS.items():
            model = onnx.load(made)
            plant(model, 3 * index)
            onnx.save(model, mutant)
            if not audit.faults(source, mutant, batches, tmp_path):
                missed.append((fault, index))
    assert not missed


def test_right_files_have_no_faults(place: Path, calibrated: images.Calibration, tmp_path: Path) -> None:
    source = place / "b" / "model.onnx"
    assert audit.faults(source, place / "b" / "model.int8.onnx", calibrated.batches, tmp_path) == ()
    assert audit.faults(source, place / "b" / "model.fp16.onnx", None, tmp_path) == ()
    half.write_bf16(source, tmp_path / "bf16.onnx")
    assert audit.faults(source, tmp_path / "bf16.onnx", None, tmp_path) == ()


@pytest.mark.parametrize("factor", [255.0, 1 / 255])
def test_calibration_on_wrong_preprocessing_is_found(
    place: Path, calibrated: images.Calibration, tmp_path: Path, factor: float
) -> None:
    def wrong() -> Iterator[dict[str, Any]]:
        for feeds in calibrated.batches():
            yield {name: (array * factor).astype(np.float32) for name, array in feeds.items()}

    source = place / "b" / "model.onnx"
    _int8(source, tmp_path / "m.onnx", wrong)
    assert "range" in audit.faults(source, tmp_path / "m.onnx", calibrated.batches, tmp_path)[0]


@pytest.mark.parametrize("method", ["percentile", "entropy"])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_other_ranges_and_activations_are_audited(
    place: Path, calibrated: images.Calibration, tmp_path: Path, capfd: Any, method: Any, activations: Any
) -> None:
    """They narrow what minmax takes, say nothing on stdout, and a range that was changed later is found."""
    source, file = place / "b" / "model.onnx", tmp_path / "m.onnx"
    parts = (*int8.PRODUCTS, *int8.BETWEEN)
    found = ranges.measure(source, calibrated.batches, tmp_path, parts, method)
    widest = ranges.measure(source, calibrated.batches, tmp_path, parts)
    assert capfd.readouterr().out == ""
    widths = [(found[n][1] - found[n][0]) / (widest[n][1] - widest[n][0]) for n in widest]
    assert min(widths) < 1 and max(widths) < 1.02
    made = int8.write(source, file, found, activations=activations)
    assert made.settings["activations"] == f"{activations}, asymmetric"
    assert audit.faults(source, file, calibrated.batches, tmp_path, found) == ()
    model = onnx.load(file)
    scales = [q.input[1] for q in model.graph.node if q.op_type == "QuantizeLinear"]

    def wider(value: Any) -> None:
        value *= 1.5
    _change(model, scales[-1], wider)
    onnx.save(model, file)
    assert "range" in audit.faults(source, file, calibrated.batches, tmp_path, found)[0]


@pytest.mark.skipif(not by_nncf.installed(), reason="NNCF is not installed (pip install 'cnnexport[nncf]')")
def test_nncf_writes_int8_too(fresh: Path, calibrated: images.Calibration, tmp_path: Path, capfd: Any) -> None:
    asked: dict[str, Any] = {"calibration": "digits", "data": "digits", "max_drop": 3, "purpose": "size"}
    verdict = precision.quantize(fresh, "int8", quantizer="nncf", **asked)
    assert verdict.verdict == "ship" and verdict.settings["by"].startswith("nncf ") and verdict.faults == ()
    assert capfd.readouterr().out == "" and any("NNCF chose" in note for note in verdict.notes)
    source, file = fresh / "model.onnx", tmp_path / "m.onnx"
    model = onnx.load(Bundle.open(f"{fresh}#int8").file)

    def twice(value: Any) -> None:
        value *= 8
    _change(model, next(t.name for t in model.graph.initializer if t.name.startswith("scale_input")), twice)
    onnx.save(model, file)
    assert "range" in audit.faults(source, file, calibrated.batches, tmp_path, corrected=True)[0]
    model = onnx.load(Bundle.open(f"{fresh}#int8").file)

    def one(value: Any) -> None:
        value.reshape(-1)[0] ^= 64
    _change(model, next(t.name for t in model.graph.initializer
                        if t.data_type == TensorProto.INT8 and len(t.dims) == 4), one)
    onnx.save(model, file)
    assert "weight" in audit.faults(source, file, calibrated.batches, tmp_path, corrected=True)[0]


def test_what_stays_in_float32_is_audited_too(place: Path, calibrated: images.Calibration, tmp_path: Path) -> None:
    source, file = place / "b" / "model.onnx", tmp_path / "m.onnx"
    graph = onnx.load(source).graph
    kept = dict.fromkeys(int8.nodes_of(graph, "c3"), "asked")
    _int8(source, file, calibrated.batches, keep=kept)
    assert audit.faults(source, file, calibrated.batches, tmp_path) == ()
    model = onnx.load(file)

    def off(values: Any) -> None:
        values.reshape(-1)[5] *= np.float32(1.01)
    _change(model, next(n for n in graph.node if n.name in kept).input[1], off)
    onnx.save(model, file)
    assert "stayed in float32" in audit.faults(source, file, calibrated.batches, tmp_path)[0]


@pytest.mark.parametrize(("low", "kind"), [(1.1, "int8"), (0.9, "uint8")])
def test_the_faster_activations_are_taken_and_nothing_else_changes(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, low: float, kind: str
) -> None:
    real = measuring.speed

    def told(*given: Any, **more: Any) -> Any:
        found = real(*given, **more)
        return found if "sessions" not in more else structs.replace(found, speed_up_interval_95=(low, 2.0))

    monkeypatch.setattr(measuring, "speed", told)
    verdict = precision.quantize(fresh, "int8", calibration="digits", data="digits", max_drop=3, purpose="size")
    assert verdict.settings["activations"].startswith(kind) and verdict.settings["measured"]["interval_95"][0] == low
    assert verdict.faults == () and {k.node for k in verdict.kept} == {"predictions/Gemm", "predictions/Softmax"}
    stored = {t.name: t.data_type for t in onnx.load(Bundle.open(f"{fresh}#int8").file).graph.initializer}
    assert stored["predictions/kernel_quantized"] == TensorProto.INT8  # of the last product the output alone is float32


def test_a_layer_whose_channels_drown_goes_back_to_float32(tmp_path: Path) -> None:
    """One channel a hundred times the others' takes their steps: the search finds it, and leaves the rest in int8."""
    from cnnexport.architectures import weights

    model = package.build("vgg11", input_shape=(32, 32, 3), classes=10)
    weights.randomise(model, 0)
    one, two = model.get_layer("block2_conv1"), model.get_layer("block3_conv1")
    kernel, bias = one.get_weights()
    kernel[..., 0] *= 400
    bias[0] *= 400
    one.set_weights([kernel, bias])
    kernel, bias = two.get_weights()
    kernel[:, :, 0] /= 400
    two.set_weights([kernel, bias])
    model.save_weights(tmp_path / "w.weights.h5")
    package.convert("vgg11", weights=str(tmp_path / "w.weights.h5"), input_shape=(32, 32, 3), classes=10,
                    output=tmp_path / "b")
    asked: dict[str, Any] = {"calibration": "synthetic", "images": 16, "activations": "uint8", "purpose": "size"}
    with pytest.raises(RejectedError, match="standard deviations from float32's"):
        precision.quantize(tmp_path / "b", "int8", search=False, **asked)
    verdict = precision.quantize(tmp_path / "b", "int8", **asked)
    back = {kept.node.split("/")[0] for kept in verdict.kept if kept.reason.startswith("put back")}
    assert "block3_conv1" in back and back <= {"block2_conv1", "block2_pool", "block3_conv1"}
    assert verdict.verdict == "inconclusive" and verdict.fidelity.logits_rms < ALLOWED_RMS["int8"] / 2
    assert verdict.bytes < 0.35 * verdict.float_bytes


def test_a_quantised_softmax_does_not_ship(
    place: Path, calibrated: images.Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe as it comes: classes may agree, and small probabilities become 0."""
    monkeypatch.setattr(int8, "BETWEEN", (*int8.BETWEEN, "Softmax"))
    monkeypatch.setattr(int8, "end_of", lambda graph: (graph.node[0], set()))
    source = place / "b" / "model.onnx"
    _int8(source, tmp_path / "m.onnx", calibrated.batches)
    assert audit.faults(source, tmp_path / "m.onnx", calibrated.batches, tmp_path) == ()
    first, second = (Classifier.open(place / "b"), runtimes.get("ort").open(tmp_path / "m.onnx"))
    rows = first.session.run(None, (feeds := next(calibrated.batches())))[0], second.run(None, feeds)[0]
    near = measuring.fidelity(measuring.Answers(*map(scores, rows)), "digits", ALLOWED_RMS["int8"])
    assert near.logits_rms > near.allowed_rms and near.top_1_agreement > 0.9


def test_a_changed_weight_of_fp16_is_found(place: Path, tmp_path: Path) -> None:
    model = onnx.load(place / "b" / "model.fp16.onnx")
    name = next(t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16 and len(t.dims) == 4)

    def off(values: Any) -> None:
        values.reshape(-1)[3] *= np.float16(1.01)
    _change(model, name, off)
    onnx.save(model, tmp_path / "m.onnx")
    assert name in audit.faults(place / "b" / "model.onnx", tmp_path / "m.onnx", None, tmp_path)[0]


def test_a_fault_rejects_and_leaves_the_bundle_alone(
    fresh: Path, cnnexport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (fresh / "SHA256SUMS").read_bytes()
    monkeypatch.setattr(audit, "faults", lambda *a, **k: ("weight 'w' is off",))
    arguments = ("quantize", fresh, "--precision", "fp16", "--quiet")
    told = cnnexport(*arguments, "--json")
    facts = json.loads(told.out)
    assert (told.code, facts["exit_code"], facts["verdict"]) == (9, 9, "reject")
    assert told.err.count("\n") == 1 and "is rejected: weight 'w' is off" in told.err
    assert (fresh / "SHA256SUMS").read_bytes() == before and os.listdir(fresh.parent) == ["b"]
    assert cnnexport(*arguments, "--keep-rejected").code == 9
    kept = fresh.with_name("b.fp16.rejected")
    assert (fresh / "SHA256SUMS").read_bytes() == before and kept.is_dir()
    with pytest.raises(RejectedError, match="rejects 'fp16': weight 'w'"):
        Bundle.open(f"{kept}#fp16")
    assert cnnexport("verify", f"{kept}#fp16").code == 9 and cnnexport("verify", kept).code == 0


def test_a_verdict_is_of_one_file(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "b", tmp_path / "b")
    file = tmp_path / "b" / "verdict.json"
    facts = json.loads(file.read_text())
    facts["verdicts"][0]["model_sha256"] = "0" * 64
    bundle.write_json(file, facts)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["files"]["verdict.json"] = {"bytes": file.stat().st_size, "sha256": bundle.sha256(file)}
    bundle.write_json(tmp_path / "b" / "manifest.json", manifest)
    bundle.write_sums(tmp_path / "b")
    with pytest.raises(BundleError, match="of another 'int8'"):
        Bundle.open(f"{tmp_path / 'b'}#int8")
    (tmp_path / "b" / "model.int8.onnx").write_bytes(b"\0")
    with pytest.raises(BundleError, match="altered"):
        Bundle.open(tmp_path / "b")


# What fp16 overflows or loses.

def _graph(path: Path, nodes: list[Any], weights: dict[str, Any]) -> Path:
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 3, 8, 8]), ("y", None))]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:],
                              [numpy_helper.from_array(np.asarray(w, np.float32), n) for n, w in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _batches() -> Iterator[dict[str, Any]]:
    yield {"x": np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("what", ["product", "lrn", "pool"])
def test_what_fp16_cannot_hold_stays_in_float32(tmp_path: Path, what: str) -> None:
    rng = np.random.default_rng(1)
    large, small = rng.normal(size=(3, 3, 1, 1)) * 3e4, rng.normal(size=(3, 3, 1, 1)) / 3e4
    middle = {"product": helper.make_node("Relu", ["a"], ["b"], name="middle"),
              "lrn": helper.make_node("LRN", ["a"], ["b"], name="middle", size=5, alpha=1e-4, beta=0.75, bias=2.0),
              "pool": helper.make_node("GlobalAveragePool", ["a"], ["b"], name="middle")}[what]
    factor = {"product": 1.0, "lrn": 1 / 100, "pool": 1 / 10}[what]  # alone the operator's own sums are too large
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], name="first"), middle,
             helper.make_node("Conv", ["b", "v"], ["y"], name="second")]
    source = _graph(tmp_path / "m.onnx", nodes, {"w": large * factor, "v": small / factor})
    made = half.write_fp16(source, tmp_path / "half.onnx", _batches, tmp_path)
    names = {k.node for k in made.kept}
    assert "middle" in names and all("fp16 ends at" in k.reason or "error" in k.reason for k in made.kept)
    assert ("first" in names) == (what == "product")
    feeds = next(_batches())
    wanted, got = (runtimes.get("ort").open(tmp_path / n).run(None, feeds)[0] for n in ("m.onnx", "half.onnx"))
    assert np.isfinite(got).all() and np.abs(got - wanted).max() < 2e-2 * np.std(wanted)
    model = onnx.load(tmp_path / "half.onnx")
    assert any(t.data_type == TensorProto.FLOAT16 for t in model.graph.initializer) or what == "product"


# Statistics.

def test_the_interval_covers() -> None:
    """Exactly, over all outcomes of 40 images: 95 % on the whole, and never far below."""
    multinomial = pytest.importorskip("scipy.stats").multinomial

    count, covered = 40, []
    edges = {(b, c): paired.interval(b, c, count) for b in range(count + 1) for c in range(count + 1 - b)}
    for lost, gained in ((0.02, 0.02), (0.05, 0.02), (0.1, 0.1), (0.2, 0.05), (0.3, 0.0)):
        law = multinomial(count, [lost, gained, 1 - lost - gained])
        covered.append(sum(law.pmf([b, c, count - b - c]) for (b, c), (low, high) in edges.items()
                           if low <= lost - gained <= high))
    assert min(covered) > 0.92 and np.mean(covered) > 0.945, covered


def test_paired_statistics() -> None:
    binomtest = pytest.importorskip("scipy.stats").binomtest

    z = 1.959964**2
    assert paired.interval(0, 0, 100) == pytest.approx((-z / (100 + z), z / (100 + z)))
    assert paired.interval(7, 2, 300) == pytest.approx(tuple(-v for v in paired.interval(2, 7, 300)[::-1]))
    for lost, gained in ((0, 0), (5, 1), (40, 60), (600, 500)):
        wanted = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
        assert paired.p_value(lost, gained) == pytest.approx(wanted, rel=1e-9)
    need = paired.images_needed(0, 0, 355, 0.005)
    assert need == 765 and paired.interval(0, 0, need)[1] <= 0.005 < paired.interval(0, 0, need - 1)[1]
    assert paired.images_needed(5, 0, 355, 0.005) is None


@pytest.mark.parametrize(("lost", "gained", "count", "wanted"), [
    (0, 0, 10_000, "ship"), (10, 12, 10_000, "ship"), (0, 0, 300, "inconclusive"), (200, 20, 10_000, "reject"),
    (45, 5, 10_000, "inconclusive")])
def test_a_verdict_follows_the_whole_interval(lost: int, gained: int, count: int, wanted: str) -> None:
    from cnnexport.data import Dataset, Split

    labels = np.zeros(count, np.int64)
    part = Split(np.zeros((count, 1, 1)), labels)
    first, second = np.tile([1.0, 0.0], (count, 1)), np.tile([1.0, 0.0], (count, 1))
    second[:lost] = first[lost:lost + gained] = (0.0, 1.0)
    both = measuring.Answers(first, second)
    found = measuring.accuracy(both, labels, Dataset("d", "d", ("a", "b"), part, part, "0" * 64, ""), part, 0.5)
    near = measuring.fidelity(measuring.Answers(first, first), "d", 0.25)
    made = {"purpose": "size", "faults": (), "near": near, "speed": None, "size": 1, "float_size": 2}
    assert judge(untrained=False, accuracy=found, **made)[0] == wanted  # type: ignore[arg-type]
    assert judge(untrained=True, accuracy=found, **made)[0] == "inconclusive"  # type: ignore[arg-type]
    assert judge(untrained=False, accuracy=None, **made)[0] == "inconclusive"  # type: ignore[arg-type]
    told = judge(untrained=False, accuracy=found, **made)[1][0]  # type: ignore[arg-type]
    assert ("it would take" in told) == (wanted == "inconclusive") and found.flips.get("a", 0) == lost + gained


@pytest.mark.parametrize(("text", "wanted"), [
    ("processor: 0\nflags\t\t: fpu avx2 avx512_vnni\n", True), ("flags : fpu avx2 avx512f\n", False),
    ("Features : fp asimd asimddp\n", True), ("model name: x\n", None)])
def test_vnni_is_read_from_the_processor(text: str, wanted: bool | None) -> None:
    assert int8.vnni(text) is wanted


def test_weights_keep_to_seven_bits_without_vnni(
    place: Path, calibrated: images.Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "vnni", lambda: False)
    source = place / "b" / "model.onnx"
    assert _int8(source, tmp_path / "m.onnx", calibrated.batches).settings["reduce_range"] is True
    weights = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer
               if t.data_type == TensorProto.INT8 and t.name.endswith("_quantized")]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= 64
    monkeypatch.setattr(int8, "vnni", lambda: None)
    made = _int8(source, tmp_path / "m.onnx", calibrated.batches)
    assert made.settings["reduce_range"] is False and "not known" in made.notes[0]


# Bad input: one line each.

def test_bad_input_is_one_line(place: Path, tmp_path: Path, cnnexport: Any) -> None:
    x = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", x_train=x[:9], y_train=np.arange(9), x_test=x, y_test=np.arange(40) % 10)
    np.savez(tmp_path / "testonly.npz", x_test=x, y_test=np.arange(40) % 10)
    np.savez(tmp_path / "more.npz", x_train=x, y_train=np.arange(40), x_test=x, y_test=np.arange(40))
    np.savez(tmp_path / "colour.npz", x_train=np.zeros((40, 8, 8, 5), np.uint8), y_train=np.arange(40) % 10)
    b, fp32 = place / "b", place / "float32"
    to_int8 = ("--precision", "int8", "--calibration")
    for arguments, code, words in (
        ((fp32, "--precision", "int8"), 2, "trained on digits"),
        ((b, *to_int8, "digits"), 2, "has the model 'int8' already"),
        ((fp32, *to_int8, "few.npz"), 3, "9 training images, and ranges need 16"),
        ((fp32, *to_int8, "testonly.npz"), 3, "0 training images"),
        ((fp32, *to_int8, "more.npz"), 3, "label 39"),
        ((fp32, *to_int8, "colour.npz"), 3, "shape 40 x 8 x 8 x 5"),
        ((fp32, *to_int8, "nowhere"), 3, "no data set called 'nowhere'"),
        ((fp32, *to_int8, "digits", "--data", "more.npz"), 3, "label 39"),
        ((fp32, *to_int8, "digits", "--io", "same"), 2, "float32"),
        ((fp32, "--precision", "fp16", "--calibration", "digits"), 2, "has no ranges"),
        ((fp32, "--precision", "int4"), 2, "int4"),
        ((b / "model.int8.onnx", *to_int8, "digits"), 3, "is a file; give a bundle"),
        ((f"{b}#int8", *to_int8, "digits"), 2, "first model"),
        ((tmp_path, *to_int8, "digits"), 3, "without manifest.json"),
    ):
        told = cnnexport("quantize", *arguments, "--quiet")
        assert (told.code, told.err.count("\n")) == (code, 1), (arguments, told)
        assert words in told.err, (arguments, told.err)
    assert sorted(p.name for p in place.iterdir() if p.is_dir()) == ["b", "float32", "run"]
    assert not [p.name for p in place.iterdir() if p.name.startswith(".")]


def test_what_holds_nothing_to_quantise(tmp_path: Path, calibrated: images.Calibration, place: Path) -> None:
    source = _graph(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"], name="r")], {})
    for write in (lambda: int8.write(source, tmp_path / "o.onnx", {}),
                  lambda: half.write_fp16(source, tmp_path / "o.onnx", _batches, tmp_path),
                  lambda: half.write_bf16(source, tmp_path / "o.onnx")):
        with pytest.raises(InputError, match="nothing to quantise"):
            write()
    with pytest.raises(InputError, match="quantised already"):
        int8.write(place / "b" / "model.int8.onnx", tmp_path / "o.onnx", {})


def test_images_of_another_size_are_resized_and_it_says_so(calibrated: images.Calibration) -> None:
    assert any("(8x8) are resized to 32x32" in note for note in calibrated.notes)


def test_a_bundle_with_strangers_is_left_alone(fresh: Path) -> None:
    (fresh / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt, which is no part"):
        precision.quantize(fresh, "bf16")
    assert (fresh / "notes.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.skipif(not MNIST, reason="CNNEXPORT_MNIST10K names no .npz file")
def test_lenet_ships_in_int8_on_mnist(tmp_path: Path) -> None:
    package.train("lenet5", data=str(MNIST), epochs=3, output=tmp_path / "run")
    package.convert(tmp_path / "run", output=tmp_path / "b")
    verdict = precision.quantize(tmp_path / "b", "int8", calibration=str(MNIST), data=str(MNIST), purpose="size")
    assert verdict.verdict == "ship" and verdict.accuracy.drop_interval_95[1] <= 0.5
