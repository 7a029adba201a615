"""Second moments of what a layer reads, gathered sample by sample: memory does not depend on how many there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from accel.compress.repair.learned_rounding import Moments
from accel.compress.repair.weighted_layers import Convolution, WeightedLayer

POSITIONS = 1024
"""At most so many outputs of one channel and sample are looked at, evenly spread: neighbours say much the same."""


def moments(layer: WeightedLayer, pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]], centred: bool) -> Moments:
    """``pairs``: what the float layer reads and what the quantized one reads, batch by batch. ``centred``: around the means."""
    width = layer.inputs
    rounded, across = (torch.zeros(layer.groups, width, width) for _ in range(2))
    sums = torch.zeros(2, layer.groups, width)
    count = 0
    for given, got in pairs:
        x, y = (_columns(layer, torch.tensor(each)) for each in (given, got))
        rounded += y.mT @ y
        across += x.mT @ y
        sums += torch.stack([x.sum(1), y.sum(1)])
        count += x.shape[1]
    rounded, across, (mean, rounded_mean) = rounded / count, across / count, sums / count
    if not centred:
        return Moments(rounded, across, torch.zeros_like(mean), torch.zeros_like(mean))
    rounded = rounded - rounded_mean[:, :, None] * rounded_mean[:, None]
    across = across - mean[:, :, None] * rounded_mean[:, None]
    return Moments(rounded, across, mean, rounded_mean)


def _columns(layer: WeightedLayer, values: Tensor) -> Tensor:
    """(groups, positions, inputs): what each output is computed from."""
    values = values.float()
    if layer.convolution is None:
        rows = values.reshape(1, -1, layer.inputs)
        return rows[:, :: -(-rows.shape[1] // (POSITIONS * max(1, len(values))))]
    # One sample at a time: all positions of a batch take gigabytes in a large image's first layers.
    grouped = torch.cat([_unfolded(layer.convolution, one) for one in torch.split(values, 1)])
    samples, _, positions = grouped.shape
    grouped = grouped.reshape(samples, layer.groups, layer.inputs, positions)
    return grouped.permute(1, 0, 3, 2).reshape(layer.groups, samples * positions, layer.inputs)


def _unfolded(how: Convolution, values: Tensor) -> Tensor:
    """(n, channels * kernel, positions), of which at most POSITIONS."""
    top, left, bottom, right = how.pads
    padded = functional.pad(values, (left, right, top, bottom))
    found = functional.unfold(padded, how.kernel, how.dilations, 0, how.strides)
    return found[..., :: -(-found.shape[-1] // POSITIONS)]
