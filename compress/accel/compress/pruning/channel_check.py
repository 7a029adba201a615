"""Does a network with channels removed compute what the whole network computes with those channels silenced?

Shapes alone do not tell: with a zero-padded shortcut, or channels that are shuffled, a cut at the wrong indices gives a
network that runs, and computes something else. So a cut is compared with a reference that needs no dependency graph: the whole
module with zeros at every index that the edit removes (norms over the rest). Where the indices belong together, both compute
the same to the last digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from accel.compress.edits import keep_channels_
from accel.compress.quiet_library import quiet
from accel.errors import ModelFault, PassFault
from accel.model import KeepChannels

AGREEMENT = 1e-3
"""How far the cut network may be from its reference, as a part of what silencing the channels changes."""


def copied(module: nn.Module, what: str, *, evaluating: bool = True) -> nn.Module:
    """A deep copy, in evaluation mode unless told otherwise. PassFault where the module cannot be copied."""
    try:
        copy = deepcopy(module)
    except Exception as error:  # a module's own __deepcopy__ may raise anything
        raise PassFault(
            f"{what}: this module cannot be copied ({said(error)}); "
            "keep tensors with a gradient history and open handles out of its attributes"
        ) from error
    return copy.eval() if evaluating else copy


def leaves(outputs: Any) -> list[Tensor]:
    """The tensors in what a module returned, in a fixed order."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def with_batch(example: Sequence[Tensor], batch: int) -> list[Tensor]:
    """The example with ``batch`` samples along the first axis of every input that shares the first input's batch size."""
    size = example[0].shape[0] if example and example[0].ndim else 0
    rows = torch.arange(batch) % max(size, 1)
    return [each[rows] if size and each.ndim and each.shape[0] == size else each for each in example]


