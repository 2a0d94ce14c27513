"""The mutation campaign: every planted fault caught, its layer named, and no false alarm.

``pytest -m slow benchmarks/test_mutations.py`` writes ``benchmarks/results/mutations.md`` and ``.json``. It may be run
in parts (``-k resnet18``): each network and each architecture replaces its own results, the last test judges them all.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mutants
from cnnexport import architectures

RESULTS = Path(__file__).parent / "results"
SEEDS = range(5)


def _read() -> dict[str, Any]:
    """What has been found so far: by network the outcomes and the equivalent mutants, by architecture the alarms."""
    path = RESULTS / "mutations.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    return found if "subjects" in found else {"subjects": {}, "false_alarms": {}}


def _save(part: str, name: str, value: Any) -> None:
    RESULTS.mkdir(exist_ok=True)
    found = _read()
    found[part][name] = value
    orders = {"subjects": list(mutants.SUBJECTS), "false_alarms": [s.name for s in architectures.all_architectures()]}
    found = {key: {n: found[key][n] for n in order if n in found[key]} for key, order in orders.items()}
    for file, text in (("mutations.json", json.dumps(found, indent=1)), ("mutations.md", _report(found))):
        aside = RESULTS / f".{file}.partial"
        aside.write_text(text + "\n")
        os.replace(aside, RESULTS / file)


def _outcomes(found: dict[str, Any]) -> list[mutants.Outcome]:
    return [mutants.Outcome(**row) for part in found["subjects"].values() for row in part["outcomes"]]


def _table(outcomes: list[mutants.Outcome]) -> str:
    names = list(mutants.SUBJECTS)
    lines = ["| fault | " + " | ".join(names) + " | caught |", "|---" * (len(names) + 2) + "|"]
    for kind in mutants.KINDS:
        cells = []
        for name in names:
            rows = [o for o in outcomes if (o.kind, o.architecture) == (kind, name)]
            told = [o for o in rows if o.named is not None]
            cells.append(f"{sum(o.caught for o in rows)}/{len(rows)}, {sum(bool(o.named) for o in told)}/{len(told)}"
                         if rows else "")
        rows = [o for o in outcomes if o.kind == kind]
        lines.append(f"| {kind} | " + " | ".join(cells) + f" | {sum(o.caught for o in rows)}/{len(rows)} |")
    return "\n".join(lines)


def _report(found: dict[str, Any]) -> str:
    outcomes, alarms = _outcomes(found), found["false_alarms"]
    told = [o for o in outcomes if o.named is not None]
    named = sum(bool(o.named) for o in told)
    escaped = [o for o in outcomes if not o.caught]
    wrong = [o for o in told if not o.named and o.caught]
    return "\n".join([
        "# Mutation campaign", "",
        "Made by `pytest -m slow benchmarks/test_mutations.py`. Untrained weights, seed 0. A cell: caught / planted, "
        "layer named rightly / all that run; a file that ONNX Runtime refuses to run is caught, and names no layer.",
        "",
        f"{len(outcomes)} mutants of {len({o.kind for o in outcomes})} kinds over {len(found['subjects'])} networks: "
        f"{len(outcomes) - len(escaped)} caught; of {len(told)} that run, the first diverging layer is named rightly "
        f"in {named} ({named / max(len(told), 1):.1%}).", "", _table(outcomes), "", "## Escaped or named wrongly", "",
        *([f"- {o.architecture}, {o.kind}, {o.layer} ({o.what}): {o.said}" for o in [*escaped, *wrong]] or ["None."]),
        "",
        "## Equivalent mutants, which change nothing and pass", "",
        *[f"- {name}, {m['kind']}, {m['layer']} ({m['what']}): {m['proof']}."
          for name, part in found["subjects"].items() for m in part["equivalent"]], "",
        "## False alarms", "",
        f"{sum(map(len, alarms.values()))} of {len(alarms) * len(SEEDS)} sound conversions refused: registered "
        f"architectures with {len(SEEDS)} seeds each, at small inputs.", "",
        "| architecture | refused |", "|---|---|",
        *[f"| {name} | {len(seeds)} of {len(SEEDS)} |" for name, seeds in alarms.items()],
    ])


@pytest.fixture(autouse=True)
def _fresh_keras() -> Any:
    yield
    import keras

    keras.backend.clear_session()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(mutants.SUBJECTS))
def test_every_fault_is_caught(name: str, tmp_path: Path) -> None:
    subject = mutants.subject(name, tmp_path)
    untouched = mutants.try_mutant(subject, mutants.Mutant("none", "", "", lambda e: None), tmp_path)
    assert not untouched.caught, untouched.said
    outcomes = [mutants.try_mutant(subject, mutant, tmp_path)
                for mutant in mutants.mutants(subject.proto, subject.model, sites=4)]
    same = []
    for mutant, proof in mutants.equivalents(subject):
        assert not mutants.try_mutant(subject, mutant, tmp_path).caught, mutant
        same.append({"kind": mutant.kind, "layer": mutant.layer, "what": mutant.what, "proof": proof})
    _save("subjects", name, {"outcomes": [asdict(o) for o in outcomes], "equivalent": same})
    escaped = [o for o in outcomes if not o.caught]
    assert not escaped, escaped


@pytest.mark.slow
@pytest.mark.parametrize("name", [spec.name for spec in architectures.all_architectures()])
def test_no_false_alarm(name: str) -> None:
    from cnnexport import convert
    from cnnexport.errors import ParityError

    spec = architectures.get(name)
    size, refused = max(spec.min_size, 32), []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                convert(name, seed=seed, input_shape=(size, size, spec.input_shape[2]), classes=10,
                        output=Path(folder) / "bundle")
            except ParityError:
                refused.append(seed)
    _save("false_alarms", name, refused)
    assert not refused


@pytest.mark.slow
def test_the_campaign_as_a_whole() -> None:
    found = _read()
    outcomes = _outcomes(found)
    told = [o for o in outcomes if o.named is not None]
    assert set(found["subjects"]) == set(mutants.SUBJECTS)
    assert set(found["false_alarms"]) == {spec.name for spec in architectures.all_architectures()}
    assert len(outcomes) >= 300 and len({o.architecture for o in outcomes}) >= 6
    kinds = Counter(o.kind for o in outcomes)
    assert set(kinds) == set(mutants.KINDS) and len(kinds) >= 15
    assert all(o.caught for o in outcomes) and sum(bool(o.named) for o in told) >= 0.95 * len(told)
    assert not any(found["false_alarms"].values())
