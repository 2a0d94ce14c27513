"""Latency and throughput that can be believed: what is measured, how, and on what evidence.

| module | what |
|---|---|
| ``subjects`` | what is measured: a bundle whose gate passed, or any ONNX file, and its inputs |
| ``options`` | what is asked, and when a row is done |
| ``plan`` | rows |
| ``protocol`` | the measuring loops: warm-up, latency, concurrent streams |
| ``session`` | the session under them, of any runtime, with its inputs in place |
| ``worker``, ``forks`` | the process that measures, and its parent's side of it |
| ``placement`` | whether nodes ran where it was asked for |
| ``limits`` | the machine's own limit |
| ``machine`` | what a timing depends on besides the code |
| ``measure`` | one row, with its evidence |
| ``command`` | targets to rows, rows to an outcome |
| ``suite``, ``rows_test``, ``replay`` | rows run by pytest-benchmark |
| ``tune``, ``loadgen`` | the best setting; load as users bring it |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnexport.bench.command import BenchOutcome


def bench(*arguments: Any, **options: Any) -> BenchOutcome:
    """``cnnexport.bench.command.bench``, imported when it is called."""
    from cnnexport.bench.command import bench as run

    return run(*arguments, **options)
