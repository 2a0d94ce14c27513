"""Text for a reader: aligned columns, sizes, and what an exception says in one line."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

_WRAPPER = re.compile(r"^Exception encountered when calling .*\.$")
_ENDS = ".;: "
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


def shortened(text: str, limit: int = 300) -> str:
    """``text`` on one line of about ``limit`` characters: the whole sentences that fit, else cut after a word.

    Without a full stop at its end: what to do follows.
    """
    line = " ".join(text.split()).rstrip(_ENDS)
    if len(line) <= limit:
        return line
    sentences = [end.end() for end in re.finditer(r"[.!?](?= )", line[:limit + 1])]
    if sentences and sentences[-1] > limit // 2:
        return line[:sentences[-1]].rstrip(_ENDS)
    word = line.rfind(" ", 0, limit + 1)
    return f"{line[:word if word > limit // 2 else limit].rstrip(_ENDS + ',')}..."


def one_line(error: BaseException, limit: int = 300) -> str:
    """The first sentence of an exception that says something: Keras says first only where it was raised.

    A line that ends within a sentence goes on in the next.
    """
    lines = [_MARKUP.sub("", line).strip() for line in str(error).splitlines()]
    told = [index for index, line in enumerate(lines) if line]
    first = next((index for index in told if not _WRAPPER.match(lines[index])), told[0] if told else None)
    if first is None:
        return type(error).__name__
    text = lines[first]
    for line in lines[first + 1:]:
        if not line or not (line[0].islower() or text.endswith((":", ","))) or text.endswith((".", "!", "?")):
            break
        text = f"{text} {line}"
    return shortened(text, limit) or type(error).__name__


def all_in_line(error: BaseException, limit: int = 300) -> str:
    """The whole text of an exception on one line, ``shortened``; its class where it says nothing."""
    return shortened(str(error), limit) or type(error).__name__
