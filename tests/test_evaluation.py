"""A bundle at work on images, without TensorFlow: predict and evaluate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnexport import Classifier, convert, evaluation, predict, runtimes
from cnnexport.architectures.spec import CAFFE
from cnnexport.data import Preparation, decode, prepare
from cnnexport.data.images import preparation
from cnnexport.errors import UsageError
from tests.outside import IN_PROCESS

_PROBE = (
    f"{IN_PROCESS}import atexit, sys; atexit.register(lambda: print([m for m in ('tensorflow', 'keras', 'tf2onnx') if "
    "m in sys.modules], file=sys.stderr)); from cnnexport.cli import main; main()")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of resnet18 with 10 classes at 40x32 (untrained), photos, and a folder of 3 classes."""
    place = tmp_path_factory.mktemp("work")
    convert("resnet18", input_shape=(40, 32, 3), classes=10, output=place / "b")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.bmp"):
        small = Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8))
        small.resize((90, 70), Image.Resampling.BICUBIC).save(place / name)
    Image.open(place / "a.png").convert("L").save(place / "grey.png")
    for index, name in enumerate(("0", "3", "7")):
        (place / "d" / name).mkdir(parents=True)
        for number in range(5):
            shade = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8) // (index + 1)
            Image.fromarray(shade).save(place / "d" / name / f"{number}.png")
    return place


def test_predict_is_what_keras_says_of_the_prepared_image(place: Path) -> None:
    from cnnexport import architectures

    images = [place / name for name in ("a.png", "b.jpg", "c.bmp", "grey.png")]
    answers, manifest = predict(place / "b", images, top=10)
    model = architectures.build("resnet18", input_shape=(40, 32, 3), classes=10)
    recipe = Preparation(40, 32, 3, CAFFE)
    facts = manifest["preprocessing"]
    assert facts["mean"] == list(recipe.recipe.mean) or facts["color_order"] == "RGB"
    for image, answer in zip(images, answers):
        pixels = prepare(decode(image)[None], preparation(facts, 40, 32))
        expected = model.predict_on_batch(pixels)[0]
        said = {p.index: p.probability for p in answer.predictions}
        np.testing.assert_allclose([said[i] for i in range(10)], expected, rtol=1e-3, atol=1e-5)
        assert [p.probability for p in answer.predictions] == sorted(said.values(), reverse=True)


def test_predict_and_evaluate_import_no_tensorflow_and_say_untrained(place: Path) -> None:
    for arguments in (["predict", "b", "a.png", "--json"], ["evaluate", "b", "--data", "digits", "--json"],
                      ["evaluate", "b", "--data", "d", "--split", "all", "--json"]):
        done = subprocess.run([sys.executable, "-c", _PROBE, *arguments], capture_output=True, text=True, cwd=place)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines() == [
            "cnnexport: warning: Untrained: the weights are random (seed 0); what the model answers means nothing.",
            "[]"]
        assert json.loads(done.stdout)["untrained"] is True


def test_evaluate_counts_what_predict_says(place: Path) -> None:
    found = evaluation.evaluate(place / "b", place / "d", split="all", batch=4)
    right = 0
    for name in ("0", "3", "7"):
        answers, _ = predict(place / "b", sorted((place / "d" / name).iterdir()), top=1)
        right += sum(a.predictions[0].label == name for a in answers)
    assert (found["correct"], found["images"], found["provider"]) == (right, 15, "CPUExecutionProvider")
    assert found["nodes"]["CPUExecutionProvider"] > 10 and found["seen_in_training"] is None
    assert [row["images"] for row in found["per_class"]] == [5, 0, 0, 5, 0, 0, 0, 5, 0, 0]
    assert 0 < found["top_5_accuracy"] <= 1


def test_one_bad_image_does_not_stop_the_rest(place: Path, cnnexport: Any) -> None:
    (place / "bad.png").write_text("no image")
    result = cnnexport("predict", place / "b", place / "bad.png", place / "a.png", place / "none.png", "--json")
    assert result.code == 3 and "bad.png is no image" in result.err and "none.png does not exist" in result.err
    told = json.loads(result.out)["images"]
    assert [bool(row["error"]) for row in told] == [True, False, True] and len(told[1]["predictions"]) == 5


