"""Where nodes ran and how long: ONNX Runtime's own profile, and the form that every runtime gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SUFFIX = "_kernel_time"


def read(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The nodes of the optimised graph, from the events of a profile of one or more runs.

    Returns ``nodes`` (name, operator, provider, microseconds a run, bytes), ``providers`` (nodes and share of the time
    of each), ``operators`` (calls, microseconds a run and share, by operator and provider) and ``runs``. The first run
    is left out where there are others. Microseconds of nodes on CUDA are those of the launch, which the profile of the
    host sees, not of the kernel.
    """
    starts = sorted(float(e["ts"]) for e in events if e.get("name") == "model_run")
    ends = sorted(float(e["ts"]) + float(e.get("dur", 0)) for e in events if e.get("name") == "model_run")
    after = ends[0] if len(starts) > 1 else float("-inf")
    runs = max(len(starts) - 1, 1)
    nodes: dict[str, dict[str, Any]] = {}
    for event in events:
        facts = event.get("args") or {}
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(_SUFFIX) or not facts.get("provider"):
            continue
        key = f"{facts.get('node_index', '')}:{name}"
        node = nodes.setdefault(key, {
            "name": name.removesuffix(_SUFFIX), "operator": str(facts.get("op_name", "")),
            "provider": str(facts["provider"]), "microseconds": 0.0, "bytes": 0})
        if float(event["ts"]) < after:
            continue
        node["microseconds"] += float(event.get("dur", 0)) / runs
        sizes = (str(facts.get(k, "")) for k in ("activation_size", "parameter_size", "output_size"))
        node["bytes"] = sum(int(s) for s in sizes if s.isdigit())
    return summary(list(nodes.values()), runs=runs, traffic_bytes=sum(n["bytes"] for n in nodes.values()))


def summary(nodes: Sequence[dict[str, Any]], *, runs: int, traffic_bytes: int | None) -> dict[str, Any]:
    """What ``Session.placement`` returns, from its ``nodes``: name, operator, provider and microseconds a run."""
    total = sum(n["microseconds"] for n in nodes) or 1.0
    providers: dict[str, dict[str, Any]] = {}
    operators: dict[tuple[str, str], dict[str, Any]] = {}
    for node in nodes:
        one = providers.setdefault(node["provider"], {"nodes": 0, "share": 0.0})
        one["nodes"] += 1
        one["share"] += node["microseconds"] / total
        row = operators.setdefault((node["operator"], node["provider"]), {
            "operator": node["operator"], "provider": node["provider"], "nodes": 0, "microseconds": 0.0, "share": 0.0})
        row["nodes"] += 1
        row["microseconds"] += node["microseconds"]
        row["share"] += node["microseconds"] / total
    return {
        "nodes": list(nodes), "providers": providers, "runs": runs,
        "operators": sorted(operators.values(), key=lambda r: -r["microseconds"]), "traffic_bytes": traffic_bytes}


def counts(placement: dict[str, Any]) -> dict[str, int]:
    """The nodes that each provider ran, by the name of the provider."""
    return {name: facts["nodes"] for name, facts in sorted(placement["providers"].items())}
