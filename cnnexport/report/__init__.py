"""What measured files say to a reader: tables, one page, charts, and a gate between two of them.

| module | what |
|---|---|
| ``charts`` | SVG |
| ``page`` | one self-contained HTML page |
| ``compare`` | a regression gate on intervals |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnexport.errors import InputError, UsageError

FORMATS = {".html": "html", ".htm": "html", ".md": "md", ".csv": "csv", ".svg": "svg"}


@dataclass(frozen=True)
class Report:
    """A report as text, its format, and the rows in it."""

    text: str
    form: str
    rows: int


def report(
    files: Sequence[Path], *, output: Path | None = None, form: str | None = None, title: str = "Benchmarks"
) -> tuple[Path | None, Report]:
    """Report on ``files``; returns where it was written (None: nowhere) and the report.

    A page goes to ``report.html`` where no ``output`` is given. Raises InputError for a file that holds no benchmarks,
    OutputError for an output that cannot be written, UsageError for a name that tells no format.
    """
    from cnnexport.files import check_writable, write_text
    from cnnexport.report import charts, page
    from cnnexport.results import rows as saved
    from cnnexport.results import tables

    if form is None:
        form = "html" if output is None else FORMATS.get(output.suffix.lower())
        if form is None:
            raise UsageError(f"{output} tells no format; name it .html, .md, .csv or .svg, or give --format")
    if output is None and form == "html":
        output = Path("report.html")
    read = saved.load_all(files)
    rows = sum(len(found.rows) for found in read)
    if not rows:
        raise InputError(f"{', '.join(map(str, files))}: no rows, so there is nothing to report; measure first")
    if output is not None:
        if any(output.absolute() == file.absolute() for file in files):
            raise UsageError(f"{output} is one of the files to report on; give another --output")
        check_writable(output)
    makers = {"html": lambda: page.page(read, title), "md": lambda: tables.markdown(read),
              "csv": lambda: tables.comma_separated(read), "svg": lambda: charts.overview(read, title)}
    made = Report(makers[form](), form, rows)
    if output is not None:
        write_text(output, made.text)
    return output, made
