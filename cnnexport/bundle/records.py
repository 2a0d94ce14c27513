"""What ``manifest.json``, ``parity.json`` and ``verdict.json`` hold: one definition writes, reads and documents them.

``manifest.schema.json``, ``parity.schema.json`` and ``verdicts.schema.json`` beside this file are made from it
(``schema``), for other readers.
A version of a schema grows when a field changes its meaning or an older reader would refuse it; older ones are read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from cnnexport.bundle.layer_records import LayerError, LayerTimes
from cnnexport.errors import BundleError
from cnnexport.options import ConvertOptions
from cnnexport.text import all_in_line, shortened

MODEL = "model.onnx"
"""The file of the first model of a bundle, the one that the gate compared with Keras in Keras' own precision."""
MANIFEST, PARITY, VERDICTS, CARD = "manifest.json", "parity.json", "verdict.json", "README.md"

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Range = tuple[float, float]
Size = Annotated[int, Meta(ge=0)]


class Tensor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input or output of the ONNX file."""

    name: str
    dtype: Annotated[str, Meta(description="As numpy spells it.")]
    shape: Annotated[tuple[int | str | None, ...], Meta(description="A name is a dynamic dimension; null is open.")]
    layout: Annotated[Literal["NHWC", "NCHW"] | None, Meta(description="Of 4-D tensors.")]
    value_range: Annotated[Range | None, Meta(description="Lowest and highest value; null where it is not known.")]
    meaning: Annotated[str | UnsetType | None, Meta(description="Of an output.")] = UNSET
    keras_name: Annotated[str | UnsetType, Meta(description="Where it is another.")] = UNSET


class Provenance(Struct, frozen=True, kw_only=True):
    """Where the weights come from."""

    weights: Literal["random", "imagenet", "file", "memory", "run"]
    untrained: bool | None
    seed: Annotated[int | UnsetType, Meta(description="Of random weights.")] = UNSET
    statement: Annotated[str, Meta(description="The same in one sentence.")]
    file: Annotated[str | UnsetType, Meta(description="Name of the weights or model file.")] = UNSET
    sha256: Sha256 | UnsetType = UNSET
    training_steps: Annotated[int | UnsetType | None, Meta(description="Optimizer steps recorded in the file.")] = UNSET
    run: Annotated[dict[str, Any] | UnsetType, Meta(
        description="Of a training run: options, data and its checksum, epochs, times, versions, metrics.")] = UNSET


class ArchitectureFacts(Struct, frozen=True, kw_only=True):
    """A registered architecture, and its published source."""

    name: str
    family: str
    depth: Annotated[int, Meta(description="Weight layers on the longest path.")]
    source: Annotated[str, Meta(description="Authors, title, venue and year.")]
    differences: Annotated[tuple[str, ...], Meta(description="What differs from the paper, and why.")] = ()


class ImageSteps(Struct, frozen=True, kw_only=True):
    """What is done to an image before the formula, step by step."""

    decode: str
    channels: int
    to_grey: Annotated[tuple[float, ...], Meta(description="Weights of red, green and blue.")]
    to_rgb: str
    height: int
    width: int
    resize: str


class PreprocessingFacts(Struct, frozen=True, kw_only=True):
    """What turns pixels of 0..255 into the input: ``formula``, channels in ``color_order``."""

    description: str
    color_order: Literal["RGB", "BGR", "grey"]
    scale: float
    mean: tuple[float, ...]
    std: Annotated[tuple[float, ...], Meta(description="Empty: nothing is divided.")]
    value_range: Range
    formula: str
    image: Annotated[ImageSteps | None, Meta(description="null where the input's size is open.")] = None


class LayerFacts(Struct, frozen=True, kw_only=True):
    """A Keras layer and the ONNX tensor that holds its output, or that of the layer folded into it (``holds``)."""

    layer: str
    kind: str
    tensor: str | None
    holds: str | None
    reason: Annotated[str, Meta(description="Why no tensor holds it.")]


class Accuracy(Struct, frozen=True, kw_only=True):
    """Accuracy on the test images of a training run, measured in a runtime."""

    data: str
    data_sha256: Sha256
    split: str = "test"
    images: Size
    correct: Size
    accuracy: float
    accuracy_interval_95: Range
    keras_correct: Size | UnsetType = UNSET
    differing: Annotated[Size, Meta(description="Images to which Keras gives another class.")]
    first_differing: tuple[int, ...] = ()
    runtime: str = "onnxruntime"
    provider: str = "CPUExecutionProvider"
    passed: bool


class FileFacts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a bundle."""

    bytes: Size
    sha256: Sha256


