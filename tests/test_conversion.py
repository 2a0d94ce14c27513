"""A small network converts without weights, folds whole, and computes what Keras computes."""

from collections import Counter

import numpy as np
import pytest


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_small_network(tmp_path, layout):
    import keras
    import onnx
    import onnxruntime

    from cnnexport.conversion import convert_model
    from cnnexport.conversion.write import write_model

    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(5, 3, name="conv"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.ReLU(name="relu"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(4, name="dense"),
    ])
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    files = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        converted = convert_model(model, output_names=["logits"], layout=layout)
        files += write_model(converted.model, tmp_path / run)
    assert files[0].sha256 == files[1].sha256
    path = tmp_path / "a" / "model.onnx"
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    count = Counter(node.op_type for node in proto.graph.node)
    transposes = {"Transpose": 1} if layout == "nhwc" else {}
    assert count == {"Conv": 1, "Relu": 1, "Flatten": 1, "Gemm": 1} | transposes
    x = rng.normal(size=(3, 8, 8, 3)).astype("float32")
    expected = model.predict(x, verbose=0)
    fed = x if layout == "nhwc" else x.transpose(0, 3, 1, 2)
    actual = onnxruntime.InferenceSession(path).run(None, {"input": fed})[0]
    assert np.abs(actual - expected).max() < 1e-5 * expected.std()


def test_a_free_name() -> None:
    from cnnexport.text import free_name

    assert free_name("a", {"b"}) == "a" and free_name("a", ["a", "a_1", "a_3"]) == "a_2"


@pytest.mark.parametrize(("logits", "own", "dropped"), [
    (False, True, False), (True, True, True), (True, False, False), (False, False, False)])
def test_which_heads_are_left_out(logits: bool, own: bool, dropped: bool) -> None:
    """Decided once, for the conversion, for who tells the truth, and for verify --against."""
    import keras

    from cnnexport.keras_files import heads

    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(image))
    with heads.ended(model, logits=logits, own=own) as ending:
        assert ending.dropped is dropped and [h is None for h in ending.kept] == [dropped]
        assert (model.layers[-1].activation is keras.activations.linear) is dropped
    assert model.layers[-1].activation is keras.activations.softmax
