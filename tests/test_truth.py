"""The gate's bounds follow from the truth: right files of hard networks pass, faults in them do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnexport import convert, parity
from cnnexport.bench import measure, plan, session, subjects
from cnnexport.conversion import Port, convert_model
from cnnexport.conversion.write import write_model
from cnnexport.errors import ParityError
from cnnexport.keras_files import heads
from cnnexport.parity import live, truth, witness
from cnnexport.verification import verify


def hard(size: int | None = 32) -> Any:
    """A network that subtracts a large mean: float32 keeps three or four digits of what is left."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    image = keras.Input((size, size, 3))
    x = layers.Rescaling(1.0, offset=3e2)(layers.Conv2D(8, 3)(image))
    x = layers.GroupNormalization(2)(x)
    return keras.Model(image, layers.Dense(5)(layers.GlobalMaxPooling2D()(x)))


def judged(
    model: Any, folder: Path, *, change: Callable[[onnx.ModelProto], None] = lambda proto: None
) -> parity.Verdict:
    """What the gate says of the converted ``model`` after ``change``."""
    found = heads.heads(model)
    converted = convert_model(model, output_names=heads.output_names(model, found))
    write_model(converted.model, folder)
    file = folder / "model.onnx"
    proto = onnx.load(file)
    change(proto)
    onnx.save(proto, file)
    answers = live.ask(model, converted.inputs)
    facts = parity.graph_facts(converted.model, converted.inputs, converted.outputs, answers.activations)
    return parity.judge(answers, facts, file, tell=truth.teller(model, found, answers))


def test_a_right_file_of_a_hard_network_passes(tmp_path: Path) -> None:
    made = convert(hard(), output=tmp_path / "b")
    told = [c for c in made.parity["comparisons"] if c["truth"]]
    assert told and {c["truth"] for c in told} == {"float64"}, "the bounds alone would have let it pass"
    worst = max(told, key=lambda c: c["max_error"])
    assert worst["keras_error"] > 1e-4 and worst["max_error"] <= worst["allowed_error"]
    assert made.parity["worst_error"] <= made.parity["tolerance"]["max_error"], "what is told by the truth stands apart"
    assert made.parity["by_truth"]["rows"] and made.parity["by_truth"]["times"] >= 1
    assert "Keras itself loses digits" in (made.path / "README.md").read_text()
    verify(made.path)

    # Any other runtime may be as far off what is stored as verify lets it be, and no further.
    subject = subjects.subject(str(made.path))
    row = replace(plan.rows([subject])[0], runtime="reference")
    vectors = measure._stored(row)
    assert vectors is not None and made.proof.stored

    def off(times: float) -> Callable[[Any, Any], list[Any]]:
        output = numpy_helper.to_array(onnx.load_tensor(str(made.path / "test_data_set_0" / "output_0.pb")))
        return lambda names, feeds: [output + np.float32(times * output.std())]

    within = made.proof.stored.rms_error * 0.9
    assert within > made.parity["tolerance"]["max_error"]
    assert session.check_stored(vectors, off(within), "another runtime")["error"] == pytest.approx(within, rel=0.2)
    with pytest.raises(ParityError, match="another runtime disagrees"):
        session.check_stored(vectors, off(0.2), "another runtime")


@pytest.mark.parametrize("share", [1.02, 0.9])
def test_a_fault_in_a_hard_network_does_not(tmp_path: Path, share: float) -> None:
    def change(proto: onnx.ModelProto) -> None:
        tensor = next(t for t in proto.graph.initializer if len(t.dims) == 2)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(share), tensor.name))

    verdict = judged(hard(), tmp_path, change=change)
    assert not verdict.passed and verdict.reason == "different" and not verdict.agree


