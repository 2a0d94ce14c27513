"""ONNX's reference evaluator: the specification in NumPy, node by node. Slow, and right by definition."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnexport.errors import ProviderError
from cnnexport.runtimes import profile
from cnnexport.runtimes.base import LIMIT_SECONDS, Feeds, Run, Runtime

_PROVIDERS = {"cpu": "NumPy"}


@dataclass(frozen=True)
class ReferenceBound:
    """Arrays as they are: there is nothing to bind."""

    evaluator: Any
    feeds: Feeds
    how: str = "nothing"

    def first_run(self) -> float:
        start = time.perf_counter()
        self.evaluator.run(None, dict(self.feeds))
        return time.perf_counter() - start

    def stream(self) -> Run:
        def run() -> None:
            self.evaluator.run(None, dict(self.feeds))

        return run

    def transfers(self) -> None:
        return None


@dataclass(frozen=True)
class ReferenceSession:
    """One file in the reference evaluator."""

    evaluator: Any

    @property
    def device(self) -> str:
        return _PROVIDERS["cpu"]

    def run(self, names: Sequence[str] | None, feeds: Feeds, *, seconds: float = LIMIT_SECONDS) -> list[Any]:
        """As ``Session.run``; nothing ends a run from inside."""
        return list(self.evaluator.run(None if names is None else list(names), dict(feeds)))

    def bind(self, feeds: Feeds) -> ReferenceBound:
        return ReferenceBound(self.evaluator, dict(feeds))

    def placement(self, feeds: Feeds, *, runs: int = 1) -> dict[str, Any]:
        """As ``Session.placement``: every node is a NumPy function. Times of nodes are not told, so they are 0."""
        self.run(None, feeds)
        nodes = [{"name": node.onnx_node.name or f"node {index}", "operator": node.onnx_node.op_type,
                  "provider": self.device, "microseconds": 0.0}
                 for index, node in enumerate(self.evaluator.rt_nodes_)]
        return profile.summary(nodes, runs=1, traffic_bytes=None)

    def facts(self) -> dict[str, Any]:
        import numpy
        import onnx

        return {"onnx": onnx.__version__, "numpy": numpy.__version__, "providers": [self.device],
                "session_options": {}}

    def describe(self) -> str:
        return ""


class Reference:
    """The reference evaluator as one of the runtimes."""

    name = "reference"
    title = "ONNX's reference evaluator"
    providers: Mapping[str, str] = _PROVIDERS
    slowness = 10.0
    install = "pip install onnx"

    def installed(self) -> bool:
        return importlib.util.find_spec("onnx") is not None

    def probe(self, provider: str) -> None:
        if provider not in self.providers:
            raise ProviderError(f"{self.title} has no provider '{provider}'; use cpu")

    def open(
        self, source: str | os.PathLike[str], *, provider: str = "cpu", threads: int | None = None,
        options: Mapping[str, str] | None = None, shapes: Mapping[str, Sequence[int]] | None = None, streams: int = 1,
        profiled: bool = False, optimise: bool = True, brief: bool = False,
    ) -> ReferenceSession:
        """As ``Runtime.open``; NumPy decides on threads."""
        from onnx.reference import ReferenceEvaluator

        return ReferenceSession(ReferenceEvaluator(os.fspath(source)))


RUNTIME: Runtime = Reference()
