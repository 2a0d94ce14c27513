"""Faults planted in converted models: what an exporter, a hand or a bit can get wrong.

Each kind takes a model and yields faults that change what it computes; those that cannot are ``EQUIVALENT``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Change = Callable[["Editor"], None]


@dataclass(frozen=True)
class Mutant:
    """One fault: its kind, the Keras layer it lies in, and what it does to a copy of the model."""

    kind: str
    layer: str
    what: str
    change: Change


class Editor:
    """An ONNX model with its initializers and attributes by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._stored = {t.name: t for t in model.graph.initializer}

    def array(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self._stored[name])

    def has(self, name: str) -> bool:
        return name in self._stored

    def put(self, name: str, array: np.ndarray) -> None:
        self._stored[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def node(self, name: str) -> onnx.NodeProto:
        return next(n for n in self.model.graph.node if n.name == name)

    def attribute(self, name: str, key: str, default: Any = None) -> Any:
        found = next((a for a in self.node(name).attribute if a.name == key), None)
        return default if found is None else helper.get_attribute_value(found)

    def set(self, name: str, key: str, value: Any) -> None:
        node = self.node(name)
        kept = [a for a in node.attribute if a.name != key]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(key, value)])


def _layer(node: onnx.NodeProto) -> str:
    return node.name.rpartition("/")[0]


def _nodes(editor: Editor, *kinds: str) -> list[onnx.NodeProto]:
    return [n for n in editor.model.graph.node if n.op_type in kinds]


def _kernels(editor: Editor, *kinds: str) -> Iterator[tuple[onnx.NodeProto, str, np.ndarray]]:
    for node in _nodes(editor, *kinds):
        if len(node.input) > 1 and editor.has(node.input[1]):
            yield node, node.input[1], editor.array(node.input[1])


def _on_kernel(kind: str, *operators: str) -> Any:
    """Make a kind out of ``change(kernel, node) -> kernel`` (None: does not apply)."""

    def decorate(change: Callable[[np.ndarray, onnx.NodeProto], np.ndarray | None]) -> Any:
        def find(editor: Editor, model: Any) -> Iterator[Mutant]:
            for node, name, kernel in _kernels(editor, *operators):
                made = change(kernel, node)
                if made is None or np.array_equal(made, kernel):
                    continue
                yield Mutant(kind, _layer(node), f"{name}: {change.__doc__}",
                             lambda e, name=name, made=made: e.put(name, made))

        KINDS[kind] = find
        return find

    return decorate


KINDS: dict[str, Callable[[Editor, Any], Iterator[Mutant]]] = {}


@_on_kernel("kernel transposed", "Conv")
def _transposed(kernel: np.ndarray, node: onnx.NodeProto) -> np.ndarray | None:
    """height and width exchanged"""
    return kernel.swapaxes(2, 3) if kernel.ndim == 4 and kernel.shape[2] == kernel.shape[3] > 1 else None


@_on_kernel("channels swapped", "Conv")
def _channels(kernel: np.ndarray, node: onnx.NodeProto) -> np.ndarray | None:
    """the first and the last input channel exchanged"""
    if kernel.shape[1] < 2:
        return None
    order = [kernel.shape[1] - 1, *range(1, kernel.shape[1] - 1), 0]
    return kernel[:, order]


@_on_kernel("filters swapped", "Conv")
def _filters(kernel: np.ndarray, node: onnx.NodeProto) -> np.ndarray | None:
    """the first and the last filter exchanged, their biases not"""
    return None if len(kernel) < 2 else kernel[[len(kernel) - 1, *range(1, len(kernel) - 1), 0]]


@_on_kernel("groups mixed", "Conv")
def _groups(kernel: np.ndarray, node: onnx.NodeProto) -> np.ndarray | None:
    """the filters of the first and the second group exchanged"""
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if groups < 2:
        return None
    size = len(kernel) // groups
    return np.concatenate([kernel[size:2 * size], kernel[:size], kernel[2 * size:]])


