//! The operators a model may use, by domain and name. What is not here is refused by name.
//!
//! Left out on purpose: operators that read files or load code (`EPContext`, `Snpe`, vendor domains), those that hide a
//! search loop of their own (`BeamSearch` and its kin: unbounded work inside one run), `ImageDecoder` (parsers of hostile
//! images), training losses.

/// The standard domain, all versions of the standard.
const STANDARD: &str = "
Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization Bernoulli
BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike CausalConvWithState Ceil Celu
CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos
Cosh CumProd CumSum DFT DeformConv DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal
Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool
GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax
Identity If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log
LogSoftmax Loop LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean
MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Multinomial Neg NonMaxSuppression NonZero Not OneHot Optional
OptionalGetElement OptionalHasElement Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN
RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare RegexFullMatch Relu Reshape Resize
ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu SequenceAt
SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap Shape Shrink Sigmoid Sign
SimplifiedLayerNormalization Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze
StringConcat StringNormalizer StringSplit Sub Sum SwiGLU Swish Tan Tanh TensorScatter TfIdfVectorizer ThresholdedRelu Tile
TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor";

/// Classical machine learning. `ZipMap`, `CastMap` and `DictVectorizer` work on maps, which no run can pass in or out.
const MACHINE_LEARNING: &str = "
ArrayFeatureExtractor Binarizer CategoryMapper FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor
Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor";

/// ONNX Runtime's own operators, as its optimiser, its quantiser, Optimum and the GenAI model builder write them.
const MICROSOFT: &str = "
Attention BiasAdd BiasGelu BiasSoftmax BiasSplitGelu CDist CausalConvWithState ComplexMul ComplexMulConj
ConvTransposeWithDynamicPads CropAndResize DecoderAttention DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention
DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul EmbedLayerNormalization ExpandDims FastGelu FusedConv FusedGemm
FusedMatMul FusedMatMulActivation GatedRelativePositionBias GatherBlockQuantized GatherND Gelu GemmFastGelu
GemmaRotaryEmbedding GridSample GroupNorm GroupQueryAttention Inverse Irfft LinearAttention LongformerAttention MatMulBnb4
MatMulFpQ4 MatMulInteger16 MatMulIntegerToFloat MatMulNBits MaxpoolWithMask MoE MulInteger MultiHeadAttention NhwcConv
NhwcFusedConv NhwcMaxPool PackedAttention PackedMultiHeadAttention Pad QAttention QEmbedLayerNormalization QGemm QLinearAdd
QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean
QLinearSigmoid QLinearSoftmax QLinearWhere QMoE QuantizeLinear QuickGelu Range ReduceSumInteger RelativePositionBias
RemovePadding RestorePadding Rfft RotaryEmbedding SampleOp SimplifiedLayerNormalization SkipGroupNorm
SkipLayerNormalization SkipSimplifiedLayerNormalization SparseAttention TransposeMatMul Trilu UnfoldTensor Unique
WordConvEmbedding";

/// Whether a model may use the operator.
///
/// # Errors
/// A text that names the operator, its domain and the way out.
pub(super) fn allowed(domain: &str, op_type: &str) -> Result<(), String> {
    let list = match domain {
        "" | "ai.onnx" => STANDARD,
        "ai.onnx.ml" => MACHINE_LEARNING,
        "com.microsoft" if op_type == "EPContext" => {
            return Err("the operator `EPContext` holds code compiled for one device, which is not accepted; import the original model".to_owned());
        }
        "com.microsoft" => MICROSOFT,
        other => {
            return Err(format!(
                "the operator `{}` is of the domain `{}`, which is not accepted (accepted: ai.onnx, ai.onnx.ml, com.microsoft)",
                shown(op_type),
                shown(other)
            ));
        }
    };
    if !op_type.is_empty() && list.split_ascii_whitespace().any(|name| name == op_type) {
        return Ok(());
    }
    let domain = if domain.is_empty() { "ai.onnx" } else { domain };
    Err(format!("the operator `{}` of the domain `{domain}` is not accepted", shown(op_type)))
}

/// Text of a model file, fit to be shown: short and without control characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_and_what_is_not() {
        for (domain, name) in
            [("", "MatMul"), ("ai.onnx", "If"), ("ai.onnx.ml", "TreeEnsemble"), ("com.microsoft", "MatMulNBits")]
        {
            assert_eq!(allowed(domain, name), Ok(()), "{domain} {name}");
        }
        for (domain, name) in [
            ("", ""),
            ("", "matmul"),
            ("", "Abs Acos"),
            ("ai.onnx.ml", "ZipMap"),
            ("com.microsoft", "EPContext"),
            ("com.microsoft", "BeamSearch"),
            ("evil", "Relu"),
        ] {
            let error = allowed(domain, name).expect_err("not on a list");
            assert!(error.contains(name), "{error}");
        }
    }
}
