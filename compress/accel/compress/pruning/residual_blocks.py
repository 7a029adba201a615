"""Which parts of a network are residual blocks: found by running it once, not by names or classes.

A block maps one tensor to one of the same shape, holds at least two weighted layers, and passes its input on: with every weight
in it set to zero its output is its input (He et al. 2016, "Identity mappings in deep residual networks").
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from accel.compress.quiet_library import quiet

WEIGHTED = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Linear, nn.Bilinear, nn.MultiheadAttention),
)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
SAME = 1e-4
"""Of the largest value: what rounding may add to an identity."""
ALIKE = 0.9
"""Correlation of input and output of a block that ends in a normalization, with every other weight set to zero."""
_FEWEST_LAYERS = 2


@dataclass(frozen=True)
class Found:
    """``blocks``: paths in the order of their first call. ``refused``: residual blocks that cannot be removed, and why."""

    blocks: tuple[str, ...]
    refused: Mapping[str, str]


@dataclass
class _Calls:
    """How one module was called while the network ran once. ``fits``: its first argument and what it gave are alike."""

    order: int
    count: int = 0
    fits: bool = True
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] | None = None


def find_blocks(module: nn.Module, inputs: Sequence[Tensor]) -> Found:
    """The residual blocks of ``module``, which is run once on ``inputs`` and otherwise left alone.

    Of nested ones the inner are taken where there are several (a stage is not a block), else the outer.
    """
    calls = _traced(module, inputs)
    places: dict[int, list[str]] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        places.setdefault(id(part), []).append(path)
    parts = dict(module.named_modules())
    refused: dict[str, str] = {}
    residual = []
    for path, part in parts.items():
        call = calls.get(path)
        if not path or call is None or not call.fits or len(_weighted(part)) < _FEWEST_LAYERS:
            continue
        if not _passes_on(part, call):
            continue
        residual.append(path)
        others = [place for place in places[id(part)] if place != path]
        extra = len(call.arguments) - 1 + len(call.keywords or ())
        if others:
            refused[path] = f"it is also {', '.join(others)}, and its removal is to be one change"
        elif call.count > 1:
            refused[path] = f"it is called {call.count} times, and its removal is to be one change"
        elif extra:
            refused[path] = f"it is called with {extra} more arguments than its input, which nothing in its place would take"
    chosen = sorted(_disjoint(residual, parts), key=lambda path: calls[path].order)
    return Found(
        tuple(path for path in chosen if path not in refused), {path: refused[path] for path in chosen if path in refused}
    )


def _traced(module: nn.Module, inputs: Sequence[Tensor]) -> dict[str, _Calls]:
    calls: dict[str, _Calls] = {}
    handles = []
    for path, part in module.named_modules():

        def watch(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, path: str = path) -> None:
            call = calls.setdefault(path, _Calls(len(calls)))
            call.count += 1
            call.fits = call.fits and bool(args) and _alike(args[0], output)
            call.arguments, call.keywords = (args, kwargs) if call.fits else ((), None)

        handles.append(part.register_forward_hook(watch, with_kwargs=True))
    try:
        with torch.no_grad(), quiet():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _alike(given: object, output: object) -> bool:
    """Two float tensors of one shape and type."""
    if not isinstance(given, Tensor) or not isinstance(output, Tensor):
        return False
    return given.shape == output.shape and given.dtype == output.dtype and given.is_floating_point() and given.dim() > 1


def _weighted(part: nn.Module) -> list[str]:
    """Paths below ``part`` of its weighted layers; an attention counts as its two projections."""
    found = []
    for path, layer in part.named_modules():
        if isinstance(layer, WEIGHTED):
            found += [path, f"{path}.in"] if isinstance(layer, nn.MultiheadAttention) else [path]
    return found


def _passes_on(part: nn.Module, call: _Calls) -> bool:
    """Whether the output is the input (perhaps through a ReLU, or a normalization) once every weight is zero."""
    like: Tensor = call.arguments[0]
    # Not what the network itself gave it: that may be all zero, or so small that everything is an identity.
    given = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    zeroed = copy.deepcopy(part)
    for tensor in (*zeroed.parameters(), *_means(zeroed)):
        tensor.data.zero_()
    output = _run(zeroed, given, call)
    for wanted in (given, torch.relu(given)):
        if float((output - wanted).abs().max()) <= SAME * float(given.abs().max()):  # never so where there is a NaN
            return True
    if not any(isinstance(layer, NORMS) for layer in part.modules()):
        return False
    zeroed = copy.deepcopy(part)  # it may end in a normalization, whose own scale must stay
    kept = {id(tensor) for layer in zeroed.modules() if isinstance(layer, NORMS) for tensor in layer.parameters(recurse=False)}
    for tensor in zeroed.parameters():
        if id(tensor) not in kept:
            tensor.data.zero_()
    pair = torch.stack((given.flatten(), _run(zeroed, given, call).flatten())).double()
    return bool(torch.corrcoef(pair)[0, 1] > ALIKE)


def _means(part: nn.Module) -> list[Tensor]:
    return [buffer for name, buffer in part.named_buffers() if name.rpartition(".")[2] == "running_mean"]


def _run(part: nn.Module, given: Tensor, call: _Calls) -> Tensor:
    """One call like the network's own, on ``given``; NaN where it fails."""
    part.eval()
    try:
        with torch.no_grad(), quiet():
            output = part(given.clone(), *call.arguments[1:], **(call.keywords or {}))
    except (RuntimeError, ValueError, TypeError, AttributeError, ZeroDivisionError):  # the user's forward on zero weights
        return torch.full_like(given, torch.nan)
    return output if isinstance(output, Tensor) and output.shape == given.shape else torch.full_like(given, torch.nan)


def _disjoint(paths: Sequence[str], parts: Mapping[str, nn.Module]) -> list[str]:
    """Of modules inside each other: the inner ones where there are at least two side by side, else the outer one.

    Where a module holds nothing weighted beside the one inside it (a sequence of one block), the inner one.
    """

    def inner(path: str) -> list[str]:
        below = [other for other in paths if _inside(other, path)]
        nearest = [other for other in below if not any(_inside(other, between) for between in below)]
        return [found for other in nearest for found in settle(other)]

    def settle(path: str) -> list[str]:
        found = inner(path)
        whole = len(_weighted(parts[path]))
        if len(found) > 1 or (found and len(_weighted(parts[found[0]])) == whole):
            return found
        return [path]

    return [found for path in paths if not any(_inside(path, other) for other in paths) for found in settle(path)]


def _inside(path: str, outer: str) -> bool:
    return path.startswith(f"{outer}.")
