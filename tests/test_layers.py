"""Every kind of layer converts, computes what Keras computes, and leaves a clean graph.

Each model is converted twice: channels-last with a dynamic batch, channels-first with a fixed one. All its
variables are random, so that no fold of an identity passes for a fold.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

keras: Any = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from cnnexport.conversion import convert_model  # noqa: E402
from cnnexport.conversion.write import write_model  # noqa: E402
from cnnexport.errors import InputError  # noqa: E402

L: Any = keras.layers
ops = keras.ops
IMAGE = (9, 11, 4)


def randomise(model):
    """Give every variable a value that no fold may lose; statistics stay positive."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if not str(variable.dtype).startswith(("float", "bfloat")):
            continue
        name, shape = variable.path.split("/")[-1], tuple(variable.shape)
        if name in ("moving_variance", "variance", "gamma"):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            inputs = shape[:-2] if "depthwise" in variable.path else shape[:-1]
            value = rng.normal(size=shape) * np.sqrt(2 / np.prod(inputs))
        else:
            value = rng.normal(size=shape) * 0.3
        variable.assign(value.astype("float32"))


def feeds(ports, batch, size=14):
    rng = np.random.default_rng(1)
    arrays = []
    for port in ports:
        shape = (batch, *(size if d is None else d for d in port.shape[1:]))
        if port.dtype.startswith("float"):
            arrays.append(rng.normal(size=shape).astype(port.dtype))
        else:
            arrays.append(rng.integers(0, 5, shape).astype(port.dtype))
    return arrays


def expected_outputs(model, arrays):
    tensors = [tf.constant(a) for a in arrays]
    structure = getattr(model, "input", None)
    inputs = tensors[0] if structure is None else keras.tree.pack_sequence_as(structure, tensors)
    return [np.asarray(o) for o in keras.tree.flatten(model(inputs, training=False))]


def transposes(proto, layout):
    """The Transposes that are neither the one at a channels-last image nor the one at a channels-last map."""
    inputs = {v.name: len(v.type.tensor_type.shape.dim) for v in proto.graph.input}
    outputs = {v.name: len(v.type.tensor_type.shape.dim) for v in proto.graph.output}
    at_ports = lambda n: inputs.get(n.input[0]) or outputs.get(n.output[0])  # noqa: E731
    found = [n for n in proto.graph.node if n.op_type == "Transpose"]
    return [n.name for n in found if not at_ports(n) or (layout == "nchw" and at_ports(n) == 4)]


def problems(proto, batch, open_space):
    """What is wrong with the graph, apart from what it computes."""
    onnx.checker.check_model(proto, full_check=True)
    graph, wrong = proto.graph, []
    read = Counter(i for n in graph.node for i in n.input) + Counter(o.name for o in graph.output)
    wrong += [f"dead initializer {i.name}" for i in graph.initializer if not read[i.name]]
    wrong += [f"dead node {n.name}" for n in graph.node if not any(read[o] for o in n.output)]
    wrong += [f"node without a layer: {n.name}" for n in graph.node if "/" not in n.name]
    known = {v.name: v.type.tensor_type for v in [*graph.value_info, *graph.output, *graph.input]}
    for name in [*(o for n in graph.node for o in n.output if o), *(v.name for v in graph.input)]:
        if name not in known or not known[name].HasField("shape"):
            wrong.append(f"no shape: {name}")
            continue
        for dim in known[name].shape.dim:
            symbol = batch is None and dim.dim_param == "batch"
            if not dim.HasField("dim_value") and not symbol and not open_space:
                wrong.append(f"size {dim.dim_param!r} of {name}")
    made = {o: n for n in graph.node for o in n.output}
    for node in graph.node:
        before = made.get(node.input[0]) if node.input else None
        if node.op_type == "BatchNormalization" and before is not None and read[node.input[0]] == 1:
            wrong += (
                [f"not folded: {node.name}"] if before.op_type in ("Conv", "Gemm", "ConvTranspose") else []
            )
    return wrong


def convert(model, folder, layout, batch, **options):
    count = len(keras.tree.flatten(model.outputs)) if getattr(model, "outputs", None) else 1
    names = [f"output{i}" for i in range(count)]
    converted = convert_model(model, output_names=names, layout=layout, batch=batch, **options)
    folder.mkdir(exist_ok=True)
    write_model(converted.model, folder)
    return converted, onnx.load(folder / "model.onnx")


