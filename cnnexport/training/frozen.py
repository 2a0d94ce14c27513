"""The part of a network that does not learn, run once: its features, and the part that learns on them."""

from __future__ import annotations

from typing import Any

from cnnexport.keras_files import internals


def split(model: Any) -> tuple[Any, Any] | None:
    """``model`` as a frozen front and the rest that learns, which share its layers; None where it cannot be cut.

    The cut is the deepest one tensor behind which every layer with weights to learn lies.
    """
    import keras

    nodes = internals.calls(model)
    learn = next((i for i, node in enumerate(nodes) if getattr(node.operation, "trainable_weights", None)), None)
    if not learn or len(model.inputs) != 1:
        return None
    if any(seeded(node.operation) for node in nodes[:learn]):
        return None
    places = {id(tensor): index for index, node in enumerate(nodes) for tensor in node.outputs}
    needed: dict[int, Any] = {}
    best = None
    for index in range(len(nodes) - 1, -1, -1):
        # What the nodes from here on take from those before.
        for tensor in nodes[index].input_tensors:
            needed[id(tensor)] = tensor
        crossing = [t for key, t in needed.items() if places.get(key, -1) < index]
        if index <= learn and len(crossing) == 1:
            best = crossing[0]
            break
    if best is None or id(best) not in places:
        return None
    return keras.Model(model.inputs, best), keras.Model(best, model.outputs[0])


def seeded(layer: Any) -> bool:
    """Whether a layer draws at random while training (dropout, augmentation), so that its output is no constant."""
    return bool(internals.seed_generators(layer)) or getattr(layer, "seed_generator", None) is not None


def backbone_layers(model: Any, count: int) -> list[Any]:
    """The last ``count`` frozen layers with weights, batch normalisation aside.

    Batch normalisation keeps its statistics, as Keras' guide to transfer learning has it: on a few small batches they
    would destroy what the features are.
    """
    import keras

    frozen = [layer for layer in model.layers if layer.weights and not layer.trainable
              and not isinstance(layer, keras.layers.BatchNormalization)]
    return frozen[-count:] if count else []
