"""Each pass does what its module says, keeps what the graph computes, and never changes what it must not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")

from cnnexport.conversion import passes  # noqa: E402
from cnnexport.conversion.passes import crops, fold_constants, names, regroup, reshape, rewriting, transposes  # noqa: E402
from cnnexport.conversion.passes.shapes import InferShapes  # noqa: E402

RNG = np.random.default_rng(0)


def build(text, opset=18, **arrays):
    """A model from ONNX' textual syntax; ``arrays`` are its initializers."""
    head = f'<ir_version: 9, opset_import: ["" : {opset}]>'
    proto = onnx.parser.parse_model(f"{head} agraph {text}")
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for i, node in enumerate(proto.graph.node):
        node.name = f"node{i}"
    return ir.from_proto(proto)


def run(model, batch=3, space=6):
    proto = ir.to_proto(model)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    fed = {
        v.name: rng.normal(
            size=[d if isinstance(d, int) else batch if d == "batch" else space for d in v.shape]
        )
        for v in session.get_inputs()
    }
    return session.run(None, {k: v.astype("float32") for k, v in fed.items()})


def apply(model, *wanted, shapes=True):
    """Run passes; the results must stay. Returns the count of operators."""
    before = run(model)
    if shapes:
        InferShapes()(model)
    for one in wanted:
        one(model)
    passes.RemoveUnusedNodesPass()(model)
    after = run(model)
    assert all(a.shape == b.shape for a, b in zip(before, after, strict=True))
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(before, after, strict=True))
    return Counter(node.op_type for node in model.graph)


def floats(*shape):
    return RNG.normal(size=shape).astype("float32")


CONV = "(float[batch,4,6,6] x) => (float[batch,5,4,4] y) {{ c = Conv(x, w) {} }}"


@pytest.mark.parametrize(
    ("lines", "arrays"),
    [
        ("y = Mul(c, s)", {"s": floats(5, 1, 1)}),
        ("y = Mul(s, c)", {"s": floats(1, 5, 1, 1)}),
        ("y = Div(c, s)", {"s": 1 + floats(5, 1, 1) ** 2}),
        ("y = Sub(s, c)", {"s": floats(5, 1, 1)}),
        ("a = Mul(c, s) y = Add(a, t)", {"s": floats(5, 1, 1), "t": floats(1)}),
    ],
)
def test_affine_folds_into_conv(lines, arrays):
    model = build(CONV.format(lines), w=floats(5, 4, 3, 3), **arrays)
    assert apply(model, passes.FoldAffine()) == {"Conv": 1}


@pytest.mark.parametrize(
    ("lines", "arrays"),
    [
        ("y = Mul(c, s)", {"s": floats(4, 4)}),  # varies in space
        ("y = Mul(c, s)", {"s": floats(5, 1, 4)}),
        ("y = Div(s, c)", {"s": floats(5, 1, 1)}),
        ("a = Relu(c) y = Mul(a, s)", {"s": floats(5, 1, 1)}),
        ("a = Mul(c, s) y = Add(a, c)", {"s": floats(5, 1, 1)}),  # another reader
    ],
)
def test_affine_never_changes(lines, arrays):
    model = build(CONV.format(lines), w=floats(5, 4, 3, 3), **arrays)
    before = Counter(node.op_type for node in model.graph)
    assert apply(model, passes.FoldAffine()) == before


def test_affine_keeps_the_other_use_of_a_shared_kernel():
    text = """(float[batch,4,4,4] x) => (float[batch,4,4,4] y, float[batch,4,4,4] z)
        { a = Conv(x, w) y = Mul(a, s) b = Relu(y) z = Conv(b, w) }"""
    model = build(text, w=floats(4, 4, 1, 1), s=floats(4, 1, 1))
    assert apply(model, passes.FoldAffine()) == {"Conv": 2, "Relu": 1}


def test_affine_folds_into_a_transposed_convolution_but_not_a_grouped_one():
    text = """(float[batch,4,6,6] x) => (float[batch,n,m,k] y)
        {{ c = ConvTranspose<group={}>(x, w) y = Mul(c, s) }}"""
    model = build(text.format(1), w=floats(4, 5, 3, 3), s=floats(5, 1, 1))
    assert apply(model, passes.FoldAffine()) == {"ConvTranspose": 1}
    model = build(text.format(2), w=floats(4, 5, 3, 3), s=floats(10, 1, 1))
    assert apply(model, passes.FoldAffine()) == {"ConvTranspose": 1, "Mul": 1}


FORWARD = """(float[batch,4,6,6] x) => (y) {{ r = Relu(x) {} }}"""
KERNELS = {"w": floats(5, 4, 3, 3), "d": floats(4, 1, 3, 3), "p": floats(4, 7), "f": floats(144, 7)}