@_on_kernel("sign of one weight", "Conv", "Gemm")
def _sign(kernel: np.ndarray, node: onnx.NodeProto) -> np.ndarray | None:
    """the largest weight negated"""
    made = kernel.copy()
    made.flat[np.abs(kernel).argmax()] *= -1
    return made


@_on_kernel("dense kernel transposed", "Gemm")
def _dense(kernel: np.ndarray, node: onnx.NodeProto) -> np.ndarray | None:
    """stored in the other order under the same shape"""
    return kernel.reshape(kernel.shape[::-1]).T if min(kernel.shape) > 1 else None


@_on_kernel("kernel scaled", "Conv")
def _scaled(kernel: np.ndarray, node: onnx.NodeProto) -> np.ndarray | None:
    """every weight 0.5 % too large"""
    return kernel * np.float32(1.005)


def _kind(name: str) -> Any:
    def decorate(find: Any) -> Any:
        KINDS[name] = find
        return find

    return decorate


@_kind("bias dropped")
def _bias(editor: Editor, model: Any) -> Iterator[Mutant]:
    for node in _nodes(editor, "Conv", "Gemm"):
        if len(node.input) > 2 and editor.has(node.input[2]) and editor.array(node.input[2]).any():
            yield Mutant("bias dropped", _layer(node), f"{node.input[2]}: zeros",
                         lambda e, name=node.input[2]: e.put(name, np.zeros_like(e.array(name))))