class ModelFacts(Struct, frozen=True, kw_only=True):
    """One ONNX file of the network: the first as Keras computes it, others in a precision of their own."""

    id: Annotated[str, Meta(description="What a command calls it.", pattern="^[a-z0-9][a-z0-9._-]*$")]
    file: str
    precision: Annotated[str, Meta(description="What it computes in.")]
    parity: Annotated[str, Meta(
        description="The file that holds its comparison: of the first with Keras, of others with the first.")]
    io: Annotated[str | UnsetType, Meta(
        description="The type of floating-point inputs and outputs, where it is not that of the manifest.")] = UNSET


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a bundle says about itself."""

    NEWEST: ClassVar[int] = 2

    schema_version: Annotated[int, Meta(ge=1, le=2)] = 2
    name: Annotated[str, Meta(description="The architecture's name, or the stem of the user's model file.")]
    untrained: Annotated[bool | None, Meta(
        description="true: the weights were never trained; null: the model file does not say.")]
    provenance: Provenance
    architecture: Annotated[ArchitectureFacts | None, Meta(description="null for a user's own model.")]
    options: ConvertOptions
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1)]
    preprocessing: Annotated[PreprocessingFacts | None, Meta(description="null where it is not known.")]
    outputs: Annotated[tuple[Tensor, ...], Meta(min_length=1)]
    labels: Annotated[tuple[str, ...] | None, Meta(
        description="Class names by index; null where they are not known.")]
    opset: Annotated[int, Meta(description="Version of the default ONNX operator set.")]
    ir_version: int
    parameters: Annotated[int, Meta(description="Keras' own count, before anything was folded.")]
    macs: Annotated[int | None, Meta(
        description="Multiply-accumulates of convolutions and products for one image; null where shapes are open.")]
    layers: tuple[LayerFacts, ...] = ()
    evaluation: Annotated[Accuracy | None, Meta(description="null for what is no training run.")] = None
    models: tuple[ModelFacts, ...] = ()
    files: Annotated[dict[str, FileFacts], Meta(
        description="Every file of the bundle but the manifest, by relative name.")]
    versions: Annotated[dict[str, str], Meta(description="Of the packages that made the bundle.")]

    @property
    def model_bytes(self) -> int:
        """The size of the first model, with its external data."""
        return sum(facts.bytes for name, facts in self.files.items() if name.startswith(MODEL))


class ToleranceFacts(Struct, frozen=True, kw_only=True):
    """The errors allowed, in ``unit``."""

    unit: str = "standard deviations of Keras' output"
    precision: Literal["float64", "float32", "float16", "bfloat16"]
    terms: int | None = None
    max_error: Annotated[float, Meta(gt=0)]
    rms_error: Annotated[float, Meta(gt=0)]
    rounding_ulps: float = 64
    longest_sum: int = 0
    reason: str = ""


class StoredBounds(Struct, frozen=True, kw_only=True):
    """What a runtime may be off Keras' stored outputs, where Keras itself is off the truth."""

    max_error: Annotated[float, Meta(gt=0)]
    rms_error: Annotated[float, Meta(gt=0)]


