"""`cnnexport compare`: a gate on intervals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_report import document


def save(path: Path, whole: dict[str, Any]) -> Path:
    path.write_text(json.dumps(whole))
    return path


def test_the_same_machine_twice(cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    old, new = save(tmp_path / "a.json", document(seed=1)), save(tmp_path / "b.json", document(seed=2))
    for pair in ((old, new), (new, old), (old, old)):
        result = cnnexport("compare", *pair)
        assert result.code == 0 and result.out.count("within the limit") == 4 and not result.err
    found = json.loads(cnnexport("compare", old, new, "--json").out)
    assert not found["regressed"] and all(c["low"] < 1 < c["high"] for c in found["changes"])


def test_a_slower_run_exits_with_7(cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    old, new = save(tmp_path / "a.json", document()), save(tmp_path / "b.json", document(factor=1.2, seed=3))
    result = cnnexport("compare", old, new, "--fail-over", "5%")
    assert result.code == 7 and "4 of 4 rows" in result.err and "regressed" in result.out
    assert cnnexport("compare", old, new, "--fail-over", "0.3").code == 0
    quicker = cnnexport("compare", new, old, "--json")
    assert quicker.code == 0 and {c["verdict"] for c in json.loads(quicker.out)["changes"]} == {"faster"}


def test_noise_is_no_regression(cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    """8 % slower by the points, but the sessions of each run differ by more: nothing is claimed."""
    old, new = document(("m",)), document(("m",), factor=1.08, seed=4)
    for whole in (old, new):
        for row in whole["benchmarks"]:
            row["extra_info"]["sessions"] = [{"runs": 100}] * 5
            data = row["stats"]["data"]
            row["stats"]["data"] = [x * (1 + 0.1 * (i // 100 - 2)) for i, x in enumerate(data)]
    result = cnnexport("compare", save(tmp_path / "a.json", old), save(tmp_path / "b.json", new))
    assert result.code == 0 and result.out.count("inconclusive") == 2


def test_throughput_regresses_when_it_falls(cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    paths = []
    for name, factor in (("a", 1.0), ("b", 1.25)):
        whole = document(("m",), factor=factor)
        for row in whole["benchmarks"]:
            row["extra_info"]["scenario"] = "throughput"
        paths.append(save(tmp_path / f"{name}.json", whole))
    result = cnnexport("compare", *paths, "--json")
    assert result.code == 7
    changes = json.loads(result.out)["changes"]
    assert all(c["figure"] == "images/s" and c["ratio"] == pytest.approx(1.25) for c in changes)


def test_different_machines_are_refused(cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    old = save(tmp_path / "a.json", document())
    new = save(tmp_path / "b.json", document(identity={"cpu": "Other", "usable cores": 2}))
    result = cnnexport("compare", old, new)
    assert result.code == 2 and "cpu: A and Other" in result.err and "--allow-different-machines" in result.err
    assert "cores" not in result.err
    allowed = cnnexport("compare", old, new, "--allow-different-machines")
    assert allowed.code == 0 and "machines differ: cpu: A and Other" in allowed.out


def test_rows_in_one_file_alone(cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    old = save(tmp_path / "a.json", document(("m", "gone")))
    new = save(tmp_path / "b.json", document(("m", "fresh")))
    found = json.loads(cnnexport("compare", old, new, "--json").out)
    assert [len(found[k]) for k in ("changes", "missing", "added")] == [2, 2, 2]
    others = [save(tmp_path / f"{name}.json", document((name,))) for name in ("x", "y")]
    result = cnnexport("compare", *others)
    assert result.code == 3 and "share no row" in result.err


@pytest.mark.parametrize("arguments", [
    ("--fail-over", "x"), ("--fail-over", "0"), ("--fail-over", "5"), ("--fail-over", "-5%")])
def test_bad_limits(cnnexport: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = save(tmp_path / "a.json", document())
    result = cnnexport("compare", path, path, *arguments)
    assert result.code == 2 and "5%" in result.err
