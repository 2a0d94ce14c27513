"""Find every shape, and compute what depends on shapes alone.

ONNX' shape inference loses the batch at the first Reshape to -1. In ``_probe`` it runs on numbers instead, several
times: a dimension that stays the same is fixed, one that equals the batch every time is the batch, and any other is
an ``ir.SymbolicDim``. The numbers stay in ``value.meta["sizes"]`` for what asks how far two open sizes differ.
An integer tensor computed from shapes that comes out the same every time is a constant, and a target of
Reshape in which one size varies holds -1 there.

Never changes: tensors that depend on the values of an input; sizes that vary otherwise (their rank is told).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from cnnexport.conversion.passes.fold_constants import FoldConstants
from cnnexport.conversion.passes.rewriting import BATCH, SIZE, Array, add_initializer, constant
from cnnexport.conversion.skeleton import skeleton

PROBES = ((2, 256), (1, 256), (17, 320))
"""Sizes of the batch, and of the first other size left open (multiples of 64: networks halve them)."""

ODD = (3, 307)
"""One more probe of open sizes: what only multiples of 64 leave the same (a remainder) is not fixed.

It has no say where it tells nothing: networks that halve sizes may not take it.
"""

STEP = 192
"""How much larger than the one before each further open size is."""


@dataclass
class _Probe:
    batch: int
    opened: list[int]
    shapes: dict[str, list[int | None]]
    constants: dict[str, Array]
    dtypes: dict[str, int]


class InferShapes(ir.passes.InPlacePass):
    """See the module. ``fold`` says whether constants are put in, or only shapes told."""

    def __init__(self, fold: bool = True) -> None:
        super().__init__()
        self._fold = fold

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        open_dims = {str(d) for v in graph.inputs for d in v.shape or () if not isinstance(d, int)}
        # Two tell the batch from every number; only further open sizes need a third.
        wanted = PROBES if open_dims - {BATCH} else PROBES[::2] if open_dims else PROBES[:1]
        probes = [_probe(model, batch, space) for batch, space in wanted]
        odd = [_probe(model, *ODD)] if len(wanted) == len(PROBES) else []
        modified = False
        names: dict[tuple[int, ...], str] = {}
        for n, sizes_of in enumerate(zip(*(p.opened for p in probes))):
            names[sizes_of] = f"{SIZE}{n}"
        opened = iter(list(zip(*(p.opened for p in [*probes, *odd]))))
        for value in graph.inputs:
            dims, found_sizes = [], []
            for d in value.shape or ():
                known = isinstance(d, int) or str(d.value) == BATCH
                size = tuple(d if isinstance(d, int) else p.batch for p in [*probes, *odd]) if known else next(opened)
                found_sizes.append(size)
                dims.append(d if known or not self._fold else names[size[:len(probes)]])
            value.meta["sizes"] = found_sizes
            if value.shape is not None:
                value.shape = ir.Shape(dims)
        for node in list(graph):
            for value in node.outputs:
                name = value.name or ""
                found = [p.shapes[name] for p in probes if name in p.shapes]
                if len({len(s) for s in found}) == 1:
                    value.dtype = ir.DataType(probes[0].dtypes[name])
                    also = [s for p in odd if len(s := p.shapes.get(name, [])) == len(found[0]) and None not in s]
                    if not any(None in s for s in found):
                        value.meta["sizes"] = list(zip(*found, *also))
                    value.shape = ir.Shape([
                        self._dim(probes, sizes, names) if all(_same(probes, sizes, o[n]) for o in also) else None
                        for n, sizes in enumerate(zip(*found))])
            if self._fold:
                modified = _settle(graph, node, probes, odd) or modified
        return ir.passes.PassResult(model, modified)

    def _dim(
        self, probes: Sequence[_Probe], sizes: tuple[int | None, ...], names: dict[tuple[int, ...], str]
    ) -> int | str | None:
        known = tuple(s for s in sizes if s is not None)
        if len(known) < len(sizes):
            return None
        if len(set(known)) == 1:
            return known[0]
        factor = known[0] // probes[0].batch
        if all(size == factor * probe.batch for size, probe in zip(known, probes)):
            return BATCH if factor == 1 else f"{factor}*{BATCH}"
        # A name says to the passes that sizes are equal; equal at the probes is not equal always, so that
        # the file does not have it.
        return names.setdefault(known, f"{SIZE}{len(names)}") if self._fold else None


def _same(probes: Sequence[_Probe], sizes: tuple[int | None, ...], odd: int | None) -> bool:
    """Whether a size that is one number at all probes, or as many times the batch, is so at the odd one too."""
    first = sizes[0]
    if first is None or odd is None:
        return True
    if all(size == first for size in sizes):
        return odd == first
    factor = first // probes[0].batch
    return odd == factor * ODD[0] or any(size != factor * p.batch for size, p in zip(sizes, probes))


def _settle(graph: ir.Graph, node: ir.Node, probes: Sequence[_Probe], odd: Sequence[_Probe]) -> bool:
    """Put constants in the place of ``node``'s output, which only shapes decide."""
    output = node.outputs[0]
    name = output.name or ""
    found = [p.constants[name] for p in probes if name in p.constants]
    if len(found) < len(probes):
        return False
    found += [p.constants[name] for p in odd if name in p.constants]
    if len({a.shape for a in found}) > 1:
        return False
    if all(np.array_equal(a, found[0]) for a in found):
        output.replace_all_uses_with(add_initializer(graph, found[0], name))
        graph.remove(node, safe=True)
        return True
    varies = np.any([a != found[0] for a in found], axis=0)
    if varies.sum() != 1:
        return False
    modified = False
    for use in list(output.uses()):
        if use.node.op_type == "Reshape" and use.idx == 1 and (found[0] > 0).all():
            use.node.replace_input_with(1, add_initializer(
                graph, np.where(varies, -1, found[0]), f"{name}__open"))
            modified = True
    return modified


def _probe(model: ir.Model, batch: int, space: int) -> _Probe:
    import onnx

    proto = skeleton(model)
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    opened: list[int] = []
    for value in proto.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value"):
                continue
            if dim.dim_param == BATCH:
                dim.dim_value = batch
            else:
                opened.append(space + STEP * len(opened))
                dim.dim_value = opened[-1]
    while True:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        probe = ir.from_proto(inferred)
        # One more round while shapes become constants that decide further shapes.
        if not FoldConstants()(probe).modified:
            break
        proto = ir.to_proto(probe)
    constants = {k: array for k, v in probe.graph.initializers.items() if (array := constant(v)) is not None}
    shapes: dict[str, list[int | None]] = {}
    dtypes: dict[str, int] = {}
    for info in [*inferred.graph.value_info, *inferred.graph.output]:
        if info.type.tensor_type.HasField("shape"):
            shapes[info.name] = [d.dim_value if d.HasField("dim_value") else None
                                 for d in info.type.tensor_type.shape.dim]
        dtypes[info.name] = info.type.tensor_type.elem_type
    for name, array in constants.items():
        shapes[name], dtypes[name] = list(array.shape), int(ir.DataType.from_numpy(array.dtype))
    return _Probe(batch, opened, shapes, constants, dtypes)
