"""Bundles appear whole or not at all, and say when a file was altered."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnexport import bundle
from cnnexport.bundle import publishing, records
from cnnexport.errors import BundleError, InputError, OutputError, ParityError, UsageError
from tests.bundles import complete, manifest, parity


def _bundle(folder: Path, text: str = "old") -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_text(text)
    return complete(folder)


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
    monkeypatch.setattr(publishing.sys, "platform", "darwin")
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
    assert bundle.Bundle.open(target).about.name == "b"
    (target / "model.onnx").write_text("olD")
    for refresh in (lambda: None, lambda: bundle.write_sums(target)):
        refresh()
        with pytest.raises(BundleError, match=r"model\.onnx was altered"):
            bundle.Bundle.open(target)
    (target / "model.onnx").unlink()
    bundle.write_sums(target)
    with pytest.raises(BundleError, match=r"no model\.onnx"):
        bundle.Bundle.open(target)


def test_one_policy_for_what_is_missing(tmp_path: Path) -> None:
    """What is no bundle, an incomplete one, a newer one and one that did not pass are told apart in one place."""
    with pytest.raises(InputError, match="does not exist"):
        bundle.Bundle.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="folder without manifest"):
        bundle.Bundle.open(tmp_path / "empty")
    target = _bundle(tmp_path / "b")
    bundle.write_record(target / "parity.json", parity(target, passed=False, reason="different"))
    bundle.write_sums(target)
    with pytest.raises(ParityError, match="did not pass"):
        bundle.Bundle.open(target)
    assert not bundle.Bundle.open(target, proven=False).proof.passed
    (target / "parity.json").unlink()
    bundle.write_sums(target)
    with pytest.raises(BundleError, match=r"no parity\.json"):
        bundle.Bundle.open(target)
    newer = json.loads((target / "manifest.json").read_text()) | {"schema_version": 99, "unheard": "of"}
    bundle.write_json(target / "manifest.json", newer)
    bundle.write_sums(target)
    with pytest.raises(BundleError, match="schema version 99, and this cnnexport reads up to 2"):
        bundle.Bundle.open(target)


def test_old_bundles_open_and_several_models_are_listed(tmp_path: Path) -> None:
    target = _bundle(tmp_path / "b")
    old = json.loads((target / "manifest.json").read_text()) | {"schema_version": 1}
    del old["models"], old["layers"], old["evaluation"]
    bundle.write_json(target / "manifest.json", old)
    bundle.write_sums(target)
    (model,) = bundle.Bundle.open(target).models
    assert (model.id, model.file, model.precision) == ("float32", "model.onnx", "float32")
    both = [{"id": "float32", "file": "model.onnx", "precision": "float32", "parity": "parity.json"},
            {"id": "int8", "file": "model.int8.onnx", "precision": "int8", "parity": "parity.json"}]
    bundle.write_json(target / "manifest.json", old | {"schema_version": 2, "models": both})
    bundle.write_sums(target)
    with pytest.raises(BundleError, match="'float32' without its files"):
        bundle.Bundle.open(target)
    files = {name: {"bytes": (target / name).stat().st_size, "sha256": bundle.sha256(target / name)}
             for name in ("model.onnx", "parity.json")}
    files["model.int8.onnx"] = files["model.onnx"]
    (target / "model.int8.onnx").write_bytes((target / "model.onnx").read_bytes())
    bundle.write_json(target / "manifest.json", old | {"schema_version": 2, "models": both, "files": files})
    bundle.write_sums(target)
    opened = bundle.Bundle.open(target)
    assert [m.id for m in opened.models] == ["float32", "int8"] and opened.file == target / "model.onnx"


@pytest.mark.skipif(tuple(map(int, importlib.metadata.version("msgspec").split(".")[:2])) < (0, 22),
                    reason="older versions of msgspec write the same schema in other words")
@pytest.mark.parametrize("kind", [records.Manifest, records.Parity, records.Verdicts])
def test_the_schemas_are_those_of_the_records(kind: type) -> None:
    """They are written as ``json.dumps(records.schema(kind), indent=1)``."""
    file = Path(bundle.__file__).with_name(f"{kind.__name__.lower()}.schema.json")
    assert json.loads(file.read_text()) == records.schema(kind)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 3}', "\x00"])
def test_broken_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        bundle.read_manifest(tmp_path)


def test_manifest_cannot_point_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    target = _bundle(tmp_path / "b")
    bundle.write_record(target / "manifest.json", manifest({"../secret": tmp_path / "secret"}))
    bundle.write_sums(target)
    with pytest.raises(BundleError, match="no file inside it"):
        bundle.Bundle.open(target)
