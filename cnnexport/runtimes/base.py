"""What a runtime is, and which there are.

Other packages add theirs through the entry point group ``cnnexport.runtimes``: an entry has the name of its runtime
and names a ``Runtime``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from cnnexport.errors import UsageError
from cnnexport.text import shortened

ENTRY_POINTS = "cnnexport.runtimes"
DEFAULT = "ort"
"""The runtime that the gate asks, and that every command uses unless told otherwise."""
LIMIT_SECONDS = 600.0
"""How long one run, or making one session, may take: a loop in a hostile file never ends."""
_OWN = {
    "ort": "cnnexport.runtimes.ort",
    "openvino": "cnnexport.runtimes.openvino",
    "reference": "cnnexport.runtimes.reference",
}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")

Feeds = Mapping[str, Any]
"""Arrays by the name of the input."""
Run = Callable[[], None]


class Bound(Protocol):
    """Inputs in place for runs that are timed."""

    @property
    def how(self) -> str:
        """What is bound, in a few words."""

    def first_run(self) -> float:
        """Seconds of the first run, which must come before any other. Raises what the runtime raises."""

    def stream(self) -> Run:
        """A run that may go on beside other streams', and that returns when its outputs are there."""

    def transfers(self) -> dict[str, Run] | None:
        """What copies to the device and back, by name; None where nothing is copied."""


class Session(Protocol):
    """One file, loaded."""

    @property
    def device(self) -> str:
        """Where it was asked to run: a value of its runtime's ``providers``."""

    def run(self, names: Sequence[str] | None, feeds: Feeds, *, seconds: float = LIMIT_SECONDS) -> list[Any]:
        """The outputs ``names`` (None: all) for ``feeds``.

        Raises InputError where the runtime can end a run and this one took longer than ``seconds``, and what the
        runtime raises.
        """

    def bind(self, feeds: Feeds) -> Bound:
        """``feeds`` in place for runs that are timed. Raises InputError where the runtime takes no such array."""

    def placement(self, feeds: Feeds, *, runs: int = 1) -> dict[str, Any]:
        """Where the nodes ran in ``runs`` runs, and how long, by the runtime's own account.

        ``nodes`` is a list of ``{"name", "operator", "provider", "microseconds"}`` (those of the optimised graph),
        ``providers`` maps those that ran any to ``{"nodes", "share"}``, ``operators`` is a list of ``{"operator",
        "provider", "nodes", "microseconds", "share"}``; ``runs`` counts the runs in the microseconds, and
        ``traffic_bytes`` is what nodes read and wrote, None where the runtime does not tell. Raises InputError or
        ProviderError where a run fails.
        """

    def facts(self) -> dict[str, Any]:
        """Versions, ``providers`` and options of the session as the runtime reports them, as JSON values."""

    def describe(self) -> str:
        """What proves where the session runs, in a few words; empty where nothing need be said."""


@runtime_checkable
class Runtime(Protocol):
    """What runs ONNX files. Its module is imported without the library, which its functions import."""

    @property
    def name(self) -> str:
        """What ``--runtime`` calls it."""

    @property
    def title(self) -> str:
        """What a reader calls it."""

    @property
    def providers(self) -> Mapping[str, str]:
        """Where it can run ("cpu", "cuda"), each with the runtime's own name for it; the default first."""

    @property
    def slowness(self) -> float:
        """How many times as long it may take as others."""

    @property
    def install(self) -> str:
        """The command that installs it."""

    def installed(self) -> bool:
        """Whether its library is there; it is not imported."""

    def probe(self, provider: str) -> None:
        """Raises ProviderError where ``provider`` makes no session here, whatever the model."""

    def open(
        self,
        source: str | os.PathLike[str],
        *,
        provider: str = "cpu",
        threads: int | None = None,
        options: Mapping[str, str] | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        streams: int = 1,
        profiled: bool = False,
        optimise: bool = True,
        brief: bool = False,
    ) -> Session:
        """A session on an ONNX file.

        ``threads`` None leaves their number to the runtime; ``options`` are its own for the provider. ``shapes`` are
        those that inputs will have and ``streams`` how many runs go on at once, for a runtime that compiles for
        them. ``profiled`` makes a slower session, whose ``placement`` needs no other; ``optimise=False`` runs
        the graph as it stands in the file, where the runtime can; a ``brief`` session is for a few runs, and gives
        memory back after each rather than keep it for the next. Raises UsageError for a bad
        value, InputError for a file that does not load, ProviderError for a provider that cannot be had, and what
        the runtime raises.
        """


