"""A small residual network for 28x28 grey images: the model of ``quickstart.yaml``.

Three residual blocks (He et al. 2016, basic block with a projection where the shape changes), 91 million multiply-adds an
image, 339,000 parameters. Few wide convolutions rather than many narrow ones, and channels in multiples of 16: that is what
INT8 kernels fill their registers with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """(n, inputs, h, w) to (n, outputs, h/stride, w/stride): two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class DigitsNetwork(nn.Module):
    """(n, 1, 28, 28) float32, normalised, to logits (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 48, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(48)
        self.blocks = nn.Sequential(Block(48, 48, stride=1), Block(48, 96, stride=2), Block(96, 96, stride=1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(96, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.bn1(self.conv1(image))))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def digits_network() -> nn.Module:
    """The network with random weights; the trained ones are in ``digits_network.safetensors``."""
    return DigitsNetwork().eval()
