"""The folding that follows translation: one small pass a file, run in the order below."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from cnnexport.conversion.passes.flatten import PermuteDenseAfterFlatten
from cnnexport.conversion.passes.fold_affine import FoldAffine
from cnnexport.conversion.passes.fold_constants import FoldConstants
from cnnexport.conversion.passes.gemm import MatMulToGemm
from cnnexport.conversion.passes.global_pool import GlobalPool
from cnnexport.conversion.passes.padding import MergePadding
from cnnexport.conversion.passes.reshape import StaticReshape
from cnnexport.conversion.passes.transposes import SettleTransposes


def fold(model: ir.Model) -> ir.Model:
    """Fold ``model`` in place: batch normalisation, kernel layouts, padding, Dense and global pooling."""
    ir.passes.Sequential(
        CommonSubexpressionEliminationPass(),
        FoldConstants(),
        StaticReshape(),
        FoldConstants(),
        SettleTransposes(),
        GlobalPool(),
        StaticReshape(),
        PermuteDenseAfterFlatten(),
        FoldAffine(),
        MatMulToGemm(),
        FoldAffine(),
        MergePadding(),
        SettleTransposes(),
        RemoveUnusedNodesPass(),
    )(model)
    return model