class ByTruth(Struct, frozen=True, kw_only=True):
    """Rows in which Keras itself loses digits, judged by their distance from the truth."""

    rows: Size
    ill: Annotated[Size, Meta(description="Of these, in which float32 means nothing: they prove nothing.")]
    told_by: Annotated[str, Meta(description="float64: the same network in it; rounding: Keras moved by it.")]
    times: Annotated[float | None, Meta(description="The largest error, in those of Keras.")]


class SensitivityFacts(Struct, frozen=True, kw_only=True):
    """Whether a change of each layer's weights would be seen."""

    perturbation: float
    unit: str
    insensitive: tuple[str, ...] = ()
    layers: tuple[dict[str, Any], ...] = ()


class Parity(Struct, frozen=True, kw_only=True):
    """The comparison of one ONNX file with Keras. Numbers that are not finite are null."""

    NEWEST: ClassVar[int] = 2

    schema_version: Annotated[int, Meta(le=2)] = 2
    passed: bool
    reason: Annotated[str | None, Meta(
        description="different, precision, insensitive or predictions; null where it passed.")] = None
    model_sha256: Sha256
    reference: str = "keras"
    runtime: str = "onnxruntime"
    provider: str = "CPUExecutionProvider"
    versions: dict[str, str] = {}
    batches: tuple[int, ...] = ()
    batch_budget_macs: float | None = None
    kinds: Annotated[tuple[str, ...], Meta(description="Of what both sides were fed.")] = ()
    seed: int | None = None
    tolerance: ToleranceFacts
    lower_precision: Annotated[str | None, Meta(description="What in the file is coarser than was asked for.")] = None
    optimiser: Annotated[str | None, Meta(
        description="coarse: the runtime's graph optimisation rounds more than Keras; without it the file is within "
                    "the bounds.")] = None
    worst_error: Annotated[float | None, Meta(
        description="In standard deviations of Keras' output, of the rows that keep the tolerance.")]
    by_truth: ByTruth | UnsetType = UNSET
    stored: Annotated[StoredBounds | UnsetType, Meta(
        description="What the stored test vectors may be off, where it is more than the tolerance.")] = UNSET
    comparisons: Annotated[tuple[dict[str, Any], ...], Meta(
        description="A cnnexport.parity.Comparison each.")] = ()
    layers: Annotated[tuple[dict[str, Any], ...], Meta(
        description="A cnnexport.parity.layers.LayerComparison each.")] = ()
    first_diverging_layer: str | None = None
    sensitivity: SensitivityFacts | None = None
    test_set: Accuracy | UnsetType = UNSET


class CalibrationFacts(Struct, frozen=True, kw_only=True):
    """The images that set the ranges of activations."""

    source: Annotated[str, Meta(description="A data set's name, or synthetic.")]
    sha256: Annotated[Sha256 | None, Meta(description="Over everything in the source; null of synthetic images.")]
    split: Annotated[Literal["train", "synthetic"], Meta(description="Never the test images.")]
    indices: tuple[int, ...]
    method: str = "minmax"


class Kept(Struct, frozen=True, kw_only=True):
    """A node that was left in float32, and why."""

    node: str
    operator: str
    reason: str


class PairedAccuracy(Struct, frozen=True, kw_only=True):
    """Accuracy on labelled images against the first model, image by image."""

    data: str
    data_sha256: Sha256
    split: str = "test"
    images: Size
    float_correct: Size
    correct: Size
    only_float_correct: Size
    only_variant_correct: Size
    drop_points: float
    drop_interval_95: Annotated[Range, Meta(description="Tango's score interval of paired shares, in points.")]
    p_value: Annotated[float, Meta(description="McNemar's exact test.")]
    agreement: float
    flips: Annotated[dict[str, Size], Meta(description="Images that got another class, by their own class.")] = {}
    max_drop: Annotated[float, Meta(description="Points that were allowed.")]
    images_needed: Annotated[int | None, Meta(
        description="With which the same shares would ship; null where no number would.")] = None


