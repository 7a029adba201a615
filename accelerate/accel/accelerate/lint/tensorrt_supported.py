"""The operators that TensorRT's ONNX parser has, as it says itself (``OnnxParser.supports_operator``).

``tests/accelerate/test_lint_tensorrt_operators.py`` compares the lists with the installed library.
"""

from __future__ import annotations

TAKEN_FROM = "TensorRT-RTX 1.7.1.116, every operator of onnx 1.23.2"
NEWEST_OPSET = 25
OLDEST_OPSET = 9
"""TensorRT's documentation, "ONNX Opset Guide", 11.x. The parser reads a file of any opset, by the versions it knows."""

_STANDARD = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    BlackmanWindow Cast CastLike CausalConvWithState Ceil Celu Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp
    Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HammingWindow
    HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM
    LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax Loop LpNormalization
    LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression
    NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization RNN RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND
    Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
    Squeeze Sub Sum Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze
    Upsample Where Xor
"""


_CONTRIB = """
    GroupQueryAttention MatMulNBits MultiHeadAttention QMoE SimplifiedLayerNormalization SkipSimplifiedLayerNormalization
"""

STANDARD = frozenset(_STANDARD.split())
"""Of the standard domain."""

CONTRIB = frozenset(_CONTRIB.split())
"""Of ONNX Runtime's own domain, ``com.microsoft``. The parser goes by the name alone: it reads its own namesakes there too."""
