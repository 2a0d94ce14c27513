"""Every registered architecture converted with the same options, one after the other."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnexport import pipeline
from cnnexport.bundle import Bundle
from cnnexport.console import Progress
from cnnexport.errors import describe
from cnnexport.options import ConvertOptions


@dataclass(frozen=True)
class Conversion:
    """How the conversion of one architecture ended: the bundle, or the error's line and exit code."""

    name: str
    exit_code: int
    error: str | None = None
    bundle: Bundle | None = None

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON-ready values; those of the bundle beside it."""
        facts = {"name": self.name, "exit_code": self.exit_code, "error": self.error}
        return facts | (self.bundle.to_dict() if self.bundle else {})


def convert_all(
    options: ConvertOptions | None = None, *, output: str | Path | None = None, force: bool = False,
    progress: Progress | None = None, **asked: Any,
) -> Iterator[Conversion]:
    """Convert every registered architecture with the same options (as of ``convert``), one after the other.

    Bundles go to ``output/NAME`` (default ``exported/NAME``). An architecture that fails does not stop the
    rest. Each outcome is yielded as soon as it is known.
    """
    from cnnexport import architectures, distribution

    distribution.require(distribution.KERAS)  # told once, not of each
    steps = progress or Progress(io.StringIO(), quiet=True)
    specs = architectures.all_architectures()
    for index, spec in enumerate(specs, 1):
        steps.heading(f"{spec.name} ({index} of {len(specs)})")
        place = Path(output or pipeline.EXPORTED) / spec.name
        try:
            made = pipeline.convert(spec.name, options, output=place, force=force, progress=steps, **asked)
        except Exception as error:
            steps.abandon()
            message, code = describe(error)
            yield Conversion(spec.name, code, error=" ".join(message.split()))
        else:
            yield Conversion(spec.name, 0, bundle=made)
        if (keras := sys.modules.get("keras")) is not None:
            keras.backend.clear_session()
        gc.collect()


def format_outcomes(outcomes: Sequence[Conversion]) -> str:
    """A line for each architecture: whether it passed, its size, its error and the seconds it took."""
    from cnnexport.text import columns

    rows: list[tuple[str, ...]] = [("name", "result", "parameters", "MACs", "MB", "worst error", "seconds")]
    for outcome in outcomes:
        made = outcome.bundle
        if made is None:
            rows.append((outcome.name, f"failed ({outcome.exit_code})", *[""] * 5))
            continue
        macs = "" if made.about.macs is None else f"{made.about.macs:,}"
        rows.append((outcome.name, "passed", f"{made.about.parameters:,}", macs, f"{made.about.model_bytes / 1e6:.1f}",
                     f"{made.proof.worst_error or 0:.1e}", f"{sum(made.seconds.values()):.1f}"))
    failed = sum(outcome.bundle is None for outcome in outcomes)
    return (columns(rows, right=(2, 3, 4, 5, 6)) +
            f"\n{len(outcomes) - failed} of {len(outcomes)} converted and proven"
            + (f", {failed} failed" if failed else ""))
