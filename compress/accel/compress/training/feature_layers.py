"""What layers inside two nets give: catching it, making it comparable, comparing it.

Layers give (n, channels, height, width), (n, tokens, channels) or (n, channels).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.errors import ModelFault, PassFault, UsageError


class Capture:
    """Keeps what one layer gave last. Copies of the net, which deepcopy makes with the hook on them, do not count."""

    def __init__(self, net: nn.Module, path: str, whose: str) -> None:
        self._layer = layer_at(net, path, whose)
        self._place = f"{whose} layer {path!r}"
        self._value: Tensor | None = None
        self._handle = self._layer.register_forward_hook(self)

    def __call__(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        if layer is self._layer:
            # A copy: what comes next may write over it, as nn.ReLU(inplace=True) does, in one net and not in the other.
            self._value = first_tensor(output, self._place).clone()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a hook on a copy of the net: it stays this one, which ignores that copy

    def __getstate__(self) -> dict[str, Any]:
        raise UsageError(f"{self._place} is watched by a DistillationLoss; close() the loss before the module is pickled")

    def take(self) -> Tensor:
        """What the layer gave, once. UsageError where it did not run since the last time."""
        if self._value is None:
            raise UsageError(
                f"{self._place} did not run before the loss was asked; call the loss after each forward pass of the very "
                "module that it was made for, not of a copy, and before close()"
            )
        value, self._value = self._value, None
        return value

    def close(self) -> None:
        """Take the hook off the layer."""
        self._handle.remove()
        self._value = None


def layer_at(net: nn.Module, path: str, whose: str) -> nn.Module:
    """The module at ``path``; UsageError with the nearest path for one that is not there."""
    paths: dict[str, nn.Module] = {name: part for name, part in net.named_modules() if name}
    if path not in paths:
        close = get_close_matches(path, paths, n=1)
        way = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(list(paths)[:8]) or 'no layers'}"
        raise UsageError(f"{whose}_layer: the {whose} has no layer {path!r}; {way}")
    return paths[path]


def observe(net: nn.Module, inputs: Sequence[Tensor], paths: Sequence[str], whose: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The net's first output and what the layers at ``paths`` give, in evaluation mode. Runs a copy: ``net`` stays as it is.

    UsageError for a path that is not there, PassFault where the net cannot take ``inputs``, ModelFault for outputs that are
    not finite.
    """
    for path in paths:
        layer_at(net, path, whose)
    trial = evaluating_copy(net)
    captures = {path: Capture(trial, path, whose) for path in paths}
    where = device_of(net)
    try:
        with torch.no_grad():
            output = first_tensor(trial(*(value.to(where) for value in inputs)), f"the {whose}'s output")
    except (ModelFault, UsageError):
        raise
    except Exception as error:  # a user's forward may raise anything; it is told as what it is
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise PassFault(f"the {whose} cannot take the training inputs, of shape {shapes}: {reason}") from error
    require_finite(output, whose)
    features = {}
    for path, capture in captures.items():
        try:
            features[path] = capture.take()
        except UsageError:
            raise UsageError(
                f"{whose}_layer: layer {path!r} of the {whose} does not run in its forward pass; name one that does"
                " (a net prepared for quantization-aware training has no layers of its own: compare its logits)"
            ) from None
    return output, features


def evaluating_copy(net: nn.Module) -> nn.Module:
    """A copy in evaluation mode that takes no gradients.

    By flags and not by ``eval()``: a net that torch.export made refuses that call.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # torch 2.13 copying its own exports
        trial = copy.deepcopy(net)
    for part in trial.modules():
        part.training = False
    return trial.requires_grad_(False)


def device_of(net: nn.Module) -> torch.device:
    """Where the net's first tensor lies; the CPU for a net without any."""
    for value in (*net.parameters(), *net.buffers()):
        return value.device
    return torch.device("cpu")


def require_finite(output: Tensor, whose: str) -> None:
    """ModelFault for NaN or Inf in what a net gave."""
    if output.is_floating_point() and not torch.isfinite(output).all():
        what = "NaN" if output.isnan().any() else "Inf"
        raise ModelFault(f"the {whose} gives {what} for the training inputs; check its weights and the data")


