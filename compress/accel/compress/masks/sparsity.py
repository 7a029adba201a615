"""Which weights become zero: masks by magnitude, unstructured or n of every m input channels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accel.compress.edits import edits_of
from accel.compress.masks.sparsity_plan import Plan
from accel.errors import PassFault
from accel.model import GroupedWeights, NeuralCompressed, QuantizeAware

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Layer:
    """A weight that a mask can be laid on. ``weight``: (out, in / groups, *kernel), or transposed (in, out / groups, *kernel).

    ``name`` is the parameter's, ``path`` that of the module it belongs to.
    """

    name: str
    path: str
    weight: nn.Parameter
    groups: int = 1
    transposed: bool = False


def layers_of(
    module: nn.Module, plan: Plan, ignored_layers: Sequence[str] = (), *, sparsify_all: bool = False
) -> tuple[list[Layer], list[str]]:
    """The weights to mask, in the order the module defines them, and notes on every layer that stays dense and why.

    ``ignored_layers``: a module's exact path, or a regular expression that matches a whole path; covers what is below it.
    Unless ``sparsify_all``, a convolution that comes first and depthwise convolutions stay dense: they hold few of the weights,
    and the literature keeps them (Zhu and Gupta, arXiv 1710.01878; Gale et al., 1902.09574; Evci et al., 1911.11134).

    Raises PassFault where nothing is left to mask, where an ignored layer is not there, and for weights that are not numbers.
    """
    if any(isinstance(edit, QuantizeAware | NeuralCompressed | GroupedWeights) for edit in edits_of(module)):
        raise PassFault("sparsify: the model is quantized already; put sparsify before quantize")
    ignored = _ignored(module, ignored_layers)
    found: list[Layer] = []
    dense: dict[str, list[str]] = {}
    seen: set[int] = set()
    first = True
    for path, part in module.named_modules():
        for layer in _weights(path, part):
            if id(layer.weight) in seen:  # tied to one that is in already
                continue
            seen.add(id(layer.weight))
            if not torch.isfinite(layer.weight).all():
                raise PassFault(f"sparsify: {layer.name} holds NaN or Inf; check the weights, or train them again")
            sensitive = None if sparsify_all else _sensitive(part, first)
            reason = "named in ignored_layers" if path in ignored else sensitive or _misfit(layer, plan)
            first = False
            if reason:
                dense.setdefault(reason, []).append(layer.name.removesuffix(".weight"))
            else:
                found.append(layer)
        for name, reason in _others(path, part):
            dense.setdefault(reason, []).append(name)
    notes = [f"kept dense, {reason}: {', '.join(names)}" for reason, names in dense.items()]
    if not found:
        raise PassFault(
            f"sparsify: no layer can take the pattern {plan.pattern}" + "".join(f"; {note}" for note in notes)
            if notes
            else "sparsify: the model has no convolution or linear layer"
        )
    return found, notes


def masks(layers: Sequence[Layer], sparsity: float, plan: Plan) -> dict[str, Tensor]:
    """Parameter name to bool mask, True where the weight stays: the smallest magnitudes go, ties by position.

    Exactly ``round(sparsity * weights)`` go, in each layer or with ``global_pruning`` over all layers. Under an n:m pattern
    only the m - n smallest of each group may go, so that ``sparsity`` = 1 - n/m gives the pattern and less gives a part of it.
    Depends on the weights alone, so that all processes of a distributed training draw the same. Raises PassFault where a
    layer would lose all its weights.
    """
    ranks = {layer.name: _ranks(layer, plan) for layer in layers}
    kept: dict[str, Tensor] = {}
    if plan.global_pruning:
        flat = torch.cat([rank.flatten() for rank in ranks.values()])
        split = torch.split(_keep_largest(flat, round(sparsity * flat.numel())), [rank.numel() for rank in ranks.values()])
        kept = {name: part.view_as(rank) for (name, rank), part in zip(ranks.items(), split, strict=True)}
        lost = [name for name, mask in kept.items() if not mask.any()]
        if lost:
            raise PassFault(
                f"sparsify: sparsity {sparsity:.3g} over all layers takes every weight of {', '.join(lost)}; "
                "lower sparsity, name them in ignored_layers, or set global_pruning: false"
            )
    else:
        for name, rank in ranks.items():
            most = rank.numel() - 1  # a layer with no weight at all cuts the network
            kept[name] = _keep_largest(rank.flatten(), min(round(sparsity * rank.numel()), most)).view_as(rank)
    return {layer.name: kept[layer.name].to(layer.weight.device) for layer in layers}


def is_n_m(weight: Tensor, n: int, m: int) -> bool:
    """Whether at most ``n`` of every ``m`` consecutive input channels are not zero, for each output and kernel position.

    ``weight``: (out, in / groups, *kernel). This is what sparse tensor cores take (NVIDIA TensorRT documentation, "Structured
    Sparsity"). False where the input channels are not a multiple of ``m``.
    """
    if weight.dim() < 2 or weight.shape[1] % m:
        return False
    return bool(((_grouped(weight, m) != 0).sum(-1) <= n).all())


def _keep_largest(ranks: Tensor, drop: int) -> Tensor:
    """(k,) magnitudes to a bool mask with exactly ``drop`` False entries, the smallest, of equal ones those that come first."""
    kept = torch.ones(ranks.numel(), dtype=torch.bool)
    if drop > 0:
        # On the CPU: CUDA's kthvalue is refused under torch.use_deterministic_algorithms.
        threshold = torch.kthvalue(ranks, drop).values
        kept &= ranks >= threshold
        ties = (ranks == threshold).nonzero().flatten()
        kept[ties[: drop - int((~kept).sum())]] = False
    return kept


def _ranks(layer: Layer, plan: Plan) -> Tensor:
    """Magnitudes on the CPU, infinite where the pattern forbids to drop."""
    magnitudes = layer.weight.detach().abs().float().cpu()
    if plan.kept is None:
        return magnitudes
    n, m = plan.kept
    groups = _grouped(magnitudes, m)
    largest = groups.sort(dim=-1, descending=True, stable=True).indices[..., :n]
    groups = groups.scatter(-1, largest, torch.inf)
    return groups.flatten(-2).movedim(-1, 1)


def _grouped(weight: Tensor, m: int) -> Tensor:
    """(out, in, *kernel) to (out, *kernel, in / m, m)."""
    last = weight.movedim(1, -1)
    return last.reshape(*last.shape[:-1], -1, m)


def _weights(path: str, part: nn.Module) -> Iterable[Layer]:
    """The weights of one module, its submodules' left out."""
    own = dict(part.named_parameters(recurse=False))
    prefix = f"{path}." if path else ""
    if isinstance(part, nn.MultiheadAttention):  # its output projection is a Linear of its own
        yield from (Layer(prefix + name, path, value) for name, value in own.items() if value.dim() == 2)
    elif isinstance(part, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)) and "weight" in own:
        if isinstance(own["weight"], nn.UninitializedParameter):
            raise PassFault(f"sparsify: {prefix}weight has no shape yet; run the model on one batch first")
        if own["weight"].is_floating_point():
            groups = 1 if isinstance(part, nn.Linear) else part.groups
            yield Layer(f"{prefix}weight", path, own["weight"], groups, isinstance(part, TRANSPOSED))