def sessions(path):
    """A session for each level of ONNX Runtime's graph optimisation: what one of them gets wrong, we do not write."""
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"):
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        yield ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check(model, folder, *, tolerance=1e-4, most_transposes=0, layouts=("nhwc", "nchw"), space=14, **options):
    """Convert, compare with Keras, and return the count of operators in each layout."""
    randomise(model)
    counts = []
    for layout in layouts:
        batch = None if layout == "nhwc" else 2
        converted, proto = convert(model, folder / layout, layout, batch, **options)
        open_space = any(d is None for p in converted.inputs for d in p.shape[1:])
        assert problems(proto, batch, open_space) == []
        assert len(transposes(proto, layout)) <= most_transposes
        counts.append(Counter(n.op_type for n in proto.graph.node))
        levels = list(sessions(folder / layout / "model.onnx"))
        for size in (1, 3) if batch is None else (batch,):
            arrays = feeds(converted.inputs, size, space)
            fed = {
                p.name: np.moveaxis(a, -1, 1) if p.channels_first else a
                for p, a in zip(converted.inputs, arrays)
            }
            wanted = expected_outputs(model, arrays)
            for session in levels:
                for port, actual, expected in zip(converted.outputs, session.run(None, fed), wanted, strict=True):
                    if port.channels_first:
                        expected = np.moveaxis(expected, -1, 1)
                    assert actual.shape == expected.shape
                    error = np.abs(actual.astype("float64") - expected.astype("float64")).max()
                    assert error <= tolerance * (expected.astype("float64").std() or 1)
    return counts


def chain(shape, *layers, dtype="float32"):
    return lambda: keras.Sequential([keras.Input(shape, dtype=dtype), *[make() for make in layers]])


def later(layer, *args, **options):
    """A layer made only when its test runs."""
    return lambda: layer(*args, **options)


def graph(shape=IMAGE, dtype="float32"):
    def decorate(function):
        def make():
            x = keras.Input(shape, dtype=dtype, name="image")
            return keras.Model(x, function(x))

        CASES[function.__name__.strip("_")] = make
        return function

    return decorate


conv, bn, relu = later(L.Conv2D, 6, 3), later(L.BatchNormalization), later(L.ReLU)
last, flatten, dense = later(L.Conv2D, 3, 1), later(L.Flatten), later(L.Dense, 3)

