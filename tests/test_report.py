"""`cnnexport report`: the page in a browser, the other formats, and files that mean harm."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

EVIL = "<script>document.title='owned'</script>|`x`"


def document(
    names: tuple[str, ...] = ("alpha", EVIL), *, seed: int = 0, factor: float = 1.0, verified: bool = False,
    identity: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What ``bench --save`` writes, with made-up timings: batches 1 and 8 of each name."""
    rng = np.random.default_rng(seed)
    benchmarks = []
    for name in names:
        for batch in (1, 8):
            data = (factor * batch * 1e-3 * (1 + 0.01 * rng.standard_normal(500))).tolist()
            estimate = {"value": 1e-3 * batch, "low": 0.99e-3 * batch, "high": 1.01e-3 * batch, "need": None}
            benchmarks.append({
                "group": "latency", "name": f"test_latency[{name}-cpu-b{batch}-t2]", "fullname": f"x::{name}{batch}",
                "params": None, "param": None, "options": {},
                "stats": {"data": data, "median": float(np.median(data)), "rounds": len(data)},
                "extra_info": {
                    "cnnexport": 1, "scenario": "latency", "name": name, "contender": "onnxruntime", "batch": batch,
                    "target": name, "file_sha256": "00", "verified": verified, "parity": "unverified", "threads": 2,
                    "concurrency": 1, "provider": "cpu", "provider_options_asked": {},
                    "session": {"providers": ["CPUExecutionProvider"], "onnxruntime": "1"},
                    "placement": {"providers": {"CPUExecutionProvider": {"nodes": 1, "share": 1.0}}, "elsewhere": []},
                    "operators": [{"operator": name, "nodes": 2, "share": 0.75, "provider": name}],
                    "percentiles": {"p50": estimate, "p90": estimate, "p95": estimate,
                                    "p99": {"value": None, "low": None, "high": None, "need": 368}},
                    "throughput": {"value": 1e3 / factor, "low": 990 / factor, "high": 1010 / factor},
                    "precision": {"goal": 0.02, "reached": 0.01, "met": True}, "stopped": "precision reached",
                    "incomplete": False, "sessions": [{"runs": 250}, {"runs": 250}],
                    "cold_start": {"create_s": [0.1], "first_run_s": [0.01]},
                    "warm_up": [{"runs": 9, "stationary": True}], "outliers": {"share": 0.01},
                    "limit": {"macs": 10**8, "flops": 1e11, "share": 0.5, "traffic_bytes": 10**7,
                              "machine": {"flops": 2e11, "bandwidth": 3e10}},
                    "machine": {"before": {"load_average": [0.1, 0, 0]}, "after": {"load_average": [0.2, 0, 0]}}}})
    return {"machine_info": {"cnnexport": {"identity": identity or {"cpu": "A", "usable cores": 2}}},
            "commit_info": {}, "datetime": "2026-01-01T00:00:00", "version": "5", "benchmarks": benchmarks,
            "cnnexport": {"incomplete": False, "not_measured": [], "failures": []}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(document()))
    return path


