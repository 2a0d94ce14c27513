"""Bundles appear whole or not at all, and say when a file was altered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnexport import bundle
from cnnexport.errors import BundleError, OutputError, UsageError


def _bundle(folder: Path, text: str = "old") -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_text(text)
    facts = {"bytes": len(text), "sha256": bundle.sha256(folder / "model.onnx")}
    bundle.write_json(folder / "manifest.json", {"files": {"model.onnx": facts}})
    return folder


def test_publish_replaces_a_bundle_whole(tmp_path: Path) -> None:
    target = _bundle(tmp_path / "b")
    (target / "left-over").write_text("x")
    with bundle.staging(target) as folder:
        (folder / "model.onnx").write_text("new")
        bundle.publish(folder, target)
    assert (target / "model.onnx").read_text() == "new"
    assert sorted(p.name for p in target.iterdir()) == ["model.onnx"]
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_publish_without_the_exchanging_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = _bundle(tmp_path / "b")
    monkeypatch.setattr(bundle.sys, "platform", "darwin")
    with bundle.staging(target) as folder:
        (folder / "model.onnx").write_text("new")
        bundle.publish(folder, target)
    assert (target / "model.onnx").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_failure_leaves_the_old_bundle_and_nothing_else(tmp_path: Path) -> None:
    target = _bundle(tmp_path / "b")
    with pytest.raises(RuntimeError), bundle.staging(target) as folder:
        (folder / "model.onnx").write_text("half")
        raise RuntimeError
    assert (target / "model.onnx").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("name", ["b", "m[1]", "a*?"])
def test_a_later_run_clears_what_a_killed_one_left(tmp_path: Path, name: str) -> None:
    # Whatever its number: of a process in another container it says nothing, and that of a dead one is given out again.
    partial = tmp_path / f".{name}.partial-{os.getppid()}"
    partial.mkdir()
    stranger = tmp_path / f".{name}.partial-mine"
    stranger.mkdir()
    _bundle(tmp_path / f".{name}.old-123", "rescued")
    with pytest.raises(UsageError, match="exists already"), bundle.reserved(tmp_path / name):
        bundle.refuse_existing(tmp_path / name, force=False)
    # The kill fell between two renames: the old bundle is back.
    assert (tmp_path / name / "model.onnx").read_text() == "rescued"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, stranger.name])


def test_one_writer_at_a_time_and_no_other_place_is_kept_from_writing(tmp_path: Path) -> None:
    hold = ("import sys, time; from pathlib import Path; from cnnexport import bundle\n"
            "with bundle.reserved(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)")
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "b")], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        staged = tmp_path / f".b.partial-{other.pid}"
        staged.mkdir()
        with pytest.raises(UsageError, match="another cnnexport is writing"), bundle.reserved(tmp_path / "b"):
            pass
        with bundle.reserved(tmp_path / "b2"):
            pass
        assert staged.exists()
    finally:
        other.kill()
        other.wait()
    with bundle.reserved(tmp_path / "b"):
        assert not staged.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with bundle.reserved(tmp_path / "b"), bundle.staging(tmp_path / "b") as folder:
        _bundle(tmp_path / "b")
        with pytest.raises(UsageError, match="--force"):
            bundle.publish(folder, tmp_path / "b", replace=False)
    assert (tmp_path / "b" / "model.onnx").read_text() == "old"


def test_folders_made_for_nothing_go_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), bundle.reserved(tmp_path / "new" / "deep" / "b"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_bundles_only(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    bundle.refuse_existing(folder, force=False)  # an empty folder is as good as none
    (folder / "cat.jpg").write_text("x")
    with pytest.raises(UsageError, match="no bundle"):
        bundle.refuse_existing(folder, force=True)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UsageError, match="no folder"):
        bundle.refuse_existing(file, force=True)
    target = _bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="--force"):
        bundle.refuse_existing(target, force=False)
    bundle.refuse_existing(target, force=True)


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"), bundle.staging(tmp_path / "file" / "b"):
        pass


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_forbidden_place(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="Permission denied"), bundle.staging(tmp_path / "b"):
            pass
    finally:
        tmp_path.chmod(0o755)


def test_require_space(tmp_path: Path) -> None:
    bundle.require_space(tmp_path, 1)
    with pytest.raises(OutputError, match="MB free"):
        bundle.require_space(tmp_path, 10**18)


def test_set_aside_keeps_strangers(tmp_path: Path) -> None:
    for text, expected in (("1", "b.rejected"), ("2", "b.rejected")):
        with bundle.staging(tmp_path / "b") as folder:
            (folder / "parity.json").write_text(text)
            assert bundle.set_aside(folder, tmp_path / "b").name == expected
    assert (tmp_path / "b.rejected" / "parity.json").read_text() == "2"
    (tmp_path / "b.rejected" / "parity.json").unlink()
    with bundle.staging(tmp_path / "b") as folder:
        (folder / "parity.json").write_text("3")
        assert bundle.set_aside(folder, tmp_path / "b").name == "b.rejected-2"


def test_altered_files_are_named(tmp_path: Path) -> None:
    target = _bundle(tmp_path / "b")
    bundle.check_files(target, bundle.read_manifest(target))
    (target / "model.onnx").write_text("olD")
    with pytest.raises(BundleError, match=r"model\.onnx was altered"):
        bundle.check_files(target, bundle.read_manifest(target))
    (target / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"no model\.onnx"):
        bundle.check_files(target, bundle.read_manifest(target))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 3}', "\x00"])
def test_broken_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        bundle.read_manifest(tmp_path)


def test_manifest_cannot_point_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    target = tmp_path / "b"
    target.mkdir()
    facts = {"bytes": 1, "sha256": bundle.sha256(tmp_path / "secret")}
    (target / "manifest.json").write_text(json.dumps({"files": {"../secret": facts}}))
    with pytest.raises(BundleError, match="no file inside it"):
        bundle.check_files(target, bundle.read_manifest(target))
