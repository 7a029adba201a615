"""Judging a module during training: on the selection data, by the task's own metrics, in FP32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from accel.contracts import Predict, Score, Task
from accel.errors import DataFault
from accel.model import Signature
from accel.module_signature import flatten

if TYPE_CHECKING:
    from accel.contracts import Array


def predictor(module: nn.Module, signature: Signature, device: torch.device) -> Predict:
    """``module``, in whatever mode it is, as a task calls it: arrays by name in, arrays in the signature's order out."""

    def predict(inputs: Mapping[str, Array]) -> Sequence[Array]:
        tensors = [torch.tensor(inputs[spec.name], device=device) for spec in signature.inputs]
        with torch.no_grad():
            outputs = flatten(module(*tensors))
        return [value.cpu().numpy() for _, value in outputs]

    return predict


def judged(module: nn.Module, signature: Signature, device: torch.device, task: Task) -> tuple[str, Score]:
    """Name and score of the task's first metric on the selection data; the module is in evaluation mode afterwards."""
    module.eval()
    scores = task.score(predictor(module, signature, device), "selection")
    if not scores:
        raise DataFault("selection: the task has no metric to judge by")
    return next(iter(scores.items()))
