"""The registry for the reader: the list of all architectures, and the layer table of one."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cnnexport.architectures.spec import Architecture, Figure
from cnnexport.architectures.table import CONVENTION, LayerRow
from cnnexport.text import columns

_WIDTH = 110


def facts(spec: Architecture) -> dict[str, Any]:
    """What the registry says about an architecture, as JSON values; ``parameters`` and ``macs`` are as built."""
    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "family": spec.family,
        "depth": spec.depth,
        "input_shape": list(spec.input_shape),
        "min_size": spec.min_size,
        "classes": spec.classes,
        "weights": list(spec.weights),
        "parameters": spec.parameters,
        "macs": spec.macs,
        "onnx_parameters": spec.parameters - spec.folded,
        "paper": {"parameters": _figure(spec.paper_parameters), "macs": _figure(spec.paper_macs)},
        "source": {**asdict(spec.source), "citation": str(spec.source)},
        "differences": [asdict(difference) for difference in spec.differences],
    }


def _figure(figure: Figure | None) -> dict[str, Any] | None:
    return None if figure is None else {"value": figure.value, "printed": figure.printed, "where": figure.where,
                                         "counted": figure.counted}


def format_list(specs: Sequence[Architecture]) -> str:
    """A line for each architecture: its figures as built, each beside the paper's."""
    rows = [("name", "input", "parameters", "paper", "MACs", "paper", "weights")]
    rows += [
        (s.name, "x".join(map(str, s.input_shape)), f"{s.parameters:,}", _printed(s.paper_parameters), f"{s.macs:,}",
         _printed(s.paper_macs), ", ".join(s.weights))
        for s in specs
    ]
    return columns(rows, right=(2, 3, 4, 5)) + (
        "\n\nIn brackets: the paper prints none, counted from the layers it describes.\n"
        "Where a difference comes from: cnnexport show NAME")


def _printed(figure: Figure | None) -> str:
    return "-" if figure is None else figure.printed


def show(spec: Architecture, rows: Sequence[LayerRow], *, groups: bool = True) -> dict[str, Any]:
    """``facts`` and the layer table, with its totals, as JSON values."""
    made = facts(spec)
    made["groups"] = groups if spec.grouped else None
    made["parameters"], made["macs"] = sum(r.parameters for r in rows), sum(r.macs for r in rows)
    made["onnx_parameters"] = made["parameters"] - spec.folded
    made["macs_convention"] = CONVENTION
    made["layers"] = [
        {"layer": r.layer, "kernel": r.kernel, "stride": r.stride, "output_size": list(r.output),
         "parameters": r.parameters, "macs": r.macs} for r in rows
    ]
    return made


def format_show(shown: dict[str, Any]) -> str:
    """The result of ``show`` as text: the table as the paper prints it, the source, and what differs."""
    rows: list[tuple[str, ...]] = [("layer", "kernel", "stride", "output size", "parameters", "MACs")]
    rows += [
        (row["layer"], row["kernel"], "" if row["stride"] is None else str(row["stride"]),
         "x".join("?" if size is None else str(size) for size in row["output_size"]),
         f"{row['parameters']:,}" if row["parameters"] else "", f"{row['macs']:,}" if row["macs"] else "")
        for row in shown["layers"]
    ]
    rows.append(("built", "", "", "", f"{shown['parameters']:,}", f"{shown['macs']:,}"))
    paper = shown["paper"]
    rows.append(("paper", "", "", "", *(paper[k]["printed"] if paper[k] else "-" for k in ("parameters", "macs"))))
    size = "x".join(map(str, shown["input_shape"]))
    lines = [f"{shown['name']}: {shown['depth']} weight layers, input {size}, {shown['classes']:,} classes"]
    if shown["aliases"]:
        lines[0] += f" (also {', '.join(shown['aliases'])})"
    lines += [_wrapped(shown["source"]["citation"] + "."), "", columns(rows, right=(2, 4, 5)), ""]
    for key, name in (("parameters", "parameters"), ("macs", "multiply-adds")):
        where = f"{paper[key]['printed']}, {paper[key]['where']}" if paper[key] else "not recorded"
        lines.append(_wrapped(f"Paper's {name}: {where}.".replace("..", ".")))
    lines.append(_wrapped(shown["macs_convention"]))
    if shown["onnx_parameters"] != shown["parameters"]:
        lines.append(_wrapped(f"The ONNX file holds {shown['onnx_parameters']:,} parameters: batch normalisation is "
                              "folded into the layer before it."))
    if shown["differences"]:
        lines += ["", "What differs from the paper:"]
        for difference in shown["differences"]:
            added = [f"{difference[k]:+,} {name}" for k, name in (("parameters", "parameters"), ("macs", "MACs"))
                     if difference[k]]
            lines.append(_wrapped(f"- {difference['what']}{' [' + ', '.join(added) + ']' if added else ''}", "  "))
    return "\n".join(lines)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