CASES = {
    # Convolutions
    "conv_same_stride": chain(IMAGE, later(L.Conv2D, 6, 3, strides=2, padding="same"), bn, relu),
    "conv_even_kernel": chain((8, 10, 4), later(L.Conv2D, 6, 4, strides=(2, 3), padding="same"), bn),
    "conv_valid": chain(
        IMAGE, later(L.Conv2D, 6, (3, 2), strides=(2, 1)), later(L.BatchNormalization, scale=False)
    ),
    "conv_dilated_same": chain(
        (15, 15, 4),
        later(L.Conv2D, 6, 3, dilation_rate=2, padding="same"),
        later(L.BatchNormalization, center=False),
    ),
    "conv_dilated_valid": chain(
        (15, 15, 4),
        later(L.Conv2D, 6, 3, dilation_rate=(3, 2)),
        later(L.BatchNormalization, center=False, scale=False),
    ),
    "conv_groups": chain(IMAGE, later(L.Conv2D, 6, 3, groups=2), bn),
    "conv1d": chain(
        (13, 4), later(L.Conv1D, 6, 3, padding="same", strides=2), bn, later(L.GlobalAveragePooling1D), dense
    ),
    "conv1d_causal": chain(
        (13, 4),
        later(L.Conv1D, 6, 3, padding="causal", dilation_rate=2),
        bn,
        later(L.MaxPooling1D, 2),
        flatten,
        dense,
    ),
    "conv1d_twice": chain(
        (13, 4),
        later(L.Conv1D, 6, 3, activation="relu"),
        later(L.Conv1D, 6, 3, strides=2),
        bn,
        later(L.AveragePooling1D, 2, padding="same"),
    ),
    "conv3d": chain(
        (6, 7, 8, 3),
        later(L.Conv3D, 5, 3, padding="same", strides=2),
        bn,
        relu,
        later(L.MaxPooling3D, 2, padding="same"),
        flatten,
        dense,
    ),
    "conv3d_average": chain(
        (6, 7, 8, 3),
        later(L.Conv3D, 5, 3),
        bn,
        later(L.AveragePooling3D, 2),
        later(L.GlobalAveragePooling3D),
        dense,
    ),
    "conv3d_transpose": chain((4, 5, 4, 3), later(L.Conv3DTranspose, 5, 3, strides=2, padding="same"), bn),
    "conv1d_transpose": chain((7, 3), later(L.Conv1DTranspose, 5, 3, strides=2, padding="same"), bn),
    "depthwise": chain(
        IMAGE, later(L.DepthwiseConv2D, 3, depth_multiplier=2, padding="same"), bn, later(L.ReLU, 6.0)
    ),
    "depthwise_stride": chain(IMAGE, later(L.DepthwiseConv2D, 3, strides=2, padding="same"), bn),
    "depthwise_dilated": chain(IMAGE, later(L.DepthwiseConv2D, 3, dilation_rate=2), bn),
    "depthwise1d": chain((13, 4), later(L.DepthwiseConv1D, 3, padding="same"), bn),
    "separable": chain(IMAGE, later(L.SeparableConv2D, 6, 3, padding="same", depth_multiplier=2), bn, relu),
    "separable1d": chain((13, 4), later(L.SeparableConv1D, 6, 3, padding="same"), bn),
    "transpose_same": chain(IMAGE, later(L.Conv2DTranspose, 6, 3, strides=2, padding="same"), bn, relu),
    "transpose_valid": chain(IMAGE, later(L.Conv2DTranspose, 6, 3, strides=2), bn),
    "transpose_even": chain(
        IMAGE, later(L.Conv2DTranspose, 6, 4, strides=2, padding="same", use_bias=False), bn
    ),
    "transpose_output_padding": chain(
        IMAGE, later(L.Conv2DTranspose, 6, 3, strides=2, padding="same", output_padding=1), bn
    ),
    "transpose_stride_1": chain(IMAGE, later(L.Conv2DTranspose, 6, 3), bn),
    "transpose_stride_beyond_kernel": chain(IMAGE, later(L.Conv2DTranspose, 6, 2, strides=3), bn),
    # Pooling and space
    "max_pool_same": chain(IMAGE, later(L.MaxPooling2D, 3, 2, padding="same")),
    "max_pool_valid": chain(IMAGE, later(L.MaxPooling2D, 3, 2)),
    "average_pool_same": chain(IMAGE, later(L.AveragePooling2D, 3, 2, padding="same")),
    "average_pool_valid": chain(IMAGE, later(L.AveragePooling2D, 3, 2)),
    "global_average_keepdims": chain(IMAGE, conv, later(L.GlobalAveragePooling2D, keepdims=True), last),
    "global_max_keepdims": chain(IMAGE, conv, later(L.GlobalMaxPooling2D, keepdims=True)),
    "global_average_input": chain(IMAGE, later(L.GlobalAveragePooling2D)),
    "global_max": chain(IMAGE, conv, later(L.GlobalMaxPooling2D), dense),
    "up_nearest": chain(IMAGE, conv, later(L.UpSampling2D, (2, 3)), last),
    "up_bilinear": chain(IMAGE, conv, later(L.UpSampling2D, (2, 3), interpolation="bilinear"), last),
    "up1d": chain((5, 3), later(L.UpSampling1D, 2), later(L.Conv1D, 4, 3)),
    "up3d": chain((3, 4, 5, 2), later(L.UpSampling3D, 2), later(L.Conv3D, 4, 3)),
    "resizing_bilinear": chain(IMAGE, later(L.Resizing, 7, 5), last),
    "resizing_nearest": chain(IMAGE, later(L.Resizing, 17, 5, interpolation="nearest"), last),
    "resizing_crop": chain(IMAGE, later(L.Resizing, 6, 6, crop_to_aspect_ratio=True), last),
    "zero_padding": chain(
        IMAGE, later(L.ZeroPadding2D, ((1, 2), (3, 0))), later(L.Conv2D, 5, 3, strides=2), bn
    ),
    "zero_padding_max_pool": chain(IMAGE, conv, relu, later(L.ZeroPadding2D, 2), later(L.MaxPooling2D, 3)),
    "zero_padding_alone": chain(IMAGE, later(L.ZeroPadding2D, 2)),
    "zero_padding_average": chain(IMAGE, later(L.ZeroPadding2D, 2), later(L.AveragePooling2D, 3)),
    "zero_padding_conv_same": chain(
        IMAGE, later(L.ZeroPadding2D, 1), later(L.Conv2D, 4, 3, strides=2, padding="same")
    ),
    "cropping": chain(IMAGE, conv, later(L.Cropping2D, ((1, 2), (0, 1))), conv),
    "cropping1d": chain(
        (9, 4),
        later(L.Conv1D, 5, 3),
        later(L.Cropping1D, 1),
        later(L.ZeroPadding1D, 2),
        later(L.Conv1D, 5, 3),
    ),
    "center_crop": chain(IMAGE, later(L.CenterCrop, 6, 7), last),
    # Shapes
    "reshape_sequence": chain(IMAGE, conv, later(L.Reshape, (63, 6)), later(L.Conv1D, 3, 3)),
    "permute": chain(IMAGE, conv, later(L.Permute, (3, 1, 2)), flatten, dense),
    "flatten_dense": chain(IMAGE, conv, relu, flatten, later(L.Dense, 6, activation="relu"), dense),
    "flatten_bn_dense": chain(
        IMAGE, conv, flatten, bn, later(L.Dropout, 0.5), later(L.Dense, 6), bn, relu, dense
    ),
    "flatten_no_bias": chain(IMAGE, flatten, later(L.Dense, 4, use_bias=False), bn),
    "dense_3d": chain((5, 7), later(L.Dense, 6), bn, relu, later(L.Dense, 3, use_bias=False)),
    "dense_4d": chain(IMAGE, later(L.Dense, 6), bn, relu, dense),
    "dense_4d_between": chain(IMAGE, conv, later(L.Dense, 6), bn, conv),
    "generator": chain(
        (10,),
        later(L.Dense, 128, use_bias=False),
        bn,
        later(L.LeakyReLU),
        later(L.Reshape, (4, 4, 8)),
        later(L.Conv2DTranspose, 6, 5, padding="same", use_bias=False),
        bn,
        later(L.LeakyReLU),
        later(L.Conv2DTranspose, 1, 5, strides=2, padding="same", activation="tanh"),
    ),
    # Normalisation
    "layer_norm": chain(IMAGE, conv, later(L.LayerNormalization), last),
    "layer_norm_all": chain(IMAGE, conv, later(L.LayerNormalization, axis=[1, 2, 3]), last),
    "group_norm": chain(IMAGE, conv, later(L.GroupNormalization, 2), last),
    "unit_norm": chain(IMAGE, conv, later(L.UnitNormalization), last),
    "noise_and_dropout": chain(
        IMAGE, later(L.GaussianNoise, 0.1), conv, later(L.SpatialDropout2D, 0.2), later(L.Dropout, 0.3), last
    ),
    "rescaling": chain(IMAGE, later(L.Rescaling, 1 / 127.5, offset=-1), conv),
    "normalization": chain(
        IMAGE,
        later(L.Normalization, mean=[1.0, 2, 3, 4], variance=[1.0, 2, 3, 4]),
        later(L.Conv2D, 6, 3, padding="same"),
        bn,
    ),
    "augmentation": chain(
        IMAGE,
        later(L.RandomFlip),
        later(L.RandomRotation, 0.1),
        later(L.RandomZoom, 0.1),
        later(L.RandomContrast, 0.1),
        later(L.RandomTranslation, 0.1, 0.1),
        last,
    ),
    "random_crop": chain(IMAGE, later(L.RandomCrop, 7, 7), last),
    "bn_before_conv": chain(IMAGE, conv, relu, bn, relu, later(L.Conv2D, 5, 3, padding="same")),
    "bn_at_input": chain(IMAGE, bn, later(L.Conv2D, 6, 3, padding="same")),
    "bn_alone": chain(IMAGE, bn),
    "bn_axis_1": chain(IMAGE, conv, later(L.BatchNormalization, axis=1), conv),
    "bn_twice": chain(IMAGE, conv, bn, bn, later(L.Rescaling, 3.0), relu),
    "bn_after_pool": chain(IMAGE, conv, relu, later(L.MaxPooling2D), bn, flatten, dense),
    # Heads, sequences, types
    "softmax_map": chain(IMAGE, conv, later(L.Conv2D, 3, 1, activation="softmax")),
    "softmax_axis_1": chain(IMAGE, conv, later(L.Softmax, axis=1)),
    "embedding": chain(
        (7,),
        later(L.Embedding, 10, 4),
        later(L.Conv1D, 5, 3),
        later(L.GlobalMaxPooling1D),
        dense,
        dtype="int32",
    ),
    "discretization": chain((4,), later(L.Discretization, bin_boundaries=[0.0, 1.0, 2.0])),
    "lstm": chain((7, 4), later(L.LSTM, 5), dense),
    "gru_sequences": chain((5, 4), later(L.GRU, 5, return_sequences=True), later(L.Dense, 3)),
    "bidirectional": chain((5, 4), later(L.Bidirectional, L.LSTM(3)), dense),
    "uint8": chain(IMAGE, later(L.Rescaling, 1 / 255.0), last, dtype="uint8"),
    "mixed_float16": chain(
        IMAGE,
        later(L.Conv2D, 6, 3, dtype="mixed_float16"),
        later(L.BatchNormalization, dtype="mixed_float16"),
        flatten,
        dense,
    ),
    # Sizes left open
    "open_pooled": chain(
        (None, None, 3),
        later(L.Conv2D, 4, 3, strides=2, padding="same"),
        bn,
        later(L.MaxPooling2D, 2, padding="same"),
        later(L.GlobalAveragePooling2D),
        dense,
    ),
    "open_map": chain(
        (None, None, 3),
        later(L.Conv2D, 4, 3, padding="same"),
        bn,
        later(L.MaxPooling2D, 2),
        later(L.UpSampling2D, 2),
        later(L.Conv2D, 3, 1, activation="softmax"),
    ),
    "open_transpose": chain(
        (None, None, 3),
        later(L.Conv2D, 4, 3, padding="same"),
        later(L.Conv2DTranspose, 4, 3, strides=2, padding="same"),
        bn,
        last,
    ),
    "open_resizing": chain((None, None, 3), later(L.Resizing, 8, 8), conv, flatten, dense),
    "open_1d": chain(
        (None, 3), later(L.Conv1D, 4, 3, padding="same"), bn, later(L.GlobalMaxPooling1D), dense
    ),
}

