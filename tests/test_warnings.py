"""What goes out of use is an error in the tests where cnnexport calls it, also where libraries are kept quiet."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import pytest

from cnnexport.console import quiet_libraries

CALL = "def call(category):\n    old(category)\n"


def old(category: type[Warning]) -> None:
    """A function that says so of itself, to whoever calls it."""
    warnings.warn("this will go", category, stacklevel=2)


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_a_call_of_ours_fails(category: type[Warning], quiet: bool) -> None:
    def call(module: str) -> None:
        names = {"__name__": module, "old": old}
        exec(CALL, names)
        names["call"](category)  # type: ignore[operator]

    with quiet_libraries() if quiet else nullcontext():
        with pytest.raises(category, match="this will go"):
            call("cnnexport.conversion.planted")
        call("keras.src.planted")
