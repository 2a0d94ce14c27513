"""`verify --against`: an ONNX file, of ours or of any other exporter, compared with live Keras."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexport import files
from cnnexport.against.ports import possible_ports, told_apart
from cnnexport.bundle import located
from cnnexport.errors import InputError, UsageError
from cnnexport.options import ConvertOptions
from cnnexport.text import all_in_line, columns

if TYPE_CHECKING:
    from cnnexport.parity import Comparison, GraphFacts, Verdict
    from cnnexport.parity.layers import LayerComparison


@dataclass(frozen=True)
class Against:
    """The comparison of ``path`` with the Keras model ``target``."""

    path: str
    target: str
    verdict: Verdict
    layers: tuple[LayerComparison, ...]
    asked_for_layers: bool
    max_error: float

    @property
    def passed(self) -> bool:
        return self.verdict.passed and all(row.passed is not False for row in self.layers)

    @property
    def reason(self) -> str:
        """Why it did not pass, in one line."""
        if self.differs:
            where = f", first in layer '{self.first_diverging}'" if self.first_diverging else ""
            return f"{self.path} does not compute what {self.target} computes{where}"
        if self.verdict.lower_precision:
            return (f"{self.path}: {self.verdict.lower_precision}, which {self.target} does not ask for (its layers' "
                    "dtype policies)")
        named = ", ".join(f"'{layer}'" for layer in self.verdict.insensitive[:3])
        return (f"insensitive: a change of the weights of {named} would be seen neither in the outputs nor in a "
                "layer's own, so nothing is proven of them")

    @property
    def differs(self) -> bool:
        """Whether an output or a layer is not what Keras computes."""
        return bool(self.first_diverging) or not all(c.passed for c in self.verdict.comparisons)

    @property
    def first_diverging(self) -> str | None:
        """The first layer whose tensor is not what Keras computes."""
        from cnnexport.parity.layers import first_diverging

        return first_diverging(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values; numbers that are not finite are null."""
        values = {
            "path": self.path, "against": self.target, "passed": self.passed,
            "reason": None if self.passed else "different" if self.differs else
            "precision" if self.verdict.lower_precision else "insensitive",
            "lower_precision": self.verdict.lower_precision,
            "first_diverging_layer": self.first_diverging,
            "insensitive": list(self.verdict.insensitive), "max_error_allowed": self.max_error,
            "comparisons": [asdict(c) for c in self.verdict.comparisons],
            "layers": [asdict(row) for row in self.layers],
            "sensitivity": [asdict(row) for row in self.verdict.sensitivity],
        }
        made: dict[str, Any] = json.loads(json.dumps(values), parse_constant=lambda name: None)
        return made

    def format(self) -> str:
        """The comparison as text; with ``--layers`` the table of layers, the first that diverges marked."""
        lines = [format_comparisons(self.verdict.comparisons)]
        if self.asked_for_layers:
            lines += ["", format_layers(self.layers)]
        first = self.first_diverging
        if first:
            lines.append(f"the first layer that diverges is '{first}'")
        if self.verdict.lower_precision:
            lines.append(self.verdict.lower_precision)
        if self.verdict.insensitive:
            lines.append(f"insensitive: nothing would show a change of {', '.join(self.verdict.insensitive)}")
        lines.append(f"{'passed' if self.passed else 'FAILED'}: {self.path} against {self.target}, "
                     f"{self.max_error:.0e} standard deviations allowed")
        return "\n".join(lines)


def format_comparisons(comparisons: Sequence[Comparison]) -> str:
    """A line for each output, level and kind of input: its worst batch."""
    worst: dict[tuple[str, str, str], Comparison] = {}
    for c in comparisons:
        key = (c.output, c.level, c.kind)
        if key not in worst or (worst[key].passed, -worst[key].max_error) > (c.passed, -c.max_error):
            worst[key] = c
    rows = [("output", "level", "input", "max", "RMS", "ulps", "top-1", "top-5", "")]
    rows += [(c.output, c.level, c.kind, f"{c.max_error:.1e}", f"{c.rms_error:.1e}", f"{c.max_ulps:.0f}",
              _share(c.top1_agreement), _share(c.top5_agreement), "" if c.passed else "<- differs")
             for c in worst.values()]
    return columns(rows, right=(3, 4, 5, 6, 7))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def format_layers(layers: Sequence[LayerComparison]) -> str:
    """The table of layers: shape, errors, and the first that diverges marked."""
    from cnnexport.parity.layers import first_diverging

    first = first_diverging(layers)
    rows = [("layer", "kind", "shape", "max", "RMS", "relative", "")]
    for row in layers:
        shape = "" if row.shape is None else "x".join(map(str, row.shape[1:]))
        errors = [f"{v:.1e}" if v is not None else "" for v in (row.max_error, row.rms_error, row.relative_error)]
        mark = "<- first that diverges" if row.layer == first else "<- diverges" if row.passed is False else row.reason
        rows.append((row.layer, row.kind, shape, errors[0], errors[1], errors[2], mark))
    return columns(rows, right=(3, 4, 5))


