"""Options are one object each: what the command line offers is what the object holds, default by default."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click
import msgspec
import pytest

from cnnexport import cli
from cnnexport.bench.options import BenchOptions
from cnnexport.errors import UsageError
from cnnexport.options import ConvertOptions

_CONVERT = {"no_top": ("include_top", False), "no_groups": ("groups", False)}
_BENCH = {"batch": "batches", "precision_goal": "precision"}


def defaults(command: str) -> dict[str, Any]:
    """What each option of a command is when it is not given, by the name of its parameter."""
    found = cli.cli.get_command(click.Context(cli.cli), command)
    assert found is not None
    needed = {"convert": ["lenet5"], "bench": ["m.onnx"]}[command]
    return found.make_context(command, needed).params


def test_convert_has_the_defaults_of_its_options() -> None:
    given = defaults("convert")
    own = ConvertOptions()
    for name, default in given.items():
        field, plain = _CONVERT.get(name, (name, True))
        if field in own.__dataclass_fields__:
            said = default if plain else not default
            said = {"dynamic": None, "none": None}.get(said, said) if isinstance(said, str) else said
            assert said == getattr(own, field), name
    assert {f.name for f in fields(own)} <= {_CONVERT.get(n, (n,))[0] for n in given}


def test_bench_has_the_defaults_of_its_options() -> None:
    given = {_BENCH.get(name, name): default for name, default in defaults("bench").items()}
    own = BenchOptions()
    for field in fields(own):
        said, default = given[field.name], getattr(own, field.name)
        assert said == default or (not said and not default), field.name


@pytest.mark.parametrize("wrong,said", [
    ({"seed": -1}, "seed"), ({"opset": 5}, "opset"), ({"layout": "chwn"}, "layout"), ({"batch": 0}, "batch"),
    ({"input_shape": (0, 4, 3)}, "below 1"), ({"input_shape": "x"}, "whole numbers"), ({"weights": ""}, "empty name"),
])
def test_what_no_conversion_has_is_refused_once(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ConvertOptions(**wrong).resolved()


@pytest.mark.parametrize("wrong,said", [
    ({"scenario": "x"}, "scenario"), ({"tune": True}, "--tune"), ({"concurrency": (2,)}, "one stream"),
    ({"threads": (0,)}, "--threads"), ({"cuda_options": {"tf32": ("1",)}}, "--provider cuda"),
    ({"min_time": 5.0, "max_time": 1.0}, "above --max-time"), ({"precision": 2.0}, "--precision-goal"),
])
def test_what_no_measurement_has_is_refused_once(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        BenchOptions(**wrong)


def test_a_manifest_gives_the_options_back() -> None:
    asked = ConvertOptions(weights="/somewhere/my.keras", input_shape=(None, 8, 3), logits=True, batch=4).resolved()
    kept = msgspec.json.encode(asked.recorded("own"))
    again = msgspec.json.decode(kept, type=ConvertOptions)
    assert again.weights == "my.keras" and again == asked.recorded("own")
    assert msgspec.json.decode(b'{"seed": 3}', type=ConvertOptions) == ConvertOptions(seed=3), "of an older bundle"
