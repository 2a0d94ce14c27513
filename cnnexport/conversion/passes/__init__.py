"""The folding that follows translation: one small pass a file, run in the stages below."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
)

from cnnexport.conversion.passes.activations import WholeActivations
from cnnexport.conversion.passes.argmax import PlainArgMax
from cnnexport.conversion.passes.branches import OwnOutputs
from cnnexport.conversion.passes.conditions import (
    Broken,
    Condition,
    named_apart,
    ordered,
    regrouped,
    settled,
    used,
)
from cnnexport.conversion.passes.crops import MergeCrop, PositivePadding, StaticSlice
from cnnexport.conversion.passes.dense import KeepAxes
from cnnexport.conversion.passes.fills import ScalarFill
from cnnexport.conversion.passes.flatten import PermuteDenseAfterFlatten
from cnnexport.conversion.passes.fold_affine import FoldAffine
from cnnexport.conversion.passes.fold_concat import RiseAboveConcat
from cnnexport.conversion.passes.fold_constants import FoldConstants
from cnnexport.conversion.passes.fold_forward import FoldForward
from cnnexport.conversion.passes.gemm import MatMulToGemm
from cnnexport.conversion.passes.global_pool import GlobalPool
from cnnexport.conversion.passes.identities import DropIdentities
from cnnexport.conversion.passes.narrow import Narrow
from cnnexport.conversion.passes.normalisations import WholeNormalisations
from cnnexport.conversion.passes.padding import MergePadding, SayPadding
from cnnexport.conversion.passes.pool_padding import MergePoolPadding
from cnnexport.conversion.passes.reshape import SayFlatten, StaticReshape
from cnnexport.conversion.passes.scale_shift import JoinScaleAndShift
from cnnexport.conversion.passes.shapes import InferShapes
from cnnexport.conversion.passes.transposes import SettleTransposes, TransposesOfOnes
from cnnexport.conversion.passes.unflatten import PermuteDenseBeforeReshape
from cnnexport.conversion.passes.upsample import ResizeRepeated


@dataclass(frozen=True)
class Stage:
    """Passes in their order, what they rely on, and what they leave behind."""

    name: str
    passes: tuple[type[ir.passes.InPlacePass], ...]
    before: tuple[Condition, ...]
    after: tuple[Condition, ...]


STAGES = (
    Stage(
        "normalise",
        (
            IdentityEliminationPass, OwnOutputs, CommonSubexpressionEliminationPass, FoldConstants, PositivePadding,
            SayPadding, InferShapes, RemoveUnusedNodesPass, DropIdentities, WholeActivations, PlainArgMax, ScalarFill,
            StaticSlice, ResizeRepeated, KeepAxes, StaticReshape,
        ),
        before=(ordered,),
        after=(ordered, regrouped),
    ),
    Stage(
        "settle layouts",
        (
            SettleTransposes, WholeNormalisations, SettleTransposes, GlobalPool, StaticReshape, Narrow, StaticReshape,
            PermuteDenseAfterFlatten, PermuteDenseBeforeReshape,
        ),
        before=(regrouped,),
        after=(ordered, settled),
    ),
    Stage(
        "fold",
        (
            MergeCrop, RiseAboveConcat, FoldAffine, MatMulToGemm, MergePadding, MergePoolPadding, TransposesOfOnes,
            StaticReshape, FoldForward, JoinScaleAndShift, SayFlatten,
        ),
        before=(settled,),
        after=(ordered, settled),
    ),
    Stage(
        "clean",
        (RemoveUnusedNodesPass, CommonSubexpressionEliminationPass),
        before=(settled,),
        after=(ordered, settled, used, named_apart),
    ),
)


def fold(model: ir.Model) -> ir.Model:
    """Fold ``model`` in place, stage by stage; a condition that does not hold is an error of ours, and says so."""
    for stage in STAGES:
        _check(model, stage.before, f"before stage '{stage.name}' (pass {stage.passes[0].__name__})",
               ir.passes.PreconditionError)
        for one in stage.passes:
            place = f"in stage '{stage.name}', pass {one.__name__}"
            try:
                changed = one()(model).modified
            except Exception as error:
                raise ir.passes.PassError(f"{place}: {type(error).__name__}: {error}") from error
            # What every pass keeps is asked of each, so that the one that broke it is named.
            _check(model, (ordered,) if changed else (), place, ir.passes.PostconditionError)
        _check(model, stage.after, f"after stage '{stage.name}' (last pass {one.__name__})",
               ir.passes.PostconditionError)
    return model


def _check(
    model: ir.Model, conditions: tuple[Condition, ...], place: str, error: type[ir.passes.InvariantError]
) -> None:
    for condition in conditions:
        try:
            condition(model.graph)
        except Broken as broken:
            raise error(f"{place}: '{condition.__name__}' does not hold: {broken}") from None
