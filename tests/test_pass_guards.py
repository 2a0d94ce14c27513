"""Graphs that a pass must leave alone, or treat with care: each guard has one that it alone saves.

Every pass runs over every graph, with shapes inferred and without; ONNX Runtime's answers stay, and a pass that
says it changed nothing changed nothing.
"""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")

from cnnexport.conversion import passes  # noqa: E402
from cnnexport.conversion.passes.shapes import InferShapes  # noqa: E402

RNG = np.random.default_rng(0)
PASSES = [
    passes.FoldConstants, passes.PositivePadding, passes.DropIdentities, passes.StaticSlice, passes.ResizeRepeated,
    passes.KeepAxes, passes.StaticReshape, passes.SettleTransposes, passes.GlobalPool, passes.Narrow,
    passes.PermuteDenseAfterFlatten, passes.PermuteDenseBeforeReshape, passes.MergeCrop, passes.FoldAffine,
    passes.MatMulToGemm, passes.MergePadding, passes.TransposesOfOnes, passes.JoinScaleAndShift, passes.SayFlatten,
]


def f(*shape):
    return RNG.uniform(0.5, 1.5, shape).astype("float32")


def i(*numbers):
    return np.array(numbers, "int64")


X4, NCHW = "(float[batch,4,6,6] x) => (float[a,b,c,d] y)", "(float[batch,4,6,6] x) => "
OPEN = "(float[batch,4,h,w] x) => (float[a,b,c,d] y)"
OF_SIZE = "s = Shape(x) z = Slice(s, two, three) "
SIZE = {"two": i(2), "three": i(3)}
FLAT = "(float[batch,4,3,2] x) => (float[a,b] y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) "
TO_LAST = "c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) "
TO_FIRST = " y = Transpose<perm=[0,3,1,2]>(r)"
CT = "c = ConvTranspose<strides=[2,2]>(x, k) "

