"""The errors a user can meet: each one line (what, why, what to do) and an exit code.

| code | meaning |
|---|---|
| 0 | done |
| 1 | an error in cnnexport itself, or a broken installation |
| 2 | usage, or a bad value (an output folder that cannot be written or is full among them) |
| 3 | an input (model, weights, data) that cannot be read, fetched or converted |
| 4 | parity failed |
| 5 | a requested execution provider is unavailable or did not run the graph |
| 6 | a bundle incomplete or altered |
| 7 | `compare` found a regression |
| 130 | interrupted |
"""

from __future__ import annotations

INTERRUPTED = 130
"""The exit code after an interrupt (Ctrl-C or a termination signal)."""


def describe(error: Exception) -> tuple[str, int]:
    """The one line to print for any error, and its exit code."""
    if isinstance(error, CnnexportError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return "the machine's memory does not hold this model; try a smaller one, or a machine with more", 1
    return f"unexpected {type(error).__name__}: {error}; run again with CNNEXPORT_DEBUG=1 and report it", 1


class CnnexportError(Exception):
    """Base of all errors meant for the user; ``str(error)`` is the one line to print."""

    exit_code: int = 1


class UsageError(CnnexportError):
    """A bad value or combination of values."""

    exit_code = 2


class OutputError(UsageError):
    """An output place that cannot be written, or is full."""


class InputError(CnnexportError):
    """An input (model, weights, data) that cannot be read, fetched or converted."""

    exit_code = 3


class NewerModelError(InputError):
    """The installed ONNX Runtime is older than the model's opset or IR version."""


class ParityError(CnnexportError):
    """ONNX Runtime's outputs differ from Keras'."""

    exit_code = 4


class ProviderError(CnnexportError):
    """A requested execution provider is unavailable, or did not run the graph."""

    exit_code = 5


class BundleError(CnnexportError):
    """A bundle that is incomplete or was altered."""

    exit_code = 6


class RegressionError(CnnexportError):
    """A benchmark is slower than it was, beyond the limit and beyond chance."""

    exit_code = 7