@pytest.mark.parametrize(("lines", "arrays", "left"), [
    ("m = Mul(r, s) n = Add(m, t) y = Conv(n, w)", {}, {"Conv": 1}),
    ("m = Mul(r, s) n = Add(m, t) y = Conv<group=4>(n, d)", {}, {"Conv": 1}),
    ("m = Mul(r, s) y = Conv<pads=[1,1,1,1]>(m, w)", {}, {"Conv": 1}),
    ("m = Mul(r, h) n = Add(m, h) y = Conv<pads=[1,1,1,1]>(n, w)", {}, {"Add": 1, "Conv": 1}),
    ("m = Mul(r, s) n = Add(m, t) y = Conv<pads=[1,1,1,1]>(n, w)", {}, {"Mul": 1, "Add": 1, "Conv": 1}),
    ("m = BatchNormalization(r, v, v, v, v) y = Conv(m, w)", {"v": floats(4) ** 2}, {"Conv": 1}),
    ("m = Mul(r, s) n = Add(m, t) l = Flatten(n) y = Gemm(l, f)", {}, {"Flatten": 1, "Gemm": 1}),
    ("m = Mul(r, s) g = GlobalAveragePool(m) l = Flatten(g) y = Gemm(l, p)", {},
     {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}),
    # The last of the chain alone, where the first is too large.
    ("n = Add(r, t) m = Mul(n, s) y = Conv(m, w)", {"t": np.full((4, 1, 1), 300, "float32")}, {"Add": 1, "Conv": 1}),
    ("n = Add(r, t) m = Mul(n, h) y = Conv(m, w)", {"t": np.full((4, 1, 1), 300, "float32")}, {"Conv": 1}),
])
def test_affine_folds_forward(lines, arrays, left):
    arrays = {**KERNELS, "s": 1 + floats(4, 1, 1) ** 2, "t": floats(4, 1, 1), "h": np.float32(0.5), **arrays}
    assert apply(build(FORWARD.format(lines), **arrays), passes.FoldForward()) == {"Relu": 1, **left}


@pytest.mark.parametrize("number", [0, np.nan, np.inf, -np.inf, 1e-38, 3e38])
@pytest.mark.parametrize("lines", [
    "m = Mul(r, s) y = Conv(m, w)", "m = Add(r, s) y = Conv(m, w)", "m = Div(r, s) y = Conv(m, w)",
    "m = Mul(r, s) g = GlobalAveragePool(m) l = Flatten(g) y = Gemm(l, p)",
    "m = Mul(r, o) n = Add(m, o) y = Conv<pads=[1,1,1,1]>(n, w)",
])
def test_numbers_that_would_be_lost_are_not_folded(lines, number):
    s = np.array([1, 2, number, 4], "float32").reshape(4, 1, 1)
    model = build(FORWARD.format(lines), **KERNELS, s=s, o=np.float32(number))
    InferShapes()(model)
    folded = passes.FoldForward()(model).modified
    # Nothing is lost by a shift of next to nothing.
    assert folded == (("Add(r" in lines and number in (0, 1e-38)) or ("o)" in lines and number == 0))


def test_a_rest_that_overflows_is_left():
    model = build(FORWARD.format("m = Mul(r, s) n = Add(m, t) y = Conv<pads=[1,1,1,1]>(n, w)"),
                  w=np.ones((5, 4, 3, 3), "float32"), s=np.float32(1e-30), t=np.float32(1e10))
    InferShapes()(model)
    assert not passes.FoldForward()(model).modified


def test_a_scale_that_a_bias_would_overflow_with_is_not_folded():
    model = build(FORWARD.format("m = Add(r, t) y = Conv(m, w, b)"), w=np.full((1, 4, 3, 3), 1e36, "float32"),
                  t=np.full((4, 1, 1), 99, "float32"), b=np.zeros(1, "float32"))
    InferShapes()(model)
    assert not passes.FoldForward()(model).modified


def test_a_kernel_that_only_shifts_is_not_copied():
    stored = floats(5, 4, 3, 3)
    model = build(FORWARD.format("m = Add(r, t) y = Conv(m, w)"), w=stored, t=floats(4, 1, 1))
    model.graph.initializers["w"].const_value = ir.Tensor(stored, name="w")
    InferShapes()(model)
    passes.FoldForward()(model)
    assert model.graph[-1].op_type == "Conv" and np.shares_memory(model.graph[-1].inputs[1].const_value.numpy(), stored)


def test_a_normalisation_that_learns_is_no_step():
    from cnnexport.conversion.passes.affine import step

    model = build(FORWARD.format("y = BatchNormalization<training_mode=1>(r, v, v, v, v)"), v=floats(4) ** 2)
    assert step(model.graph[-1]) is None


