"""Models that crashed, were refused, or came out wrong once, a row each: now they are what Keras computes.

Each is converted in both layouts with a dynamic batch and compared at several sizes of what it leaves open.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tensorflow as tf
from msgspec import UNSET

from cnnexport import convert
from cnnexport.bundle import manifest
from cnnexport.conversion import convert_model
from cnnexport.conversion.write import write_model
from cnnexport.errors import InputError, UsageError
from cnnexport.keras_files import heads
from tests.test_layers import chain, expected_outputs, later, randomise, sessions

L: Any = keras.layers
ops: Any = keras.ops
SIZES = ((9, 8, 7), (33, 65, 5), (16, 16, 16))
OPEN = (None, None, 3)


def agrees(
    model: Any, folder: Any, *, layouts: Sequence[str] = ("nhwc", "nchw"), sizes: Any = SIZES,
    tolerance: float = 1e-4, given: Callable[[Any], Any] | None = None, **options: Any,
) -> list[Counter[str]]:
    """Compare with Keras at batches and ``sizes`` (one number an open axis), and count each layout's operators."""
    randomise(model)
    counts = []
    names = [f"out{i}" for i in range(len(keras.tree.flatten(model.outputs)))]
    for layout in layouts:
        converted = convert_model(model, output_names=names, layout=layout, **options)
        write_model(converted.model, folder)
        proto = onnx.load(folder / "model.onnx")
        onnx.checker.check_model(proto, full_check=True)
        counts.append(Counter(node.op_type for node in proto.graph.node))
        levels = list(sessions(folder / "model.onnx"))
        still = all(None not in p.shape[1:] for p in converted.inputs)
        for batch in (1, 3):
            for size in sizes[:1] if still else sizes:
                rng = np.random.default_rng(batch)
                arrays = []
                for port in converted.inputs:
                    shape = [size[i % len(size) - 1] if d is None else d for i, d in enumerate(port.shape)]
                    array = rng.normal(size=[port.shape[0] or batch, *shape[1:]]) * 2
                    arrays.append((given(array) if given else array).astype(port.dtype))
                fed = {p.name: np.moveaxis(a, -1, 1) if p.channels_first else a
                       for p, a in zip(converted.inputs, arrays)}
                wanted = expected_outputs(model, arrays)
                for port, actual, expected in (row for session in levels for row in zip(
                        converted.outputs, session.run(None, fed), wanted, strict=True)):
                    if port.channels_first:
                        expected = np.moveaxis(expected, -1, 1)
                    assert actual.shape == expected.shape, (layout, batch, size)
                    finite = np.isfinite(expected)
                    assert np.array_equal(np.isfinite(actual), finite), (layout, batch, size)
                    actual, expected = actual[finite].astype("float64"), expected[finite].astype("float64")
                    if expected.size:
                        error = np.abs(actual - expected).max()
                        assert error <= tolerance * (expected.std() or 1), (layout, batch, size)
    return counts


bn, relu = later(L.BatchNormalization), later(L.ReLU)


def aspp() -> Any:
    x = keras.Input(OPEN)
    y = L.Conv2D(4, 3, padding="same")(x)
    rates = [L.Conv2D(4, 3, padding="same", dilation_rate=rate)(y) for rate in (2, 3, 4)]
    joined = L.BatchNormalization()(L.Concatenate()([L.Conv2D(4, 1)(y), *rates]))
    return keras.Model(x, L.Conv2D(3, 1)(L.ReLU()(joined)))


def atrous(x: Any) -> Any:
    return tf.nn.atrous_conv2d(x, tf.ones((3, 3, 3, 2)), 2, "SAME")


