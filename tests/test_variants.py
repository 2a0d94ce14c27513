"""A variant made with its bundle, what is told of it layer by layer, and how commands tell variants apart."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnexport import bundle, onnx_file, pipeline, precision
from cnnexport.bundle import Bundle
from cnnexport.bundle.layer_records import LayerError, LayerTime, LayerTimes
from cnnexport.bundle.records import Kept, VariantVerdict
from cnnexport.errors import InputError
from cnnexport.precision import audit, shown, times
from cnnexport.precision.layers import owner

Run = Callable[..., Any]


def test_convert_makes_a_variant_with_the_bundle(tmp_path: Path, cnnexport: Run) -> None:
    arguments = ("convert", "lenet5", "-o", "b", "--precision", "int8", "--calibration", "digits",
                 "--calibration-images", "32", "--for", "size", "--keep", "c1", "--seed", "3")
    told = cnnexport(*arguments, "--json")
    facts = json.loads(told.out)
    variant = Bundle.open(f"{tmp_path / 'b'}#int8")
    assert (told.code, facts["exit_code"], facts["error"]) == (0, 0, None) and facts["bundle"] == "b"
    assert facts["parity"]["passed"] and facts["variant"]["model_sha256"] == variant.sha256
    verdict = variant.verdict
    assert 16 <= len(verdict.calibration.indices) <= 32 and verdict.purpose == "size"
    assert variant.about.provenance.seed == 3
    assert ("c1/Conv", "--keep c1") in {(k.node, k.reason) for k in verdict.kept}
    assert told.err.count("\n") == 1 and "warning: inconclusive" in told.err
    again = cnnexport(*arguments, "--force")  # replaces the bundle, variant and all
    assert again.code == 0 and "parity   passed" in again.out and "inconclusive: int8" in again.out
    assert "ranges minmax; by onnxruntime.quantization" in again.out
    assert Bundle.open(f"{tmp_path / 'b'}#int8").sha256 == variant.sha256


def test_a_rejected_variant_leaves_the_bundle(
    tmp_path: Path, cnnexport: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "faults", lambda *a, **k: ("weight 'w' is off",))
    arguments = ("convert", "lenet5", "-o", "b", "--precision", "int8", "--calibration", "synthetic", "--force")
    told = cnnexport(*arguments, "--json")
    facts = json.loads(told.out)
    assert (told.code, facts["exit_code"], facts["variant"]["verdict"]) == (9, 9, "reject")
    assert told.err.count("\n") == 1 and "rejected: " in told.err and "b stays published, in float32 alone" in told.err
    assert facts["error"] in told.err
    assert [m.id for m in Bundle.open(tmp_path / "b").models] == ["float32"]
    text = cnnexport(*arguments, "--keep-rejected")
    assert text.code == 9 and "parity   passed" in text.out and "reject: int8" in text.out
    assert sorted(os.listdir(tmp_path)) == ["b", "b.int8.rejected"]


def test_what_fails_after_the_conversion_leaves_the_bundle(
    tmp_path: Path, cnnexport: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*a: Any, **k: Any) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(precision, "quantize", full)
    told = cnnexport("convert", "lenet5", "-o", "b", "--precision", "bf16", "--json")
    assert (told.code, json.loads(told.out)["exit_code"], told.err.count("\n")) == (2, 2, 1)
    assert "No space left" in told.err and "stays published" in told.err
    assert Bundle.open(tmp_path / "b").proof.passed


def test_what_quantize_would_refuse_is_refused_first(
    tmp_path: Path, cnnexport: Run, monkeypatch: pytest.MonkeyPatch, trained_cnn: Any
) -> None:
    x = np.zeros((40, 8, 8), np.uint8)
    np.savez(tmp_path / "few.npz", x_train=x[:9], y_train=np.arange(9), x_test=x, y_test=np.arange(40) % 10)
    np.savez(tmp_path / "more.npz", x_train=x, y_train=np.arange(40), x_test=x, y_test=np.arange(40))
    np.savez(tmp_path / "notest.npz", x_train=x, y_train=np.arange(40) % 10)
    trained_cnn.save(tmp_path / "own.keras")

    def converted(*a: Any, **k: Any) -> None:
        raise AssertionError("converted")

    monkeypatch.setattr("cnnexport.conversion.convert_model", converted)
    to_int8 = ("lenet5", "--precision", "int8", "--calibration")
    for arguments, code, words in (
        (("lenet5", "--calibration", "digits", "--max-drop", "1", "--calibration-images", "20"), 2,
         "and --max-drop and --calibration-images without --precision"),
        (("lenet5", "--keep-rejected"), 2, "without --precision"),
        (("--all", "--precision", "fp16"), 2, "--all converts alone"),
        (("lenet5", "--no-top", "--precision", "fp16"), 2, "--no-top leaves that out"),
        (("lenet5", "--precision", "int4"), 2, "int4"),
        (("lenet5", "--precision", "int8"), 2, "give --calibration"),
        (("lenet5", "--precision", "fp16", "--calibration", "digits"), 2, "has no ranges"),
        (("lenet5", "--precision", "fp16", "--keep", "c1"), 2, "measures what to keep"),
        (("lenet5", "--precision", "bf16", "--io", "same"), 2, "does not go with bf16"),
        (("lenet5", "--precision", "bf16", "--data", "nowhere"), 3, "no data set called 'nowhere'"),
        ((*to_int8, "nowhere"), 3, "no data set called 'nowhere'"),
        ((*to_int8, "few.npz"), 3, "ranges need 16"),
        ((*to_int8, "more.npz"), 3, "label 39"),
        ((*to_int8, "digits", "--data", "more.npz"), 3, "label 39"),
        ((*to_int8, "digits", "--keep", "c9"), 2, "no such layer"),
        (("own.keras", "--precision", "fp16"), 3, "nothing says how images become the input"),
    ):
        told = cnnexport("convert", *arguments, "-o", "b")
        assert (told.code, told.err.count("\n")) == (code, 1), (arguments, told)
        assert words in told.err, (arguments, told.err)
        assert not (tmp_path / "b").exists()


def test_the_model_is_shown_before_it_is_converted(tmp_path: Path) -> None:
    seen: list[Any] = []

    def refuse(known: Any) -> None:
        seen.append(known.model.count_params())
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        pipeline.convert("lenet5", output=tmp_path / "b", accept=refuse)
    assert seen == [61_706] and not list(tmp_path.iterdir())


# Layer by layer.

@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-18 at 64x64 with random weights, in int8 with a layer kept, and in fp16."""
    place = tmp_path_factory.mktemp("variants") / "b"
    pipeline.convert("resnet18", input_shape=(64, 64, 3), classes=10, output=place)
    precision.quantize(place, "int8", calibration="synthetic", images=16, keep=["conv3_block1_2_conv"], purpose="size")
    precision.quantize(place, "fp16")
    return place


