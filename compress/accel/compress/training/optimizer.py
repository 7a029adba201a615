"""The optimizer of a run, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from accel.compress.train_settings import Train

Named = Mapping[str, nn.Parameter]
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_STATE = {"sgd": ("momentum_buffer",), "adamw": ("step", "exp_avg", "exp_avg_sq")}


def undecayed(module: nn.Module) -> set[int]:
    """The ids of the parameters that weight decay leaves alone: of normalisation layers, and every vector."""
    norms = (part.parameters(recurse=False) for part in module.modules() if isinstance(part, _NORMS))
    found = {id(parameter) for parameter in chain.from_iterable(norms)}
    return found | {id(parameter) for parameter in module.parameters() if parameter.dim() <= 1}


def make_optimizer(named: Named, modules: Sequence[nn.Module], settings: Train) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW, over ``named``, which belong to ``modules``; the rate is set before each step.

    The momentum exists from the start, as zeros, which changes no value: made by the first step it would have the gradient's
    memory layout, and a run that goes on from a checkpoint might then round another way.
    """
    free = set().union(*(undecayed(module) for module in modules))
    groups = [
        {"params": [value for value in named.values() if id(value) not in free], "weight_decay": settings.decay},
        {"params": [value for value in named.values() if id(value) in free], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.highest_lr)
    nesterov = settings.momentum > 0
    optimizer = torch.optim.SGD(groups, lr=settings.highest_lr, momentum=settings.momentum, nesterov=nesterov)
    if nesterov:
        for value in named.values():
            optimizer.state[value]["momentum_buffer"] = torch.zeros_like(value)
    return optimizer


def set_rate_(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_state(optimizer: torch.optim.Optimizer, named: Named) -> dict[str, Tensor]:
    """``parameter name/key`` to tensor, of what the optimizer keeps."""
    return {
        f"{name}/{key}": value
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer_(optimizer: torch.optim.Optimizer, named: Named, state: Mapping[str, Tensor], kind: str) -> None:
    """Put :func:`optimizer_state` back, each tensor in its parameter's memory layout."""
    for name, parameter in named.items():
        for key in _STATE[kind]:
            value = state.get(f"{name}/{key}")
            if value is None:
                continue
            like = torch.empty_like(parameter) if value.shape == parameter.shape and key != "step" else value.clone()
            optimizer.state[parameter][key] = like.copy_(value)
