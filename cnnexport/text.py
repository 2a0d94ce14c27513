"""Text for a reader: aligned columns, sizes, and what an exception says in one line."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

_WRAPPER = re.compile(r"^Exception encountered when calling .*\.$")
_MARKUP = re.compile(r"\x1b\[\d*m")


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """``rows`` of equal length as aligned text, the columns ``right`` flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) if i in right else cell.ljust(width)
                  for i, (cell, width) in enumerate(zip(row, widths))).rstrip()
        for row in rows)


def printable(cell: str) -> str:
    """A cell that cannot command a terminal or break its line: what is not printable becomes a space."""
    return "".join(c if c.isprintable() else " " for c in cell)


def free_name(name: str, taken: Container[str]) -> str:
    """``name``, or the first of ``name_1``, ``name_2``, ... that is not ``taken``."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def byte_count(count: int) -> str:
    """``12.3 MB`` of a number of bytes, in powers of 1000."""
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def one_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an exception that says something: Keras says first only where it was raised."""
    lines = [_MARKUP.sub("", line).strip() for line in str(error).splitlines()]
    told = [line for line in lines if line]
    text = next((line for line in told if not _WRAPPER.match(line)), told[0] if told else "")
    return (text or type(error).__name__)[:limit].rstrip(".;: ")


def all_in_line(error: BaseException, limit: int = 200) -> str:
    """The whole text of an exception on one line, cut at ``limit`` characters; its class where it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
