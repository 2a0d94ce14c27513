"""Workers as their parent sees them: started, asked, given up at a deadline, and read even then."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from cnnexport import supervision
from cnnexport.bench.worker import CAPACITY, views
from cnnexport.errors import (
    BundleError,
    CnnexportError,
    EndedError,
    InputError,
    ParityError,
    ProviderError,
    UsageError,
)

_ERRORS: dict[int, type[CnnexportError]] = {
    2: UsageError, 3: InputError, 4: ParityError, 5: ProviderError, 6: BundleError}


class Stalled(Exception):
    """A worker that did not answer by its deadline and was stopped."""


class Stop:
    """Whether the user wants to stop; ``request`` may come from a signal handler and ends the worker under way."""

    def __init__(self) -> None:
        self.requested = False
        self.number = 0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def request(self, number: int) -> None:
        self.requested = True
        self.number = number
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def fileno(self) -> int:
        return self._wake_read

    def close(self) -> None:
        for descriptor in (self._wake_read, self._wake_write):
            with contextlib.suppress(OSError):
                os.close(descriptor)


class RowInterrupted(Exception):
    """The user asked to stop while a worker ran."""


class Fork:
    """A worker process. Leaving the block ends it and gives its buffer back: read ``times`` inside."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._file = tempfile.NamedTemporaryFile(prefix="cnnexport-bench-")  # noqa: SIM115  # closed by close()
        self._file.truncate(CAPACITY * 8)
        self._map = mmap.mmap(self._file.fileno(), CAPACITY * 8)
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cnnexport.bench.worker", self._file.name, str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=None if os.environ.get("CNNEXPORT_DEBUG") == "1" else subprocess.DEVNULL,
            env=environment, start_new_session=True)
        self._pending = b""

    def __enter__(self) -> Fork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self.close()

    def end(self) -> None:
        """End the process, by force where it does not go at once."""
        process = self._process
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        try:
            process.wait(0.0 if self._stop.requested else 1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def close(self) -> None:
        """Give the buffer back."""
        self._map.close()
        self._file.close()

    def ask(self, do: str, deadline: float, **request: Any) -> Any:
        """The answer to a request, by ``deadline`` (of ``time.monotonic``).

        Raises Stalled or RowInterrupted, after which the worker is dead, or the error that the worker met.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise self._death(do) from None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(self._stop.fileno(), selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if self._stop.requested:
                    process.kill()
                    raise RowInterrupted
                left = deadline - time.monotonic()
                if left <= 0 or not (ready := selector.select(left)):
                    process.kill()
                    raise Stalled(do)
                if any(key.fileobj is process.stdout for key, _ in ready):
                    chunk = os.read(process.stdout.fileno(), 1 << 20)
                    if not chunk:
                        raise self._death(do)
                    self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise _ERRORS.get(answer["exit_code"], CnnexportError)(answer["error"])
        return answer["answer"]

    def _death(self, do: str) -> Exception:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        if self._stop.requested:
            return RowInterrupted()
        if code is not None and code < 0:
            return supervision.death(-code, f"measuring ({do})")
        return EndedError(f"the process that measured ended ({do}, exit code {code}); check the file with `cnnexport "
                          "verify`")

    def times(self, streams: int = 1) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
        """Seconds of the runs that the buffer holds, by stream; also of a worker that is gone."""
        found = []
        with memoryview(self._map) as whole, whole.cast("q") as buffer:
            for view in views(buffer, streams):
                count = min(max(view[0], 0), len(view) - 1)
                found.append(np.array(view[1:count + 1].tolist(), np.float64) / 1e9)
                view.release()
        return found

    def clear(self, streams: int = 1) -> None:
        """Forget the runs in the buffer."""
        with memoryview(self._map) as whole, whole.cast("q") as buffer:
            for view in views(buffer, streams):
                view[0] = 0
                view.release()