@_kind("rows of the last layer")
def _rows(editor: Editor, model: Any) -> Iterator[Mutant]:
    for node, name, kernel in list(_kernels(editor, "Gemm"))[-1:]:
        turned = next((a.i for a in node.attribute if a.name == "transB"), 0)
        count = kernel.shape[0 if turned else 1]
        for a, b in ((0, 1), (count // 2, count - 1)):
            order = list(range(count))
            order[a], order[b] = order[b], order[a]

            def change(
                e: Editor, name: str = name, bias: str = node.input[2], order: list[int] = order, turned: int = turned
            ) -> None:
                kernel = e.array(name)
                e.put(name, kernel[order] if turned else kernel[:, order])
                e.put(bias, e.array(bias)[order])

            yield Mutant("rows of the last layer", _layer(node), f"classes {a} and {b} exchanged", change)


@_kind("flatten order")
def _flatten(editor: Editor, model: Any) -> Iterator[Mutant]:
    layers = {layer.name: layer for layer in model.layers}
    flat = next((layer for layer in model.layers if type(layer).__name__ == "Flatten"), None)
    if flat is None:
        return
    height, width, channels = flat.input.shape[1:]
    reader = flat._outbound_nodes[0].operation.name
    for node, name, kernel in _kernels(editor, "Gemm"):
        if _layer(node) == reader and reader in layers and height * width > 1 and channels > 1:
            turned = next((a.i for a in node.attribute if a.name == "transB"), 0)

            def change(e: Editor, name: str = name, turned: int = turned) -> None:
                order = np.arange(height * width * channels).reshape(channels, height, width)
                places = order.transpose(1, 2, 0).reshape(-1)
                kernel = e.array(name)
                e.put(name, kernel[:, places] if turned else kernel[places])

            yield Mutant("flatten order", reader, "columns in NHWC order", change)


@_kind("padding side")
def _padding(editor: Editor, model: Any) -> Iterator[Mutant]:
    for node in _nodes(editor, "Conv", "MaxPool", "AveragePool"):
        pads = editor.attribute(node.name, "pads")
        if not pads or not any(pads):
            continue
        half = len(pads) // 2
        made = list(pads)
        # One pixel from the side that has one to the other: the size stays.
        at = next(i for i in range(len(pads)) if pads[i])
        made[at] -= 1
        made[(at + half) % len(pads)] += 1
        yield Mutant("padding side", _layer(node), f"pads {list(pads)} -> {made}",
                     lambda e, name=node.name, made=made: e.set(name, "pads", made))


@_kind("padding VALID")
def _valid(editor: Editor, model: Any) -> Iterator[Mutant]:
    for node in _nodes(editor, "Conv"):
        pads = editor.attribute(node.name, "pads")
        kernel = editor.array(node.input[1]) if editor.has(node.input[1]) else None
        if pads and all(pads) and kernel is not None:
            none = [0] * len(pads)
            yield Mutant("padding VALID", _layer(node), f"pads {list(pads)} -> none",
                         lambda e, name=node.name, none=none: e.set(name, "pads", none))


@_kind("stride moved")
def _stride(editor: Editor, model: Any) -> Iterator[Mutant]:
    convolutions = {_layer(n): n.name for n in _nodes(editor, "Conv")}
    for layer, name in convolutions.items():
        after = convolutions.get(layer.replace("_1_conv", "_2_conv")) if layer.endswith("_1_conv") else None
        if after is None or list(editor.attribute(name, "strides", [1, 1])) != [2, 2]:
            continue

        def change(e: Editor, name: str = name, after: str = after) -> None:
            e.set(name, "strides", [1, 1])
            e.set(after, "strides", [2, 2])

        yield Mutant("stride moved", layer, "from the first convolution of the block to the second", change)
    for node in _nodes(editor, "MaxPool", "AveragePool"):
        strides = list(editor.attribute(node.name, "strides", [1, 1]))
        if strides == [2, 2] and not _one_window(model, _layer(node)):
            yield Mutant("stride moved", _layer(node), "2 to 3",
                         lambda e, name=node.name: e.set(name, "strides", [3, 3]))


def _one_window(model: Any, layer: str) -> bool:
    """Whether a pooling gives one value a channel, whatever its stride."""
    return tuple(model.get_layer(layer).output.shape[1:3]) == (1, 1)


@_kind("activation changed")
def _activation(editor: Editor, model: Any) -> Iterator[Mutant]:
    others = {"Relu": "LeakyRelu", "Tanh": "Softsign", "Sigmoid": "HardSigmoid"}
    for node in _nodes(editor, *others):
        def change(e: Editor, name: str = node.name, other: str = others[node.op_type]) -> None:
            e.node(name).op_type = other

        yield Mutant("activation changed", _layer(node), f"{node.op_type} -> {others[node.op_type]}", change)


@_kind("pooling changed")
def _pooling(editor: Editor, model: Any) -> Iterator[Mutant]:
    for node in _nodes(editor, "MaxPool", "AveragePool"):
        def change(e: Editor, name: str = node.name) -> None:
            found = e.node(name)
            found.op_type = "AveragePool" if found.op_type == "MaxPool" else "MaxPool"
            kept = [a for a in found.attribute if a.name not in ("count_include_pad", "storage_order")]
            del found.attribute[:]
            found.attribute.extend(kept)

        yield Mutant("pooling changed", _layer(node), "maximum <-> average", change)


@_kind("average with padding")
def _include(editor: Editor, model: Any) -> Iterator[Mutant]:
    for node in _nodes(editor, "AveragePool"):
        pads = editor.attribute(node.name, "pads", [])
        if any(pads):
            own = editor.attribute(node.name, "count_include_pad", 0)
            yield Mutant("average with padding", _layer(node), f"count_include_pad {own} -> {1 - own}",
                         lambda e, name=node.name, own=own: e.set(name, "count_include_pad", 1 - own))


@_kind("LRN constants")
def _lrn(editor: Editor, model: Any) -> Iterator[Mutant]:
    for node in _nodes(editor, "LRN"):
        # ONNX's alpha is the paper's times the size.
        for key, value in (("alpha", 1e-4), ("beta", 0.5), ("bias", 1.0), ("size", 3)):
            yield Mutant("LRN constants", _layer(node), f"{key} {value}",
                         lambda e, name=node.name, key=key, value=value: e.set(name, key, value))


@_kind("preprocessing scale")
def _preprocessing(editor: Editor, model: Any) -> Iterator[Mutant]:
    layers = {layer.name for layer in model.layers if type(layer).__name__ in ("Rescaling", "Normalization")}
    for node in _nodes(editor, "Mul"):
        name = next((n for n in node.input if editor.has(n)), None)
        if _layer(node) in layers and name is not None:
            yield Mutant("preprocessing scale", _layer(node), "1/255 -> 1/256",
                         lambda e, name=name: e.put(name, e.array(name) * np.float32(255 / 256)))


def _batch_norms(editor: Editor, model: Any) -> Iterator[tuple[Any, onnx.NodeProto, Any]]:
    """Each batch normalisation folded into a convolution, the Conv node, and the Keras convolution."""
    by_layer = {_layer(n): n for n in _nodes(editor, "Conv")}
    own = {_layer(n) for n in editor.model.graph.node}
    for layer in model.layers:
        if type(layer).__name__ != "BatchNormalization" or layer.name in own:
            continue
        before = layer.input._keras_history.operation
        if before.name in by_layer:
            yield layer, by_layer[before.name], before


_PLACES = {"gamma": 1, "beta": 2, "mean": 3, "variance": 4}


def _folded(kind: str, alter: Callable[[dict[str, Any]], None]) -> None:
    """A kind that alters gamma, beta, mean, variance or epsilon of a batch normalisation, folded or not."""

    def find(editor: Editor, model: Any) -> Iterator[Mutant]:
        for layer, node, before in _batch_norms(editor, model):
            values = {k: np.asarray(getattr(layer, a), np.float64) for k, a in (
                ("gamma", "gamma"), ("beta", "beta"), ("mean", "moving_mean"), ("variance", "moving_variance"))}
            values["epsilon"] = layer.epsilon
            old = values["gamma"] / np.sqrt(values["variance"] + values["epsilon"])
            altered = dict(values)
            alter(altered)
            new = altered["gamma"] / np.sqrt(altered["variance"] + altered["epsilon"])
            bias = np.asarray(before.bias, np.float64) if getattr(before, "bias", None) is not None else 0.0
            shift = (bias - altered["mean"]) * new + altered["beta"]

            def change(e: Editor, node: Any = node, ratio: Any = new / old, shift: Any = shift) -> None:
                kernel = e.array(node.input[1])
                spread = ratio.reshape(-1, *[1] * (kernel.ndim - 1))
                e.put(node.input[1], (kernel * spread).astype(np.float32))
                e.put(node.input[2], shift.astype(np.float32))

            yield Mutant(kind, before.name, layer.name, change)
        for node in _nodes(editor, "BatchNormalization"):
            def direct(e: Editor, name: str = node.name) -> None:
                found = e.node(name)
                values: dict[str, Any] = {k: e.array(found.input[i]).astype(np.float64) for k, i in _PLACES.items()}
                values["epsilon"] = e.attribute(name, "epsilon", 1e-5)
                alter(values)
                for k, i in _PLACES.items():
                    e.put(found.input[i], values[k].astype(np.float32))
                e.set(name, "epsilon", float(values["epsilon"]))

            yield Mutant(kind, _layer(node), node.name, direct)

    KINDS[kind] = find


def _times(key: str, factor: float, *, one: bool = True) -> Callable[[dict[str, Any]], None]:
    def alter(values: dict[str, Any]) -> None:
        made = np.array(values[key], np.float64)
        if one:
            made[np.abs(made).argmax()] *= factor
        else:
            made = made * factor
        values[key] = made

    return alter


def _swap(a: str, b: str) -> Callable[[dict[str, Any]], None]:
    def alter(values: dict[str, Any]) -> None:
        values[a], values[b] = values[b], values[a]

    return alter


def _epsilon(values: dict[str, Any]) -> None:
    values["epsilon"] = 1e-3 if values["epsilon"] < 5e-4 else 1e-5


def _mean(values: dict[str, Any]) -> None:
    values["mean"] = values["mean"] + 0.02 * np.sqrt(values["variance"])


_folded("BN epsilon", _epsilon)
_folded("BN gamma", _times("gamma", 1.05))
_folded("BN beta", _times("beta", -1.0))
_folded("BN mean", _mean)
_folded("BN variance", _times("variance", 1.1))
_folded("BN gamma and beta swapped", _swap("gamma", "beta"))


def mutants(proto: onnx.ModelProto, model: Any, *, sites: int = 3) -> list[Mutant]:
    """At most ``sites`` mutants of each kind, spread over the depth of the network."""
    editor = Editor(proto)
    made = []
    for find in KINDS.values():
        found = list(find(editor, model))
        chosen = sorted({round(i * (len(found) - 1) / max(sites - 1, 1)) for i in range(sites)}) if found else []
        made += [found[i] for i in chosen]
    return made


def mutate(proto: onnx.ModelProto, mutant: Mutant) -> onnx.ModelProto:
    """A copy of ``proto`` with the fault."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    mutant.change(Editor(copy))
    return copy


@dataclass(frozen=True)
class Outcome:
    """What the gate said of one mutant. ``named`` is None for a file that ONNX Runtime does not run at all."""

    architecture: str
    kind: str
    layer: str
    what: str
    caught: bool
    named: bool | None
    said: str


def own_network() -> Any:
    """What the registered architectures lack: rescaling, padded average pooling, a depthwise convolution."""
    import keras

    from cnnexport.architectures.weights import randomise

    layers = keras.layers
    image = keras.Input((33, 33, 3), name="image")
    x = layers.Rescaling(1 / 255, offset=-0.5, name="rescale")(image)
    x = layers.ZeroPadding2D(1, name="pad")(x)
    x = layers.Conv2D(8, 3, strides=2, name="conv1")(x)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.Activation("relu", name="relu1")(x)
    x = layers.AveragePooling2D(3, strides=2, padding="same", name="average")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.BatchNormalization(name="bn2")(x)
    x = layers.ReLU(name="relu2")(x)
    x = layers.Conv2D(12, 3, padding="same", activation="tanh", name="conv2")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="maximum")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(16, activation="sigmoid", name="dense1")(x)
    x = layers.Dense(16, activation="relu", name="dense2")(x)
    model = keras.Model(image, layers.Dense(5, activation="softmax", name="predictions")(x), name="own")
    randomise(model, 0, value_range=(0.0, 255.0))
    return model


SUBJECTS: dict[str, dict[str, Any]] = {
    "lenet5": {},
    "own": {},
    "alexnet": {"input_shape": (99, 99, 3), "classes": 10},
    "alexnet-bn": {"input_shape": (32, 32, 3)},
    "vgg11-lrn": {"input_shape": (64, 64, 3), "classes": 10},
    "resnet18": {"input_shape": (64, 64, 3), "classes": 10},
    "resnet50": {"input_shape": (64, 64, 3), "classes": 10},
    "vgg16-transfer": {"input_shape": (64, 64, 3)},
    "EfficientNetB0": {"input_shape": (64, 64, 3)},
    "MobileNetV3Small": {"input_shape": (64, 64, 3)},
    "DenseNet121": {"input_shape": (64, 64, 3)},
    "NASNetMobile": {"input_shape": (64, 64, 3)},
}
"""What is mutated, at sizes that keep all kinds of fault visible and a mutant under a second."""


@dataclass(frozen=True)
class Subject:
    """A network, its converted file as a message, and what Keras computes."""

    name: str
    model: Any
    proto: onnx.ModelProto
    answers: Any
    facts: Any
    tell: Any


def subject(name: str, folder: Any, *, seed: int = 0) -> Subject:
    """Build, convert and ask Keras, as the pipeline does."""
    import keras

    from cnnexport import architectures
    from cnnexport.architectures import weights
    from cnnexport.conversion import convert_model
    from cnnexport.conversion.write import skeleton, write_model
    from cnnexport.keras_files import heads
    from cnnexport.onnx_file import count_macs
    from cnnexport.parity import graph_facts, live, truth

    if name == "own":
        model, span = own_network(), (0.0, 255.0)
    elif hasattr(keras.applications, name):
        model, span = getattr(keras.applications, name)(weights=None, classes=10, **SUBJECTS[name]), (-1.0, 1.0)
        weights.randomise(model, seed)
    else:
        spec = architectures.get(name)
        model = architectures.build(name, seed=seed, **SUBJECTS.get(name, {}))
        span = spec.preprocessing.value_range if spec.preprocessing else (-1.0, 1.0)
    converted = convert_model(model, output_names=heads.output_names(model, heads.heads(model)))
    write_model(converted.model, folder)
    macs = count_macs(skeleton(converted.model))[0]
    answers = live.ask(model, converted.inputs, seed=seed, value_range=span, macs=macs)
    facts = graph_facts(converted.model, converted.inputs, converted.outputs, answers.activations)
    return Subject(name, model, onnx.load(folder / "model.onnx"), answers, facts,
                   truth.teller(model, heads.heads(model), answers))


def try_mutant(subject: Subject, mutant: Mutant, folder: Any) -> Outcome:
    """Whether the gate catches the mutant and names its layer."""
    from cnnexport.errors import InputError
    from cnnexport.parity import gate

    path = folder / "mutant.onnx"
    path.write_bytes(mutate(subject.proto, mutant).SerializeToString())

    def outcome(caught: bool, named: bool | None, said: str) -> Outcome:
        return Outcome(subject.name, mutant.kind, mutant.layer, mutant.what, caught, named, said)

    try:
        verdict = gate.judge(subject.answers, subject.facts, path, tell=subject.tell)
    except InputError as error:
        return outcome(True, None, f"does not run: {str(error).replace(f'{folder}/', '')[:80]}")
    if verdict.passed:
        worst = max(c.max_error for c in verdict.comparisons)
        return outcome(False, False, f"passed with {worst:.1e}")
    return outcome(True, verdict.first_diverging in _accepted(subject, mutant.layer), str(verdict.first_diverging))


def _accepted(subject: Subject, layer: str) -> set[str]:
    """The layers that share the tensor of ``layer``, or where it has none, of the next that has one."""
    from cnnexport.parity import layer_map

    rows = layer_map(subject.answers, subject.facts)
    at = next((i for i, row in enumerate(rows) if row.layer == layer), None)
    if at is None:
        return {layer}
    tensor = next((row.tensor for row in rows[at:] if row.tensor), None)
    return {layer} | {row.layer for row in rows if row.tensor == tensor}


def equivalents(subject: Subject) -> list[tuple[Mutant, str]]:
    """Faults that change nothing, each with the proof."""
    editor = Editor(subject.proto)
    found: list[tuple[Mutant, str]] = []
    for node, name, kernel in _kernels(editor, "Conv"):
        if kernel.shape[2:] == (1, 1):
            found.append((Mutant("kernel transposed", _layer(node), f"{name} is 1x1",
                                 lambda e, name=name: e.put(name, e.array(name).swapaxes(2, 3))),
                          "a 1x1 kernel is its own transpose: the file's bytes are the same"))
            break
    for node in _nodes(editor, "AveragePool"):
        if not any(editor.attribute(node.name, "pads", [0])):
            own = editor.attribute(node.name, "count_include_pad", 0)
            found.append((Mutant("average with padding", _layer(node), "count_include_pad without padding",
                                 lambda e, name=node.name, own=own: e.set(name, "count_include_pad", 1 - own)),
                          "no window holds padding, so that both counts are the window's size"))
            break
    for node in _nodes(editor, "MaxPool", "AveragePool"):
        if _one_window(subject.model, _layer(node)):
            found.append((Mutant("stride moved", _layer(node), "2 to 3",
                                 lambda e, name=node.name: e.set(name, "strides", [3, 3])),
                          "the map after it is 1x1: there is one window, and no second one for a stride to place"))
    makers = {output: n.op_type for n in subject.proto.graph.node for output in n.output}
    for node in _nodes(editor, "MaxPool"):
        if makers.get(node.input[0]) != "Relu":
            continue
        found.append((Mutant("activation changed", _layer(node), "ReLU after a maximum of ReLUs",
                             lambda e, name=node.name: _relu_after(e, name)),
                      "all values are 0 or more after the ReLU before it, and ReLU changes none of these"))
        break
    return found


def _relu_after(editor: Editor, name: str) -> None:
    node = editor.node(name)
    graph = editor.model.graph
    output = node.output[0]
    node.output[0] = f"{output}__before"
    graph.node.insert(
        list(graph.node).index(node) + 1, helper.make_node("Relu", [node.output[0]], [output], name=f"{name}__relu"))
