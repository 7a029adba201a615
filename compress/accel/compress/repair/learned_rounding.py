"""Rounding a layer's weights so that its outputs change least: a function of tensors.

A layer is ``(groups, outputs, inputs)``: a linear layer and a plain convolution are one group, a convolution's inputs are the
``channels * height * width`` values that one output is computed from. Its error on data is a quadratic form in what rounding
changes, so the data enter as second moments alone (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training
Quantization", ICML 2020, equations 10 to 12), whose size does not depend on the number of samples, and every step sees all of
them. The layers before are rounded already, so the weights that are rounded are not the given ones but those that give the
given outputs best from what these layers give now (the paper's asymmetric reconstruction, equation 25, solved in closed form).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 0.02
"""Of the mean of the moments' diagonal: how much the given weights are held on to where data say little."""

CUTS = torch.linspace(1.05, 0.45, 25).tolist()
"""Shares of a row's largest weight that are tried as the end of its grid."""

_STRETCH = (-0.1, 1.1)  # the paper's gamma and zeta
_WARM = 0.2  # share of the steps before the regularizer
_SHARPNESS = (20.0, 2.0)  # the paper's beta, from and to
_WEIGHT = 1.0  # of the regularizer (mean over the weights), against a loss of 1 for rounding to the nearest
_RATE = 0.02
_ROUNDS = 20  # of the search at most; it ends where nothing changes


@dataclass(frozen=True)
class Moments:
    """Of a layer's inputs, per group: x, what the float layers before give, and x̂, what the rounded ones give. ``rounded``
    (g, i, i): of x̂; ``across`` (g, i, i): of x with x̂; both around ``mean`` and ``rounded_mean`` (g, i), which are zero where
    the layer has no bias that could take up a shift of the mean."""

    rounded: Tensor
    across: Tensor
    mean: Tensor
    rounded_mean: Tensor


@dataclass(frozen=True)
class Rounded:
    """``integers`` (g, o, i) in [-2**(bits-1), 2**(bits-1)), ``scales`` (g, o, 1), positive; ``shift`` (g, o): to be added to
    the bias. ``share``: the squared error of the outputs as a share of that of rounding to the nearest."""

    integers: Tensor
    scales: Tensor
    shift: Tensor
    share: float


def to_nearest(weights: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers and scales (g, o, 1): each weight to the nearest step of a grid that ends at the row's largest."""
    scales = _positive(weights.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1))
    return _nearest(weights, scales, bits), scales


def learned(weights: Tensor, moments: Moments, bits: int, iterations: int) -> Rounded:
    """``weights`` (g, o, i) rounded for ``moments``. The same for the same arguments and number of threads."""
    given, given_scales = to_nearest(weights, bits)
    metric, damping = moments.rounded, DAMPING * moments.rounded.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    damping = torch.where(damping > 0, damping, 1.0)
    damped = metric + damping * torch.eye(metric.shape[-1])
    wanted = torch.linalg.solve(damped, (weights @ moments.across + damping * weights).mT).mT
    plain = float(_error(given * given_scales, wanted, metric).sum())

    scales = _grid(wanted, metric, bits)
    found = _searched(_nearest(wanted, scales, bits), wanted, metric, scales, bits)
    for _ in range(2):
        scales = _rescaled(found, wanted, metric, scales)
        found = _searched(found, wanted, metric, scales, bits)
    if iterations:
        other = _relaxed(wanted, metric, scales, bits, iterations)
        other = _searched(other, wanted, metric, scales, bits)
        better = _error(other * scales, wanted, metric) < _error(found * scales, wanted, metric)
        found = torch.where(better[..., None], other, found)
    error = float(_error(found * scales, wanted, metric).sum())
    shift = _through(weights, moments.mean) - _through(found * scales, moments.rounded_mean)
    return Rounded(found, scales, shift, error / plain if plain > 0 else 1.0)


