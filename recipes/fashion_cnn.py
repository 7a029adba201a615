"""A small plain network for Fashion-MNIST: the model of ``fashion_chain.yaml``; and one whose time is not where its
multiply-adds are, for ``benchmarks/latency_against_macs.py``.

Input: pixels / 255, one channel, 28x28. Module names are those of the weights in models/fashion_cnn.safetensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PLAIN = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1))
"""Width and stride of each convolution of ``fashion_cnn``."""

SEPARABLE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))
"""Of the pointwise halves of ``fashion_separable``, behind a stem of 32 channels."""


def _unit(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class FashionCnn(nn.Module):
    """(n, 1, 28, 28) float32 to logits (n, 10): units of convolution, batch norm and ReLU, global average, linear."""

    def __init__(self, units: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(*units)
        self.fc = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.f(image).mean((2, 3)))
        return logits


def fashion_cnn() -> nn.Module:
    """70,330 parameters, 5.5 million multiply-adds."""
    widths = [1, *(width for width, _ in PLAIN)]
    units = [_unit(inputs, outputs, stride=stride) for inputs, (outputs, stride) in zip(widths, PLAIN, strict=False)]
    return FashionCnn(units, widths[-1]).eval()


def fashion_separable() -> nn.Module:
    """Depthwise and pointwise convolutions in turn (Howard et al. 2017): 136,202 parameters, 12.2 million multiply-adds.

    Has no weights of its own to load: it starts from seeded ones and is trained by who uses it.
    """
    torch.manual_seed(0)
    units, width = [_unit(1, 32)], 32
    for outputs, stride in SEPARABLE:
        units += [_unit(width, width, stride=stride, groups=width), _unit(width, outputs, size=1)]
        width = outputs
    return FashionCnn(units, width).eval()