GRAPHS = {
    # Slices, crops, transposed convolutions
    "slice from before the start": (OPEN + "{" + OF_SIZE + "y = Slice(x, a, z, two) }", {"a": i(-999), **SIZE}),
    "slice backwards": (OPEN + "{" + OF_SIZE + "e = Sub(a, z) y = Slice(x, b, e, two, a) }",
                        {"a": i(-1), "b": i(999), **SIZE}),
    "slice by unknown starts": ("(float[batch,4,h,w] x, int64[1] one) => (float[a,b,c,d] y) {"
                                + OF_SIZE + "y = Slice(x, one, z, two) }", SIZE),
    "slice by unknown ends": ("(float[batch,4,h,w] x, int64[1] one) => (float[a,b,c,d] y) { y = Slice(x, z, one, two) }",
                              {"z": i(0), **SIZE}),
    "slice by unknown axes": ("(float[batch,4,h,w] x, int64[1] one) => (float[a,b,c,d] y) {"
                              + OF_SIZE + "y = Slice(x, o, z, one) }", {"o": i(0), **SIZE}),
    "slice by unknown steps": ("(float[batch,4,h,w] x, int64[1] one) => (float[a,b,c,d] y) {"
                               + OF_SIZE + "y = Slice(x, o, z, two, one) }", {"o": i(0), **SIZE}),
    "slice without axes": (OPEN + "{ s = Shape(x) y = Slice(x, o, s) }", {"o": i(0, 1, 1, 0)}),
    "slice with constant ends": (OPEN + "{ y = Slice(x, o, e, two) }", {"o": i(0), "e": i(-1), **SIZE}),
    "slice of a maximum": (OPEN + "{ m = MaxPool<kernel_shape=[2,2]>(x) y = Slice(m, o, e, two) }",
                           {"o": i(0), "e": i(-1), **SIZE}),
    "crop that is read elsewhere": (X4[:-1] + ", float[e,f,g,h] z) {" + CT + "z = Relu(c) y = Slice(c, o, e, two) }",
                                    {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1), **SIZE}),
    "crop of a stated shape": (X4 + "{ c = ConvTranspose<strides=[2,2],output_shape=[12,12]>(x, k) y = Slice(c, o, e, two) }",
                               {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1), **SIZE}),
    "crop with automatic padding": (
        X4 + '{ c = ConvTranspose<strides=[2,2],auto_pad="SAME_UPPER">(x, k) y = Slice(c, o, e, two) }',
        {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1), **SIZE}),
    "crop with steps": (X4 + "{" + CT + "y = Slice(c, o, e, two, two) }",
                        {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1), **SIZE}),
    "crop of channels": (X4 + "{" + CT + "y = Slice(c, o, e, o) }", {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1)}),
    "crop from behind": (X4 + "{" + CT + "y = Slice(c, o, e, two) }",
                         {"k": f(4, 5, 4, 4), "o": i(-3), "e": i(99), **SIZE}),
    "crop to a size": (OPEN + "{" + CT + "y = Slice(c, o, e, two) }", {"k": f(4, 5, 4, 4), "o": i(1), "e": i(5), **SIZE}),
    "crop to a known size": (X4 + "{" + CT + "y = Slice(c, o, e, two) }", {"k": f(4, 5, 4, 4), "o": i(1), "e": i(5), **SIZE}),
    "crop by a computed kernel": (X4 + "{ r = Relu(k) c = ConvTranspose(x, r) y = Slice(c, o, e, two) }",
                                  {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1), **SIZE}),
    "crop without axes": (X4 + "{" + CT + "y = Slice(c, o, e) }", {"k": f(4, 5, 4, 4), "o": i(0, 0, 1, 1), "e": i(99, 99, 9, 9)}),
    "crop by unknown ends": ("(float[batch,4,6,6] x, int64[1] one) => (float[a,b,c,d] y) {" + CT + "y = Slice(c, o, one, two) }",
                             {"k": f(4, 5, 4, 4), "o": i(0), **SIZE}),
    "crop by unknown starts": ("(float[batch,4,6,6] x, int64[1] one) => (float[a,b,c,d] y) {" + CT + "y = Slice(c, one, e, two) }",
                               {"k": f(4, 5, 4, 4), "e": i(5), **SIZE}),
    # Dense
    "dense by a computed kernel": ("(float[batch,6,4] x) => (float[a,b,c] y) { k = Relu(w) g = Reshape(x, s) m = MatMul(g, k) y = Reshape(m, t) }",
                                   {"s": i(-1, 4), "t": i(-1, 6, 5), "w": f(4, 5)}),
    "dense by a vector": ("(float[batch,6,1] x) => (float[a,b,c] y) { g = Reshape(x, s) m = MatMul(g, w) y = Reshape(m, t) }",
                          {"s": i(-1, 1), "t": i(-1, 6, 1), "w": f(1)}),
    "dense before a Relu": ("(float[batch,6,4] x) => (float[a,b] y) { g = Reshape(x, s) m = MatMul(g, w) y = Relu(m) }",
                            {"s": i(-1, 4), "w": f(4, 5)}),
    "dense on the input": ("(float[batch,4] x) => (float[a,b,c] y) { m = MatMul(x, w) y = Reshape(m, t) }",
                           {"t": i(-1, 1, 5), "w": f(4, 5)}),
    "dense whose features are read": ("(float[batch,6,4] x) => (float[a,b,c] y, float[d,e] z) { g = Reshape(x, s) m = MatMul(g, w) y = Reshape(m, t) z = Relu(g) }",
                                      {"s": i(-1, 4), "t": i(-1, 6, 5), "w": f(4, 5)}),
    "dense to an unknown shape": ("(float[batch,6,4] x, int64[2] ones) => (float[a,b] y) { g = Reshape(x, s) m = MatMul(g, w) r = Relu(ones) p = Mul(r, q) y = Reshape(m, p) }",
                                  {"s": i(-1, 4), "q": i(-1, 5), "w": f(4, 5)}),
    # Flatten
    "flatten of the input": ("(float[batch,4,3,2] x) => (float[a,b] y) { g = Reshape(x, flat) y = MatMul(g, w) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten of a Relu": ("(float[batch,4,3,2] x) => (float[a,b] y) { r = Relu(x) g = Reshape(r, flat) y = MatMul(g, w) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten of a reversal": ("(float[2,3,4] x) => (float[a,b] y) { t = Transpose(x) g = Reshape(t, flat) y = MatMul(g, w) }", {"flat": i(4, 6), "w": f(6, 5)}),
    "flatten of a moved batch": ("(float[4,4,3] x) => (float[a,b] y) { t = Transpose<perm=[1,0,2]>(x) g = Reshape(t, flat) y = MatMul(g, w) }", {"flat": i(4, 12), "w": f(12, 5)}),
    "flatten in part": ("(float[batch,4,3,2] x) => (float[a,b,c] y) { t = Transpose<perm=[0,2,3,1]>(x) g = Reshape(t, flat) y = MatMul(g, w) }", {"flat": i(-1, 6, 4), "w": f(4, 5)}),
    "flatten with the batch": ("(float[2,4,3,2] x) => (float[a,b] y) { t = Transpose<perm=[0,2,3,1]>(x) g = Reshape(t, flat) y = MatMul(g, w) }", {"flat": i(1, 48), "w": f(48, 5)}),
    "flatten of an unknown shape": ("(float[batch,4,3,2] x) => (float[batch,24] y) { r = Relu(x) t = Transpose<perm=[0,2,3,1]>(r) y = Reshape(t, flat) }", {"flat": i(-1, 24)}),
    "flatten that leaves": ("(float[batch,4,3,2] x) => (float[a,b] y, float[c,d] f) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) y = MatMul(f, w) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten whose maps are read": ("(float[batch,4,3,2] x) => (float[a,b] y, float[c,d,e,g] z) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) y = MatMul(f, w) z = Relu(t) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten whose maps leave": ("(float[batch,4,3,2] x) => (float[a,b] y, float[c,d,e,g] t) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) y = MatMul(f, w) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten before three": (FLAT + "m = Max(f, a, b) y = MatMul(m, w) }", {"flat": i(-1, 24), "a": f(24), "b": f(24), "w": f(24, 5)}),
    "flatten added to itself": (FLAT + "m = Add(f, f) y = MatMul(m, w) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten of one feature": ("(float[batch,1,1,1] x) => (float[a,b] y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) m = Mul(f, s) y = MatMul(m, w) }", {"flat": i(-1, 1), "s": f(24), "w": f(24, 5)}),
    "flatten with one number": (FLAT + "m = Mul(f, s) y = MatMul(m, w) }", {"flat": i(-1, 24), "s": f(1, 1), "w": f(24, 5)}),
    "flatten with one row": (FLAT + "m = Mul(f, s) y = MatMul(m, w) }", {"flat": i(-1, 24), "s": f(1, 24), "w": f(24, 5)}),
    "flatten joined along the batch": ("(float[batch,4,3,2] x, float[batch,24] v) => (float[a,b] y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) c = Concat<axis=0>(f, v) y = MatMul(c, w) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten joined with an open width": ("(float[batch,4,3,2] x, float[batch,k] v) => (float[a,b] y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) c = Concat<axis=1>(f, v) y = MatMul(c, w) }", {"flat": i(-1, 24), "w": f(30, 5)}),
    "flatten joined with an unknown shape": ("(float[batch,4,3,2] x, float[batch,6] v, int64[2] ones) => (float[a,b] y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) o = Mul(ones, q) u = Reshape(v, o) c = Concat<axis=1>(f, u) y = MatMul(c, w) }", {"flat": i(-1, 24), "q": i(-1, 6), "w": f(30, 5)}),
    "flatten joined with itself": (FLAT + "c = Concat<axis=1>(f, f) y = MatMul(c, w) }", {"flat": i(-1, 24), "w": f(48, 5)}),
    "flatten joined on three axes": ("(float[batch,4,3,2] x) => (float[a,b,c] y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) g = Add(f, a) c = Concat<axis=1>(g, b) y = MatMul(c, w) }", {"flat": i(-1, 24), "a": f(1, 1, 24), "b": f(1, 2, 24), "w": f(24, 5)}),
    "flatten as a bias": ("(float[batch,4,3,2] x, float[batch,7] v) => (float[a,b] y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) y = Gemm(v, w, f) }", {"flat": i(-1, 24), "w": f(7, 24)}),
    "flatten before a computed kernel": (FLAT + "k = Relu(w) y = MatMul(f, k) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten before many kernels": ("(float[batch,4,3,2] x) => (float[a,b,c] y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) y = MatMul(f, w) }", {"flat": i(-1, 24), "w": f(24, 24, 5)}),
    "flatten turned over": ("(float[4,2,2,1] x) => (float[a,b] y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) y = Gemm<transA=1>(f, w) }", {"flat": i(4, 4), "w": f(4, 5)}),
    "flatten before a transposed kernel": (FLAT + "y = Gemm<transB=1>(f, w) }", {"flat": i(-1, 24), "w": f(5, 24)}),
    # Affine
    "scale of another rank": ("(float[batch,4,6,6] x) => (float[a,b,c,d,e] y) { c = Conv(x, w) y = Mul(c, s) }", {"w": f(5, 4, 3, 3), "s": f(2, 1, 5, 1, 1)}),
    "scale of each row": (X4 + "{ c = Conv(x, w) y = Mul(c, s) }", {"w": f(4, 4, 3, 3), "s": f(4, 1)}),
    "scale of one channel to many": (X4 + "{ c = Conv(x, w) y = Mul(c, s) }", {"w": f(1, 4, 3, 3), "s": f(5, 1, 1)}),
    "scale of the input": (X4 + "{ y = Mul(x, s) }", {"s": f(4, 1, 1)}),
    "scale by what is computed": (X4 + "{ c = Conv(x, w) v = Relu(s) y = Mul(c, v) }", {"w": f(5, 4, 3, 3), "s": f(5, 1, 1)}),
    "integers divided": ("(int32[batch,4] x) => (int32[a,b] y) { m = MatMul(x, w) y = Div(m, s) }", {"w": np.full((4, 5), 7, "int32"), "s": np.full(5, 3, "int32")}),
    "bias of a sequence": ("(float[batch,3,4] x) => (float[a,b,c] y) { m = MatMul(x, w) y = Add(m, s) }", {"w": f(4, 5), "s": f(5)}),
    "scale behind a bias of a sequence": ("(float[batch,3,4] x) => (float[a,b,c] y) { m = MatMul(x, w) n = Add(m, s) y = Mul(n, s) }", {"w": f(4, 5), "s": f(5)}),
    "product that is read beside its bias": ("(float[batch,3,4] x) => (float[a,b,c] y, float[d,e,f] z) { m = MatMul(x, w) n = Add(m, s) y = Mul(n, s) z = Relu(m) }", {"w": f(4, 5), "s": f(5)}),
    "scale behind a sum": ("(float[batch,3,4] x) => (float[a,b,c] y) { m = MatMul(x, w) o = MatMul(x, v) n = Add(m, o) y = Mul(n, s) }", {"w": f(4, 5), "v": f(4, 5), "s": f(5)}),
    "scale behind a sum with the input": (X4 + "{ n = Add(x, x) y = Mul(n, s) }", {"s": f(4, 1, 1)}),
    "shift behind a weighted bias": ("(float[batch,4] x) => (float[a,b] y) { m = Gemm<beta=2.0,alpha=3.0>(x, w, s) y = Add(m, s) }", {"w": f(4, 5), "s": f(5)}),
    "scale behind a weighted product": ("(float[batch,4] x) => (float[a,b] y) { m = Gemm<alpha=3.0>(x, w, s) n = Mul(m, s) y = Add(n, s) }", {"w": f(4, 5), "s": f(5)}),
    "scale behind a computed kernel": (X4 + "{ k = Relu(w) c = Conv(x, k) y = Mul(c, s) }", {"w": f(5, 4, 3, 3), "s": f(5, 1, 1)}),
    "scale behind many kernels": ("(float[batch,5] x) => (float[a,b,c] y) { m = MatMul(x, w) y = Mul(m, s) }", {"w": f(2, 5, 5), "s": f(5)}),
    "scale behind a computed bias": (X4 + "{ b = Relu(o) c = Conv(x, w, b) y = Mul(c, s) }", {"w": f(5, 4, 3, 3), "o": f(5), "s": f(5, 1, 1)}),
    "scale behind a bias": (X4 + "{ c = Conv(x, w, b) y = Mul(c, s) }", {"w": f(5, 4, 3, 3), "b": f(5), "s": f(5, 1, 1)}),
    "scale behind a bias of rows": ("(float[3,4] x) => (float[a,b] y) { m = Gemm(x, w, c) y = Mul(m, s) }", {"w": f(4, 3), "c": f(3, 1), "s": f(3)}),
    "scale behind a bias for all": ("(float[3,4] x) => (float[a,b] y) { m = Gemm(x, w, c) y = Mul(m, s) }", {"w": f(4, 3), "c": f(1), "s": f(3)}),
    "scale behind a transposed kernel": ("(float[3,4] x) => (float[a,b] y) { m = Gemm<transB=1>(x, w) y = Mul(m, s) }", {"w": f(5, 4), "s": f(5)}),
    # Constants
    "random numbers like constants": ("(float[2] x) => (float[2] y) { r = RandomNormalLike(c) z = Mul(r, o) y = Add(x, z) }", {"c": f(2), "o": np.zeros(2, "float32")}),
    "constants in two": ("(float[2] x) => (float[a] y) { p, q = Split<axis=0>(c, n) r = Add(x, p) y = Mul(r, q) }", {"c": f(4), "n": i(2, 2)}),
    "constants that leave": ("(float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Relu(c) }", {"c": f(2)}),
    "constants of another kind": ("(float[2] x) => (float[2] y) { c = Constant<value_floats=[1.0,2.0]>() y = Add(x, c) }", {}),
    "constants of a shape": ("(float[2] x) => (float[2] y) { c = ConstantOfShape<value=float[1] {2.5}>(n) y = Add(x, c) }", {"n": i(2)}),
    "an empty sequence": ("(float[2] x) => (float[2] y) { s = SequenceEmpty() t = SequenceInsert(s, x) y = ConcatFromSequence<axis=0>(t) }", {}),
    "the largest of three constants": ("(float[2] x) => (float[2] y) { c = Max(a, b, d) y = Add(x, c) }", {"a": f(2), "b": f(2), "d": f(2)}),
    "a part of the shape": ("(float[2,3] x) => (float[2,3] y) { s = Shape<start=1>(x) y = Expand(x, s) }", {}),
    "a quotient of integers": ("(float[2] x) => (float[3] y) { q = Div(a, b) y = Reshape(x, q) }".replace("float[2] x", "float[3] x"), {"a": i(-7), "b": i(7)}),
    # Gemm
    "a product with a computed kernel": ("(float[batch,4] x) => (float[a,b] y) { k = Relu(w) y = MatMul(x, k) }", {"w": f(4, 5)}),
    "a product with a vector": ("(float[batch,4] x) => (float[a] y) { y = MatMul(x, w) }", {"w": f(4)}),
    "a product with many kernels": ("(float[batch,4] x) => (float[a,b,c] y) { y = MatMul(x, w) }", {"w": f(2, 4, 5)}),
    "a product of integers": ("(int32[batch,4] x) => (int32[a,b] y) { y = MatMul(x, w) }", {"w": np.ones((4, 5), "int32")}),
    "a product of an unknown shape": ("(float[batch,4] x, int64[2] ones) => (float[a,b] y) { o = Mul(ones, q) r = Reshape(x, o) y = MatMul(r, w) }", {"q": i(-1, 4), "w": f(4, 5)}),
    "a bias for each row": ("(float[3,4] x) => (float[a,b] y) { m = MatMul(x, w) y = Add(m, b) }", {"w": f(4, 3), "b": f(3, 1)}),
    "a bias of one row": ("(float[3,4] x) => (float[a,b] y) { m = MatMul(x, w) y = Add(m, b) }", {"w": f(4, 3), "b": f(1, 3)}),
    "a bias that widens": ("(float[3,4] x) => (float[a,b] y) { m = MatMul(x, w) y = Add(m, b) }", {"w": f(4, 1), "b": f(5)}),
    "a bias of more axes": ("(float[3,4] x) => (float[a,b,c] y) { m = MatMul(x, w) y = Add(m, b) }", {"w": f(4, 5), "b": f(1, 1, 5)}),
    "a bias that is computed": ("(float[3,4] x) => (float[a,b] y) { m = MatMul(x, w) c = Relu(b) y = Add(m, c) }", {"w": f(4, 5), "b": f(5)}),
    "a product before a Mul": ("(float[3,4] x) => (float[a,b] y) { m = MatMul(x, w) y = Pow(m, b) }", {"w": f(4, 5), "b": np.full(5, 2, "float32")}),
    # Global pooling
    "a mean over nothing named": (X4 + "{ y = ReduceMean(x) }", {}),
    "a mean of features": ("(float[batch,4] x) => (float[a,b] y) { y = ReduceMean(x, e) }", {"e": i()}),
    "a mean over named space that stays": (X4 + "{" + TO_LAST + "y = ReduceMean(t, e) }", {"e": i(1, 2)}),
    "a mean over named space": (X4.replace("a,b,c,d", "a,b") + "{" + TO_LAST + "y = ReduceMean<keepdims=0>(t, e) }", {"e": i(1, 2)}),
    "a mean behind another Transpose": (X4.replace("a,b,c,d", "a,b") + "{ t = Transpose<perm=[0,1,3,2]>(x) y = ReduceMean<keepdims=0>(t, e) }", {"e": i(1, 2)}),
    "a mean behind a reversal": ("(float[3,4,6,6] x) => (float[a,b] y) { t = Transpose(x) y = ReduceMean<keepdims=0>(t, e) }", {"e": i(1, 2)}),
    "a mean by unknown axes": ("(float[batch,4,6,6] x, int64[1] one) => (float[a,b,c,d] y) { y = ReduceMean(x, one) }", {}),
    "a maximum over space": (X4 + "{ y = ReduceMax(x, e) }", {"e": i(-1, -2)}),
    # Identities
    "a cast": ("(float[2] x) => (int32[2] y) { y = Cast<to=6>(x) }", {}),
    "a cast to itself": ("(float[2] x) => (float[2] y) { r = Relu(x) c = Cast<to=1>(r) y = Relu(c) }", {}),
    "a cast to itself between ports": ("(float[2] x) => (float[2] y) { y = Cast<to=1>(x) }", {}),
    "a cast to itself of an output": ("(float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Cast<to=1>(y) }", {}),
    "a pad": (X4 + "{ y = Pad(x, p) }", {"p": i(0, 0, 1, 1, 0, 0, 1, 1)}),
    "an unknown pad": ("(float[batch,4] x, int64[4] ones) => (float[a,b] y) { y = Pad(x, ones) }", {}),
    "a slice up to a size": ("(float[batch,4,h] x) => (float[a,b,c] y) { y = Slice(x, o, e, two) }", {"o": i(0), "e": i(500), "two": i(2)}),
    "a slice in the other order": (X4 + "{ y = Slice(x, o, e, two, o) }", {"o": i(-1), "e": i(-99), "two": i(2)}),
    "a tile": ("(float[batch,4] x) => (float[a,b] y) { y = Tile(x, r) }", {"r": i(1, 2)}),
    "an expansion": ("(float[batch,4] x) => (float[a,b] y) { y = Expand(x, r) }", {"r": i(1, 4)}),
    "a Split in the place of an identity": ("(float[batch,4] x) => (float[a,b] y, float[c,d] z) { y, z = Split<axis=1>(x, n) }", {"n": i(2, 2)}),
    # Sequences
    "a convolution of the input": (X4 + "{ y = Conv(x, w) }", {"w": f(5, 4, 1, 3)}),
    "a convolution behind a Relu": (X4 + "{ r = Relu(x) y = Conv(r, w) }", {"w": f(5, 4, 1, 3)}),
    "places of a maximum": ("(float[batch,4,9] x) => (float[a,b,c,d] y, int64[e,f,g,h] z) { r = Reshape(x, s) y, z = MaxPool<kernel_shape=[1,3]>(r) }", {"s": i(-1, 4, 1, 9)}),
    "a convolution of a new image": ("(float[batch,36] x) => (float[a,b,c,d] y) { r = Reshape(x, s) y = Conv(r, w) }", {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "a convolution of a new volume": ("(float[batch,4,9] x) => (float[a,b,c,d,e] y) { r = Reshape(x, s) y = Conv(r, w) }", {"s": i(-1, 4, 1, 1, 9), "w": f(5, 4, 1, 1, 3)}),
    "a sequence by a computed kernel": ("(float[batch,4,9] x) => (float[a,b,c,d] y) { r = Reshape(x, s) k = Relu(w) y = Conv(r, k) }", {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "a sequence of a stated shape": ("(float[batch,4,9] x) => (float[a,b,c,d] y) { r = Reshape(x, s) y = ConvTranspose<output_shape=[1,11]>(r, w) }", {"s": i(-1, 4, 1, 9), "w": f(4, 5, 1, 3)}),
    "a sequence padded by itself": ('(float[batch,4,9] x) => (float[a,b,c,d] y) { r = Reshape(x, s) y = Conv<auto_pad="SAME_UPPER",kernel_shape=[1,3]>(r, w) }', {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "a sequence padded above": ("(float[batch,4,9] x) => (float[a,b,c,d] y) { r = Reshape(x, s) y = Conv<pads=[1,0,0,0]>(r, w) }", {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "a sequence padded below": ("(float[batch,4,9] x) => (float[a,b,c,d] y) { r = Reshape(x, s) y = Conv<pads=[0,0,1,0]>(r, w) }", {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "a sequence made higher": ("(float[batch,4,9] x) => (float[a,b,c,d] y) { r = Reshape(x, s) y = ConvTranspose<strides=[2,1],output_padding=[1,0]>(r, w) }", {"s": i(-1, 4, 1, 9), "w": f(4, 5, 1, 3)}),
    "a sequence under a high kernel": ("(float[batch,4,9] x) => (float[a,b,c,d] y) { r = Reshape(x, s) y = ConvTranspose(r, w) }", {"s": i(-1, 4, 1, 9), "w": f(4, 5, 2, 3)}),
    "a sequence on its side": ("(float[batch,4,9] x) => (float[a,b,c,d] y) { r = Reshape(x, s) y = Conv<pads=[1,0,1,0],strides=[2,1]>(r, w) }", {"s": i(-1, 4, 9, 1), "w": f(5, 4, 3, 1)}),
    "a sequence that is read": ("(float[batch,4,9] x) => (float[a,b,c,d] y, float[e,f,g,h] z) { r = Reshape(x, s) y = Conv(r, w) z = Relu(r) }", {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "a sequence that leaves": ("(float[batch,4,9] x) => (float[a,b,c,d] y, float[e,f,g,h] r) { r = Reshape(x, s) y = Conv(r, w) }", {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "an open sequence": ("(float[batch,4,n] x) => (float[a,b,c,d] y) { r = Unsqueeze(x, s) q = Reshape(r, p) y = MaxPool<kernel_shape=[1,3]>(q) }", {"s": i(2), "p": i(0, 4, 1, -1)}),
    # Padding
    "an unknown padding": ("(float[batch,4,6,6] x, int64[8] ones) => (float[a,b,c,d] y) { p = Pad(x, ones) y = Conv(p, w) }", {"w": f(5, 6, 3, 3)}),
    "a negative padding": (X4 + "{ p = Pad(x, n) y = Conv(p, w) }", {"n": i(0, 0, -1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "a padding before a Relu": (X4 + "{ p = Pad(x, n) y = Relu(p) }", {"n": i(0, 0, 1, 0, 0, 0, 0, 1)}),
    "a padding before a maximum": (X4 + "{ p = Pad(x, n) y = MaxPool<kernel_shape=[2,2]>(p) }", {"n": i(0, 0, 1, 0, 0, 0, 0, 1)}),
    "a padding that is read": (X4[:-1] + ", float[e,f,g,h] z) { p = Pad(x, n) y = Conv(p, w) z = Relu(p) }", {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "a padding of the kernel": (X4 + "{ p = Pad(w, n) y = Conv(x, p) }", {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 2, 2)}),
    "a padding by reflection": (X4 + '{ p = Pad<mode="reflect">(x, n) y = Conv(p, w) }', {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "a padding by an unknown value": (X4.replace("x)", "x, float v)") + "{ p = Pad(x, n, v) y = Conv(p, w) }", {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "a padding by one": (X4 + "{ p = Pad(x, n, v) y = Conv(p, w) }", {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "v": np.float32(1), "w": f(5, 4, 3, 3)}),
    "a padding by zero": (X4 + "{ p = Pad(x, n, v) y = Conv<pads=[1,1,1,1]>(p, w) }", {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "v": np.float32(0), "w": f(5, 4, 3, 3)}),
    "a padding of named axes": (X4 + "{ p = Pad(x, n, , e) y = Conv(p, w) }", {"n": i(0, 0, 1, 1, 0, 0, 0, 0), "e": i(2, 3, 1, 0), "w": f(5, 5, 3, 3)}),
    "a padding before automatic padding": (X4 + '{ p = Pad(x, n) y = Conv<auto_pad="SAME_UPPER">(p, w) }', {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "a padding of the batch": (X4 + "{ p = Pad(x, n) y = Conv(p, w) }", {"n": i(1, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "a padding of the batch's end": (X4 + "{ p = Pad(x, n) y = Conv(p, w) }", {"n": i(0, 0, 1, 0, 1, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    # Reshapes
    "a Reshape of two open sizes": ("(float[batch,n,m] x) => (float[a] y) { s = Shape(x) p = ReduceProd<keepdims=1>(s) y = Reshape(x, p) }", {}),
    "a Flatten of the batch": ("(float[batch,n,m] x) => (float[a,b] y) { y = Flatten<axis=2>(x) }", {}),
    "a Reshape of nothing between ports": ("(float[batch,4] x) => (float[a,b] y) { y = Reshape(x, s) }", {"s": i(-1, 4)}),
    "a Squeeze of nothing between ports": ("(float[batch,4] x) => (float[a,b] y) { u = Unsqueeze(x, o) y = Squeeze(u, o) }", {"o": i(1)}),
    "Reshapes that leave": ("(float[batch,4] x) => (float[a,b,c] u, float[d,e] y) { u = Unsqueeze(x, o) y = Reshape(u, s) }", {"o": i(1), "s": i(-1, 4)}),
    "a Flatten with the batch": ("(float[2,3,4] x) => (float[a,b] y) { y = Reshape(x, s) }", {"s": i(6, 4)}),
    "a Reshape to three": ("(float[batch,3,4] x) => (float[a,b,c] y) { y = Reshape(x, s) }", {"s": i(-1, 4, 3)}),
    "a Reshape by what is unknown": ("(float[batch,3,4] x, int64[2] ones) => (float[a,b] y) { p = Mul(ones, s) r = Reshape(x, p) t = Reshape(r, s) y = Relu(t) }", {"s": i(-1, 12)}),
    # Scale and shift
    "scale and shift that widen": ("(float[batch,1,6,6] x) => (float[a,b,c,d] y) { m = Mul(x, s) y = Add(m, t) }", {"s": f(4, 1, 1), "t": f(4, 1, 1)}),
    "scale and shift of halves": ("(float16[batch,4,6,6] x) => (float16[a,b,c,d] y) { m = Mul(x, s) y = Add(m, t) }", {"s": f(4, 1, 1).astype("float16"), "t": f(4, 1, 1).astype("float16")}),
    "scale and shift by one number": (X4 + "{ m = Mul(x, s) y = Add(m, s) }", {"s": np.float32(3)}),
    "scale and shift by what is computed": (X4 + "{ r = Relu(s) m = Mul(x, r) y = Add(m, r) }", {"s": f(4, 1, 1)}),
    "scale and shift of more axes": ("(float[batch,4,6,6] x) => (float[a,b,c,d,e] y) { m = Mul(x, s) y = Add(m, s) }", {"s": f(2, 1, 4, 1, 1)}),
    "scale and shift of open channels": ("(float[batch,k,6,6] x) => (float[a,b,c,d] y) { m = Mul(x, s) y = Add(m, s) }", {"s": f(6, 1, 1)}),
    "a constant divided": (X4 + "{ m = Mul(x, s) y = Div(s, m) }", {"s": f(4, 1, 1)}),
    "scale and shift apart": (X4 + "{ m = Mul(x, s) r = Relu(m) y = Add(r, s) }", {"s": f(4, 1, 1)}),
    "a shift of what scales it": (X4 + "{ m = Mul(x, s) y = Sub(s, m) }", {"s": f(4, 1, 1)}),
    # Unflatten
    "a map from the input": ("(float[batch,24] x) => (float[a,b,c,d] y) { r = Reshape(x, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4)}),
    "a map by a computed kernel": ("(float[batch,5] x) => (float[a,b,c,d] y) { k = Relu(w) m = MatMul(x, k) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 24)}),
    "a map by a computed bias": ("(float[batch,5] x) => (float[a,b,c,d] y) { k = Relu(b) m = Gemm(x, w, k) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 24), "b": f(24)}),
    "a map by a transposed kernel": ("(float[batch,5] x) => (float[a,b,c,d] y) { m = Gemm<transB=1>(x, w, b) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(24, 5), "b": f(24)}),
    "a map by a bias for each row": ("(float[3,5] x) => (float[a,b,c,d] y) { m = Gemm(x, w, b) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 24), "b": f(3, 1)}),
    "a map by many kernels": ("(float[2,5] x) => (float[a,b,c,d] y) { m = MatMul(x, w) q = Reshape(m, o) r = Reshape(q, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "o": i(2, 24), "w": f(1, 5, 24)}),
    "a map of many kernels' features": ("(float[2,5] x) => (float[a,b,c,d] y) { m = MatMul(x, w) q = Mul(m, v) r = Reshape(q, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 24), "v": f(24)}),
    "a map whose features are read": ("(float[batch,5] x) => (float[a,b,c,d] y, float[e,f] z) { m = MatMul(x, w) z = Relu(m) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 24)}),
    "a map that is read": ("(float[batch,5] x) => (float[a,b,c,d] y, float[e,f,g,h] r) { m = MatMul(x, w) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 24)}),
    "a map of three": ("(float[batch,5] x) => (float[a,b,c,d] y) { m = MatMul(x, w) n = Max(m, u, v) r = Reshape(n, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 24), "u": f(24), "v": f(24)}),
    "a map of two": ("(float[batch,5] x) => (float[a,b,c,d] y) { m = MatMul(x, w) o = MatMul(x, v) n = Add(m, o) r = Reshape(n, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 24), "v": f(5, 24)}),
    "a map that mixes the batch": ("(float[3,5] x) => (float[a,b,c,d] y) { m = MatMul(x, w) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(1, 3, 6, 4), "w": f(5, 24)}),
    "a map that moves the batch": ("(float[3,5] x) => (float[a,b,c,d] y) { m = MatMul(x, w) r = Reshape(m, s) y = Transpose<perm=[1,0,2,3]>(r) }", {"s": i(3, 3, 2, 4), "w": f(5, 24)}),
    "a map reversed": ("(float[3,5] x) => (float[a,b,c,d] y) { m = MatMul(x, w) r = Reshape(m, s) y = Transpose(r) }", {"s": i(3, 3, 2, 4), "w": f(5, 24)}),
    "a map of a sequence": ("(float[batch,6,5] x) => (float[a,b,c,d] y) { m = MatMul(x, w) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 4)}),
    "one feature to many": ("(float[batch,5] x) => (float[a,b,c,d] y) { m = MatMul(x, w) n = Mul(m, v) r = Reshape(n, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 1), "v": f(24)}),
    # Repetition
    "an unknown repetition": ("(float[batch,3,4,5] x, int64[5] ones) => (float[a,b,c,d] y) { u = Unsqueeze(x, two) b = Tile(u, ones) y = Reshape(b, s) }", {"two": i(2), "s": i(-1, 3, 4, 5)}),
    "a repetition of the input": (X4 + "{ b = Tile(x, r) y = Reshape(b, s) }", {"r": i(1, 1, 2, 1), "s": i(-1, 4, 12, 6)}),
    "a repetition that stays": ("(float[batch,3,4,5] x) => (float[a,b,c,d,e] y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Relu(b) }", {"o": i(2), "r": i(1, 1, 2, 1, 1)}),
    "a repetition of longs": ("(int64[batch,3,4,5] x) => (int64[a,b,c,d] y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) }", {"o": i(3), "r": i(1, 1, 1, 2, 1), "s": i(-1, 3, 8, 5)}),
    "a repetition of doubles": ("(double[batch,3,4,5] x) => (double[a,b,c,d] y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) }", {"o": i(3), "r": i(1, 1, 1, 2, 1), "s": i(-1, 3, 8, 5)}),
    "repetitions at once": ("(float[batch,3,4,5] x) => (float[a,b,c,d] y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) }", {"o": i(2, 4), "r": i(1, 1, 2, 1, 2, 1), "s": i(-1, 6, 8, 5)}),
    "a repetition of the items": ("(float[batch,3,4,5] x) => (float[a,b,c,d] y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) }", {"o": i(1), "r": i(1, 2, 1, 1, 1), "s": i(-1, 3, 4, 5)}),
    "a repetition of a row": ("(float[batch,3,4,5] x) => (float[a,b,c,d] y) { u = Reshape(x, o) b = Tile(u, r) y = Reshape(b, s) }", {"o": i(-1, 3, 2, 2, 5), "r": i(1, 1, 1, 2, 1), "s": i(-1, 3, 8, 5)}),
    "a repetition taken in elsewhere": ("(float[batch,3,4,5] x) => (float[a,b,c,d] y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) }", {"o": i(3), "r": i(1, 1, 1, 2, 1), "s": i(-1, 3, 4, 10)}),
    "a repetition whose source is read": ("(float[batch,3,4,5] x) => (float[a,b,c,d] y, float[e,f,g,h,k] z) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) z = Relu(u) }", {"o": i(3), "r": i(1, 1, 1, 2, 1), "s": i(-1, 3, 8, 5)}),
    "two resizings": (X4 + '{ r = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(x, , k) y = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(r, , q) }', {"k": f(4) * 0 + 2, "q": np.array([1, 1, 0.75, 0.75], "float32")}),
    "two linear resizings": (X4 + '{ r = Resize<mode="linear",coordinate_transformation_mode="half_pixel">(x, , k) y = Resize<mode="linear",coordinate_transformation_mode="half_pixel">(r, , k) }', {"k": np.array([1, 1, 2, 2], "float32")}),
    "two resizings of half pixels": (X4 + '{ r = Resize<mode="nearest",coordinate_transformation_mode="half_pixel",nearest_mode="ceil">(x, , k) y = Resize<mode="nearest",coordinate_transformation_mode="half_pixel",nearest_mode="ceil">(r, , k) }', {"k": np.array([1, 1, 2, 2], "float32")}),
    "two resizings to sizes": (X4.replace("batch", "3") + '{ r = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(x, , , k) y = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(r, , , q) }', {"k": i(3, 4, 12, 12), "q": i(3, 4, 18, 18)}),
    "two resizings by what is computed": (X4 + '{ q = Relu(k) r = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(x, , q) y = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(r, , q) }', {"k": np.array([1, 1, 2, 2], "float32")}),
    "a resizing that is read": (X4[:-1] + ', float[e,f,g,h] z) { r = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(x, , k) z = Relu(r) y = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(r, , k) }', {"k": np.array([1, 1, 2, 2], "float32")}),
}


def build(name):
    text, arrays = GRAPHS[name]
    proto = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 18]> agraph ' + text)
    for key, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), key))
    for number, node in enumerate(proto.graph.node):
        node.name = f"node{number}"
    return proto


def run(proto, space):
    """The answers of a graph to fixed numbers: integers are ones, so that they may be sizes, axes and steps."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    for node in proto.graph.node:
        node.name = ""  # unique only after all passes
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng, fed = np.random.default_rng(1), {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) else 3 if d == "batch" else space for d in value.shape]
        kind = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}.get(value.type)
        fed[value.name] = np.ones(shape, value.type[7:-1]) if kind is None else rng.normal(size=shape).astype(kind)
    return session.run(None, fed)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_pass_over_every_graph(name):
    proto = build(name)
    space = 600 if name == "a slice up to a size" else 6
    before = run(proto, space)
    for shapes in (True, False):
        model = None
        for one in [*PASSES, None]:
            if model is None:
                model = ir.from_proto(proto)
                if shapes:
                    InferShapes()(model)
                plain = ir.to_proto(model).SerializeToString(deterministic=True)
            modified = one()(model).modified if one else passes.fold(model)
            made = ir.to_proto(model)
            if not modified:
                assert made.SerializeToString(deterministic=True) == plain, one
                continue
            model, after = None, run(made, space)
            assert all(a.shape == b.shape for a, b in zip(before, after, strict=True)), one
            assert all(np.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(before, after, strict=True)), one
