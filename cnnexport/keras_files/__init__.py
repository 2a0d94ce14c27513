"""Files of Keras and TensorFlow that a stranger may have made: what they hold, and what they would run.

Each is looked at before Keras, TensorFlow or HDF5 acts on it, and only what is known is let through: ``archive`` for
what the files may hold, ``safety`` for what a configuration may name, ``graphs`` for what a SavedModel may run. What
the package needs of Keras and TensorFlow beyond their public names is in ``internals`` alone.
"""

from cnnexport.keras_files.custom import import_custom_objects
from cnnexport.keras_files.kinds import saved_training_steps, sha256
from cnnexport.keras_files.load import load_model, load_weights

__all__ = ["import_custom_objects", "load_model", "load_weights", "saved_training_steps", "sha256"]
