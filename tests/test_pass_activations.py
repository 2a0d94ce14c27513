"""Activations in pieces become the operators that ONNX has for them, by opset, and only where nothing reads a piece."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")

from cnnexport.conversion import passes  # noqa: E402
from cnnexport.conversion.passes.shapes import InferShapes  # noqa: E402

SLOPED = "a = Relu(x) n = Neg(x) b = Relu(n) m = Mul(b, s) y = Add(a, m)"
GATE = "a = Add(x, three) c = Clip(a, zero, six) y = Div(c, six)"
GATED = "a = Add(x, three) c = Clip(a, zero, six) h = Mul(c, sixth) y = Mul(x, h)"
BELL = "a = Mul(half, x) n = Neg(x) m = Mul(n, root) e = Erf(m) u = Sub(one, e) y = Mul(a, u)"
NUMBERS = {"three": 3, "zero": 0, "six": 6, "sixth": 1 / 6, "half": 0.5, "one": 1, "root": 0.5 ** 0.5}


def unnamed(model: Any) -> Any:
    proto = ir.to_proto(model)
    for node in proto.graph.node:
        node.name = ""  # unique only after all passes
    return proto


def after(text: str, opset: int = 18, outputs: str = "(y)", image: str = "[2,4,5,5]", **arrays: Any) -> Counter[str]:
    """The operators after the pass; ONNX Runtime's answers stay in all its levels, also far from zero."""
    head = f'<ir_version: 9, opset_import: ["" : {opset}]> agraph (float{image} x) => {outputs} '
    proto = onnx.parser.parse_model(f"{head} {{ {text} }}")
    known = {k: np.float32(v) for k, v in NUMBERS.items()} | arrays
    for name, array in known.items():
        if any(name in node.input for node in proto.graph.node):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, "float32"), name))
    for number, node in enumerate(proto.graph.node):
        node.name = f"node{number}"
    model = ir.from_proto(proto)
    InferShapes()(model)
    count = passes.WholeActivations()(model).modified
    assert not passes.WholeActivations()(model).modified
    made = unnamed(model)
    onnx.checker.check_model(made, full_check=True)
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(0, 3, shape).astype("float32")
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.log_severity_level = 4
        one, other = (ort.InferenceSession(p.SerializeToString(), options, providers=["CPUExecutionProvider"])
                      .run(None, {"x": x}) for p in (proto, made))
        assert all(np.allclose(a, b, atol=2e-6, rtol=1e-6) for a, b in zip(one, other, strict=True))
    assert count == (Counter(n.op_type for n in proto.graph.node) != Counter(n.op_type for n in made.graph.node))
    return Counter(n.op_type for n in made.graph.node)


@pytest.mark.parametrize(("text", "opset", "expected"), [
    (SLOPED, 18, {"PRelu": 1}),
    (SLOPED.replace("Mul(b, s) y = Add(a, m)", "Mul(s, b) y = Add(m, a)"), 13, {"PRelu": 1}),
    (GATE, 18, {"HardSigmoid": 1}),
    (GATE.replace("Add(x, three)", "Add(three, x)").replace("Div(c, six)", "Mul(sixth, c)"), 13, {"HardSigmoid": 1}),
    (GATED, 18, {"HardSwish": 1}),
    (GATED.replace("Mul(x, h)", "Mul(h, x)"), 14, {"HardSwish": 1}),
    (GATED, 13, {"HardSigmoid": 1, "Mul": 1}),
    (BELL, 20, {"Gelu": 1}),
    (BELL, 18, {"Mul": 2, "Div": 1, "Erf": 1, "Add": 1}),
    (BELL.replace("Mul(half, x)", "Mul(x, half)").replace("Mul(a, u)", "Mul(u, a)"), 20, {"Gelu": 1}),
])
def test_pieces_become_one(text: str, opset: int, expected: dict[str, int]) -> None:
    assert after(text, opset, s=np.linspace(-1, 1, 4).reshape(4, 1, 1)) == expected


@pytest.mark.parametrize("read", "abm")
def test_a_slope_whose_pieces_are_read(read: str) -> None:
    assert "PRelu" not in after(f"{SLOPED} z = Tanh({read})", outputs="(y, z)", s=np.ones((4, 1, 1)))


def test_a_slope_that_widens_is_none_to_onnx() -> None:
    assert "PRelu" not in after(SLOPED, image="[2,1,5,5]", s=np.ones((4, 1, 1)))


@pytest.mark.parametrize("read", "ac")
def test_a_gate_whose_pieces_are_read(read: str) -> None:
    assert "HardSigmoid" not in after(f"{GATE} z = Tanh({read})", outputs="(y, z)")


def test_a_gate_that_is_read_stays_one() -> None:
    assert after(f"{GATED} z = Tanh(h)", outputs="(y, z)") == {"HardSigmoid": 1, "Mul": 1, "Tanh": 1}


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("read", "meu")
def test_a_bells_integral_whose_pieces_are_read(read: str, opset: int) -> None:
    text = f"{BELL} z = Tanh({read})"
    assert after(text, opset, outputs="(y, z)") == {"Mul": 3, "Neg": 1, "Erf": 1, "Sub": 1, "Tanh": 1}


def test_a_bells_half_that_leaves_stays() -> None:
    assert after(BELL, 20, outputs="(y, a)") == {"Gelu": 1, "Mul": 1}


@pytest.mark.parametrize("half", [0.6, np.full((1, 1, 1, 1, 1), 0.5)])
def test_another_half_is_no_gelu(half: Any) -> None:
    assert "Gelu" not in after(BELL, 20, half=half)


def test_onnx_runtime_takes_the_form_for_its_own_gelu(tmp_path: Any) -> None:
    """What the form is for: one kernel instead of five."""
    head = '<ir_version: 9, opset_import: ["" : 18]> agraph (float[2,4,5,5] x) => (y) '
    proto = onnx.parser.parse_model(f"{head} {{ {BELL} }}")
    for name in ("half", "one", "root"):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(NUMBERS[name]), name))
    for number, node in enumerate(proto.graph.node):
        node.name = f"node{number}"
    model = ir.from_proto(proto)
    InferShapes()(model)
    passes.fold(model)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    ort.InferenceSession(unnamed(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert [n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node] == ["Gelu"]
