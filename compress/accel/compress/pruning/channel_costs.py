"""What a network costs: multiply-adds and parameters, counted, and predicted for other widths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.flop_counter import FlopCounterMode

from accel.compress.pruning.channel_check import copied, said, with_batch
from accel.compress.pruning.channel_groups import NOT_OURS, Group
from accel.compress.quiet_library import quiet
from accel.errors import PassFault


def count_macs(module: nn.Module, example: Sequence[Tensor]) -> int:
    """Multiply-adds of convolutions, linear layers and matrix products (attention's too) for one sample of ``example``.

    Counted on a copy in evaluation mode. PassFault where the module does not run.
    """
    return _counted(module, example)[0]


def count_params(module: nn.Module) -> int:
    """How many numbers the parameters hold, tied ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


class _Uses:
    """How often one sample uses each weight (``weights``: by name), and each row of it in attention itself (``rows``)."""

    def __init__(self) -> None:
        self.weights: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()

    def hook(self, path: str) -> Any:
        own = f"{path}." if path else ""

        def note(part: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor], output: Any) -> None:
            if isinstance(part, _ConvTransposeNd):
                self.weights[f"{own}weight"] += inputs[0].numel() // part.in_channels
            elif isinstance(part, _ConvNd):
                self.weights[f"{own}weight"] += output.numel() // part.out_channels
            elif isinstance(part, nn.Linear):
                self.weights[f"{own}weight"] += output.numel() // part.out_features
            elif isinstance(part, nn.MultiheadAttention):
                query, key, value = (*inputs, *(named[name] for name in ("query", "key", "value") if name in named))[:3]
                tokens = [each.numel() // each.shape[-1] for each in (query, key, value)]
                samples = 1 if query.dim() == 2 else query.shape[0 if part.batch_first else 1]
                self.weights[f"{own}in_proj_weight"] += sum(tokens) // 3
                self.weights[f"{own}out_proj.weight"] += tokens[0]
                self.rows[f"{own}out_proj.weight"] += 2 * tokens[0] * tokens[1] // samples

        return note

    def per_sample(self, samples: int) -> None:
        for counter in (self.weights, self.rows):
            for name in counter:
                counter[name] //= samples


def _counted(module: nn.Module, example: Sequence[Tensor]) -> tuple[int, _Uses]:
    """As :func:`count_macs`, and what the layers had a part in."""
    probe = copied(module, "counting multiply-adds")
    for parameter in probe.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    last: BaseException = RuntimeError()
    for samples in (1, len(example[0]) if example and example[0].ndim else 1):
        uses = _Uses()
        handles = [part.register_forward_hook(uses.hook(path), with_kwargs=True) for path, part in probe.named_modules()]
        counter = FlopCounterMode(display=False)
        try:
            # Gradients on: without them torch's transformer layers take a fused path that the counter cannot see into. MATH: it
            # does not know the CPU's attention kernel, and counts nothing for it.
            with quiet(), torch.enable_grad(), torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH), counter:
                probe(*[each.clone() for each in with_batch(example, samples)])
        except Exception as error:  # whatever forward raises; some networks take one batch size only  # noqa: BLE001
            last = error
            for handle in handles:
                handle.remove()
            continue
        uses.per_sample(samples)
        return int(counter.get_total_flops()) // 2 // samples, uses
    raise PassFault(f"counting multiply-adds: the model does not run on the example: {said(last)}") from last


class Costs:
    """Costs of ``module`` for any widths of its groups, without building it.

    Parameters are exact. So are multiply-adds where they are those of layers; products of forward's own are taken as constant.
    """

    def __init__(self, module: nn.Module, example: Sequence[Tensor], groups: Sequence[Group]) -> None:
        self.macs, self._uses = _counted(module, example)
        self.params = count_params(module)
        self._shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
        self._widths = {group.name: group.width for group in groups}
        self._ours = {
            group.name: [
                (member.tensor, member.dim, sum(channel != NOT_OURS for channel in member.channels))
                for member in group.members
                if member.tensor in self._shapes
            ]
            for group in groups
        }
        self._elsewhere = self.macs - self._layer_macs(self._shapes)

    def macs_at(self, widths: Mapping[str, int]) -> int:
        """Multiply-adds for one sample with each group in ``widths`` that wide."""
        return self._elsewhere + self._layer_macs(self._shapes_at(widths))

    def params_at(self, widths: Mapping[str, int]) -> int:
        return sum(prod(shape) for shape in self._shapes_at(widths).values())

    def _shapes_at(self, widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        shapes = {name: list(shape) for name, shape in self._shapes.items()}
        for name, width in widths.items():
            whole = self._widths[name]
            if width != whole:
                for tensor, dim, ours in self._ours[name]:
                    shapes[tensor][dim] -= (
                        ours // whole * (whole - width) if ours % whole == 0 else ours * (whole - width) // whole
                    )
        return {name: tuple(shape) for name, shape in shapes.items()}

    def _layer_macs(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        products = sum(count * prod(shapes[name]) for name, count in self._uses.weights.items() if name in shapes)
        return products + sum(count * shapes[name][0] for name, count in self._uses.rows.items() if name in shapes)