def test_the_page_stands_alone_and_trusts_nothing(saved: Path, cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    result = cnnexport("report", saved, "-o", "out.html", "--title", "<b>Mine</b>")
    assert result.code == 0 and "4 rows" in result.out
    page = (tmp_path / "out.html").read_text()
    assert "<script>document" not in page and "&lt;script&gt;document" in page and "&lt;b&gt;Mine" in page
    assert not re.search(r"(src|href)\s*=|@import|url\(", page)
    for part in ("Summary", "Distribution of latency", "Latency against batch", "Throughput against batch",
                 "Near the limit?", "Time by operator", "Environment and evidence", "unverified", "(needs 368)"):
        assert part in page, part
    assert page.count("<svg") == 4


def test_the_other_formats(saved: Path, cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    text = cnnexport("report", saved, "--format", "md").out
    assert "<script>" not in text and "unverified" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(re.findall(r"\|", lines[0]))}
    rows = list(csv.DictReader(io.StringIO(cnnexport("report", saved, "--format", "csv").out)))
    assert [row["batch"] for row in rows] == ["1", "8", "1", "8"] and rows[0]["parity"] == "unverified"
    assert 0.00099 < float(rows[0]["p50_s"]) < 0.00101 and rows[0]["p99_s"] == "" and rows[2]["model"] == EVIL
    assert cnnexport("report", saved, "-o", "c.svg").code == 0
    tree = ElementTree.parse(tmp_path / "c.svg")
    assert tree.getroot().tag.endswith("svg") and "unverified" in "".join(tree.getroot().itertext())


def test_a_plain_pytest_benchmark_file(cnnexport: Callable[..., Any], tmp_path: Path) -> None:
    plain = {"machine_info": {"cpu": {"brand_raw": "B", "count": 1}}, "benchmarks": [
        {"name": "test_x", "group": None, "stats": {"median": 0.5, "rounds": 3, "data": [0.4, 0.5, 0.6]}}]}
    (tmp_path / "p.json").write_text(json.dumps(plain))
    assert cnnexport("report", "p.json").code == 0 and (tmp_path / "report.html").is_file()
    assert "test_x" in cnnexport("report", "p.json", "--format", "md").out


@pytest.mark.parametrize("content", [
    None, "", "[]", "{}", '{"benchmarks": 3}', '{"benchmarks": []}', "[" * 100_000, "\x00",
    '{"benchmarks": [1, null]}'])
def test_files_that_are_none(cnnexport: Callable[..., Any], tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "f.json").write_text(content)
    result = cnnexport("report", "f.json", "-o", "r.html")
    assert result.code == 3 and result.err.count("\n") == 1 and "Traceback" not in result.err
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("odd", [None, "text", -1, [], {}, 1e400, {"value": "x", "low": [], "high": {}}, True])
def test_odd_values_do_not_break_a_report(cnnexport: Callable[..., Any], tmp_path: Path, odd: Any) -> None:
    whole = document(("alpha",))
    for key in list(whole["benchmarks"][0]["extra_info"]):
        if key not in ("cnnexport", "scenario"):
            changed = json.loads(json.dumps(whole))
            changed["benchmarks"][0]["extra_info"][key] = odd
            whole["benchmarks"] += changed["benchmarks"][:1]
    whole["benchmarks"].append({"name": odd, "stats": odd, "extra_info": odd, "group": odd})
    (tmp_path / "odd.json").write_text(json.dumps(whole))
    for form in ("html", "md", "csv", "svg"):
        result = cnnexport("report", "odd.json", "--format", form, "-o", f"o.{form}")
        assert result.code == 0, (form, result.err)


def test_bad_outputs(saved: Path, cnnexport: Callable[..., Any]) -> None:
    assert cnnexport("report", saved, "-o", "x.pdf").code == 2
    before = saved.read_text()
    assert cnnexport("report", saved, "-o", saved, "--format", "csv").code == 2 and saved.read_text() == before


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(saved: Path, cnnexport: Callable[..., Any], tmp_path: Path, width: int) -> None:
    """Sorting works, no script of a file runs, and the page does not scroll sideways, on a phone as on a desk."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next((found for found in map(shutil.which, names) if found), None)
    if browser is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    assert cnnexport("report", saved, "-o", "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    probe = """
const frame=document.createElement('iframe');
frame.style.cssText='border:0;width:WIDTHpx;height:900px';frame.srcdoc=PAGE;
frame.onload=()=>{const d=frame.contentDocument,w=frame.contentWindow;
 const heads=[...d.querySelectorAll('#summary th')];
 const p50=heads.findIndex(h=>h.textContent==='p50');
 const column=()=>[...d.querySelectorAll('#summary tbody tr')].map(r=>Number(r.cells[p50].dataset.v));
 heads[p50].querySelector('button').click();const up=column();
 heads[p50].querySelector('button').click();const down=column();
 document.body.dataset.result=JSON.stringify({up,down,title:d.title,inner:w.innerWidth,
  scroll:d.documentElement.scrollWidth,charts:d.querySelectorAll('svg').length,
  empty:[...d.querySelectorAll('svg')].filter(s=>s.getBoundingClientRect().height<50).length})};
document.body.append(frame);
""".replace("WIDTH", str(width)).replace("PAGE", json.dumps(page).replace("<", "\\u003c"))
    (tmp_path / "probe.html").write_text(f"<!doctype html><body><script>{probe}</script></body>")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "probe.html").as_uri()],
        capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r'data-result="([^"]*)"', done.stdout)
    assert found, done.stderr[-800:]
    seen = json.loads(found.group(1).replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">"))
    assert len(seen["up"]) == 4
    assert seen["up"] == sorted(seen["up"]) and seen["down"] == sorted(seen["down"], reverse=True)
    assert seen["title"] == "Benchmarks" and seen["inner"] == width
    assert seen["scroll"] <= width, f"the page is {seen['scroll']} wide at {width}"
    assert seen["charts"] == 4 and not seen["empty"]


def test_the_table_of_the_benchmarks_is_what_the_command_makes() -> None:
    from benchmarks import table

    if not table.RESULTS.is_file():
        pytest.skip("no results are committed")
    text = table.README.read_text(encoding="utf-8")
    assert table.readme(text) == text, "run `python -m benchmarks.table`"
    for row in json.loads(table.RESULTS.read_text(encoding="utf-8"))["benchmarks"]:
        info = row["extra_info"]
        if "scenario" in info:
            assert info["verified"] and info["parity"]["model_sha256"] == info["file_sha256"] and not info["incomplete"]