def _verdict(place: Path, variant: str) -> VariantVerdict:
    found = Bundle.open(f"{place}#{variant}").verdict
    assert found is not None
    return found


def test_each_layer_has_its_time_in_both_files(place: Path) -> None:
    for variant, most in (("int8", 0.1), ("fp16", 0.25)):
        verdict = _verdict(place, variant)
        facts = verdict.times
        assert facts is not None
        rows = {row.layer: row for row in facts.layers}
        # An activation runs in the convolution before it, a sum in the later of its convolutions.
        assert rows["conv1_conv"].within == ("conv1_relu",) and rows["pool1_pool"].within == ()
        assert rows["conv2_block1_2_conv"].within == ("conv2_block1_add", "conv2_block1_out")
        names = [name for row in facts.layers for name in (row.layer, *row.within)]
        assert len(names) == len(set(names)) and len([n for n in names if n.endswith("_conv")]) == 20
        assert all(row.float_ms > 0 and row.variant_ms > 0 for row in facts.layers), rows
        # All of a run is somewhere, and most of it in layers.
        named, whole = sum([r.variant_ms for r in facts.layers]), verdict.speed.variant_ms
        assert facts.other_variant_ms < most * (named + facts.other_variant_ms)
        assert 0.3 * whole < named + facts.other_variant_ms < 3 * whole
        assert facts.other_float_ms < 0.05 * sum([r.float_ms for r in facts.layers])
    assert (facts.batch, facts.threads, facts.sessions) == (1, 1, times.SESSIONS)


def test_a_layer_kept_in_float32_is_marked(place: Path) -> None:
    verdict = _verdict(place, "int8")
    assert [error.layer for error in verdict.layers if error.kept] == ["conv3_block1_2_conv"]
    assert not any(error.kept for error in _verdict(place, "fp16").layers)
    names = {layer.layer for layer in verdict.layers}
    # What --keep takes: the layer that nodes are named after, not the normalisation folded into it.
    assert "conv2_block1_2_conv" in names and "conv2_block1_2_bn" not in names
    row = next(row for row in verdict.times.layers if row.layer == "conv3_block1_2_conv")
    told = [note for note in verdict.notes if "conv3_block1_2_conv" in note]
    assert bool(told) == times.rounded(row) and "predictions" not in "".join(told)


