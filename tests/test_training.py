"""Training: runs that go on as if nothing had happened, cached features that change nothing, what a run leaves."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnexport import architectures, bundle, data
from cnnexport.errors import InputError, UsageError
from cnnexport.training import frozen, loop, measures, options, runs, train
from cnnexport.training.batches import Images
from cnnexport.training.options import Options

COMMAND = [sys.executable, "-c", "from cnnexport.cli import main; main()"]
MNIST = Path(os.environ.get("CNNEXPORT_MNIST10K", Path(__file__).parents[2] / "shared" / "data" / "mnist10k.npz"))
_GREY = data.images.Preprocessing("grey", "grey", 1 / 255, (0.0,), (), (0.0, 1.0))


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-5 trained on the digits with all defaults, by the command line."""
    place = tmp_path_factory.mktemp("run")
    done = subprocess.run([*COMMAND, "train", "lenet5", "--json"], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "stdout.json").write_text(done.stdout)
    (place / "stderr.txt").write_text(done.stderr)
    return place


def test_a_run_says_what_it_did(digits_run: Path) -> None:
    run = digits_run / "runs" / "lenet5"
    assert {p.name for p in run.iterdir()} == {
        runs.RUN, runs.MODEL, runs.HISTORY, runs.METRICS, runs.CURVES, runs.CONFUSION, runs.MISTAKES}
    metrics = json.loads((run / runs.METRICS).read_text())
    low, high = metrics["accuracy_interval_95"]
    assert metrics["accuracy"] >= 0.97 and low < metrics["accuracy"] < high
    assert metrics["correct"] == sum(metrics["confusion"][i][i] for i in range(10))
    assert sum(map(sum, metrics["confusion"])) == metrics["images"] == 355
    assert all(row["precision"] is not None and row["recall"] is not None for row in metrics["per_class"])
    record = json.loads((run / runs.RUN).read_text())
    assert record["state"] == "finished" and record["options"]["seed"] == 0 and record["versions"]["keras"]
    assert all(bundle.sha256(run / name) == digest for name, digest in record["files"].items())
    history = (run / runs.HISTORY).read_text().splitlines()
    assert history[0].split(",") == list(runs.COLUMNS) and len(history) == 1 + 15
    assert json.loads((digits_run / "stdout.json").read_text())["metrics"]["accuracy"] == metrics["accuracy"]
    lines = (digits_run / "stderr.txt").read_text().splitlines()
    assert len(lines) == 15 and all("validation loss" in line for line in lines)


def test_pictures_are_what_they_say(digits_run: Path) -> None:
    import xml.etree.ElementTree as ET

    from PIL import Image

    run = digits_run / "runs" / "lenet5"
    curves, confusion = (ET.parse(run / name).getroot() for name in (runs.CURVES, runs.CONFUSION))
    svg = "{http://www.w3.org/2000/svg}"
    assert len(curves.findall(f"{svg}polyline")) == 4 and len(curves.findall(f"{svg}circle")) == 4 * 15
    numbers = [int(e.text or "") for e in confusion.findall(f"{svg}text") if (e.text or "").isdigit()
               and e.get("text-anchor") == "middle"]
    assert sum(numbers) == 355
    with Image.open(run / runs.MISTAKES) as sheet:
        assert sheet.format == "PNG" and sheet.width > 600


