"""A running average of the weights during training (Polyak, Juditsky 1992): smoother than the last step's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from accel.compress.training.state import copied, put_, tensors_of

_STATISTICS = ("running_mean", "running_var")  # of batch norm: they belong to the weights they were measured with


class Average:
    """``average += (1 - decay) * (weights - average)`` after each step, with a decay that grows from 0.1 at the start.

    Parameters and batch-norm statistics are averaged; other buffers are taken as they are. Steps count from 0:
    ``min(decay, (1 + step) / (10 + step))``, so that short trainings forget where they started (as TensorFlow has it).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = copied(_averaged(module))

    def update(self, module: nn.Module, step: int) -> None:
        """After step ``step``."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        current = _averaged(module)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.tensors.values()), [current[name] for name in self.tensors], weight)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what a checkpoint held."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """``module`` has the averaged weights while the block runs; what a mask holds at zero is zero in them too."""
        own = copied(tensors_of(module))
        try:
            self.put_into(module)
            yield
        finally:
            put_(module, own)

    def put_into(self, module: nn.Module) -> None:
        """Give ``module`` the averaged weights for good."""
        own = _averaged(module)
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                masked = own[name] == 0 if own[name].dim() > 1 else None
                own[name].copy_(tensor if masked is None else tensor.masked_fill(masked, 0.0))


def _averaged(module: nn.Module) -> dict[str, Tensor]:
    parameters = {name for name, _ in module.named_parameters()}
    return {
        name: tensor
        for name, tensor in tensors_of(module).items()
        if tensor.is_floating_point() and (name in parameters or name.endswith(_STATISTICS))
    }