def test_the_layers_are_drawn_in_the_bundle(place: Path) -> None:
    import xml.etree.ElementTree as tree

    found = Bundle.open(place)
    assert {"layers.svg", "layers.int8.svg", "layers.fp16.svg"} <= set(found.about.files) and not found.strangers
    drawn = tree.fromstring((place / "layers.int8.svg").read_text())
    verdict = _verdict(place, "int8")
    mark = "{http://www.w3.org/2000/svg}"
    told = [str(title.text) for title in drawn.iter(f"{mark}title")]
    for error in verdict.layers:
        kept = ", kept in float32" if error.kept else ""
        assert f"{error.layer}: {error.sqnr_db:.1f} dB{kept}" in told
    assert len(list(drawn.iter(f"{mark}circle"))) == len(verdict.layers) - 1
    assert sum(t.endswith("ms in float32") for t in told) == sum(t.endswith("ms in int8") for t in told) == len(
        verdict.times.layers)
    assert "layers.int8.svg" in (place / "README.md").read_text()


def test_a_variant_made_again_has_a_picture_of_its_own(tmp_path: Path) -> None:
    pipeline.convert("lenet5", output=tmp_path / "b")
    precision.quantize(tmp_path / "b", "bf16")
    before = (tmp_path / "b" / "layers.bf16.svg").read_bytes()
    precision.quantize(tmp_path / "b", "bf16", force=True)
    assert (tmp_path / "b" / "layers.bf16.svg").read_bytes() != before  # its times are measured
    found = Bundle.open(tmp_path / "b")
    assert found.about.files["layers.bf16.svg"] == bundle.file_facts(tmp_path / "b" / "layers.bf16.svg")


def test_inspect_of_a_variant(place: Path, cnnexport: Run) -> None:
    told = cnnexport("inspect", f"{place}#int8")
    lines = told.out.splitlines()
    assert told.code == 0 and "Models      float32; int8 inconclusive; fp16 inconclusive" in lines
    row = next(line for line in lines if line.startswith("conv3_block1_2_conv"))
    assert "kept in float32" in row and len(row.split()) > 5
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("layer ")):]
    assert table[0].split() == ["layer", "dB", "float32", "ms", "int8", "ms", "times"] and max(map(len, table)) <= 100
    facts = json.loads(cnnexport("inspect", f"{place}#int8", "--json").out)
    assert facts["bundle"] and facts["verdict"]["model_sha256"] == facts["sha256"]
    first = json.loads(cnnexport("inspect", place, "--json").out)
    assert first["verdict"] is None and set(first["models"]) == {"float32", "int8", "fp16"}
    # Weights in integers are parameters, and scales are not.
    assert abs(facts["parameters"] / first["parameters"] - 1) < 1e-5
    assert onnx_file.inspect_onnx(place / "model.onnx").models == {}


@pytest.mark.parametrize(("node", "wanted"), [
    ("a/b/Conv_nchwc", "a/b"), ("a/Conv", "a"), ("a", "a"), ("ab/Conv", None), ("ReorderOutput", None), ("", None)])
def test_a_node_carries_the_name_of_its_layer(node: str, wanted: str | None) -> None:
    assert owner(node, {"a", "a/b"}) == wanted


def test_layers_without_decibels_or_times_are_shown_as_such(place: Path) -> None:
    from msgspec import structs

    verdict = _verdict(place, "int8")
    row = LayerTime(layer="<a> & \x1bb", within=("c",), float_ms=1.0, variant_ms=0.0)
    alone = LayerTimes(runtime="r", batch=1, threads=2, sessions=1, runs=1, layers=(row,), other_float_ms=0.0,
                       other_variant_ms=0.0)
    timed = structs.replace(verdict, layers=(), times=alone)
    assert "&lt;a&gt; &amp;  b" in str(shown.picture("n", timed)) and "<a> &  b" in shown.table(timed)
    exact = structs.replace(verdict, layers=(LayerError(layer="x", tensor="t", sqnr_db=200.0),), times=None)
    assert "exact" in shown.table(exact) and shown.picture("n", exact) is not None
    nothing = structs.replace(verdict, layers=(), times=None, kept=(Kept(node="n", operator="o", reason="r"),))
    assert shown.picture("n", nothing) is None and shown.table(nothing) == ""


# Rows.

@pytest.fixture(scope="module")
def rows(place: Path) -> Path:
    """A saved run of int8 and the first model, named in that order, and of fp16."""
    from cnnexport import bench

    saved = place.parent / "rows.json"
    outcome = bench.bench([f"{place}#int8", str(place), f"{place}#fp16"], save=saved, min_time=0.05, max_time=5,
                          precision=0.5)
    assert outcome.exit_code == 0, outcome.errors
    return saved