def test_what_cannot_be_rebuilt_is_asked_by_rounding(tmp_path: Path) -> None:
    import keras

    class Stubborn(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return keras.ops.cast(x, "float32") * 1.0

    image = keras.Input((8, 8, 3))
    model = keras.Model(image, Stubborn()(keras.layers.Conv2D(2, 3)(image)))
    answers = live.ask(model, [Port("x", (None, 8, 8, 3), "float32")])
    told = truth.teller(model, heads.heads(model), answers)([0, 1], ["conv2d"])
    assert told.how == witness.ROUNDING and set(told.outputs) == {0, 1}
    found = told.outputs[1][0]
    errors = [np.abs(other - found.truth).max() for other in found.others]
    assert len(errors) == 3 and all(0 < e < 1e-5 for e in errors)
    before = [np.array(v) for v in model.variables]
    assert all(np.array_equal(a, np.array(v)) for a, v in zip(before, model.variables))


def test_the_truth_is_in_float64(tmp_path: Path) -> None:
    model = hard()
    answers = live.ask(model, [Port("x", (None, 32, 32, 3), "float32")])
    told = truth.teller(model, heads.heads(model), answers)([2], [])
    (found,) = told.outputs[2]
    assert told.how == witness.FLOAT64 and found.truth.dtype == np.float64 and found.keras.dtype == np.float32
    assert 0 < np.abs(found.truth - found.keras).max() < 0.1


def test_a_run_for_a_layer_ends_with_it() -> None:
    """What is behind the last layer that is asked for is not computed: of a deep network that is half of all."""
    import keras

    ran: list[str] = []

    class Told(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            ran.append(self.name)
            return x + 1.0

    image = keras.Input((4,))
    twice = Told(name="twice")
    model = keras.Model(image, Told(name="last")(twice(Told(name="b")(twice(Told(name="a")(image))))))
    ran.clear()
    x = np.zeros((1, 4), np.float32)
    found = live.layer_outputs(model, [None], [x], {"twice": 2, "a": 1})
    assert ran == ["a", "twice", "b", "twice"] and found["a"][0, 0] == 1 and found["twice"][0, 0] == 4


def test_a_subclassed_model_has_a_truth_in_float64() -> None:
    """A model that cannot be cloned computes in float64 as it stands: no second set of weights, and no guess."""
    import keras

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.dense = keras.layers.Conv2D(4, 3), keras.layers.Dense(5)

        def call(self, x: Any) -> Any:
            return self.dense(keras.ops.mean(self.conv(x), (1, 2)))

    model = Own()
    model(np.zeros((1, 8, 8, 3), np.float32))
    answers = live.ask(model, [Port("x", (None, 8, 8, 3), "float32")])
    told = truth.teller(model, heads.heads(model), answers)([0], list(answers.calls))
    (found,) = told.outputs[0]
    assert told.how == witness.FLOAT64 and 0 < np.abs(found.truth - found.keras).max() < 1e-5
    assert told.layers and all(w.truth.dtype == np.float64 for w in told.layers.values())


def test_an_open_size_is_tried_at_several(tmp_path: Path) -> None:
    """A file that holds for one size only is found out, also where it runs at others."""
    import keras
    from keras import layers

    image = keras.Input((None, None, 3))
    model = keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, padding="same")(image)))
    answers = live.ask(model, [Port("x", (None, None, None, 3), "float32")])
    kinds = [a.case.kinds[0] for a in answers.answers]
    assert {"size 1x1", "size 33x64", "size 37x53"} <= set(kinds)

    def change(proto: onnx.ModelProto) -> None:
        node = next(n for n in proto.graph.node if n.op_type == "GlobalAveragePool")
        node.op_type = "AveragePool"
        node.attribute.append(helper.make_attribute("kernel_shape", [64, 64]))
        node.attribute.append(helper.make_attribute("strides", [1000, 1000]))

    assert judged(model, tmp_path).passed
    verdict = judged(model, tmp_path, change=change)
    assert not verdict.passed and all(c.passed for c in verdict.comparisons if c.kind == "image")
    assert all(c.kind.startswith("size") for c in verdict.comparisons if not c.passed)


