"""AlexNet's own operators, against the paper's formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """AlexNet's features at its smallest size, with groups and without."""
    from cnnexport import convert

    place = tmp_path_factory.mktemp("alexnet")
    return {groups: convert("alexnet", include_top=False, input_shape=(67, 67, 3), groups=groups,
                            output=place / str(groups)).path for groups in (True, False)}


def _nodes(path: Path, kind: str) -> list[dict[str, Any]]:
    import onnx

    graph = onnx.load(path / "model.onnx").graph
    return [{a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for n in graph.node if n.op_type == kind]


def test_lrn_is_one_operator_with_the_papers_constants(bundles: dict[bool, Path]) -> None:
    """ONNX divides alpha by the size; the paper does not: 5 * 1e-4."""
    for node in _nodes(bundles[True], "LRN"):
        assert node == {"size": 5, "bias": 2.0, "alpha": pytest.approx(5e-4), "beta": 0.75}
    assert len(_nodes(bundles[True], "LRN")) == 2


def test_groups_are_the_papers(bundles: dict[bool, Path]) -> None:
    assert [node.get("group", 1) for node in _nodes(bundles[True], "Conv")] == [1, 2, 1, 2, 2]
    assert [node.get("group", 1) for node in _nodes(bundles[False], "Conv")] == [1] * 5
    options = [json.loads((path / "manifest.json").read_text())["options"]["groups"] for path in bundles.values()]
    assert options == [True, False]


def test_lrn_computes_the_papers_formula(tmp_path: Path) -> None:
    """In Keras, and in ONNX Runtime after conversion; values large enough that LRN is far from the identity."""
    import keras
    import onnxruntime

    from cnnexport import convert
    from cnnexport.keras_files.own_layers import LocalResponseNormalization

    x = np.random.default_rng(0).uniform(0, 200, (2, 4, 5, 9)).astype(np.float32)
    expected = np.empty_like(x, dtype=np.float64)
    for i in range(9):
        around = x[..., max(0, i - 2):min(8, i + 2) + 1].astype(np.float64)
        expected[..., i] = x[..., i] / (2 + 1e-4 * (around**2).sum(-1)) ** 0.75
    image = keras.Input((4, 5, 9))
    model = keras.Model(image, LocalResponseNormalization(name="lrn")(image))
    np.testing.assert_allclose(np.asarray(model(x)), expected, rtol=1e-5)
    path = convert(model, output=tmp_path / "lrn").path
    session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: x})[0], expected, rtol=1e-5)


def test_even_sizes_are_refused() -> None:
    from cnnexport.keras_files.own_layers import LocalResponseNormalization

    with pytest.raises(ValueError, match="must be odd"):
        LocalResponseNormalization(size=4)


def test_a_saved_alexnet_is_read_again(tmp_path: Path, cnnexport: Any) -> None:
    """In a process that has not built one: the layer registers itself."""
    import subprocess
    import sys

    from cnnexport import build

    build("alexnet", include_top=False, input_shape=(67, 67, 3)).save(tmp_path / "a.keras")
    code = "from cnnexport.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "convert", "a.keras", "--json"],
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parity"]["passed"]


def test_no_groups_belongs_to_grouped_architectures(cnnexport: Any) -> None:
    result = cnnexport("convert", "vgg16", "--no-groups")
    assert result.code == 2 and "vgg16 has no grouped convolutions" in result.err
