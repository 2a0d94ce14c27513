"""An ONNX file run as it is, with tensors inside it given out besides its outputs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnnexport import memory, runtimes
from cnnexport.conversion.ports import Port
from cnnexport.errors import InputError
from cnnexport.parity.comparison import Array
from cnnexport.parity.graph import to_onnx_layout
from cnnexport.parity.groups import InGroups, groups
from cnnexport.runtimes import Session
from cnnexport.text import all_in_line

GROUP_BYTES = 256 << 20
"""Tensors inside a file that are given out at a time: all of a large network's are gigabytes."""


class Exposed:
    """A copy of a model in ``scratch`` (None: beside it), with tensors of it declared as outputs.

    The copy is the file byte for byte, with the declarations behind it: protobuf merges a second graph message into
    the first, so that the graph that runs is the file's own.
    """

    def __init__(
        self, path: Path, outputs: Sequence[str], scratch: Path | None = None, runtime: str = runtimes.DEFAULT
    ) -> None:
        self._runtime = runtimes.get(runtime)
        self._path, self._outputs, self._size = path, set(outputs), path.stat().st_size
        self._place = (scratch or path.parent) / f".{path.name}.parity.onnx"
        shutil.copyfile(path, self._place)

    def close(self) -> None:
        """Remove the copy."""
        memory.give_back()
        self._place.unlink(missing_ok=True)

    def session(self, names: Sequence[str], *, optimised: bool = True) -> tuple[Session, list[str]]:
        """A session that also gives the tensors ``names``, and those of them that the graph has.

        ``optimised=False`` leaves the graph as it stands in the file. Raises InputError where the runtime cannot load
        the file.
        """
        try:
            self._declare(names)
            return self._runtime.open(self._place, optimise=optimised, brief=True), list(names)
        except InputError:
            # A file of another maker, or a faulty one, may lack some.
            present = [name for name in names if name in self._known()]
            if len(present) == len(names):
                raise
            self._declare(present)
            return self._runtime.open(self._place, optimise=optimised, brief=True), present

    def run(
        self, session: Session, names: Sequence[str], arrays: Sequence[Array], ports: Sequence[Port]
    ) -> dict[str, Array]:
        """The tensors ``names`` for ``arrays`` in Keras' layouts. Raises InputError where the runtime cannot run it."""
        fed = {p.name: to_onnx_layout(a, p) for a, p in zip(arrays, ports)}
        try:
            return dict(zip(names, session.run(list(names), fed)))
        except InputError:
            raise
        except Exception as error:  # each runtime raises its own
            raise InputError(
                f"{self._runtime.title} cannot run the converted model: {all_in_line(error)}") from error

    def inside(
        self, sizes: Mapping[str, int], arrays: Sequence[Array], ports: Sequence[Port]
    ) -> InGroups[Array]:
        """The tensors of ``sizes`` (about the bytes of each, in the order in which they will be asked for), by name."""
        def fetch(names: Sequence[str]) -> dict[str, Array]:
            session, present = self.session(names)
            return self.run(session, present, arrays, ports)

        return InGroups(groups(sizes, GROUP_BYTES), fetch)

    def _known(self) -> set[str]:
        import onnx

        graph = onnx.load(self._path, load_external_data=False).graph
        return {output for node in graph.node for output in node.output} | {v.name for v in graph.input}

    def _declare(self, names: Sequence[str]) -> None:
        import onnx

        extra = onnx.ModelProto()
        for name in names:
            if name not in self._outputs:
                extra.graph.output.add().name = name
        with open(self._place, "r+b") as file:
            file.truncate(self._size)
            file.seek(self._size)
            file.write(extra.SerializeToString())
