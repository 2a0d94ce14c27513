"""Other ways to run the same network, as ``cnnexport.bench.worker`` drives them: TensorFlow, Keras.

Each is a session like ``cnnexport.bench.session.TimedSession``, on the model that the ONNX file was converted from,
rebuilt from the same seed. ``check`` compares each with Keras' stored answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cnnexport.bench.session import check_stored
from cnnexport.onnx_file.inputs import fill

SEED = 0


class _Peer:
    """What the peers share: the feeds, and the proof of their answers."""

    create_seconds: float
    run: Callable[[], Any]

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.feed = next(iter(fill(options["inputs"], options.get("seed", 0)).values()))
        start = time.perf_counter()
        self.create()
        self.create_seconds = time.perf_counter() - start

    def create(self) -> None:
        raise NotImplementedError

    def answer(self, feed: Any) -> Any:
        raise NotImplementedError

    def bind(self) -> None:
        raise NotImplementedError

    def first_run(self) -> float:
        start = time.perf_counter()
        self.bind()
        self.run()
        return time.perf_counter() - start

    def stream(self) -> Callable[[], Any]:
        return self.run

    def transfers(self) -> None:
        return None

    def check(self, vectors: dict[str, Any]) -> dict[str, Any]:
        """Compare with Keras' stored answer, by the tolerance of the parity record."""
        return check_stored(vectors, lambda names, feeds: [self.answer(*feeds.values())], type(self).__name__)


class TensorFlow(_Peer):
    """The Keras model under ``tf.function``, inputs as tensors already."""

    def create(self) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(self.options["threads"])
        tf.config.threading.set_inter_op_parallelism_threads(1)
        from cnnexport import architectures

        self.model = architectures.build(self.options["architecture"], seed=SEED)
        self._version = tf.__version__

    def bind(self) -> None:
        import tensorflow as tf

        model = self.model
        function = tf.function(lambda x: model(x, training=False))
        tensor = tf.constant(self.feed)
        self.run = lambda: function(tensor).numpy()

    def answer(self, feed: Any) -> Any:
        return self.model(feed, training=False).numpy()

    def facts(self) -> dict[str, Any]:
        return {"tensorflow": self._version, "providers": ["CPU"], "session_options": {
            "intra_op_parallelism_threads": self.options["threads"], "inter_op_parallelism_threads": 1}}


class Keras(TensorFlow):
    """``Model.predict`` on an array, as the tutorials call it."""

    def bind(self) -> None:
        model, feed, batch = self.model, self.feed, len(self.feed)
        self.run = lambda: model.predict(feed, batch_size=batch, verbose=0)
