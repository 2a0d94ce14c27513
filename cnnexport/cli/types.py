"""What options are given as, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_MOST_DIGITS = 18  # of a number that is worth reading; Python itself refuses more than 4,300


def _whole(text: str) -> int | None:
    """The whole number that ``text`` is, None where it is none or has absurdly many digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


class Shape(click.ParamType):  # type: ignore[type-arg]
    """``224x224x3`` as (224, 224, 3); ``?`` as None."""

    name = "HxWxC"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | None, ...]:
        if isinstance(value, tuple):
            return value  # given as a default
        parts = value.lower().replace("×", "x").split("x")
        if not all(p == "?" or _whole(p) is not None for p in parts):
            self.fail(f"'{value}' is not a shape such as 224x224x3", param, ctx)
        return tuple(_whole(p) for p in parts)


class Batch(click.ParamType):  # type: ignore[type-arg]
    """A batch size of 1 or more; ``dynamic`` stays."""

    name = "dynamic|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "dynamic":
            return "dynamic"
        size = _whole(value)
        if not size:
            self.fail(f"'{value}' is neither dynamic nor a size of 1 or more", param, ctx)
        return size


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """``1,8,32`` as (1, 8, 32)."""

    name = "N,N..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value  # given as a default
        sizes = [_whole(part.strip()) for part in value.split(",")]
        if not all(0 < (size or 0) < 1 << 20 for size in sizes):
            self.fail(f"'{value}' is no list of sizes such as 1,8,32", param, ctx)
        return tuple(dict.fromkeys(size for size in sizes if size))


class Share(click.ParamType):  # type: ignore[type-arg]
    """``5%`` or ``0.05`` as 0.05."""

    name = "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value  # given as a default
        text = value.strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 < share < (10 if text.endswith("%") else 1):  # 5 alone would be five times
            self.fail(f"'{value}' is no share such as 5%", param, ctx)
        return share


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds of ``1.5``, ``500ms``, ``20s`` or ``2m``."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value  # given as a default
        text = value.strip().lower()
        unit = next((u for u in ("ms", "s", "m") if text.endswith(u)), "")
        try:
            seconds = float(text.removesuffix(unit)) * {"ms": 1e-3, "s": 1.0, "m": 60.0, "": 1.0}[unit]
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < 1e7:
            self.fail(f"'{value}' is no time such as 2, 500ms or 2m", param, ctx)
        return seconds


class InputShape(click.ParamType):  # type: ignore[type-arg]
    """``NAME=1x3x224x224`` as the name and (1, 3, 224, 224); without a name, of the only input."""

    name = "NAME=1x3x224x224"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        if isinstance(value, tuple):
            return value  # given as a default
        name, _, shape = value.rpartition("=")
        sizes = [_whole(part) for part in shape.lower().split("x")]
        if not all(sizes):
            self.fail(f"'{value}' is not NAME=1x3x224x224", param, ctx)
        return name, tuple(size for size in sizes if size)


class Setting(click.ParamType):  # type: ignore[type-arg]
    """``KEY=VALUE,VALUE`` as the key and its values."""

    name = "KEY=VALUE,VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[str, ...]]:
        if isinstance(value, tuple):
            return value  # given as a default
        key, _, values = value.partition("=")
        if not key or not values or not all(values.split(",")):
            self.fail(f"'{value}' is not KEY=VALUE or KEY=VALUE,VALUE", param, ctx)
        return key, tuple(values.split(","))


class RuntimeName(click.ParamType):  # type: ignore[type-arg]
    """A registered runtime, by name. Those of other packages are looked for only when one is named or help is asked."""

    name = "runtime"

    def _choice(self) -> click.Choice[str]:
        from cnnexport import runtimes

        return click.Choice(runtimes.names())

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self._choice().get_metavar(param, ctx)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(self._choice().convert(value, param, ctx))


RUNTIME = RuntimeName()
SHAPE, BATCH, SIZES, SHARE, DURATION, INPUT_SHAPE, SETTING = (
    Shape(), Batch(), Sizes(), Share(), Duration(), InputShape(), Setting())

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""What ``--shape`` collects."""
shape_option = click.option(
    "--shape", "shapes", multiple=True, type=INPUT_SHAPE, metavar="NAME=1x3x224x224",
    help="Shape of an input whose dimensions the file leaves open; repeatable.")


variant_option = click.option("--variant", metavar="ID", help="Another model of the bundle: int8, fp16, bf16. Also as "
                                                              "BUNDLE#ID.")


def varied(path: Path, variant: str | None) -> Path:
    """``path`` with the model's id that ``--variant`` gave. Raises click.UsageError where there is none to give."""
    if variant is not None:
        from cnnexport import files
        from cnnexport.bundle.opening import parted

        if (named := parted(path)[1]) is not None:
            raise click.UsageError(f"{path} names the model '{named}' already; leave --variant out")
        if files.exists(path) and not files.is_folder(path):
            raise click.UsageError(f"{path} is a file, and --variant is of bundles; give the bundle, or leave it out")
    return path if variant is None else path.with_name(f"{path.name}#{variant}")
