"""`verify`: is a bundle whole, and does it still compute what Keras computed? Without TensorFlow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexport import files, supervision
from cnnexport import runtimes as registry
from cnnexport.bundle import Bundle
from cnnexport.bundle.opening import parted
from cnnexport.bundle.vectors import FOLDER
from cnnexport.errors import BundleError, CnnexportError, InputError, ProviderError, UsageError
from cnnexport.runtimes import Runtime, Session, profile
from cnnexport.text import all_in_line

if TYPE_CHECKING:
    from cnnexport.onnx_file.inputs import Input, Shapes

MAX_TIME = 60.0
"""Seconds that a runtime may take, unless asked otherwise: a loop in a hostile file never ends."""
_MOST_ELEMENTS = 1 << 31
"""Elements of the largest tensor that a graph may make; beyond it memory would be at the file's mercy."""


@dataclass(frozen=True)
class Check:
    """One step of a verification, its finding in a few words, and its seconds."""

    name: str
    passed: bool
    detail: str
    seconds: float


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found; ``verified`` is False for a bare ONNX file, with which nothing was compared.

    ``error`` is what the last check failed with, where one did: the checks after it were not made.
    """

    path: str
    verified: bool
    checks: tuple[Check, ...]
    warnings: tuple[str, ...] = ()
    error: CnnexportError | None = None

    @property
    def passed(self) -> bool:
        return self.error is None and all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The verification as JSON values."""
        return {
            "path": self.path, "verified": self.verified, "checks": [asdict(check) for check in self.checks],
            "warnings": list(self.warnings), "passed": self.passed,
            "error": None if self.error is None else str(self.error),
            "exit_code": 0 if self.error is None else self.error.exit_code,
        }

    def format(self) -> str:
        """A line for each step."""
        width = max(len(check.name) for check in self.checks)
        lines = [f"{'ok  ' if c.passed else 'FAIL'} {c.name:<{width}}  {c.detail}" for c in self.checks]
        state = "passed" if self.passed else "FAILED"
        more = "" if self.verified else " (unverified: nothing to compare it with; give --against)"
        return "\n".join([*lines, f"{state}: {self.path}{more}"])


def verify(path: Path, **options: Any) -> Verification:
    """As ``examine``, but a check that fails is raised.

    Raises:
        UsageError: a runtime that is unknown or not installed.
        InputError: an ONNX file that cannot be read, checked or run.
        ParityError: a runtime computes something else than Keras did.
        ProviderError: a provider that cannot be had or did not run the graph.
        BundleError: a bundle incomplete or altered.
    """
    found = examine(path, **options)
    if found.error is not None:
        raise found.error
    return found