class Fidelity(Struct, frozen=True, kw_only=True):
    """How near the answers are to the first model's, whatever is right."""

    images: Size
    source: str
    top_1_agreement: float
    agreement_interval_95: Range
    logits_rms: Annotated[float, Meta(description="In standard deviations of the first model's logits.")]
    logits_max: float
    allowed_rms: float


class SpeedFacts(Struct, frozen=True, kw_only=True):
    """Both models in turn in one process, in pairs of fresh sessions."""

    runtime: str
    provider: str = "CPUExecutionProvider"
    batch: int
    threads: int
    sessions: int
    rounds: int
    float_ms: float
    variant_ms: float
    speed_up: Annotated[float, Meta(description="Time of the first model in that of this one.")]
    speed_up_interval_95: Range


class VariantVerdict(Struct, frozen=True, kw_only=True):
    """Whether a model in another precision is fit to take the place of the first, for the files of these hashes."""

    model: Annotated[str, Meta(description="Its id in the manifest.")]
    precision: Literal["int8", "fp16", "bf16"]
    model_sha256: Sha256
    float_sha256: Sha256
    verdict: Literal["ship", "reject", "inconclusive"]
    criterion: Annotated[Literal["accuracy", "fidelity"], Meta(description="What the verdict rests on.")]
    purpose: Annotated[Literal["speed", "size"], Meta(description="What it must gain to ship.")]
    reasons: tuple[str, ...]
    faults: Annotated[tuple[str, ...], Meta(description="What in the file does not follow from the first.")] = ()
    accuracy: PairedAccuracy | None
    fidelity: Fidelity
    speed: SpeedFacts
    bytes: Size
    float_bytes: Size
    stored_rms: Annotated[float, Meta(
        description="Off Keras' stored outputs, in standard deviations of their logits.")]
    calibration: CalibrationFacts | None
    settings: Annotated[dict[str, Any], Meta(description="How the file was made.")] = {}
    kept: tuple[Kept, ...] = ()
    layers: tuple[LayerError, ...] = ()
    times: LayerTimes | None = None
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = {}


class Verdicts(Struct, frozen=True, kw_only=True):
    """What ``verdict.json`` holds: a verdict for each model but the first."""

    NEWEST: ClassVar[int] = 1

    schema_version: Annotated[int, Meta(ge=1, le=1)] = 1
    verdicts: tuple[VariantVerdict, ...]


Record = TypeVar("Record", Manifest, Parity, Verdicts)


class _Versioned(Struct):
    schema_version: Any = None


def decode(path: Path, text: bytes, kind: type[Record]) -> Record:
    """The record that the JSON ``text`` of ``path`` holds.

    Raises BundleError where it is no JSON or does not follow its schema, or where its version is newer than ours.
    """
    try:
        version = msgspec.json.decode(text, type=_Versioned).schema_version
        if isinstance(version, int) and not isinstance(version, bool) and version > kind.NEWEST:
            raise BundleError(f"{path} is of schema version {version}, and this cnnexport reads up to {kind.NEWEST}; "
                              "install a newer one, or convert the model again")
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$")
        where = re.sub(r"^\.", "", place.removesuffix("`"))[:100] or "its top"
        raise BundleError(f"{path} does not follow its schema at {where}: {shortened(what)}; convert the model "
                          "again") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read ({all_in_line(error)}); convert the model again") from error


def values(record: Any) -> dict[str, Any]:
    """A record, or a part of one, as JSON values. Raises ValueError for a number that is not finite."""
    made: dict[str, Any] = json.loads(json.dumps(msgspec.to_builtins(record), allow_nan=False))
    return made


def schema(kind: type[Struct]) -> dict[str, Any]:
    """The JSON schema of a kind of record."""
    made: dict[str, Any] = json.loads(json.dumps(msgspec.json.schema(kind)))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
