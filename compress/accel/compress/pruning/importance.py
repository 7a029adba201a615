"""How much each channel of a group matters: one score per channel, the higher the more it does."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from accel.compress.pruning.channel_check import copied, said
from accel.compress.pruning.channel_groups import NOT_OURS, Group, Member
from accel.errors import AccelError, ModelFault, PassFault

Importance = Literal["magnitude", "taylor", "bn_scale", "fpgm", "lamp", "hessian", "random"]
DATA_DRIVEN = ("taylor", "hessian")

Scores = dict[str, Tensor]
"""Group name to (width,) float64."""

Labelled = tuple[Sequence[Tensor], Tensor | None]
"""Inputs of the module, and labels."""

Loss = Callable[[Sequence[Tensor], Any, Tensor | None], Tensor]
"""Inputs, outputs of the module, labels: to a scalar, the mean over samples."""


def score_groups(
    module: nn.Module,
    groups: Sequence[Group],
    importance: Importance,
    *,
    p: float = 2,
    seed: int = 0,
    gradients: Mapping[str, Tensor] | None = None,
) -> Scores:
    """Scores of every group that the measure says something about. Means within a group are 1, so that groups can be compared;
    ``lamp`` compares them as it is: the best channel of each has 1.

    A channel's score is the mean over the layers that make or read it of: ``magnitude``: the sum of ``|w| ** p`` (Li et al.
    2017; over all coupled layers, as Fang et al. 2023). ``lamp``: the same with p = 2, divided by the sum of it over this and
    all higher ranked channels (Lee et al. 2021). ``bn_scale``: ``|scale|`` of batch norms (Liu et al. 2017); groups without
    one get no score. ``fpgm``: the sum of distances to the layer's other filters (He et al. 2019); one that is all zero is
    worth nothing and left out. ``taylor``: the sum of ``|w g|`` (Molchanov et al. 2019). ``hessian``: of ``w² g²``, ``g²``
    the mean over samples, which stands for the diagonal of the Hessian (LeCun et al. 1990; Theis et al. 2018). Both read
    ``gradients`` (see :func:`gradients_of`). ``random``: drawn by ``seed`` and the group's name. Raises ModelFault where a
    weight is no number.
    """
    tensors = dict(module.named_parameters())
    scores: Scores = {}
    for group in groups:
        if importance == "random":
            generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(group.name.encode()))
            scores[group.name] = torch.rand(group.width, generator=generator, dtype=torch.float64)
            continue
        parts = [
            _gathered(group, member, _measured(tensors, member, importance, p, gradients))
            for member in group.members
            if member.tensor in tensors and member.role in _ROLES[importance]
        ]
        if not parts:
            continue
        score = torch.stack(parts).mean(0)
        if not bool(torch.isfinite(score).all()):
            raise ModelFault(f"prune: the weights of {group.name}, or of what is tied to it, hold NaN or Inf")
        scores[group.name] = _lamp(score) if importance == "lamp" else _with_mean_one(score)
    return scores


_WEIGHTS = ("out", "in", "scale", "norm")
_ROLES: Mapping[str, tuple[str, ...]] = {
    "magnitude": _WEIGHTS,
    "lamp": _WEIGHTS,
    "taylor": _WEIGHTS,
    "hessian": _WEIGHTS,
    "bn_scale": ("scale",),
    "fpgm": ("out", "in"),
}


def _measured(
    tensors: Mapping[str, Tensor], member: Member, importance: str, p: float, gradients: Mapping[str, Tensor] | None
) -> Tensor:
    """(n,) float64: a number for each index along the member's dimension."""
    rows = _rows(tensors[member.tensor], member.dim)
    if importance == "fpgm":
        alive = rows.any(1)
        return torch.cdist(rows, rows[alive]).sum(1) * alive
    if importance in DATA_DRIVEN:
        if gradients is None:
            raise PassFault(f"prune: importance {importance} needs gradients from training data")
        slope = _rows(gradients[member.tensor], member.dim)
        return (rows * slope).abs().sum(1) if importance == "taylor" else (rows.square() * slope).sum(1)
    power = {"bn_scale": 1.0, "lamp": 2.0}.get(importance, p)
    return rows.abs().pow(power).sum(1)


def _rows(tensor: Tensor, dim: int) -> Tensor:
    return tensor.detach().double().cpu().movedim(dim, 0).reshape(tensor.shape[dim], -1)


def _gathered(group: Group, member: Member, values: Tensor) -> Tensor:
    """(width,): the values of each channel's indices, summed."""
    channels = torch.tensor(member.channels)
    ours = channels != NOT_OURS
    return torch.zeros(group.width, dtype=torch.float64).index_add_(0, channels[ours], values[ours])


def _with_mean_one(scores: Tensor) -> Tensor:
    """Divided by the mean over the channels that have any: those silenced in an earlier step count for nothing."""
    alive = scores[scores != 0]
    return scores / alive.mean() if alive.numel() else scores


def _lamp(scores: Tensor) -> Tensor:
    ascending, order = scores.sort(stable=True)
    rest = ascending.flip(0).cumsum(0).flip(0)
    return torch.zeros_like(scores).index_copy_(0, order, torch.where(rest > 0, ascending / rest, torch.zeros_like(rest)))


def gradients_of(
    module: nn.Module, batches: Iterable[Labelled], loss: Loss, *, num_samples: int, squared: bool
) -> dict[str, Tensor]:
    """Gradients of the loss with respect to each parameter, by name, over the first ``num_samples`` samples.

    The mean over samples; with ``squared``, the mean of the squares of each sample's own gradient. On a copy in evaluation
    mode. Raises PassFault where there are no samples, the loss fails, or a gradient is no number.
    """
    probe = copied(module, "prune")
    own = {name: value for name, value in probe.named_parameters() if value.is_floating_point()}
    device = next((value.device for value in own.values()), torch.device("cpu"))
    total = {name: torch.zeros_like(value) for name, value in own.items()}
    for value in own.values():
        value.requires_grad_(True)
    done = 0
    for inputs, labels in batches:
        size = min(len(inputs[0]), num_samples - done)
        if size <= 0:
            break
        step = 1 if squared else size
        for start in range(0, size, step):
            part = [each[start : start + step].to(device) for each in inputs]
            truth = None if labels is None else labels[start : start + step].to(device)
            try:
                with torch.enable_grad():
                    slopes = torch.autograd.grad(loss(part, probe(*part), truth), list(own.values()), allow_unused=True)
            except AccelError:
                raise
            except Exception as error:  # forward, or a loss of the user's own
                raise PassFault(f"prune: the loss could not be differentiated on training samples: {said(error)}") from error
            for name, own_slope in zip(own, slopes, strict=True):
                if own_slope is not None:
                    total[name] += own_slope.detach().square() if squared else own_slope.detach() * step
        done += size
    if not done:
        raise PassFault("prune: taylor and hessian importance read training samples, and there are none")
    for name, slope in total.items():
        if not bool(torch.isfinite(slope).all()):
            raise PassFault(
                f"prune: the gradient of {name} is NaN or Inf; check the loss and the data, or use importance: magnitude"
            )
    return {name: slope / done for name, slope in total.items()}
