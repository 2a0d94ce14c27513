"""What a saved row holds besides its timings: the ``extra_info`` of pytest-benchmark's JSON. One definition.

``bench`` writes it; ``rows`` reads it piece by piece, because a file of another version, or an altered one, is still to
be shown as far as it goes. ``cnnexport.bundle.records.schema(Evidence)`` is its JSON schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct


class Evidence(Struct, frozen=True, kw_only=True):
    """One row of ``bench``; times in seconds, ``provider`` as the command line calls it."""

    cnnexport: Annotated[int, Meta(description="The version of this schema.")] = 1
    scenario: str
    name: Annotated[str, Meta(description="The network, as the tables call it.")]
    runtime: Annotated[str, Meta(description="The runtime's name in the registry.")]
    contender: Annotated[str, Meta(description="What the tables call that, or a peer of the benchmarks.")]
    target: str
    file_sha256: str
    external_sha256: dict[str, str]
    verified: Annotated[bool, Meta(
        description="A parity record of this very hash passed, or a variant's verdict is ship.")]
    parity: Annotated[dict[str, Any] | Literal["unverified"], Meta(
        description="What the parity record says, or the verdict.")]
    untrained: bool | None
    proof: Annotated[dict[str, Any] | None, Meta(description="The runtime's answers beside Keras' stored ones.")]
    batch: int
    threads: int
    concurrency: int
    inputs: list[dict[str, Any]]
    assumed: Annotated[list[str], Meta(description="Dimensions that the file leaves open and nobody gave.")]
    provider: str
    provider_options_asked: dict[str, str]
    session: Annotated[dict[str, Any], Meta(description="What the runtime reports of the session.")]
    placement: Annotated[dict[str, Any], Meta(description="Where the nodes ran, by the runtime's own account.")]
    operators: list[dict[str, Any]]
    percentiles: Annotated[dict[str, dict[str, Any]], Meta(description="Seconds, with their 95 % intervals.")]
    throughput: dict[str, Any]
    precision: Annotated[dict[str, Any], Meta(description="The goal, and whether it was reached.")]
    stopped: str
    incomplete: bool
    sessions: list[dict[str, Any]]
    cold_start: dict[str, list[float]]
    warm_up: list[dict[str, Any]]
    outliers: dict[str, Any] | None
    transfers: dict[str, Any] | None
    limit: Annotated[dict[str, Any], Meta(description="The row's multiply-adds against the machine's own limit.")]
    machine: dict[str, Any]
    seconds: float
    loadgen: dict[str, Any] | None