def test_bundles_that_cannot_classify_are_one_line(place: Path, cnnexport: Any, tmp_path: Path) -> None:
    import shutil

    assert cnnexport("convert", "resnet18", "--input-shape", "32x32x3", "--no-top", "-o", "f", "--quiet").code == 0
    shutil.copytree(place / "b", "altered")
    with open("altered/model.onnx", "r+b") as file:
        file.seek(5000)
        file.write(b"\0\1\2\3")
    (tmp_path / "empty").mkdir()
    for target, code, words in (("f", 3, "no classifier of images"), ("altered", 6, "model.onnx was altered"),
                                ("none", 3, "does not exist"), ("empty", 3, "without manifest.json"),
                                ("altered/model.onnx", 3, "is a file")):
        for arguments in (["predict", target, place / "a.png"], ["evaluate", target, "--data", "digits"]):
            result = cnnexport(*arguments)
            assert (result.code, result.out) == (code, "") and words in result.err, result.err
            assert result.err.startswith("cnnexport: error: ") and result.err.count("\n") == 1


def test_data_of_other_classes_is_refused(place: Path, cnnexport: Any, tmp_path: Path) -> None:
    x = np.zeros((6, 8, 8), np.uint8)
    np.savez(tmp_path / "named.npz", x_test=x, y_test=np.arange(6) % 3, class_names=np.asarray(["cat", "dog", "7"]))
    np.savez(tmp_path / "high.npz", x_test=x, y_test=np.asarray([0, 1, 2, 3, 4, 11]))
    np.savez(tmp_path / "good.npz", x_test=x, y_test=np.arange(6))
    # The bundle's classes have no names, so numbers are all there is to go by.
    assert cnnexport("evaluate", place / "b", "--data", "named.npz").code == 0
    result = cnnexport("evaluate", place / "b", "--data", "high.npz")
    assert result.code == 3 and "has the label" in result.err
    assert cnnexport("evaluate", place / "b", "--data", "good.npz").code == 0
    result = cnnexport("evaluate", place / "b", "--data", "good.npz", "--split", "train")
    assert result.code == 2 and "has no train images" in result.err


def test_a_provider_that_cannot_be_had(place: Path, cnnexport: Any) -> None:
    from cnnexport import doctor

    if any(c.name == "CUDAExecutionProvider" and c.ok for c in doctor.doctor()):
        pytest.skip("CUDA works here")
    for arguments in (["predict", place / "b", place / "a.png"], ["evaluate", place / "b", "--data", "digits"]):
        result = cnnexport(*arguments, "--provider", "cuda")
        assert result.code == 5 and "CUDAExecutionProvider is unavailable" in result.err


def test_a_classifier_takes_files_their_content_and_pixels(place: Path) -> None:
    classifier = Classifier.open(place / "b")
    files = [place / name for name in ("a.png", "b.jpg", "grey.png")]
    expected = classifier.predict(files)
    pixels = [decode(file) for file in files]
    for given in (list(map(str, files)), [file.read_bytes() for file in files], pixels, iter(pixels)):
        found = classifier.predict(given)
        assert [a.predictions for a in found] == [a.predictions for a in expected]
    for one in (files[0], str(files[0]), files[0].read_bytes(), pixels[0]):
        (answer,) = classifier.predict(one, top=1)
        assert answer.predictions == expected[0].predictions[:1]
    batch = np.stack([pixels[0]] * 40)  # more than run at once
    assert len({a.predictions[0].index for a in classifier.predict(batch)}) == 1
    assert [a.image for a in classifier.predict([pixels[0], files[0]])] == ["image 0", str(files[0])]
    assert classifier.predict([]) == []


def test_what_is_no_image_is_told(place: Path) -> None:
    classifier = Classifier.open(place / "b")
    for wrong in (np.zeros((4, 4, 3), np.float32), np.zeros((2, 4, 4, 7), np.uint8), [np.zeros(4, np.uint8)]):
        with pytest.raises(UsageError, match="as uint8"):
            classifier.predict(wrong)
    good, bad = classifier.predict([place / "a.png", b"no image"])
    assert good.predictions and not good.error and bad.error and "the image is no image" in bad.error


@pytest.mark.parametrize("runtime", ["reference", "openvino"])
def test_other_runtimes_classify_alike(place: Path, runtime: str) -> None:
    if not runtimes.get(runtime).installed():
        pytest.skip(f"{runtime} is not installed")
    files = sorted((place / "d" / "3").iterdir())[:2]
    usual, other = Classifier.open(place / "b"), Classifier.open(place / "b", runtime=runtime)
    for a, b in zip(usual.predict(files, top=10), other.predict(files, top=10)):
        said = {p.index: p.probability for p in a.predictions}
        assert all(p.probability == pytest.approx(said[p.index], rel=1e-3, abs=1e-6) for p in b.predictions)
    found = evaluation.evaluate(place / "b", place / "d", split="all", runtime=runtime)
    assert found["runtime"] == runtime and found["nodes"] and "ONNX Runtime" not in evaluation.format_evaluation(found)
    assert found["correct"] == evaluation.evaluate(place / "b", place / "d", split="all")["correct"]
