"""The folding that follows translation: one small pass a file, run in the order below."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
)

from cnnexport.conversion.passes.crops import MergeCrop, PositivePadding, StaticSlice
from cnnexport.conversion.passes.dense import KeepAxes
from cnnexport.conversion.passes.flatten import PermuteDenseAfterFlatten
from cnnexport.conversion.passes.fold_affine import FoldAffine
from cnnexport.conversion.passes.fold_constants import FoldConstants
from cnnexport.conversion.passes.gemm import MatMulToGemm
from cnnexport.conversion.passes.global_pool import GlobalPool
from cnnexport.conversion.passes.identities import DropIdentities
from cnnexport.conversion.passes.narrow import Narrow
from cnnexport.conversion.passes.padding import MergePadding
from cnnexport.conversion.passes.reshape import SayFlatten, StaticReshape
from cnnexport.conversion.passes.scale_shift import JoinScaleAndShift
from cnnexport.conversion.passes.shapes import InferShapes
from cnnexport.conversion.passes.transposes import SettleTransposes, TransposesOfOnes
from cnnexport.conversion.passes.unflatten import PermuteDenseBeforeReshape
from cnnexport.conversion.passes.upsample import ResizeRepeated


def fold(model: ir.Model) -> ir.Model:
    """Fold ``model`` in place: batch normalisation, kernel layouts, padding, Dense and global pooling."""
    ir.passes.Sequential(
        IdentityEliminationPass(),
        CommonSubexpressionEliminationPass(),
        FoldConstants(),
        PositivePadding(),
        InferShapes(),
        RemoveUnusedNodesPass(),
        DropIdentities(),
        StaticSlice(),
        ResizeRepeated(),
        KeepAxes(),
        StaticReshape(),
        SettleTransposes(),
        GlobalPool(),
        StaticReshape(),
        Narrow(),
        StaticReshape(),
        PermuteDenseAfterFlatten(),
        PermuteDenseBeforeReshape(),
        MergeCrop(),
        FoldAffine(),
        MatMulToGemm(),
        FoldAffine(),
        MergePadding(),
        SettleTransposes(),
        TransposesOfOnes(),
        StaticReshape(),
        JoinScaleAndShift(),
        SayFlatten(),
        RemoveUnusedNodesPass(),
        CommonSubexpressionEliminationPass(),
    )(model)
    return model