def test_rows_of_variants_are_told_apart(rows: Path, cnnexport: Run) -> None:
    made = json.loads(rows.read_text())["benchmarks"]
    assert [row["extra_info"]["name"] for row in made] == ["resnet18#int8", "resnet18", "resnet18#fp16"]
    told = cnnexport("report", rows, "--format", "md").out
    table, beside = told.split("Beside the first model of the bundle:")
    assert "| resnet18#int8 | int8 | inconclusive |" in table and "| resnet18 | float32 | verified |" in table
    lines = [line.split(" | ") for line in beside.strip().splitlines()]
    assert lines[0] == ["| model", "precision", "verdict", "times as fast", "95 % interval |"]
    assert [line[0] for line in lines[2:]] == ["| resnet18#int8", "| resnet18#fp16"]
    medians = {row["extra_info"]["name"]: float(np.median(row["stats"]["data"])) for row in made}
    for line in lines[2:]:
        wanted = medians["resnet18"] / medians[line[0].removeprefix("| ")]
        assert float(line[3]) == pytest.approx(wanted, abs=0.006)
    assert cnnexport("report", rows, "-o", "page.html").code == 0
    page = Path("page.html").read_text()
    assert "<h2>Beside the first model</h2>" in page and "No parity record proves" not in page
    assert "Inconclusive: resnet18#int8, resnet18#fp16." in page
    header, *values = cnnexport("report", rows, "--format", "csv").out.splitlines()
    assert header.endswith(",precision") and [line.rpartition(",")[2] for line in values] == ["int8", "float32", "fp16"]


def test_compare_tells_variants_apart(rows: Path, cnnexport: Run, tmp_path: Path) -> None:
    told = cnnexport("compare", rows, rows)
    lines = {line.split()[0]: line for line in told.out.splitlines()}
    assert told.code == 0 and len([name for name in lines if name.startswith("test_latency")]) == 3
    assert "int8, verdict inconclusive" in lines[next(name for name in lines if "#int8" in name)]
    document = json.loads(rows.read_text())
    document["benchmarks"] = [row for row in document["benchmarks"] if row["extra_info"]["name"] != "resnet18"]
    document["benchmarks"][0]["extra_info"]["parity"]["verdict"] = "ship"
    (tmp_path / "new.json").write_text(json.dumps(document))
    facts = json.loads(cnnexport("compare", rows, "new.json", "--json").out)
    assert [(c["precision"], c["status"]) for c in facts["changes"]] == [("int8", "ship"), ("fp16", "inconclusive")]
    assert facts["changes"][0]["note"] == "int8, verdict ship, was inconclusive" and len(facts["missing"]) == 1


def test_labels_of_two_bundles_and_their_variants(place: Path, tmp_path: Path) -> None:
    from cnnexport.bench import plan
    from cnnexport.bench.subjects import subject

    shutil.copytree(place, tmp_path / "other")
    named = [subject(str(target)) for target in (f"{place}#int8", place, tmp_path / "other")]
    where = [str(path).strip("/").replace("/", ".") for path in (place, tmp_path / "other")]
    assert plan.labels_of(named[:2]) == ["resnet18#int8", "resnet18"]
    assert plan.labels_of(named) == [f"{where[0]}#int8", *where]
    assert plan.labels_of([named[1], named[1]])[1].endswith("#2")


def test_a_variant_named_twice_is_one_line(place: Path, cnnexport: Run) -> None:
    for arguments, words in (
        (("bench", f"{place}#int8", "--variant", "all"), "names the model 'int8' already"),
        (("bench", f"{place}#int8", "--variant", "fp16"), "names the model 'int8' already"),
        (("verify", f"{place}#int8", "--variant", "fp16"), "names the model 'int8' already"),
        (("bench", place / "model.onnx", "--variant", "int8"), "is a file, and --variant is of bundles"),
        (("bench", place / "model.onnx", "--variant", "all"), "is a file, and --variant is of bundles"),
    ):
        told = cnnexport(*arguments)
        assert (told.code, told.err.count("\n")) == (2, 1) and words in told.err, (arguments, told)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_runs_variants_side_by_side(place: Path, cnnexport: Run) -> None:
    told = cnnexport("bench", place, "--variant", "all", "--runtime", "openvino", "--min-time", "0.05", "--max-time",
                     "6", "--precision-goal", "50%")
    assert told.code == 0 and "Beside the first model of the bundle:" in told.out, told.err
    assert [line.split()[0] for line in told.out.splitlines()[1:4]] == ["resnet18", "resnet18#int8", "resnet18#fp16"]


def test_what_is_too_large_is_refused_before_it_is_converted(
    tmp_path: Path, cnnexport: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As models above 2 GB are, whose weights lie in a file beside them: ONNX Runtime's tools do not write those."""
    monkeypatch.setattr(precision.ahead, "MOST_BYTES", 100_000)
    told = cnnexport("convert", "lenet5", "-o", "b", "--precision", "bf16")
    assert (told.code, told.err.count("\n")) == (3, 1) and "models above 2 GB are not quantised yet" in told.err
    assert not (tmp_path / "b").exists()
