"""The comparison sees small faults and forgives rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnexport import parity
from cnnexport.conversion import Port
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
    numeric = parity.Numeric(parity.tolerance())

    def record(*comparisons: parity.Comparison) -> Any:
        found = parity.Verdict(comparisons)
        return parity.record(replace(found, reason=numeric.refuses(found)), sha256="0" * 64, versions={}, seed=1)

    assert not record(good, bad).passed and record(good, bad).worst_error is None
    assert record(good).passed
    assert not record().passed, "nothing compared is nothing proven"


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
               ) -> tuple[parity.KerasAnswers, parity.GraphFacts]:
    ports = (Port("input", (None, 4), "float32"),), (Port("probabilities", (None, 4), "float32"),)
    answers = [parity.CaseAnswer(Case(("image",) * len(a), [a]), [y], [z]) for a, y, z in zip(x, outputs, logits)]
    return parity.KerasAnswers(answers), parity.GraphFacts(*ports, [parity.LogitsTensor(tensor) if tensor else None])


def test_logits_inside_the_file_are_compared(tmp_path: Path) -> None:
    """A constant added to all logits is invisible in the probabilities."""
    import onnx_ir as ir

    path = tmp_path / "model.onnx"
    _softmax_model(path, 1.0)
    assert parity.logits_tensors(ir.load(path).graph.outputs, ["softmax"]) == [parity.LogitsTensor("inner")]
    assert parity.logits_tensors(ir.load(path).graph.outputs, [None]) == [None]
    x = [RNG.normal(size=(n, 4)).astype(np.float32) for n in (1, 2, 5)]
    y = [np.exp(a) / np.exp(a).sum(-1, keepdims=True) for a in x]
    for shift, passed in ((np.float32(0), True), (np.float32(0.5), False)):
        verdict = parity.judge(*_reference(x, y, [a + shift for a in x], "inner"), path)
        assert verdict.passed is passed
        assert {(r.level, r.batch) for r in verdict.comparisons} == {
            (lv, b) for lv in ("logits", "output") for b in (1, 2, 5)}
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_unknown_softmax_is_compared_by_its_logarithm(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    _softmax_model(path, 1.001)
    x = [RNG.normal(size=(5, 4)).astype(np.float32)]
    y = [np.exp(a) / np.exp(a).sum(-1, keepdims=True) for a in x]
    verdict = parity.judge(*_reference(x, y, [None], None), path)
    assert {r.level for r in verdict.comparisons} == {"log-probabilities", "output"} and not verdict.passed


def _network(dead: bool) -> Any:
    import keras

    from cnnexport.architectures.weights import randomise

    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = layers.Conv2D(4, 3, activation="relu", name="second")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(5, activation="softmax", name="kind")(x), name="net")
    randomise(model, 0)
    if dead:  # every unit below zero: the ReLU answers 0 whatever comes
        model.get_layer("second").bias.assign(np.full(4, -1e3, np.float32))
    return model


def test_a_network_with_a_dead_layer_is_refused_as_insensitive(tmp_path: Path) -> None:
    """Outputs agree, but they would agree with any first layer."""
    import json

    from cnnexport import convert
    from cnnexport.errors import ParityError

    with pytest.raises(ParityError, match=r"insensitive: a change of the weights of 'second'"):
        convert(_network(dead=True), output=tmp_path / "dead")
    record = json.loads((tmp_path / "dead.rejected" / "parity.json").read_text())
    assert record["reason"] == "insensitive" and record["passed"] is False
    assert all(c["passed"] for c in record["comparisons"])
    # The first convolution is dead to the outputs too, but its own output is compared.
    first = next(r for r in record["sensitivity"]["layers"] if r["layer"] == "conv")
    assert not first["seen"] and first["covered"]


def _faint(*, dead: bool = False, share: float = 1e-7) -> Any:
    """Normalisations that are folded forward, and back through a concatenation; the output shows a ``share``."""
    import keras

    from cnnexport.architectures.weights import randomise

    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.BatchNormalization(name="first_norm")(image)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Concatenate(name="beside")([layers.Conv2D(2, 3, name="left")(x), layers.Conv2D(3, 3, name="right")(x)])
    x = layers.ReLU(name="bent")(layers.BatchNormalization(name="joined")(x))
    x = layers.Flatten(name="flat")(layers.BatchNormalization(name="last_norm")(x))
    faint = layers.Dense(5, activation="relu", name="faint")(x)
    loud = layers.Dense(5, name="loud")(layers.GlobalAveragePooling2D(name="pool")(image))
    model = keras.Model(image, layers.Add(name="sum")([loud, layers.Dense(5, name="quiet")(faint)]))
    randomise(model, 0)
    quiet = model.get_layer("quiet")
    quiet.kernel.assign(quiet.kernel * share)
    if dead:
        model.get_layer("faint").bias.assign(np.full(5, -1e3, np.float32))
    return model


def test_what_is_folded_forward_is_covered_by_the_layer_that_takes_it_in(tmp_path: Path) -> None:
    import json

    from cnnexport import convert

    convert(_faint(), output=tmp_path / "faint")
    record = json.loads((tmp_path / "faint" / "parity.json").read_text())
    told = {r["layer"]: (r["seen"], r["covered"]) for r in record["sensitivity"]["layers"]}
    for name in ("first_norm", "norm", "left", "right", "joined", "last_norm"):
        assert told[name] == (False, True), name


def test_what_is_folded_into_a_dead_layer_is_not_covered(tmp_path: Path) -> None:
    from cnnexport import convert
    from cnnexport.errors import ParityError

    with pytest.raises(ParityError, match=r"insensitive: .*'last_norm'"):
        convert(_faint(dead=True), output=tmp_path / "dead")


@pytest.mark.parametrize("place", [0, 1])
def test_a_fault_in_what_is_folded_forward_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """The outputs show nothing of it: the layer that takes it in does."""
    import json

    from cnnexport import convert
    from cnnexport.conversion.passes import fold_forward
    from cnnexport.errors import ParityError

    right = fold_forward._composed

    def wrong(steps: Any) -> Any:
        found = [a.copy() for a in right(steps)]
        found[place][0] += 0.02
        return tuple(found)

    monkeypatch.setattr(fold_forward, "_composed", wrong)
    with pytest.raises(ParityError, match="inside the network, first in layer 'conv'"):
        convert(_faint(), output=tmp_path / "wrong")
    record = json.loads((tmp_path / "wrong.rejected" / "parity.json").read_text())
    assert all(c["passed"] for c in record["comparisons"]) and record["reason"] == "different"


def test_a_fault_that_outputs_show_is_named_beside_what_is_folded_forward(tmp_path: Path) -> None:
    """No layer is named whose tensor merely holds other numbers since a normalisation was folded out of it."""
    import onnx
    from onnx import numpy_helper

    from cnnexport.conversion import convert_model
    from cnnexport.conversion.write import write_model
    from cnnexport.parity import live

    model = _faint(share=1)
    converted = convert_model(model, output_names=["y"])
    write_model(converted.model, tmp_path)
    answers = live.ask(model, converted.inputs)
    facts = parity.graph_facts(converted.model, converted.inputs, converted.outputs, answers.activations)
    assert parity.judge(answers, facts, tmp_path / "model.onnx").passed
    named = {}
    for layer in ("conv", "left", "right", "faint", "quiet"):
        proto = onnx.load(tmp_path / "model.onnx")
        kernel = next(t for t in proto.graph.initializer if t.name == f"{layer}/kernel")
        kernel.CopyFrom(numpy_helper.from_array(1.2 * numpy_helper.to_array(kernel), kernel.name))
        onnx.save(proto, tmp_path / "wrong.onnx")
        verdict = parity.judge(answers, facts, tmp_path / "wrong.onnx")
        assert not verdict.agree, layer
        named[layer] = verdict.first_diverging
    # Both halves have one tensor: that of the concatenation, which holds what is normalised behind it.
    assert named == {"conv": "conv", "left": "beside", "right": "beside", "faint": "faint", "quiet": "quiet"}


@pytest.mark.parametrize(("nodes", "other", "tensor", "reason"), [
    ("a/Conv", None, "a/Conv", ""),
    ("a/Conv a/Relu", None, None, "in the layer after it"),
    ("a/MatMul a/Add", None, "a/Add", ""),
    ("b/Conv a/Add", None, None, "in the layer after it"),  # a sum of two, which has no weights
    ("a/Conv", "a", None, "in the layer after it"),  # what others read too takes nothing in
    ("b/Conv a/Concat", None, "a/Concat", ""),
    ("b/Conv b/Relu a/Concat", None, None, "in the layer after it"),
    ("b/Conv a/Concat", "b", None, "in the layer after it"),
])
def test_where_a_layer_without_nodes_lies(nodes: str, other: str | None, tensor: str | None, reason: str) -> None:
    from cnnexport.parity.layers import Call, layer_tensors

    made = nodes.split()
    calls = {"b": Call("b", "Conv2D", 1, (1, 4)), "a": Call("a", "Any", 1, (1, 4), source="b", sources=("b",)),
             "norm": Call("norm", "BatchNormalization", 1, (1, 4), source="a", sources=("a",), weighted=True),
             "drop": Call("drop", "Dropout", 1, (1, 4), source="norm", sources=("norm",), identity=True)}
    calls["a"].weighted = "MatMul" in nodes
    if other:
        calls["other"] = Call("other", "Conv2D", 1, (1, 4), source=other, sources=(other,))
    rows = {r.layer: r for r in layer_tensors(calls, [(n, n.rpartition("/")[2], [n]) for n in [*made, "other/Conv"]])}
    assert (rows["norm"].tensor, rows["norm"].reason) == (tensor, reason)
    # What changes nothing shares its place, and a half of a Concat that is scaled as a whole has none of its own.
    assert (rows["drop"].tensor, rows["drop"].reason) == (tensor, reason)
    if tensor == "a/Concat":
        assert (rows["b"].tensor, rows["b"].reason) == (None, "scaled for the layer after it")


@pytest.mark.parametrize(("passed", "reason", "alive", "covered"), [
    (True, "", True, True), (None, "in the layer after it", True, True), (None, "called 2 times", True, False),
    (False, "in the layer after it", True, False), (None, "in the layer after it", False, False),
])
def test_what_covers_a_layer(passed: bool | None, reason: str, alive: bool, covered: bool) -> None:
    from cnnexport.parity.layers import Call, LayerComparison, LayerTensor, covered_layers

    calls = {"a": Call("a", "Any", alive=True), "b": Call("b", "Any", sources=("a",), alive=alive)}
    rows = [LayerTensor(name, "Any", name, name) for name in calls]
    results = [LayerComparison("a", "Any", None, None, None, None, None, passed, reason),
               LayerComparison("b", "Any", "b", None, 0, 0, 0, True)]
    assert ("a" in covered_layers(rows, results, calls)) == covered
    # Nothing behind it that would show a change of it.
    assert ("a" in covered_layers(rows, results[:1], {"a": calls["a"]})) == (passed is True)


def test_a_refusal_is_in_the_json(tmp_path: Path, cnnexport: Any) -> None:
    import json

    _network(dead=True).save(tmp_path / "dead.keras")
    result = cnnexport("convert", tmp_path / "dead.keras", "-o", tmp_path / "made", "--json")
    made = json.loads(result.out)
    assert result.code == made["exit_code"] == 4 and not made["passed"] and made["error"].startswith("insensitive")
    rejected = tmp_path / "made.rejected" / "model.onnx"
    again = cnnexport("verify", rejected, "--against", tmp_path / "dead.keras", "--json")
    assert again.code == 4 and json.loads(again.out)["against"]["insensitive"] == ["second"]


def test_sensitivity_predicts_what_a_perturbation_does() -> None:
    """The estimate from one backward pass against changed weights, run for real."""
    import keras

    from cnnexport.keras_files import heads
    from cnnexport.parity import live, sensitivity

    model = _network(dead=False)
    x = [np.random.default_rng(2).uniform(-1, 1, (8, 12, 12, 3)).astype(np.float32)]
    found = heads.heads(model)
    effects = {k: np.mean([(sensitivity.effects(model, found, x, seed=s)[k] or 0.0) ** 2 for s in range(20)]) ** 0.5
               for k in ("conv", "second", "kind")}

    def logits() -> Any:
        return live.run(model, found, x).logits[0]

    before = logits()
    rng = np.random.default_rng(3)
    for name, predicted in effects.items():
        layer, moved = model.get_layer(name), []
        kept = layer.get_weights()
        for _ in range(60):
            layer.set_weights([w + sensitivity.PERTURBATION * np.sqrt(np.mean(w**2)) * rng.normal(size=w.shape)
                               for w in kept])
            moved.append(np.mean((logits() - before) ** 2))
        layer.set_weights(kept)
        assert np.sqrt(np.mean(moved)) / before.std() == pytest.approx(predicted, rel=0.35), name
    assert keras.backend.backend() == "tensorflow"


def test_a_graph_answers_bit_for_bit_what_keras_does(trained_cnn: Any) -> None:
    """Also for NaNs, for any batch, and where the model makes no graph."""
    import keras
    import tensorflow as tf

    from cnnexport.keras_files import heads
    from cnnexport.parity import live

    class Odd(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * float(tf.reduce_sum(x).numpy() > 0)

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    image = keras.Input((4, 4, 1))
    odd = keras.Model(image, Odd()(image))
    for model, graphs in ((trained_cnn, 1), (odd, 0)):
        shape = model.input_shape[1:]
        found = heads.heads(model)
        before = tf.config.optimizer.get_experimental_options()
        ports = [Port("x", (None, *shape), "float32")]
        like = [np.zeros((1, *shape), np.float32)]
        ask = live.traced(model, found, live.run(model, found, like).outputs, like, ports, fixed=False)
        assert graphs == ("graph" in ask.__code__.co_freevars)
        for batch in (1, 2, 5):
            x = np.random.default_rng(batch).uniform(0, 255, (batch, *shape)).astype(np.float32)
            x[0, 0, 0, 0] = np.nan if batch == 5 else 1.0
            expected, answer = live.run(model, found, [x]), ask([x])
            for one, other in zip([*expected.outputs, *expected.logits], [*answer.outputs, *answer.logits]):
                if one is None or other is None:
                    assert one is other
                else:
                    np.testing.assert_array_equal(one, other)
        assert tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False) == before.get(
            "disable_meta_optimizer", False)


def test_cases_hold_every_kind() -> None:
    ports = [Port("input", (None, 8, 8, 3), "float32")]
    made = parity.cases(ports, seed=1, value_range=(0.0, 255.0), macs=1000)
    assert [c.batch for c in made] == [1, 2, 11, 64, 3]
    rows = {kind: c.inputs[0][i] for c in made for i, kind in enumerate(c.kinds)}
    assert set(rows) >= {"image", "noise", "zeros", "impulse", "low edge", "high edge", "checkered", "ties",
                         "ones in channel 0", "ones in channel 2", "not a number", "infinity", "minus infinity"}
    assert not rows["zeros"].any() and np.count_nonzero(rows["impulse"]) == 1 and (rows["high edge"] == 255).all()
    assert np.isnan(rows["not a number"]).sum() == 1 and rows["ones in channel 2"].sum() == 64
    assert set(np.unique(rows["checkered"])) == {0, 255}
    windows = rows["ties"].reshape(4, 2, 4, 2, 3)
    assert (windows == windows[:, :1, :, :1]).all()
    fixed = parity.cases(ports, batch=4)
    assert {c.batch for c in fixed} == {4} and {k for c in fixed for k in c.kinds} >= {"ties", "infinity"}


def test_tolerance_grows_with_depth_and_stays_bounded() -> None:
    small, deep, deepest = (parity.tolerance("float32", n) for n in (800, 55_000, 10**9))
    assert small.max_error < deep.max_error < deepest.max_error == parity.MAX_ERROR["float32"]
    assert deep.rms_error < deep.max_error and deep.terms == 55_000


def test_numbers_that_are_lost_must_be_lost_on_both_sides() -> None:
    from cnnexport.parity.gate import _forgiven

    lost = np.array([[np.nan, 1, 3], [1, 2, 3]], np.float32)
    whole = np.array([[2, 1, 3], [1, 2, 3]], np.float32)
    farther = np.array([[np.nan, np.inf, 3], [1, 2, 3]], np.float32)
    off = np.array([[np.nan, 1, 3.5], [1, 2, 3]], np.float32)

    def passed(expected: np.ndarray, actual: np.ndarray, *undefined: str) -> bool:
        return parity.compare("y", "output", *_forgiven(expected, actual, frozenset(undefined))).passed

    assert passed(lost, lost)
    for a, b in ((lost, whole), (whole, lost), (lost, farther), (lost, off)):
        assert not passed(a, b), "every place counts where all operators agree on a NaN"
    # A maximum may drop a NaN in one window and not in another, and what follows differs.
    for a, b in ((whole, lost), (lost, farther), (lost, off)):
        assert passed(a, b, "MaxPool")
    assert not passed(lost, whole, "MaxPool") and passed(lost, whole, "MaxPool", "GlobalMaxPool")


def test_operators_without_a_defined_answer_are_found_before_the_output(tmp_path: Path) -> None:
    import onnx_ir as ir

    from cnnexport.parity.graph import undefined_operators

    path = tmp_path / "model.onnx"
    _softmax_model(path, 1.0)
    graph = ir.load(path).graph
    assert undefined_operators(graph.outputs[0]) == {"Softmax"}
    assert undefined_operators(graph[0].outputs[0]) == frozenset()


def _odd_network() -> object:
    """What is folded where: scales behind Dense and convolutions, operations, branches, max pooling of a NaN."""
    import keras

    from cnnexport.architectures.weights import randomise

    keras.backend.clear_session()  # operations are numbered after those made before
    layers = keras.layers
    image = keras.Input((21, 17, 5))
    a = layers.SeparableConv2D(8, 3, padding="same", activation="relu", name="separable")(image)
    b = layers.Conv2D(8, 3, dilation_rate=2, padding="same", name="dilated")(image)
    b = b * np.linspace(0.5, 2, 8, dtype=np.float32) + 0.5  # operations, folded into the convolution
    x = layers.Concatenate(name="joined")([a, b])
    x = layers.AveragePooling2D(3, 2, padding="same", name="average")(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="leaky_relu", name="larger")(x)
    x = layers.LayerNormalization(name="normalised")(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name="maximum")(x)
    mask = layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x)
    kind = layers.Dense(4, name="dense")(layers.GlobalMaxPooling2D(name="global")(x))
    kind = layers.Softmax(name="kind")(layers.Rescaling(100.0, offset=3.0, name="scaled")(kind))
    model = keras.Model(image, [kind, mask], name="odd")
    randomise(model, 3)
    return model


def test_no_false_alarm_on_an_odd_network(tmp_path: Path) -> None:
    from cnnexport import convert

    made = convert(_odd_network(), output=tmp_path / "odd")
    layers = {row["layer"]: row for row in made.parity["layers"]}
    assert layers["dense"]["tensor"] == layers["scaled"]["tensor"] and layers["dense"]["reason"] == "as scaled"
    assert layers["multiply"]["reason"] == "as add" and layers["dilated"]["passed"] and layers["add"]["passed"]
    assert {row["layer"] for row in made.parity["sensitivity"]["layers"] if not row["covered"]} == set()


def test_agreement_of_the_first_five() -> None:
    other = LOGITS.copy()
    other[0, LOGITS[0].argmin()] = 100
    result = parity.compare("y", "logits", LOGITS, other)
    assert result.top1_agreement == 0.8 and result.top5_agreement == 0.8 and result.max_ulps > 1e6