def test_a_run_converts_as_it_is(digits_run: Path, cnnexport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(digits_run)
    result = cnnexport("convert", "runs/lenet5", "--json")
    assert result.code == 0, result.err
    manifest = json.loads(result.out)["manifest"]
    metrics = json.loads((digits_run / "runs" / "lenet5" / runs.METRICS).read_text())
    assert manifest["untrained"] is False and manifest["provenance"]["weights"] == "run"
    assert manifest["provenance"]["run"]["data"]["sha256"] and manifest["labels"] == [str(i) for i in range(10)]
    assert manifest["architecture"]["name"] == "lenet5"
    found = manifest["evaluation"]
    assert (found["correct"], found["keras_correct"], found["differing"]) == (metrics["correct"],) * 2 + (0,)
    assert manifest["preprocessing"]["image"]["height"] == 32
    parity = json.loads(Path("exported/lenet5/parity.json").read_text())
    assert parity["test_set"] == found and parity["passed"]
    assert cnnexport("verify", digits_run / "exported" / "lenet5").code == 0
    model = digits_run / "runs" / "lenet5"
    assert cnnexport("verify", digits_run / "exported" / "lenet5", "--against", model, "--quiet").code == 0


@pytest.mark.parametrize("more", [["--layout", "nchw", "--batch", "8"], ["--logits"]])
def test_other_shapes_of_a_run_classify_alike(more: list[str], digits_run: Path, cnnexport: Any) -> None:
    result = cnnexport("convert", digits_run / "runs" / "lenet5", "-o", "b", "--json", *more)
    assert result.code == 0, result.err
    found = json.loads(result.out)["manifest"]["evaluation"]
    again = cnnexport("evaluate", "b", "--data", "digits", "--json")
    assert again.code == 0, again.err
    told = json.loads(again.out)
    assert (told["correct"], told["provider"]) == (found["correct"], "CPUExecutionProvider")
    assert told["seen_in_training"] is False


def test_an_altered_or_unfinished_run_is_refused(digits_run: Path, cnnexport: Any, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "r"
    shutil.copytree(digits_run / "runs" / "lenet5", run)
    (run / runs.METRICS).write_text((run / runs.METRICS).read_text().replace('"correct": 3', '"correct": 4'))
    assert (result := cnnexport("convert", "r")).code == 3 and "metrics.json was altered" in result.err
    record = json.loads((run / runs.RUN).read_text())
    (run / runs.RUN).write_text(json.dumps({**record, "state": "running"}))
    assert (result := cnnexport("convert", "r")).code == 3 and "has not finished" in result.err
    (run / runs.RUN).write_text("{}")
    assert (result := cnnexport("convert", "r")).code == 3 and "no record of a training run" in result.err


def test_a_prediction_that_differs_is_a_parity_failure(
    digits_run: Path, cnnexport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnexport import trained

    real = trained.predictions

    def one_off(*arguments: Any) -> Any:
        said = real(*arguments)
        said[7] = np.roll(said[7], 1)
        return said

    monkeypatch.setattr(trained, "predictions", one_off)
    result = cnnexport("convert", digits_run / "runs" / "lenet5", "-o", "b")
    assert result.code == 4 and "1 of 355 test images another class than Keras (the first at index 7)" in result.err
    assert not Path("b").exists() and json.loads(Path("b.rejected/parity.json").read_text())["reason"] == "predictions"


def test_data_that_changed_is_refused(tmp_path: Path, cnnexport: Any) -> None:
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        x = rng.integers(0, 255, (40, 32, 32), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=np.arange(40) % 2)
    assert cnnexport("train", "lenet5", "--data", "one.npz", "--epochs", "1", "-o", "r", "--quiet").code == 0
    os.replace("two.npz", "one.npz")
    assert (result := cnnexport("convert", "r")).code == 3 and "its checksum differs" in result.err
    Path("one.npz").unlink()
    assert (result := cnnexport("convert", "r")).code == 3 and "cannot be read" in result.err


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    more = ["train", "lenet5", "--epochs", "4", "--early-stopping", "2", "--limit", "400", "--seed", "3"]
    whole = subprocess.run([*COMMAND, *more, "-o", "a", "--quiet"], cwd=tmp_path, capture_output=True, text=True)
    assert (whole.returncode, whole.stdout, whole.stderr) == (0, "", "")
    with subprocess.Popen([*COMMAND, *more, "-o", "b"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2"):
                process.send_signal(signal.SIGKILL)
                break
    assert not (tmp_path / "b" / runs.MODEL).exists()
    again = subprocess.run([*COMMAND, *more, "-o", "b", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0 and json.loads(again.stdout)["resumed_from_epoch"] >= 2
    assert "goes on after epoch" in again.stderr
    assert (tmp_path / "a" / runs.HISTORY).read_bytes() == (tmp_path / "b" / runs.HISTORY).read_bytes()
    one, other = (zipfile.ZipFile(tmp_path / run / runs.MODEL).read("model.weights.h5") for run in "ab")
    assert one == other


def test_an_interrupted_run_says_so_and_other_options_are_refused(tmp_path: Path, cnnexport: Any) -> None:
    with subprocess.Popen([*COMMAND, "train", "lenet5", "-o", "r"], cwd=tmp_path, stderr=subprocess.PIPE,
                          text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1 "):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert rest[-1].startswith("cnnexport: error: interrupted; the run goes on from its last finished epoch")
    assert not [p.name for p in (tmp_path / "r").iterdir() if p.name.startswith(".")]
    result = cnnexport("train", "lenet5", "--seed", "1", "-o", tmp_path / "r")
    assert result.code == 2 and "seed was 0 and is 1" in result.err and result.err.count("\n") == 1
    assert cnnexport("convert", tmp_path / "r").code == 3


class _Killed(BaseException):
    pass


def _course_like(seed: int) -> Any:
    """A frozen residual front with batch normalisation, and a top with dropout: small, but nothing is missing."""
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    image = keras.Input((12, 12, 1))
    x = layers.Conv2D(6, 3, padding="same", name="c1")(image)
    x = layers.BatchNormalization(name="b1")(x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="c2")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="c3")(x)
    model = keras.Model(image, layers.Flatten(name="flat")(x))
    model.trainable = False
    x = layers.Dense(16, activation="relu", name="d1")(model.output)
    x = layers.Dropout(0.3, name="drop")(x)
    made = keras.Model(image, layers.Dense(10, activation="softmax", name="d2")(x))
    for layer in model.layers:
        layer.trainable = False
    for layer in made.layers[-3:]:
        layer.trainable = True
    return made


def _images() -> tuple[Images, Images]:
    found = data.load("digits")
    preparation = data.Preparation(12, 12, 1, _GREY)
    return (Images(found.train.take(np.arange(200)), preparation), Images(found.test.take(np.arange(50)), preparation))


@pytest.mark.parametrize("killed_at", [1, 3, 4, 5])
def test_phases_dropout_and_best_weights_survive_a_kill(killed_at: int, tmp_path: Path) -> None:
    chosen = Options(epochs=3, batch_size=32, early_stopping=1, fine_tune=1, fine_tune_epochs=3, fine_tune_rate=1e-3,
                     learning_rate=0.02)
    images = _images()
    ends = []
    for kill in (False, True):
        folder = tmp_path / str(kill)
        folder.mkdir()

        def say(event: dict[str, Any], kill: bool = kill) -> None:
            if kill and event.get("epoch") == killed_at and "val_loss" in event:
                raise _Killed

        model = _course_like(1)
        if kill:
            with pytest.raises(_Killed):
                loop.learn(model, *images, chosen, folder, say)
            model = _course_like(1)
        state = loop.learn(model, *images, chosen, folder, lambda event: None)
        ends.append((state.rows, model.get_weights()))
    assert ends[0][0] == ends[1][0]
    assert {row["phase"] for row in ends[0][0]} == {"train", "fine-tune"}
    for one, other in zip(ends[0][1], ends[1][1]):
        np.testing.assert_array_equal(one, other)


def test_cached_features_give_what_the_courses_loop_gives(tmp_path: Path) -> None:
    """The whole network trained image by image, backbone frozen, against its top trained on cached features."""
    import keras

    images, held = _images()
    chosen = Options(epochs=3, batch_size=32)
    ours, theirs = _course_like(2), _course_like(2)
    before = [w.copy() for w in ours.get_weights()]
    cut = frozen.split(ours)
    assert cut is not None and cut[0].output.shape[1:] == (200,) and len(cut[1].trainable_weights) == 4
    state = loop.learn(ours, images, held, chosen, tmp_path, lambda event: None)

    theirs.compile(optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 21)),
                   loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    for epoch in range(3):
        order = loop.order_of(images.count, chosen.seed, epoch)
        theirs.fit(images.batches(order[None], 32), epochs=epoch + 1, initial_epoch=epoch, verbose=0)
    moved = 0
    for layer, start, one, other in zip(ours.weights, before, ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(one, other, atol=2e-5, err_msg=layer.path)
        moved += not np.array_equal(start, one)
    assert moved == 4 and len(state.rows) == 3


def test_where_a_network_is_cut() -> None:
    import keras

    vgg = architectures.build("vgg16-transfer", classes=3)
    front, rest = frozen.split(vgg) or (None, None)
    assert front is not None and rest is not None
    assert front.output.shape[1:] == (512,) and [w.path for w in rest.trainable_weights] == [
        w.path for w in vgg.trainable_weights]
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(rest(front(x)), vgg(x), rtol=1e-5, atol=1e-6)
    # A layer inside a residual block learns: the cut is before the block.
    model = _course_like(0)
    model.get_layer("c2").trainable = True
    front, rest = frozen.split(model) or (None, None)
    assert front is not None and front.layers[-1].name == "b1"
    # What draws at random cannot be computed once; nothing frozen, nothing to cut.
    image = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(2, 1, trainable=False)(image)
    x = keras.layers.Dropout(0.5)(x)
    assert frozen.split(keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(x)))) is None
    assert frozen.split(architectures.build("lenet5")) is None


def test_fine_tuning_unfreezes_the_last_layers_but_no_batch_normalisation() -> None:
    model = architectures.build("resnet50-transfer")
    layers = frozen.backbone_layers(model, 3)
    assert [layer.name for layer in layers] == ["conv5_block3_1_conv", "conv5_block3_2_conv", "conv5_block3_3_conv"]


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files as Linux does")
def test_a_full_disk_is_one_line_and_the_last_good_state_stays(tmp_path: Path) -> None:
    more = ["train", "lenet5", "--epochs", "2", "--limit", "200", "-o", "r"]
    done = subprocess.run([*COMMAND, *more], cwd=tmp_path, capture_output=True, text=True, preexec_fn=_limit_files)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("cnnexport: error: r") and "free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())  # not even the first state could be written, so that nothing is to go on from
    again = subprocess.run([*COMMAND, *more, "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["nosuch"], 2, "unknown architecture 'nosuch'"),
    (["lenet5", "--data", "nosuch"], 3, "no data set called 'nosuch'"),
    (["lenet5", "--augment", "flip,twirl"], 2, "augmentation 'twirl' is unknown"),
    (["lenet5", "--learning-rate", "0"], 2, "learning rate is 0.0"),
    (["lenet5", "--learning-rate", "nan"], 2, "learning rate is nan"),
    (["lenet5", "--validation", "1"], 2, "validation is 1.0"),
    (["lenet5", "--validation", "0", "--early-stopping", "2"], 2, "early stopping watches the validation loss"),
    (["lenet5", "--fine-tune", "2"], 2, "no frozen backbone"),
    (["lenet5", "--fine-tune-epochs", "2"], 2, "need --fine-tune N"),
    (["lenet5", "--classes", "3"], 3, "10 classes, and --classes says 3"),
    (["lenet5", "--limit", "3"], 2, "10 classes need an image each"),
    (["lenet5", "--input-shape", "8x8x1"], 2, "too small for lenet5"),
    (["lenet5", "--input-shape", "32x32x2"], 2, "images have 1 or 3"),
    (["lenet5", "--input-shape", "?x32x1"], 2, "leaves a size open"),
    (["lenet5", "--weights", "imagenet"], 2, "no ImageNet weights"),
    (["lenet5", "--weights", "nosuch.h5"], 3, "nosuch.h5 do not exist"),
    (["lenet5", "-o", "file"], 2, "is no folder"),
    (["lenet5", "-o", "full"], 2, "is no training run"),
    (["lenet5", "-o", "file/r"], 2, "cannot be written"),
    (["resnet50-transfer", "--recipe", "paper"], 2, "no paper gives a recipe"),
])
def test_bad_requests_are_one_line(
    arguments: list[str], code: int, words: str, cnnexport: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    result = cnnexport("train", *arguments)
    assert (result.code, result.out) == (code, "") and words in result.err
    assert result.err.startswith("cnnexport: error: ") and result.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_training_that_diverges_is_one_line(cnnexport: Any) -> None:
    result = cnnexport("train", "lenet5", "--optimizer", "sgd", "--learning-rate", "1e38", "--epochs", "2",
                       "--limit", "200")
    assert result.code == 3 and "the training diverged" in result.err.splitlines()[-1]


def test_the_paper_recipe() -> None:
    chosen = options.resolve(architectures.get("alexnet"), {"recipe": "paper", "epochs": 2})
    assert (chosen.optimizer, chosen.momentum, chosen.weight_decay) == ("sgd", 0.9, 5e-4)
    assert set(chosen.augment) == {"crop", "flip"} and chosen.epochs == 2
    made = loop.optimizer(chosen, 0.01, 100)
    assert made.get_config()["weight_decay"] == 5e-4 and made.get_config()["momentum"] == 0.9


@pytest.mark.parametrize("schedule", options.SCHEDULES)
def test_schedules_start_at_the_rate_and_fall(schedule: str) -> None:
    made = loop.optimizer(Options(schedule=schedule), 0.1, 100)
    fall = getattr(made, "_learning_rate", None)
    rates = [float(np.asarray(fall(i) if callable(fall) else made.learning_rate)) for i in (0, 60, 99)]
    assert rates[0] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True) and (rates[2] < 0.02) == (schedule != "constant")


def test_mixed_precision_leaves_a_float32_model(cnnexport: Any) -> None:
    more = ("--mixed-precision", "--epochs", "3", "--validation", "0", "-o", "r", "--json")
    result = cnnexport("train", "lenet5", *more)
    assert result.code == 0, result.err
    assert json.loads(result.out)["metrics"]["accuracy"] > 0.5
    made = cnnexport("convert", "r", "--json")
    assert made.code == 0 and json.loads(made.out)["manifest"]["inputs"][0]["dtype"] == "float32"


@pytest.mark.slow
def test_batch_normalisation_learns_on_few_steps(cnnexport: Any) -> None:
    result = cnnexport("train", "alexnet-bn", "--input-shape", "32x32x3", "--limit", "400", "--epochs", "4", "-o", "r",
                       "--json")
    assert result.code == 0, result.err
    made = json.loads(result.out)
    assert made["history"][-1]["loss"] < made["history"][0]["loss"]
    assert made["metrics"]["accuracy"] > 4 * made["metrics"]["chance"]


def test_class_weights_balance() -> None:
    weights = loop._class_weights(np.asarray([0] * 30 + [1] * 10))
    assert weights == {0: pytest.approx(2 / 3), 1: pytest.approx(2.0)}


@pytest.mark.parametrize(("right", "count", "expected"), [(8, 10, (0.490, 0.943)), (0, 10, (0.0, 0.278)),
                                                          (10, 10, (0.722, 1.0))])
def test_wilsons_interval(right: int, count: int, expected: tuple[float, float]) -> None:
    assert measures.interval(right, count) == pytest.approx(expected, abs=1e-3)


def test_measures_of_a_class_never_seen() -> None:
    found = measures.measure(np.asarray([0, 0, 1]), np.asarray([[.9, .1, 0], [.2, .8, 0], [.3, .7, 0]], np.float32),
                             ["a", "b", "c"])
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]] and found["correct"] == 2
    assert found["per_class"][2] == {"class": "c", "precision": None, "recall": None, "f1": None, "images": 0}
    assert found["per_class"][1]["precision"] == 0.5 and found["per_class"][0]["recall"] == 0.5


def test_python_refuses_what_the_command_line_cannot_say() -> None:
    with pytest.raises(UsageError, match="'epoch' is no option"):
        train("lenet5", epoch=3)
    with pytest.raises(InputError, match="no data set"):
        train("lenet5", "nosuch")


@pytest.mark.skipif(not MNIST.is_file(), reason="needs mnist10k.npz (CNNEXPORT_MNIST10K names its place)")
def test_lenet5_learns_mnist(cnnexport: Any) -> None:
    result = cnnexport("train", "lenet5", "--data", MNIST, "--epochs", "15", "-o", "r", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["metrics"]["accuracy"] >= 0.98


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_file(), reason="needs mnist10k.npz (CNNEXPORT_MNIST10K names its place)")
def test_resnet18_learns_mnist(cnnexport: Any) -> None:
    result = cnnexport("train", "resnet18", "--data", MNIST, "--input-shape", "32x32x3", "-o", "r", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["metrics"]["accuracy"] >= 0.985
    assert cnnexport("convert", "r", "--quiet").code == 0


@pytest.mark.slow
def test_alexnet_bn_learns_within_the_memory(cnnexport: Any) -> None:
    result = cnnexport("train", "alexnet-bn", "--limit", "200", "--epochs", "3", "-o", "r", "--json")
    assert result.code == 0, result.err
    made = json.loads(result.out)
    losses = [row["loss"] for row in made["history"]]
    assert losses[-1] < losses[0] and made["metrics"]["accuracy"] > 3 * made["metrics"]["chance"]