ACTIVATIONS = [
    "relu",
    "relu6",
    "elu",
    "selu",
    "gelu",
    "swish",
    "mish",
    "hard_sigmoid",
    "softplus",
    "softsign",
    "tanh",
    "sigmoid",
    "hard_swish",
    "leaky_relu",
    "softmax",
    "celu",
    "hard_tanh",
]
for _name in ACTIVATIONS:
    CASES[f"activation_{_name}"] = chain(IMAGE, conv, bn, later(L.Activation, _name), last)
CASES["prelu"] = chain(IMAGE, conv, later(L.PReLU), last)
CASES["prelu_shared"] = chain(IMAGE, conv, later(L.PReLU, shared_axes=[1, 2]), last)
CASES["relu_with_everything"] = chain(
    IMAGE, conv, later(L.ReLU, max_value=4.0, negative_slope=0.1, threshold=0.5), last
)


@graph()
def _residual(x):
    left = L.BatchNormalization()(L.Conv2D(6, 3, padding="same")(x))
    right = L.BatchNormalization()(L.Conv2D(6, 1)(x))
    return L.Conv2D(3, 1)(L.ReLU()(L.BatchNormalization()(L.Add()([left, right]))))


@graph()
def _concatenation_with_input(x):
    joined = L.Concatenate()([L.Conv2D(6, 3, padding="same")(x), L.Conv2D(5, 1)(x), x])
    return L.Conv2D(3, 1)(L.ReLU()(L.BatchNormalization()(joined)))


