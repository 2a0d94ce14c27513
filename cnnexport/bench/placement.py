"""Whether nodes ran where it was asked for, from a runtime's own account of where they did."""

from __future__ import annotations

from typing import Any

from cnnexport import runtimes
from cnnexport.errors import ProviderError

_NAMED = 8


def judge(
    found: dict[str, Any], provider: str, label: str, *, allow_partial: bool, runtime: str = runtimes.DEFAULT
) -> list[str]:
    """The nodes of ``found`` (of ``Session.placement``) that ran elsewhere than on ``provider`` ("cpu", "cuda").

    Raises ProviderError where there are any, unless ``allow_partial``, and where none ran there at all.
    """
    wanted = runtimes.get(runtime).providers[provider]
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
