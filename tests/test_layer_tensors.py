"""Which tensor of a file holds which layer's output, where names alone do not tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnnexport import convert


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
