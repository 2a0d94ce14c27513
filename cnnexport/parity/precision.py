"""The precision that was asked for, told by Keras' dtype policies, and whether a file computes in a lower one.

A tolerance that followed from the file would be as loose as the file is coarse: what is judged must not set the bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_RANKS = {"float64": 0, "float32": 0, "float16": 1, "bfloat16": 2}
_LOWEST_RANK = 3
"""Of what is coarser than all that Keras computes in: 8 and 4 bits."""


@dataclass(frozen=True)
class Precision:
    """``compute`` is the lowest precision that a Keras model computes in; ``stored`` counts its variables too."""

    compute: str = "float32"
    stored: str = "float32"


def asked(model: Any) -> Precision:
    """The precision that a Keras model was asked to compute in: the lowest of its layers' dtype policies.

    A SavedModel has no policies; the types in its own graph tell.
    """
    from cnnexport.keras_files.internals import all_layers

    compute, stored = [], []
    for layer in all_layers(model):
        compute.append(str(getattr(layer, "compute_dtype", None) or "float32"))
        stored += [str(v.dtype) for v in layer.variables]
        if (loaded := getattr(getattr(layer, "function", None), "keep", None)) is not None:
            compute += _types_of_savedmodel(loaded)
    lowest = _lowest(compute)
    return Precision(lowest, _lowest([lowest, *stored]))


def _lowest(names: list[str]) -> str:
    known = [name for name in names if name in _RANKS]
    worst = max(known, key=_RANKS.__getitem__, default="float32")
    return worst if _RANKS[worst] else ("float64" if known and set(known) == {"float64"} else "float32")


def _types_of_savedmodel(loaded: Any) -> list[str]:
    """The types of half precision among the nodes of a loaded SavedModel's signatures and the functions they call."""
    import tensorflow as tf

    kinds = {tf.float16.as_datatype_enum: "float16", tf.bfloat16.as_datatype_enum: "bfloat16"}
    found: set[str] = set()
    for signature in loaded.signatures.values():
        graph = signature.graph.as_graph_def()
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            found |= {kinds[value.type] for node in nodes for value in node.attr.values() if value.type in kinds}
    return sorted(found)


def lower_in_file(path: Path, precision: Precision) -> str | None:
    """What in the ONNX file at ``path`` is coarser than ``precision``, in a few words; None where nothing is.

    A coarse number comes into a graph by an initializer, a constant, or a node that says its type: these are looked at.
    The types of its inputs and outputs are the caller's to compare.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    allowed = max(_RANKS[precision.compute], _RANKS[precision.stored])
    for node, kind in _coarse(model):
        if _rank(kind) > allowed:
            return f"{node} is in {kind}"
    return None


def _rank(kind: str) -> int:
    return _RANKS.get(kind, _LOWEST_RANK if kind.startswith("float") else 0)


def _coarse(model: Any) -> Iterator[tuple[str, str]]:
    """Each place that brings a floating-point type into a graph, and that type as NumPy spells it."""
    from cnnexport import onnx_file

    for graph in (model.graph, *model.functions):
        for tensor in getattr(graph, "initializer", ()):
            yield f"initializer '{tensor.name}'", onnx_file.dtype_name(tensor.data_type)
        for node in onnx_file.nodes_of(graph):
            told = f"node '{node.name}' ({node.op_type})" if node.name else f"a node {node.op_type}"
            for attribute in node.attribute:
                if attribute.name in ("to", "dtype", "output_dtype", "stash_type") and attribute.HasField("i"):
                    yield told, onnx_file.dtype_name(attribute.i)
                for tensor in ([attribute.t] if attribute.HasField("t") else []):
                    yield told, onnx_file.dtype_name(tensor.data_type)
                for inner in ([attribute.g] if attribute.HasField("g") else []):
                    for tensor in inner.initializer:
                        yield f"initializer '{tensor.name}'", onnx_file.dtype_name(tensor.data_type)
