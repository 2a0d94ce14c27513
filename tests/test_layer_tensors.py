"""Which tensor of a file holds which layer's output, where names alone do not tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from cnnexport import build, convert


def _own_layer(kind: str) -> Any:
    """A layer with a weight, whose last operator has several outputs of which the first is not the layer's."""
    import keras
    from keras import ops

    class Own(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.factor = self.add_weight(shape=(shape[-1],), initializer="uniform", name="factor")

        def call(self, x: Any) -> Any:
            if kind == "Split":
                return ops.split(x * self.factor, 2, axis=-1)[1]
            return ops.while_loop(
                lambda i, y: i < 4, lambda i, y: (i + 1, y * 0.7 + x * self.factor), (0, ops.zeros_like(x)))[1]

    return Own(name="own")


@pytest.mark.parametrize("kind", ["Split", "Loop"])
def test_an_output_that_is_not_the_first_of_its_node(kind: str, tmp_path: Path) -> None:
    """A right file was refused: of a Loop the counter was taken for the layer's output."""
    import keras

    keras.utils.set_random_seed(1)
    image = keras.Input((8,))
    model = keras.Model(image, keras.layers.Dense(2, name="dense")(_own_layer(kind)(image)))
    made = convert(model, output=tmp_path / "b")
    (row,) = [r for r in made.parity["layers"] if r["layer"] == "own"]
    assert row["passed"] and row["tensor"] == f"own/{kind}:1"


def _foreign(model: Any, place: Path, layout: str) -> Path:
    """The model's file as if of an exporter that names nothing after layers."""
    proto = onnx.load(convert(model, output=place / "bundle", layout=layout).path / "model.onnx")
    kept = {v.name for v in [*proto.graph.input, *proto.graph.output]}
    names: dict[str, str] = {}
    for index, node in enumerate(proto.graph.node):
        node.name = f"node_{index}"
        names |= {name: f"t{index}" for name in node.output if name not in kept}
    for node in proto.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    del proto.graph.value_info[:]
    onnx.save(proto, place / "foreign.onnx")
    return place / "foreign.onnx"


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_another_exporters_layers(layout: str, tmp_path: Path, cnnexport: Any) -> None:
    model = build("lenet5", seed=5)
    model.save(tmp_path / "m.keras")
    file = _foreign(model, tmp_path, layout)
    result = cnnexport("verify", file, "--against", tmp_path / "m.keras", "--layers", "--json")
    assert result.code == 0, result.err
    rows = {row["layer"]: row for row in json.loads(result.out)["against"]["layers"]}
    found = {layer for layer, row in rows.items() if row["reason"] == "matched by its numbers" and row["passed"]}
    assert {"c1", "s2", "c3", "s4", "c5", "f6"} <= found and len({rows[layer]["tensor"] for layer in found}) > 5
    assert "matched by its numbers" in cnnexport("verify", file, "--against", tmp_path / "m.keras", "--layers").out

    # A fault: what lies before it is still found, and nothing after it.
    layer = model.get_layer("c3")
    layer.bias.assign(layer.bias + 0.3)
    model.save(tmp_path / "other.keras")
    result = cnnexport("verify", file, "--against", tmp_path / "other.keras", "--layers", "--json")
    made = json.loads(result.out)["against"]
    rows = {row["layer"]: row for row in made["layers"]}
    assert result.code == 4 and rows["c1"]["passed"] and rows["s2"]["passed"]
    assert {rows[n]["reason"] for n in ("c3", "s4", "c5", "f6")} == {"no tensor holds its numbers"}
    assert all(row["passed"] is not False for row in rows.values())


def test_a_foreign_file_whose_outputs_do_not_show_each_weight(tmp_path: Path, cnnexport: Any) -> None:
    """A convolution before a batch normalisation moves resnet18's outputs too little: its own output shows it."""
    model = build("resnet18", seed=5, input_shape=(64, 64, 3))
    model.save(tmp_path / "m.keras")
    file = _foreign(model, tmp_path, "nchw")
    assert cnnexport("verify", file, "--against", tmp_path / "m.keras").code == 0
    result = cnnexport("verify", file, "--against", tmp_path / "m.keras", "--layers", "--json")
    rows = {row["layer"]: row for row in json.loads(result.out)["against"]["layers"]}
    assert rows["conv1_conv"]["reason"] == "as conv1_bn" and rows["conv1_bn"]["reason"] == "matched by its numbers"


def test_the_layers_of_keras_own_export(tmp_path: Path, cnnexport: Any) -> None:
    model = build("lenet5", seed=5)
    model.save(tmp_path / "m.keras")
    model(np.zeros((1, 32, 32, 1), np.float32))  # Keras exports only what was called
    model.export(tmp_path / "m.onnx", format="onnx", verbose=False)
    result = cnnexport("verify", tmp_path / "m.onnx", "--against", tmp_path / "m.keras", "--layers", "--json")
    assert result.code == 0, result.err
    rows = {row["layer"]: row for row in json.loads(result.out)["against"]["layers"]}
    assert all(rows[layer]["passed"] for layer in ("c1", "s2", "c3", "s4", "c5", "f6"))
