"""The registry: every architecture that can be asked for by name."""

from __future__ import annotations

import difflib

from cnnexport.architectures import lenet, resnet, vgg
from cnnexport.architectures.spec import Architecture
from cnnexport.errors import UsageError


def all_architectures() -> list[Architecture]:
    """Every registered architecture, family by family."""
    return [*lenet.ARCHITECTURES, *vgg.ARCHITECTURES, *resnet.ARCHITECTURES]


def get(name: str) -> Architecture:
    """The architecture called ``name``, or one of its aliases. Raises UsageError for any other name."""
    known = {alias: spec for spec in all_architectures() for alias in (spec.name, *spec.aliases)}
    if name in known:
        return known[name]
    close = ", ".join(difflib.get_close_matches(name, known)) or ", ".join(s.name for s in all_architectures())
    raise UsageError(f"unknown architecture '{name}': choose one of {close}")
