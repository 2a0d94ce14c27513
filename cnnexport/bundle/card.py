"""The model card of a bundle, made from its manifest and parity record alone."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from cnnexport.bundle.records import MODEL, Accuracy, Manifest, Parity, VariantVerdict
from cnnexport.bundle.vectors import FOLDER


def model_card(manifest: Manifest, parity: Parity, verdicts: Sequence[VariantVerdict] = ()) -> str:
    """The card as Markdown."""
    parts = [
        f"# {manifest.name}",
        _notice(manifest),
        _about(manifest),
        "## Inputs and outputs\n\n" + _tensors(manifest),
        "## Preprocessing\n\n" + _preprocessing(manifest),
        "## Run it\n\n" + _example(manifest),
        "## Evidence\n\n" + _evidence(parity),
        *(["## Other precisions\n\n" + _precisions(verdicts)] if verdicts else []),
        "## Files\n\n" + _files(manifest),
        "Made with " + ", ".join(f"{k} {v}" for k, v in manifest.versions.items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _notice(manifest: Manifest) -> str:
    statement = manifest.provenance.statement
    if manifest.untrained:
        statement = statement.replace("Untrained:", "**Untrained:**", 1)
    return f"> {statement}"


def _about(manifest: Manifest) -> str:
    architecture = manifest.architecture
    macs = "unknown" if manifest.macs is None else f"{manifest.macs:,}"
    rows = []
    if architecture:
        rows.append(f"- Architecture: {architecture.name} ({architecture.family}), {architecture.source}")
        rows += [f"  - differs from the paper: {what}" for what in architecture.differences]
    rows += [
        f"- Parameters: {manifest.parameters:,}",
        f"- Multiply-accumulates for one image: {macs}",
        f"- ONNX opset {manifest.opset}, IR version {manifest.ir_version}",
    ]
    if manifest.labels:
        rows.append(f"- Classes: {len(manifest.labels)}, named in `manifest.json`")
    return "\n".join(rows)


def _tensors(manifest: Manifest) -> str:
    rows = ["| tensor | name | dtype | shape | layout | values |", "|---|---|---|---|---|---|"]
    for kind in ("inputs", "outputs"):
        for tensor in getattr(manifest, kind):
            shape = " x ".join("?" if d is None else str(d) for d in tensor.shape)
            values = "not known" if tensor.value_range is None else "{} .. {}".format(*tensor.value_range)
            meaning = None if tensor.meaning is UNSET else tensor.meaning
            rows.append(f"| {kind[:-1]} | `{tensor.name}` | {tensor.dtype} | {shape} | "
                        f"{tensor.layout or ''} | {values}{f'; {meaning}' if meaning else ''} |")
    return "\n".join(rows)


def _preprocessing(manifest: Manifest) -> str:
    recipe = manifest.preprocessing
    if recipe is None:
        return "Not known: feed what the model was built or trained for."
    image = recipe.image
    steps = "" if image is None else (
        f"Decode ({image.decode}), {image.channels} channel{'s' if image.channels > 1 else ''}, resize to "
        f"{image.height} x {image.width} ({image.resize}). ")
    return (f"{recipe.description}.\n\n{steps}Then `(pixel * {recipe.scale} - mean) / std` "
            f"with mean {list(recipe.mean)}"
            f"{' and std ' + str(list(recipe.std)) if recipe.std else ' and no division'}, "
            f"channels in the order {recipe.color_order}.")


def _example(manifest: Manifest) -> str:
    feeds = []
    for index, tensor in enumerate(manifest.inputs):
        feeds.append(f'    "{tensor.name}": load("input_{index}"),')
    return "\n".join([
        "```python",
        "import numpy as np, onnx, onnxruntime",
        "from onnx import numpy_helper",
        "",
        "def load(name):",
        '    return numpy_helper.to_array(onnx.load_tensor(f"' + FOLDER + '/{name}.pb"))',
        "",
        'session = onnxruntime.InferenceSession("' + MODEL + '", providers=["CPUExecutionProvider"])',
        "outputs = session.run(None, {",
        *feeds,
        "})",
        'print(np.abs(outputs[0] - load("output_0")).max())',
        "```",
        "",
        f"`{FOLDER}` holds an input and what Keras computed for it, as the ONNX model zoo lays them out.",
    ])


def _evidence(parity: Parity) -> str:
    passed = "passed" if parity.passed else "**failed**"
    batches = ", ".join(map(str, parity.batches))
    worst = "not finite" if parity.worst_error is None else f"{parity.worst_error:.1e}"
    runtime = parity.versions.get("onnxruntime") or parity.versions.get("onnxruntime-gpu", "")
    accuracy = _accuracy(parity.test_set) if parity.test_set else ""
    hard = ""
    if parity.by_truth:
        told = "the same network in float64" if parity.by_truth.told_by == "float64" else "Keras moved by rounding"
        hard = (f" In {parity.by_truth.rows} rows of extreme inputs Keras itself loses digits; they were judged by "
                f"{told}, and are off by at most {parity.by_truth.times or 0:.1f} times what Keras is.")
    levels = " and ".join(sorted({c["level"] for c in parity.comparisons}))
    return (f"Parity with Keras {passed}: batches {batches}, worst error {worst} standard deviations of the output "
            f"({parity.tolerance.max_error:.0e} allowed), compared on {levels}, in ONNX Runtime "
            f"{runtime} on the CPU. Details in `parity.json`.{hard}{accuracy}").replace("  ", " ")


def _precisions(verdicts: Sequence[VariantVerdict]) -> str:
    rows = ["| model | verdict | why |", "|---|---|---|"]
    rows += [f"| `{v.model}` | **{v.verdict}** (by {v.criterion}) | {'; '.join(v.reasons)} |" for v in verdicts]
    return "\n".join([*rows, "", "Each verdict is of the file of that SHA-256 alone; details in `verdict.json`."])


def _accuracy(test: Accuracy) -> str:
    low, high = test.accuracy_interval_95
    return (f"\n\nAccuracy on the {test.images:,} test images of {test.data}, measured in ONNX Runtime: "
            f"{test.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}); each image gets the class that Keras "
            "gives it.")


def _files(manifest: Manifest) -> str:
    rows = ["| file | bytes | SHA-256 |", "|---|---|---|"]
    rows += [f"| `{name}` | {facts.bytes:,} | `{facts.sha256}` |" for name, facts in manifest.files.items()]
    return "\n".join(rows)