@graph()
def _merges(x):
    a, b = L.Conv2D(6, 3, padding="same")(x), L.Conv2D(6, 1)(x)
    kinds = (L.Add, L.Multiply, L.Average, L.Maximum, L.Minimum, L.Subtract)
    return L.Concatenate()([kind()([a, b]) for kind in kinds])


def _excited(x, gate):
    return L.Conv2D(3, 1)(L.Multiply()([x, gate]))


@graph()
def _squeeze_excite(x):
    x = L.Conv2D(8, 3)(x)
    gate = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(x))
    gate = L.Conv2D(8, 1, activation="sigmoid")(L.Conv2D(2, 1, activation="relu")(gate))
    return _excited(x, gate)


@graph()
def _squeeze_excite_dense(x):
    x = L.Conv2D(8, 3)(x)
    gate = L.Dense(8, activation="sigmoid")(L.Dense(2, activation="relu")(L.GlobalAveragePooling2D()(x)))
    return _excited(x, L.Reshape((1, 1, 8))(gate))


@graph()
def _squeeze_excite_keepdims(x):
    x = L.Conv2D(8, 3)(x)
    return _excited(x, L.Dense(8, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(x)))


@graph()
def _spatial_attention(x):
    x = L.Conv2D(8, 3)(x)
    maps = L.Concatenate()([ops.mean(x, axis=-1, keepdims=True), ops.max(x, axis=-1, keepdims=True)])
    return _excited(x, L.Conv2D(1, 3, padding="same", activation="sigmoid")(maps))


