"""What is measured: a bundle whose gate passed, or any ONNX file; and what it is fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexport import files, onnx_file
from cnnexport.bundle import Bundle, located
from cnnexport.errors import BundleError, UsageError
from cnnexport.onnx_file.inputs import Input, read_inputs

if TYPE_CHECKING:
    from cnnexport.parity.tolerances import Tolerance

UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Subject:
    """A file to measure, with its hash and what is known of its correctness.

    ``parity`` is the record of a bundle's gate, or of a variant's verdict, for this very hash; None makes each row
    ``unverified``.
    ``stored`` is what another runtime may be off the outputs that the bundle stores, ``stored_rms`` what a variant was
    when it was judged.
    """

    name: str
    path: str
    file: str
    sha256: str
    external: dict[str, str]
    inputs: tuple[Input, ...]
    fixed_batch: int | None
    dynamic_batch: bool
    parity: dict[str, Any] | None
    untrained: bool | None
    weight_bytes: int
    skeleton: bytes = field(default=b"", repr=False)
    stored: Tolerance | None = None
    stored_rms: float | None = None

    @property
    def verified(self) -> bool:
        return self.parity is not None and bool(self.parity["passed"])

    def batches(self, asked: tuple[int, ...] | None, default: tuple[int, ...]) -> tuple[int, ...]:
        """The batch sizes to measure. Raises UsageError where the file's own is another."""
        if self.dynamic_batch:
            return asked or default
        fixed = self.fixed_batch or 1
        wrong = [b for b in asked or () if b != fixed]
        if wrong:
            why = (f"its batch is fixed at {fixed}" if self.fixed_batch is not None
                   else "its inputs share no open batch dimension")
            raise UsageError(f"{self.path} cannot run at batch {wrong[0]}: {why}; leave --batch out, or export it with "
                             "a dynamic batch")
        return (fixed,)

    def shapes(self, batch: int) -> dict[str, list[int]]:
        """The shape of each input at a batch size."""
        return {i.name: i.at(batch) for i in self.inputs}

    def macs(self, batch: int) -> int | None:
        """Multiply-accumulates of one run at a batch size; None where shapes cannot be inferred.

        None of int8 too: the machine's limit is measured in float32.
        """
        if (self.parity or {}).get("precision") == "int8":
            return None
        import onnx

        return onnx_file.count_macs(onnx.ModelProto.FromString(self.skeleton), batch, self.shapes(batch))[0]

    def specs(self, batch: int) -> list[dict[str, Any]]:
        """What ``fill`` needs to know of the inputs at a batch size."""
        return [i.spec(batch) for i in self.inputs]

    def check_unchanged(self) -> None:
        """Raises BundleError where the file is no longer the one that was read."""
        changed = [name for name, digest in {Path(self.file).name: self.sha256, **self.external}.items()
                   if _hash_of(Path(self.file).parent / name) != digest]
        if changed:
            raise BundleError(f"{Path(self.file).parent / changed[0]} was altered while it was measured; its timings "
                              "are void: run again on a file that nothing writes to")


def _hash_of(path: Path) -> str:
    try:
        return files.sha256(path)
    except OSError:
        return "gone"


def subject(target: str, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Subject:
    """The subject meant by ``target``, a bundle folder or an ONNX file.

    ``shapes`` fixes open dimensions by input name ("" for the only input).

    Raises:
        InputError: a file that cannot be read, or inputs that nothing can fill.
        UsageError: a shape that contradicts the file.
        BundleError: a bundle incomplete or altered.
        ParityError: a bundle whose gate did not pass.
    """
    from cnnexport.parity.stored import stored_bounds

    path = Path(target)
    file, found = located(path)
    model, size, digest = onnx_file.load_model(file)
    external = onnx_file.external_files(model, file)
    weights = sum(onnx_file.tensor_bytes(t) for t in onnx_file.initializers(model.graph))
    slim = onnx_file.without_weights(model, in_place=True)
    ranges = {t.name: t.value_range for t in found.about.inputs} if found else {}
    inputs = read_inputs(model, str(target), shapes or {}, ranges)
    dynamic = any(i.batched and i.shape[0] is None for i in inputs)
    firsts = {i.shape[0] for i in inputs if i.batched}
    fixed = next(iter(firsts)) if len(firsts) == 1 and not dynamic else None
    del size
    stem = path.stem if path.stem != "model" else path.absolute().parent.name
    name = (found.about.name if found else "") or stem or path.stem
    if found is not None and found.verdict is not None:
        name = f"{name}#{found.variant}"
    return Subject(
        name=name, path=str(target), file=str(file.absolute()), sha256=digest,
        external={e.location: e.sha256 for e in external}, inputs=inputs, fixed_batch=fixed, dynamic_batch=dynamic,
        parity=None if found is None else _record(found),
        untrained=None if found is None else found.about.untrained,
        weight_bytes=weights, skeleton=slim.SerializeToString(),
        stored=None if found is None or found.verdict else stored_bounds(found.proof),
        stored_rms=found.verdict.stored_rms if found is not None and found.verdict else None)


def _record(found: Bundle) -> dict[str, Any]:
    """What a row needs of a parity record, or of a variant's verdict."""
    if (judged := found.verdict) is not None:
        return {"passed": judged.verdict == "ship", "verdict": judged.verdict, "precision": judged.precision,
                "criterion": judged.criterion,
                "model_sha256": judged.model_sha256, "worst_error": judged.fidelity.logits_max,
                "versions": judged.versions}
    parity = found.parity
    return {"passed": True, "model_sha256": parity["model_sha256"], "worst_error": parity.get("worst_error"),
            "tolerance": parity["tolerance"], "versions": parity.get("versions")}
