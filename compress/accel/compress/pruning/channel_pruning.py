"""Core of ``prune`` with ``method: structured``: groups, scores, widths, cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from accel.compress.edits import edits_of
from accel.compress.layer_names import matching
from accel.compress.pruning.channel_check import silenced
from accel.compress.pruning.channel_costs import Costs, count_macs, count_params
from accel.compress.pruning.channel_groups import Found, Group, Narrowed, best_positions, edit_for
from accel.compress.pruning.channel_widths import CLOSE, Rules, Widths, at_cost, at_ratio, step_of
from accel.compress.pruning.channels import find_groups, narrow
from accel.compress.pruning.importance import DATA_DRIVEN, Labelled, Loss, Scores, gradients_of, score_groups
from accel.compress.same_outputs import example_inputs
from accel.compress.training.task_loss import CrossEntropy
from accel.contracts import Job
from accel.errors import DataFault, PassFault, UsageError
from accel.model import GroupedWeights, Masks, NeuralCompressed, QuantizeAware, TorchModel

if TYPE_CHECKING:
    from accel.compress.prune import Prune

Gradients = Callable[[nn.Module], Mapping[str, Tensor] | None]
"""A module to the gradients that the importance reads; None for one that reads none."""

DEFAULT_RATIO = 0.5
POINT = 0.01
"""Of the whole cost: a constraint that is missed by more is told so."""


def prune_model(model: TorchModel, job: Job, settings: Prune) -> TorchModel:
    """``Prune`` with ``method: structured``: the model without the channels that matter least, to a ratio or to a number of
    multiply-adds or parameters."""
    example, gradients = example_of(model, job), training_gradients(model, job, settings)
    narrowed = prune(model.module, example, settings, gradients, seed=job.seed)
    return replace(model, module=narrowed.module).noting(*narrowed.notes)


def prune(module: nn.Module, example: Sequence[Tensor], settings: Prune, gradients: Gradients, *, seed: int) -> Narrowed:
    """The same on a module. ``example``: its inputs, a few samples."""
    found, rules = prunable(module, example, settings, seed=seed)
    groups = found.groups
    costs = Costs(module, example, groups)
    constraint = settings.constraint
    whole = costs.params if constraint is not None and constraint.unit == "params" else costs.macs
    wanted = whole if constraint is None else _less_than(whole, constraint.remaining(whole), constraint.unit)
    scores = scored(module, groups, settings, gradients, seed=seed)
    widths: Widths = {}
    for step in range(1, settings.iterative_steps + 1):
        if step > 1:
            rest = silenced(module, edit_for(groups, widths, scores))
            scores = _after(scored(rest, groups, settings, gradients, seed=seed), groups, widths, scores)
        part = step / settings.iterative_steps
        if constraint is None:
            steps = replace(rules, ratios={name: own * part for name, own in rules.ratios.items()})
            widths = at_ratio(groups, scores, (settings.pruning_ratio or DEFAULT_RATIO) * part, steps)
        elif constraint.unit == "params":
            widths = at_cost(groups, scores, rules, costs.params_at, whole + (wanted - whole) * part, "params")
        else:
            widths = at_cost(groups, scores, rules, costs.macs_at, whole + (wanted - whole) * part, "macs")
    _require_change(groups, widths, rules)
    if constraint is not None and constraint.unit == "macs":
        widths = _corrected(module, example, groups, widths, scores, rules, costs, wanted)
    narrowed = narrow(module, example, groups, widths, scores)
    macs, params = count_macs(narrowed.module, example), count_params(narrowed.module)
    notes = [*narrowed.notes, *found.notes, *_unchanged(groups, widths, rules)]
    notes.append(
        f"multiply-adds {costs.macs:,} -> {macs:,} ({macs / costs.macs:.1%} remain), "
        f"parameters {costs.params:,} -> {params:,} ({params / costs.params:.1%} remain)"
    )
    if constraint is not None:
        notes.append(_goal_note(constraint.unit, wanted, macs if constraint.unit == "macs" else params, whole, rules))
    return narrowed._replace(notes=tuple(notes))


def prunable(module: nn.Module, example: Sequence[Tensor], settings: Prune, *, seed: int) -> tuple[Found, Rules]:
    """The groups that ``settings`` lets change, and the rules for their widths.

    Raises PassFault where there are none, or a name of ``ignored_layers`` or ``pruning_ratio_dict`` matches nothing.
    """
    if any(isinstance(edit, QuantizeAware | NeuralCompressed | GroupedWeights) for edit in edits_of(module)):
        raise PassFault("prune: this model is quantized already; prune it before quantize")
    if any(isinstance(edit, Masks) and ":" in edit.pattern for edit in edits_of(module)):
        raise PassFault("prune: cutting channels would break up the groups of an n:m mask; prune before sparsify")
    ignored = matching(module, settings.ignored_layers, "prune: ignored_layers")
    own = settings.pruning_ratio_dict or {}
    named = matching(module, own, "prune: pruning_ratio_dict")
    found = find_groups(module, example, ignored_layers=frozenset().union(*ignored.values()), seed=seed)
    notes = list(found.notes)
    if settings.importance == "bn_scale":
        scaled = [group for group in found.groups if any(member.role == "scale" for member in group.members)]
        notes += [
            f"{group.name} left alone: no batch norm scales its channels" for group in found.groups if group not in scaled
        ]
        found = Found(tuple(scaled), tuple(notes))
    if not found.groups:
        raise PassFault(
            f"prune: no channel of this model can be cut: {'; '.join(notes) or 'it has no convolution or linear layer'}"
        )
    ratios: dict[str, float] = {}
    for name, paths in named.items():
        hits = [group.name for group in found.groups if not paths.isdisjoint(group.layers)]
        if not hits:
            raise PassFault(f"prune: pruning_ratio_dict: {name!r} names no layer whose channels can be cut; see ignored_layers")
        for hit in hits:
            ratios[hit] = min(own[name], ratios.get(hit, 1.0))
    rules = Rules(ratios, settings.max_pruning_ratio, settings.global_pruning, settings.round_to)
    return Found(found.groups, tuple(notes)), rules


def scored(module: nn.Module, groups: Sequence[Group], settings: Prune, gradients: Gradients, *, seed: int) -> Scores:
    """Scores of all ``groups`` by the settings' importance."""
    slopes = gradients(module) if settings.importance in DATA_DRIVEN else None
    return score_groups(module, groups, settings.importance, p=settings.p, seed=seed, gradients=slopes)