@graph((9, 11, 6))
def _shared_conv(x):
    shared, norm = L.Conv2D(6, 3, padding="same"), L.BatchNormalization()
    first = norm(shared(x))
    return L.Concatenate()([first, shared(L.ReLU()(first)), L.BatchNormalization()(shared(first))])


@graph((8,))
def _shared_dense(x):
    shared = L.Dense(8)
    first = L.BatchNormalization()(shared(x))
    return L.Add()([first, L.BatchNormalization()(shared(L.ReLU()(first))), shared(first)])


@graph((9, 11, 6))
def _shared_dense_after_flatten(x):
    shared = L.Dense(4)
    return L.Add()([shared(L.Flatten()(x)), shared(L.Flatten()(L.Conv2D(6, 3, padding="same")(x)))])


@graph()
def _nested_twice(x):
    block = keras.Sequential(
        [L.Conv2D(4, 3, padding="same", name="c"), L.BatchNormalization(name="b"), L.ReLU()]
    )
    inside = keras.Input(IMAGE)
    outer = keras.Model(inside, L.Add()([L.Conv2D(4, 1)(inside), inside]))
    return L.Conv2D(3, 1)(outer(L.Add()([block(x), block(block(x))])))


@graph()
def _outputs_on_the_way(x):
    y = L.Conv2D(4, 3)(x)
    z = L.BatchNormalization()(y)
    pooled = L.GlobalAveragePooling2D()(z)
    return [y, z, L.Dense(3)(pooled), pooled, y]


@graph()
def _output_is_input(x):
    return [x, L.Conv2D(4, 3)(x)]


@graph()
def _two_flattens(x):
    y = L.Conv2D(4, 3, padding="same")(x)
    return L.Dense(3)(L.Concatenate()([L.Flatten()(y), L.Flatten()(L.MaxPooling2D()(y))]))


@graph((8, 8, 4))
def _unet(x):
    down = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x)))
    low = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(L.MaxPooling2D()(down))))
    return L.Conv2D(3, 1, activation="sigmoid")(
        L.Concatenate()([down, L.Conv2DTranspose(4, 2, strides=2)(low)])
    )


@graph((8, 8, 4))
def _operations(x):
    y = L.Conv2D(8, 3, padding="same")(x)
    left, right = ops.split(y, 2, axis=-1)
    gated = left * ops.sigmoid(right)
    cut = L.Concatenate()([gated[:, ::2, ::2, :], gated[:, 1::2, ::2, :]])
    return L.Conv2D(3, 1)(1.0 - (ops.pad(cut, [[0, 0], [1, 1], [2, 2], [0, 0]]) - 1.0) / 3.0 * 2.0)


