"""Labelled images: where they come from, and how a stored image becomes a network's input. Needs no Keras.

``images.prepare`` is the one definition of a network's input: training (in tf.data), the measuring of a run, and
every command that feeds a bundle do what it does.
"""

from cnnexport.data.images import Preparation, decode, prepare
from cnnexport.data.sources import NAMED, Dataset, Split, load

__all__ = ["NAMED", "Dataset", "Preparation", "Split", "decode", "load", "prepare"]