def example_of(model: TorchModel, job: Job) -> list[Tensor]:
    """Two samples as the model takes them: data of the task where it has some that fits, else noise."""
    inputs = example_inputs(model.signature, job, 2)
    device = next((value.device for value in model.module.parameters()), torch.device("cpu"))
    return [torch.from_numpy(np.array(inputs[spec.name])).to(device) for spec in model.signature.inputs]


def training_gradients(model: TorchModel, job: Job, settings: Prune) -> Gradients:
    """Gradients of the task's loss on ``settings.num_samples`` training samples. DataFault where the task has none."""
    task = job.task
    if settings.importance in DATA_DRIVEN and (task is None or not task.has("training")):
        raise DataFault(
            f"prune: importance {settings.importance} needs training data; set data.training, or importance: magnitude"
        )

    def batches() -> Iterable[Labelled]:
        assert task is not None
        for batch in task.training():
            missing = [spec.name for spec in model.signature.inputs if spec.name not in batch.inputs]
            if missing:
                raise DataFault(f"prune: training batches hold {sorted(batch.inputs)}, but the model takes {missing} too")
            labels = None if batch.labels is None else torch.from_numpy(np.asarray(batch.labels))
            yield [torch.from_numpy(np.array(batch.inputs[spec.name])) for spec in model.signature.inputs], labels

    return lambda module: _gradients(module, batches(), CrossEntropy(), settings)


