"""One training in several processes, as ``torchrun`` starts them: who is here, and what they tell each other.

Alone, every function gives back what it was given, and nothing is imported or opened.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accel.errors import AccelError, UsageError, named

_TIMEOUT = timedelta(hours=1)  # of one exchange: the others wait while the first judges a model, or reads the data


@dataclass(frozen=True)
class World:
    """This process among all: ``rank`` of ``size``; ``local_rank`` of those on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes and judges."""
        return self.rank == 0

    @property
    def leader(self) -> int:
        """The rank of the process that reads the data for this machine: ranks of one machine follow each other."""
        return self.rank - self.local_rank

    def share(self, count: int) -> slice:
        """This process's part of ``count`` samples; the parts differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)


def join(use_cuda: bool) -> World:
    """Join the processes that ``torchrun`` started, or those of a group that is there already; else be alone.

    The group is NCCL's on GPUs and Gloo's on CPUs, and stays open until the process ends.
    """
    if not dist.is_available() or not (dist.is_initialized() or dist.is_torchelastic_launched()):
        return World()
    if not dist.is_initialized():
        local_rank = dist.get_node_local_rank()
        if use_cuda:
            torch.cuda.set_device(local_rank)
        dist.init_process_group("nccl" if use_cuda else "gloo", timeout=_TIMEOUT)
        atexit.register(dist.destroy_process_group)
    rank = dist.get_rank()
    return World(rank, dist.get_world_size(), dist.get_node_local_rank(fallback_rank=rank))


def from_first(world: World, value: Any) -> Any:
    """The first process's ``value``, in every process. Sent from memory to memory, never written."""
    if world.size == 1:
        return value
    held = [value if world.first else None]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def gathered(world: World, value: Any) -> list[Any]:
    """Every process's ``value``, by rank."""
    if world.size == 1:
        return [value]
    held: list[Any] = [None] * world.size
    dist.all_gather_object(held, value)
    return held


def together(world: World, error: AccelError | None) -> None:
    """Raise in every process what went wrong in any: one that stops alone leaves the others waiting."""
    for found in gathered(world, None if error is None else (type(error).__name__, str(error))):
        if found is not None and error is None:
            raise named(found[0])(found[1])
    if error is not None:
        raise error


def average_(world: World, tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes."""
    if world.size > 1:
        for tensor in tensors:
            held = tensor.contiguous()  # not channels last, which the exchange refuses
            dist.all_reduce(held)
            tensor.copy_(held.div_(world.size))


def alike_(world: World, tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by the first process's."""
    if world.size > 1:
        for tensor in tensors:
            held = tensor.to(torch.uint8 if tensor.dtype is torch.bool else tensor.dtype).contiguous()
            dist.broadcast(held, src=0)
            tensor.copy_(held)


def wrapped(world: World, module: nn.Module, device: torch.device) -> nn.Module:
    """``module`` behind DistributedDataParallel, which averages its gradients; the module itself when alone.

    Parameters that a forward pass does not use are allowed, and may change from step to step.
    """
    if world.size == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=True)


def require_share(world: World, batch_size: int) -> None:
    """UsageError where a batch does not give every process two samples, which batch normalisation needs."""
    if batch_size < 2 * world.size and world.size > 1:
        raise UsageError(
            f"train.batch_size {batch_size} over {world.size} processes leaves fewer than 2 samples for each; raise it to at"
            f" least {2 * world.size}, or start fewer processes"
        )
