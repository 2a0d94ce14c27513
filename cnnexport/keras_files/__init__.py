"""Files of Keras and TensorFlow that a stranger may have made: what they hold, and what they would run.

Each is looked at before Keras, TensorFlow or HDF5 acts on it, and only what is known is let through: ``archive`` for
what the files may hold, ``safety`` for what a configuration may name, ``graphs`` for what a SavedModel may run.
"""