def first_tensor(value: Any, place: str) -> Tensor:
    """The tensor itself, or the first of a tuple, list or mapping: class scores come first, auxiliary ones after them."""
    while not isinstance(value, Tensor):
        if isinstance(value, Mapping) and value:
            value = next(iter(value.values()))
        elif isinstance(value, (tuple, list)) and value:
            value = value[0]
        else:
            raise ModelFault(
                f"{place} is a {type(value).__name__}; only tensors, or tuples or mappings of them, can be compared"
            )
    return value


def adapter(student: Tensor, teacher: Tensor, seed: int, place: str) -> nn.Module | None:
    """A learned map from the student's channels to the teacher's, or None where they are as many; PassFault for misfits.

    A 1x1 convolution for pictures, else a linear layer. Its numbers depend on ``seed`` alone, so every process has the same.
    """
    _require_alike(student, teacher, place)
    axis = 1 if student.dim() == 4 else -1
    width, wanted = student.shape[axis], teacher.shape[axis]
    if width == wanted:
        return None
    made: nn.Conv2d | nn.Linear = (
        nn.Conv2d(width, wanted, 1, device="meta") if student.dim() == 4 else nn.Linear(width, wanted, device="meta")
    )
    made = made.to_empty(device="cpu")  # without torch's own numbers, which would move the loop's random state
    with torch.no_grad():
        made.weight.normal_(0, width**-0.5, generator=torch.Generator().manual_seed(seed))  # keeps the scale of what goes in
        assert made.bias is not None
        made.bias.zero_()
    return made.to(student.device)


def require_maps(student: Tensor, teacher: Tensor, place: str) -> None:
    """PassFault unless both can be reduced to attention maps of one kind."""
    _require_alike(student, teacher, place)
    if student.dim() == 2:
        raise PassFault(f"{place}: attention needs positions, and layers of shape {_shape(student)} have none; use feature")


def _require_alike(student: Tensor, teacher: Tensor, place: str) -> None:
    fact = f"{place}: the student's layer gives {_shape(student)}, the teacher's {_shape(teacher)}"
    if student.dim() != teacher.dim() or student.dim() not in (2, 3, 4):
        raise PassFault(
            f"{fact}; compare two layers that give pictures (n, channels, height, width), token rows (n, tokens, channels) "
            "or rows (n, channels)"
        )
    if student.dim() == 3 and student.shape[1] != teacher.shape[1]:
        raise PassFault(f"{fact}; the numbers of tokens differ, and there is no telling which belong together")
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise PassFault(f"{place}: the student's layer gives {student.dtype}, the teacher's {teacher.dtype}; compare floats")


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference, channels being as many; pictures of different size are averaged down to the smaller one.

    Romero et al. 2015 (FitNets), equation 3, with the mean where they sum.
    """
    student, teacher = _same_size(student, teacher)
    return F.mse_loss(student, teacher)


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of normalized maps of mean squared activation: Zagoruyko & Komodakis 2017, with p = 2.

    As in the authors' code, which takes the mean of squares where their equation 2 takes a norm. Maps of different size are
    averaged down to the smaller one.
    """
    axis = 1 if student.dim() == 4 else -1
    maps = [value.square().mean(axis, keepdim=value.dim() == 4) for value in (student, teacher)]
    ours, theirs = _same_size(*maps)
    return F.mse_loss(F.normalize(ours.flatten(1)), F.normalize(theirs.flatten(1)))


def _same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.dim() != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    height, width = (min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return _averaged(student, height, width), _averaged(teacher, height, width)


def _averaged(value: Tensor, height: int, width: int) -> Tensor:
    if value.shape[2] % height == 0 and value.shape[3] % width == 0:  # whose gradient is deterministic on a GPU too
        return F.avg_pool2d(value, (value.shape[2] // height, value.shape[3] // width))
    return F.adaptive_avg_pool2d(value, (height, width))


def _shape(value: Tensor) -> str:
    return str(tuple(value.shape))
