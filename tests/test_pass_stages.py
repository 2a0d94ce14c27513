"""The passes in their stages: over real networks step by step, and conditions that a planted graph breaks."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
ir = pytest.importorskip("onnx_ir")

from cnnexport.conversion import passes  # noqa: E402
from cnnexport.conversion.passes import conditions  # noqa: E402


def residual():
    """A narrow residual network with batch normalisation, at 32 pixels."""
    import keras

    L = keras.layers

    def conv(x, filters, size, strides=1):
        x = L.ZeroPadding2D(size // 2)(x) if strides > 1 else x
        x = L.Conv2D(filters, size, strides, padding="valid" if strides > 1 else "same", use_bias=False)(x)
        return L.BatchNormalization()(x)

    image = x = keras.Input((32, 32, 3))
    for filters in (4, 8):
        way = L.ReLU()(conv(x, filters, 3, 2))
        x = L.ReLU()(L.Add()([conv(way, filters, 3), conv(x, filters, 1, 2)]))
    x = L.BatchNormalization()(L.MaxPooling2D()(L.ZeroPadding2D(1)(x)))
    return keras.Model(image, L.Dense(5)(L.GlobalAveragePooling2D()(L.ReLU()(x))))


def medley():
    """What the others have not: maps from features, repeated, transposed, normalised, joined maps, sequences."""
    import keras

    L = keras.layers
    image, line, any_size = keras.Input((8, 8, 3)), keras.Input((12, 4)), keras.Input((None, None, 3))
    x = L.DepthwiseConv2D(3, padding="same")(image)
    x = L.UpSampling2D(2)(x)
    x = L.Conv2DTranspose(4, 4, strides=2, padding="same")(x)
    x = L.BatchNormalization()(L.Conv2D(2, 3, strides=3)(x))
    features = L.Dense(18, activation="relu")(L.Flatten()(L.Cropping2D(2)(x)))
    maps = L.Conv2D(4, 2)(L.Reshape((3, 3, 2))(features))
    maps = L.GroupNormalization(2)(L.LayerNormalization()(maps))
    y = L.Conv1D(5, 3, padding="causal")(line)
    y = L.BatchNormalization()(L.Conv1DTranspose(5, 3, strides=2, activation="relu")(y))
    z = L.Conv2DTranspose(4, 3, strides=2)(L.ZeroPadding2D(1)(any_size))
    sides = L.BatchNormalization()(L.Concatenate()([L.Conv2D(2, 3)(image), L.Conv2D(3, 3)(image)]))
    return keras.Model([image, line, any_size], [maps, L.Dense(6)(y), z, image, keras.ops.argmax(x, axis=-1), sides])


@pytest.fixture(scope="session")
def translated():
    """Three networks as they come from tf2onnx, over random weights: channels last twice, and first."""
    import keras

    from cnnexport import architectures
    from cnnexport.conversion import convert_model

    keras.utils.set_random_seed(0)
    found = {}
    for name, model, layout in (("lenet5", architectures.build("lenet5"), "nhwc"), ("residual", residual(), "nhwc"),
                                ("medley", medley(), "nchw")):
        rng = np.random.default_rng(0)
        for variable in model.variables:
            variable.assign(rng.uniform(0.1, 0.4, variable.shape) * rng.choice([-1, 1], variable.shape)
                            if "variance" not in variable.path else rng.uniform(0.5, 1.5, variable.shape))
        with pytest.MonkeyPatch.context() as patch:
            fold = passes.fold

            def keep(graph_model, name=name, fold=fold):
                found[name] = ir.to_proto(graph_model)
                return fold(graph_model)

            patch.setattr(passes, "fold", keep)
            outputs = [f"output{i}" for i in range(len(model.outputs))]
            convert_model(model, output_names=outputs, layout=layout)
    return found


def run(model):
    proto = ir.to_proto(model)
    for node in proto.graph.node:
        node.name = ""  # unique only after all passes
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    shapes = {v.name: [d if isinstance(d, int) else 2 if d == "batch" else 8 for d in v.shape]
              for v in session.get_inputs()}
    return session.run(None, {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()})


def test_every_pass_over_three_networks(translated):
    changed: dict = {}
    for name, proto in translated.items():
        model = ir.from_proto(proto)
        before = run(model)
        for stage in passes.STAGES:
            for one in stage.passes:
                count = one()(model).modified
                changed[one.__name__] = changed.get(one.__name__, False) or count
                after = run(model) if count else before
                for a, b in zip(before, after, strict=True):
                    assert a.shape == b.shape, (name, one)
                    assert np.abs(a - b).max() <= 1e-5 * b.std(), (name, stage.name, one)
                before = after
    # What these are for lies in no such network: other tests have their numbers.
    assert [name for name, done in changed.items() if not done] == [
        "OwnOutputs", "PositivePadding", "SayPadding", "WholeActivations", "ScalarFill"]


def graph(text, **arrays):
    proto = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 18]> agraph ' + text)
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto).graph


def planted(name):
    """A graph that one condition refuses, and which node or value it names."""
    if name == "ordered":
        made = graph("(float[2] x) => (y) { a = Relu(x) b = Neg(a) y = Abs(b) }")
        nodes = list(made)
        made.remove(nodes[1])
        made.append(nodes[1])
        return made, "'b'"
    if name == "ordered, an array":
        made = graph("(float[2] x) => (y) { y = Add(x, c) }", c=np.ones(2, "float32"))
        made.initializers["c"].const_value = None
        return made, "'c'"
    if name == "ordered, from elsewhere":
        made = graph("(float[2] x) => (y) { y = Relu(x) }")
        made[0].replace_input_with(0, ir.Value(name="nowhere"))
        return made, "'nowhere'"
    if name == "regrouped":
        text = "(float[2,3] x) => (y) <float[1,2,3] u> { u = Unsqueeze(x, o) y = Relu(u) }"
        return graph(text, o=np.array([0])), "Unsqueeze"
    if name == "regrouped, twice":
        text = "(float[2,3] x) => (y) <float[6] u, float[3,2] v> { u = Reshape(x, o) v = Reshape(u, p) y = Relu(v) }"
        return graph(text, o=np.array([6]), p=np.array([3, 2])), "Reshape"
    if name == "settled":
        text = "(float[2,3] x) => (y) { t = Transpose<perm=[1,0]>(x) r = Transpose<perm=[1,0]>(t) y = Relu(r) }"
        return graph(text), "joined"
    if name == "settled, nothing moves":
        return graph("(float[2,3] x) => (y) { t = Transpose<perm=[0,1]>(x) y = Relu(t) }"), "left out"
    if name == "used":
        return graph("(float[2] x) => (y) { z = Neg(x) y = Relu(x) }"), "'z'"
    if name == "used, an initializer":
        return graph("(float[2] x) => (y) { y = Relu(x) }", c=np.ones(2, "float32")), "'c'"
    made = graph("(float[2] x) => (y) { z = Neg(x) y = Relu(z) }")
    made[0].outputs[0].name = "x"
    return made, "'x'"


PLANTED = ["ordered", "ordered, an array", "ordered, from elsewhere", "regrouped", "regrouped, twice", "settled",
           "settled, nothing moves", "used", "used, an initializer", "named_apart"]


@pytest.mark.parametrize("name", PLANTED)
def test_a_condition_can_fail(name):
    made, told = planted(name)
    with pytest.raises(conditions.Broken, match=told):
        getattr(conditions, name.split(",")[0])(made)


@pytest.mark.parametrize(("condition", "text"), [
    (conditions.regrouped, "(float[n] x, int64[2] k) => (y) <float[2,3] u> "
                           "{ r = Reshape(x, k) u = Reshape(r, k) y = Relu(u) }"),
    (conditions.settled, "(float[2,3] x) => (t) { t = Transpose<perm=[0,1]>(x) }"),
    (conditions.named_apart, "(float[1,4,4] x) => (y) "
                             "{ y, , = LSTM<hidden_size=2>(x, x, x) z, , = LSTM<hidden_size=2>(x, x, x) }"),
])
def test_a_condition_holds_of_what_cannot_be_otherwise(condition, text):
    condition(graph(text))


def test_every_condition_is_planted_and_asked():
    asked = {c for stage in passes.STAGES for c in (*stage.before, *stage.after)}
    assert {c.__name__ for c in asked} == {name.split(",")[0] for name in PLANTED}


@pytest.mark.parametrize("name", ["ordered", "used", "named_apart", "settled", "regrouped"])
def test_a_broken_condition_names_stage_pass_and_condition(monkeypatch, name):
    from cnnexport.errors import describe

    class Spoiling(ir.passes.InPlacePass):  # type: ignore[name-defined]
        def call(self, model):
            spoilt = planted(name)[0]
            model.graph = spoilt
            return ir.passes.PassResult(model, True)

    def spoiling(stage):
        return name in [c.__name__ for c in stage.after]

    stage = next(s for s in passes.STAGES if spoiling(s))
    wrong = passes.Stage(stage.name, (*stage.passes, Spoiling), stage.before, stage.after)
    monkeypatch.setattr(passes, "STAGES", tuple(wrong if s is stage else s for s in passes.STAGES))
    with pytest.raises(ir.passes.PostconditionError) as raised:
        passes.fold(ir.Model(graph("(float[2] x) => (y) { a = Neg(x) y = Relu(a) }"), ir_version=9))
    line, code = describe(raised.value)
    assert code == 1 and line.startswith("unexpected PostconditionError: ")
    assert all(word in line for word in (f"stage '{stage.name}'", "pass Spoiling", f"'{name}'"))


def test_a_pass_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(passes.FoldConstants, "call", lambda self, model: 1 // 0)
    with pytest.raises(ir.passes.PassError, match="stage 'normalise', pass FoldConstants: ZeroDivisionError"):
        passes.fold(ir.Model(graph("(float[2] x) => (y) { y = Relu(x) }"), ir_version=9))
