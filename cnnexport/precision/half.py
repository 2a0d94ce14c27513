"""fp16 and bf16: what a layer overflows or loses is measured on images, and stays in float32.

fp16 is written by ``onnxruntime.transformers.float16`` (weights and activations). ONNX Runtime has no convolution in
bf16 on CPUs, so that such a file would not run here: bf16 halves the stored weights, and a Cast restores float32.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cnnexport.bundle.records import Kept
from cnnexport.errors import InputError
from cnnexport.parity.stored import distance
from cnnexport.precision.calibration import Batches
from cnnexport.precision.int8 import PRODUCTS, Made, check_float
from cnnexport.precision.layers import inside
from cnnexport.runtimes import ort
from cnnexport.text import all_in_line

LARGEST = 65504.0
"""Of fp16's numbers."""
HEADROOM = 2.0
"""How many times what was measured must fit: other images may give more."""
LOST = 1e-2
"""A node that adds more than this to the error of what it reads, in standard deviations of its output, is kept."""
_ROUNDS = 3


def write_fp16(
    source: Path, place: Path, batches: Batches, scratch: Path, io: Literal["float32", "same"] = "float32"
) -> Made:
    """Write ``source`` in fp16 to ``place``; ``batches`` are what ranges and losses are measured on.

    Raises InputError where the library cannot convert the file.
    """
    import onnx

    model = onnx.load(source)
    check_float(model, source)
    kept = {k.node: k for k in _overflowing(model, source, batches, scratch)}
    for _ in range(_ROUNDS):
        onnx.save(_converted(source, list(kept), io), place)
        lost = [k for k in _losing(model, source, place, batches, scratch) if k.node not in kept]
        if not lost:
            break
        kept |= {k.node: k for k in lost}
    else:
        onnx.save(_converted(source, list(kept), io), place)
    notes = ("CPUs run few of fp16's operators: here it saves space, not time",)
    return Made({"weights": "float16", "activations": "float16", "io": io,
                 "by": f"onnxruntime.transformers.float16 {ort.library().__version__}"}, tuple(kept.values()), notes)


def write_bf16(source: Path, place: Path) -> Made:
    """Write ``source`` with its weights in bf16 to ``place``; a Cast before each restores float32."""
    import ml_dtypes
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source)
    check_float(model, source)
    casts = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < 64:  # scales and lone numbers
            continue
        name, stored = tensor.name, f"{tensor.name}_bf16"
        values = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        tensor.CopyFrom(helper.make_tensor(stored, TensorProto.BFLOAT16, values.shape, values.tobytes(), raw=True))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}_float32", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, place)
    return Made({"weights": "bfloat16", "activations": "float32", "io": "float32", "by": "cnnexport"}, (), (
        "bf16 weights are restored to float32 when the file is loaded: it saves space, not time",))


def _converted(source: Path, kept: list[str], io: str) -> Any:
    """The model in fp16, but for the nodes ``kept``."""
    import onnx

    ort.library()
    paths = list(sys.path)
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        made = convert_float_to_float16(onnx.load(source), keep_io_types=io == "float32", node_block_list=kept)
    except Exception as error:  # the library raises whatever fails within
        raise InputError(f"{source} cannot be converted by onnxruntime.transformers.float16 ({all_in_line(error)}); "
                         "use --precision int8") from error
    finally:
        sys.path[:] = paths  # the package adds its own folder
    _sort(made.graph)
    _unite(made.graph)
    return made


def _unite(graph: Any) -> None:
    """Let a kept node read what another one wrote: the library sends it through fp16, where it may overflow."""
    makers = {output: node for node in graph.node for output in node.output}
    for node in [n for n in graph.node if _casts(n, 1)]:
        before = makers.get(node.input[0])
        if before is None or not _casts(before, 10):
            continue
        for reader in graph.node:
            for place, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[place] = before.input[0]
    outputs = {v.name for v in graph.output}
    while True:
        read = {name for node in graph.node for name in node.input} | outputs
        idle = [n for n in graph.node if n.op_type == "Cast" and n.output[0] not in read]
        if not idle:
            return
        for node in idle:
            graph.node.remove(node)


def _casts(node: Any, kind: int) -> bool:
    """Whether a node is a Cast to the ONNX element type ``kind`` (1 float32, 10 fp16)."""
    return node.op_type == "Cast" and any(a.name == "to" and a.i == kind for a in node.attribute)


def _sort(graph: Any) -> None:
    """Put nodes behind those that they read: the library appends its casts at the end."""
    nodes = list(graph.node)
    known = {v.name for v in graph.input} | {t.name for t in graph.initializer} | {""}
    makers = {output: node for node in nodes for output in node.output}
    ordered, placed = [], set()
    waiting = nodes[::-1]
    while waiting:
        node = waiting.pop()
        if id(node) in placed:
            continue
        before = [makers[n] for n in node.input if n not in known and n in makers and id(makers[n]) not in placed]
        if before:
            waiting += [node, *before]
            continue
        placed.add(id(node))
        ordered.append(node)
        known.update(node.output)
    del graph.node[:]
    graph.node.extend(ordered)


def _overflowing(model: Any, source: Path, batches: Batches, scratch: Path) -> list[Kept]:
    """The nodes whose numbers, or whose sums on the way, would leave the range of fp16."""
    largest: dict[str, float] = {}
    totals: dict[str, float] = {}
    for values in inside(model, source, batches, scratch):
        for name, array in values.items():
            finite = np.abs(np.where(np.isfinite(array), array, 0.0))
            largest[name] = max(largest.get(name, 0.0), float(finite.max(initial=0.0)))
            if array.ndim == 4:
                totals[name] = max(totals.get(name, 0.0), float(finite.sum((2, 3), dtype=np.float64).max(initial=0.0)))
    found = []
    for node in model.graph.node:
        most = max((largest.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
        what = "its numbers reach"
        size = next((a.i for a in node.attribute if a.name == "size"), 0)
        if node.op_type == "LRN" and largest.get(node.input[0], 0.0) ** 2 * size > most:
            most, what = largest[node.input[0]] ** 2 * size, "its sums of squares reach"
        elif node.op_type in ("GlobalAveragePool", "ReduceMean", "ReduceSum") and totals.get(node.input[0], 0.0) > most:
            most, what = totals[node.input[0]], "its sums reach"
        if most * HEADROOM > LARGEST:
            found.append(Kept(node=node.name, operator=node.op_type,
                              reason=f"{what} {most:.3g} on the images, and fp16 ends at {LARGEST:.0f}"))
    return found


def _losing(model: Any, source: Path, place: Path, batches: Batches, scratch: Path) -> list[Kept]:
    """The nodes of the file at ``place`` that add more than LOST to the error of what they read."""
    import onnx

    half = onnx.load(place)
    shared = {o for n in half.graph.node for o in n.output} & {o for n in model.graph.node for o in n.output}
    errors: dict[str, float] = {}
    reference, actual = (inside(m, f, batches, scratch, shared, most=1)
                         for m, f in ((model, source), (half, place)))
    for wanted, got in zip(reference, actual):
        for name in wanted.keys() & got.keys():
            errors[name] = distance(wanted[name], got[name])[0]
    found = []
    for node in model.graph.node:
        before = max((errors.get(name, 0.0) for name in node.input), default=0.0)
        after = max((errors.get(name, 0.0) for name in node.output), default=0.0)
        if node.op_type not in PRODUCTS and not after <= before + LOST:  # a product's rounding is what fp16 is
            found.append(Kept(node=node.name, operator=node.op_type,
                              reason=f"its error is {after:.2g} standard deviations, and {before:.2g} before it"))
    return found
