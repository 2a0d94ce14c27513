"""The mutation campaign: every planted fault caught, its layer named, and no false alarm.

``pytest -m slow benchmarks/test_mutations.py`` writes ``benchmarks/results/mutations.md`` and ``.json``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import mutants

RESULTS = Path(__file__).parent / "results"
SEEDS = range(5)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def _false_alarms() -> dict[str, list[int]]:
    """The seeds at which a sound conversion is refused, by architecture."""
    import keras

    from cnnexport import architectures, convert
    from cnnexport.errors import ParityError

    alarms: dict[str, list[int]] = {}
    for spec in architectures.all_architectures():
        alarms[spec.name] = []
        size = max(spec.min_size, 32)
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    convert(spec.name, seed=seed, input_shape=(size, size, spec.input_shape[2]), classes=10,
                            output=Path(folder) / "bundle")
                except ParityError:
                    alarms[spec.name].append(seed)
        keras.backend.clear_session()
        _say(f"{spec.name}: {len(alarms[spec.name])} false alarms")
    return alarms


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


@pytest.mark.slow
def test_campaign(tmp_path: Path) -> None:
    import keras

    outcomes: list[mutants.Outcome] = []
    same: list[tuple[str, mutants.Mutant, str]] = []
    for name in mutants.SUBJECTS:
        subject = mutants.subject(name, tmp_path)
        untouched = mutants.try_mutant(subject, mutants.Mutant("none", "", "", lambda e: None), tmp_path)
        assert not untouched.caught, f"{name}: {untouched.said}"
        found = mutants.mutants(subject.proto, subject.model, sites=4)
        for mutant in found:
            outcomes.append(mutants.try_mutant(subject, mutant, tmp_path))
            if not outcomes[-1].caught or outcomes[-1].named is False:
                _say(f"  {outcomes[-1]}")
        for mutant, proof in mutants.equivalents(subject):
            assert not mutants.try_mutant(subject, mutant, tmp_path).caught, mutant
            same.append((name, mutant, proof))
        _say(f"{name}: {len(found)} mutants")
        del subject
        keras.backend.clear_session()
    alarms = _false_alarms()

    told = [o for o in outcomes if o.named is not None]
    named = sum(bool(o.named) for o in told)
    escaped = [o for o in outcomes if not o.caught]
    RESULTS.mkdir(exist_ok=True)
    wrong = [o for o in told if not o.named and o.caught]
    text = [
        "# Mutation campaign", "",
        "Made by `pytest -m slow benchmarks/test_mutations.py`. Untrained weights, seed 0. A cell: caught / planted, "
        "layer named rightly / all that run; a file that ONNX Runtime refuses to run is caught, and names no layer.",
        "",
        f"{len(outcomes)} mutants of {len(mutants.KINDS)} kinds over {len(mutants.SUBJECTS)} networks: "
        f"{len(outcomes) - len(escaped)} caught; of {len(told)} that run, the first diverging layer is named rightly "
        f"in {named} ({named / len(told):.1%}).", "", _table(outcomes), "", "## Escaped or named wrongly", "",
        *([f"- {o.architecture}, {o.kind}, {o.layer} ({o.what}): {o.said}" for o in [*escaped, *wrong]] or ["None."]),
        "",
        "## Equivalent mutants, which change nothing and pass", "",
        *[f"- {name}, {m.kind}, {m.layer} ({m.what}): {proof}." for name, m, proof in same], "",
        "## False alarms", "",
        f"{sum(map(len, alarms.values()))} of {len(alarms) * len(SEEDS)} sound conversions refused: every registered "
        f"architecture with {len(SEEDS)} seeds, at small inputs.", "",
        "| architecture | refused |", "|---|---|",
        *[f"| {name} | {len(seeds)} of {len(SEEDS)} |" for name, seeds in alarms.items()],
    ]
    (RESULTS / "mutations.md").write_text("\n".join(text) + "\n")
    (RESULTS / "mutations.json").write_text(json.dumps(
        {"outcomes": [asdict(o) for o in outcomes], "false_alarms": alarms}, indent=1) + "\n")
    assert len(outcomes) >= 300 and len({o.architecture for o in outcomes}) >= 6
    assert min(Counter(o.kind for o in outcomes).values()) >= 1 and len(mutants.KINDS) >= 15
    assert not escaped, escaped
    assert named >= 0.95 * len(told)
    assert not any(alarms.values()), alarms