DILATED: dict[str, tuple[Callable[[], Any], int]] = {
    "separable": (chain(OPEN, later(L.SeparableConv2D, 4, 3, dilation_rate=2, padding="same"), bn, relu), 2),
    "same": (chain(OPEN, later(L.Conv2D, 4, 3, dilation_rate=2, padding="same"), bn), 1),
    "even kernel, another rate a side": (
        chain(OPEN, later(L.Conv2D, 4, (2, 4), dilation_rate=(1, 3), padding="same"), bn), 1),
    "valid": (chain(OPEN, later(L.Conv2D, 4, 3, dilation_rate=2), bn), 1),
    "depthwise": (chain(OPEN, later(L.DepthwiseConv2D, 3, dilation_rate=2, padding="same"), bn), 1),
    "depthwise, another rate a side": (
        chain(OPEN, later(L.DepthwiseConv2D, 3, dilation_rate=(1, 3), padding="same"), bn), 1),
    "groups": (chain((None, None, 4), later(L.Conv2D, 4, 3, groups=2, dilation_rate=2, padding="same"), bn), 1),
    "one axis": (chain((None, 3), later(L.Conv1D, 4, 3, dilation_rate=2, padding="same"), bn), 1),
    "one axis, separable": (
        chain((None, 3), later(L.SeparableConv1D, 4, 3, dilation_rate=2, padding="same"), bn), 2),
    "three axes": (chain((None, *OPEN), later(L.Conv3D, 4, 3, dilation_rate=2, padding="same"), bn), 1),
    "then larger": (
        chain(OPEN, later(L.Conv2D, 4, 3, dilation_rate=2, padding="same"), later(L.UpSampling2D, 2),
              later(L.Conv2D, 3, 3)), 2),
    "after padding": (
        chain(OPEN, later(L.ZeroPadding2D, 2), later(L.Conv2D, 4, 3, dilation_rate=2, padding="same")), 1),
    "several rates side by side": (aspp, 6),
    "TensorFlow's own": (chain(OPEN, later(L.Lambda, atrous, output_shape=lambda s: (*s[:-1], 2))), 1),
}


@pytest.mark.parametrize("name", DILATED)
def test_a_dilated_convolution_at_open_size_is_one_conv(name: str, tmp_path: Any) -> None:
    keras.utils.clear_session()
    make, convolutions = DILATED[name]
    _, first = agrees(make(), tmp_path)
    assert first["Conv"] == convolutions and not first["Pad"] and not first["DepthToSpace"]


def test_what_only_a_multiple_of_64_leaves_the_same_is_no_constant(tmp_path: Any) -> None:
    """Keras pads a dilated depthwise convolution with strides by the remainder of the size."""
    agrees(chain(OPEN, later(L.DepthwiseConv2D, 3, strides=2, dilation_rate=2, padding="same"), bn)(), tmp_path)


FIRST: dict[str, Any] = {"data_format": "channels_first"}
BIASED: dict[str, Callable[[], Any]] = {
    f"{layer.__name__}, {space}": chain((3, *sizes), later(layer, *args, **FIRST), relu)
    for layer, axes, args in [
        (L.Conv1D, 1, (4, 3)), (L.Conv2D, 2, (4, 3)), (L.Conv3D, 3, (4, 3)), (L.DepthwiseConv1D, 1, (3,)),
        (L.DepthwiseConv2D, 2, (3,)), (L.SeparableConv1D, 1, (4, 3)), (L.SeparableConv2D, 2, (4, 3)),
        (L.Conv1DTranspose, 1, (4, 3, 2)), (L.Conv2DTranspose, 2, (4, 3, 2)), (L.Conv3DTranspose, 3, (4, 3, 2))]
    for space, sizes in [("fixed", (9, 8, 7)[:axes]), ("open", (None,) * axes)]
}


@pytest.mark.parametrize("name", BIASED)
def test_a_bias_of_channels_that_come_first(name: str, tmp_path: Any) -> None:
    """At no size with a last axis as long as there are channels: there Keras adds the bias along the wrong one."""
    keras.utils.clear_session()
    agrees(BIASED[name](), tmp_path, sizes=((9, 8, 7), (12, 9, 10)))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel", "strides", "extra"), [(2, 3, 2), (3, 5, 4), (2, 4, (1, 3)), (1, 2, 1), (3, 2, 1)])
@pytest.mark.parametrize("sizes", [(6, 5), (None, None)])
def test_a_transposed_convolution_whose_stride_passes_its_kernel(
    kernel: int, strides: int, extra: Any, padding: str, sizes: Any, tmp_path: Any
) -> None:
    """Rows that no pixel reaches lie at the end, and hold the bias."""
    keras.utils.clear_session()
    layer = later(L.Conv2DTranspose, 4, kernel, strides=strides, output_padding=extra, padding=padding)
    agrees(chain((*sizes, 3), layer)(), tmp_path, sizes=((6, 5),))


