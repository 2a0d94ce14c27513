"""ONNX files of other makers: what the onnx package ships, and weights that are no initializers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnexport import convert, runtimes
from cnnexport.onnx_file import inspect_onnx
from cnnexport.parity.graph import summed_terms

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
"""The model zoo's networks with weights that ConstantOfShape makes, and what they answer to a ramp."""
MACS_AND_PARAMETERS = {
    "bvlc_alexnet": (654_560_384, 60_965_224), "densenet121": (2_834_161_664, 8_146_152),
    "inception_v1": (1_431_556_352, 6_998_552), "inception_v2": (2_018_851_840, 11_234_792),
    "resnet50": (4_089_184_256, 25_610_153), "shufflenet": (124_664_528, 1_420_152),
    "squeezenet": (349_151_936, 1_235_496), "vgg19": (19_632_062_464, 143_667_240),
    "zfnet512": (1_481_727_008, 87_250_537)}


def light(name: str) -> Path:
    path = LIGHT / f"light_{name}.onnx"
    if not path.is_file():
        pytest.skip("the installed onnx package holds no light models")
    return path


@pytest.mark.parametrize("name", sorted(MACS_AND_PARAMETERS))
def test_networks_of_the_onnx_package(name: str, cnnexport: Any) -> None:
    path = light(name)
    verified = cnnexport("verify", path)
    assert verified.code == 0 and "unverified" in verified.out, verified
    made = json.loads(cnnexport("inspect", path, "--json").out)
    assert (made["macs"], made["parameters"]) == MACS_AND_PARAMETERS[name]
    (given,) = made["inputs"]
    count = int(np.prod(given["shape"]))
    ramp = (np.arange(count).reshape(given["shape"])[::-1] / count).astype(np.float32)
    produced = runtimes.get("ort").open(path).run(None, {given["name"]: ramp})
    for index, answer in enumerate(produced):
        stored = numpy_helper.to_array(onnx.load_tensor(path.with_name(f"light_{name}_output_{index}.pb")))
        np.testing.assert_allclose(answer, stored, rtol=1e-3, atol=1e-7)


def test_bench_of_a_network_of_the_onnx_package(cnnexport: Any) -> None:
    result = cnnexport("bench", light("squeezenet"), "--min-time", "0.05", "--max-time", "4", "--precision-goal", "50%",
                       "--json")
    assert result.code == 0, result.err
    (row,) = json.loads(result.out)["benchmarks"]
    assert row["extra_info"]["limit"]["macs"] == MACS_AND_PARAMETERS["squeezenet"][0]


