"""The comparison sees small faults and forgives rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnnexport import parity
from cnnexport.conversion import Port
from cnnexport.parity.gate import Reference
from cnnexport.parity.inputs import Case

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 10)).astype(np.float32)


def test_equal_outputs_pass() -> None:
    result = parity.compare("y", "logits", LOGITS, LOGITS.copy())
    assert result.passed and result.max_error == 0 and result.top1_agreement == 1 and result.batch == 5


def test_rounding_passes_and_a_small_fault_does_not() -> None:
    noise = RNG.normal(size=LOGITS.shape) * LOGITS.std()
    assert parity.compare("y", "logits", LOGITS, LOGITS + 3e-5 * noise).passed
    assert not parity.compare("y", "logits", LOGITS, LOGITS + 1e-3 * noise).passed


def test_one_wrong_value_fails() -> None:
    wrong = LOGITS.copy()
    wrong[2, 3] += 0.01 * LOGITS.std()
    result = parity.compare("y", "logits", LOGITS, wrong)
    assert not result.passed and result.max_error == pytest.approx(0.01, rel=1e-3)


def test_scale_does_not_matter() -> None:
    """An absolute tolerance would pass all of these: the values are tiny."""
    small = (1e-6 * LOGITS).astype(np.float32)
    assert parity.compare("y", "logits", small, small).passed
    assert not parity.compare("y", "logits", small, small[:, ::-1]).passed


def test_nearly_constant_outputs_may_round() -> None:
    flat = (1000 + 1e-4 * LOGITS).astype(np.float32)
    assert parity.compare("y", "logits", flat, np.nextafter(flat, np.float32(2000))).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_must_agree(bad: float) -> None:
    a = LOGITS.copy()
    a[0, 0] = bad
    assert parity.compare("y", "output", a, a.copy()).passed
    assert not parity.compare("y", "output", a, LOGITS).passed
    assert not parity.compare("y", "output", LOGITS, a).passed


def test_infinities_must_agree_in_sign() -> None:
    a = LOGITS.copy()
    a[0, 0] = np.inf
    assert not parity.compare("y", "output", a, np.where(np.isinf(a), -a, a)).passed


def test_shapes_must_agree() -> None:
    assert not parity.compare("y", "output", LOGITS, LOGITS[:, :9]).passed
    assert not parity.compare("y", "output", LOGITS, LOGITS[..., None]).passed


def test_images_are_seeded_and_fill_their_range() -> None:
    ports = [Port("input", (None, 32, None, 3), "float32"), Port("ids", (None, 7), "int32")]
    first, again = (parity.images(ports, 2, 5, (-3.0, 9.0)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first[0], parity.images(ports, 2, 6, (-3.0, 9.0))[0])
    image, ids = first
    assert image.shape == (2, 32, parity.OPEN_SIZE, 3) and image.dtype == np.float32
    assert -3 <= image.min() < -1 and 7 < image.max() <= 9
    assert ids.dtype == np.int32 and ids.min() >= 0
    assert not np.array_equal(image[0], image[1])


def test_record_tells_failure() -> None:
    good = parity.compare("y", "logits", LOGITS, LOGITS)
    bad = parity.compare("y", "logits", LOGITS, LOGITS[:, :3])
    record = parity.record([good, bad], sha256="0" * 64, versions={}, seed=1)
    assert not record["passed"] and record["worst_error"] is None
    assert parity.record([good], sha256="0" * 64, versions={}, seed=1)["passed"]
    assert not parity.record([], sha256="0" * 64, versions={}, seed=1)["passed"], "nothing compared is nothing proven"


def _softmax_model(path: Path, scale: float) -> None:
    """input (N, 4) -> Mul -> Softmax: the logits are inside the graph."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Mul", ["input", "scale"], ["inner"]),
         helper.make_node("Softmax", ["inner"], ["probabilities"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.array(scale, np.float32), "scale")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


def _reference(x: list[np.ndarray], outputs: list[np.ndarray], logits: list[np.ndarray | None], tensor: str | None
               ) -> parity.GateReference:
    ports = (Port("input", (None, 4), "float32"),), (Port("probabilities", (None, 4), "float32"),)
    references = [Reference(Case(("image",) * len(a), [a]), [y], [z]) for a, y, z in zip(x, outputs, logits)]
    return parity.GateReference(
        references, *ports, [parity.LogitsTensor(tensor) if tensor else None], parity.tolerance())


def test_logits_inside_the_file_are_compared(tmp_path: Path) -> None:
    """A constant added to all logits is invisible in the probabilities."""
    import onnx_ir as ir

    path = tmp_path / "model.onnx"
    _softmax_model(path, 1.0)
    assert parity.logits_tensors(ir.load(path), ["softmax"]) == [parity.LogitsTensor("inner")]
    assert parity.logits_tensors(ir.load(path), [None]) == [None]
    x = [RNG.normal(size=(n, 4)).astype(np.float32) for n in (1, 2, 5)]
    y = [np.exp(a) / np.exp(a).sum(-1, keepdims=True) for a in x]
    for shift, passed in ((np.float32(0), True), (np.float32(0.5), False)):
        verdict = parity.judge(_reference(x, y, [a + shift for a in x], "inner"), path)
        assert verdict.passed is passed
        assert {(r.level, r.batch) for r in verdict.comparisons} == {
            (lv, b) for lv in ("logits", "output") for b in (1, 2, 5)}
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_unknown_softmax_is_compared_by_its_logarithm(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    _softmax_model(path, 1.001)
    x = [RNG.normal(size=(5, 4)).astype(np.float32)]
    y = [np.exp(a) / np.exp(a).sum(-1, keepdims=True) for a in x]
    verdict = parity.judge(_reference(x, y, [None], None), path)
    assert {r.level for r in verdict.comparisons} == {"log-probabilities", "output"} and not verdict.passed