class Own(keras.Model):
    """A model without symbolic outputs."""

    def __init__(self, end: str) -> None:
        super().__init__(name="own")
        self.conv, self.top, self.end = L.Conv2D(4, 3), L.Dense(3, activation=end), end

    def call(self, x: Any) -> Any:
        maps = self.conv(x)
        scores = self.top(ops.mean(maps, axis=(1, 2)))
        return {"scores": scores, "maps": maps} if self.end == "tanh" else scores


@pytest.mark.parametrize(("end", "names"), [
    ("linear", ["logits"]), ("softmax", ["probabilities"]), ("relu", ["features"]), ("tanh", ["maps", "scores"])])
def test_a_subclassed_model_names_its_outputs_by_what_makes_them(end: str, names: list[str], tmp_path: Any) -> None:
    keras.utils.clear_session()
    model = Own(end)
    expected = keras.tree.flatten(model(np.ones((1, 8, 8, 3), "float32")))
    converted = convert_model(model, output_names=())
    assert [port.name for port in converted.outputs] == names
    write_model(converted.model, tmp_path)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for actual, wanted in zip(session.run(None, {"input": np.ones((1, 8, 8, 3), "float32")}), expected, strict=True):
        assert np.allclose(actual, wanted, atol=1e-5)


def test_a_subclassed_model_is_converted_at_the_size_that_is_asked_for() -> None:
    """It remembers what it was first called on, and takes what it runs on; its channels lie in its weights."""
    model = Own("relu")
    model(np.ones((1, 8, 8, 3), "float32"))
    assert convert_model(model, output_names=(), input_shape=(9, 7, 3)).inputs[0].shape == (None, 9, 7, 3)
    with pytest.raises(UsageError, match="which takes 8x8x3"):
        convert_model(model, output_names=(), input_shape=(9, 7, 4))


def test_a_graph_that_answers_otherwise_than_keras_is_not_asked(tmp_path: Any) -> None:
    """Over an open time axis Keras' TimeDistributed counts the batch in a graph: right files were refused."""
    steps = keras.Input((None, 6))
    model = keras.Model(steps, L.TimeDistributed(L.Dense(4))(L.LSTM(5, return_sequences=True)(steps)))
    assert convert(model, output=tmp_path / "b").proof.passed


@pytest.mark.parametrize("layer", [L.LSTM, L.GRU, L.SimpleRNN])
def test_the_activation_inside_a_recurrent_layer_is_no_head(layer: Any) -> None:
    model = keras.Sequential([keras.Input((4, 6)), layer(3)])
    assert heads.heads(model) == [None] and heads.output_names(model, [None]) == ["features"]
    with heads.recording(heads.heads(model)), heads.without(heads.heads(model)):
        model(np.ones((1, 4, 6), "float32"))


def test_an_output_that_is_an_input_has_a_name_of_its_own(tmp_path: Any) -> None:
    keras.utils.clear_session()
    left, right = keras.Input((8, 8, 3), name="batch"), keras.Input((8, 8, 3), name="right")
    model = keras.Model([left, right], [L.Add(name="right_1")([left, right]), left, right])
    converted = convert_model(model, output_names=heads.output_names(model, [None] * 3))
    assert [port.name for port in converted.outputs] == ["right_1", "batch_1", "right_1_1"]
    agrees(model, tmp_path)


