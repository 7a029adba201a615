"""The module that quantization-aware training trains: a graph with fake quantizers in it, and what is frozen of it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from accel.compress.qat.pt2e_graph import attribute, set_training_

CURRENT = 1.0
"""Averaging constant of a weight's observer: the range is that of the weights as they are."""


INTEGER_BIAS = "accel_integer_bias"
"""The attribute of a converted graph that says whether its biases are to be written as INT32."""


class QuantizeAwareModule(nn.Module):
    """Computes what the INT8 network will, up to rounding, and can be trained like any module.

    ``graph`` holds the network: its parameters and buffers keep their names behind ``graph.``. Unlike what torch.export gives,
    it may be switched with ``train()`` and ``eval()`` and copied. Observers follow the values in training mode only (torchao's
    fake quantizers would follow them in evaluation, too). What is frozen is told by buffers, so that it is saved.
    """

    batch_norm_frozen: Tensor
    observers_frozen: Tensor

    def __init__(self, graph: GraphModule, *, integer_bias: bool = True) -> None:
        super().__init__()
        self.graph = graph
        self.integer_bias = integer_bias
        self.register_buffer("batch_norm_frozen", torch.tensor(False))
        self.register_buffer("observers_frozen", torch.tensor(False))
        self._applied: tuple[bool, bool, bool] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.settle_()
        return self.graph(*args, **kwargs)

    def freeze_batch_norm_(self) -> None:
        """From now on batch norms use their running statistics, as the INT8 network will (Krishnamoorthi 2018, 3.2.2)."""
        self.batch_norm_frozen.fill_(True)

    def freeze_observers_(self) -> None:
        """From now on scales and zero points stay as they are."""
        self.settle_()
        if not self.observers_frozen:
            self._observe_weights_()
        self.observers_frozen.fill_(True)

    def settle_(self) -> None:
        """Bring the graph into the mode that ``training`` and the two buffers say.

        Done here and not in ``train()``, because code that restores modes sets the attribute, and loading fills the buffers.
        """
        wanted = self.training, bool(self.batch_norm_frozen), bool(self.observers_frozen)
        if wanted == self._applied:
            return
        training, norms_frozen, observers_frozen = wanted
        set_training_(self.graph, training, batch_norm=not norms_frozen)
        if not training and not observers_frozen:
            self._observe_weights_()
        enabled = training and not observers_frozen
        for part in fake_quantizers(self.graph):
            part.observer_enabled.fill_(int(enabled))
            part.fake_quant_enabled.fill_(1)
        self._applied = wanted

    def calibrate_(self, batches: Iterable[tuple[Tensor, ...]]) -> int:
        """Take the ranges of all values from data, in evaluation mode and without fake quantization; gives how many batches.

        A range is the mean, over the batches, of the smallest and of the largest value of a batch.
        """
        was_training = self.training
        self.eval()
        self.settle_()
        parts = list(fake_quantizers(self.graph))
        constants = [part.activation_post_process.averaging_constant for part in parts]
        count = 0
        batch: tuple[Tensor, ...] = ()
        try:
            for part in parts:
                part.observer_enabled.fill_(1)
                part.fake_quant_enabled.fill_(0)
            for batch in batches:
                count += 1
                for part, constant in zip(parts, constants, strict=True):
                    # x += c (new - x) with c = 1/k is the mean; the first batch replaces what was there.
                    part.activation_post_process.averaging_constant = CURRENT if constant == CURRENT else 1 / count
                with torch.no_grad():
                    self.graph(*batch)
        finally:
            for part, constant in zip(parts, constants, strict=True):
                part.activation_post_process.averaging_constant = constant
            self._applied = None
        if count:
            with torch.no_grad():
                self(*batch)  # torch's fused kernel makes scales of the ranges only where it quantizes
        self.train(was_training)
        return count

    def _observe_weights_(self) -> None:
        """Bring the scales of weights up to date: they are computed in the forward pass, before the optimizer's step."""
        with torch.no_grad():
            for node in self.graph.graph.nodes:
                if node.op == "call_module" and node.args and getattr(node.args[0], "op", "") == "get_attr":
                    part: Any = self.graph.get_submodule(node.target)
                    if hasattr(part, "fake_quant_enabled") and part.activation_post_process.averaging_constant == CURRENT:
                        part.observer_enabled.fill_(1)
                        part(attribute(self.graph, node.args[0]))

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizeAwareModule:
        made = self.__class__.__new__(self.__class__)
        memo[id(self)] = made
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 copies a deprecated class of its own (LeafSpec)
            made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._applied = None  # what is loaded next may be of another mode


def fake_quantizers(module: nn.Module) -> Iterator[Any]:
    """Every fake quantizer in ``module``, each once."""
    for part in module.modules():
        if hasattr(part, "fake_quant_enabled") and hasattr(part, "observer_enabled"):
            yield part