def test_a_size_that_the_network_does_not_take_is_left_out() -> None:
    import keras
    from keras import layers

    image = keras.Input((None, None, 3))
    x = layers.Conv2D(2, 3, strides=2, padding="same")(image)
    both = layers.Add()([layers.UpSampling2D(2)(x), layers.Conv2D(2, 1)(image)])  # even sizes, or what is spread
    answers = live.ask(keras.Model(image, both), [Port("x", (None, None, None, 3), "float32")])
    assert {a.case.kinds[0] for a in answers.answers if a.case.kinds[0].startswith("size")} == {
        "size 1x1", "size 160x144"}


def test_the_runtimes_own_fault_is_told_from_the_files(tmp_path: Path) -> None:
    """ONNX Runtime moves a zero Pad into the MaxPool after it, whose padding is minus infinity."""
    x = -1 - np.random.default_rng(0).random((2, 6, 6, 3)).astype(np.float32)
    nodes = [helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]),
             helper.make_node("Pad", ["first", "pads"], ["padded"]),
             helper.make_node("MaxPool", ["padded"], ["pooled"], kernel_shape=[3, 3], strides=[2, 2]),
             helper.make_node("Transpose", ["pooled"], ["y"], perm=[0, 2, 3, 1])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, 6, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "m.onnx")
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.stack([padded[:, i:i + 3, j:j + 3].max((1, 2)) for i in (0, 2, 4) for j in (0, 2, 4)], 1).reshape(2, 3, 3, 3)
    answers = parity.KerasAnswers([parity.CaseAnswer(parity.inputs.Case(("image",) * 2, [x]), [y], [None])])
    ports = (Port("x", (None, 6, 6, 3), "float32"),), (Port("y", (None, 3, 3, 3), "float32"),)
    facts = parity.GraphFacts(*ports, [None])
    told = witness.Truth(witness.FLOAT64, {0: [witness.Witness(y, y.astype(np.float64), (y,))]}, {0: [None]})
    verdict = parity.judge(answers, facts, tmp_path / "m.onnx", tell=lambda cases, layers, calls=None: told)
    assert not verdict.passed and verdict.optimiser == "wrong"


def twins(x: Any, layers: Any) -> Any:
    y = layers.Conv2D(4, 3)(x)
    return layers.Concatenate()([layers.ReLU()(y), layers.Conv2D(2, 1)(layers.ReLU()(y))])


def pooled_twins(x: Any, layers: Any) -> Any:
    y = layers.Conv2D(4, 3)(x)
    one, two = layers.AveragePooling2D(2)(y), layers.AveragePooling2D(2)(y)
    return layers.Add()([layers.Conv2D(2, 1)(one), layers.Conv2D(2, 1)(two)])


def square_argmax(x: Any, layers: Any) -> Any:
    import keras

    return keras.ops.argmax(layers.Conv2D(16, 3, padding="same")(x), axis=-1)


def symmetric(x: Any, layers: Any) -> Any:
    import keras

    return layers.Conv2D(2, 3)(keras.ops.pad(x, ((0, 0), (1, 2), (2, 1), (0, 0)), mode="symmetric"))


def excited(x: Any, layers: Any) -> Any:
    y = layers.Conv2D(4, 3)(x)
    gate = layers.Reshape((1, 1, 4))(layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D()(y)))
    return layers.Conv2D(2, 1)(layers.Multiply()([y, gate]))


def halved(x: Any, layers: Any) -> Any:
    """The last step of this activation, a half, goes into the next convolution; what is before it joins two tensors."""
    return layers.Conv2D(4, 1)(layers.Conv2D(8, 3, activation="squareplus")(x))


def scaled(x: Any, layers: Any) -> Any:
    import keras

    class Joined(keras.layers.Layer):
        def call(self, xs: Any) -> Any:
            return xs[0] + 0.17 * xs[1]

    y = layers.Conv2D(4, 3, padding="same")(x)
    return layers.ReLU()(Joined()([y, layers.Conv2D(4, 1)(y)]))


