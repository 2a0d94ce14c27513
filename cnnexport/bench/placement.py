"""Where nodes ran and how long, read from ONNX Runtime's own profile; and whether that is what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnnexport.errors import ProviderError
from cnnexport.runtime import PROVIDERS

_NAMED = 8
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
    found = list(nodes.values())
    total = sum(n["microseconds"] for n in found) or 1.0
    providers: dict[str, dict[str, Any]] = {}
    operators: dict[tuple[str, str], dict[str, Any]] = {}
    for node in found:
        one = providers.setdefault(node["provider"], {"nodes": 0, "share": 0.0})
        one["nodes"] += 1
        one["share"] += node["microseconds"] / total
        row = operators.setdefault((node["operator"], node["provider"]), {
            "operator": node["operator"], "provider": node["provider"], "nodes": 0, "microseconds": 0.0, "share": 0.0})
        row["nodes"] += 1
        row["microseconds"] += node["microseconds"]
        row["share"] += node["microseconds"] / total
    return {
        "nodes": found, "providers": providers, "runs": runs,
        "operators": sorted(operators.values(), key=lambda r: -r["microseconds"]),
        "traffic_bytes": sum(n["bytes"] for n in found)}


def judge(found: dict[str, Any], provider: str, label: str, *, allow_partial: bool) -> list[str]:
    """The nodes that ran elsewhere than on ``provider`` ("cpu", "cuda").

    Raises ProviderError where there are any, unless ``allow_partial``, and where none ran there at all.
    """
    wanted = PROVIDERS[provider]
    elsewhere = [n for n in found["nodes"] if n["provider"] != wanted]
    names = [f"{n['name']} ({n['operator']}, {n['provider']})" for n in elsewhere]
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    if not found["providers"].get(wanted, {}).get("nodes"):
        raise ProviderError(f"{wanted} ran no node of {label}: {shown or 'the profile names none'}; ask for the "
                            "provider that did")
    if elsewhere and not allow_partial:
        share = 1 - found["providers"][wanted]["share"]
        raise ProviderError(f"{wanted} ran {len(found['nodes']) - len(elsewhere)} of {len(found['nodes'])} nodes of "
                            f"{label}; {share:.1%} of the time went to {shown}; give --allow-partial to time it so")
    return names
