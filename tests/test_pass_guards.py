"""Graphs that a pass must leave alone, or treat with care: each guard has one that it alone saves.

Every pass runs over every graph, with shapes inferred and without; ONNX Runtime's answers stay, and a pass that
says it changed nothing changed nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")

from cnnexport.conversion import passes  # noqa: E402
from cnnexport.conversion.passes.shapes import InferShapes  # noqa: E402

RNG = np.random.default_rng(0)
PASSES = [
    passes.FoldConstants, passes.PositivePadding, passes.SayPadding, passes.DropIdentities, passes.WholeActivations,
    passes.PlainArgMax, passes.ScalarFill, passes.StaticSlice, passes.ResizeRepeated, passes.KeepAxes,
    passes.StaticReshape, passes.SettleTransposes, passes.WholeNormalisations, passes.GlobalPool, passes.Narrow,
    passes.PermuteDenseAfterFlatten, passes.PermuteDenseBeforeReshape, passes.MergeCrop, passes.RiseAboveConcat,
    passes.FoldAffine, passes.MatMulToGemm, passes.MergePadding, passes.MergePoolPadding, passes.TransposesOfOnes,
    passes.FoldForward, passes.JoinScaleAndShift, passes.SayFlatten,
]


def f(*shape):
    return RNG.uniform(0.5, 1.5, shape).astype("float32")


class Given(NamedTuple):
    """An array that an input holds, so that no pass knows it."""

    array: np.ndarray


def i(*numbers):
    return np.array(numbers, "int64")


SIZE = {"two": i(2), "three": i(3)}
IMAGE = "(float[batch,4,6,6] x) => (y) "
OPEN = "(float[batch,4,h,w] x) => (y) "
FLAT = "(float[batch,4,3,2] x) => (y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) "
ROW = "(float[batch,4] x) => (y) "
ROWS = "(float[3,4] x) => (y) "
SEQUENCE = "(float[batch,3,4] x) => (y) "
LAST = IMAGE + "{ c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) "
FIRST = " y = Transpose<perm=[0,3,1,2]>(r) }"
STEPS = 'mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor"'
POOLED = IMAGE + "{ r = Relu(x) "
SLOPED = "a = Relu(x) n = Neg(x) b = Relu(n) m = Mul(b, s) y = Add(a, m)"
GATED = "a = Add(x, b) c = Clip(a, z, m) h = Div(c, m) y = Mul(x, h)"
BELL = "a = Mul(h, x) n = Neg(x) m = Mul(n, r) e = Erf(m) s = Sub(o, e) y = Mul(a, s)"
ROUND = "(float[50,4] x) => (y) { r = Round(x) v = Floor(x) "
PLACED = (
    "e = Equal(r, z) l = Less(x, g) b = And(e, l) k = Where(b, t, r) i = ArgMax<axis=1,keepdims=0>(k) "
    "y = Cast<to=1>(i)")
NORMAL = (
    "m = ReduceMean(x, o) d = Sub(x, m) q = Mul(d, d) u = ReduceMean(q, o) e = Add(u, s) r = Sqrt(e) f = Reciprocal(r) "
    "k = Mul(f, g) a = Mul(x, k) n = Neg(m) c = Mul(n, k) t = Add(c, b) y = Add(a, t)")
GROUPS = IMAGE.replace("4,6,6", "2,2,6,6") + "{ " + NORMAL.replace("y =", "w =") + " "
SIDES = "a = Conv(x, v) b = Conv(x, w) c = Concat<axis=1>(a, b) m = Mul(c, s) y = Add(m, t)"
RISE = "(float[batch,6,6,4] x) => (y) { c = Relu(x) "

GRAPHS = {
    # Numbers that fill
    "zeros larger than all else": (
        ROW + "{ s = Shape(x) t = Concat<axis=0>(two, s) z = ConstantOfShape(t) y = Add(x, z) }", SIZE),
    "zeros as large as the other": (ROW + "{ s = Shape(x) z = ConstantOfShape(s) y = Add(x, z) }", {}),
    # Slices, crops, transposed convolutions
    "slice from before the start": (
        OPEN + "{ s = Shape(x) z = Slice(s, two, three) y = Slice(x, a, z, two) }", {"a": i(-999), **SIZE}),
    "slice backwards": (
        OPEN + "{ s = Shape(x) z = Slice(s, two, three) e = Sub(a, z) y = Slice(x, b, e, two, a) }",
        {"a": i(-1), "b": i(999), **SIZE}),
    "slice from the middle": (
        OPEN + "{ s = Shape(x) z = Slice(s, two, three) a = Div(z, two) y = Slice(x, a, z, two) }", SIZE),
    "slice by unknown starts": (
        "(float[batch,4,h,w] x, int64[1] one) => (y) { s = Shape(x) z = Slice(s, two, three) y = Slice(x, one, z, two) "
        "}", SIZE),
    "slice by unknown ends": (
        "(float[batch,4,h,w] x, int64[1] one) => (y) { y = Slice(x, z, one, two) }", {"z": i(0), **SIZE}),
    "slice by unknown axes": (
        "(float[batch,4,h,w] x, int64[1] one) => (y) { s = Shape(x) z = Slice(s, two, three) y = Slice(x, o, z, one) }",
        {"o": i(0), **SIZE}),
    "slice by unknown steps": (
        "(float[batch,4,h,w] x, int64[1] one) => (y) { s = Shape(x) z = Slice(s, two, three) y = Slice(x, o, z, two, "
        "one) }", {"o": i(0), **SIZE}),
    "slice without axes": (OPEN + "{ s = Shape(x) y = Slice(x, o, s) }", {"o": i(0, 1, 1, 0)}),
    "slice with constant ends": (OPEN + "{ y = Slice(x, o, e, two) }", {"o": i(0), "e": i(-1), **SIZE}),
    "slice of a maximum": (
        OPEN + "{ m = MaxPool<kernel_shape=[2,2]>(x) y = Slice(m, o, e, two) }", {"o": i(0), "e": i(-1), **SIZE}),
    "crop that is read elsewhere": (
        "(float[batch,4,6,6] x) => (y, z) { c = ConvTranspose<strides=[2,2]>(x, k) z = Relu(c) y = Slice(c, o, e, two) "
        "}", {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1), **SIZE}),
    "crop of a stated shape": (
        IMAGE + "{ c = ConvTranspose<strides=[2,2],output_shape=[12,12]>(x, k) y = Slice(c, o, e, two) }",
        {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1), **SIZE}),
    "crop with automatic padding": (
        IMAGE + '{ c = ConvTranspose<strides=[2,2],auto_pad="SAME_UPPER">(x, k) y = Slice(c, o, e, two) }',
        {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1), **SIZE}),
    "crop with steps": (
        IMAGE + "{ c = ConvTranspose<strides=[2,2]>(x, k) y = Slice(c, o, e, two, two) }",
        {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1), **SIZE}),
    "crop of channels": (
        IMAGE + "{ c = ConvTranspose<strides=[2,2]>(x, k) y = Slice(c, o, e, o) }",
        {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1)}),
    "crop from behind": (
        IMAGE + "{ c = ConvTranspose<strides=[2,2]>(x, k) y = Slice(c, o, e, two) }",
        {"k": f(4, 5, 4, 4), "o": i(-3), "e": i(99), **SIZE}),
    "crop to a size": (
        OPEN + "{ c = ConvTranspose<strides=[2,2]>(x, k) y = Slice(c, o, e, two) }",
        {"k": f(4, 5, 4, 4), "o": i(1), "e": i(5), **SIZE}),
    "crop to a known size": (
        IMAGE + "{ c = ConvTranspose<strides=[2,2]>(x, k) y = Slice(c, o, e, two) }",
        {"k": f(4, 5, 4, 4), "o": i(1), "e": i(5), **SIZE}),
    "crop by a computed kernel": (
        IMAGE + "{ c = ConvTranspose(x, r) y = Slice(c, o, e, two) }",
        {"r": Given(f(4, 5, 4, 4)), "o": i(1), "e": i(-1), **SIZE}),
    "crop by unknown steps": (
        "(float[batch,4,6,6] x, int64[1] one) => (y) { c = ConvTranspose<strides=[2,2]>(x, k) "
        "y = Slice(c, o, e, two, one) }", {"k": f(4, 5, 4, 4), "o": i(1), "e": i(-1), **SIZE}),
    "crop without axes": (
        IMAGE + "{ c = ConvTranspose<strides=[2,2]>(x, k) y = Slice(c, o, e) }",
        {"k": f(4, 5, 4, 4), "o": i(0, 0, 1, 1), "e": i(99, 99, 9, 9)}),
    "crop by unknown ends": (
        "(float[batch,4,6,6] x, int64[1] one) => (y) { c = ConvTranspose<strides=[2,2]>(x, k) y = Slice(c, o, one, "
        "two) }", {"k": f(4, 5, 4, 4), "o": i(0), **SIZE}),
    "crop by unknown starts": (
        "(float[batch,4,6,6] x, int64[1] one) => (y) { c = ConvTranspose<strides=[2,2]>(x, k) y = Slice(c, one, e, "
        "two) }", {"k": f(4, 5, 4, 4), "e": i(5), **SIZE}),
    # Dense
    "dense by a computed kernel": (
        "(float[batch,6,4] x) => (y) { g = Reshape(x, s) m = MatMul(g, k) y = Reshape(m, t) }",
        {"s": i(-1, 4), "t": i(-1, 6, 5), "k": Given(f(4, 5))}),
    "dense by a vector": (
        "(float[batch,6,1] x) => (y) { g = Reshape(x, s) m = MatMul(g, w) y = Reshape(m, t) }",
        {"s": i(-1, 1), "t": i(-1, 6, 1), "w": f(1)}),
    "dense before a Relu": (
        "(float[batch,6,4] x) => (y) { g = Reshape(x, s) m = MatMul(g, w) y = Relu(m) }",
        {"s": i(-1, 4), "w": f(4, 5)}),
    "dense on the input": (ROW + "{ m = MatMul(x, w) y = Reshape(m, t) }", {"t": i(-1, 1, 5), "w": f(4, 5)}),
    "dense whose features are read": (
        "(float[batch,6,4] x) => (y, z) { g = Reshape(x, s) m = MatMul(g, w) y = Reshape(m, t) z = Relu(g) }",
        {"s": i(-1, 4), "t": i(-1, 6, 5), "w": f(4, 5)}),
    "dense to an unknown shape": (
        "(float[batch,6,4] x, int64[2] ones) => (y) { g = Reshape(x, s) m = MatMul(g, w) r = Relu(ones) p = Mul(r, q) "
        "y = Reshape(m, p) }", {"s": i(-1, 4), "q": i(-1, 5), "w": f(4, 5)}),
    # Flatten
    "flatten of the input": (
        "(float[batch,4,3,2] x) => (y) { g = Reshape(x, flat) y = MatMul(g, w) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten of a Relu": (
        "(float[batch,4,3,2] x) => (y) { r = Relu(x) g = Reshape(r, flat) y = MatMul(g, w) }",
        {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten of a reversal": (
        "(float[2,3,4] x) => (y) { t = Transpose(x) g = Reshape(t, flat) y = MatMul(g, w) }",
        {"flat": i(4, 6), "w": f(6, 5)}),
    "flatten of a moved batch": (
        "(float[4,4,3] x) => (y) { t = Transpose<perm=[1,0,2]>(x) g = Reshape(t, flat) y = MatMul(g, w) }",
        {"flat": i(4, 12), "w": f(12, 5)}),
    "flatten in part": (
        "(float[batch,4,3,2] x) => (y) { t = Transpose<perm=[0,2,3,1]>(x) g = Reshape(t, flat) y = MatMul(g, w) }",
        {"flat": i(-1, 6, 4), "w": f(4, 5)}),
    "flatten with the batch": (
        "(float[2,4,3,2] x) => (y) { t = Transpose<perm=[0,2,3,1]>(x) g = Reshape(t, flat) y = MatMul(g, w) }",
        {"flat": i(1, 48), "w": f(48, 5)}),
    "flatten of an unknown shape": (
        "(float[batch,4,3,2] x) => (float[batch,24] y) { r = Relu(x) t = Transpose<perm=[0,2,3,1]>(r) y = Reshape(t, "
        "flat) }", {"flat": i(-1, 24)}),
    "flatten that leaves": (
        "(float[batch,4,3,2] x) => (y, f) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) y = MatMul(f, w) }",
        {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten whose maps are read": (
        "(float[batch,4,3,2] x) => (y, z) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) y = MatMul(f, w) z = "
        "Relu(t) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten whose maps leave": (
        "(float[batch,4,3,2] x) => (y, t) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) y = MatMul(f, w) }",
        {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten before three": (
        FLAT + "m = Max(f, a, b) y = MatMul(m, w) }", {"flat": i(-1, 24), "a": f(24), "b": f(24), "w": f(24, 5)}),
    "flatten added to itself": (FLAT + "m = Add(f, f) y = MatMul(m, w) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten of one feature": (
        "(float[batch,1,1,1] x) => (y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) m = Mul(f, s) y = "
        "MatMul(m, w) }", {"flat": i(-1, 1), "s": f(24), "w": f(24, 5)}),
    "flatten with one number": (
        FLAT + "m = Mul(f, s) y = MatMul(m, w) }", {"flat": i(-1, 24), "s": f(1, 1), "w": f(24, 5)}),
    "flatten with one row": (
        FLAT + "m = Mul(f, s) y = MatMul(m, w) }", {"flat": i(-1, 24), "s": f(1, 24), "w": f(24, 5)}),
    "flatten joined along the batch": (
        "(float[batch,4,3,2] x, float[batch,24] v) => (y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) c = "
        "Concat<axis=0>(f, v) y = MatMul(c, w) }", {"flat": i(-1, 24), "w": f(24, 5)}),
    "flatten joined with an open width": (
        "(float[batch,4,3,2] x, float[batch,k] v) => (y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) c = "
        "Concat<axis=1>(f, v) y = MatMul(c, w) }", {"flat": i(-1, 24), "w": f(30, 5)}),
    "flatten joined with an unknown shape": (
        "(float[batch,4,3,2] x, float[batch,6] v, int64[2] ones) => (y) { t = Transpose<perm=[0,2,3,1]>(x) f = "
        "Reshape(t, flat) o = Mul(ones, q) u = Reshape(v, o) c = Concat<axis=1>(f, u) y = MatMul(c, w) }",
        {"flat": i(-1, 24), "q": i(-1, 6), "w": f(30, 5)}),
    "flatten joined with itself": (
        FLAT + "c = Concat<axis=1>(f, f) y = MatMul(c, w) }", {"flat": i(-1, 24), "w": f(48, 5)}),
    "flatten joined on three axes": (
        FLAT + "g = Add(f, a) c = Concat<axis=1>(g, b) y = MatMul(c, w) }",
        {"flat": i(-1, 24), "a": f(1, 1, 24), "b": f(1, 2, 24), "w": f(24, 5)}),
    "flatten as a bias": (
        "(float[batch,4,3,2] x, float[batch,7] v) => (y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) y = "
        "Gemm(v, w, f) }", {"flat": i(-1, 24), "w": f(7, 24)}),
    "flatten before a computed kernel": (FLAT + "y = MatMul(f, k) }", {"flat": i(-1, 24), "k": Given(f(24, 5))}),
    "flatten before many kernels": (FLAT + "y = MatMul(f, w) }", {"flat": i(-1, 24), "w": f(24, 24, 5)}),
    "flatten turned over": (
        "(float[4,2,2,1] x) => (y) { t = Transpose<perm=[0,2,3,1]>(x) f = Reshape(t, flat) y = Gemm<transA=1>(f, w) }",
        {"flat": i(4, 4), "w": f(4, 5)}),
    "flatten before a transposed kernel": (FLAT + "y = Gemm<transB=1>(f, w) }", {"flat": i(-1, 24), "w": f(5, 24)}),
    "flatten of open maps": (OPEN + "{ t = Transpose<perm=[0,2,3,1]>(x) y = Flatten(t) }", {}),
    # Affine
    "scale of another rank": (IMAGE + "{ c = Conv(x, w) y = Mul(c, s) }", {"w": f(5, 4, 3, 3), "s": f(2, 1, 5, 1, 1)}),
    "scale of each row": (IMAGE + "{ c = Conv(x, w) y = Mul(c, s) }", {"w": f(4, 4, 3, 3), "s": f(4, 1)}),
    "scale of one channel to many": (IMAGE + "{ c = Conv(x, w) y = Mul(c, s) }", {"w": f(1, 4, 3, 3), "s": f(5, 1, 1)}),
    "scale of the input": (IMAGE + "{ y = Mul(x, s) }", {"s": f(4, 1, 1)}),
    "scale by what is computed": (
        IMAGE + "{ c = Conv(x, w) y = Mul(c, v) }", {"w": f(5, 4, 3, 3), "v": Given(f(5, 1, 1))}),
    "integers divided": (
        "(int32[batch,4] x) => (y) { m = MatMul(x, w) y = Div(m, s) }",
        {"w": np.full((4, 5), 7, "int32"), "s": np.full(5, 3, "int32")}),
    "bias of a sequence": (SEQUENCE + "{ m = MatMul(x, w) y = Add(m, s) }", {"w": f(4, 5), "s": f(5)}),
    "scale behind a bias of a sequence": (
        SEQUENCE + "{ m = MatMul(x, w) n = Add(m, s) y = Mul(n, s) }", {"w": f(4, 5), "s": f(5)}),
    "product that is read beside its bias": (
        "(float[batch,3,4] x) => (y, z) { m = MatMul(x, w) n = Add(m, s) y = Mul(n, s) z = Relu(m) }",
        {"w": f(4, 5), "s": f(5)}),
    "scale behind a sum": (
        SEQUENCE + "{ m = MatMul(x, w) o = MatMul(x, v) n = Add(m, o) y = Mul(n, s) }",
        {"w": f(4, 5), "v": f(4, 5), "s": f(5)}),
    "scale behind a sum with the input": (IMAGE + "{ n = Add(x, x) y = Mul(n, s) }", {"s": f(4, 1, 1)}),
    "shift behind a weighted bias": (
        ROW + "{ m = Gemm<beta=2.0,alpha=3.0>(x, w, s) y = Add(m, s) }", {"w": f(4, 5), "s": f(5)}),
    "scale behind a weighted product": (
        ROW + "{ m = Gemm<alpha=3.0>(x, w, s) n = Mul(m, s) y = Add(n, s) }", {"w": f(4, 5), "s": f(5)}),
    "scale behind a computed kernel": (
        IMAGE + "{ c = Conv(x, k) y = Mul(c, s) }", {"k": Given(f(5, 4, 3, 3)), "s": f(5, 1, 1)}),
    "scale behind many kernels": (
        "(float[batch,5] x) => (y) { m = MatMul(x, w) y = Mul(m, s) }", {"w": f(2, 5, 5), "s": f(5)}),
    "scale behind a computed bias": (
        IMAGE + "{ c = Conv(x, w, b) y = Mul(c, s) }", {"w": f(5, 4, 3, 3), "b": Given(f(5)), "s": f(5, 1, 1)}),
    "scale behind a bias": (
        IMAGE + "{ c = Conv(x, w, b) y = Mul(c, s) }", {"w": f(5, 4, 3, 3), "b": f(5), "s": f(5, 1, 1)}),
    "scale behind a bias of rows": (
        ROWS + "{ m = Gemm(x, w, c) y = Mul(m, s) }", {"w": f(4, 3), "c": f(3, 1), "s": f(3)}),
    "scale behind a bias for all": (ROWS + "{ m = Gemm(x, w, c) y = Mul(m, s) }", {"w": f(4, 3), "c": f(1), "s": f(3)}),
    "scale behind a transposed kernel": (
        ROWS + "{ m = Gemm<transB=1>(x, w) y = Mul(m, s) }", {"w": f(5, 4), "s": f(5)}),
    "shift behind grouped maps": (
        IMAGE + "{ c = ConvTranspose<group=2>(x, w) y = Add(c, s) }", {"w": f(4, 5, 3, 3), "s": np.float32(2)}),
    # Constants
    "random numbers like constants": (
        "(float[2] x) => (y) { r = RandomNormalLike(c) z = Mul(r, o) y = Add(x, z) }",
        {"c": f(2), "o": np.zeros(2, "float32")}),
    "constants in two": (
        "(float[2] x) => (y) { p, q = Split<axis=0>(c, n) r = Add(x, p) y = Mul(r, q) }", {"c": f(4), "n": i(2, 2)}),
    "constants that leave": ("(float[2] x) => (y, z) { y = Relu(x) z = Relu(c) }", {"c": f(2)}),
    "constants that leave and are read": (
        "(float[2] x) => (y, z) { z = Relu(c) y = Add(x, z) }", {"c": f(2)}),
    "constants of another kind": ("(float[2] x) => (y) { c = Constant<value_floats=[1.0,2.0]>() y = Add(x, c) }", {}),
    "constants of a shape": (
        "(float[2] x) => (y) { c = ConstantOfShape<value=float[1] {2.5}>(n) y = Concat<axis=0>(x, c) }", {"n": i(2)}),
    "an empty sequence": (
        "(float[2] x) => (y) { s = SequenceEmpty() t = SequenceInsert(s, x) y = ConcatFromSequence<axis=0>(t) }", {}),
    "the largest of three constants": (
        "(float[2] x) => (y) { c = Max(a, b, d) y = Add(x, c) }", {"a": f(2), "b": f(2), "d": f(2)}),
    "a part of the shape": ("(float[2,3] x) => (y) { s = Shape<start=1>(x) y = Expand(x, s) }", {}),
    "a quotient of integers": ("(float[3] x) => (y) { q = Div(a, b) y = Reshape(x, q) }", {"a": i(-7), "b": i(7)}),
    # Gemm
    "a product with a computed kernel": (ROW + "{ y = MatMul(x, k) }", {"k": Given(f(4, 5))}),
    "a product with a vector": (ROW + "{ y = MatMul(x, w) }", {"w": f(4)}),
    "a product with many kernels": (ROW + "{ y = MatMul(x, w) }", {"w": f(2, 4, 5)}),
    "a product of integers": ("(int32[batch,4] x) => (y) { y = MatMul(x, w) }", {"w": np.ones((4, 5), "int32")}),
    "a product of an unknown shape": (
        "(float[batch,4] x, int64[2] ones) => (y) { o = Mul(ones, q) r = Reshape(x, o) y = MatMul(r, w) }",
        {"q": i(-1, 4), "w": f(4, 5)}),
    "a bias for each row": (ROWS + "{ m = MatMul(x, w) y = Add(m, b) }", {"w": f(4, 3), "b": f(3, 1)}),
    "a bias of one row": (ROWS + "{ m = MatMul(x, w) y = Add(m, b) }", {"w": f(4, 3), "b": f(1, 3)}),
    "a bias that widens": (ROWS + "{ m = MatMul(x, w) y = Add(m, b) }", {"w": f(4, 1), "b": f(5)}),
    "a bias of more axes": (ROWS + "{ m = MatMul(x, w) y = Add(m, b) }", {"w": f(4, 5), "b": f(1, 1, 5)}),
    "a bias that is computed": (ROWS + "{ m = MatMul(x, w) y = Add(m, c) }", {"w": f(4, 5), "c": Given(f(5))}),
    "a product before a Mul": (
        ROWS + "{ m = MatMul(x, w) y = Pow(m, b) }", {"w": f(4, 5), "b": np.full(5, 2, "float32")}),
    # Global pooling
    "a mean over nothing named": (IMAGE + "{ y = ReduceMean(x) }", {}),
    "a mean of features": (ROW + "{ y = ReduceMean(x, e) }", {"e": i()}),
    "a mean over named space that stays": (
        IMAGE + "{ c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) y = ReduceMean(t, e) }", {"e": i(1, 2)}),
    "a mean over named space": (
        IMAGE + "{ c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) y = ReduceMean<keepdims=0>(t, e) }", {"e": i(1, 2)}),
    "a mean behind another Transpose": (
        IMAGE + "{ t = Transpose<perm=[0,1,3,2]>(x) y = ReduceMean<keepdims=0>(t, e) }", {"e": i(1, 2)}),
    "a mean behind a reversal": (
        "(float[3,4,6,6] x) => (y) { t = Transpose(x) y = ReduceMean<keepdims=0>(t, e) }", {"e": i(1, 2)}),
    "a mean by unknown axes": ("(float[batch,4,6,6] x, int64[1] one) => (y) { y = ReduceMean(x, one) }", {}),
    "a maximum over space": (IMAGE + "{ y = ReduceMax(x, e) }", {"e": i(-1, -2)}),
    # Identities
    "a cast": ("(float[2] x) => (y) { y = Cast<to=6>(x) }", {}),
    "a cast to itself": ("(float[2] x) => (y) { r = Relu(x) c = Cast<to=1>(r) y = Relu(c) }", {}),
    "a cast to itself between ports": ("(float[2] x) => (y) { y = Cast<to=1>(x) }", {}),
    "a cast to itself of an output": ("(float[2] x) => (y, z) { y = Relu(x) z = Cast<to=1>(y) }", {}),
    "a pad": (IMAGE + "{ y = Pad(x, p) }", {"p": i(0, 0, 1, 1, 0, 0, 1, 1)}),
    "an unknown pad": ("(float[batch,4] x, int64[4] ones) => (y) { y = Pad(x, ones) }", {}),
    "a slice up to a size": (
        "(float[batch,4,h] x) => (y) { r = Relu(x) y = Slice(r, o, e, two) }", {"o": i(0), "e": i(500), "two": i(2)}),
    "a slice in the other order": (IMAGE + "{ y = Slice(x, o, e, two, o) }", {"o": i(-1), "e": i(-99), "two": i(2)}),
    "a tile": (ROW + "{ y = Tile(x, r) }", {"r": i(1, 2)}),
    "an expansion": (ROW + "{ y = Expand(x, r) }", {"r": i(1, 4)}),
    "a Split in the place of an identity": (
        "(float[batch,4] x) => (y, z) { y, z = Split<axis=1>(x, n) }", {"n": i(2, 2)}),
    "a product with one that widens": (ROW + "{ r = Relu(x) y = Mul(r, k) }", {"k": np.ones((1, 1, 1), "float32")}),
    "a product with ones": (ROW + "{ r = Relu(x) y = Mul(r, k) }", {"k": np.ones(4, "float32")}),
    "a product with one row to many": (
        "(float[batch,1] x) => (y) { r = Relu(x) y = Mul(r, k) }", {"k": np.ones(4, "float32")}),
    "a product with two": (ROW + "{ r = Relu(x) y = Mul(k, r) }", {"k": np.float32(2)}),
    "one divided": (ROW + "{ r = Exp(x) y = Div(k, r) }", {"k": np.float32(1)}),
    "a product with one between ports": (ROW + "{ y = Mul(k, x) }", {"k": np.float32(1)}),
    **{f"a sum with nothing, {name}": (head + "{ r = Round(x) " + line + " y = Reciprocal(m) }", {"z": number})
       for name, head, line, number in (
        ("added", ROUND[:ROUND.index("{")], "m = Add(r, z)", np.float32(0)),
        ("added from the left", ROUND[:ROUND.index("{")], "m = Add(z, r)", np.float32(0)),
        ("less nothing added", ROUND[:ROUND.index("{")], "m = Add(r, z)", np.float32(-0.0)),
        ("taken away", ROUND[:ROUND.index("{")], "m = Sub(r, z)", np.float32(0)),
        ("less nothing taken away", ROUND[:ROUND.index("{")], "m = Sub(r, z)", np.float32(-0.0)),
        ("taken from it", ROUND[:ROUND.index("{")], "m = Sub(z, r)", np.float32(0)),
        ("that is something", ROUND[:ROUND.index("{")], "m = Add(r, z)", np.float32(-2)),
        ("with more axes", ROUND[:ROUND.index("{")], "m = Sub(r, z)", np.zeros((1, 1, 1), "float32")),
        ("of each", ROUND[:ROUND.index("{")], "m = Sub(r, z)", np.zeros(4, "float32")))},
    # Activations in pieces
    **{f"a slope {name}": (head + "{ " + line + " }", arrays) for name, head, line, arrays in (
        ("that is computed", IMAGE, SLOPED, {"s": Given(f(4, 1, 1))}),
        ("of one axis", IMAGE, SLOPED, {"s": f(6)}),
        ("of two places", IMAGE, SLOPED, {"s": f(4, 6, 6)}),
        ("of each row", IMAGE.replace("batch", "3"), SLOPED, {"s": f(3, 1, 1, 1)}),
        ("that widens", IMAGE.replace("4,6", "1,6"), SLOPED, {"s": f(4, 1, 1)}),
        ("of more axes", IMAGE, SLOPED, {"s": f(2, 1, 4, 1, 1)}),
        ("of something else", IMAGE, SLOPED.replace("n = Neg(x)", "t = Tanh(x) n = Neg(t)"), {"s": f(4, 1, 1)}),
        ("of what is not turned", IMAGE, SLOPED.replace("Neg(x)", "Abs(x)"), {"s": f(4, 1, 1)}),
        ("of what is read", IMAGE.replace("(y)", "(y, z)"), SLOPED + " z = Neg(b)", {"s": f(4, 1, 1)}),
        ("that leaves", IMAGE.replace("(y)", "(y, m)"), SLOPED, {"s": f(4, 1, 1)}),
        ("beside a Tanh", IMAGE, SLOPED.replace("a = Relu", "a = Tanh"), {"s": f(4, 1, 1)}))},
    **{f"a gate {name}": (head + "{ " + line + " }", {
        "b": np.float32(3), "z": np.float32(0), "m": np.float32(6), "s": np.float32(1 / 6), **arrays})
       for name, head, line, arrays in (
        ("by a product", IMAGE, GATED.replace("Div(c, m)", "Mul(s, c)"), {}),
        ("of another height", IMAGE, GATED, {"b": np.float32(2), "m": np.float32(5)}),
        ("by the wrong number", IMAGE, GATED.replace("Div(c, m)", "Div(c, b)"), {}),
        ("by nothing", IMAGE, GATED.replace("Div(c, m)", "Mul(z, c)"), {}),
        ("that divides", IMAGE, GATED.replace("Div(c, m)", "Div(m, c)"), {}),
        ("to nothing", IMAGE, GATED.replace("Div(c, m)", "Mul(z, c)"), {"m": np.float32(0)}),
        ("from one", IMAGE, GATED, {"z": np.float32(1)}),
        ("to below zero", IMAGE, GATED, {"m": np.float32(-1)}),
        ("to an unknown number", IMAGE, GATED.replace("z, m)", "z, q)"), {"q": Given(np.array(6, "float32"))}),
        ("from an unknown number", IMAGE, GATED.replace("z, m)", "q, m)"), {"q": Given(np.array(1, "float32"))}),
        ("from nothing", IMAGE, GATED.replace("z, m)", ", m)"), {}),
        ("of channels", IMAGE, GATED, {"b": f(4, 1, 1)}),
        ("of more axes", IMAGE, GATED, {"b": f(1, 1, 1, 1, 1)}),
        ("that is read", IMAGE.replace("(y)", "(y, v)"), GATED + " v = Neg(h)", {}),
        ("whose pieces are read", IMAGE.replace("(y)", "(y, v)"), GATED + " v = Neg(c)", {}),
        ("whose sum is read", IMAGE.replace("(y)", "(y, v)"), GATED + " v = Neg(a)", {}),
        ("of something else", IMAGE, GATED.replace("y = Mul(x, h)", "w = Tanh(x) y = Mul(w, h)"), {}))},
    "a flatter gate": (IMAGE + "{ h = HardSigmoid<alpha=0.2,beta=0.5>(x) y = Mul(x, h) }", {}),
    "a higher gate": (IMAGE + "{ h = HardSigmoid<alpha=0.16666667,beta=0.4>(x) y = Mul(x, h) }", {}),
    **{f"a bell's integral {name}": (head + "{ " + line + " }", {
        "h": np.float32(0.5), "o": np.float32(1), "r": np.float32(0.5 ** 0.5), **arrays})
       for name, head, line, arrays in (
        ("", IMAGE, BELL, {}),
        ("of another width", IMAGE, BELL, {"r": np.float32(0.6)}),
        ("of another height", IMAGE, BELL, {"h": np.float32(0.6)}),
        ("from another number", IMAGE, BELL, {"o": np.float32(2)}),
        ("from several numbers", IMAGE, BELL, {"o": f(4, 1, 1)}),
        ("of two", IMAGE, BELL.replace("Neg(x)", "Neg(a)"), {}),
        ("of what is not turned", IMAGE, BELL.replace("Neg(x)", "Abs(x)"), {}),
        ("of more axes", IMAGE, BELL, {"h": np.full((1, 1, 1, 1, 1), 0.5, "float32")}),
        ("that is read", IMAGE.replace("(y)", "(y, z)"), BELL + " z = Neg(s)", {}),
        ("whose half is read", IMAGE.replace("(y)", "(y, z)"), BELL + " z = Neg(a)", {}))},
    # Normalisations in pieces
    **{f"a normalisation {name}": (head + "{ " + line + " }", {
        "o": i(1), "s": np.float32(1e-3), "g": f(4), "b": f(4), **arrays})
       for name, head, line, arrays in (
        ("of rows", ROW, NORMAL, {}),
        ("by one number", ROW, NORMAL, {"g": np.float32(3), "b": np.float32(2)}),
        ("of sequences", SEQUENCE, NORMAL, {"o": i(-1)}),
        ("of channels", IMAGE, NORMAL, {"g": f(4, 1, 1), "b": f(4, 1, 1)}),
        ("of images", IMAGE, NORMAL, {"o": i(3, 1, 2), "g": f(4, 1, 6), "b": f(6, 6)}),
        ("of maps", IMAGE, NORMAL, {"o": i(2, 3), "g": f(4, 1, 1), "b": f(4, 1, 1)}),
        ("of maps by one number", IMAGE, NORMAL, {"o": i(2, 3), "g": np.float32(3), "b": f(4, 1, 1)}),
        ("of maps by places", IMAGE, NORMAL, {"o": i(2, 3), "g": f(6, 6), "b": f(4, 1, 1)}),
        ("of lines", IMAGE, NORMAL, {"o": i(3), "g": f(4, 1, 1), "b": f(6)}),
        ("of open maps", OPEN, NORMAL, {"o": i(2, 3), "g": f(4, 1, 1), "b": np.float32(2)}),
        ("of open maps by places", OPEN, NORMAL, {"o": i(2, 3), "g": f(6, 6), "b": f(1, 6)}),
        ("of open maps without a scale", OPEN, NORMAL.replace("k = Mul(f, g)", "h = Neg(g)").replace("k)", "f)"),
         {"o": i(2, 3), "b": f(4, 1, 1)}),
        ("of open channels", "(float[batch,h,w,6] x) => (y) ", NORMAL,
         {"o": i(2, 3), "g": np.float32(3), "b": np.float32(2)}),
        ("of open images", OPEN, NORMAL, {"o": i(1, 2, 3), "g": f(4, 1, 1), "b": f(4, 1, 1)}),
        ("of rows by a scale for each", ROWS, NORMAL, {"g": f(3, 1)}),
        ("of rows by a shift for each", ROWS, NORMAL, {"b": f(3, 4)}),
        ("of more axes", ROW, NORMAL, {"b": f(1, 1, 4)}),
        ("of what is made", ROW, "h = Relu(x) " + NORMAL.replace("(x", "(h"), {}),
        ("that widens", "(float[1,4] x) => (y) ", NORMAL, {"b": f(3, 4)}),
        ("of doubles", "(double[3,4] x) => (y) ", NORMAL.replace("k = Mul(f, g)", "h = Neg(g)").replace("k)", "f)"),
         {"s": np.float64(1e-3), "b": f(4).astype("float64")}),
        ("by a computed scale", ROW, NORMAL, {"g": Given(f(4))}),
        ("by a computed shift", ROW, NORMAL, {"b": Given(f(4))}),
        ("by a computed epsilon", ROW, NORMAL, {"s": Given(f(1))}),
        ("by an epsilon for each", ROWS, NORMAL, {"s": f(3, 1)}),
        ("over computed axes", "(float[batch,4] x, int64[1] one) => (y) ", NORMAL.replace(" o)", " one)"), {}),
        ("over other axes", ROWS, NORMAL.replace("ReduceMean(q, o)", "ReduceMean(q, z)"), {"z": i(0)}),
        ("over axes that go", "(float[4,4] x) => (y) ", NORMAL.replace("ReduceMean", "ReduceMean<keepdims=0>"), {}),
        ("of another mean", ROW, NORMAL.replace("m =", "h = Relu(x) m =").replace("Mean(x", "Mean(h"), {}),
        ("of another deviation", ROW, NORMAL.replace("Sub(x, m)", "Sub(x, b)"), {}),
        ("of a deviation from something else", ROW, NORMAL.replace("d = Sub(x", "h = Relu(x) d = Sub(h"), {}),
        ("of another square", ROW, NORMAL.replace("q =", "h = Sin(d) q =").replace("d, d", "d, h"), {}),
        ("by another root", ROW, NORMAL.replace("Sqrt", "Exp"), {}),
        ("by no reciprocal", ROW, NORMAL.replace("Reciprocal", "Sin"), {}),
        ("by two factors", ROW, NORMAL.replace("Mul(n, k)", "Mul(n, f)"), {}),
        ("that is not moved back", ROW, NORMAL.replace("Neg(m)", "Abs(m)"), {}),
        ("of a largest", ROW, NORMAL.replace("m = ReduceMean", "m = ReduceMax"), {}),
        ("by a largest", ROW, NORMAL.replace("u = ReduceMean", "u = ReduceMax"), {}),
        ("in a product", ROW, NORMAL.replace("y = Add", "y = Mul"), {}),
        ("without a scale", ROW, NORMAL.replace("k = Mul(f, g)", "h = Neg(g)").replace("k)", "f)"), {}),
        ("without a shift", ROW, NORMAL.replace("t = Add(c, b)", "h = Neg(b)").replace("a, t", "a, c"), {}))},
    **{f"a normalisation of groups {name}": (GROUPS.replace("(y)", outputs).replace(
        *("2,2,6", "2,h,6") if "open" in name else ("k)", "f)") if "scale" in name else ("", "")) + line + " }", {
        "o": i(2, 3, 4), "s": np.float32(1e-3), "g": f(2, 2, 1, 1), "b": f(2, 2, 1, 1), "k4": i(0, 4, 6, 6), **arrays})
       for name, outputs, line, arrays in (
        ("", "(y)", "y = Reshape(w, k4)", {}),
        ("that is not put back", "(y)", "y = Relu(w)", {}),
        ("that is read", "(y, z)", "y = Reshape(w, k4) z = Relu(w)", {}),
        ("put elsewhere", "(y)", "y = Reshape(w, k4)", {"k4": i(0, 2, 12, 6)}),
        ("of open size", "(y)", "y = Reshape(w, k4)", {"g": f(2, 1, 1, 1), "b": f(6, 1, 1), "k4": i(0, -1, 6, 6)}),
        ("without a scale", "(y)", "y = Reshape(w, k4)", {}),
        ("by places", "(y)", "y = Reshape(w, k4)", {"b": f(6, 6)}),
        ("by places too", "(y)", "y = Reshape(w, k4)", {"g": f(2, 1, 6, 6)}),
        ("by one of two", "(y)", "y = Reshape(w, k4)", {"g": f(2, 1, 1), "b": f(2, 1, 1, 1)}))},
    # What is folded into the node behind it
    **{f"forward, {name}": (head + "{ r = Relu(x) " + line + " }", {
        "s": f(4, 1, 1), "t": f(4, 1, 1), "w": f(6, 4, 3, 3), **arrays})
       for name, head, line, arrays in (
        ("a scale", IMAGE, "m = Mul(r, s) y = Conv(m, w)", {}),
        ("a number", IMAGE, "m = Mul(r, s) y = Conv(m, w)", {"s": np.float32(3)}),
        ("a shift", IMAGE, "m = Sub(r, t) y = Conv(m, w)", {}),
        ("a shift of one number", IMAGE, "m = Add(r, t) y = Conv(m, w)", {"t": np.float32(3)}),
        ("a quotient", IMAGE, "m = Div(r, t) n = Sub(s, m) y = Conv(n, w)", {}),
        ("a constant by it", IMAGE, "e = Exp(r) m = Div(t, e) y = Conv(m, w)", {}),
        ("a scale by place", IMAGE, "m = Mul(r, s) y = Conv(m, w)", {"s": f(6, 6)}),
        ("a scale of two", IMAGE, "m = Mul(r, s) y = Conv(m, w)", {"s": f(3, 1, 1, 1)}),
        ("a scale that widens", IMAGE.replace("4,6", "1,6"), "m = Mul(r, s) y = Conv(m, w)", {}),
        ("a scale that is computed", IMAGE, "m = Mul(r, s) y = Conv(m, w)", {"s": Given(f(4, 1, 1))}),
        ("a scale that is read", IMAGE.replace("(y)", "(y, z)"), "m = Mul(r, s) y = Conv(m, w) z = Abs(m)", {}),
        ("a square", IMAGE, "m = Mul(r, r) y = Conv(m, w)", {}),
        ("a root", IMAGE, "m = Sqrt(r) y = Conv(m, w)", {}),
        ("a computed kernel", IMAGE, "m = Mul(r, s) y = Conv(m, w)", {"w": Given(f(6, 4, 3, 3))}),
        ("a computed bias", IMAGE, "m = Add(r, t) y = Conv(m, w, b)", {"b": Given(f(6))}),
        ("a bias", IMAGE, "m = Mul(r, s) n = Add(m, t) y = Conv(n, w, b)", {"b": f(6)}),
        ("a shift and a border", IMAGE, "m = Mul(r, s) n = Add(m, t) y = Conv<pads=[1,1,1,1]>(n, w)", {}),
        ("one number's shift and a border", IMAGE, "m = Mul(r, s) n = Add(m, t) y = Conv<pads=[0,1,0,0]>(n, w)",
         {"s": np.float32(2), "t": np.float32(3)}),
        ("a border before a border", IMAGE, "m = Add(r, t) y = Conv<pads=[0,1,0,0]>(m, w)", {"t": np.float32(3)}),
        ("a shift of channels and a border", IMAGE, "m = Mul(r, s) n = Add(m, t) y = Conv<pads=[0,1,0,0]>(n, w)",
         {"s": np.float32(2)}),
        ("a scale of channels and a border", IMAGE, "m = Mul(r, s) n = Add(m, t) y = Conv<pads=[0,1,0,0]>(n, w)",
         {"t": np.float32(2)}),
        ("a border by itself", IMAGE, 'm = Add(r, t) y = Conv<auto_pad="SAME_UPPER">(m, w)', {}),
        ("a scale and a border by itself", IMAGE, 'm = Mul(r, s) y = Conv<auto_pad="SAME_LOWER">(m, w)', {}),
        ("no border by itself", IMAGE, 'm = Add(r, t) y = Conv<auto_pad="SAME_UPPER">(m, w)', {"w": f(6, 4, 1, 1)}),
        ("no border", IMAGE, 'm = Add(r, t) y = Conv<auto_pad="VALID">(m, w)', {}),
        ("two groups", IMAGE, "m = Mul(r, s) n = Add(m, t) y = Conv<group=2>(n, w)", {"w": f(6, 2, 3, 3)}),
        ("each channel", IMAGE, "m = Mul(r, s) n = Add(m, t) y = Conv<group=4>(n, w)", {"w": f(8, 1, 3, 3)}),
        ("a normalisation", IMAGE, "m = BatchNormalization<epsilon=0.5>(r, a, b, c, d) y = Conv(m, w)",
         {"a": f(4), "b": f(4), "c": f(4), "d": f(4)}),
        ("a normalisation by itself", IMAGE, "m = BatchNormalization(r, a, b, c, d) y = Conv(m, w)",
         {"a": f(4), "b": f(4), "c": f(4), "d": np.full(4, 1e-5, "float32")}),
        ("a normalisation that is computed", IMAGE, "m = BatchNormalization(r, a, b, c, d) y = Conv(m, w)",
         {"a": Given(f(4)), "b": Given(f(4)), "c": Given(f(4)), "d": Given(f(4))}),
        *((f"a Dense {name}", head, line, {"s": f(4), "t": f(4), "w": f(4, 5), "b": f(5), **arrays})
          for name, head, line, arrays in (
            ("by rows", ROW, "m = Mul(r, s) n = Add(m, t) y = Gemm<transB=1>(n, w, b)", {"w": f(5, 4)}),
            ("by columns", ROW, "m = Mul(r, s) n = Add(m, t) y = Gemm(n, w, b)", {}),
            ("without a bias", ROW, "m = Mul(r, s) n = Add(m, t) y = Gemm(n, w)", {}),
            ("with one bias for all", ROW, "m = Add(r, t) y = Gemm(m, w, b)", {"b": f(1)}),
            ("with a bias for each", ROWS, "m = Add(r, t) y = Gemm(m, w, b)", {"b": f(3, 1)}),
            ("on its side", ROWS, "m = Mul(r, s) y = Gemm<transA=1>(m, w)", {"w": f(3, 5)}),
            ("times two", ROW, "m = Add(r, t) y = Gemm<alpha=2.0>(m, w, b)", {}),
            ("with twice a bias", ROW, "m = Add(r, t) y = Gemm<beta=2.0>(m, w, b)", {}),
            ("of integers", ROW.replace("float", "int32"), "m = Mul(r, s) y = MatMul(m, w)",
             {"s": np.full(4, 3, "int32"), "w": np.full((4, 5), 2, "int32")}),
            ("of sequences", SEQUENCE, "m = Mul(r, s) n = Add(m, t) p = MatMul(n, w) y = Add(b, p)", {}),
            ("of sequences behind a normalisation", SEQUENCE,
             "m = BatchNormalization(r, n, n, n, n) p = MatMul(m, w) y = Add(p, b)", {"n": f(3)}),
            ("of sequences with one bias", SEQUENCE, "m = Add(r, t) p = MatMul(m, w) y = Add(p, b)", {"b": f(1)}),
            ("of sequences without a bias", SEQUENCE, "m = Mul(r, s) y = MatMul(m, w)", {}),
            ("of sequences, a shift", SEQUENCE, "m = Add(r, t) y = MatMul(m, w)", {}),
            ("of sequences, a shift before another", SEQUENCE, "m = Add(r, t) p = MatMul(m, w) y = Mul(p, b)", {}),
            ("of sequences with biases", SEQUENCE, "m = Add(r, t) p = MatMul(m, w) y = Add(p, b)", {"b": f(3, 5)}),
            ("of sequences with a computed bias", SEQUENCE, "m = Add(r, t) p = MatMul(m, w) y = Add(p, b)",
             {"b": Given(f(5))}),
            ("of sequences with more axes", SEQUENCE, "m = Add(r, t) p = MatMul(m, w) y = Add(p, b)",
             {"b": f(2, 1, 1, 5)}),
            ("of sequences with a bias of more axes", SEQUENCE, "m = Add(r, t) p = MatMul(m, w) y = Add(p, b)",
             {"b": f(1, 1, 1, 5)}),
            ("of sequences, a scale of places", SEQUENCE, "m = Mul(r, s) y = MatMul(m, w)", {"s": f(3, 1)}),
            ("of many kernels", SEQUENCE, "m = Mul(r, s) y = MatMul(m, w)", {"w": f(3, 4, 5)}),
            ("of maps", IMAGE, "m = Mul(r, s) n = Add(m, t) l = Flatten(n) y = Gemm(l, w)",
             {"s": f(4, 1, 1), "t": f(4, 1, 1), "w": f(144, 5)}),
            ("of maps by one number", IMAGE, "m = Mul(r, s) n = Add(m, t) l = Flatten(n) y = Gemm(l, w)",
             {"s": np.float32(2), "t": np.float32(3), "w": f(144, 5)}),
            ("of open maps", OPEN, "m = Mul(r, s) n = Add(m, t) l = Flatten(n) y = Gemm(l, w)",
             {"s": f(4, 1, 1), "t": f(4, 1, 1), "w": f(144, 5)}),
            ("of open parts", "(float[batch,4,h] x) => (y) ", "m = Mul(r, s) l = Reshape(m, k) y = Gemm(l, w)",
             {"s": f(4, 1), "k": i(-1, 4)}),
            ("of each channel", IMAGE, "m = Mul(r, s) n = Add(m, t) l = Flatten<axis=2>(n) y = Gemm(l, w)",
             {"s": f(4, 1, 1), "t": f(4, 1, 1), "w": f(36, 5)}),
            ("of parts", IMAGE, "m = Mul(r, s) n = Add(m, t) l = Reshape(n, k) y = Gemm(l, w)",
             {"s": f(4, 1, 1), "t": f(4, 1, 1), "w": f(72, 5), "k": i(-1, 72)}),
            ("of joined images", IMAGE.replace("batch", "2"), "m = Mul(r, s) l = Reshape(m, k) y = Gemm(l, w)",
             {"s": f(4, 1, 1), "w": f(288, 5), "k": i(1, 288)}),
            ("of what was flat", "(float[batch] x) => (y) ", "m = Mul(r, s) l = Reshape(m, k) y = Gemm(l, w)",
             {"s": f(1), "w": f(1, 5), "k": i(-1, 1)}),
            ("of means", IMAGE, "m = Mul(r, s) n = Add(m, t) g = GlobalAveragePool(n) l = Flatten(g) y = Gemm(l, w)",
             {"s": f(4, 1, 1), "t": f(4, 1, 1)}),
            ("of means that are read", IMAGE.replace("(y)", "(y, z)"),
             "m = Mul(r, s) g = GlobalAveragePool(m) l = Flatten(g) y = Gemm(l, w) z = Abs(g)", {"s": f(4, 1, 1)}),
            ("of maxima", IMAGE, "m = Mul(r, s) g = GlobalMaxPool(m) l = Flatten(g) y = Gemm(l, w)",
             {"s": -f(4, 1, 1)}))))},
    **{f"channels side by side, {name}": (IMAGE.replace("(y)", outputs) + "{ " + line + " }", {
        "v": f(2, 4, 3, 3), "w": f(3, 4, 3, 3), "s": f(5, 1, 1), "t": f(5, 1, 1), **arrays})
       for name, outputs, line, arrays in (
        ("scaled", "(y)", SIDES, {}),
        ("by one number", "(y)", SIDES, {"s": np.float32(2), "t": f(1)}),
        ("scaled from the left", "(y)", SIDES.replace("c, s", "s, c").replace("Mul", "Sub"), {"s": f(1, 5, 1, 1)}),
        ("by place", "(y)", SIDES, {"s": f(4, 1)}),
        ("and more axes", "(y)", SIDES, {"s": f(1, 1, 5, 1, 1)}),
        ("that are read", "(y, z)", SIDES + " z = Abs(c)", {}),
        ("one of them read", "(y, z)", SIDES + " z = Abs(a)", {}),
        ("twice the same", "(y)", SIDES.replace("a, b", "a, a"), {"s": f(4, 1, 1), "t": f(4, 1, 1)}),
        ("one of them bent", "(y)", SIDES.replace("b = Conv(x, w)", "d = Conv(x, w) b = Relu(d)"), {}),
        ("one of them computed", "(y)", SIDES, {"w": Given(f(3, 4, 3, 3))}),
        ("one of them in groups", "(y)", SIDES.replace("Conv(x, w)", "ConvTranspose<group=2,pads=[2,2,2,2]>(x, w)"),
         {"w": f(4, 2, 3, 3), "s": f(6, 1, 1), "t": f(6, 1, 1)}),
        ("among places", "(y)", SIDES.replace("axis=1", "axis=2").replace("(x, w)", "(x, v)"),
         {"s": f(2, 1, 1), "t": f(2, 1, 1)}),
        ("from behind", "(y)", SIDES.replace("axis=1", "axis=-3"), {}))},
    # The place of a maximum
    **{f"a place {name}": (ROUND.replace("(y)", outputs) + line + " }", {
        "z": np.float32(0), "g": np.float32(9), "t": np.float32(-1.1754943508222875e-38), **arrays})
       for name, outputs, line, arrays in (
        ("of maps", "(y)", PLACED, {}),
        ("by another bound", "(y)", PLACED, {"z": np.float32(1)}),
        ("by a larger number", "(y)", PLACED, {"t": np.float32(-9)}),
        ("of more axes", "(y)", PLACED, {"t": np.full((1, 1, 1), -1.1754943508222875e-38, "float32")}),
        ("by numbers for each", "(y)", PLACED, {"t": -f(4)}),
        ("by a larger number above", "(y)", PLACED, {"t": np.float32(9)}),
        ("by a number that is computed", "(y)", PLACED, {"t": Given(np.array([-9], "float32"))}),
        ("of another condition", "(y)", PLACED.replace("Where(b", "Where(l"), {}),
        ("of other maps", "(y)", PLACED.replace("b, t, r", "b, t, v"), {}),
        ("by a zero that is computed", "(y)", PLACED, {"z": Given(np.array([1], "float32"))}),
        ("whatever else is asked", "(y)", PLACED.replace("And(e, l)", "Or(e, l)"), {}),
        ("that is read", "(y, w)", PLACED + " w = Neg(k)", {}))},
    # Sequences
    "a convolution of the input": (IMAGE + "{ y = Conv(x, w) }", {"w": f(5, 4, 1, 3)}),
    "a convolution behind a Relu": (IMAGE + "{ r = Relu(x) y = Conv(r, w) }", {"w": f(5, 4, 1, 3)}),
    "places of a maximum": (
        "(float[batch,4,9] x) => (y, z) { r = Reshape(x, s) y, z = MaxPool<kernel_shape=[1,3]>(r) }",
        {"s": i(-1, 4, 1, 9)}),
    "a convolution of a new image": (
        "(float[batch,36] x) => (y) { r = Reshape(x, s) y = Conv(r, w) }", {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "a convolution of a new volume": (
        "(float[batch,4,9] x) => (y) { r = Reshape(x, s) y = Conv(r, w) }",
        {"s": i(-1, 4, 1, 1, 9), "w": f(5, 4, 1, 1, 3)}),
    "a sequence by a computed kernel": (
        "(float[batch,4,9] x) => (y) { r = Reshape(x, s) y = Conv(r, k) }",
        {"s": i(-1, 4, 1, 9), "k": Given(f(5, 4, 1, 3))}),
    "a sequence of a stated shape": (
        "(float[batch,4,9] x) => (y) { r = Reshape(x, s) y = ConvTranspose<output_shape=[1,11]>(r, w) }",
        {"s": i(-1, 4, 1, 9), "w": f(4, 5, 1, 3)}),
    "a sequence padded by itself": (
        '(float[batch,4,9] x) => (y) { r = Reshape(x, s) y = Conv<auto_pad="SAME_UPPER",kernel_shape=[1,3]>(r, w) }',
        {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "a sequence padded above": (
        "(float[batch,4,9] x) => (y) { r = Reshape(x, s) y = Conv<pads=[1,0,0,0]>(r, w) }",
        {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "a sequence padded below": (
        "(float[batch,4,9] x) => (y) { r = Reshape(x, s) y = Conv<pads=[0,0,1,0]>(r, w) }",
        {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "a sequence made higher": (
        "(float[batch,4,9] x) => (y) { r = Reshape(x, s) y = ConvTranspose<strides=[2,1],output_padding=[1,0]>(r, w) }",
        {"s": i(-1, 4, 1, 9), "w": f(4, 5, 1, 3)}),
    "a sequence under a high kernel": (
        "(float[batch,4,9] x) => (y) { r = Reshape(x, s) y = ConvTranspose(r, w) }",
        {"s": i(-1, 4, 1, 9), "w": f(4, 5, 2, 3)}),
    "a sequence on its side": (
        "(float[batch,4,9] x) => (y) { r = Reshape(x, s) y = Conv<pads=[1,0,1,0],strides=[2,1]>(r, w) }",
        {"s": i(-1, 4, 9, 1), "w": f(5, 4, 3, 1)}),
    "a sequence that is read": (
        "(float[batch,4,9] x) => (y, z) { r = Reshape(x, s) y = Conv(r, w) z = Relu(r) }",
        {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "a sequence that leaves": (
        "(float[batch,4,9] x) => (y, r) { r = Reshape(x, s) y = Conv(r, w) }",
        {"s": i(-1, 4, 1, 9), "w": f(5, 4, 1, 3)}),
    "an open sequence": (
        "(float[batch,4,n] x) => (y) { r = Unsqueeze(x, s) q = Reshape(r, p) y = MaxPool<kernel_shape=[1,3]>(q) }",
        {"s": i(2), "p": i(0, 4, 1, -1)}),
    # Padding
    "an unknown padding": (
        "(float[batch,4,6,6] x, int64[8] ones) => (y) { p = Pad(x, ones) y = Conv(p, w) }", {"w": f(5, 6, 3, 3)}),
    "a negative padding": (
        IMAGE + "{ p = Pad(x, n) y = Conv(p, w) }", {"n": i(0, 0, -1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "a padding before a Relu": (IMAGE + "{ p = Pad(x, n) y = Relu(p) }", {"n": i(0, 0, 1, 0, 0, 0, 0, 1)}),
    "a padding before a maximum": (
        IMAGE + "{ p = Pad(x, n) y = MaxPool<kernel_shape=[2,2]>(p) }", {"n": i(0, 0, 1, 0, 0, 0, 0, 1)}),
    "a padding that is read": (
        "(float[batch,4,6,6] x) => (y, z) { p = Pad(x, n) y = Conv(p, w) z = Relu(p) }",
        {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "a padding of the kernel": (
        IMAGE + "{ p = Pad(w, n) y = Conv(x, p) }", {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 2, 2)}),
    "a padding by reflection": (
        IMAGE + '{ p = Pad<mode="reflect">(x, n) y = Conv(p, w) }',
        {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "a padding by an unknown value": (
        "(float[batch,4,6,6] x, float v) => (y) { p = Pad(x, n, v) y = Conv(p, w) }",
        {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "a padding by one": (
        IMAGE + "{ p = Pad(x, n, v) y = Conv(p, w) }",
        {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "v": np.float32(1), "w": f(5, 4, 3, 3)}),
    "a padding by zero": (
        IMAGE + "{ p = Pad(x, n, v) y = Conv<pads=[1,1,1,1]>(p, w) }",
        {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "v": np.float32(0), "w": f(5, 4, 3, 3)}),
    "a padding of named axes": (
        IMAGE + "{ p = Pad(x, n, , e) y = Conv(p, w) }",
        {"n": i(0, 0, 1, 1, 0, 0, 0, 0), "e": i(2, 3, 1, 0), "w": f(5, 5, 3, 3)}),
    "a padding by zeros before a maximum": (
        "(float[batch,4,6,6] z) => (y) { x = Neg(z) p = Pad(x, n) y = MaxPool<kernel_shape=[3,3]>(p) }",
        {"n": i(0, 0, 1, 1, 0, 0, 1, 1)}),
    "a padding by ones before a maximum": (
        IMAGE + "{ p = Pad(x, n, v) y = MaxPool<kernel_shape=[3,3]>(p) }",
        {"n": i(0, 0, 1, 1, 0, 0, 1, 1), "v": np.float32(1)}),
    "a padding before automatic padding": (
        IMAGE + '{ p = Pad(x, n) y = Conv<auto_pad="SAME_UPPER">(p, w) }',
        {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "automatic padding of a dilated kernel, which ONNX Runtime does not do": (
        IMAGE + '{ y = Conv<auto_pad="SAME_LOWER",kernel_shape=[2,3],strides=[1,2],dilations=[1,1]>(x, w) }',
        {"w": f(5, 4, 2, 3)}),
    "a padding of the batch": (
        IMAGE + "{ p = Pad(x, n) y = Conv(p, w) }", {"n": i(1, 0, 1, 0, 0, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    "a padding of the batch's end": (
        IMAGE + "{ p = Pad(x, n) y = Conv(p, w) }", {"n": i(0, 0, 1, 0, 1, 0, 0, 1), "w": f(5, 4, 3, 3)}),
    # Padding before a maximum
    "a maximum's unknown padding": (
        "(float[batch,4,6,6] x, int64[8] ones) => (y) { r = Relu(x) p = Pad(r, ones) y = MaxPool<kernel_shape=[2,2]>(p)"
        " }", {}),
    "a maximum's negative padding": (
        POOLED + "p = Pad(r, n) y = MaxPool<kernel_shape=[2,2]>(p) }", {"n": i(0, 0, 1, -1, 0, 0, 0, 1)}),
    "a maximum's padding of channels": (
        POOLED + "p = Pad(r, n) y = MaxPool<kernel_shape=[2,2]>(p) }", {"n": i(0, 1, 1, 0, 0, 0, 0, 1)}),
    "a maximum's padding of the batch's end": (
        POOLED + "p = Pad(r, n) y = MaxPool<kernel_shape=[2,2]>(p) }", {"n": i(0, 0, 1, 0, 1, 0, 0, 1)}),
    "a maximum's padding by reflection": (
        POOLED + 'p = Pad<mode="reflect">(r, n) y = MaxPool<kernel_shape=[3,3]>(p) }',
        {"n": i(0, 0, 2, 0, 0, 0, 0, 2)}),
    "a maximum's padding by an unknown value": (
        "(float[batch,4,6,6] x, float v) => (y) { r = Relu(x) p = Pad(r, n, v) y = MaxPool<kernel_shape=[2,2]>(p) }",
        {"n": i(0, 0, 1, 0, 0, 0, 0, 1)}),
    "a maximum's padding by an unknown value and its own": (
        "(float[batch,4,6,6] x, float v) => (y) { p = Pad(x, n, v) y = MaxPool<kernel_shape=[2,2],pads=[1,0,0,1]>(p) }",
        {"n": i(0, 0, 1, 0, 0, 0, 0, 1)}),
    "a maximum's padding by nine": (
        POOLED + "p = Pad(r, n, v) y = MaxPool<kernel_shape=[2,2]>(p) }",
        {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "v": np.float32(9)}),
    "a maximum's padding by nine and its own": (
        IMAGE + "{ p = Pad(x, n, v) y = MaxPool<kernel_shape=[2,2],pads=[1,0,0,1]>(p) }",
        {"n": i(0, 0, 1, 0, 0, 0, 0, 1), "v": np.float32(9)}),
    "a maximum's padding of named axes": (
        POOLED + "p = Pad(r, n, , e) y = MaxPool<kernel_shape=[2,2]>(p) }",
        {"n": i(0, 0, 1, 1, 0, 0, 0, 0), "e": i(2, 3, 1, 0)}),
    "a maximum's padding before automatic padding": (
        POOLED + 'p = Pad(r, n) y = MaxPool<kernel_shape=[3,3],strides=[2,2],auto_pad="SAME_UPPER">(p) }',
        {"n": i(0, 0, 1, 1, 0, 0, 1, 1)}),
    "a maximum's padding before none": (
        POOLED + 'p = Pad(r, n) y = MaxPool<kernel_shape=[3,3],strides=[2,2],auto_pad="VALID">(p) }',
        {"n": i(0, 0, 1, 1, 0, 0, 1, 1)}),
    "a maximum's padding and its own": (
        POOLED + "p = Pad(r, n) y = MaxPool<kernel_shape=[3,3],pads=[1,1,0,0]>(p) }", {"n": i(0, 0, 1, 0, 0, 0, 1, 2)}),
    "a maximum's padding as wide as its kernel": (
        POOLED + "p = Pad(r, n) y = MaxPool<kernel_shape=[2,2]>(p) }", {"n": i(0, 0, 1, 1, 0, 0, 2, 1)}),
    "a maximum's padding and its own as wide as its kernel": (
        POOLED + "p = Pad(r, n) y = MaxPool<kernel_shape=[2,2],pads=[0,1,0,0]>(p) }", {"n": i(0, 0, 1, 1, 0, 0, 1, 1)}),
    "a maximum's padding that is read": (
        POOLED.replace("(y)", "(y, z)") + "p = Pad(r, n) y = MaxPool<kernel_shape=[2,2]>(p) z = Neg(p) }",
        {"n": i(0, 0, 1, 1, 0, 0, 1, 1)}),
    "a maximum's padding that leaves": (
        POOLED.replace("(y)", "(y, p)") + "p = Pad(r, n) y = MaxPool<kernel_shape=[2,2]>(p) }",
        {"n": i(0, 0, 1, 1, 0, 0, 1, 1)}),
    "a maximum's padding and places": (
        POOLED.replace("(y)", "(y, z)") + "p = Pad(r, n) y, z = MaxPool<kernel_shape=[2,2]>(p) }",
        {"n": i(0, 0, 1, 1, 0, 0, 1, 1)}),
    "a maximum's padding that is rounded up": (
        POOLED + "p = Pad(r, n) y = MaxPool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(p) }",
        {"n": i(0, 0, 1, 2, 0, 0, 1, 2)}),
    "a maximum's padding behind which axes move": (
        POOLED + "p = Pad(r, n) t = Transpose<perm=[0,1,3,2]>(p) y = MaxPool<kernel_shape=[2,2]>(t) }",
        {"n": i(0, 0, 1, 0, 0, 0, 1, 0)}),
    "a maximum's padding of whole numbers and its own": (
        "(int8[batch,4,6,6] x) => (y) { p = Pad(x, n) y = MaxPool<kernel_shape=[2,2],pads=[1,0,0,1]>(p) }",
        {"n": i(0, 0, 1, 0, 0, 0, 0, 1)}),
    "a maximum's padding with holes": (
        POOLED.replace("6,6", "1,1") + "p = Pad(r, n) y = MaxPool<kernel_shape=[2,2],dilations=[2,2]>(p) }",
        {"n": i(0, 0, 1, 1, 0, 0, 1, 1)}),
    **{f"a maximum's padding of {name}": (
        head + line + "p = Pad(r, n) y = MaxPool<kernel_shape=[2,2]>(p) }",
        {"n": i(0, 0, 1, 1, 0, 0, 1, 1), "m": np.float32(-1), "z": np.float32(0), "k": f(4, 1, 1) - 1})
       for name, head, line in (
           ("what is clipped to all", IMAGE + "{ ", "r = Clip(x) "),
           ("what is clipped from below zero", IMAGE + "{ ", "r = Clip(x, m) "),
           ("what is clipped to below zero", IMAGE + "{ ", "r = Clip(x, z, m) "),
           ("what is clipped to an unknown number", IMAGE.replace("x)", "x, float v)") + "{ ",
            "w = Neg(v) r = Clip(x, z, w) "),
           ("what is clipped from an unknown number", IMAGE.replace("x)", "x, float v)") + "{ ",
            "w = Neg(v) r = Clip(x, w) "),
           ("a sum with less", IMAGE + "{ ", "q = Relu(x) r = Add(q, x) "),
           ("a product with less", IMAGE + "{ ", "q = Relu(x) r = Mul(q, k) "),
           ("what is beside less", IMAGE + "{ ", "q = Relu(x) r = Concat<axis=1>(q, x) "))},
    # Reshapes
    "a Reshape of two open sizes": (
        "(float[batch,n,m] x) => (y) { s = Shape(x) p = ReduceProd<keepdims=1>(s) y = Reshape(x, p) }", {}),
    "a Flatten of the batch": ("(float[batch,n,m] x) => (y) { y = Flatten<axis=2>(x) }", {}),
    "a Reshape of nothing between ports": (ROW + "{ y = Reshape(x, s) }", {"s": i(-1, 4)}),
    "a Squeeze of nothing between ports": (ROW + "{ u = Unsqueeze(x, o) y = Squeeze(u, o) }", {"o": i(1)}),
    "Reshapes that leave": (
        "(float[batch,4] x) => (u, y) { u = Unsqueeze(x, o) y = Reshape(u, s) }", {"o": i(1), "s": i(-1, 4)}),
    "a Flatten with the batch": ("(float[2,3,4] x) => (y) { y = Reshape(x, s) }", {"s": i(6, 4)}),
    "a Reshape to three": (SEQUENCE + "{ y = Reshape(x, s) }", {"s": i(-1, 4, 3)}),
    "a Reshape by what is unknown": (
        "(float[batch,3,4] x, int64[2] ones) => (y) { p = Mul(ones, s) r = Reshape(x, p) t = Reshape(r, s) y = Relu(t) "
        "}", {"s": i(-1, 12)}),
    "a Reshape of a number": ("(float[2] x) => (y) { r = ReduceMax<keepdims=0>(x) y = Reshape(r, k) }", {"k": i(1, 1)}),
    "Reshapes by what is unknown": (
        "(float[batch,12] x, int64[2] ones) => (y) { p = Mul(ones, k) q = Reshape(x, p) r = Relu(q) t = Mul(ones, j) "
        "s = Reshape(r, t) y = Relu(s) }", {"k": i(-1, 6), "j": i(-1, 4)}),
    "a Squeeze of all ones": (
        "(float[batch,h,4] x) => (y) { q = Squeeze(x) r = Relu(q) y = Reshape(r, k) }", {"k": i(-1, 24)}),
    "a Reshape of nothing at all": (
        "(float[2,0,3] x) => (y) { r = Relu(x) u = Unsqueeze(r, o) y = Squeeze(u, k) }", {"o": i(0, 1), "k": i(1)}),
    "numbers as many as items": ("(float[batch] x) => (y) { s = Shape(x) c = ConstantOfShape(s) y = Add(x, c) }", {}),
    "a Reshape to two open sizes": (
        "(float[batch,h,4] x, float[batch,h,2,2] v) => (y) { s = Shape(x) r = Reshape(v, s) y = Add(x, r) }", {}),
    "a Reshape of a shape": (
        ROW + "{ s = Shape(x) t = Mul(s, o) r = Reshape(t, k) c = Cast<to=1>(r) y = MatMul(c, w) }",
        {"o": i(1, 1), "k": i(1, 2), "w": f(2, 3)}),
    # Scale and shift
    "scale and shift that widen": (
        "(float[batch,1,6,6] x) => (y) { m = Mul(x, s) y = Add(m, t) }", {"s": f(4, 1, 1), "t": f(4, 1, 1)}),
    "scale and shift of halves": (
        "(float16[batch,4,6,6] x) => (y) { m = Mul(x, s) y = Add(m, t) }",
        {"s": f(4, 1, 1).astype("float16"), "t": f(4, 1, 1).astype("float16")}),
    "scale and shift by one number": (IMAGE + "{ m = Mul(x, s) y = Add(m, s) }", {"s": np.float32(3)}),
    "scale and shift by what is computed": (IMAGE + "{ m = Mul(x, r) y = Add(m, r) }", {"r": Given(f(4, 1, 1))}),
    "scale and shift of more axes": (IMAGE + "{ m = Mul(x, s) y = Add(m, s) }", {"s": f(2, 1, 4, 1, 1)}),
    "scale and shift of open channels": (
        "(float[batch,k,6,6] x) => (y) { m = Mul(x, s) y = Add(m, s) }", {"s": f(6, 1, 1)}),
    "a constant divided": (IMAGE + "{ m = Mul(x, s) y = Div(s, m) }", {"s": f(4, 1, 1)}),
    "scale and shift apart": (IMAGE + "{ m = Mul(x, s) r = Relu(m) y = Add(r, s) }", {"s": f(4, 1, 1)}),
    "a shift of what scales it": (IMAGE + "{ m = Mul(x, s) y = Sub(s, m) }", {"s": f(4, 1, 1)}),
    # Unflatten
    "a map from the input": (
        "(float[batch,24] x) => (y) { r = Reshape(x, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4)}),
    "a map by a computed kernel": (
        "(float[batch,5] x) => (y) { m = MatMul(x, k) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }",
        {"s": i(-1, 3, 2, 4), "k": Given(f(5, 24))}),
    "a map by a computed bias": (
        "(float[batch,5] x) => (y) { m = Gemm(x, w, k) r = Reshape(m, s) "
        "y = Transpose<perm=[0,3,1,2]>(r) }",
        {"s": i(-1, 3, 2, 4), "w": f(5, 24), "k": Given(f(24))}),
    "a map by a transposed kernel": (
        "(float[batch,5] x) => (y) { m = Gemm<transB=1>(x, w, b) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }",
        {"s": i(-1, 3, 2, 4), "w": f(24, 5), "b": f(24)}),
    "a map by a bias for each row": (
        "(float[3,5] x) => (y) { m = Gemm(x, w, b) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }",
        {"s": i(-1, 3, 2, 4), "w": f(5, 24), "b": f(3, 1)}),
    "a map by many kernels": (
        "(float[2,5] x) => (y) { m = MatMul(x, w) q = Reshape(m, o) r = Reshape(q, s) y = Transpose<perm=[0,3,1,2]>(r) "
        "}", {"s": i(-1, 3, 2, 4), "o": i(2, 24), "w": f(1, 5, 24)}),
    "a map of many kernels' features": (
        "(float[2,5] x) => (y) { m = MatMul(x, w) q = Mul(m, v) r = Reshape(q, s) y = Transpose<perm=[0,3,1,2]>(r) }",
        {"s": i(-1, 3, 2, 4), "w": f(5, 24), "v": f(24)}),
    "a map whose features are read": (
        "(float[batch,5] x) => (y, z) { m = MatMul(x, w) z = Relu(m) r = Reshape(m, s) y = "
        "Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 24)}),
    "a map that is read": (
        "(float[batch,5] x) => (y, r) { m = MatMul(x, w) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }",
        {"s": i(-1, 3, 2, 4), "w": f(5, 24)}),
    "a map of three": (
        "(float[batch,5] x) => (y) { m = MatMul(x, w) n = Max(m, u, v) r = Reshape(n, s) y = "
        "Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 24), "u": f(24), "v": f(24)}),
    "a map of two": (
        "(float[batch,5] x) => (y) { m = MatMul(x, w) o = MatMul(x, v) n = Add(m, o) r = Reshape(n, s) y = "
        "Transpose<perm=[0,3,1,2]>(r) }", {"s": i(-1, 3, 2, 4), "w": f(5, 24), "v": f(5, 24)}),
    "a map that mixes the batch": (
        "(float[3,5] x) => (y) { m = MatMul(x, w) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }",
        {"s": i(1, 3, 6, 4), "w": f(5, 24)}),
    "a map that moves the batch": (
        "(float[3,5] x) => (y) { m = MatMul(x, w) r = Reshape(m, s) y = Transpose<perm=[1,0,2,3]>(r) }",
        {"s": i(3, 3, 2, 4), "w": f(5, 24)}),
    "a map reversed": (
        "(float[3,5] x) => (y) { m = MatMul(x, w) r = Reshape(m, s) y = Transpose(r) }",
        {"s": i(3, 3, 2, 4), "w": f(5, 24)}),
    "a map of a sequence": (
        "(float[batch,6,5] x) => (y) { m = MatMul(x, w) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }",
        {"s": i(-1, 3, 2, 4), "w": f(5, 4)}),
    "one feature to many": (
        "(float[batch,5] x) => (y) { m = MatMul(x, w) n = Mul(m, v) r = Reshape(n, s) y = Transpose<perm=[0,3,1,2]>(r) "
        "}", {"s": i(-1, 3, 2, 4), "w": f(5, 1), "v": f(24)}),
    "a map of open items": (
        "(float[h,5] x) => (y) { m = MatMul(x, w) r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }",
        {"s": i(1, -1, 6, 4), "w": f(5, 24)}),
    "an open map": (
        "(float[batch,5] x, float[h] v) => (y) { m = MatMul(x, w) n = Shape(v) s = Concat<axis=0>(b, n, c) "
        "r = Reshape(m, s) y = Transpose<perm=[0,3,1,2]>(r) }", {"w": f(5, 24), "b": i(-1), "c": i(2, 2)}),
    # Repetition
    "an unknown repetition": (
        "(float[batch,3,4,5] x, int64[5] ones) => (y) { u = Unsqueeze(x, two) b = Tile(u, ones) y = Reshape(b, s) }",
        {"two": i(2), "s": i(-1, 3, 4, 5)}),
    "a repetition of the input": (
        IMAGE + "{ b = Tile(x, r) y = Reshape(b, s) }", {"r": i(1, 1, 2, 1), "s": i(-1, 4, 12, 6)}),
    "a repetition that stays": (
        "(float[batch,3,4,5] x) => (y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Relu(b) }",
        {"o": i(2), "r": i(1, 1, 2, 1, 1)}),
    "a repetition of longs": (
        "(int64[batch,3,4,5] x) => (y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) }",
        {"o": i(3), "r": i(1, 1, 1, 2, 1), "s": i(-1, 3, 8, 5)}),
    "a repetition of doubles": (
        "(double[batch,3,4,5] x) => (y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) }",
        {"o": i(3), "r": i(1, 1, 1, 2, 1), "s": i(-1, 3, 8, 5)}),
    "repetitions at once": (
        "(float[batch,3,4,5] x) => (y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) }",
        {"o": i(2, 4), "r": i(1, 1, 2, 1, 2, 1), "s": i(-1, 6, 8, 5)}),
    "a repetition of the items": (
        "(float[batch,3,4,5] x) => (y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) }",
        {"o": i(1), "r": i(1, 2, 1, 1, 1), "s": i(-1, 3, 4, 5)}),
    "a repetition of once": (
        "(float[batch,3,4,5] x) => (y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) }",
        {"o": i(2), "r": i(1, 1, 1, 1, 1), "s": i(-1, 3, 4, 5)}),
    "a repetition of a row": (
        "(float[batch,3,4,5] x) => (y) { u = Reshape(x, o) b = Tile(u, r) y = Reshape(b, s) }",
        {"o": i(-1, 3, 2, 2, 5), "r": i(1, 1, 1, 2, 1), "s": i(-1, 3, 8, 5)}),
    "a repetition taken in elsewhere": (
        "(float[batch,3,4,5] x) => (y) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) }",
        {"o": i(3), "r": i(1, 1, 1, 2, 1), "s": i(-1, 3, 4, 10)}),
    "a repetition whose source is read": (
        "(float[batch,3,4,5] x) => (y, z) { u = Unsqueeze(x, o) b = Tile(u, r) y = Reshape(b, s) z = Relu(u) }",
        {"o": i(3), "r": i(1, 1, 1, 2, 1), "s": i(-1, 3, 8, 5)}),
    "two resizings": (
        IMAGE + f"{{ r = Resize<{STEPS}>(x, , k) y = Resize<{STEPS}>(r, , q) }}",
        {"k": np.array([1, 1, 1.5, 1.5], "float32"), "q": np.array([1, 1, 2, 2], "float32")}),
    "two resizings, the first by what is computed": (
        IMAGE + f"{{ r = Resize<{STEPS}>(x, , q) y = Resize<{STEPS}>(r, , k) }}",
        {"k": np.array([1, 1, 2, 2], "float32"), "q": Given(np.array([1, 1, 2, 2], "float32"))}),
    "two resizings, the second by what is computed": (
        IMAGE + f"{{ r = Resize<{STEPS}>(x, , k) y = Resize<{STEPS}>(r, , q) }}",
        {"k": np.array([1, 1, 2, 2], "float32"), "q": Given(np.array([1, 1, 2, 2], "float32"))}),
    "two linear resizings": (
        IMAGE + '{ r = Resize<mode="linear",coordinate_transformation_mode="half_pixel">(x, , k) y = '
        'Resize<mode="linear",coordinate_transformation_mode="half_pixel">(r, , k) }',
        {"k": np.array([1, 1, 2, 2], "float32")}),
    "two resizings of half pixels": (
        IMAGE + '{ r = Resize<mode="nearest",coordinate_transformation_mode="half_pixel",nearest_mode="ceil">(x, , k) '
        'y = Resize<mode="nearest",coordinate_transformation_mode="half_pixel",nearest_mode="ceil">(r, , k) }',
        {"k": np.array([1, 1, 2, 2], "float32")}),
    "two resizings to sizes": (
        "(float[3,4,6,6] x) => (y) { r = "
        'Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(x, , , k) y = '
        'Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(r, , , q) }',
        {"k": i(3, 4, 12, 12), "q": i(3, 4, 18, 18)}),
    "two resizings by what is computed": (
        IMAGE + "{ r = "
        'Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(x, , q) y = '
        'Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(r, , q) }',
        {"q": Given(np.array([1, 1, 2, 2], "float32"))}),
    "a resizing that is read": (
        "(float[batch,4,6,6] x) => (y, z) { r = "
        'Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(x, , k) z = Relu(r) y '
        '= Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">(r, , k) }',
        {"k": np.array([1, 1, 2, 2], "float32")}),
    # Transposes: r reads maps whose channels are last
    "a cut through named axes": (LAST + "r = Pad(t, p, , e)" + FIRST, {"p": i(1, 0, 1, 2), "e": i(1, 3)}),
    "an unknown cut": (
        "(float[batch,4,6,6] x, int64[8] ones) => (y) { c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) r = Pad(t, ones)"
        + FIRST, {}),
    "a resizing of named axes": (
        LAST + 'r = Resize<mode="nearest",axes=[1,3]>(t, , k)' + FIRST, {"k": np.array([2, 3], "float32")}),
    "a resizing of a region": (
        LAST + 'r = Resize<mode="linear",coordinate_transformation_mode="tf_crop_and_resize">(t, g, k)' + FIRST,
        {"g": np.array([0, 0.2, 0, 0, 1, 0.7, 0.9, 1], "float32"), "k": np.array([1, 2, 1, 1], "float32")}),
    "a resizing by scales": (
        LAST + 'r = Resize<mode="nearest">(t, , k)' + FIRST, {"k": np.array([1, 2, 3, 1], "float32")}),
    "a resizing to sizes": (
        LAST.replace("batch", "3") + 'r = Resize<mode="nearest">(t, , , k)' + FIRST, {"k": i(3, 12, 18, 4)}),
    "a resizing to sizes with empty scales": (
        LAST.replace("batch", "3") + 'r = Resize<mode="nearest">(t, , o, k)' + FIRST,
        {"o": np.zeros(0, "float32"), "k": i(3, 12, 18, 4)}),
    "a resizing by what is computed": (
        LAST + 'r = Resize<mode="nearest">(t, , q)' + FIRST, {"q": Given(np.array([1, 2, 3, 1], "float32"))}),
    "a tiling": (LAST + "r = Tile(t, k)" + FIRST, {"k": i(1, 2, 1, 3)}),
    "an unknown tiling": (
        "(float[batch,4,6,6] x, int64[4] ones) => (y) { c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) r = Tile(t, ones)"
        + FIRST, {}),
    "a slice of the first axes": (LAST + "r = Slice(t, o, e)" + FIRST, {"o": i(0, 1, 2), "e": i(9, 3, 5)}),
    "a slice of named axes": (LAST + "r = Slice(t, o, e, k)" + FIRST, {"o": i(1, 2), "e": i(3, 4), "k": i(-1, 1)}),
    "a slice of the first axes by unknown starts": (
        "(float[batch,4,6,6] x, int64[2] ones) => (y) { c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) "
        "r = Slice(t, ones, e)" + FIRST, {"e": i(3, 5)}),
    "a slice of unknown axes": (
        "(float[batch,4,6,6] x, int64[1] ones) => (y) { c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) "
        "r = Slice(t, o, e, ones)" + FIRST, {"o": i(1), "e": i(3)}),
    "a maximum that stays": (LAST + "r = ReduceMax(t, e)" + FIRST, {"e": i(3)}),
    "a maximum that goes": (LAST + "y = ReduceMax<keepdims=0>(t, e) }", {"e": i(3)}),
    "a maximum of all": (LAST + "r = ReduceMax(t)" + FIRST, {}),
    "the place of a maximum": (LAST + "a = ArgMax<axis=1>(t) r = Cast<to=1>(a)" + FIRST, {}),
    "the place of a maximum that goes": (LAST + "a = ArgMax<axis=3,keepdims=0>(t) y = Cast<to=1>(a) }", {}),
    "the place of a maximum in the batch": (LAST + "a = ArgMax<keepdims=0>(t) y = Cast<to=1>(a) }", {}),
    "one of an axis": (LAST + "y = Gather<axis=3>(t, k) }", {"k": np.array(1)}),
    "some of an axis": (LAST + "r = Gather<axis=1>(t, k)" + FIRST, {"k": i(1, 0)}),
    "some of an axis in a table": (LAST + "y = Gather<axis=3>(t, k) }", {"k": np.array([[1, 0]])}),
    "some of an axis by unknown places": (
        "(float[batch,4,6,6] x, int64[1] ones) => (y) { c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) "
        "r = Gather<axis=1>(t, ones)" + FIRST, {}),
    "shares by a softmax": (LAST + "r = Softmax<axis=1>(t)" + FIRST, {}),
    "parts of an axis": (LAST + "r, q = Split<axis=3>(t, n)" + FIRST, {"n": i(2, 2)}),
    "a Dense on maps": (LAST + "r = MatMul(t, w)" + FIRST, {"w": f(4, 5)}),
    "a Dense on maps by a computed kernel": (LAST + "r = MatMul(t, k)" + FIRST, {"k": Given(f(4, 5))}),
    "a Dense on maps by many kernels": (LAST + "r = MatMul(t, w)" + FIRST, {"w": f(6, 4, 5)}),
    "a Dense on maps as the second factor": (LAST + "r = MatMul(w, t)" + FIRST, {"w": f(5, 6)}),
    "a Dense on a row": ("(float[3,4] x) => (y) { t = Transpose<perm=[0,1]>(x) y = MatMul(t, w) }", {"w": f(4, 5)}),
    "a Dense on maps of another order": (
        "(float[batch,4,6,6] x) => (y) { t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(t, w) }", {"w": f(6, 5)}),
    "a Dense on a row that leaves": (
        "(float[3,4] x) => (y, t) { t = Transpose<perm=[0,1]>(x) y = MatMul(t, w) }", {"w": f(4, 5)}),
    "a Reshape to an unknown shape": (
        "(float[batch,4,6,6] x, int64[4] ones) => (y) { c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) q = Mul(ones, k) "
        "r = Reshape(t, q)" + FIRST, {"k": i(-1, 36, 1, 4)}),
    "a Reshape of open maps": (
        "(float[batch,4,h,w] x) => (y) { c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) y = Unsqueeze(t, o) }",
        {"o": i(3)}),
    "two orders meet": (
        "(float[4,4,4,4] x) => (y) { t = Transpose<perm=[0,2,3,1]>(x) u = Transpose<perm=[2,0,1,3]>(x) y = Add(t, u) }",
        {}),
    "maps meet a vector that is computed": (
        LAST.replace("x)", "x, float[4] v)", 1) + "r = Add(t, v)" + FIRST, {}),
    "maps meet a map from the input": (
        LAST.replace("x)", "x, float[batch,6,6,4] v)", 1) + "r = Add(t, v)" + FIRST, {}),
    "maps meet a map that is computed": (
        LAST.replace("x)", "x, float[batch,6,6,4] v)", 1) + "u = Softmax(v) r = Add(t, u)" + FIRST, {}),
    "maps meet a map through a Relu": (
        LAST.replace("x)", "x, float[batch,6,6,4] v)", 1) + "u = Relu(v) r = Add(t, u)" + FIRST, {}),
    "maps meet a map through a scale": (
        LAST.replace("x)", "x, float[batch,6,6,4] v)", 1) + "u = Mul(v, k) r = Add(t, u)" + FIRST, {"k": f(4)}),
    "maps meet a map through a sum": (
        LAST.replace("x)", "x, float[batch,6,6,4] v)", 1) + "u = Mul(v, v) r = Add(t, u)" + FIRST, {}),
    "maps meet a map that is read": (
        LAST.replace("x)", "x, float[batch,6,6,4] v)", 1).replace("(y)", "(y, z)") + "u = Relu(v) z = Softmax(u) "
        "r = Add(t, u)" + FIRST, {}),
    "maps meet a map of one pixel": (LAST.replace("x)", "x, float[batch,1,1,4] v)", 1) + "r = Add(t, v)" + FIRST, {}),
    "maps meet constants of more axes": (LAST + "y = Add(t, k) }", {"k": f(2, 1, 1, 1, 4)}),
    "maps meet a number": (LAST + "r = Add(t, k)" + FIRST, {"k": f(1)}),
    "maps meet a constant of each row": (LAST + "r = Add(k, t)" + FIRST, {"k": f(6, 1, 1)}),
    "maps beside a constant": (LAST.replace("batch", "3") + "r = Concat<axis=3>(t, k)" + FIRST, {"k": f(3, 6, 6, 2)}),
    "maps beside a single number": (
        "(float[1,4,1,1] x) => (y) { c = Relu(x) t = Transpose<perm=[0,2,3,1]>(c) r = Concat<axis=3>(t, k)" + FIRST,
        {"k": f(1, 1, 1, 1)}),
    "a choice between maps": (LAST + "g = Greater(t, k) r = Where(g, t, k)" + FIRST, {"k": f(4)}),
    "a slope for each channel": (LAST + "r = PRelu(t, k)" + FIRST, {"k": f(4)}),
    "a bound that is computed": (LAST + "r = Clip(t, q)" + FIRST, {"q": Given(np.array(0.2, "float32"))}),
    "maps that leave": (LAST.replace("(y)", "(y, t)") + "r = Relu(t)" + FIRST, {}),
    "maps read by two": (LAST.replace("(y)", "(y, z)") + "r = Relu(t) z = Sigmoid(t)" + FIRST, {}),
    "a reversal": ("(float[3,4,6] x) => (y) { r = Relu(x) t = Transpose(r) y = Relu(t) }", {}),
    "two reversals": ("(float[3,4,6] x) => (y) { t = Transpose(x) u = Relu(t) y = Transpose(u) }", {}),
    "a Transpose behind a reversal": (
        "(float[3,4,6] x) => (y) { t = Transpose(x) y = Transpose<perm=[0,2,1]>(t) }", {}),
    "a reversal behind a Transpose": (
        "(float[3,4,6] x) => (y) { t = Transpose<perm=[0,2,1]>(x) y = Transpose(t) }", {}),
    "a Transpose of nothing": (ROW + "{ r = Relu(x) t = Transpose<perm=[0,1]>(r) y = Relu(t) }", {}),
    "a Transpose of nothing between ports": (ROW + "{ y = Transpose<perm=[0,1]>(x) }", {}),
    "a Transpose of nothing of an output": (
        "(float[batch,4] x) => (y, z) { y = Relu(x) z = Transpose<perm=[0,1]>(y) }", {}),
    "two Transposes that leave": (
        "(float[batch,4,6,6] x) => (y, t) { t = Transpose<perm=[0,2,3,1]>(x) y = Transpose<perm=[0,2,1,3]>(t) }", {}),
    "a sequence from the input": ("(float[batch,4,6] x) => (y) { t = Transpose<perm=[0,2,1]>(x) y = Relu(t) }", {}),
    "queries and keys": (
        "(float[batch,4,6] x) => (y, z) { r = Softmax(x) t = Transpose<perm=[0,2,1]>(r) y = MatMul(t, w) "
        "z = MatMul(t, w) }", {"w": f(4, 5)}),
    # Transposes to channels first that rise
    "a rise through a pad": (
        RISE + "p = Pad(c, k) y = Transpose<perm=[0,3,1,2]>(p) }", {"k": i(0, 1, 0, 2, 0, 0, 1, 0)}),
    "a rise to a pad of named axes": (
        RISE + "p = Pad(c, k, , e) y = Transpose<perm=[0,3,1,2]>(p) }", {"k": i(1, 0, 1, 2), "e": i(1, 3)}),
    "a rise to an unknown pad": (
        "(float[batch,6,6,4] x, int64[8] ones) => (y) { p = Pad(x, ones) y = Transpose<perm=[0,3,1,2]>(p) }", {}),
    "a rise through a slice": (
        RISE + "p = Slice(c, o, e, k) y = Transpose<perm=[0,3,1,2]>(p) }", {"o": i(1), "e": i(3), "k": i(-1)}),
    "a rise to a slice of the first axes": (
        RISE + "p = Slice(c, o, e) y = Transpose<perm=[0,3,1,2]>(p) }", {"o": i(0, 1), "e": i(9, 3)}),
    "a rise through a resizing": (
        RISE + 'p = Resize<mode="nearest">(c, , k) y = Transpose<perm=[0,3,1,2]>(p) }',
        {"k": np.array([1, 2, 3, 1], "float32")}),
    "a rise to a resizing of named axes": (
        RISE + 'p = Resize<mode="nearest",axes=[1,3]>(c, , k) y = Transpose<perm=[0,3,1,2]>(p) }',
        {"k": np.array([2, 3], "float32")}),
    "a rise to a resizing to sizes": (
        RISE.replace("batch", "3") + 'p = Resize<mode="nearest">(c, , o, k) y = Transpose<perm=[0,3,1,2]>(p) }',
        {"o": np.zeros(0, "float32"), "k": i(3, 12, 18, 4)}),
    "a rise through a scale": (RISE + "p = Mul(k, c) y = Transpose<perm=[0,3,1,2]>(p) }", {"k": f(4)}),
    "a rise through a number": (RISE + "p = Mul(k, c) y = Transpose<perm=[0,3,1,2]>(p) }", {"k": f(1)}),
    "a rise to a product": (RISE + "p = Mul(c, c) y = Transpose<perm=[0,3,1,2]>(p) }", {}),
    "a rise to a maximum of three": (RISE + "p = Max(c, k, k) y = Transpose<perm=[0,3,1,2]>(p) }", {"k": f(4)}),
    "a rise to a scale that widens": (
        "(float[6,4] x) => (y) { p = Mul(x, k) y = Transpose<perm=[0,3,1,2]>(p) }", {"k": f(2, 5, 1, 1)}),
    "a rise to what is read": (
        RISE.replace("(y)", "(y, z)") + "p = Relu(c) z = Softmax(p) y = Transpose<perm=[0,3,1,2]>(p) }", {}),
    "a rise through Reshapes": (
        "(float[batch,36,4] x) => (y) { c = Relu(x) p = Reshape(c, k) r = Relu(p) q = Reshape(r, k) "
        "y = Transpose<perm=[0,3,1,2]>(q) }", {"k": i(-1, 6, 6, 4)}),
    "a rise through a Reshape that is read": (
        "(float[batch,36,4] x) => (y, z) { c = Relu(x) z = Sigmoid(c) p = Reshape(c, k) "
        "y = Transpose<perm=[0,3,1,2]>(p) }", {"k": i(-1, 6, 6, 4)}),
    "a rise to a Reshape of what mixes": (
        "(float[batch,36,4] x) => (y) { c = Softmax(x) p = Reshape(c, k) y = Transpose<perm=[0,3,1,2]>(p) }",
        {"k": i(-1, 6, 6, 4)}),
    "a rise to a Reshape that mixes": (
        "(float[batch,144] x) => (y) { c = Relu(x) p = Reshape(c, k) y = Transpose<perm=[0,3,1,2]>(p) }",
        {"k": i(-1, 6, 6, 4)}),
    "a rise to a Reshape of what is unknown": (
        "(float[2,144] x, int64[3] ones) => (y) { q = Mul(ones, k) r = Reshape(x, q) p = Reshape(r, j) "
        "y = Transpose<perm=[0,3,1,2]>(p) }", {"k": i(2, 36, 4), "j": i(2, 6, 6, 4)}),
    "a rise to a Reshape of a Transpose of what is unknown": (
        "(float[2,144] x, int64[4] ones) => (y) { q = Mul(ones, k) r = Reshape(x, q) t = Transpose<perm=[0,2,3,1]>(r) "
        "p = Reshape(t, j) y = Transpose<perm=[0,3,1,2]>(p) }", {"k": i(2, 4, 6, 6), "j": i(2, 36, 1, 4)}),
    "a rise to a Reshape of open ones": (
        "(float[batch,h,w] x) => (y) { c = Relu(x) u = Unsqueeze(c, o) p = Reshape(u, k) "
        "y = Transpose<perm=[0,3,1,2]>(p) }", {"o": i(3), "k": i(0, 0, -1, 1)}),
    "a rise to a Reshape of nothing": (
        "(float[2,0,4] x) => (y) { c = Relu(x) p = Reshape(c, k) y = Transpose<perm=[0,3,1,2]>(p) }",
        {"k": i(2, 0, 1, 4)}),
    "a rise to an unknown Reshape": (
        "(float[batch,144] x, int64[4] ones) => (y) { q = Mul(ones, k) p = Reshape(x, q) "
        "y = Transpose<perm=[0,3,1,2]>(p) }", {"k": i(-1, 6, 6, 4)}),
    "a Reshape of ones": (
        "(float[batch,8] x) => (y) { c = Relu(x) p = Reshape(c, k) y = Transpose<perm=[0,3,1,2]>(p) }",
        {"k": i(-1, 1, 1, 8)}),
    "a Reshape of ones that is read": (
        "(float[batch,8] x) => (y, z) { c = Relu(x) p = Reshape(c, k) z = Relu(p) y = Transpose<perm=[0,3,1,2]>(p) }",
        {"k": i(-1, 1, 1, 8)}),
    "ones change places": (
        "(float[batch,1,1,8] x) => (y) { c = Softmax(x) t = Transpose<perm=[0,2,1,3]>(c) y = Softmax(t) }", {}),
    "ones change places at a port": (
        "(float[batch,1,1,8] x) => (y) { t = Transpose<perm=[0,2,1,3]>(x) y = Softmax(t) }", {}),
    "ones and others change places": (
        "(float[batch,1,5,8] x) => (y) { c = Softmax(x) t = Transpose<perm=[0,3,1,2]>(c) y = Softmax(t) }", {}),
    "ones change places among open sizes": (
        "(float[batch,1,n,m] x) => (y) { c = Softmax(x) t = Transpose<perm=[0,2,3,1]>(c) y = Softmax(t) }", {}),
}


def build(name):
    text, arrays = GRAPHS[name]
    proto = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 18]> agraph ' + text)
    for key, array in arrays.items():
        if isinstance(array, Given):
            proto.graph.input.append(onnx.helper.make_tensor_value_info(key, 1, array.array.shape))
        else:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), key))
    for number, node in enumerate(proto.graph.node):
        node.name = f"node{number}"
    return proto


def run(proto, space, arrays):
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
    return session.run(None, {**fed, **{k: v.array for k, v in arrays.items() if isinstance(v, Given)}})


def marks(graph):
    """What a pass changes in a graph: its nodes, what they read, their attributes, and what leaves."""
    nodes = [(n.op_type, *map(id, n.inputs), *map(id, n.attributes.values())) for n in graph]
    return nodes, [id(v) for v in graph.outputs]


@pytest.mark.parametrize("name", GRAPHS)
def test_every_pass_over_every_graph(name):
    proto = build(name)
    space = 600 if name == "a slice up to a size" else 6
    before = run(proto, space, GRAPHS[name][1])
    for shapes in (True, False):
        model = None
        for one in PASSES if shapes else [*PASSES, None]:
            if model is None:
                model = ir.from_proto(proto)
                if shapes:
                    InferShapes()(model)
            plain = marks(model.graph)
            if not (one()(model).modified if one else passes.fold(model)):  # type: ignore[abstract]
                assert marks(model.graph) == plain, one
                continue
            # Each output of the model is made by a node, and is no other output's twin.
            assert len({id(v) for v in model.graph.outputs if v.producer() is not None}) == len(before), one
            after, model = run(ir.to_proto(model), space, GRAPHS[name][1]), None
            assert all(a.shape == b.shape for a, b in zip(before, after, strict=True)), one
            assert all(np.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(before, after, strict=True)), one