def examine(
    path: Path,
    *,
    providers: Sequence[str] = ("cpu",),
    runtimes: Sequence[str] = ("ort",),
    max_time: float = MAX_TIME,
    shapes: Shapes | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Verification:
    """Verify a bundle, or as far as that goes a bare ONNX file; a check that fails ends the record.

    ``runtimes`` are names of the registry; ``providers`` ("cpu", "cuda") are theirs, each proven to have run the
    graph; a runtime that has none of them runs on its default. ``max_time`` is the seconds that a runtime may take to
    load and run the file. ``shapes`` are those of a bare file's inputs whose sizes it leaves open, by name ("" for the
    only input). Raises UsageError for a runtime that is unknown or not installed, and for shapes that do not fit.
    """
    path = Path(path)
    checks: list[Check] = []
    warnings: list[str] = []
    names = [""]

    def step(name: str, work: Callable[[], str]) -> None:
        names.append(name)
        progress(name)
        start = time.perf_counter()
        detail = work()
        checks.append(Check(name, True, detail, round(time.perf_counter() - start, 3)))

    try:
        verified = _examine(
            path, step, warnings, list(dict.fromkeys(providers)), list(dict.fromkeys(runtimes)), max_time, shapes or {})
    except CnnexportError as error:
        # A value that does not fit is no finding about the file.
        if isinstance(error, UsageError):
            raise
        failed = Check(names[-1] or "file", False, str(error), 0.0)
        return Verification(str(path), False, (*checks, failed), tuple(warnings), error)
    return Verification(str(path), verified, tuple(checks), tuple(warnings))


def _examine(
    path: Path, step: Any, warnings: list[str], providers: Sequence[str], runtimes: Sequence[str], max_time: float,
    shapes: Shapes,
) -> bool:
    """Make the checks; returns whether anything was compared with Keras."""
    from cnnexport.parity.stored import compare_with_judged, compare_with_stored, stored_bounds

    places = registry.chosen(runtimes, providers)
    if not files.is_folder(parted(path)[0]):
        warnings.extend(_verify_file(path, step, places, max_time, shapes))
        return False
    if shapes:
        raise UsageError("--shape is of a bare ONNX file: a bundle runs on the inputs stored in it; leave it out")

    found = Bundle.open(path, step=step)
    warnings.extend(f"{path} holds {name}, which is no part of the bundle" for name in found.strangers)
    file = found.file
    step("ONNX checker", lambda: check_model(file))
    inputs, outputs = stored_vectors(found)
    if found.model.io:
        inputs = {n: a.astype(found.model.io) if a.dtype.kind == "f" else a for n, a in inputs.items()}
    allowed = stored_bounds(found.proof)
    for runtime, provider in places:
        name = _name(runtime, provider)

        def vectors(runtime: Runtime = runtime, provider: str = provider, name: str = name) -> str:
            produced, proof = _run(file, runtime, provider, inputs, list(outputs), max_time)
            if found.verdict is not None:
                rms = compare_with_judged(outputs, produced, found.verdict.stored_rms, name)
                return (f"{rms:.1e} standard deviations off Keras' stored outputs, {found.verdict.stored_rms:.1e} when "
                        f"it was judged{proof}")
            worst = compare_with_stored(outputs, produced, allowed, name, f" of {path}")
            return (f"equals Keras' stored outputs to {worst:.1e} standard deviations ({allowed.max_error:.0e} "
                    f"allowed){proof}")

        step(name, vectors)
    return True


def _name(runtime: Runtime, provider: str) -> str:
    """What a step is called: the provider is named where the runtime has several."""
    return f"{runtime.name} on {provider}" if len(runtime.providers) > 1 else runtime.name


def _verify_file(
    path: Path, step: Any, places: Sequence[tuple[Runtime, str]], max_time: float, shapes: Shapes
) -> list[str]:
    """Check and run a bare file on seeded numbers; returns what sizes were assumed for it."""
    from cnnexport import onnx_file
    from cnnexport.onnx_file.inputs import fill, read_inputs

    inputs: list[Input] = []

    def check() -> str:
        inputs.extend(read_inputs(onnx_file.load_model(path)[0], str(path), shapes, most=_MOST_ELEMENTS // 32))
        return check_model(path, {i.name: i.at(1) for i in inputs})

    step("ONNX checker", check)
    feeds = fill([i.spec(1) for i in inputs])
    assumed = [a for i in inputs for a in i.assumed]
    for runtime, provider in places:
        def runs(runtime: Runtime = runtime, provider: str = provider) -> str:
            try:
                return "runs" + _run(path, runtime, provider, feeds, None, max_time)[1]
            except InputError as error:
                if not assumed:
                    raise
                raise InputError(f"{error} ({'; '.join(assumed)}; --shape gives others)") from error

        step(_name(runtime, provider), runs)
    return assumed


def check_model(file: Path, shapes: Shapes | None = None) -> str:
    """Check an ONNX file with ONNX's own checker, and that its sizes are sane. Raises InputError in one line.

    ``shapes`` are those that its inputs will have, where it leaves them open.
    """
    import onnx

    from cnnexport import onnx_file

    model, _, _ = onnx_file.load_model(file)
    onnx_file.external_files(model, file)
    for tensor in onnx_file.initializers(model.graph):
        stored = len(tensor.raw_data)
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if any(d < 0 for d in tensor.dims) or (stored and not external and stored != onnx_file.tensor_bytes(tensor)):
            raise InputError(f"{file}: tensor '{tensor.name[:80]}' has a shape that its data has not; export it again")
    try:
        onnx.checker.check_model(str(file))
    except Exception as error:  # ValidationError, or what a broken file makes the checker's parser raise
        raise InputError(f"{file} is not valid ONNX: {all_in_line(error)}; export it again") from error
    slim = onnx_file.without_weights(model, in_place=True)
    largest = _largest_tensor(slim, shapes or {})
    if largest > _MOST_ELEMENTS:
        raise InputError(f"{file} makes a tensor of {largest:,} elements, which no machine should be asked for; "
                         "export it again")
    opsets = ", ".join(f"{e.domain or 'ai.onnx'} {e.version}" for e in model.opset_import)
    return f"valid, opset {opsets}"


def _largest_tensor(slim: Any, shapes: Shapes) -> int:
    """Elements of the largest tensor in a graph whose shape follows from its inputs; sizes still open count as 1."""
    import contextlib

    import onnx

    from cnnexport.onnx_file.inputs import set_shapes

    set_shapes(slim, shapes)
    for value in slim.graph.input:
        for size in value.type.tensor_type.shape.dim:
            if not size.HasField("dim_value"):
                size.dim_value = 1
    with contextlib.suppress(Exception):  # what cannot be inferred is not counted
        slim = onnx.shape_inference.infer_shapes(slim, data_prop=True)
    values = [*slim.graph.input, *slim.graph.value_info, *slim.graph.output]
    return max((math.prod(abs(d.dim_value) or 1 for d in v.type.tensor_type.shape.dim) for v in values), default=0)


def stored_vectors(found: Bundle) -> tuple[dict[str, Any], dict[str, Any]]:
    """The stored inputs and outputs by name. Raises BundleError where they are not those of the manifest."""
    import onnx
    from onnx import numpy_helper

    made: list[dict[str, Any]] = []
    path = found.path
    for kind in ("input", "output"):
        arrays: dict[str, Any] = {}
        for index, tensor in enumerate(getattr(found.about, f"{kind}s")):
            name = f"{FOLDER}/{kind}_{index}.pb"
            if name not in found.about.files:
                raise BundleError(f"{path} has no {name}: it is incomplete; convert the model again")
            try:
                arrays[tensor.name] = numpy_helper.to_array(onnx.load_tensor(path / name))
            except Exception as error:  # protobuf's and NumPy's own
                raise BundleError(f"{path / name} is no tensor ({all_in_line(error)}); convert the model "
                                  "again") from error
        made.append(arrays)
    return made[0], made[1]


def _run(
    file: Path, runtime: Runtime, provider: str, feeds: Mapping[str, Any], names: list[str] | None, max_time: float
) -> tuple[list[Any], str]:
    """The outputs ``names`` (None: all) of a file in a runtime, and how it is proven where the graph ran.

    Raises InputError where that takes longer than ``max_time`` seconds (and is not ended from outside before).
    """
    max_time *= runtime.slowness
    with supervision.doing(f"{runtime.title} runs {file}", max_time):
        try:
            session = runtime.open(file, provider=provider)
            proof = session.describe()
            if provider != "cpu":
                proof = _proof(session, runtime.providers[provider], file, feeds)
            # A little less than the time from outside: what ends by itself can still be told in JSON.
            return session.run(names, feeds, seconds=0.9 * max_time), f", {proof}" if proof else ""
        except CnnexportError:
            raise
        except Exception as error:
            # The gate ran the file in the default runtime; what another one lacks says nothing against the file.
            who, advice = runtime.name, f"leave --runtime {runtime.name} out"
            if runtime.name == registry.DEFAULT:
                who, advice = runtime.title, "export it again"
            raise InputError(f"{who} cannot run {file}: {all_in_line(error)}; {advice}") from error


def _proof(session: Session, wanted: str, file: Path, feeds: Mapping[str, Any]) -> str:
    """That every node ran on the provider ``wanted``. Raises ProviderError where one did not."""
    placed = profile.counts(session.placement(feeds))
    elsewhere = {name: count for name, count in placed.items() if name != wanted and count}
    if not placed.get(wanted) or elsewhere:
        told = ", ".join(f"{count} on {name}" for name, count in elsewhere.items()) or "none at all"
        raise ProviderError(f"{wanted} ran {placed.get(wanted, 0)} nodes of {file}, {told}; the file is not "
                            f"proven there")
    return f"{placed[wanted]} nodes on {wanted} and none elsewhere"