@pytest.mark.parametrize(("second", "rises"), [
    ("b = Conv(x, w)", True),
    ("d = Conv(x, w) b = Relu(d)", False),
    ("b = Conv(x, w, r)", False),
    ("b = ConvTranspose<group=2,pads=[2,2,2,2]>(x, g)", False),
])
def test_what_follows_a_concat_folds_into_the_convolutions_before_it(second, rises):
    text = ("(float[batch,4,6,6] x, float[3] r) => (y) { a = Conv(x, v) " + second +
            " c = Concat<axis=1>(a, b) m = Mul(c, s) y = Add(m, t) }")
    width = 8 if "group" in second else 5
    model = build(text, v=floats(2, 4, 3, 3), w=floats(3, 4, 3, 3), g=floats(4, 3, 3, 3), s=floats(width, 1, 1),
                  t=floats(width, 1, 1))
    InferShapes()(model)
    if rises:
        expected = {"Conv": 2, "Concat": 1}
        assert apply(model, passes.RiseAboveConcat(), passes.FoldAffine(), passes.FoldAffine()) == expected
    else:
        assert not passes.RiseAboveConcat()(model).modified


def test_constants_fold_and_inputs_do_not():
    text = """(float[batch,4] x) => (float[batch,5] y)
        { t = Transpose<perm=[1,0]>(w) s = Sqrt(v) k = Mul(t, s) r = Relu(x) y = MatMul(r, k) }"""
    model = build(text, w=floats(5, 4), v=1 + floats(5) ** 2)
    assert apply(model, passes.FoldConstants(), shapes=False) == {"Relu": 1, "MatMul": 1}


def test_constants_transpose_as_views():
    model = build(
        "(float[batch,4] x) => (float[batch,5] y) { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }",
        w=floats(5, 4),
    )
    stored = floats(5, 4)
    model.graph.initializers["w"].const_value = ir.Tensor(stored, name="w")
    passes.FoldConstants()(model)
    (matmul,) = model.graph
    assert np.shares_memory(matmul.inputs[1].const_value.numpy(), stored)


def test_random_nodes_are_never_constant():
    text = "(float[2] x) => (float[2] y) { r = RandomNormal<shape=[2]>() q = RandomNormalLike(c) y = Sum(x, r, q) }"
    model = build(text, c=floats(2))
    passes.FoldConstants()(model)
    assert [node.op_type for node in model.graph] == ["RandomNormal", "RandomNormalLike", "Sum"]


@pytest.mark.parametrize(("line", "largest", "left"), [
    ("t = Tile(c, r)", 6, 0), ("t = Tile(c, r)", 5, 1), ("t = ReduceSum(c, z)", 2, 1)])
def test_constants_that_are_too_large_stay(monkeypatch, line, largest, left):
    monkeypatch.setattr(fold_constants, "LARGEST_REFERENCE", largest)
    text = f"(float[6] x) => (float[6] y) {{ {line} y = Sub(x, t) }}"
    model = build(text, c=floats(2), r=np.array([3]), z=np.array([0]))
    assert sum(apply(model, passes.FoldConstants(), shapes=False).values()) == 1 + left


def test_gemm_takes_the_bias_and_leaves_more_axes_alone():
    model = build(
        "(float[batch,4] x) => (float[batch,5] y) { m = MatMul(x, w) y = Add(m, b) }",
        w=floats(4, 5),
        b=floats(5),
    )
    assert apply(model, passes.MatMulToGemm()) == {"Gemm": 1}
    model = build(
        "(float[batch,3,4] x) => (float[batch,3,5] y) { m = MatMul(x, w) y = Add(m, b) }",
        w=floats(4, 5),
        b=floats(5),
    )
    assert apply(model, passes.MatMulToGemm()) == {"MatMul": 1, "Add": 1}


@pytest.mark.parametrize(
    ("axes", "expected"),
    [([2, 3], {"GlobalAveragePool": 1, "Flatten": 1}), ([1, 2], {"ReduceMean": 1}), ([3], {"ReduceMean": 1})],
)
def test_global_pool(axes, expected):
    text = "(float[batch,4,6,6] x) => (float[batch,n] y) { y = ReduceMean<keepdims=0>(x, a) }"
    model = build(
        text.replace("[batch,n]", "[batch,n,m]" if len(axes) == 1 else "[batch,n]"), a=np.array(axes)
    )
    assert apply(model, passes.GlobalPool()) == expected


@pytest.mark.parametrize(
    ("pads", "merged"), [([0, 0, 1, 2, 0, 0, 2, 1], True), ([0, 1, 1, 1, 0, 0, 1, 1], False)]
)
def test_padding(pads, merged):
    channels = 4 + pads[1]
    model = build(
        "(float[batch,4,6,6] x) => (float[batch,5,n,m] y) { p = Pad(x, pads) y = Conv(p, w) }",
        pads=np.array(pads),
        w=floats(5, channels, 3, 3),
    )
    assert apply(model, passes.MergePadding()) == ({"Conv": 1} if merged else {"Pad": 1, "Conv": 1})


def test_padding_by_another_value_stays():
    model = build(
        "(float[batch,4,6,6] x) => (float[batch,5,6,6] y) { p = Pad(x, pads, v) y = Conv(p, w) }",
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        v=np.float32(2),
        w=floats(5, 4, 3, 3),
    )
    assert apply(model, passes.MergePadding()) == {"Pad": 1, "Conv": 1}


FLATTEN = """(float[batch,4,3,2] x) => (float[batch,5] y)
    {{ t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, shape) {} }}"""