def excited_hard(x: Any, layers: Any) -> Any:
    """As of MobileNetV3: a scale and a shift of the hard sigmoid go into the convolution before it, on a 1x1 map."""
    x = layers.Conv2D(16, 3, padding="same")(x)
    y = layers.Conv2D(16, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    y = layers.ReLU(6.0)(layers.Rescaling(1.0, 3.0)(y))
    return layers.Conv2D(4, 1)(layers.Multiply()([x, layers.Rescaling(1 / 6)(y)]))


@pytest.mark.parametrize("build", [twins, pooled_twins, square_argmax, symmetric, excited, halved, scaled])
@pytest.mark.parametrize("batch", [None, 1])
def test_no_layer_is_refused_for_where_its_tensor_lies(build: Callable[..., Any], batch: int | None, tmp_path: Path
                                                       ) -> None:
    import keras

    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3))
    made = convert(keras.Model(image, build(image, keras.layers)), batch=batch, output=tmp_path / "b")
    assert all(row["passed"] is not False for row in made.parity["layers"])


@pytest.mark.parametrize("build", [twins, pooled_twins, excited_hard, halved, scaled])
def test_nor_where_float32_loses_digits(build: Callable[..., Any], tmp_path: Path) -> None:
    """What is read elsewhere, scaled or of another shape is judged by the truth too, once outputs are seen to agree."""
    import keras

    keras.utils.set_random_seed(3)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1.0, offset=3e2)(keras.layers.Conv2D(8, 3)(image))
    x = keras.layers.GroupNormalization(2)(x)
    made = convert(keras.Model(image, build(x, keras.layers)), output=tmp_path / "b")
    assert made.parity["by_truth"]["rows"] and all(row["passed"] is not False for row in made.parity["layers"])


@pytest.mark.parametrize("build", [excited, excited_hard])
def test_the_layer_whose_numbers_differ_is_named(build: Callable[..., Any], tmp_path: Path) -> None:
    """Of a squeeze-and-excite the layers before a fault differ in shape alone."""
    import keras

    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, build(image, keras.layers))

    def change(proto: onnx.ModelProto) -> None:
        tensor = [t for t in proto.graph.initializer if len(t.dims) == 4][-1]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))

    verdict = judged(model, tmp_path, change=change)
    assert verdict.first_diverging == model.layers[-1].name


def test_the_message_names_the_bound_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx_ir as ir

    from cnnexport.conversion import write

    real = write.write_model

    def spoilt(model: Any, folder: Path, **options: Any) -> Any:
        weights = next(v for v in model.graph.initializers.values() if len(v.const_value.shape) == 4)
        array = weights.const_value.numpy().copy()
        weights.const_value = ir.tensor(array * np.float32(1.0004), name=weights.name)
        return real(model, folder, **options)

    monkeypatch.setattr(write, "write_model", spoilt)
    import keras

    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3))
    said = r"off by \S+ standard deviations.*, \S+ allowed, Keras itself \S+ from the truth"
    with pytest.raises(ParityError, match=said):
        convert(keras.Model(image, keras.layers.Conv2D(4, 3)(image)), output=tmp_path / "b")


def test_the_largest_error_of_a_layer_may_be_further_off_than_an_outputs() -> None:
    """Of millions of values one is: its root mean square tells more, and keeps its bound."""
    rng = np.random.default_rng(0)
    exact = rng.normal(0, 1, (1, 100_000))
    other = (exact + rng.normal(0, 1e-4, exact.shape)).astype(np.float32)
    ours = other.copy()
    ours[0, 7] += np.float32(4e-3)
    layer, output = (parity.compare("y", level, exact, ours, others=(other,)) for level in ("layer", "output"))
    assert layer.passed and not output.passed and output.failed == "maximum"
    ours += np.float32(1e-3)
    assert not parity.compare("y", "layer", exact, ours, others=(other,)).passed