def noise_like(example: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Normal noise for floats (an example may be all zeros, which shows nothing); integers as they are."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(each.shape, generator=generator).to(each) if each.is_floating_point() else each for each in example]
    return [value.contiguous() for value in drawn]


def run(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The module's output tensors, without gradients and without its chatter, random numbers the same each time.

    It gets copies of the inputs: forward may write into them.
    """
    with torch.no_grad(), quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return leaves(module(*[each.clone() for each in inputs]))


def _run_part_by_part(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """As :func:`run`, but torch's transformer layers call their parts, which may be the reference's, instead of one kernel."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return run(module, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class Silenced:
    """Answers for one module and one example, on copies: the module given is never run."""

    def __init__(self, module: nn.Module, example: Sequence[Tensor], *, seed: int) -> None:
        """Raises PassFault where the module cannot be copied or run on ``example``, ModelFault where its outputs are no
        numbers."""
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        last: BaseException | None = None
        # double: what silencing changes is told from rounding, also where it is small. perturbed: a scale that is 0, or a bias
        # that is, would hide a wrong index. Some networks take neither, or one batch size only.
        for double, perturbed, samples in product((True, False), (True, False), (3, None)):
            probe = copied(module, "prune")
            inputs = noise_like(example if samples is None else with_batch(example, samples), seed)
            if double:
                probe.double()
                inputs = [each.double() if each.is_floating_point() else each for each in inputs]
            try:
                if perturbed:
                    _perturb_(probe, inputs, seed)
                outputs = _run_part_by_part(probe, inputs)
            except Exception as error:  # whatever forward raises  # noqa: BLE001
                last = error
                continue
            if all(bool(torch.isfinite(each).all()) for each in outputs if each.is_floating_point()):
                self.module, self.inputs, self.outputs, self.double = probe, inputs, outputs, double
                return
        if last is not None:
            raise PassFault(f"prune: the model does not run on the example: {said(last)}") from last
        raise ModelFault("prune: the model's own outputs hold NaN or Inf; check its weights")

    def misfit(self, edit: KeepChannels) -> str | None:
        """The part of :meth:`objection` that shapes alone tell, for a tenth of its price; None where they say nothing."""
        if self._single is None:
            return None
        found = self._cut(*self._single, edit)
        return found if isinstance(found, str) else None

    def objection(self, edit: KeepChannels) -> str | None:
        """Why ``edit`` cannot be done to the module, or None where the result computes what it should."""
        found = self._cut(self.module, self.inputs, self.outputs, edit)
        if isinstance(found, str):
            return found
        reference = silenced(self.module, edit)
        try:
            with _NormsOverKept(reference, edit):
                wanted = _run_part_by_part(reference, self.inputs)
        except Exception as error:  # whatever forward raises on norms that are not torch's own  # noqa: BLE001
            return f"a cut could not be checked ({said(error)})"
        return self._difference(found, wanted)

    @cached_property
    def _single(self) -> tuple[nn.Module, list[Tensor], list[Tensor]] | None:
        """Module, inputs and outputs for one sample in single precision; None where the network does not take these."""
        module, inputs = deepcopy(self.module), with_batch(self.inputs, 1)
        if self.double:
            module.float()
            inputs = [each.float() if each.is_floating_point() else each for each in inputs]
        try:
            return module, inputs, _run_part_by_part(module, inputs)
        except Exception:  # whatever forward raises: then every trial is a whole one  # noqa: BLE001
            return None

    def _cut(
        self, module: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[Tensor], edit: KeepChannels
    ) -> list[Tensor] | str:
        """What ``module``, which gives ``outputs``, gives without the channels, or why nothing of their shapes."""
        cut = deepcopy(module)
        try:
            keep_channels_(cut, edit)
            found = _run_part_by_part(cut, inputs)
        except Exception as error:  # a wrong shape shows as whatever forward raises  # noqa: BLE001
            return f"with fewer channels the network does not run ({said(error)})"
        if len(found) != len(outputs):
            return f"with fewer channels it gives {len(found)} outputs instead of {len(outputs)}"
        for number, (got, whole) in enumerate(zip(found, outputs, strict=True)):
            if got.shape != whole.shape:
                return f"the model's output {number} would shrink from {list(whole.shape)} to {list(got.shape)}"
        return found

    def _difference(self, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> str | None:
        seen = False
        for got, want, whole in zip(found, wanted, self.outputs, strict=True):
            if not want.is_floating_point() or want.numel() == 0:
                continue
            scale = float(want.abs().max())
            rounding = (1e-11 if self.double else 1e-5) * scale
            effect = float((want - whole).abs().max())
            error = float((got - want).abs().max())
            seen = seen or effect > rounding
            if not error <= AGREEMENT * effect + rounding:
                return "with fewer channels it computes something else: their order or number matters (shuffle, reshape, pad)"
        return None if seen else "no output depends on its channels, so that a cut could not be checked"


def require_runs(module: nn.Module, cut: nn.Module, example: Sequence[Tensor]) -> None:
    """PassFault unless ``cut`` gives outputs of the shapes of ``module``'s, all of them numbers, on 1 and on 3 samples.

    ModelFault where the whole module's are no numbers either. A batch size that the whole module does not take is not asked
    for.
    """
    whole, narrowed = copied(module, "prune"), copied(cut, "prune")
    for batch in (1, 3):
        inputs = with_batch(example, batch)
        try:
            wanted = run(whole, inputs)
        except Exception:  # noqa: BLE001  # the whole model takes this many samples no better
            continue
        try:
            found = run(narrowed, inputs)
        except Exception as error:  # whatever forward raises
            raise PassFault(f"prune: the cut network does not run on {batch} samples: {said(error)}") from error
        if [each.shape for each in found] != [each.shape for each in wanted]:
            raise PassFault(f"prune: the cut network gives outputs of other shapes on {batch} samples")
        for number, (got, want) in enumerate(zip(found, wanted, strict=True)):
            if got.is_floating_point() and not bool(torch.isfinite(got).all()):
                if not bool(torch.isfinite(want).all()):
                    raise ModelFault(f"prune: the model's own output {number} holds NaN or Inf; check its weights")
                raise PassFault(f"prune: output {number} of the cut network holds NaN or Inf")


def _perturb_(module: nn.Module, inputs: Sequence[Tensor], seed: int) -> None:
    """Noise on every parameter, and batch norm statistics that fit the result, so that every channel has an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and parameter.numel():
                size = float(parameter.square().mean().sqrt()) or 0.1
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=0.3 * size)
    norms = [
        part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with suppress(ValueError):  # one value per channel: the statistics stay as they were
        run(module, inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def silenced(module: nn.Module, edit: KeepChannels) -> nn.Module:
    """A copy of the whole module with zeros where ``edit`` removes something.

    Attention divides by the root of the smaller head (Vaswani et al. 2017, equation 1), as it will.
    """
    reference = deepcopy(module)
    tensors = dict(_tensors(reference))
    with torch.no_grad():
        for name, dims in edit.kept.items():
            for dim, stay in dims.items():
                gone = sorted(set(range(tensors[name].shape[dim])) - set(stay))
                tensors[name].index_fill_(dim, torch.tensor(gone, dtype=torch.long, device=tensors[name].device), 0)
        for path, part in reference.named_modules():
            if isinstance(part, nn.MultiheadAttention) and "head_dim" in edit.attributes.get(path, {}):
                factor = (part.head_dim / edit.attributes[path]["head_dim"]) ** 0.5
                part.in_proj_weight[: part.embed_dim] *= factor
                if part.in_proj_bias is not None:
                    part.in_proj_bias[: part.embed_dim] *= factor
    return reference


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


class _NormsOverKept(TorchFunctionMode):
    """While active, layer and group norms of ``reference`` take their statistics over the channels that stay only."""

    def __init__(self, reference: nn.Module, edit: KeepChannels) -> None:
        super().__init__()
        self._kept = {
            id(tensor): torch.tensor(edit.kept[name][0], device=tensor.device)
            for name, tensor in _tensors(reference)
            if 0 in edit.kept.get(name, {}) and tensor.dim() == 1
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is functional.layer_norm:
            return self._layer_norm(*args, **kwargs)
        if func is functional.group_norm:
            return self._group_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _layer_norm(
        self, x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        kept = self._kept.get(id(weight))
        if kept is None or weight is None:
            return functional.layer_norm(x, shape, weight, bias, eps)
        part = functional.layer_norm(x[..., kept], (len(kept),), weight[kept], None if bias is None else bias[kept], eps)
        return torch.zeros_like(x).index_copy(-1, kept, part)

    def _group_norm(
        self, x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        kept = self._kept.get(id(weight))
        if kept is None or weight is None:
            return functional.group_norm(x, groups, weight, bias, eps)
        part = functional.group_norm(x[:, kept], groups, weight[kept], None if bias is None else bias[kept], eps)
        return torch.zeros_like(x).index_copy(1, kept, part)


def said(error: BaseException) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
