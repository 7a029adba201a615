"""What modules make, by the names of the nodes they are exported as."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from accel.accelerate.eager_values import node_values


class Network(nn.Module):
    """A convolution with a batch norm that is folded into it, one activation used twice, an addition, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.bn = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout()
        self.second = nn.Conv2d(2, 2, 3, padding=1)
        self.fc = nn.Linear(32, 3)
        nn.init.constant_(self.bn.weight, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.relu(self.bn(self.conv(x)))
        second = self.relu(self.second(self.drop(first)) + first)
        out: Tensor = self.fc(second.flatten(1))
        return out


NODES = ["conv/Conv", "relu/Relu", "second/Conv", "Add", "relu/Relu_1", "Flatten", "fc/MatMul", "fc/Add"]


def test_values_have_the_names_of_their_nodes() -> None:
    torch.manual_seed(0)
    network = Network().eval()
    array: Any = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32)
    found: Any = node_values(network, {"x": array}, NODES)
    assert list(found) == ["conv/Conv", "relu/Relu", "second/Conv", "relu/Relu_1", "fc/Add"]
    with torch.inference_mode():
        normed = network.bn(network.conv(torch.from_numpy(array)))
        expected = {
            "conv/Conv": normed,  # with the batch norm, and before the activation that works in place
            "relu/Relu": normed.relu(),
            "second/Conv": network.second(normed.relu()),
            "relu/Relu_1": (network.second(normed.relu()) + normed.relu()).relu(),
            "fc/Add": network(torch.from_numpy(array)),
        }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-5, atol=1e-6)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_module_whose_nodes_cannot_be_told_apart_is_left_out() -> None:
    array: Any = np.zeros((1, 1, 4, 4), np.float32)
    found = node_values(Network().eval(), {"x": array}, [*NODES, "relu/Relu_2"])
    assert "relu/Relu" not in found and "conv/Conv" in found