def names() -> tuple[str, ...]:
    """The names of all runtimes, our own first; nothing is imported, so that those of others may turn out broken."""
    return (*_OWN, *_others()[0])


def get(name: str) -> Runtime:
    """The runtime called ``name``. Raises UsageError where there is none, or another package's is broken."""
    if name in _OWN:
        made: Runtime = importlib.import_module(_OWN[name]).RUNTIME
        return made
    if name not in _others()[0]:
        raise UsageError(f"runtime '{name}' is unknown; choose one of {', '.join(names())}")
    found = _loaded(name)
    if isinstance(found, str):
        raise UsageError(f"runtime '{name}' cannot be used: {found}; choose one of {', '.join(_OWN)}")
    return found


def problems() -> list[str]:
    """One line for each entry of another package that is no runtime, or cannot be loaded."""
    entries, wrong = _others()
    return [*wrong, *(found for name in entries if isinstance(found := _loaded(name), str))]


def chosen(names: Sequence[str], providers: Sequence[str]) -> list[tuple[Runtime, str]]:
    """Each runtime on each of ``providers`` that it has, or on its default where it has none of them.

    Raises UsageError for a runtime that is unknown or not installed, and for a provider that none of them has.
    """
    found = [get(name) for name in dict.fromkeys(names)]
    for provider in providers:
        if any(provider in runtime.providers for runtime in found):
            continue
        default = get(DEFAULT)
        if provider in default.providers:
            raise UsageError(f"--provider {provider} is one of {default.title}, which is not among the runtimes asked "
                             f"for; add --runtime {DEFAULT}")
        raise UsageError(f"Unknown provider {provider!r}: choose {' or '.join(default.providers)}.")
    for runtime in found:
        if not runtime.installed():
            raise UsageError(f"{runtime.title} is not installed here; {runtime.install}, or leave --runtime "
                             f"{runtime.name} out")
    return [(runtime, provider) for runtime in found
            for provider in [p for p in dict.fromkeys(providers) if p in runtime.providers]
            or list(runtime.providers)[:1]]


def saved_as(name: str) -> str:
    """What saved rows and records call a runtime: they have always called ONNX Runtime by its package."""
    return "onnxruntime" if name == "ort" else name


@functools.cache
def _others() -> tuple[dict[str, importlib.metadata.EntryPoint], tuple[str, ...]]:
    """The entries of other packages by name, and what is wrong with the rest."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    wrong = []
    for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda e: (e.name, e.value)):
        if not _NAME.fullmatch(entry.name):
            wrong.append(f"{_where(entry)} uses the name '{entry.name}'; names hold lower-case letters, digits, '.', "
                         "'_', '-'")
        elif entry.name in _OWN or entry.name in found:
            wrong.append(f"{_where(entry)} uses the name '{entry.name}', which is taken; it is left out")
        else:
            found[entry.name] = entry
    return found, tuple(wrong)


@functools.cache
def _loaded(name: str) -> Runtime | str:
    """The runtime of another package, or why it is none."""
    entry = _others()[0][name]
    try:
        value = entry.load()
    except Exception as error:  # whatever another package does on import
        return f"{_where(entry)} cannot be loaded: {type(error).__name__}: {shortened(str(error))}"
    if isinstance(value, type) or not isinstance(value, Runtime):
        kind = value.__name__ if isinstance(value, type) else type(value).__name__
        return f"{_where(entry)} holds a {kind}; it must be a Runtime"
    if value.name != name or not value.providers:
        what = "has no providers" if value.name == name else f"holds the runtime '{value.name}'; the two must agree"
        return f"{_where(entry)} {what}"
    return value


def _where(entry: importlib.metadata.EntryPoint) -> str:
    package = entry.dist.name if entry.dist else entry.module
    return f"the entry point '{entry.name}' of {package}"
