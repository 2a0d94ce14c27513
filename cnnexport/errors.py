"""The errors a user can meet: each one line (what, why, what to do) and an exit code.

| code | meaning |
|---|---|
| 0 | done |
| 1 | an error in cnnexport itself, or an installation that is broken or lacks what is asked for |
| 2 | usage, or a bad value (an output that cannot be written or is full among them) |
| 3 | an input (model, weights, data) that cannot be read, fetched or converted, or takes too long |
| 4 | parity failed |
| 5 | a requested execution provider is unavailable or did not run the graph |
| 6 | a bundle incomplete or altered |
| 7 | `compare` found a regression |
| 8 | memory ran out, or native code (TensorFlow, ONNX Runtime, HDF5, an image decoder) crashed |
| 9 | `quantize` judged a model `reject`, or such a one was to be used |
| 130 | interrupted by Ctrl-C (SIGINT) or SIGTERM |
"""

from __future__ import annotations

import errno
import re

INTERRUPTED = 130
"""The exit code after an interrupt (Ctrl-C or a termination signal)."""
ENDED = 8
"""The exit code where memory ran out or native code crashed."""

_MEMORY = (  # compiled when it is first asked, which is seldom
    r"failed to map segment|cannot (?:re)?allocate|bad[_ ]alloc|OOM when allocating|out of memory|unable to allocate|"
    r"failed to allocate memory|cannot create (?:new )?thread|can't start new thread|memory exhausted")
_DEPTH = 12
_STRANGE = (SystemError, ImportError, OSError, RuntimeError, AttributeError)
"""What libraries raise where a limit on memory (``ulimit -v``) let them load by half."""


def describe(error: BaseException) -> tuple[str, int]:
    """The one line to print for any error, and its exit code."""
    from cnnexport import distribution

    if short_of_memory(error):
        if isinstance(error, CnnexportError) and "memory" in str(error):
            return str(error), error.exit_code
        return "the machine's memory does not hold this; try a smaller model or batch, or a machine with more", ENDED
    if (lacking := distribution.lacking(error)) is not None:  # also where a step told it in words of its own
        return lacking, 1
    if isinstance(error, CnnexportError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        # What the system refuses is no fault of ours, wherever it is met.
        wrong = error.filename if error.filename is not None else error.filename2
        place = "a file, or standard output," if wrong is None or isinstance(wrong, int) else str(
            wrong.decode(errors="backslashreplace") if isinstance(wrong, bytes) else wrong)
        written = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
        told = "cannot be written" if written else "cannot be read or written"
        line = f"{place} {told} ({error.strerror}); check the path, its permissions and the space left"
        return line, 2 if written else 3
    return f"unexpected {type(error).__name__}: {error}; run again with CNNEXPORT_DEBUG=1 and report it", 1


def short_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that memory ran out: Python's, the system's or a library's."""
    seen: BaseException | None = error
    for _ in range(_DEPTH):
        if seen is None:
            break
        if isinstance(seen, MemoryError) or (isinstance(seen, OSError) and seen.errno == errno.ENOMEM):
            return True
        if not isinstance(seen, CnnexportError) and (
                re.search(_MEMORY, str(seen)[:20_000], re.IGNORECASE)
                or (isinstance(seen, _STRANGE) and _address_space_is_full())):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _address_space_is_full() -> bool:
    """Whether this process has come near its limit on address space (Linux; elsewhere nothing is known)."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return False
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmPeak:"))
    except (ImportError, OSError, ValueError, StopIteration):
        return False
    return peak > 0.9 * limit


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


class RejectedError(CnnexportError):
    """A model in another precision whose verdict is ``reject``."""

    exit_code = 9


class StoppedError(CnnexportError):
    """Ctrl-C or a termination signal ended the command."""

    exit_code = INTERRUPTED


class EndedError(CnnexportError):
    """Memory ran out, or native code ended the process that it ran in."""

    exit_code = ENDED