STEPS: dict[str, Callable[[], Any]] = {
    "LSTM": chain((None, 6), later(L.LSTM, 5)),
    "LSTM and back": chain((None, 6), later(L.Bidirectional, L.LSTM(3, return_sequences=True)), later(L.Dense, 2)),
    "GRU": chain((None, 6), later(L.GRU, 5)),
    "SimpleRNN": chain((None, 6), later(L.SimpleRNN, 5, return_sequences=True)),
    "ConvLSTM2D": chain((None, 7, 6, 2), later(L.ConvLSTM2D, 3, 3)),
    "a mask": chain((None,), later(L.Embedding, 10, 4, mask_zero=True), later(L.GRU, 3), dtype="int32"),
    "too many to unroll": chain((150, 3), later(L.GRU, 2)),
    "features, then steps": chain((None, 6, 3), later(L.Conv2D, 4, 3, padding="same"), later(L.Reshape, (-1, 24)),
                                  later(L.LSTM, 3)),
    "a layer for each": chain((None, 6), later(L.TimeDistributed, L.Dense(4))),
    "features of each": chain((None, 8, 7, 3), later(L.TimeDistributed, L.Conv2D(4, 3)),
                              later(L.TimeDistributed, L.Flatten()), later(L.LSTM, 3)),
    "images of open size": chain((None, *OPEN), later(L.TimeDistributed, L.Conv2D(4, 3)),
                                 later(L.TimeDistributed, L.GlobalMaxPooling2D())),
    "a network for each": chain((None, 8, 7, 3), later(L.TimeDistributed, keras.Sequential(
        [keras.Input((8, 7, 3)), L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU(), L.Flatten()]))),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_an_open_number(name: str, tmp_path: Any) -> None:
    agrees(STEPS[name](), tmp_path, layouts=("nhwc",), sizes=((9, 8, 7), (1, 6, 9), (16, 16, 16)))


@pytest.mark.parametrize("sizes", [(9, 8), (None, None)])
@pytest.mark.parametrize("how", ["pad_to_aspect_ratio", "crop_to_aspect_ratio"])
def test_resizing_that_keeps_the_aspect_ratio(how: str, sizes: Any, tmp_path: Any) -> None:
    """Padding is a branch, and the other branch only hands on what is outside it."""
    model = chain((*sizes, 3), later(L.Resizing, 12, 20, **{how: True}), later(L.Conv2D, 2, 3))()
    agrees(model, tmp_path, sizes=((9, 8, 7), (5, 33, 5)))


def stepped(x: Any) -> Any:
    return ops.where(x > 0.5, ops.exp(x), x * 2)


CHOICES: dict[str, Callable[[], Any]] = {
    "where": chain((9, 8, 3), later(L.Conv2D, 4, 3), later(L.Lambda, stepped, output_shape=lambda s: s)),
    "a threshold": chain((9, 8, 3), later(L.Conv2D, 4, 3), later(L.ReLU, threshold=0.1)),
    "everything": chain((9, 8, 3), later(L.Conv2D, 4, 3), later(L.ReLU, 4.0, 0.1, 0.5)),
    **{name: chain((9, 8, 3), later(L.Conv2D, 4, 3), later(L.Activation, name), later(L.Conv2D, 2, 1))
       for name in ("soft_shrink", "hard_shrink", "sparse_plus", "sparse_sigmoid", "squareplus")},
    "threshold": chain((9, 8, 3), later(L.Lambda, lambda x: ops.threshold(x, 0.5, -1.0), output_shape=lambda s: s)),
    "glu": chain((9, 8, 4), later(L.Lambda, ops.glu, output_shape=lambda s: (*s[:-1], s[-1] // 2))),
}


def extreme(array: Any) -> Any:
    array.flat[::37] = np.inf
    array.flat[::61] = -np.inf
    return array


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_keeps_what_is_not_finite(name: str, tmp_path: Any) -> None:
    model = CHOICES[name]()
    for counts in agrees(model, tmp_path):
        assert counts["Transpose"] <= 2 and not counts["Not"]
    lone = chain((9, 8, 4), *([later(L.ReLU, threshold=0.1)] if name == "a threshold" else
                              [later(L.Lambda, stepped, output_shape=lambda s: s)]))
    agrees(lone(), tmp_path, given=extreme)


RESIZED: dict[str, Callable[[], Any]] = {
    **{f"Resizing, {how}": chain((9, 8, 3), later(L.Resizing, 6, 13, interpolation=how), later(L.Conv2D, 4, 3))
       for how in ("area", "bicubic", "lanczos3", "lanczos5", "bilinear", "nearest")},
    **{f"UpSampling2D, {how}": chain((9, 8, 3), later(L.UpSampling2D, (2, 3), interpolation=how))
       for how in ("bicubic", "lanczos3", "lanczos5")},
    **{f"UpSampling2D at open size, {how}": chain(OPEN, later(L.Conv2D, 4, 3),
                                                  later(L.UpSampling2D, 2, interpolation=how))
       for how in ("bilinear", "bicubic", "nearest")},
    "UpSampling2D, channels first": chain(
        (3, None, None), later(L.UpSampling2D, (2, 3), interpolation="bilinear", **FIRST)),
    "antialias": chain((9, 8, 3), later(L.Lambda, lambda x: ops.image.resize(x, (5, 6), antialias=True))),
}


@pytest.mark.parametrize("name", RESIZED)
def test_images_of_another_size(name: str, tmp_path: Any) -> None:
    # Where a model's own channels come first, nchw puts a side in their place, which ONNX Runtime does not resize.
    layouts = ("nhwc",) if "channels first" in name else ("nhwc", "nchw")
    for counts in agrees(RESIZED[name](), tmp_path, layouts=layouts):
        assert counts["Gather"] in (0, 2) and counts["Transpose"] <= 3


@pytest.mark.parametrize("how", ["area", "lanczos3"])
def test_a_kernel_of_no_operator_at_open_size_is_told(how: str) -> None:
    model = chain(OPEN, later(L.Resizing, 6, 13, interpolation=how, name="culprit"))()
    with pytest.raises(InputError, match=r"fixed size only.*input-shape") as caught:
        convert_model(model, output_names=["out"])
    assert "\n" not in str(caught.value)


def patches(strides: int, rates: int, padding: str) -> Callable[[Any], Any]:
    return lambda x: tf.image.extract_patches(
        x, [1, 3, 2, 1], [1, strides, strides, 1], [1, rates, rates, 1], padding)


@pytest.mark.parametrize("given", [(1, 1, "SAME"), (2, 1, "VALID"), (1, 2, "SAME")])
def test_patches_of_an_image(given: Any, tmp_path: Any) -> None:
    model = chain(OPEN, later(L.Lambda, patches(*given)), later(L.Conv2D, 4, 1))()
    assert agrees(model, tmp_path)[1] == {"Conv": 2}
    agrees(chain((9, 8, 3), later(L.Lambda, patches(*given)))(), tmp_path, given=extreme)


@pytest.mark.parametrize("how", ["area", "bicubic", "lanczos3"])
def test_what_is_not_finite_stays_near_while_an_image_is_resized(how: str, tmp_path: Any) -> None:
    agrees(chain((9, 8, 3), later(L.Resizing, 6, 13, interpolation=how))(), tmp_path, given=extreme)


@pytest.mark.parametrize("pooling", [L.MaxPooling2D, L.AveragePooling2D])
def test_zeros_around_a_pooling_count(pooling: Any, tmp_path: Any) -> None:
    """ONNX Runtime makes them the pooling's own padding, which does not count."""
    agrees(chain((9, 8, 3), later(L.ZeroPadding2D, 1), later(pooling, 3, 2))(), tmp_path, given=lambda x: -abs(x))


def test_a_batch_that_the_model_fixes_is_not_another() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3), batch_size=4), L.Conv2D(2, 3)])
    with pytest.raises(UsageError, match="fixes it to 4"):
        convert_model(model, output_names=["out"], batch=2)
    assert convert_model(model, output_names=["out"], batch=4).inputs[0].shape[0] == 4