def test_flatten_reorders_the_dense_behind_it():
    lines = "r = Relu(f) a = Mul(r, s) y = MatMul(a, w)"
    model = build(FLATTEN.format(lines), shape=np.array([-1, 24]), s=floats(24), w=floats(24, 5))
    assert apply(model, passes.PermuteDenseAfterFlatten()) == {"Reshape": 1, "Relu": 1, "Mul": 1, "MatMul": 1}


def test_flatten_goes_through_concat():
    text = """(float[batch,4,3,2] x, float[batch,2] v) => (float[batch,5] y)
        { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, shape) c = Concat<axis=1>(v, f, v)
          y = MatMul(c, w) }"""
    model = build(text, shape=np.array([-1, 24]), w=floats(28, 5))
    assert not apply(model, passes.PermuteDenseAfterFlatten())["Transpose"]


def test_flatten_with_another_reader_keeps_its_transpose():
    text = """(float[batch,4,3,2] x) => (float[batch,5] y, float[batch,24] z)
        { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, shape) y = MatMul(f, w) z = Softmax(f) }"""
    model = build(text, shape=np.array([-1, 24]), w=floats(24, 5))
    assert apply(model, passes.PermuteDenseAfterFlatten())["Transpose"] == 1


UNFLATTEN = """(float[batch,5] x) => (float[batch,4,3,2] y)
    {{ m = MatMul(x, w) {} f = Reshape(r, shape) y = Transpose<perm=[0,3,1,2]>(f) }}"""


@pytest.mark.parametrize(("line", "left"), [("a = Add(m, b) r = Relu(a)", 0), ("r = Softmax(m)", 1)])
def test_unflatten(line, left):
    model = build(UNFLATTEN.format(line), w=floats(5, 24), b=floats(24), shape=np.array([-1, 3, 2, 4]))
    assert apply(model, passes.PermuteDenseBeforeReshape())["Transpose"] == left


@pytest.mark.parametrize(
    ("lines", "arrays", "left"),
    [
        ("r = Relu(t)", {}, 0),
        ("r = Mul(t, s)", {"s": floats(4)}, 0),
        ("r = Mul(t, s)", {"s": floats(6, 1, 4)}, 0),
        ("r = Softmax<axis=-1>(t)", {}, 0),
        ("r = Pad(t, p)", {"p": np.array([0, 1, 0, 0, 0, 0, 2, 0])}, 0),
        ("r = Slice(t, a, b, d)", {"a": np.array([1]), "b": np.array([5]), "d": np.array([2])}, 0),
        ("r = ReduceMax(t, a)", {"a": np.array([-1])}, 0),
        ("r = MatMul(t, w)", {"w": floats(4, 4)}, 0),
        (
            "q = Reshape(t, a) r = Reshape(q, b)",
            {"a": np.array([-1, 36, 4]), "b": np.array([-1, 6, 6, 4])},
            0,
        ),
        ("q = Reshape(t, a) r = Reshape(q, b)", {"a": np.array([-1, 144]), "b": np.array([-1, 6, 6, 4])}, 2),
        ("r = CumSum(t, a)", {"a": np.int64(1)}, 2),
    ],
)
def test_transposes_meet(lines, arrays, left):
    text = f"""(float[batch,4,6,6] x) => (float[batch,n,m,k] y)
        {{ c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) {lines} y = Transpose<perm=[0,3,1,2]>(r) }}"""
    found = apply(build(text, **arrays), passes.SettleTransposes(), transposes.TransposesOfOnes())
    assert found["Transpose"] == left


def test_transposes_rise_to_the_input_and_sink_to_the_output():
    text = """(float[batch,6,6,4] x) => (float[batch,6,6,5] y)
        { p = Pad(x, pads) t = Transpose<perm=[0,3,1,2]>(p) c = Conv(t, w) u = Transpose<perm=[0,2,3,1]>(c)
          y = Relu(u) }"""
    model = build(text, pads=np.array([0, 1, 1, 0, 0, 1, 1, 0]), w=floats(5, 4, 3, 3))
    apply(model, passes.SettleTransposes())
    assert [n.op_type for n in model.graph] == ["Transpose", "Pad", "Conv", "Relu", "Transpose"]


LAST, FIRST = "t = Transpose<perm=[0,2,3,1]>(c)", "y = Transpose<perm=[0,3,1,2]>"


