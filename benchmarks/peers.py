"""Other ways to run the same network, as ``cnnexport.bench.worker`` drives them: OpenVINO, TensorFlow, Keras.

Each is a session like ``cnnexport.bench.ort.Session``. OpenVINO runs the very ONNX file; TensorFlow and Keras run the
model that it was converted from, rebuilt from the same seed. ``check`` compares each with Keras' stored answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnexport.bench import subjects

SEED = 0


def _off(expected: Any, produced: Any) -> float:
    """The largest difference, in standard deviations of what was expected."""
    import numpy as np

    return float(np.abs(np.asarray(produced) - expected).max() / (expected.std() or 1.0))


class _Peer:
    """What the peers share: the feeds, and the proof of their answers."""

    create_seconds: float
    run: Callable[[], Any]

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.feed = next(iter(subjects.fill(options["inputs"], options.get("seed", 0)).values()))
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
        import onnx
        from onnx import numpy_helper

        folder = Path(vectors["folder"])
        given, expected = (numpy_helper.to_array(onnx.load_tensor(str(folder / f"{kind}_0.pb")))
                           for kind in ("input", "output"))
        error = _off(expected, self.answer(given))
        if not error <= vectors["max_error"]:
            raise ValueError(f"outputs differ from Keras' stored ones by {error:.2g} standard deviations")
        return {"compared_with": "Keras' stored outputs", "error": error, "allowed": vectors["max_error"]}


class OpenVino(_Peer):
    """The ONNX file in OpenVINO on the CPU, float32, tuned for latency."""

    def create(self) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(self.options["file"])
        self._core, self._model, self._version = core, model, openvino.__version__
        model.reshape(list(self.feed.shape))
        self._compiled = core.compile_model(model, "CPU", {
            "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.options["threads"]})

    def bind(self) -> None:
        import openvino

        self._request = self._compiled.create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(self.feed, shared_memory=True))
        self.run = self._request.infer

    def answer(self, feed: Any) -> Any:
        model = self._core.read_model(self.options["file"])
        return self._core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([feed])[0]

    def facts(self) -> dict[str, Any]:
        return {"openvino": self._version, "providers": ["CPU"], "session_options": {
            "INFERENCE_NUM_THREADS": self.options["threads"], "PERFORMANCE_HINT": "LATENCY"}}


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
