"""The results table of ``benchmarks/README.md``: ``python -m benchmarks.table [FILE...]``.

FILEs that ``pytest benchmarks/ --benchmark-json`` wrote become ``benchmarks/results/latency.json``; the table
is made from that file, and from ``coverage.json`` beside it, whether or not files are given.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cnnexport.files import write_text
from cnnexport.results import rows as saved
from cnnexport.results import tables

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "latency.json"
COVERAGE = HERE / "results" / "coverage.json"
README = HERE / "README.md"
BEGIN, END = "<!-- results: python -m benchmarks.table -->", "<!-- end of results -->"
CUDA = ("lenet5", "resnet50", "vgg16")


def merge(files: list[Path]) -> None:
    """Join results that were measured in parts on one machine, and keep them without white space."""
    parts = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    identities = [part["machine_info"]["cnnexport"]["identity"] for part in parts]
    if any(identity != identities[0] for identity in identities):
        raise SystemExit("the files are of different machines: measure all on one")
    whole: dict[str, Any] = {**parts[0], "benchmarks": [b for part in parts for b in part["benchmarks"]]}
    whole.pop("extra_info", None)
    whole["parts"] = sorted(part["datetime"] for part in parts)
    write_text(RESULTS, json.dumps(whole, separators=(",", ":")) + "\n")


def table() -> str:
    """The table as Markdown, with what the machine was and how busy."""
    found = saved.load(RESULTS)
    rows = sorted((r for r in found.rows if r.ours), key=lambda r: (r.name, r.batch or 0, r.median.value or 0.0))
    loads = [load[0] for r in rows for when in ("before", "after")
             if (load := (r.info["machine"][when].get("load_average")))]
    limit = next((r.info["limit"]["machine"] for r in rows if r.info["limit"]["machine"]), None)
    identity = ", ".join(f"{k} {v}" for k, v in found.identity.items() if v not in (None, []))
    versions = sorted({f"{k} {s[k]}" for r in rows for s in [r.info["session"]] for k in
                       ("onnxruntime", "openvino", "tensorflow") if k in s})
    parts = json.loads(RESULTS.read_text(encoding="utf-8")).get("parts", [])
    lines = [
        f"Measured in {len(parts)} parts, which ended at {', '.join(p[11:16] for p in parts)} UTC: compare rows of one "
        "network rather than of two." if len(parts) > 1 else "",
        f"{found.datetime[:10]}, {identity}; {', '.join(versions)}. Untrained weights. Load average before and after "
        f"the rows {min(loads, default=0):.2f} .. {max(loads, default=0):.2f}.",
        "" if limit is None else
        f"The machine's limit: {limit['flops'] / 1e9:.0f} GFLOP/s, {limit['bandwidth'] / 1e9:.1f} GB/s.",
        "", "| network | batch | runtime | p50 | 95 % interval | p99 | images/s | of limit | note |",
        "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        rate = row.throughput.value
        note = row.note.replace("; untrained weights", "").replace("untrained weights", "")
        lines.append("| " + " | ".join((
            row.name, str(row.batch), f"{row.contender} {row.provider}", tables.seconds(row.median.value),
            tables.interval(row.median), tables.quantile(row.percentiles["p99"]),
            "" if rate is None else f"{rate:,.4g}", "" if row.share is None else f"{row.share:.0%}", note)) + " |")
    if not any(r.provider == "cuda" for r in rows):
        lines += [f"| {name} | 1 .. 256 | onnxruntime cuda | | | | | | not measured: no GPU |" for name in CUDA]
    lines += ["", *_protocol(found), *_coverage()]
    return "\n".join(lines)


def _protocol(found: saved.Results) -> list[str]:
    """Our loop against a bare one."""
    lines = []
    for row in found.rows:
        bare = row.info.get("bare_loop")
        if isinstance(bare, dict):
            met = "met" if bare["met"] else "not met"
            lines.append(f"- `{row.id}`: p50 of our loop / of a bare one {bare['median_ratio']:.4f} "
                         f"(median of {len(bare['pairs'])} pairs; within 1 %: {met})")
    return lines


def _coverage() -> list[str]:
    if not COVERAGE.is_file():
        return []
    models = json.loads(COVERAGE.read_text(encoding="utf-8"))["models"]
    return [f"- {name}: in {m['held']} of {m['repeats']} repeated runs the interval of the median held the median of "
            f"all ({tables.seconds(m['grand_median_s'])})" for name, m in models.items()]


def readme(text: str) -> str:
    """``text`` with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main() -> None:
    """Join the files given, and write the table."""
    if sys.argv[1:]:
        merge([Path(name) for name in sys.argv[1:]])
    write_text(README, readme(README.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
