"""Transfer learning: features of the frozen backbone computed once, against the course's loop, in one run.

``pytest benchmarks/test_transfer.py`` writes ``benchmarks/results/transfer.md``. Both sides start from the same built
model and the same 2,000 images in memory (those of mnist10k.npz where it is, else the digits), see them in the same
order (another order moves the accuracy by many points on a random backbone), and end with a trained model. The course's
loop is ``model.fit`` of the whole network, frozen backbone and all. The backbone is random: what it costs does not
depend on its weights.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parent / "results"
MNIST = Path(os.environ.get("CNNEXPORT_MNIST10K", Path(__file__).parents[2] / "shared" / "data" / "mnist10k.npz"))
EPOCHS, IMAGES, BATCH = 10, 2000, 64
_rows: dict[str, tuple[str, int, float, float, float, float]] = {}


def _accuracy(model: Any, inputs: Any, labels: Any) -> float:
    return float((model.predict(inputs, batch_size=128, verbose=0).argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("name", ["vgg16-transfer", "resnet50-transfer"])
def test_transfer(name: str, benchmark: Any) -> None:
    import keras

    from cnnexport import architectures, data, training
    from cnnexport.data.sources import limited
    from cnnexport.training import loop
    from cnnexport.training.batches import Images

    found = limited(data.load(MNIST if MNIST.is_file() else "digits"), IMAGES, 0)
    spec = architectures.get(name)
    preparation = data.Preparation(32, 32, 3, training.recipe_of(spec, 3))
    inputs, held = found.train.prepared(preparation, 0, len(found.train)), found.test.prepared(preparation, 0, IMAGES)
    held_labels = found.test.labels[:len(held)]
    options = training.resolve(spec, {"epochs": EPOCHS, "batch_size": BATCH, "validation": 0.0,
                                      "schedule": "constant"})

    course = architectures.build(name)
    start = time.perf_counter()
    course.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    for epoch in range(EPOCHS):
        order = loop.order_of(len(inputs), options.seed, epoch)
        course.fit(inputs[order], found.train.labels[order], initial_epoch=epoch, epochs=epoch + 1, batch_size=BATCH,
                   shuffle=False, verbose=0)
    theirs = time.perf_counter() - start
    accuracy = _accuracy(course, held, held_labels)
    del course
    keras.backend.clear_session()

    def ours() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            state = loop.learn(model, Images(found.train, preparation), None, options, Path(folder), lambda event: None)
            steps.update(state.seconds)

    steps: dict[str, float] = {}
    model = architectures.build(name)
    with training._deterministic(0):
        start = time.perf_counter()
        benchmark.pedantic(ours, rounds=1)
        mine = time.perf_counter() - start
    own = _accuracy(model, held, held_labels)
    benchmark.extra_info.update(course_seconds=theirs, ratio=theirs / mine, accuracy=own, course_accuracy=accuracy,
                                steps=steps)
    _rows[name] = (found.name, len(found.train), theirs, mine, accuracy, own)
    _write()
    # The same steps but for rounding, which ten epochs let grow: equal to within a point.
    assert abs(own - accuracy) <= 0.01


def _write() -> None:
    lines = [
        "# Transfer learning", "",
        f"Made by `pytest benchmarks/test_transfer.py`. {EPOCHS} epochs, batch {BATCH}, Adam at 1e-3, frozen random "
        "backbone, from the built model to the trained one, in one run; accuracy on test images.", "",
        "| architecture | images | course's loop | cnnexport | times faster | accuracy: course's | cnnexport |",
        "|---|---|---|---|---|---|---|"]
    for name, (source, count, theirs, mine, accuracy, own) in _rows.items():
        lines.append(f"| {name} | {count:,} of {source} | {theirs:.1f} s | {mine:.1f} s | {theirs / mine:.1f} | "
                     f"{accuracy:.1%} | {own:.1%} |")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "transfer.md").write_text("\n".join(lines) + "\n")