@pytest.mark.parametrize(("inputs", "lines", "arrays", "left"), [
    # Up to an input, or not at all
    ("float[batch,6,6,4] x", f"c = Relu(x) {FIRST}(c)", {}, ["Transpose", "Relu"]),
    ("float[batch,36,4] x", f"c = Relu(x) r = Reshape(c, k) {FIRST}(r)", {"k": np.array([-1, 6, 6, 4])},
     ["Transpose", "Relu", "Reshape"]),
    ("float[batch,36,4] x", f"c = Relu(x) z = Exp(c) r = Reshape(c, k) {FIRST}(r)", {"k": np.array([-1, 6, 6, 4])},
     ["Relu", "Exp", "Reshape", "Transpose"]),
    ("float[batch,8] x", f"c = Softmax(x) r = Reshape(c, k) {FIRST}(r)", {"k": np.array([-1, 1, 1, 8])},
     ["Softmax", "Reshape"]),
    # Through the Reshapes of a shuffle of channels
    ("float[batch,4,6,6] x", f"c = Softmax(x) {LAST} a = Reshape(t, k) s = Transpose<perm=[0,1,2,4,3]>(a) "
     f"r = Reshape(s, j) {FIRST}(r)", {"k": np.array([-1, 6, 6, 2, 2]), "j": np.array([-1, 6, 6, 4])},
     ["Softmax", "Reshape", "Transpose", "Reshape"]),
    # Beside what comes from an input, or from elsewhere
    ("float[batch,4,6,6] x, float[batch,6,6,4] v", f"c = Relu(x) {LAST} u = Relu(v) r = Add(t, u) {FIRST}(r)", {},
     ["Relu", "Transpose", "Relu", "Add"]),
    ("float[batch,4,6,6] x, float[batch,6,6,4] v", f"c = Relu(x) {LAST} u = Mul(v, v) r = Add(t, u) {FIRST}(r)", {},
     ["Relu", "Transpose", "Mul", "Add", "Transpose"]),
])
def test_transposes_settle(inputs, lines, arrays, left):
    outputs = "(float[a,b,c,d] y, float[e,f,g] z)" if " z = " in lines else "(float[a,b,c,d] y)"
    model = build(f"({inputs}) => {outputs} {{ {lines} }}", **arrays)
    apply(model, passes.SettleTransposes())
    assert [n.op_type for n in model.graph] == left
    assert not passes.SettleTransposes()(model).modified


def test_a_transpose_of_ones_at_a_port_stays():
    model = build("(float[batch,1,1,8] x) => (float[a,b,c,d] y) { t = Transpose<perm=[0,2,1,3]>(x) y = Relu(t) }")
    assert apply(model, passes.TransposesOfOnes()) == {"Transpose": 1, "Relu": 1}


def test_a_dense_on_a_sequence_is_a_convolution():
    text = """(float[batch,4,6] x) => (float[batch,5,6] y)
        { r = Relu(x) t = Transpose<perm=[0,2,1]>(r) m = MatMul(t, w) y = Transpose<perm=[0,2,1]>(m) }"""
    assert apply(build(text, w=floats(4, 5)), passes.SettleTransposes()) == {"Relu": 1, "Conv": 1}


def test_one_transpose_of_a_sequence_serves_all_that_read_it():
    text = """(float[batch,4,6] x) => (float[batch,6,5] y, float[batch,6,5] z)
        { r = Relu(x) t = Transpose<perm=[0,2,1]>(r) y = MatMul(t, w) z = MatMul(t, w) }"""
    assert apply(build(text, w=floats(4, 5)), passes.SettleTransposes()) == {"Relu": 1, "Transpose": 1, "MatMul": 2}


def test_transposes_of_sequences_end():
    text = """(float[batch,6,4] x) => (float[batch,6,4] y)
        { a = Relu(x) t = Transpose<perm=[0,2,1]>(a) c = Conv(t, w) u = Transpose<perm=[0,2,1]>(c)
          b = Sigmoid(u)
          y = Mul(b, a) }"""
    assert apply(build(text, w=floats(4, 4, 1)), passes.SettleTransposes())["Transpose"] <= 2


@pytest.mark.parametrize(
    ("source", "perm", "target", "expected"),
    [
        ([2, 8, 3, 5], [0, 2, 3, 1], [2, 15, 8], ([2, 8, 15], [0, 2, 1])),
        ([2, 8, 1, 1], [0, 2, 3, 1], [2, 8], ([2, 8], [0, 1])),
        ([2, 8, 3, 5], [0, 2, 3, 1], [2, 120], None),
        ([2, 8, 3, 3], [0, 2, 3, 1], [2, 3, 3, 2, 4], ([2, 2, 4, 3, 3], [0, 3, 4, 1, 2])),
    ],
)
def test_regroup(source, perm, target, expected):
    found = regroup.swap(source, perm, target)
    assert found == expected
    if found is not None:
        x = np.arange(np.prod(source)).reshape(source)
        assert (x.transpose(perm).reshape(target) == x.reshape(found[0]).transpose(found[1])).all()  # type: ignore[arg-type]


def test_shapes_and_what_they_decide():
    text = """(float[batch,6,4] x) => (float[batch,8,3] y, float[n] z)
        { s = Shape(x) b = Gather(s, zero) t = Concat<axis=0>(b, rest) y = Reshape(x, t)
          z = ConstantOfShape(b) }"""
    model = build(text, zero=np.array([0]), rest=np.array([8, 3]))
    apply(model)
    reshape_node = next(n for n in model.graph if n.op_type == "Reshape")
    assert reshape_node.inputs[1].const_value.numpy().tolist() == [-1, 8, 3]
    assert [str(d) for d in model.graph.outputs[0].shape] == ["batch", "8", "3"]
    # What the batch itself decides stays for run time.
    assert "ConstantOfShape" in [n.op_type for n in model.graph]