def _with_weights(nodes: list[Any], stored: list[Any] | None = None) -> onnx.ModelProto:
    """A convolution whose kernel ``w`` (4, 3, 3, 3) comes from ``nodes``."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("Conv", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 6, 6])], stored or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


_SHAPE = np.array([4, 3, 3, 3], np.int64)
_KERNEL = np.ones(_SHAPE, np.float32)


@pytest.mark.parametrize("nodes", [
    [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(_KERNEL))],
    [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(_KERNEL), domain="ai.onnx")],
    [helper.make_node("Constant", [], ["flat"], value_floats=_KERNEL.ravel().tolist()),
     helper.make_node("Reshape", ["flat", "stored"], ["w"])],
    [helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(_SHAPE)),
     helper.make_node("ConstantOfShape", ["s"], ["w"])],
    [helper.make_node("Constant", [], ["s"], value_ints=_SHAPE.tolist()),
     helper.make_node("ConstantOfShape", ["s"], ["w"])],
    [helper.make_node("ConstantOfShape", ["stored"], ["w"])],
    [helper.make_node("Identity", ["stored"], ["s"]), helper.make_node("ConstantOfShape", ["s"], ["w"])],
])
def test_weights_that_are_no_initializers(nodes: list[Any], tmp_path: Path) -> None:
    onnx.save(_with_weights(nodes, [numpy_helper.from_array(_SHAPE, "stored")]), tmp_path / "m.onnx")
    found = inspect_onnx(tmp_path / "m.onnx")
    assert (found.macs, found.parameters) == (36 * 4 * 27, 108)


def test_a_shape_that_its_data_has_not(tmp_path: Path) -> None:
    stored = numpy_helper.from_array(_SHAPE, "stored")
    stored.raw_data = stored.raw_data[:-3]
    onnx.save(_with_weights([helper.make_node("ConstantOfShape", ["stored"], ["w"])], [stored]), tmp_path / "m.onnx")
    assert inspect_onnx(tmp_path / "m.onnx").parameters == 0


def test_the_bound_knows_kernels_in_constants() -> None:
    """Without their lengths it would be that of a network without a product."""
    constant = _with_weights([helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(_KERNEL))])
    assert summed_terms(ir.from_proto(constant).graph) == 27


def _cubes(count: int, size: int) -> Any:
    """A network of images as high and wide as they have channels, with outputs of that kind."""
    import keras

    from cnnexport.architectures.weights import randomise

    images = [keras.Input((size, size, size), name=f"image_{i}") for i in range(count)]
    x = keras.layers.Conv2D(size, 3, padding="same", activation="relu", name="conv")(images[0])
    if count > 1:
        x = keras.layers.Subtract(name="difference")([x, images[1]])
    model = keras.Model(images, x, name="cubes")
    randomise(model, 0)
    return model


@pytest.mark.parametrize("size", [3, 8])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_layouts_that_sizes_do_not_tell_apart(layout: str, size: int, tmp_path: Path, cnnexport: Any) -> None:
    model = _cubes(2, size)
    model.save(tmp_path / "m.keras")
    file = convert(model, output=tmp_path / "b", layout=layout).path / "model.onnx"
    file.rename(tmp_path / "m.onnx")
    result = cnnexport("verify", tmp_path / "m.onnx", "--against", tmp_path / "m.keras")
    assert result.code == 0, result


def test_layouts_of_open_sizes(tmp_path: Path, cnnexport: Any) -> None:
    """Three channels first fit an image three pixels high."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image)))
    model.save(tmp_path / "m.keras")
    file = convert(model, output=tmp_path / "b", layout="nchw").path / "model.onnx"
    file.rename(tmp_path / "m.onnx")
    result = cnnexport("verify", tmp_path / "m.onnx", "--against", tmp_path / "m.keras")
    assert result.code == 0, result


def test_a_faulty_file_is_reported_in_the_better_layout(tmp_path: Path, cnnexport: Any) -> None:
    model = _cubes(1, 8)
    file = convert(model, output=tmp_path / "b", layout="nchw").path / "model.onnx"
    file.rename(tmp_path / "m.onnx")
    kernel = model.get_layer("conv").kernel
    kernel.assign(kernel.numpy() * np.where(np.arange(8) == 2, 1.1, 1.0))
    model.save(tmp_path / "m.keras")
    result = cnnexport("verify", tmp_path / "m.onnx", "--against", tmp_path / "m.keras", "--json")
    made = json.loads(result.out)["against"]
    image = next(c for c in made["comparisons"] if c["kind"] == "image")
    assert result.code == 4 and not made["passed"] and image["rms_error"] < 0.1, "in the other it is about 1"


def test_outputs_in_another_order(tmp_path: Path, cnnexport: Any) -> None:
    """The names tell which is which, also of what lies before the activations."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((6,))
    ends = [keras.layers.Dense(3, activation="softmax", name=name)(image) for name in ("left", "right")]
    model = keras.Model(image, ends)
    model.save(tmp_path / "m.keras")
    proto = onnx.load(convert(model, output=tmp_path / "b").path / "model.onnx")
    outputs = list(proto.graph.output)[::-1]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    onnx.save(proto, tmp_path / "m.onnx")
    result = cnnexport("verify", tmp_path / "m.onnx", "--against", tmp_path / "m.keras")
    assert result.code == 0, result
