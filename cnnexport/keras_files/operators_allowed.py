"""The TensorFlow operators that a SavedModel may hold: each computes in memory and reaches nothing else.

Reviewed by name against TensorFlow 2.21's registry. What is missing is refused, whatever it does: among it all that
reads or writes files (``ImmutableConst``, ``DecodeProtoV2``, tables from text files, data sets, ``PrintV2`` to a file),
runs Python or foreign code (``PyFunc``, ``XlaCallModule``, ``XlaCustomCall``), ends the process (``Abort``), waits or
talks (queues, barriers, ``Send``), and decodes image or sound files.
"""

from __future__ import annotations

_GRAPH = (
    "Assert Case CheckNumerics CheckNumericsV2 Const ControlTrigger DeviceIndex EnsureShape Enter Exit FakeParam "
    "GuaranteeConst Identity IdentityN If LoopCond MapDefun Merge NextIteration NoOp OptionalFromValue "
    "OptionalGetValue OptionalHasValue OptionalNone PartitionedCall Placeholder PlaceholderV2 PlaceholderWithDefault "
    "PreventGradient RefEnter RefExit RefIdentity RefMerge RefNextIteration RefSwitch Snapshot "
    "StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile StopGradient Switch While"
)
"""Graph structure, control flow and calls of functions, all of which are checked too."""
_VARIABLES = (
    "Assign AssignAdd AssignAddVariableOp AssignSub AssignSubVariableOp AssignVariableOp CountUpTo DestroyResourceOp "
    "DestroyTemporaryVariable DisableCopyOnRead IsVariableInitialized ReadVariableOp ResourceCountUpTo ResourceGather "
    "ResourceGatherNd ResourceScatterAdd ResourceScatterDiv ResourceScatterMax ResourceScatterMin ResourceScatterMul "
    "ResourceScatterNdAdd ResourceScatterNdMax ResourceScatterNdMin ResourceScatterNdSub ResourceScatterNdUpdate "
    "ResourceScatterSub ResourceScatterUpdate ResourceStridedSliceAssign ScatterAdd ScatterDiv ScatterMax ScatterMin "
    "ScatterMul ScatterNdAdd ScatterNdMax ScatterNdMin ScatterNdSub ScatterNdUpdate ScatterSub ScatterUpdate "
    "StridedSliceAssign TemporaryVariable VarHandleOp VarIsInitializedOp Variable VariableShape VariableV2"
)
"""Variables, and what updates them."""
_OPTIMIZERS = (
    "ApplyAdaMax ApplyAdadelta ApplyAdagrad ApplyAdagradDA ApplyAdagradV2 ApplyAdam ApplyAddSign ApplyCenteredRMSProp "
    "ApplyFtrl ApplyFtrlV2 ApplyGradientDescent ApplyMomentum ApplyPowerSign ApplyProximalAdagrad "
    "ApplyProximalGradientDescent ApplyRMSProp ResourceApplyAdaMax ResourceApplyAdadelta ResourceApplyAdagrad "
    "ResourceApplyAdagradDA ResourceApplyAdagradV2 ResourceApplyAdam ResourceApplyAdamWithAmsgrad "
    "ResourceApplyAddSign ResourceApplyCenteredRMSProp ResourceApplyFtrl ResourceApplyFtrlV2 "
    "ResourceApplyGradientDescent ResourceApplyKerasMomentum ResourceApplyMomentum ResourceApplyPowerSign "
    "ResourceApplyProximalAdagrad ResourceApplyProximalGradientDescent ResourceApplyRMSProp "
    "ResourceSparseApplyAdadelta ResourceSparseApplyAdagrad ResourceSparseApplyAdagradDA ResourceSparseApplyAdagradV2 "
    "ResourceSparseApplyCenteredRMSProp ResourceSparseApplyFtrl ResourceSparseApplyFtrlV2 "
    "ResourceSparseApplyKerasMomentum ResourceSparseApplyMomentum ResourceSparseApplyProximalAdagrad "
    "ResourceSparseApplyProximalGradientDescent ResourceSparseApplyRMSProp SparseApplyAdadelta SparseApplyAdagrad "
    "SparseApplyAdagradDA SparseApplyAdagradV2 SparseApplyCenteredRMSProp SparseApplyFtrl SparseApplyFtrlV2 "
    "SparseApplyMomentum SparseApplyProximalAdagrad SparseApplyProximalGradientDescent SparseApplyRMSProp"
)
"""Training steps, which a graph may still hold: they change variables alone."""
_TABLES_AND_LISTS = (
    "AnonymousHashTable AnonymousMutableDenseHashTable AnonymousMutableHashTable AnonymousMutableHashTableOfTensors "
    "EmptyTensorList EmptyTensorMap HashTable HashTableV2 InitializeTable InitializeTableV2 LookupTableExport "
    "LookupTableExportV2 LookupTableFind LookupTableFindV2 LookupTableImport LookupTableImportV2 LookupTableInsert "
    "LookupTableInsertV2 LookupTableRemoveV2 LookupTableSize LookupTableSizeV2 MutableDenseHashTable "
    "MutableDenseHashTableV2 MutableHashTable MutableHashTableOfTensors MutableHashTableOfTensorsV2 "
    "MutableHashTableV2 TensorArray TensorArrayClose TensorArrayCloseV2 TensorArrayCloseV3 TensorArrayConcat "
    "TensorArrayConcatV2 TensorArrayConcatV3 TensorArrayGather TensorArrayGatherV2 TensorArrayGatherV3 "
    "TensorArrayGrad TensorArrayGradV2 TensorArrayGradV3 TensorArrayGradWithShape TensorArrayPack TensorArrayRead "
    "TensorArrayReadV2 TensorArrayReadV3 TensorArrayScatter TensorArrayScatterV2 TensorArrayScatterV3 TensorArraySize "
    "TensorArraySizeV2 TensorArraySizeV3 TensorArraySplit TensorArraySplitV2 TensorArraySplitV3 TensorArrayUnpack "
    "TensorArrayV2 TensorArrayV3 TensorArrayWrite TensorArrayWriteV2 TensorArrayWriteV3 TensorListConcat "
    "TensorListConcatLists TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather "
    "TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListPushBackBatch "
    "TensorListReserve TensorListResize TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2 "
    "TensorListSetItem TensorListSplit TensorListStack TensorMapErase TensorMapHasKey TensorMapInsert TensorMapLookup "
    "TensorMapSize TensorMapStackKeys"
)
"""Tables in memory (those from files are missing on purpose), tensor lists, maps and arrays."""
_MATH = (
    "Abs AccumulateNV2 Acos Acosh Add AddN AddV2 All Angle Any ApproxTopK ApproximateEqual ArgMax ArgMin Asin Asinh "
    "Atan Atan2 Atanh AudioSpectrogram BandedTriangularSolve BatchFFT BatchFFT2D BatchFFT3D BatchIFFT BatchIFFT2D "
    "BatchIFFT3D BatchMatMul BatchMatMulV2 BatchMatMulV3 BesselI0 BesselI0e BesselI1 BesselI1e BesselJ0 BesselJ1 "
    "BesselK0 BesselK0e BesselK1 BesselK1e BesselY0 BesselY1 Betainc Bincount Bitcast BitwiseAnd BitwiseOr BitwiseXor "
    "Bucketize Cast Ceil Cholesky CholeskyGrad ClipByValue Complex ComplexAbs Conj Cos Cosh Cross Cumprod Cumsum "
    "CumulativeLogsumexp Dawsn DenseBincount Digamma Div DivNoNan Eig Einsum Equal Erf Erfc Erfinv EuclideanNorm Exp "
    "Expint Expm1 FFT FFT2D FFT3D FFTND Floor FloorDiv FloorMod FresnelCos FresnelSin Greater GreaterEqual "
    "HistogramFixedWidth IFFT IFFT2D IFFT3D IFFTND IRFFT IRFFT2D IRFFT3D IRFFTND Igamma IgammaGradA Igammac Imag Inv "
    "InvGrad Invert IsFinite IsInf IsNan KthOrderStatistic LeftShift Less LessEqual Lgamma LinSpace Log Log1p "
    "LogMatrixDeterminant LogicalAnd LogicalNot LogicalOr LowerBound Lu MatMul MatrixBandPart MatrixDeterminant "
    "MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixExponential "
    "MatrixInverse MatrixLogarithm MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve MatrixSolveLs "
    "MatrixSquareRoot MatrixTriangularSolve Max Maximum Mean Mfcc Min Minimum Mod Mul MulNoNan Ndtri Neg NextAfter "
    "NotEqual Polygamma PopulationCount Pow Prod Qr RFFT RFFT2D RFFT3D RFFTND Range Real RealDiv Reciprocal "
    "ReciprocalGrad RightShift Rint Round Rsqrt RsqrtGrad SegmentMax SegmentMaxV2 SegmentMean SegmentMin SegmentMinV2 "
    "SegmentProd SegmentProdV2 SegmentSum SegmentSumV2 SelfAdjointEig SelfAdjointEigV2 Sigmoid SigmoidGrad Sign Sin "
    "Sinh SobolSample SparseMatMul SparseSegmentMean SparseSegmentMeanGrad SparseSegmentMeanGradV2 "
    "SparseSegmentMeanWithNumSegments SparseSegmentSqrtN SparseSegmentSqrtNGrad SparseSegmentSqrtNGradV2 "
    "SparseSegmentSqrtNWithNumSegments SparseSegmentSum SparseSegmentSumGrad SparseSegmentSumGradV2 "
    "SparseSegmentSumWithNumSegments Spence Sqrt SqrtGrad Square SquaredDifference Sub Sum Svd Tan Tanh TanhGrad "
    "ToBool TridiagonalMatMul TridiagonalSolve TruncateDiv TruncateMod UnsortedSegmentMax UnsortedSegmentMin "
    "UnsortedSegmentProd UnsortedSegmentSum UpperBound Xdivy Xlog1py Xlogy Zeta"
)
"""Arithmetic, comparison, reduction and linear algebra."""
_ARRAYS = (
    "AsString BatchToSpace BatchToSpaceND BroadcastArgs BroadcastGradientArgs BroadcastTo Concat ConcatOffset "
    "ConcatV2 ConjugateTranspose DataFormatDimMap DataFormatVecPermute DecodeBase64 DecodePaddedRaw DecodeRaw "
    "DeepCopy DepthToSpace Diag DiagPart DynamicPartition DynamicStitch EditDistance Empty EncodeBase64 ExpandDims "
    "Fill Fingerprint Gather GatherNd GatherV2 InTopK InTopKV2 InplaceAdd InplaceSub InplaceUpdate InvertPermutation "
    "ListDiff MirrorPad MirrorPadGrad NthElement OneHot OnesLike Pack Pad PadV2 ParallelConcat ParallelDynamicStitch "
    "Rank ReduceJoin RegexFullMatch RegexReplace Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd "
    "ScatterNdNonAliasingAdd Select SelectV2 SetSize Shape ShapeN ShardedFilename Size Slice SpaceToBatch "
    "SpaceToBatchND SpaceToDepth Split SplitV Squeeze StaticRegexFullMatch StaticRegexReplace StridedSlice "
    "StridedSliceGrad StringFormat StringJoin StringLength StringLower StringNGrams StringSplit StringSplitV2 "
    "StringStrip StringToHashBucket StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Substr "
    "TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate TensorStridedSliceUpdate "
    "Tile TileGrad TopK TopKV2 Transpose UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript "
    "UnicodeTranscode Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex UnsortedSegmentJoin "
    "Where ZerosLike"
)
"""Shapes, slices, gathers, sorting and strings."""
_SPARSE_AND_RAGGED = (
    "DenseCountSparseOutput DenseToDenseSetOperation DenseToSparseSetOperation DeserializeManySparse "
    "DeserializeSparse ParseExample ParseExampleV2 ParseSingleExample RaggedBincount RaggedCountSparseOutput "
    "RaggedCross RaggedFillEmptyRows RaggedFillEmptyRowsGrad RaggedGather RaggedRange RaggedTensorFromVariant "
    "RaggedTensorToSparse RaggedTensorToTensor RaggedTensorToVariant RaggedTensorToVariantGradient "
    "SerializeManySparse SerializeSparse SparseAdd SparseAddGrad SparseBincount SparseConcat SparseCountSparseOutput "
    "SparseCross SparseCrossHashed SparseCrossV2 SparseDenseCwiseAdd SparseDenseCwiseDiv SparseDenseCwiseMul "
    "SparseFillEmptyRows SparseFillEmptyRowsGrad SparseReduceMax SparseReduceMaxSparse SparseReduceSum "
    "SparseReduceSumSparse SparseReorder SparseReshape SparseSlice SparseSliceGrad SparseSoftmax SparseSparseMaximum "
    "SparseSparseMinimum SparseSplit SparseTensorDenseAdd SparseTensorDenseMatMul SparseToDense "
    "SparseToSparseSetOperation"
)
"""Sparse and ragged tensors, and examples parsed from strings."""
_NETWORKS = (
    "AvgPool AvgPool3D AvgPool3DGrad AvgPoolGrad BatchNormWithGlobalNormalization "
    "BatchNormWithGlobalNormalizationGrad BiasAdd BiasAddGrad BiasAddV1 BlockLSTM BlockLSTMGrad BlockLSTMGradV2 "
    "BlockLSTMV2 CTCBeamSearchDecoder CTCGreedyDecoder CTCLoss CTCLossV2 Conv Conv2D Conv2DBackpropFilter "
    "Conv2DBackpropFilterV2 Conv2DBackpropInput Conv2DBackpropInputV2 Conv3D Conv3DBackpropFilter "
    "Conv3DBackpropFilterV2 Conv3DBackpropInput Conv3DBackpropInputV2 CudnnRNN CudnnRNNBackprop CudnnRNNBackpropV2 "
    "CudnnRNNBackpropV3 CudnnRNNCanonicalToParams CudnnRNNCanonicalToParamsV2 CudnnRNNParamsSize "
    "CudnnRNNParamsToCanonical CudnnRNNParamsToCanonicalV2 CudnnRNNV2 CudnnRNNV3 DepthwiseConv2dNative "
    "DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput Dilation2D Dilation2DBackpropFilter "
    "Dilation2DBackpropInput Elu EluGrad FractionalAvgPool FractionalAvgPoolGrad FractionalMaxPool "
    "FractionalMaxPoolGrad FusedBatchNorm FusedBatchNormGrad FusedBatchNormGradV2 FusedBatchNormGradV3 "
    "FusedBatchNormV2 FusedBatchNormV3 FusedPadConv2D FusedResizeAndPadConv2D GRUBlockCell GRUBlockCellGrad L2Loss "
    "LRN LRNGrad LSTMBlockCell LSTMBlockCellGrad LeakyRelu LeakyReluGrad LogSoftmax MaxPool MaxPool3D MaxPool3DGrad "
    "MaxPool3DGradGrad MaxPoolGrad MaxPoolGradGrad MaxPoolGradGradV2 MaxPoolGradGradWithArgmax MaxPoolGradV2 "
    "MaxPoolGradWithArgmax MaxPoolV2 MaxPoolWithArgmax Relu Relu6 Relu6Grad ReluGrad Selu SeluGrad Softmax "
    "SoftmaxCrossEntropyWithLogits Softplus SoftplusGrad Softsign SoftsignGrad SparseSoftmaxCrossEntropyWithLogits"
)
"""Layers: convolution, pooling, normalisation, activation, recurrence, losses."""
_IMAGES = (
    "AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation CombinedNonMaxSuppression CropAndResize "
    "CropAndResizeGradBoxes CropAndResizeGradImage DrawBoundingBoxes DrawBoundingBoxesV2 ExtractGlimpse "
    "ExtractGlimpseV2 ExtractImagePatches ExtractVolumePatches GenerateBoundingBoxProposals HSVToRGB "
    "ImageProjectiveTransformV2 ImageProjectiveTransformV3 NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 "
    "NonMaxSuppressionV4 NonMaxSuppressionV5 NonMaxSuppressionWithOverlaps RGBToHSV RandomCrop ResizeArea "
    "ResizeBicubic ResizeBicubicGrad ResizeBilinear ResizeBilinearGrad ResizeNearestNeighbor "
    "ResizeNearestNeighborGrad SampleDistortedBoundingBox SampleDistortedBoundingBoxV2 ScaleAndTranslate "
    "ScaleAndTranslateGrad StatelessSampleDistortedBoundingBox"
)
"""Pixels; not the decoders of files."""
_RANDOM = (
    "Multinomial NonDeterministicInts ParameterizedTruncatedNormal RandomGamma RandomGammaGrad RandomIndexShuffle "
    "RandomPoisson RandomPoissonV2 RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt RngReadAndSkip "
    "RngSkip StatefulRandomBinomial StatefulStandardNormal StatefulStandardNormalV2 StatefulTruncatedNormal "
    "StatefulUniform StatefulUniformFullInt StatefulUniformInt StatelessMultinomial "
    "StatelessParameterizedTruncatedNormal StatelessRandomBinomial StatelessRandomGammaV2 StatelessRandomGammaV3 "
    "StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomNormal "
    "StatelessRandomNormalV2 StatelessRandomPoisson StatelessRandomUniform StatelessRandomUniformFullInt "
    "StatelessRandomUniformFullIntV2 StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2 "
    "StatelessShuffle StatelessTruncatedNormal StatelessTruncatedNormalV2 TruncatedNormal"
)
"""Random numbers."""
_QUANTISATION = (
    "Dequantize FakeQuantWithMinMaxArgs FakeQuantWithMinMaxArgsGradient FakeQuantWithMinMaxVars "
    "FakeQuantWithMinMaxVarsGradient FakeQuantWithMinMaxVarsPerChannel FakeQuantWithMinMaxVarsPerChannelGradient "
    "QuantizeAndDequantize QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 "
    "QuantizeAndDequantizeV4Grad QuantizeDownAndShrinkRange QuantizeV2 QuantizedAdd QuantizedAvgPool "
    "QuantizedBatchNormWithGlobalNormalization QuantizedBiasAdd QuantizedConcat QuantizedConcatV2 QuantizedConv2D "
    "QuantizedConv2DAndRelu QuantizedConv2DAndReluAndRequantize QuantizedConv2DAndRequantize "
    "QuantizedConv2DPerChannel QuantizedConv2DWithBias QuantizedConv2DWithBiasAndRelu "
    "QuantizedConv2DWithBiasAndReluAndRequantize QuantizedConv2DWithBiasAndRequantize "
    "QuantizedConv2DWithBiasSignedSumAndReluAndRequantize QuantizedConv2DWithBiasSumAndRelu "
    "QuantizedConv2DWithBiasSumAndReluAndRequantize QuantizedDepthwiseConv2D QuantizedDepthwiseConv2DWithBias "
    "QuantizedDepthwiseConv2DWithBiasAndRelu QuantizedDepthwiseConv2DWithBiasAndReluAndRequantize "
    "QuantizedInstanceNorm QuantizedMatMul QuantizedMatMulWithBias QuantizedMatMulWithBiasAndDequantize "
    "QuantizedMatMulWithBiasAndRelu QuantizedMatMulWithBiasAndReluAndRequantize QuantizedMatMulWithBiasAndRequantize "
    "QuantizedMaxPool QuantizedMul QuantizedRelu QuantizedRelu6 QuantizedReluX QuantizedReshape "
    "QuantizedResizeBilinear RequantizationRange RequantizationRangePerChannel Requantize RequantizePerChannel "
    "StochasticCastToInt UniformDequantize UniformQuantize UniformQuantizedAdd UniformQuantizedClipByValue "
    "UniformQuantizedConvolution UniformQuantizedConvolutionHybrid UniformQuantizedDot UniformQuantizedDotHybrid "
    "UniformRequantize"
)
"""Quantisation."""
_XLA = (
    "XlaBroadcastHelper XlaConv XlaConvV2 XlaDot XlaDotV2 XlaDynamicSlice XlaDynamicUpdateSlice XlaEinsum XlaGather "
    "XlaKeyValueSort XlaOptimizationBarrier XlaPad XlaReduce XlaReducePrecision XlaReduceWindow "
    "XlaRemoveDynamicDimensionSize XlaRngBitGenerator XlaScatter XlaSelectAndScatter XlaSelfAdjointEig XlaSetBound "
    "XlaSetDynamicDimensionSize XlaSharding XlaSort XlaSvd XlaVariadicReduce XlaVariadicReduceV2 XlaVariadicSort"
)
"""XLA's own forms of plain operations, which Keras writes for slices and gathers."""
_SUMMARIES = (
    "AudioSummary AudioSummaryV2 HistogramSummary ImageSummary MergeSummary ScalarSummary TensorSummary "
    "TensorSummaryV2"
)
"""Summaries of TensorFlow 1, which make a string; what writes them is missing on purpose."""

ALLOWED: frozenset[str] = frozenset(" ".join((
    _GRAPH, _VARIABLES, _OPTIMIZERS, _TABLES_AND_LISTS, _MATH, _ARRAYS, _SPARSE_AND_RAGGED,
    _NETWORKS, _IMAGES, _RANDOM, _QUANTISATION, _XLA, _SUMMARIES)).split())
"""All of these."""

SAVERS: frozenset[str] = frozenset(("SaveV2", "RestoreV2", "MergeV2Checkpoints"))
"""What reads and writes the file's own variables: in every SavedModel, and harmless where nothing runs it."""