def verify_against(
    path: Path,
    target: str,
    *,
    layers: bool = False,
    seed: int | None = None,
    unsafe_load: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Against:
    """Compare the bundle or ONNX file at ``path`` with ``target``: a Keras model file or an architecture.

    An architecture is built as the bundle's manifest records it (seed and options); for a bare ONNX file with
    ``seed`` (0) and its default options. With ``layers``, every layer that a tensor of the file holds is compared,
    in groups of bounded memory; of another exporter's file, also by its numbers where names do not tell.

    Raises:
        UsageError: ``target`` does not fit the file (other inputs or outputs).
        InputError: a file that cannot be read or run.
    """
    import onnx_ir as ir

    from cnnexport import parity, sources
    from cnnexport.keras_files import heads
    from cnnexport.parity import live, truth
    from cnnexport.parity.layers import BY_NUMBERS
    from cnnexport.parity.matching import match_layers
    from cnnexport.parity.streaming import stream_layers, stream_the_rest

    path = Path(path)
    file, bundle = located(path)
    files.regular(file, "give an ONNX file or a bundle")
    about = bundle.about if bundle else None
    options = about.options if about else ConvertOptions()
    seed = seed if seed is not None else options.seed
    progress("build")
    source = sources.source_of(
        target, replace(options, seed=seed), unsafe_load=unsafe_load, custom_objects=custom_objects)
    model = source.model
    try:
        graph = ir.load(file)
    except Exception as error:
        raise InputError(f"{file} cannot be read: {all_in_line(error)}; give an ONNX file") from error
    own = about is not None and about.architecture is None
    # Weights in a file of their own are found only beside it; else nothing is written into the bundle.
    external = any(isinstance(v.const_value, ir.ExternalTensor) for v in graph.graph.initializers.values())
    with (heads.ended(model, logits=options.logits, own=own) as ending,
          tempfile.TemporaryDirectory(prefix="cnnexport-", ignore_cleanup_errors=True) as folder_of_copy):
        scratch = None if external else Path(folder_of_copy)
        progress("keras")
        ports = told_apart(model, ending.kept, file, possible_ports(model, graph.graph, about), seed=seed,
                           value_range=source.value_range, scratch=scratch)
        answers = live.ask(
            model, ports.inputs, seed=seed, value_range=source.value_range, batch=ports.batch, kept_heads=ending.kept,
            macs=about.macs if about else None, keep_layers=not layers)
        facts = parity.graph_facts(graph, ports.inputs, ports.outputs, answers.activations)
        criterion = parity.numeric(answers, facts)
        progress("compare")
        tell = truth.teller(model, ending.kept, answers, dropped=ending.dropped)
        verdict = parity.judge(answers, facts, file, criterion, scratch=scratch, tell=tell)
        if not layers and about is not None and (left := parity.left_open(verdict, answers, facts)):
            verdict = stream_the_rest(
                verdict, model, ending.kept, answers, facts, file, criterion, left, scratch=scratch, tell=tell)
        rows = tuple(verdict.layers)
        # Outputs alone may not show each weight: then layers are looked for in other exporters' files unasked.
        if layers or (about is None and verdict.agree and verdict.insensitive):
            def compared(facts: GraphFacts) -> tuple[LayerComparison, ...]:
                return tuple(stream_layers(
                    model, ending.kept, answers, facts, file, criterion, agree=verdict.agree, scratch=scratch,
                    tell=tell, progress=progress))

            rows = compared(facts)
            # Of ours the manifest's names are what counts; other exporters name nodes as they like.
            missing = [] if about is not None else _missing(rows, agree=verdict.agree)
            if missing:
                matched = match_layers(model, ending.kept, answers, facts, file, criterion, missing, scratch=scratch,
                                       progress=progress)
                facts = replace(facts, matched=matched)
                rows = compared(facts) if matched else rows
            verdict = parity.weighed(answers, facts, criterion, verdict, rows)
            if layers and verdict.agree and not any(row.tensor for row in rows):
                raise UsageError(f"no tensor of {file} is named after a layer of {target} or holds one's output, so "
                                 "there are no layers to compare; leave --layers out, or give a bundle of cnnexport")
            if not any(row.tensor and row.reason != BY_NUMBERS for row in rows):
                rows = tuple(replace(row, reason=NOT_FOUND) if row.layer in missing and row.tensor is None else row
                             for row in rows)
    return Against(str(path), str(target), verdict, rows, layers, criterion.tolerance.max_error)


NOT_FOUND = "no tensor holds its numbers"


def _missing(rows: Sequence[LayerComparison], *, agree: bool) -> list[str]:
    """The layers without a tensor; where the outputs ``agree`` also those whose name told a wrong one."""
    return [row.layer for row in rows if row.tensor is None or (agree and row.passed is False)]
