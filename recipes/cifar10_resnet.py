"""The CIFAR-10 networks of He et al. 2016 ("Deep Residual Learning", section 4.2): the models of ``cifar10_resnet.yaml``.

Depth 6n+2, widths 16, 32 and 64, shortcuts without parameters (their option A). Module names are those of the public weights
(akamaster/pytorch_resnet_cifar10), so that these load strictly. Input: RGB / 255, ImageNet mean and standard deviation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """(n, inputs, h, w) to (n, outputs, h/stride, w/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.added = outputs - inputs

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: every second pixel, and the new channels zero, half of them on each side."""
        if self.stride == 1 and self.added == 0:
            return x
        half = self.added // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    rest = [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Block(inputs, outputs, stride), *rest)


class CifarResNet(nn.Module):
    """(n, 3, 32, 32) float32 to logits (n, 10); ``blocks`` in each of the three stages."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.linear = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def resnet20() -> nn.Module:
    """269,722 parameters, 41 million multiply-adds."""
    return CifarResNet(blocks=3).eval()


def resnet56() -> nn.Module:
    """853,018 parameters, 126 million multiply-adds."""
    return CifarResNet(blocks=9).eval()