@graph((8, 8, 4))
def _generalised_mean(x):
    y = ops.power(ops.maximum(L.Conv2D(8, 3)(x), 1e-6), 3.0)
    return L.Dense(3)(ops.power(ops.mean(y, axis=[1, 2]), 1 / 3))


@graph((8, 8, 4))
def _argmax(x):
    return ops.argmax(L.Conv2D(8, 3, padding="same")(x), axis=-1)


@graph((8, 8, 4))
def _depth_to_space(x):
    return L.Conv2D(3, 1)(L.Lambda(lambda t: tf.nn.depth_to_space(t, 2))(L.Conv2D(16, 3)(x)))


@graph((8, 8, 4))
def _channel_shuffle(x):
    y = L.Reshape((8, 8, 2, 4))(L.Conv2D(8, 3, padding="same")(x))
    return L.Conv2D(3, 1)(L.Reshape((8, 8, 8))(L.Permute((1, 2, 4, 3))(y)))


@graph((8, 8, 4))
def _lambda(x):
    return L.Conv2D(3, 1)(L.Lambda(lambda t: t * 2 + 1)(L.Conv2D(4, 3)(x)))


def _two_images(pack):
    def make():
        a, b = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
        tower = keras.Sequential([L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU(), L.Flatten(), L.Dense(6)])
        return keras.Model(pack(a, b), ops.abs(tower(a) - tower(b)))

    return make


CASES["inputs_list"] = _two_images(lambda a, b: [a, b])
CASES["inputs_dict"] = _two_images(lambda a, b: {"z": a, "a": b})


@keras.saving.register_keras_serializable("tests")
class _Scale(L.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), name="w")

    def call(self, x):
        return ops.tanh(x) * self.w + ops.mean(x, axis=-1, keepdims=True)


CASES["custom_layer"] = chain(IMAGE, conv, _Scale, last)


class _Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.conv, self.norm, self.head = L.Conv2D(4, 3), L.BatchNormalization(), L.Dense(3)

    def call(self, x, training=False):
        return self.head(ops.mean(ops.relu(self.norm(self.conv(x), training=training)), axis=(1, 2)))


def _called():
    model = _Subclassed()
    model(np.zeros((2, 8, 8, 3), "float32"))
    return model


CASES["subclassed"] = _called

TRANSPOSES = {
    # A Transpose that stays has a reader that asks for channels last, or is no image's.
    "embedding": 1,
    "gru_sequences": 1,
    "layer_norm": 2,
    "permute": 1,
    "channel_shuffle": 1,
}
TOLERANCE = {"mixed_float16": 1e-2}


@pytest.mark.parametrize("name", CASES)
def test_layer(name, tmp_path):
    keras.utils.clear_session()
    check(
        CASES[name](), tmp_path, tolerance=TOLERANCE.get(name, 1e-4), most_transposes=TRANSPOSES.get(name, 0)
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv_same_stride", {"Conv": 1, "Relu": 1}),
        ("conv1d_causal", {"Conv": 1, "MaxPool": 1, "Flatten": 1, "Gemm": 1, "Transpose": 1}),
        ("transpose_same", {"ConvTranspose": 1, "Relu": 1}),
        ("transpose_stride_beyond_kernel", {"ConvTranspose": 1}),
        ("separable", {"Conv": 2, "Relu": 1}),
        ("flatten_bn_dense", {"Conv": 1, "Flatten": 1, "Gemm": 2, "Relu": 1}),
        ("generator", {"Gemm": 1, "LeakyRelu": 2, "Reshape": 1, "ConvTranspose": 2, "Tanh": 1}),
        ("up_nearest", {"Conv": 2, "Resize": 1}),
        ("zero_padding", {"Conv": 1}),
        ("residual", {"Conv": 3, "Add": 1, "BatchNormalization": 1, "Relu": 1}),
        ("squeeze_excite", {"Conv": 4, "GlobalAveragePool": 1, "Relu": 1, "Sigmoid": 1, "Mul": 1}),
        ("augmentation", {"Conv": 1}),
        ("noise_and_dropout", {"Conv": 2}),
        ("open_transpose", {"Conv": 2, "ConvTranspose": 1}),
        ("layer_norm_all", {"Conv": 2, "ReduceMean": 1, "Sub": 1, "LayerNormalization": 1}),
        ("group_norm", {"Conv": 2, "Reshape": 2, "InstanceNormalization": 1}),
        ("unet", {"Conv": 3, "Relu": 2, "MaxPool": 1, "ConvTranspose": 1, "Concat": 1, "Sigmoid": 1}),
    ],
)
def test_nothing_is_left_over(name, expected, tmp_path):
    keras.utils.clear_session()
    assert check(CASES[name](), tmp_path, layouts=("nchw",)) == [Counter(expected)]