def test_onnx_alone_loses_the_batch():
    """Why shapes are inferred on numbers: behind a Reshape to -1 the batch has no name, nor what follows from it."""
    text = "(float[batch,6,4] x) => (y) { r = Reshape(x, k) y = MatMul(r, w) }"
    model = build(text, k=np.array([-1, 24]), w=floats(24, 5))
    alone = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True).graph.output[0]
    assert alone.type.tensor_type.shape.dim[0].dim_param != "batch"
    InferShapes()(model)
    assert [str(d) for d in model.graph.outputs[0].shape] == ["batch", "5"]


def test_what_is_written_names_no_size_but_the_batch():
    text = "(float[batch,h,4] x) => (float[a,b,c] y) { s = Shape(x) r = Reshape(x, s) y = Relu(r) }"
    for fold, expected in ((True, "size_0"), (False, "None")):
        model = build(text)
        InferShapes(fold=fold)(model)
        assert [str(d) for d in model.graph.outputs[0].shape] == ["batch", expected, "4"]
        assert str(model.graph.inputs[0].shape[1]) == ("size_0" if fold else "h")
    model = build("(float[2,4] x) => (float[a,b] y) { s = Shape(x) y = Reshape(x, s) }")
    assert not InferShapes(fold=False)(model).modified


def test_a_multiple_of_the_batch_is_named_so():
    model = build("(float[batch,3,4] x) => (float[n,4] y) { y = Reshape(x, s) }", s=np.array([-1, 4]))
    apply(model)
    assert [str(d) for d in model.graph.outputs[0].shape] == ["3*batch", "4"]


@pytest.mark.parametrize(("found", "source", "target"), [
    (["batch", 4], ["batch", 2, 2], [-1, 4]), (["batch", "n", 4], ["batch", "n", 2, 2], [0, -1, 4]),
    (["batch", 4, "n"], ["batch", 4, "n", 1], [0, 4, -1]), (["n", "batch"], ["batch", "n"], None),
    ([0, 2], [2, 0], None), ([4, "batch", "n"], [4, "batch", "n"], [4, 0, -1]),
])
def test_targets_of_reshapes(found, source, target):
    told = rewriting.target_of(ir.Shape(found).dims, ir.Shape(source).dims)
    assert (None if told is None else told.tolist()) == target


def test_reshapes_join_and_vanish_unless_two_sizes_are_open():
    text = """(float[batch,6,4] x) => (float[batch,6,4] y, float[batch,24] z)
        { a = Unsqueeze(x, one) b = Squeeze(a, one) y = Relu(b) z = Reshape(a, flat) }"""
    model = build(text, one=np.array([1]), flat=np.array([-1, 24]))
    assert apply(model, passes.StaticReshape()) == {"Relu": 1, "Reshape": 1}
    assert not passes.StaticReshape()(model).modified
    assert apply(model, reshape.SayFlatten()) == {"Relu": 1, "Flatten": 1}
    text = """(float[batch,n,4] x) => (float[m] y)
        { s = Shape(x) p = ReduceProd<keepdims=1>(s) y = Reshape(x, p) }"""
    assert apply(build(text), passes.StaticReshape())["Reshape"] == 1


def test_upsample_is_one_resize():
    text = """(float[batch,3,4,5] x) => (float[batch,6,12,5] y)
        { a = Unsqueeze(x, two) b = Tile(a, r1) c = Reshape(b, s1) d = Unsqueeze(c, three) e = Tile(d, r2)
          y = Reshape(e, s2) }"""
    model = build(
        text,
        two=np.array([2]),
        three=np.array([3]),
        r1=np.array([1, 1, 2, 1, 1]),
        r2=np.array([1, 1, 1, 3, 1]),
        s1=np.array([-1, 6, 4, 5]),
        s2=np.array([-1, 6, 12, 5]),
    )
    assert apply(model, passes.ResizeRepeated()) == {"Resize": 1}


@pytest.mark.parametrize(
    ("repeats", "target"), [([1, 2, 1, 1, 1], [-1, 3, 4, 5]), ([1, 2, 1, 1, 1], [-1, 6, 4, 5])]
)
def test_tiling_and_repeating_the_batch_stay(repeats, target):
    text = """(float[batch,3,4,5] x) => (float[n,m,4,5] y)
        { a = Unsqueeze(x, one) b = Tile(a, r) y = Reshape(b, s) }"""
    model = build(text, one=np.array([1]), r=np.array(repeats), s=np.array(target))
    assert apply(model, passes.ResizeRepeated())["Tile"] == 1


