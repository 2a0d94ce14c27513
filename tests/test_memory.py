"""Memory: what is cut into parts answers what the whole does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cnnexport import convert, parity
from cnnexport.keras_files import heads, internals
from cnnexport.parity import exposed, live, sensitivity, streaming, stretches, truth

layers = keras.layers


def network() -> Any:
    """Two outputs, one of them read further; a layer that is used twice, a nested model, residuals."""
    image = keras.Input((16, 16, 3))
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image)
    for index in range(4):
        y = layers.BatchNormalization(name=f"bn{index}")(shared(x) if index in (0, 3) else
                                                         layers.Conv2D(8, 3, padding="same", name=f"conv{index}")(x))
        x = layers.Add(name=f"add{index}")([x, layers.Activation("swish", name=f"swish{index}")(y)])
    inner = keras.Sequential([keras.Input((16, 16, 8)), layers.Conv2D(4, 1, name="inside"), layers.Dropout(0.5)])
    scores = layers.Dense(3, activation="softmax", name="scores")(layers.GlobalAveragePooling2D()(inner(x)))
    return keras.Model(image, [scores, layers.Dense(2, name="more")(scores)])


@pytest.mark.parametrize("least", [1, 1 << 14, 1 << 16])
def test_effects_in_stretches_are_those_of_the_whole(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    images = [np.random.default_rng(0).random((2, 16, 16, 3)).astype("float32")]
    found = heads.heads(model)
    whole = sensitivity.effects(model, found, images)
    parts = stretches.stretches(internals.graph_of(model), 2, least)
    assert len(parts) > 1
    monkeypatch.setattr(sensitivity, "stretches", lambda graph, rows: parts)
    assert sensitivity.effects(model, found, images) == pytest.approx(whole, rel=1e-5)


def test_a_small_network_is_one_stretch_and_a_large_one_is_cut_where_little_lies_between() -> None:
    graph = internals.graph_of(network())
    assert len(stretches.stretches(graph, 1)) == 1
    parts = stretches.stretches(graph, 1, 1 << 15)
    assert [node.operation.name for part in parts for node in part.nodes] == [
        node.operation.name for node in internals.nodes(graph)[1:]]
    assert max(len(part.gives) for part in parts) <= 2


def test_tensors_inside_a_file_come_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of a group, the verdict on layers is the same."""
    model = network()
    whole = convert(model, output=tmp_path / "whole").proof.layers
    opened: list[Any] = []
    own = exposed.Exposed.session

    def session(self: Any, names: Any, **more: Any) -> Any:
        opened.append(names)
        return own(self, names, **more)

    monkeypatch.setattr(exposed.Exposed, "session", session)
    monkeypatch.setattr(exposed, "GROUP_BYTES", 1)
    assert convert(model, output=tmp_path / "parts").proof.layers == whole and len(opened) > 5


@pytest.mark.parametrize("limit", [0, 576])
def test_layers_that_memory_did_not_hold_are_asked_for_where_a_question_is_left(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that no output shows pass where their layer's own tensor shows them, held at first or not.

    That tensor is of the BatchNorm behind it, which memory may not hold where it held the layer's own (576 bytes each).
    """
    image = keras.Input((8, 8, 3))
    faint = layers.Flatten()(layers.BatchNormalization()(layers.Conv2D(4, 3, name="faint")(image)))
    faint = layers.Dense(2, kernel_initializer=keras.initializers.Constant(1e-9))(faint)
    model = keras.Model(image, layers.Add()([layers.Dense(2)(layers.Flatten()(layers.Conv2D(4, 3)(image))), faint]))
    asked = []
    own = streaming.stream_layers

    def stream(*given: Any, **more: Any) -> Any:
        asked.append(more["only"])
        return own(*given, **more)

    monkeypatch.setattr(live, "LAYER_BYTES", limit)
    monkeypatch.setattr(streaming, "stream_layers", stream)
    made = convert(model, output=tmp_path / "b")
    assert made.proof.passed and "faint" in asked[0]
    assert {row["layer"]: row["passed"] for row in made.proof.layers}["faint"]


def test_the_truth_of_streamed_layers_is_that_of_what_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Dropout holds the tensor of the convolution before it, and is itself no layer to refuse for."""
    keras.utils.set_random_seed(3)
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1.0, offset=3e2)(layers.Conv2D(8, 3)(image))
    x = layers.GroupNormalization(2)(x)
    y = layers.Dropout(0.5)(layers.BatchNormalization()(layers.Conv2D(8, 1)(x)))
    faint = layers.Dense(2, kernel_initializer=keras.initializers.Constant(1e-9))(layers.Flatten()(y))
    model = keras.Model(image, layers.Add()([layers.Dense(2)(layers.GlobalMaxPooling2D()(x)), faint]))
    monkeypatch.setattr(live, "LAYER_BYTES", 0)
    made = convert(model, output=tmp_path / "b")
    assert made.parity["by_truth"]["rows"] and all(row["passed"] is not False for row in made.proof.layers)


def test_the_truth_of_many_layers_comes_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    answers = live.ask(model, ports(model), seed=0)
    names = [name for name, call in answers.calls.items() if call.output is not None]
    whole = truth.teller(model, heads.heads(model), answers)([0], names)
    monkeypatch.setattr(truth, "LAYER_BYTES", 1)
    parts = truth.teller(model, heads.heads(model), answers)([0], names)
    assert whole.how == parts.how == "float64" and set(whole.layers) == set(parts.layers) == set(names)
    for name in names:
        assert np.array_equal(whole.layers[name].truth, parts.layers[name].truth)


def test_the_truth_of_a_batch_is_that_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    answers = live.ask(model, ports(model), seed=0)
    assert answers.answers[1].case.batch == 2
    whole = truth.teller(model, heads.heads(model), answers)([1], [])
    monkeypatch.setattr(live, "ROW_BYTES", 1)
    rows = truth.teller(model, heads.heads(model), answers)([1], [])
    for one, other in zip([*whole.outputs[1], *whole.logits[1]], [*rows.outputs[1], *rows.logits[1]]):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_allclose(one.truth, other.truth, rtol=1e-12)


def ports(model: Any) -> Any:
    from cnnexport.conversion.inputs import input_ports

    return input_ports(model)


def test_numbers_are_compared_in_pieces() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(3, 2, (2, 1 << 20)).astype("float32")
    b = a + rng.normal(0, 1e-3, a.shape).astype("float32")
    found = parity.compare("y", "output", a, b)
    wide = np.abs(b.astype(np.float64) - a.astype(np.float64))
    assert found.spread == pytest.approx(float(a.astype(np.float64).std()))
    assert found.max_error * found.spread == pytest.approx(wide.max())
    assert found.rms_error * found.spread == pytest.approx(np.sqrt((wide**2).mean()))
