"""One HTML page that needs nothing else: no network, no library. Every text from a file is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from cnnexport.report import charts
from cnnexport.results.rows import Results, SavedRow, as_dict, as_list, number
from cnnexport.results.tables import HEADER, against_first, cells, interval, quantile, seconds

_MOST_LINES = 8
_OF_PARITY = ("passed", "verdict", "precision", "criterion", "worst_error")

_CSS = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1c2430;--soft:#5b6675;--grid:#dfe4ea;
--accent:#1f6feb;
--good:#1a7f4b;--warn:#9a5b00;--warnbg:#fff4dc}
@media (prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1a2029;--ink:#e6eaf0;--soft:#9aa6b5;
--grid:#2c3440;
--accent:#6cb0ff;--good:#58d197;--warn:#f0b955;--warnbg:#33290f}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 64px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 12px}h3{font-size:14px;margin:16px 0 6px;overflow-wrap:anywhere}
p{margin:0 0 10px}.soft{color:var(--soft)}small{font-size:13px}
section{background:var(--card);border:1px solid var(--grid);border-radius:12px;padding:18px 20px;
margin-top:18px;min-width:0}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch;margin:0 -20px;padding:0 20px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:7px 9px;border-bottom:1px solid var(--grid);white-space:nowrap;
vertical-align:top}
td.wrap{white-space:normal;min-width:230px;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:600}tbody tr:last-child td{border-bottom:0}
#summary td:first-child,#summary th:first-child{position:sticky;left:-20px;background:var(--card)}
td.n,th.n{text-align:right}
th button{all:unset;cursor:pointer}
th button:focus-visible,summary:focus-visible{outline:2px solid var(--accent);
outline-offset:2px;border-radius:4px}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
.pill{display:inline-block;border-radius:99px;padding:0 8px;font-size:12px;border:1px solid currentColor}
.ok{color:var(--good)}.warn{color:var(--warn)}
.banner{background:var(--warnbg);color:var(--warn);border-radius:8px;padding:8px 12px;margin-top:12px;
overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-top:18px}
.tile{background:var(--card);border:1px solid var(--grid);border-radius:12px;padding:12px 16px;min-width:0}
.tile b{display:block;font-size:20px;line-height:1.3;overflow-wrap:anywhere}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:18px}
.two section{margin-top:18px}.two>section+section{margin-top:18px}.two{margin-top:0;gap:0 18px}
svg{width:100%;height:auto;display:block}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 16px;padding:0;margin:8px 0 0;font-size:13px;
color:var(--soft)}
.legend li{overflow-wrap:anywhere}.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;
margin-right:6px}
details{border-top:1px solid var(--grid);padding:8px 0}summary{cursor:pointer;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:minmax(110px,200px) 1fr;gap:3px 14px;margin:8px 0 0;font-size:13.5px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;min-width:0}
.bar{display:grid;grid-template-columns:minmax(80px,150px) 1fr 56px;gap:10px;align-items:center;font-size:13px;
margin:4px 0}
.bar span{overflow-wrap:anywhere}.bar div{height:12px;border-radius:4px;background:var(--accent);min-width:2px}
.bar em{font-style:normal;text-align:right;color:var(--soft)}
@media (max-width:640px){main{padding:18px 12px 48px}section{padding:14px}h1{font-size:23px}
#summary td:first-child,#summary th:first-child{left:-14px}
.scroll{margin:0 -14px;padding:0 14px}dl{grid-template-columns:1fr}dd{margin-bottom:6px}
svg text{font-size:18px}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""

_JS = """
for(const table of document.querySelectorAll('table.sortable')){
 const heads=[...table.tHead.rows[0].cells];
 heads.forEach((head,index)=>head.querySelector('button').addEventListener('click',()=>{
  const up=head.getAttribute('aria-sort')!=='ascending';
  heads.forEach(h=>h.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort',up?'ascending':'descending');
  const value=row=>{const c=row.cells[index];return c.dataset.v!==undefined?c.dataset.v:c.textContent};
  const body=table.tBodies[0];
  [...body.rows].sort((a,b)=>{
   let x=value(a),y=value(b);
   if(x===''||y==='')return x===y?0:(x===''?1:-1);
   const n=Number(x),m=Number(y);
   const order=isNaN(n)||isNaN(m)?x.localeCompare(y):n-m;
   return up?order:-order}).forEach(row=>body.append(row));
 }));
}
"""


def page(results: Sequence[Results], title: str) -> str:
    """The page as text."""
    rows = [row for found in results for row in found.rows]
    parts: list[str] = [_head(results, rows, title), _summary(results, rows), _beside(results)]
    timed = [r for r in rows if r.ours]
    chosen = _few(timed)
    few = ""
    if len(chosen) < len(timed):
        few = f" {len(chosen)} of {len(timed)} rows are shown, those of each model in turn."
    drawn = [
        _chart("Distribution of latency", "The share of runs that took at least so long; the lower right is the tail. "
               f"Nothing is dropped.{few}", charts.distribution(chosen)),
        _chart("Near the limit?", "Operations (two a multiply-add) against the machine's own matrix rate and memory "
               "bandwidth, measured in the same run. Bytes are those that the runtime's profile names: weights, "
               "activations, outputs.", charts.roofline(_few(timed, 7))),
        _chart("Latency against batch", "Median of a run, with its 95 % interval.", charts.against_batch(
            [r for r in timed if r.scenario == "latency"], "latency")),
        _chart("Throughput against batch", "Images a second, with the 95 % interval over sessions.",
               charts.against_batch(timed, "throughput"))]
    parts.append(f'<div class="two">{"".join(drawn)}</div>' if any(drawn) else "")
    parts += [_operators(timed), _cold(timed), _evidence(results)]
    colours = charts.STYLE.replace("svg{", ":root{").replace("font-family", "--f")
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline';"
            "script-src 'unsafe-inline'\">"
            f"<title>{escape(title)}</title><style>{_CSS}{colours}"
            f"</style></head><body><main>{''.join(parts)}</main><script>{_JS}</script></body></html>\n")


def _few(rows: Sequence[SavedRow], most: int = _MOST_LINES) -> list[SavedRow]:
    """As many rows as a chart can show: model by model in turn."""
    groups: dict[tuple[str, str], list[SavedRow]] = {}
    for row in rows:
        groups.setdefault((row.source, row.name), []).append(row)
    chosen: list[SavedRow] = []
    depth = 0
    while len(chosen) < min(most, len(rows)):
        for members in groups.values():
            if depth < len(members) and len(chosen) < most:
                chosen.append(members[depth])
        depth += 1
    return [row for row in rows if any(row is c for c in chosen)]


def _head(results: Sequence[Results], rows: Sequence[SavedRow], title: str) -> str:
    first = results[0]
    models = list(dict.fromkeys(r.name for r in rows))
    lines = [f"<header><h1>{escape(title)}</h1><p class=soft>"
             f"{escape(first.datetime.replace('T', ' ')[:16])} UTC · {escape(str(first.identity.get('cpu') or ''))}"
             "</p>"]
    for found in results:
        if found.incomplete:
            what = "; ".join(found.not_measured) or "a row was stopped before it was done"
            lines.append(f'<div class="banner" role="status">{escape(found.path)} is incomplete: {escape(what)}</div>')
        lines += [f'<div class="banner" role="status">{escape(text)}</div>' for text in found.failures]
    for judged, words in ((False, "Unverified: {}. No parity record proves what these compute."),
                          (True, "Inconclusive: {}. Their verdicts do not say that they may take the first model's "
                                 "place.")):
        names = ", ".join(dict.fromkeys(r.name for r in rows if r.verified is False and r.variant is judged))
        if names:
            lines.append(f'<div class="banner" role="status">{escape(words.format(names))}</div>')
    shares = [r for r in rows if r.share is not None]
    top = max(shares, key=lambda r: r.share or 0.0, default=None)
    fast = max((r for r in rows if r.throughput.value), key=lambda r: r.throughput.value or 0.0, default=None)
    tiles = [("rows", str(len(rows)), f"{len(models)} models, {sum(r.runs for r in rows):,} timed runs"),
             ("verified", f"{sum(r.verified is True for r in rows)} of {sum(r.ours for r in rows)}",
              "rows whose file passed its gate, or a verdict")]
    if top is not None:
        tiles.append(("nearest the limit", f"{top.share:.0%}", charts.name_of(top)))
    if fast is not None:
        tiles.append(("most images/s", charts.count(fast.throughput.value or 0), charts.name_of(fast)))
    lines.append('<div class="tiles">' + "".join(
        f'<div class="tile"><small class="soft">{escape(a)}</small><b>{escape(b)}</b><small class="soft">{escape(c)}'
        "</small></div>" for a, b, c in tiles) + "</div></header>")
    return "".join(lines)


_NUMERIC = {"batch", "threads", "streams", "p50", "95 % interval", "p90", "p99", "images/s", "of limit"}


def _summary(results: Sequence[Results], rows: Sequence[SavedRow]) -> str:
    several = len(results) > 1
    header = (*(("file",) if several else ()), *HEADER)
    head = "".join(f'<th scope="col"{" class=n" if h in _NUMERIC else ""}><button type="button">{escape(h)}</button>'
                   "</th>" for h in header)
    body = []
    for row in rows:
        values: dict[str, Any] = {
            "batch": row.batch, "threads": row.threads, "streams": row.concurrency, "p50": row.median.value,
            "95 % interval": row.median.low, "p90": row.percentiles["p90"].value, "p99": row.percentiles["p99"].value,
            "images/s": row.throughput.value, "of limit": row.share}
        line = [f"<td>{escape(row.source)}</td>"] if several else []
        for name, cell in zip(HEADER, cells(row)):
            if name in _NUMERIC:
                value = values[name]
                line.append(f'<td class=n data-v="{"" if value is None else repr(float(value))}">{escape(cell)}</td>')
            elif name == "parity":
                kind = "ok" if row.verified else "warn"
                line.append(f'<td><span class="pill {kind}">{escape(cell)}</span></td>' if cell else "<td></td>")
            else:
                line.append(f'<td{" class=wrap" if name == "notes" else ""}>{escape(cell)}</td>')
        body.append(f"<tr>{''.join(line)}</tr>")
    return ('<section id="summary"><h2>Summary</h2><div class="scroll" tabindex="0" role="region" aria-label="Summary">'
            f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
            '<p class="soft"><small>Click a heading to sort. A percentile in brackets is one that the runs cannot '
            "bound, with the count it would need.</small></p></section>")


def _beside(results: Sequence[Results]) -> str:
    """Models in other precisions beside the first, a table a file."""
    parts = []
    for found in results:
        if not (lines := against_first(found.rows)):
            continue
        head = "".join(f"<th{' class=n' if h[:5] in ('times', '95 % ') else ''}>{escape(h)}</th>" for h in lines[0])
        body = "".join("<tr>" + "".join(
            f"<td{' class=n' if i >= len(line) - 2 else ''}>{escape(cell)}</td>" for i, cell in enumerate(line))
            + "</tr>" for line in lines[1:])
        name = f"<h3>{escape(found.path)}</h3>" if len(results) > 1 else ""
        parts.append(f'{name}<div class="scroll" tabindex="0" role="region" aria-label="Other precisions"><table>'
                     f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")
    return f"<section><h2>Beside the first model</h2>{''.join(parts)}</section>" if parts else ""


def _chart(title: str, text: str, made: tuple[str, list[str]]) -> str:
    svg, names = made
    if not svg:
        return ""
    return (f"<section><h2>{escape(title)}</h2><p class=soft><small>{escape(text)}</small></p>{svg}"
            f"{charts.legend(names)}</section>")


def _operators(rows: Sequence[SavedRow]) -> str:
    """Where the time goes, a bar an operator, for each row that was profiled."""
    parts: list[str] = []
    for row in rows:
        found = [as_dict(o) for o in as_list(row.info.get("operators"))]
        bars = []
        for one in found[:8]:
            share = min(max(number(one.get("share")) or 0.0, 0.0), 1.0)
            label = f"{one.get('operator')} ×{one.get('nodes')}"
            bars.append(f'<div class="bar"><span>{escape(label)}</span><div style="width:{share * 100:.1f}%" '
                        f'title="{escape(str(one.get("provider")))}"></div><em>{share:.1%}</em></div>')
        if bars:
            parts.append(f"<details{' open' if not parts else ''}><summary>{escape(charts.name_of(row))}</summary>"
                         f"{''.join(bars)}</details>")
    if not parts:
        return ""
    return ("<section><h2>Time by operator</h2><p class=soft><small>From the runtime's own profile, in a session "
            f"of its own.</small></p>{''.join(parts)}</section>")


def _cold(rows: Sequence[SavedRow]) -> str:
    """Cold start apart from steady state."""
    lines = []
    for row in rows:
        cold = as_dict(row.info.get("cold_start"))
        times = [sorted(v for v in map(number, as_list(cold.get(k))) if v is not None)
                 for k in ("create_s", "first_run_s")]
        if not all(times):
            continue
        warm = [as_dict(w) for w in as_list(row.info.get("warm_up"))]
        runs = sum(int(number(w.get("runs")) or 0) for w in warm)
        steady = sum(w.get("stationary") is True for w in warm)
        out = as_dict(row.info.get("outliers"))
        outliers = number(out.get("share"))
        lines.append("<tr>" + "".join(f"<td{c}>{escape(t)}</td>" for c, t in (
            ("", charts.name_of(row)), (" class=n", seconds(times[0][len(times[0]) // 2])),
            (" class=n", seconds(times[1][len(times[1]) // 2])), (" class=n", f"{runs:,}"),
            (" class=n", f"{steady} of {len(warm)}"), (" class=n", f"{row.runs:,}"),
            (" class=n", str(len(row.sessions))),
            (" class=n", "" if outliers is None else f"{outliers:.1%}"))) + "</tr>")
    if not lines:
        return ""
    heads = ("row", "session made", "first run", "warm-up runs", "stationary", "timed runs", "sessions", "outliers")
    head = "".join(f"<th{'' if i == 0 else ' class=n'}>{h}</th>" for i, h in enumerate(heads))
    return ('<section><h2>Cold start and protocol</h2><div class="scroll" tabindex="0" role="region" '
            f'aria-label="Cold start"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
            '</div><p class="soft"><small>Medians over sessions, each a process of its own. Outliers lie outside '
            "Tukey's fences and are kept.</small></p></section>")


def _evidence(results: Sequence[Results]) -> str:
    parts: list[str] = []
    for found in results:
        machine = as_dict(found.machine.get("cnnexport")) or found.identity
        constant = [(k, machine.get(k)) for k in ("governor", "kernel", "python", "environment", "affinity")]
        parts.append(f"<h3>{escape(found.path)}</h3>{_facts([*found.identity.items(), *constant])}")
        for row in found.rows:
            if not row.ours:
                continue
            info = row.info
            session, state = as_dict(info.get("session")), as_dict(info.get("machine"))
            before, after = as_dict(state.get("before")), as_dict(state.get("after"))
            providers = {k: f"{as_dict(v).get('nodes')} nodes, {number(as_dict(v).get('share')) or 0:.1%} of the time"
                         for k, v in as_dict(as_dict(info.get("placement")).get("providers")).items()}
            parity = info.get("parity")
            parts.append(f"<details><summary>{escape(row.id)}</summary>" + _facts([
                ("file", info.get("target")), ("SHA-256", info.get("file_sha256")),
                ("parity", {k: v for k, v in parity.items() if k in _OF_PARITY}
                 if isinstance(parity, dict) else parity),
                ("proof", info.get("proof")),
                ("asked for", info.get("provider")), ("providers", session.get("providers")), ("ran on", providers),
                ("elsewhere", as_dict(info.get("placement")).get("elsewhere")),
                ("provider options", session.get("provider_options")),
                ("session options", session.get("session_options")),
                ("ONNX Runtime", session.get("onnxruntime")), ("build", session.get("build")),
                ("threads", info.get("threads")), ("affinity", session.get("affinity")), ("inputs", info.get("inputs")),
                ("assumed", info.get("assumed")),
                *((k, f"{quantile(e)}  {interval(e)}") for k, e in row.percentiles.items()),
                ("stopped by", info.get("stopped")), ("transfers", info.get("transfers")),
                ("load before", before.get("load_average")), ("load after", after.get("load_average")),
                ("clock MHz", [before.get("cpu_mhz"), after.get("cpu_mhz")]),
                ("temperature", [before.get("cpu_temperature_c"), after.get("cpu_temperature_c")]),
                ("GPUs", after.get("gpus")), ("loadgen", as_dict(info.get("loadgen")) or None)]) + "</details>")
    return f"<section><h2>Environment and evidence</h2>{''.join(parts)}</section>"


def _facts(pairs: Sequence[tuple[str, Any]]) -> str:
    lines = []
    for name, value in pairs:
        if value in (None, "", [], {}, [None, None]):
            continue
        lines.append(f"<dt>{escape(str(name))}</dt><dd>{escape(_plain(value))}</dd>")
    return f"<dl>{''.join(lines)}</dl>"


def _plain(value: Any) -> str:
    """A JSON value as a reader takes it, at most 2000 characters."""
    if isinstance(value, dict):
        text = ", ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    elif isinstance(value, list):
        text = ", ".join(map(_plain, value))
    else:
        text = "unknown" if value is None else str(value)
    return text[:2000]