@pytest.mark.parametrize(("kernel", "narrow"), [((5, 4, 1, 3), True), ((5, 4, 2, 3), False)])
def test_narrow(kernel, narrow):
    pads = [0, 1, 0, 1] if narrow else [1, 1, 0, 1]
    text = f"""(float[batch,4,9] x) => (float[batch,5,9] y)
        {{ a = Unsqueeze(x, two) c = Conv<pads={pads}>(a, w) y = Squeeze(c, two) }}"""
    model = build(text, two=np.array([2]), w=floats(*kernel))
    found = apply(model, passes.StaticReshape(), passes.Narrow(), passes.StaticReshape())
    assert found == ({"Conv": 1} if narrow else {"Reshape": 2, "Conv": 1})


@pytest.mark.parametrize(
    ("final", "expected"),
    [([-1, 6, 5], {"MatMul": 1}), ([-1, 3, 10], None), ([-1, 2, 3, 5], None), ([-1, 3, 5], None)],
)
def test_dense_keeps_its_axes(final, expected):
    dims = ",".join("nmkl"[: len(final)])
    text = (
        f"(float[batch,6,4] x) => (float[{dims}] y) {{ a = Reshape(x, s) m = MatMul(a, w) "
        "y = Reshape(m, t) }"
    )
    model = build(text, s=np.array([-1, 4]), t=np.array(final), w=floats(4, 5))
    assert apply(model, passes.KeepAxes()) == (expected or {"Reshape": 2, "MatMul": 1})


def test_crops_merge_into_a_transposed_convolution():
    text = """(float[batch,4,h,w] x) => (float[batch,5,n,m] y)
        { c = ConvTranspose<strides=[2,2]>(x, k) s = Shape(x) z = Slice(s, two, four) e = Mul(z, double)
          f = Add(e, ones) y = Slice(c, ones, f, axes) }"""
    arrays = {
        "k": floats(4, 5, 4, 4),
        "two": np.array([2]),
        "four": np.array([4]),
        "double": np.array([2, 2]),
        "ones": np.array([1, 1]),
        "axes": np.array([2, 3]),
    }
    assert apply(build(text, **arrays), passes.StaticSlice(), crops.MergeCrop()) == {"ConvTranspose": 1}
    # A border that grows with the size is no constant.
    arrays["double"] = np.array([1, 1])
    assert apply(build(text, **arrays), passes.StaticSlice(), crops.MergeCrop())["Slice"] >= 1


def test_negative_padding_is_output_padding():
    text = "(float[batch,4,3,3] x) => (float[batch,5,n,m] y) {{ c = ConvTranspose<strides=[3,3]{}>(x, k) {} }}"
    arrays = {"k": floats(4, 5, 2, 2), "pads": np.array([0, 0, 0, 0, 0, 0, 1, 1])}
    expected = run(build(text.format("", "y = Pad(c, pads)"), **arrays))
    arrays.pop("pads")
    model = build(text.format(",pads=[0,0,-1,-1]", "y = Identity(c)"), **arrays)
    assert passes.PositivePadding()(model).modified and not passes.PositivePadding()(model).modified
    assert np.allclose(run(model)[0], expected[0], atol=1e-5)


def test_identities_go_and_others_stay():
    text = """(float[batch,4,6,6] x) => (float[batch,4,6,6] y, float[batch,4,5,6] z)
        { a = Pad(x, none) b = Slice(a, zero, end, two) y = Relu(b) z = Slice(x, one, end, two) }"""
    model = build(
        text,
        none=np.zeros(8, "int64"),
        zero=np.array([0]),
        one=np.array([1]),
        end=np.array([99]),
        two=np.array([2]),
    )
    assert apply(model, passes.DropIdentities()) == {"Relu": 1, "Slice": 1}


@pytest.mark.parametrize(("line", "number", "goes"), [
    ("y = Add(r, z)", np.float32(-0.0), True), ("y = Add(z, r)", np.float32(0), False),
    ("y = Sub(r, z)", np.float32(0), True), ("y = Sub(r, z)", np.float32(-0.0), False),
    ("y = Sub(z, r)", np.float32(0), False), ("y = Add(z, r)", np.int32(0), True),
    ("y = Sub(r, z)", np.int32(1), False),
])
def test_a_sum_with_nothing_goes_where_no_zero_changes_its_sign(line, number, goes):
    kind = "float" if number.dtype == "float32" else "int32"
    model = build(f"({kind}[batch,4] x) => (y) {{ r = Neg(x) {line} }}", z=number)
    assert passes.DropIdentities()(model).modified == goes


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("b = Mul(a, s) c = Sub(t, b) y = Div(c, two)", {"Relu": 1, "BatchNormalization": 1}),
        ("b = Mul(a, two) y = Add(b, two)", {"Relu": 1, "Mul": 1, "Add": 1}),
        ("b = Mul(a, s) y = Sigmoid(b)", {"Relu": 1, "Mul": 1, "Sigmoid": 1}),
        ("b = Mul(a, s) y = Add(b, map)", {"Relu": 1, "Mul": 1, "Add": 1}),
        ("b = Mul(a, s) c = Add(b, t) y = Mul(b, c)", {"Relu": 1, "Mul": 2, "Add": 1}),
    ],
)
def test_scale_and_shift_join(lines, expected):
    model = build(
        f"(float[batch,4,6,6] x) => (float[batch,4,6,6] y) {{ a = Relu(x) {lines} }}",
        s=floats(4, 1, 1),
        t=floats(4, 1, 1),
        two=np.float32(2),
        map=floats(6, 6),
    )
    assert apply(model, passes.JoinScaleAndShift()) == expected


