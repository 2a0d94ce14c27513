"""SavedModels as Keras 2 leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class _Optimizer:
    """What TensorFlow asks an optimizer that keeps a variable beside each of the model's."""

    def __new__(cls, variable: Any) -> Any:
        import tensorflow as tf

        class Optimizer(tf.Module):
            def get_slot_names(self) -> list[str]:
                return ["m"]

            def get_slot(self, var: Any, name: str) -> Any:
                return self.slots["m"] if var is variable else None

            def _create_or_restore_slot_variable(self, **_: Any) -> None:
                """Asked for by what saves."""

            def _trackable_children(self, *_: Any, **__: Any) -> dict[str, Any]:
                return {"iter": self.iter}

        made = Optimizer()
        made.slots = {"m": tf.Variable(tf.ones(variable.shape))}
        made.iter = tf.Variable(7)
        return made


def legacy_optimizer(folder: Path) -> Path:
    """A SavedModel of ``x * [2, 4] + 1`` whose optimizer is of the kind that TensorFlow up to 2.10 wrote."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    module = tf.Module()
    module.weight = tf.Variable([2.0, 4.0])
    module.optimizer = _Optimizer(module.weight)
    module.f = tf.function(lambda x: {"y": x * module.weight + 1.0},
                           input_signature=[tf.TensorSpec((None, 2), name="x")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.f})
    stored = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    nodes = stored.meta_graphs[0].object_graph_def.nodes
    (optimizer,) = (node for node in nodes if node.slot_variables)
    optimizer.user_object.identifier = "optimizer"
    optimizer.user_object.version.producer = 2
    (folder / "saved_model.pb").write_bytes(stored.SerializeToString())
    return folder
