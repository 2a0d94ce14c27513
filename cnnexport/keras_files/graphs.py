"""What a SavedModel would run: every operator of its graphs and functions is on a list of harmless ones.

The operators that save and restore variables are in every SavedModel and reach files. They are let through where
nothing that TensorFlow runs leads to them: neither the object graph, nor a signature, an initializer or another
function.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cnnexport.errors import InputError
from cnnexport.keras_files import internals
from cnnexport.keras_files.operators_allowed import ALLOWED, SAVERS

_TRUST = "give --unsafe-load if you trust it"
# What TensorFlow notes on functions that save and restore. ``api_implements``, for one, would swap them in elsewhere.
_SAVER_NOTES = frozenset((
    "_input_shapes", "_output_shapes", "_construction_context", "_has_manual_control_dependencies"))
_HANDLES = (20, 21)  # DT_RESOURCE and DT_VARIANT: objects, not numbers
_LARGE = 64 << 20
"""Elements that a constant may claim beyond those that it spells out."""


def check(path: Path, stored: Any) -> None:
    """Refuse a SavedModel (its parsed protocol buffer) with an operator that is not known to be harmless."""
    for graph in stored.meta_graphs:
        functions = list(graph.graph_def.library.function)
        names = {function.signature.name for function in functions}
        for where, nodes in [("", graph.graph_def.node), *((f.signature.name, f.node_def) for f in functions)]:
            for node in nodes:
                if node.op not in ALLOWED and node.op not in SAVERS and node.op not in names:
                    raise _refusal(path, node.op, where)
                if node.op == "Const":
                    _check_constant(path, node)
        saving = _saving(functions, names)
        _check_functions(path, graph, functions, saving)
        if len(stored.meta_graphs) != 1 or not graph.HasField("object_graph_def"):
            _check_main_graph(path, graph, saving)  # TensorFlow runs it only where there is no object graph


def _refusal(path: Path, op: str, where: str = "", told: str = "which is not among those known to stay inside the "
             "model") -> InputError:
    place = f" in its function {_shown(where)}" if where else ""
    return InputError(f"{path.name} is a SavedModel with the operation {_shown(op)}{place}, {told}; {_TRUST}")


def _shown(name: str) -> str:
    return re.sub(r"[^\w>./-]", "?", name)[:80]


def _check_constant(path: Path, node: Any) -> None:
    tensor = node.attr["value"].tensor
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype in _HANDLES:
        raise _refusal(path, "Const", "", "which holds an object in place of numbers")
    if any(size < 0 for size in sizes) or math.prod(sizes) > _LARGE + tensor.ByteSize():
        claim = ' x '.join(map(str, sizes))
        raise _refusal(path, "Const", "", f"which claims {claim} numbers that the file does not hold")


# --- functions -------------------------------------------------------------------------------------------------


def _called(nodes: Iterable[Any], names: set[str]) -> Iterator[str]:
    """The functions that nodes call or carry."""
    for node in nodes:
        if node.op in names:
            yield node.op
        for value in node.attr.values():
            if value.WhichOneof("value") == "func":
                yield value.func.name
            elif value.WhichOneof("value") == "list":
                yield from (function.name for function in value.list.func)


def _saving(functions: list[Any], names: set[str]) -> dict[str, str]:
    """The functions that save or restore, themselves or by what they call, and the operator by which they do."""
    saving = {f.signature.name: node.op for f in functions for node in f.node_def if node.op in SAVERS}
    calls = [(f.signature.name, set(_called(f.node_def, names))) for f in functions]
    changed = bool(saving)
    while changed:
        changed = False
        for name, called in calls:
            if name not in saving and (found := next((c for c in called if c in saving), None)) is not None:
                saving[name], changed = saving[found], True
    return saving


def _check_functions(path: Path, graph: Any, functions: list[Any], saving: dict[str, str]) -> None:
    """Refuse functions that save or restore where the object graph or a gradient leads to them."""
    objects = graph.object_graph_def
    used = set(objects.concrete_functions)
    for node in objects.nodes:
        used |= {*node.function.concrete_functions, node.bare_concrete_function.concrete_function_name,
                 node.captured_tensor.concrete_function}
    library = graph.graph_def.library
    for gradient in library.gradient:
        used |= {gradient.function_name, gradient.gradient_func}
    used |= {gradient.gradient_func for gradient in library.registered_gradients}
    used |= {f.signature.name for f in functions if set(f.attr) - _SAVER_NOTES}
    if found := sorted(used & set(saving)):
        raise _refusal(path, saving[found[0]], found[0], "which the model itself would run")


# --- the main graph of TensorFlow 1 ----------------------------------------------------------------------------


def _check_main_graph(path: Path, graph: Any, saving: dict[str, str]) -> None:
    """Refuse a main graph in which anything but the restoring of its own variables reaches files."""
    nodes = {node.name: node for node in graph.graph_def.node}
    inputs = {name: {_node_of(i) for i in node.input} for name, node in nodes.items()}
    reaching: dict[str, str] = {}
    for name, node in nodes.items():
        if node.op in SAVERS:
            reaching[name] = node.op
        elif found := next((c for c in _called([node], set(saving)) if c in saving), None):
            reaching[name] = saving[found]
    restoring = _behind({_node_of(graph.saver_def.restore_op_name)}, inputs)
    for name in sorted(restoring & set(reaching)):
        node = nodes[name]
        if node.op != "RestoreV2" or _node_of(next(iter(node.input), "")) != _node_of(
                graph.saver_def.filename_tensor_name):
            raise _refusal(path, reaching[name], "", "which is not the restoring of its own variables")
    for name in sorted(_behind(set(_run_by(graph)), inputs) & set(reaching)):
        raise _refusal(path, reaching[name], "", "which the model itself would run")


def _node_of(tensor: str) -> str:
    return tensor.lstrip("^").split(":")[0]


def _behind(names: set[str], inputs: dict[str, set[str]]) -> set[str]:
    """The nodes ``names`` and all that they depend on."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += inputs.get(name, ())
    return found


def _run_by(graph: Any) -> Iterator[str]:
    """The nodes that signatures, collections (initializers among them) and assets name."""
    for signature in graph.signature_def.values():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            sparse = info.coo_sparse
            for name in (info.name, sparse.values_tensor_name, sparse.indices_tensor_name,
                         sparse.dense_shape_tensor_name, *(c.name for c in info.composite_tensor.components)):
                yield _node_of(name)
    for asset in graph.asset_file_def:
        yield _node_of(asset.tensor_info.name)
    for key, collection in graph.collection_def.items():
        yield from map(_node_of, collection.node_list.value)
        if key == "savers":  # described, and never run
            continue
        for content in collection.bytes_list.value:
            try:
                variable = internals.variable(content)
            except Exception:  # something else than a variable, which only describes
                continue
            for name in (variable.variable_name, variable.initializer_name, variable.snapshot_name,
                         variable.initial_value_name):
                yield _node_of(name)
