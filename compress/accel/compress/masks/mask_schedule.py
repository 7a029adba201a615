"""Masks on a module that is being trained: drawn on a schedule, laid on after each step, recorded at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from accel.compress.edits import add_edit_, edits_of, masks_of
from accel.compress.masks.sparse_layers import Shape, advice
from accel.compress.masks.sparsity import Layer, layers_of, masks
from accel.compress.masks.sparsity_plan import Plan
from accel.errors import PassFault, UsageError
from accel.model import Masks


class MaskSchedule:
    """The masks of one module, as a companion of ``train.fit_`` or behind ``sparsify.Sparsifier``.

    Changes the values of ``net``'s weights and nothing else. What earlier ``Masks`` edits keep at zero stays there.
    Raises PassFault where no layer fits, where nothing would change, and where a layer would lose all its weights.
    """

    def __init__(
        self, net: nn.Module, plan: Plan, ignored_layers: Sequence[str] = (), *, sparsify_all: bool = False, total: int = 0
    ) -> None:
        self._net = _unwrapped(net)
        self._plan = plan
        self._layers, dense = layers_of(self._net, plan, ignored_layers, sparsify_all=sparsify_all)
        self._held = masks_of(self._net)
        self.done = 0
        """Steps taken so far."""
        self.total = total
        """Steps of the whole training, as last heard; 0: not known yet."""
        self.notes: tuple[str, ...] = (*dense, *advice(plan.pattern, plan.kept, [_shape(layer) for layer in self._layers]))
        goal = self._drawn(plan.sparsity)  # also for a schedule: what cannot work is refused before the training
        self._require_change(goal)
        self.masks = goal if plan.schedule == "one_shot" else self._drawn(0.0)
        self._apply()

    def before_step(self, step: int, total: int) -> None:
        """Nothing: masks are laid on after the step."""

    def after_step(self, step: int, total: int) -> None:
        """``step`` counts from 0. Draw the masks anew where one is due, and set the masked weights to zero."""
        self.done, self.total = step + 1, total
        if self._plan.schedule == "cubic" and self._plan.due(self.done, total):
            self.masks = self._drawn(self._plan.sparsity_at(self.done, total))
        self._apply()

    def sparsity(self) -> float:
        """The fraction of the masked layers' weights that are masked now."""
        return sum(int((~mask).sum()) for mask in self.masks.values()) / sum(mask.numel() for mask in self.masks.values())

    def summary(self) -> str:
        """One sentence on what is masked now."""
        dropped = sum(int((~mask).sum()) for mask in self.masks.values())
        count = sum(mask.numel() for mask in self.masks.values())
        everything = sum(parameter.numel() for parameter in self._net.parameters())
        return (
            f"{self._plan.pattern}: {dropped} of {count} weights ({dropped / count:.1%}) are zero in {len(self.masks)} layers, "
            f"{dropped / everything:.1%} of all parameters"
        )

    def finish(self) -> None:
        """Set the masked weights to zero once more (averaged weights may have come in), and record the masks on the module.

        Raises UsageError where the schedule has not come to its end.
        """
        last = self._plan.last(self.total) if self._plan.schedule == "cubic" else 0
        if self.done < last:
            raise UsageError(
                f"Sparsifier.finish: after {self.done} of {last} steps {self.sparsity():.1%} of the weights are masked, not "
                f"{self._plan.sparsity:.1%}; call step() to the end, or give a smaller total_steps or end"
            )
        self._apply()
        edit = Masks(self._plan.pattern, tuple(self.masks))
        if edit not in edits_of(self._net):
            add_edit_(self._net, edit)

    def state(self) -> dict[str, Tensor]:
        """What :meth:`restore` needs beside the weights."""
        counts = {"done": torch.tensor(self.done), "total": torch.tensor(self.total)}
        return counts | {f"mask.{name}": mask.cpu() for name, mask in self.masks.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`; UsageError for that of another network or of other settings."""
        if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in self.state().items()}:
            raise UsageError("Sparsifier.restore: this state is of another network, or of other settings")
        self.done, self.total = int(state["done"]), int(state["total"])
        self.masks = {name: state[f"mask.{name}"].to(mask.device) for name, mask in self.masks.items()}
        self._apply()

    def _drawn(self, sparsity: float) -> dict[str, Tensor]:
        found = masks(self._layers, sparsity, self._plan)
        return {name: mask & self._held[name].to(mask.device) if name in self._held else mask for name, mask in found.items()}

    def _require_change(self, goal: Mapping[str, Tensor]) -> None:
        fresh = sum(int(((layer.weight.detach() != 0) & ~goal[layer.name]).sum()) for layer in self._layers)
        if not fresh and goal.keys() <= self._held.keys():
            raise PassFault(
                f"sparsify: nothing changes: the masked layers hold these zeros already ({self._plan.pattern}, "
                f"{self._plan.sparsity:.3g}); raise sparsity, or leave this pass out"
            )

    @torch.no_grad()
    def _apply(self) -> None:
        weights = dict(self._net.named_parameters(remove_duplicate=False))
        for masks_ in (self._held, self.masks):
            for name, mask in masks_.items():
                weight = weights[name]
                masks_[name] = mask.to(weight.device)  # moved once, where the training moved the module
                weight.masked_fill_(~masks_[name], 0)  # not a product: that leaves -0.0 too, which packs worse


def _unwrapped(net: nn.Module) -> nn.Module:
    """The user's module inside DistributedDataParallel and ``torch.compile``, so that names and edits are its own."""
    while True:
        inner = net.module if isinstance(net, DistributedDataParallel) else getattr(net, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return net
        net = inner


def _shape(layer: Layer) -> Shape:
    outputs, inputs, *kernel = layer.weight.shape
    if layer.transposed:
        outputs, inputs = inputs * layer.groups, outputs // layer.groups
    return Shape(layer.name.removesuffix(".weight"), outputs, inputs, torch.Size(kernel).numel(), layer.groups)
