"""A linear layer that holds its weights as integers in groups, as ``export_onnx`` writes them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.compress.weight_rounding import Grouped


class GroupedLinear(nn.Module):
    """As ``nn.Linear``, with a weight of ``(integer - zero) * scale``.

    ``integers``: (outputs, inputs) in [0, 2**bits); ``scales`` and ``zeros``: (outputs, inputs / size); ``input_scales``:
    (inputs,), what the input is multiplied with before, or None. It stays as a buffer: AWQ found it with the integers.
    """

    integers: Tensor
    scales: Tensor
    zeros: Tensor
    input_scales: Tensor | None

    def __init__(self, inputs: int, outputs: int, *, bits: int, size: int, bias: Tensor | None, scaled: bool = False) -> None:
        super().__init__()
        if inputs % size:
            raise ValueError(f"{inputs} inputs are no multiple of {size}")
        self.in_features, self.out_features, self.bits, self.size = inputs, outputs, bits, size
        groups = (outputs, inputs // size)
        self.register_buffer("integers", torch.zeros(outputs, inputs, dtype=torch.uint8))
        self.register_buffer("scales", torch.ones(groups))
        self.register_buffer("zeros", torch.full(groups, 2 ** (bits - 1), dtype=torch.uint8))
        self.register_buffer("input_scales", torch.ones(inputs) if scaled else None)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), bias.requires_grad)

    @property
    def weight(self) -> Tensor:
        """(outputs, inputs) float32, made anew each time: what reads a layer's weight itself, as attention does, finds it."""
        groups = self.integers.reshape(*self.scales.shape, self.size).to(self.scales.dtype)
        return ((groups - self.zeros[..., None].to(self.scales.dtype)) * self.scales[..., None]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        scaled = x if self.input_scales is None else x * self.input_scales
        return functional.linear(scaled, self.weight, self.bias)

    def grouped(self) -> Grouped:
        """The integers as a MatMul of ONNX has them."""
        integers, scales, zeros = (value.detach().cpu().T.numpy() for value in (self.integers, self.scales, self.zeros))
        return Grouped(integers, scales, zeros, self.size, "library")

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, size={self.size}"


class _Plain(nn.Module):
    """The same with the weight as a parameter, for the exporter, which would write how it is computed."""

    def __init__(self, layer: GroupedLinear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach(), requires_grad=False)
        self.bias = layer.bias
        self.input_scales = layer.input_scales

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x if self.input_scales is None else x * self.input_scales, self.weight, self.bias)


def grouped_layers(module: nn.Module) -> dict[str, GroupedLinear]:
    """Each by its path; one that stands at two paths is at both."""
    return {path: part for path, part in module.named_modules(remove_duplicate=False) if isinstance(part, GroupedLinear)}


def plain(module: nn.Module) -> nn.Module:
    """``module`` with float32 weights in its grouped layers; what is not replaced is shared with it."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    result = copy.deepcopy(module, shared)  # a memo of what is not to be copied
    made: dict[int, nn.Module] = {}
    layers = {path: made.setdefault(id(layer), _Plain(layer)) for path, layer in grouped_layers(result).items()}
    return with_layers(result, layers)


def with_layers(module: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """``module`` with ``layers`` at their paths, in place; the layer itself where its path is empty. Training flags stay."""
    for path, layer in layers.items():
        parent, _, leaf = path.rpartition(".")
        layer.train(module.get_submodule(path).training)
        if not path:
            return layer
        setattr(module.get_submodule(parent), leaf, layer)
    return module