@pytest.mark.parametrize(
    "name", ["residual", "generator", "up_bilinear", "conv1d", "layer_norm", "embedding"]
)
@pytest.mark.parametrize("opset", [13, 15, 17, 20, 23, onnx.defs.onnx_opset_version()])
def test_opsets(name, opset, tmp_path):
    keras.utils.clear_session()
    if opset == onnx.defs.onnx_opset_version():
        # onnx may be ahead of ONNX Runtime: then the file is checked, but cannot run.
        _, proto = convert(CASES[name](), tmp_path / "nhwc", "nhwc", None, opset=opset)
        assert problems(proto, None, False) == []
        try:
            ort.InferenceSession(tmp_path / "nhwc" / "model.onnx", providers=["CPUExecutionProvider"])
        except Exception as error:
            if "Unsupported model IR version" not in str(error) and "is under development" not in str(error):
                raise
            pytest.skip(f"ONNX Runtime {ort.__version__} does not load opset {opset} yet")
    check(CASES[name](), tmp_path, layouts=("nhwc",), opset=opset, most_transposes=1 + TRANSPOSES.get(name, 0))
    (imported,) = onnx.load(tmp_path / "nhwc" / "model.onnx").opset_import
    assert imported.version == opset


APPLICATIONS: dict[str, dict[str, Any]] = {
    "MobileNet": {"alpha": 0.25},
    "MobileNetV3Small": {},
    "EfficientNetB0": {},
    "InceptionV3": {"input_shape": (75, 75, 3)},
}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_application(name, tmp_path):
    keras.utils.clear_session()
    options = {"input_shape": (64, 64, 3), "weights": None, "classes": 7, "classifier_activation": None}
    model = getattr(keras.applications, name)(**options | APPLICATIONS[name])
    for count in check(model, tmp_path):
        assert count["GlobalAveragePool"] and not count["ReduceMean"]


def test_application_without_top_and_size(tmp_path):
    keras.utils.clear_session()
    model = keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=None, input_shape=(None, None, 3)
    )
    last_to_last, first_to_first = check(model, tmp_path, space=45)
    assert last_to_last["Transpose"] == 2 and not first_to_first["Transpose"]


class _Python(L.Layer):
    def call(self, x):
        return tf.ensure_shape(tf.py_function(lambda t: t * 2, [x], tf.float32), x.shape)


class _Unmapped(L.Layer):
    def call(self, x):
        return tf.raw_ops.Betainc(a=tf.abs(x) + 1, b=tf.abs(x) + 1, x=tf.sigmoid(x))


class _Failing(L.Layer):
    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x):
        raise RuntimeError("no graph for me\nand more lines")


@pytest.mark.parametrize("layer", [_Python, _Unmapped, _Failing])
def test_what_cannot_be_converted_is_named(layer, capfd):
    keras.utils.clear_session()
    model = chain(IMAGE, conv, later(layer, name="culprit"), last)()
    with pytest.raises(InputError) as caught:
        convert_model(model, output_names=["output"])
    message = str(caught.value)
    assert "culprit" in message and "\n" not in message
    assert "tf2onnx" not in capfd.readouterr().err


def test_a_subclassed_model_that_was_never_called_says_so():
    with pytest.raises(InputError, match="input shape"):
        convert_model(_Subclassed(), output_names=["output"])


def test_converting_leaves_the_layers_as_they_were():
    keras.utils.clear_session()
    model = CASES["bidirectional"]()
    layers = list(model._flatten_layers())
    state = lambda: [("call" in layer.__dict__, getattr(layer, "unroll", None)) for layer in layers]  # noqa: E731
    before = state()
    eager = tf.config.functions_run_eagerly()
    convert_model(model, output_names=["output"])
    assert state() == before
    assert tf.config.functions_run_eagerly() == eager
