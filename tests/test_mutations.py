"""A fast slice of the mutation campaign (``benchmarks/test_mutations.py``): every kind of fault at least once."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import mutants


@pytest.fixture(scope="module", params=["own", "lenet5", "alexnet"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> mutants.Subject:
    return mutants.subject(request.param, tmp_path_factory.mktemp(request.param))


def test_the_sound_file_passes(subject: mutants.Subject, tmp_path: Path) -> None:
    outcome = mutants.try_mutant(subject, mutants.Mutant("none", "", "", lambda e: None), tmp_path)
    assert not outcome.caught, outcome


def test_every_fault_is_caught_and_its_layer_named(subject: mutants.Subject, tmp_path: Path) -> None:
    sites = 2 if subject.name == "lenet5" else 1
    outcomes = [mutants.try_mutant(subject, m, tmp_path)
                for m in mutants.mutants(subject.proto, subject.model, sites=sites)]
    assert len(outcomes) >= 10 and all(o.caught for o in outcomes), [o for o in outcomes if not o.caught]
    wrong = [o for o in outcomes if o.named is False]
    assert len(wrong) <= 0.05 * len(outcomes), wrong


def test_equivalent_mutants_pass(subject: mutants.Subject, tmp_path: Path) -> None:
    for mutant, proof in mutants.equivalents(subject):
        assert proof and not mutants.try_mutant(subject, mutant, tmp_path).caught, mutant
