"""A variant made with its bundle, what is told of it layer by layer, and how commands tell variants apart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnexport import pipeline, precision
from cnnexport.bundle import Bundle
from cnnexport.errors import InputError

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
    assert Bundle.open(f"{tmp_path / 'b'}#int8").sha256 == variant.sha256


def test_a_rejected_variant_leaves_the_bundle(tmp_path: Path, cnnexport: Run) -> None:
    """LeNet-5 in int8 is slower than in float32."""
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