def _others(path: str, part: nn.Module) -> Iterable[tuple[str, str]]:
    """Matrices that no mask is laid on, each with the reason."""
    own = dict(part.named_parameters(recurse=False))
    if isinstance(part, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
        if "weight" not in own:
            yield path, "its weight is computed from other tensors (remove the parametrization to mask it)"
        elif not own["weight"].is_floating_point():
            yield path, "its weight is not floating point"
    elif not isinstance(part, nn.MultiheadAttention) and "parametrizations" not in path.split("."):
        for name, value in own.items():
            if value.dim() >= 2:
                yield f"{path}.{name}" if path else name, "not the weight of a convolution or linear layer"


def _sensitive(part: nn.Module, first: bool) -> str | None:
    if not isinstance(part, CONVOLUTIONS):
        return None
    if first:
        return "the first convolution (sparsify_all: true takes it too)"
    if part.groups > 1 and part.groups == part.in_channels:
        return "depthwise (sparsify_all: true takes it too)"
    return None


def _misfit(layer: Layer, plan: Plan) -> str | None:
    if not layer.weight.any():
        return "all of its weights are zero already"
    if plan.kept is None:
        return None
    if layer.transposed:
        return f"{plan.pattern} is not defined for transposed convolutions"
    if layer.weight.shape[1] % plan.kept[1]:
        return f"its input channels per group are not a multiple of {plan.kept[1]}"
    return None


def _ignored(module: nn.Module, wanted: Sequence[str]) -> set[str]:
    paths = [path for path, _ in module.named_modules() if path]
    covered: set[str] = set()
    for name in wanted:
        hits = {name} & set(paths)
        if not hits:
            try:
                hits = {path for path in paths if re.fullmatch(name, path)}
            except re.error as error:
                raise PassFault(f"sparsify: ignored_layers: {name!r} is no module and no regular expression: {error}") from None
        if not hits:
            raise PassFault(
                f"sparsify: ignored_layers: {name!r} matches no module; there are {', '.join(paths[:5])}"
                + ("..." if len(paths) > 5 else "")
            )
        covered |= {path for path in paths if any(path == hit or path.startswith(f"{hit}.") for hit in hits)}
    return covered
