"""Distances between two nets' class scores. Every mean is over samples, and over positions where there are any."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_VARIANCE_FLOOR = 1e-5
"""As in batch norm: keeps the slope finite where all scores of a sample are equal, as those of a zero-initialized layer are."""


def rows(scores: Tensor) -> Tensor:
    """(n, classes, ...) to (n * positions, classes), in float32 or better."""
    if scores.dim() > 2:
        scores = scores.movedim(1, -1).reshape(-1, scores.shape[1])
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def standardized(scores: Tensor) -> Tensor:
    """Each row to mean 0 and deviation 1: logit standardization, Sun et al., CVPR 2024.

    The deviation is the sample's (divided by classes - 1), as in the authors' code.
    """
    centred = scores - scores.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / max(scores.shape[1] - 1, 1)
    return centred / (variance + _VARIANCE_FLOOR).sqrt()


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), both (n, classes): Hinton et al. 2015, section 2."""
    return _divergence(F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)) * temperature**2


def decoupled(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, alpha: float, beta: float) -> Tensor:
    """T^2 * (alpha * TCKD + beta * NCKD), scores (n, classes), labels (n,): Zhao et al., CVPR 2022, equations 6 and 7.

    TCKD compares (target class, all others), NCKD the distribution within the others. In log space throughout: the authors'
    ``log(softmax)`` is -inf where a net is very sure.
    """
    target = labels.unsqueeze(1)
    other = torch.ones_like(student, dtype=torch.bool).scatter_(1, target, False)

    def parts(scores: Tensor) -> tuple[Tensor, Tensor]:
        logs = F.log_softmax(scores / temperature, 1)
        others = logs.masked_select(other).reshape(len(logs), -1)
        return torch.cat([logs.gather(1, target), others.logsumexp(1, keepdim=True)], 1), F.log_softmax(others, 1)

    (student_target, student_others), (teacher_target, teacher_others) = parts(student), parts(teacher)
    whole = alpha * _divergence(student_target, teacher_target) + beta * _divergence(student_others, teacher_others)
    return whole * temperature**2


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of log probabilities (n, k), the mean over n."""
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)
