"""What Keras computes: outputs, what is behind their activations, and every layer's output on the way.

``ask`` is all of it, as arrays that outlive the model.
"""

from __future__ import annotations

import math
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnexport.conversion.ports import Port
from cnnexport.keras_files import internals
from cnnexport.parity.answers import CaseAnswer, KerasAnswers
from cnnexport.parity.comparison import Array
from cnnexport.parity.inputs import SIZES, SMALLEST, cases, first_case, is_open, sized
from cnnexport.parity.layers import Call
from cnnexport.parity.precision import Precision, lowest

LAYER_BYTES = 192 << 20
"""Layer outputs kept for one comparison; what is above is asked for again where the outputs leave a question."""

ROW_BYTES = 64 << 20
"""The largest output of a layer for one batch: of a network of large images fewer rows are run at once."""


def ask(
    model: Any,
    inputs: Sequence[Port],
    *,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
    batch: int | None = None,
    macs: int | None = None,
    kept_heads: Sequence[Any] | None = None,
    layers: bool = True,
    keep_layers: bool = True,
) -> KerasAnswers:
    """Run a Keras model on every case; ``inputs`` are those of the file, in the order of the model's.

    ``kept_heads`` are the final activations that the conversion kept (all by default). With ``layers``, every
    layer's output on the first case is kept too (unless ``keep_layers`` is False, for ``stream_layers``), and the
    effect of each layer's weights on the outputs measured.
    """
    from cnnexport.keras_files import heads
    from cnnexport.parity import sensitivity

    found = heads.heads(model) if kept_heads is None else list(kept_heads)
    first = first_case(inputs, seed=seed, value_range=value_range, batch=batch)
    ran = run(model, found, first.inputs, layers=layers, limit=LAYER_BYTES if keep_layers else 0)
    calls = ran.calls
    made = [CaseAnswer(first, ran.outputs, ran.logits)]
    answer = traced(model, found, ran.outputs, first.inputs, inputs, fixed=batch is not None)
    for case in cases(inputs, seed=seed, value_range=value_range, batch=batch, macs=macs,
                      most=rows_at_once(calls, 4))[1:]:
        ran = answer(case.inputs)
        made.append(CaseAnswer(case, ran.outputs, ran.logits))
    if is_open(inputs):
        made += _other_sizes(model, found, inputs, batch or 1, seed, value_range)
    effects = sensitivity.effects(model, found, made[0].case.inputs, seed=seed) if layers else {}
    return KerasAnswers(made, tuple(None if h is None else h.activation for h in found), calls, effects, asked(model))