def require_tensors(example: Sequence[object]) -> None:
    """UsageError for an example that is not the tensors which forward takes."""
    if not example or not all(isinstance(each, Tensor) for each in example):
        found = ", ".join(type(each).__name__ for each in example) or "nothing"
        raise UsageError(f"prune_channels: example: the tensors that forward takes expected, in their order; found {found}")


def gradients_from(batches: Iterable[Labelled], loss: Loss | None, settings: Prune) -> Gradients:
    """The same from a caller's own batches: read once, as many as are needed. ``loss``: cross entropy where None."""
    kept: list[Labelled] = []
    if settings.importance in DATA_DRIVEN:
        count = 0
        for inputs, labels in batches:
            kept.append(([inputs] if isinstance(inputs, Tensor) else list(inputs), labels))
            count += len(kept[-1][0][0])
            if count >= settings.num_samples:
                break
    return lambda module: _gradients(module, kept, loss or CrossEntropy(), settings)


def _gradients(module: nn.Module, batches: Iterable[Labelled], loss: Loss, settings: Prune) -> Mapping[str, Tensor]:
    squared = settings.importance == "hessian"
    return gradients_of(module, batches, loss, num_samples=settings.num_samples, squared=squared)


def _after(fresh: Scores, groups: Sequence[Group], widths: Widths, before: Scores) -> Scores:
    """The new scores, below all others for channels that went in an earlier step: they stay away."""
    for group in groups:
        gone = set(range(group.positions)) - set(best_positions(group, widths[group.name], before[group.name]))
        fresh[group.name][list(group.channels_at(gone))] = -1.0
    return fresh


def _corrected(
    module: nn.Module,
    example: Sequence[Tensor],
    groups: Sequence[Group],
    widths: Widths,
    scores: Scores,
    rules: Rules,
    costs: Costs,
    wanted: float,
) -> Widths:
    """The widths again where counting the cut network shows other multiply-adds than predicted (attention)."""
    aim = wanted
    for _ in range(3):
        counted = count_macs(narrow(module, example, groups, widths, scores, check=False).module, example)
        if abs(counted - costs.macs_at(widths)) < CLOSE * costs.macs / 5:
            break
        aim += wanted - counted
        widths = at_cost(groups, scores, rules, costs.macs_at, aim, "macs")
    return widths


def _less_than(whole: int, wanted: float, unit: str) -> float:
    if wanted >= whole:
        raise PassFault(
            f"prune: constraint {unit}: the model has {whole:,}, not more than the {wanted:,.0f} asked for; ask for less"
        )
    return wanted


def _require_change(groups: Sequence[Group], widths: Widths, rules: Rules) -> None:
    if any(widths[group.name] != group.width for group in groups):
        return
    widest = max(group.width for group in groups)
    if rules.round_to is not None and all(step_of(group, rules) >= group.width for group in groups):
        raise PassFault(
            f"prune: round_to {rules.round_to}: no group is wider than that (the widest has {widest} channels); lower round_to"
        )
    raise PassFault(
        f"prune: no channel would be removed (the widest group has {widest}); raise pruning_ratio or max_pruning_ratio, "
        "or lower round_to"
    )


def _unchanged(groups: Sequence[Group], widths: Widths, rules: Rules) -> list[str]:
    notes = []
    for group in groups:
        if widths[group.name] == group.width:
            step = step_of(group, rules)
            if rules.ratios.get(group.name) == 0:
                why = "pruning_ratio_dict gives it 0"
            elif step >= group.width:
                why = f"fewer would be no multiple of {step}"
            else:
                why = "none of its channels matters little enough, or rounding keeps them"
            notes.append(f"{group.name}: all {group.width} channels stay: {why}")
    return notes


def _goal_note(unit: str, wanted: float, reached: int, whole: int, rules: Rules) -> str:
    note = f"constraint {unit}: asked for {wanted:,.0f} ({wanted / whole:.1%}), reached {reached:,} ({reached / whole:.1%})"
    if abs(reached - wanted) > POINT * whole:
        note += "; the nearest that can be reached" + (f" with round_to {rules.round_to}" if rules.round_to else "")
    return note
