"""One session of a runtime as the worker drives it: seeded inputs in place, timed steps, proof of its answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnexport import runtimes
from cnnexport.errors import CnnexportError, InputError, ProviderError
from cnnexport.onnx_file.inputs import fill
from cnnexport.runtimes import Bound, Session
from cnnexport.runtimes.base import Run
from cnnexport.text import all_in_line


class TimedSession:
    """A session with its inputs on the device.

    ``options`` holds runtime, file, provider, threads, concurrency, provider_options, inputs (as ``fill`` takes
    them) and seed. ``create_seconds`` is the time of making the session. Raises what ``Runtime.open`` raises.
    """

    def __init__(self, options: dict[str, Any], *, profiled: bool = False) -> None:
        self.options = options
        self.runtime = runtimes.get(options.get("runtime", runtimes.DEFAULT))
        start = time.perf_counter()
        try:
            self.session: Session = self.runtime.open(
                options["file"], provider=options["provider"], threads=options.get("threads"),
                options=options.get("provider_options") or None, streams=options.get("concurrency", 1),
                shapes={i["name"]: i["shape"] for i in options["inputs"]}, profiled=profiled)
        except CnnexportError:
            raise
        except Exception as error:
            raise InputError(f"{self.runtime.title} cannot load {options['file']}: {all_in_line(error)}; leave "
                             f"--runtime {self.runtime.name} out") from error
        self.create_seconds = time.perf_counter() - start
        self.feeds = fill(options["inputs"], options.get("seed", 0))
        self.bound: Bound = self.session.bind(self.feeds)

    def first_run(self) -> float:
        """Seconds of the first run. Raises InputError or ProviderError where it fails."""
        try:
            return self.bound.first_run()
        except CnnexportError:
            raise
        except Exception as error:
            file, provider = self.options["file"], self.options["provider"]
            if provider != "cpu":
                raise ProviderError(f"{self.runtime.providers[provider]} cannot run {file}: {all_in_line(error)}; run "
                                    "`cnnexport doctor`, or ask for --provider cpu") from error
            shapes = ", ".join(f"{i['name']} {'x'.join(map(str, i['shape']))}" for i in self.options["inputs"])
            raise InputError(f"{self.runtime.title} cannot run {file} on {shapes}: {all_in_line(error)}; give --shape "
                             "or another --batch") from error

    def stream(self) -> Run:
        """A run with buffers of its own, that returns when the outputs are there."""
        return self.bound.stream()

    def transfers(self) -> dict[str, Run] | None:
        """What copies the inputs to the device and the outputs back; None on the CPU, where nothing is copied."""
        return self.bound.transfers()

    def facts(self) -> dict[str, Any]:
        """What the runtime reports of the session, and how it was set up here."""
        return {**self.session.facts(),
                "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
                "io_binding": self.bound.how}

    def check(self, vectors: dict[str, Any]) -> dict[str, Any]:
        """As ``check_stored``."""
        return check_stored(vectors, lambda names, feeds: self.session.run(names, feeds), self.runtime.title)


def profile(options: dict[str, Any], limit: float) -> dict[str, Any]:
    """Where the nodes of a file run, from a session of its own that is profiled; ``limit`` seconds of runs at most."""
    # Replays of a captured graph run no node that a profile could see.
    plain = {k: v for k, v in (options.get("provider_options") or {}).items() if k != "enable_cuda_graph"}
    held = TimedSession({**options, "provider_options": plain}, profiled=True)
    first = held.first_run()
    found = held.session.placement(held.feeds, runs=max(1, min(20, int(limit / max(first, 1e-6)))))
    return {**found, "facts": held.facts()}


def check_stored(
    vectors: Mapping[str, Any], answer: Callable[[list[str], dict[str, Any]], Sequence[Any]], who: str
) -> dict[str, Any]:
    """Whether ``answer`` (output names and arrays by input name, to outputs) gives Keras' stored outputs.

    ``vectors`` holds the folder of stored tensors and what is allowed, as the fields of a ``Tolerance``, or how far off
    a variant was when it was ``judged``. Raises ParityError where an output is further off.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    from cnnexport.parity.stored import compare_with_judged, compare_with_stored
    from cnnexport.parity.tolerances import Tolerance

    folder = Path(vectors["folder"])
    given, expected = ({t.name: numpy_helper.to_array(t) for t in (
        onnx.load_tensor(str(folder / f"{kind}_{i}.pb")) for i in range(len(list(folder.glob(f"{kind}_*.pb")))))}
        for kind in ("input", "output"))
    produced = [np.asarray(array) for array in answer(list(expected), given)]
    if "judged" in vectors:
        error = compare_with_judged(expected, produced, vectors["judged"], who)
        return {"compared_with": "Keras' stored outputs", "error": error, "judged": vectors["judged"]}
    allowed = Tolerance(**vectors["allowed"])
    error = compare_with_stored(expected, produced, allowed, who)
    return {"compared_with": "Keras' stored outputs", "error": error, "allowed": allowed.max_error}
