"""What a run's ``run.json`` says: the one definition, which writes it and reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from cnnexport.bundle.records import ImageSteps, Range, values
from cnnexport.training.options import Options


@dataclass(frozen=True)
class RunOptions(Options):
    """The options of training, and what the network was built with."""

    weights: str = "random"
    groups: bool = True
    weights_sha256: str | None = None


class RunArchitecture(Struct, frozen=True, kw_only=True):
    """The registered architecture."""

    name: str
    family: str = ""
    source: str = ""


class RunData(Struct, frozen=True, kw_only=True):
    """The labelled images."""

    name: str
    source: Annotated[str, Meta(description="What --data was given.")]
    sha256: str
    classes: tuple[str, ...]
    images: Annotated[dict[str, int], Meta(description="How many train, are held out for validation, and test.")]
    test: Annotated[str, Meta(description="Where the test images come from.")] = ""
    scale: float = 1.0


class RunPreprocessing(Struct, frozen=True, kw_only=True):
    """What turns pixels of 0..255 into the input."""

    image: ImageSteps
    description: str
    color_order: Literal["RGB", "BGR", "grey"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: Range


class RunRecord(Struct, frozen=True, kw_only=True):
    """A run: what decides how it goes, and how far it came."""

    schema_version: int = 1
    state: Literal["running", "finished"]
    architecture: RunArchitecture
    options: RunOptions
    data: RunData
    preprocessing: RunPreprocessing
    started: str = ""
    versions: dict[str, str] = {}
    machine: dict[str, Any] = {}
    finished: str | UnsetType = UNSET
    files: Annotated[dict[str, str] | UnsetType, Meta(description="SHA-256 of each result, by name.")] = UNSET

    @property
    def asked(self) -> dict[str, Any]:
        """What decides how the run goes, as JSON values: a stopped one goes on only if all of this is the same."""
        return {part: values(getattr(self, part)) for part in ("architecture", "options", "data", "preprocessing")}