def rows_at_once(calls: Mapping[str, Call], width: int) -> int:
    """How many rows keep the largest output of a layer within ROW_BYTES, in numbers of ``width`` bytes; at least one.
    """
    widest = max((width * math.prod(c.shape[1:]) for c in calls.values() if c.shape), default=1)
    return max(ROW_BYTES // max(widest, 1), 1)


def _other_sizes(
    model: Any, heads: Sequence[Any], inputs: Sequence[Port], batch: int, seed: int,
    value_range: tuple[float, float] | None,
) -> list[CaseAnswer]:
    """What Keras computes at other sizes than the usual one, of those that the network takes."""
    import keras
    import tensorflow as tf

    def tried(size: tuple[int, int]) -> CaseAnswer | None:
        case = sized(inputs, size, batch, seed, value_range)
        specs = [tf.TensorSpec(a.shape, p.dtype) for a, p in zip(case.inputs, inputs)]
        try:
            # Only inference of shapes refuses a window without a pixel: kernels may answer it with whatever lies there.
            with _unoptimised():
                graph = tf.function(lambda *fed: call(model, heads, fed), autograph=False).get_concrete_function(*specs)
                outputs, logits = _arrays(*graph(*(keras.ops.convert_to_tensor(a) for a in case.inputs)))
        except Exception:  # each layer refuses in its own words what it cannot take
            return None
        return CaseAnswer(case, outputs, logits) if all(y.size for y in outputs) else None

    least = next((found for size in SMALLEST if (found := tried((size, size))) is not None), None)
    return [found for found in (least, *map(tried, SIZES)) if found is not None]


def asked(model: Any) -> Precision:
    """The precision that a Keras model was asked to compute in: the lowest of its layers' dtype policies.

    A SavedModel has no policies; the types in its own graph tell.
    """
    compute, stored = [], []
    for layer in internals.all_layers(model):
        compute.append(str(getattr(layer, "compute_dtype", None) or "float32"))
        stored += [str(v.dtype) for v in layer.variables]
        if (loaded := getattr(getattr(layer, "function", None), "keep", None)) is not None:
            compute += _types_of_savedmodel(loaded)
    computed = lowest(compute)
    return Precision(computed, lowest([computed, *stored]))


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


@dataclass
class LiveRun:
    """One run of a Keras model: outputs, logits (None where there are none), and layer calls by path."""

    outputs: list[Array]
    logits: list[Array | None]
    calls: dict[str, Call] = field(default_factory=dict)


def run(
    model: Any,
    heads: Sequence[Any],
    arrays: Sequence[Array],
    *,
    layers: bool = False,
    wanted: Callable[[str], bool] = lambda layer: True,
    limit: int | None = None,
) -> LiveRun:
    """Run ``model`` at inference on ``arrays`` (Keras' layouts, batch first).

    ``heads`` are those of ``keras_files.heads.heads``. With ``layers``, the calls of all leaf layers are recorded,
    with the outputs of the ``wanted`` ones, up to ``limit`` bytes of them.
    """
    import keras

    fed = [keras.ops.convert_to_tensor(a) for a in arrays]
    calls: dict[str, Call] = {}
    with internals.letting_go(model), _observed(model, calls, wanted, limit) if layers else nullcontext():
        results, before = call(model, heads, fed)
    return LiveRun(*_arrays(results, before), calls)


def run_in_groups(
    model: Any, heads: Sequence[Any], arrays: Sequence[Array], layers: Sequence[str], limit: int,
    progress: Callable[[str], None],
) -> Iterator[tuple[list[str], dict[str, Call]]]:
    """``layers`` in groups whose outputs take up to ``limit`` bytes, each with the calls of a run that has them."""
    left = list(layers)
    while left:
        progress(f"layers {len(layers) - len(left) + 1} to {len(layers)}")
        calls = run(model, heads, arrays, layers=True, wanted=set(left).__contains__, limit=limit).calls
        group = [layer for layer in left if calls[layer].output is not None] or left[:1]
        yield group, calls
        left = [layer for layer in left if layer not in group]


class _Enough(BaseException):
    """All that was wanted of a run is there; no Exception, which Keras would reword."""


def layer_outputs(
    model: Any, heads: Sequence[Any], arrays: Sequence[Array], wanted: Mapping[str, int]
) -> dict[str, Array]:
    """The outputs of the layers ``wanted``, each at its last of so many calls, of a run that ends with the last of all.
    """
    import keras

    from cnnexport.conversion.trace import named_operations

    found: dict[str, Array] = {}
    left = dict(wanted)

    def recorded(path: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            left[path] -= 1
            if not left[path]:
                found[path] = to_numpy(result)
                if not any(left.values()):
                    raise _Enough
            return result

        return wrapper

    with ExitStack() as stack:
        stack.enter_context(internals.letting_go(model))
        for path, layer in named_operations(model):
            if path in wanted:
                stack.enter_context(internals.replaced(layer, "call", recorded(path, layer.call)))
        stack.enter_context(suppress(_Enough))
        call(model, heads, [keras.ops.convert_to_tensor(a) for a in arrays])
    return found


def call(model: Any, heads: Sequence[Any], fed: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The output tensors of ``model`` at inference on a flat list of tensors; and what is before each one's head.

    The latter is None where an output has no head of ``heads``.
    """
    import keras

    from cnnexport.keras_files import heads as endings

    structure = getattr(model, "input", None)
    single = len(fed) == 1 and not isinstance(structure, (dict, list, tuple))
    with endings.recording(heads) as records:
        results = keras.tree.flatten(
            model(fed[0] if single else keras.tree.pack_sequence_as(structure, list(fed)), training=False))
    return results, [next((x for x, y in records if y is result), None) if head is not None else None
                     for result, head in zip(results, heads or [None] * len(results))]


def _arrays(results: Sequence[Any], before: Sequence[Any]) -> tuple[list[Array], list[Array | None]]:
    return [np.ascontiguousarray(to_numpy(r)) for r in results], [None if b is None else to_numpy(b) for b in before]


def traced(
    model: Any, heads: Sequence[Any], known: Sequence[Array], like: Sequence[Array], ports: Sequence[Port], *,
    fixed: bool,
) -> Callable[[Sequence[Array]], LiveRun]:
    """``run`` as one TensorFlow graph, for arrays of the shapes of ``like``, or of any size that ``ports`` leave open.

    Unless the batch is ``fixed`` it may be any too.

    A graph gives the memory of a layer's output back once it was read, and takes no time between layers. It is not
    optimised: it computes what Keras does step by step, bit for bit. A model that makes no graph for any batch, or one
    that fails or does not answer what is ``known`` for ``like``, runs as by ``run``: over an open time axis Keras'
    TimeDistributed counts the batch in a graph, and the steps without one.
    """
    import keras
    import tensorflow as tf

    specs = []
    for array, port in zip(like, ports):
        tensor = keras.ops.convert_to_tensor(array[:1])
        sizes = [None if left is None else d for d, left in zip(tensor.shape[1:], port.shape[1:])]
        specs.append(tf.TensorSpec((len(array) if fixed else None, *sizes), tensor.dtype))
    try:
        with _unoptimised():
            graph = tf.function(lambda *fed: call(model, heads, fed), autograph=False).get_concrete_function(*specs)
    except Exception:  # whatever the model's own code raises
        return lambda arrays: run(model, heads, arrays)

    def answer(arrays: Sequence[Array]) -> LiveRun:
        try:
            with _unoptimised():
                return LiveRun(*_arrays(*graph(*(keras.ops.convert_to_tensor(a) for a in arrays))))
        except tf.errors.OpError:  # a step that runs alone, but not in a graph
            return run(model, heads, arrays)

    if not all(map(_alike, answer(like).outputs, known)):
        return lambda arrays: run(model, heads, arrays)
    return answer


def _alike(one: Array, other: Array) -> bool:
    """Whether two computations of one tensor are the same but for rounding."""
    if one.shape != other.shape or not np.issubdtype(other.dtype, np.floating):
        return np.array_equal(one, other)
    finite = other[np.isfinite(other)]
    return np.allclose(one, other, rtol=1e-2, atol=1e-3 * float(finite.std() if finite.size else 0), equal_nan=True)


@contextmanager
def _unoptimised() -> Iterator[None]:
    """Leave graphs as they were traced while the block runs: TensorFlow's optimiser takes its time, and rounds."""
    import tensorflow as tf

    options = tf.config.optimizer
    before = options.get_experimental_options().get("disable_meta_optimizer", False)
    options.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        options.set_experimental_options({"disable_meta_optimizer": before})


def to_numpy(tensor: Any) -> Array:
    """A Keras tensor as an array; bfloat16, which NumPy lacks, as float32."""
    import keras

    array = keras.ops.convert_to_numpy(tensor)
    return np.asarray(array.astype("float32") if array.dtype.name == "bfloat16" else array)


@contextmanager
def _observed(
    model: Any, calls: dict[str, Call], wanted: Callable[[str], bool], limit: int | None
) -> Iterator[None]:
    """Record the calls of the leaf layers and operations of ``model`` while the block runs."""
    import keras

    from cnnexport.conversion.trace import is_leaf, is_operation, named_operations

    made: dict[int, str] = {}  # by the tensor's id, while it lives
    total = 0

    def observed(path: str, layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal total
            result = call(*args, **kwargs)
            entry = calls.setdefault(path, Call(path, type(layer).__name__))
            entry.count += 1
            inputs = [x for x in keras.tree.flatten((args, kwargs)) if hasattr(x, "shape") and hasattr(x, "dtype")]
            if not hasattr(result, "shape") or isinstance(result, (list, tuple, dict)):
                entry.shape = None
                return result
            entry.shape = tuple(result.shape)
            # Constants beside one layer's output are no sources.
            sources = [made[id(x)] for x in inputs if id(x) in made]
            entry.source = sources[0] if len(sources) == 1 else None
            entry.sources = tuple(sources)
            entry.weighted = bool(getattr(layer, "weights", None))
            activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
            entry.linear = activation == "linear"
            array = to_numpy(result)
            entry.digest = zlib.crc32(np.ascontiguousarray(array).data)
            if len(inputs) == 1 and tuple(inputs[0].shape) == entry.shape and not entry.weighted:
                entry.identity = inputs[0] is result or bool(np.array_equal(to_numpy(inputs[0]), array))
            entry.alive = any(bool(np.any(to_numpy(x))) for x in inputs) if entry.weighted else True
            entry.varied = bool(array.size) and bool((array != array.flat[0]).any())
            if wanted(path) and (limit is None or total + array.nbytes <= limit):
                entry.output = array
                total += array.nbytes
            if id(result) not in made:
                weakref.finalize(result, made.pop, id(result), None)
            made[id(result)] = path
            return result

        return wrapper

    with ExitStack() as stack:
        for path, layer in named_operations(model):
            if not is_leaf(layer) and not is_operation(layer):
                continue
            stack.enter_context(internals.replaced(layer, "call", observed(path, layer, layer.call)))
        yield