def _through(weights: Tensor, mean: Tensor) -> Tensor:
    return (weights @ mean[..., None])[..., 0]


def _positive(scales: Tensor) -> Tensor:
    return torch.where(scales > 0, scales, 1.0)


def _nearest(weights: Tensor, scales: Tensor, bits: int) -> Tensor:
    half = 2 ** (bits - 1)
    return torch.clamp(torch.round(weights / scales), -half, half - 1)


def _error(weights: Tensor, wanted: Tensor, metric: Tensor) -> Tensor:
    """(g, o): the mean square of what the outputs differ by."""
    difference = weights - wanted
    return ((difference @ metric) * difference).sum(-1)


def _grid(wanted: Tensor, metric: Tensor, bits: int) -> Tensor:
    """The scale of each row with which rounding to the nearest errs least."""
    furthest = wanted.abs().amax(-1, keepdim=True)
    best = torch.full(wanted.shape[:2], torch.inf)
    scales = torch.ones_like(furthest)
    for cut in CUTS:
        tried = _positive(furthest * cut / (2 ** (bits - 1) - 0.5))
        error = _error(_nearest(wanted, tried, bits) * tried, wanted, metric)
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better[..., None], tried, scales)
    return scales


def _rescaled(integers: Tensor, wanted: Tensor, metric: Tensor, scales: Tensor) -> Tensor:
    """The scale of each row that suits its integers best; the old one where that would not be positive."""
    weighed = integers @ metric
    share = (weighed * wanted).sum(-1, keepdim=True) / _positive((weighed * integers).sum(-1, keepdim=True))
    return torch.where(share > 0.5 * scales, share, scales)


def _searched(integers: Tensor, wanted: Tensor, metric: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Each weight in turn to its best level while the others stay, until none changes: the error never grows."""
    half = 2 ** (bits - 1)
    found = integers.clone()
    gradient = (found * scales - wanted) @ metric
    energy = metric.diagonal(dim1=-2, dim2=-1)
    order = torch.argsort(-energy.sum(0), stable=True).tolist()
    energy = torch.where(energy > 0, energy, torch.inf)  # what no output depends on stays
    rows = scales[..., 0]
    for _ in range(_ROUNDS):
        changed = False
        for index in order:
            level = found[..., index] - gradient[..., index] / (energy[:, index, None] * rows)
            level = torch.clamp(torch.round(level), -half, half - 1)
            step = (level - found[..., index]) * rows
            if bool(step.any()):
                changed = True
                gradient += step[..., None] * metric[:, None, index]
                found[..., index] = level
        if not changed:
            break
    return found


def _relaxed(wanted: Tensor, metric: Tensor, scales: Tensor, bits: int, iterations: int) -> Tensor:
    """The paper's relaxation: where each weight is between the levels below and above it is optimized, and pushed to an end."""
    half = 2 ** (bits - 1)
    low, high = _STRETCH
    below = torch.floor(wanted / scales)
    between = torch.clamp(wanted / scales - below, 0.01, 0.99)
    nearest = float(_error(_nearest(wanted, scales, bits) * scales, wanted, metric).sum())
    weighed = metric / nearest if nearest > 0 else metric
    logits = (-torch.log((high - low) / (between - low) - 1)).requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=_RATE)
    with torch.enable_grad():
        for step in range(iterations):
            up = torch.clamp(torch.sigmoid(logits) * (high - low) + low, 0, 1)
            difference = torch.clamp(below + up, -half, half - 1) * scales - wanted
            loss = ((difference @ weighed) * difference).sum()
            done = (step / iterations - _WARM) / (1 - _WARM)
            if done > 0:
                sharpness = _SHARPNESS[0] + (_SHARPNESS[1] - _SHARPNESS[0]) * done
                loss = loss + _WEIGHT * (1 - (2 * up - 1).abs().pow(sharpness)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return torch.clamp(below + (logits.detach() >= 0), -half, half - 1)