@pytest.mark.parametrize("name", ["a b", "x:0", "c(1)", "é", "a@b", "层", "plain"])
def test_a_name_that_tensorflow_does_not_take(name: str, tmp_path: Any) -> None:
    """ONNX' inputs and outputs get one of letters and digits; the layers keep theirs."""
    keras.utils.clear_session()
    left, right = keras.Input((8, 8, 3), name=name), keras.Input((8, 8, 3), name="right")
    inner = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(2, 3, name=name)], name=f"{name}_inner")
    model = keras.Model([left, right], [L.ReLU(name=name + "2")(inner(L.Add()([left, right]))), left], name=name)
    agrees(model, tmp_path)
    converted = convert_model(model, output_names=heads.output_names(model, [None] * 2))
    assert f"{name}_inner/{name}" in converted.layers and model.get_layer(f"{name}_inner").name == f"{name}_inner"
    port = converted.inputs[0]
    assert re.fullmatch(r"[A-Za-z0-9_]+", port.name) and (port.keras_name or port.name) == name
    assert manifest.input_tensor(port, None).keras_name == (UNSET if name == "plain" else name)
    assert any(f"{name}_inner/{name}/" in str(node.name) for node in converted.model.graph)


@pytest.mark.parametrize("policy", ["float64", "bfloat16", "mixed_bfloat16", "float8_from_float32"])
def test_a_precision_that_nothing_can_prove_is_told(policy: str) -> None:
    model = keras.Sequential([keras.Input((12, 12, 3)), L.Conv2D(4, 3, dtype=policy.replace(
        "float8_from_float32", "float32")), L.GlobalAveragePooling2D(), L.Dense(3, dtype=policy)])
    with pytest.raises(InputError, match=policy.removeprefix("mixed_").partition("_")[0]) as caught:
        convert_model(model, output_names=["out"], opset=22)
    assert "dtype policy" in str(caught.value) and "\n" not in str(caught.value)