def test_scale_and_shift_of_halves_stay():
    half = floats(4, 1, 1).astype("float16")
    model = build("(float16[2,4,6,6] x) => (float16[2,4,6,6] y) { m = Mul(x, s) y = Add(m, s) }", s=half)
    InferShapes()(model)
    assert not passes.JoinScaleAndShift()(model).modified


NORMAL = """(float[batch,{0}] x) => (float[batch,{1}] y) {{ m = ReduceMean<axes=[{2}]>(x) d = Sub(x, m) q = Mul(d, d)
    u = ReduceMean<axes=[{2}]>(q) e = Add(u, s) r = Sqrt(e) f = Reciprocal(r) k = Mul(f, g) a = Mul(x, k) n = Neg(m)
    c = Mul(n, k) t = Add(c, b) y{3} = Add(a, t) {4} }}"""


CENTRED = {"ReduceMean": 1, "Sub": 1}  # for ONNX Runtimes whose LayerNormalization loses the digits of a large mean


@pytest.mark.parametrize(("opset", "sizes", "axes", "shape", "expected"), [
    (17, "4,6,6", "1", (4, 1, 1), {**CENTRED, "Transpose": 2, "LayerNormalization": 1}),
    (17, "4,6,6", "1,2,3", (4, 1, 1), {**CENTRED, "LayerNormalization": 1}),
    (17, "4,6,6", "2,3", (4, 1, 1), {"InstanceNormalization": 1}),
    (16, "4,6,6", "2,3", (4, 1, 1), {"InstanceNormalization": 1}),
    (16, "4,6,6", "1", (4, 1, 1), None),
])
def test_a_normalisation_in_pieces_is_one(opset, sizes, axes, shape, expected):
    model = build(NORMAL.format(sizes, sizes, axes, "", ""), opset, s=np.float32(1e-3), g=floats(*shape),
                  b=floats(*shape))
    before = Counter(node.op_type for node in model.graph)
    assert apply(model, passes.WholeNormalisations()) == (expected or before)


def test_a_normalisation_of_groups_is_an_instance_normalisation_and_one_scale():
    text = NORMAL.format("2,2,6,6", "4,6,6", "2,3,4", "g", "y = Reshape(yg, k4)").replace("g)", "w)")
    model = build(text, 17, s=np.float32(1e-3), w=floats(2, 2, 1, 1), b=floats(2, 2, 1, 1), k4=np.array([0, 4, 6, 6]))
    expected = {"InstanceNormalization": 1, "Reshape": 1, "BatchNormalization": 1}
    assert apply(model, passes.WholeNormalisations(), passes.JoinScaleAndShift()) == expected


def test_a_normalisation_of_maps_of_doubles_stays():
    # ONNX Runtime has no InstanceNormalization for them.
    text = NORMAL.format("4,6,6", "4,6,6", "2,3", "", "").replace("float", "double")
    model = build(text, s=np.float64(1e-3), g=np.ones((4, 1, 1)), b=np.ones((4, 1, 1)))
    InferShapes()(model)
    assert not passes.WholeNormalisations()(model).modified


def test_names_follow_layers_and_keep_ports():
    text = "(float[batch,4] x) => (float[batch,5] y) { m = MatMul(x, w) r = Relu(m) y = Relu(r) }"
    model = build(text, w=floats(4, 5))
    layers = {"node0": "dense", "node1": "act", "node2": "act"}
    names.NameAfterLayers(layers.get, {"MatMul:1": "kernel"})(model)
    assert [n.name for n in model.graph] == ["dense/MatMul", "act/Relu", "act/Relu_1"]
    assert list(model.graph.initializers) == ["dense/kernel"]
    assert (model.graph.inputs[0].name, model.graph.outputs[0].name) == ("x", "y")


@pytest.mark.parametrize("nodes", [400])
def test_folding_ends_and_stays_linear(nodes):
    import time

    def seconds(count):
        lines = " ".join(f"a{i + 1} = Relu(a{i})" for i in range(count))
        text = f"""(float[batch,6,6,4] x) => (float[batch,6,6,4] y)
            {{ t = Transpose<perm=[0,3,1,2]>(x) a0 = Conv(t, w) {lines}
               y = Transpose<perm=[0,2,3,1]>(a{count}) }}"""
        model = build(text, w=floats(4, 4, 1, 1))
        start = time.perf_counter()
        passes.fold(model)
        return time.perf_counter() - start

    seconds(10)
    assert seconds(4 * nodes) < 12 * max(seconds(nodes), 0.02)
