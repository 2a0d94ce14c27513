"""The console script: signals are taken before anything else is imported, and the end is ours to the last byte.

Python's own handling of Ctrl-C would print a traceback when it comes during an import, and at its very end the
interpreter gives signals back to the system, which then ends the process without a word (``interrupts.leave``).
"""

from __future__ import annotations

from cnnexport import interrupts

interrupts.take_signals()

import contextlib  # noqa: E402
import os  # noqa: E402
from typing import NoReturn  # noqa: E402


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    code = 130
    try:
        from cnnexport.cli import main as command

        command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except interrupts.Interrupted:
        # Nothing of ours had begun, or all had ended.
        with contextlib.suppress(OSError):
            os.write(2, b"cnnexport: error: interrupted\n")
    interrupts.leave(code)
