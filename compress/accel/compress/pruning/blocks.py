"""Core of ``prune`` with ``method: depth``: whole residual blocks go, the cheapest on the selection data first."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from accel.compress.edits import add_edit_, remove_block_
from accel.compress.layer_names import matching
from accel.compress.pruning.block_costs import Judge, Worth, objections, without
from accel.compress.pruning.channel_check import copied
from accel.compress.pruning.channel_costs import count_macs, count_params
from accel.compress.pruning.latency_table import Variant, measure, summary
from accel.compress.pruning.residual_blocks import find_blocks
from accel.compress.quiet_library import quiet
from accel.compress.same_outputs import example_inputs
from accel.contracts import Job
from accel.errors import AccelError, PassFault
from accel.model import RemoveBlock, TorchModel

if TYPE_CHECKING:
    from accel.compress.prune import Prune
    from accel.compress.prune_settings import Constraint

DEFAULT_RATIO = 0.5

Choice = tuple[list[str], list[str]]
"""Blocks that go, and notes."""

SLACK = 0.01
"""What a measured latency may lie above the goal: two measurements of one model differ by half of it."""


def remove_blocks(model: TorchModel, job: Job, settings: Prune) -> TorchModel:
    """See ``Prune``: blocks go until ``pruning_ratio`` of those that may, or the constraint, is met.

    Raises PassFault where no block may go, none has to, or all together are too few; DataFault without data to choose by.
    """
    constraint = settings.constraint
    ignored = matching(model.module, settings.ignored_layers, "prune: ignored_layers")
    blocks, notes = removable(model, job, frozenset().union(*ignored.values()))
    judge = Judge(model, copied(model.module, "prune"), job)
    if constraint is not None and constraint.latency_ms is not None:
        gone, told = _fast_enough(model, job, constraint, blocks, judge)
    else:
        gone, told = _few_enough(model, job, settings, blocks, judge)
    result = remove(model, [path for path in blocks if path in gone])
    alone = [
        f"{path} {'removed' if path in gone else 'kept'}: without it alone {judge.said(judge.worth([path]))}" for path in blocks
    ]
    return result.noting(
        f"{len(gone)} of {len(blocks)} residual blocks removed: {judge.said(judge.worth(()))} before, "
        f"{judge.said(judge.worth(gone))} after",
        *alone,
        *told,
        *notes,
    )


def _few_enough(model: TorchModel, job: Job, settings: Prune, blocks: Sequence[str], judge: Judge) -> Choice:
    """What goes for a ratio of the blocks, or for a constraint on ``macs`` or ``params``; and a note."""
    constraint = settings.constraint
    if constraint is not None:
        return _small_enough(model, job, constraint, blocks, judge)
    ratio = DEFAULT_RATIO if settings.pruning_ratio is None else settings.pruning_ratio
    needed = int(ratio * len(blocks) + 0.5)
    if needed < 1:
        raise PassFault(
            f"prune: {ratio:g} of {len(blocks)} blocks is less than one; "
            f"the smallest pruning_ratio that removes one is {0.5 / len(blocks):.3f}"
        )
    return list(islice(removals(blocks, judge.worth, dict.fromkeys(blocks, 1.0)), needed)), []


def _small_enough(model: TorchModel, job: Job, constraint: Constraint, blocks: Sequence[str], judge: Judge) -> Choice:
    module = copied(model.module, "prune")
    inputs = _tensors(model, job, 1)
    name, unit = (constraint.unit, "MACs" if constraint.unit == "macs" else "parameters")
    count: Callable[[nn.Module], int] = count_params if name == "params" else lambda module: count_macs(module, inputs)
    whole = count(module)
    goal = constraint.remaining(whole)
    savings = saved_by(module, blocks, count)
    least = whole - sum(savings.values())
    if goal >= whole:
        raise PassFault(f"prune: the model has {whole:,} {unit} and {goal:,.0f} are allowed: nothing to remove")
    if goal < least:
        raise PassFault(
            f"prune: without all {len(blocks)} removable blocks {least:,.0f} {unit} ({least / whole:.0%}) are left, and "
            f"{goal:,.0f} ({goal / whole:.0%}) are allowed; raise constraint.{name}, or prune channels too (method: structured)"
        )
    gone: list[str] = []
    for path in removals(blocks, judge.worth, savings):
        gone.append(path)
        if sum(savings[path] for path in gone) >= (whole - goal) * (1 - 1e-9):
            break
    _put_back_(gone, savings, whole - goal, judge)
    left = whole - sum(savings[path] for path in gone)
    return gone, [f"{unit}: {whole:,} -> {left:,.0f} ({left / whole:.1%}; asked: {goal / whole:.1%})"]


def _put_back_(gone: list[str], savings: Mapping[str, float], needed: float, judge: Judge) -> None:
    """Blocks that need not go once a larger one has gone come back, while there are any. In place."""
    while True:
        spare = sum(savings[path] for path in gone) - needed * (1 - 1e-9)
        needless = [path for path in gone if savings[path] <= spare]
        if not needless:
            return
        worths = {path: judge.worth([other for other in gone if other != path]) for path in needless}
        gone.remove(min(needless, key=lambda path: _merit(worths[path])))


def _fast_enough(model: TorchModel, job: Job, constraint: Constraint, blocks: Sequence[str], judge: Judge) -> Choice:
    """What goes for a constraint on ``latency_ms``, and notes: a table of the blocks first, then the network is measured.

    The order of removal follows from the table; how many go, from measurements of the network without them.
    """
    table = measure(model, [_without(model, [path]) for path in blocks], job, constraint.precision)
    whole = table.whole_ms
    goal = constraint.remaining(whole)
    saved = {path: whole - latency for path, latency in zip(blocks, table.variants_ms, strict=True)}
    savings = {path: amount if amount > table.noise_ms else 0.0 for path, amount in saved.items()}
    if goal >= whole:
        raise PassFault(f"prune: the model takes {whole:.4g} ms and {goal:.4g} ms are allowed: nothing to remove")
    sequence = removals(blocks, judge.worth, savings)
    order: list[str] = []
    everything = [path for path in blocks if savings[path] > 0]

    def measured(count: int) -> float:
        found = measure(model, [_without(model, order[:count])], job, constraint.precision)
        return found.variants_ms[0] * whole / found.whole_ms

    def predicted(count: int) -> float:
        return whole - sum(savings[path] for path in order[:count])

    def enough(needed: float) -> int:
        """How many must go to save ``needed`` by the table, or all there are; ``order`` gets at least as long."""
        count = 0
        while count < len(everything) and whole - predicted(count) < needed * (1 - 1e-9):
            count += 1
            order.extend(islice(sequence, max(0, count - len(order))))
        return count

    count = enough(whole - goal)
    found = measured(count) if count else whole
    notes = [f"latency table, what each block saves: {summary(savings, whole)}"]
    if count and found < whole:
        again = enough((whole - goal) * (whole - predicted(count)) / (whole - found))
        if again != count:
            count, found = again, measured(again)
    while found > goal * (1 + SLACK) and count < len(everything):
        count += 1
        order.extend(islice(sequence, max(0, count - len(order))))
        found = measured(count)
    if found > goal * (1 + SLACK):
        raise PassFault(
            f"prune: without all {count} blocks that save time the model takes {found:.4g} ms ({found / whole:.0%} of "
            f"{whole:.4g}), and {goal:.4g} ms are allowed; raise constraint.latency_ms, or prune channels too "
            "(method: structured)"
        )
    notes.append(
        f"latency: {whole:.4g} ms -> {found:.4g} ms measured ({found / whole:.1%}), {predicted(count):.4g} ms predicted by the "
        f"table; asked: {goal:.4g} ms"
    )
    idle = [path for path in blocks if savings[path] == 0]
    if idle:
        notes.append(f"{', '.join(idle)} kept: to remove it saves no time on this target")
    return order[:count], notes


def _without(model: TorchModel, paths: Sequence[str]) -> Variant:
    return Variant({"removed": sorted(paths)}, lambda: remove(model, paths))


def removable(model: TorchModel, job: Job, ignored: Collection[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of the residual blocks that may go, in the network's order, and a note on each other one.

    ``ignored``: module paths, those below them too; a block that is one or holds one stays. Raises PassFault if none is left.
    """
    module = copied(model.module, "prune")
    inputs = _tensors(model, job)
    try:
        found = find_blocks(module, inputs)
    except AccelError:
        raise
    except Exception as error:  # whatever the user's forward raises
        raise PassFault(f"prune: the model's forward failed ({type(error).__name__}: {error}); check model.inputs") from error
    refused = dict(found.refused)
    for path in found.blocks:
        spared = min((name for name in ignored if name == path or name.startswith(f"{path}.")), default=None)
        if spared is not None:
            refused[path] = f"{spared} is in ignored_layers"
    rest = [path for path in found.blocks if path not in refused]
    refused |= objections(module, rest, lambda: _run(module, inputs))
    notes = tuple(f"{path} kept: {why}" for path, why in refused.items())
    blocks = tuple(path for path in found.blocks if path not in refused)
    if not blocks:
        why = (
            "; ".join(notes)
            or "no part of it maps a tensor to one of the same shape around a shortcut, as a residual block does"
        )
        raise PassFault(f"prune: method depth found no block that can be removed: {why}; use method: structured")
    return blocks, notes


def remove(model: TorchModel, paths: Sequence[str]) -> TorchModel:
    """A copy of ``model`` in which these blocks pass their input on, with the edits that say so."""
    module = copy.deepcopy(model.module)
    for path in paths:
        remove_block_(module, path)
        add_edit_(module, RemoveBlock(path))
    return replace(model, module=module)


def removals(blocks: Sequence[str], judge: Callable[[Collection[str]], Worth], savings: Mapping[str, float]) -> Iterator[str]:
    """Blocks in the order in which they go; the caller stops when it has enough.

    The next is the one whose removal costs least: of the score; where that is equal, in noise of the outputs; where blocks save
    different amounts, per amount saved. A block that saves nothing stays. After the first time a cost is computed anew only for
    those that look cheapest (Minoux 1978, "Accelerated greedy algorithms"): it seldom falls when other blocks go.
    """
    largest = max(savings.values(), default=1.0)
    left = [path for path in blocks if savings[path] > 0]
    gone: list[str] = []
    here = judge(gone)
    after: dict[str, Worth] = {}
    ranks: dict[str, tuple[float, float]] = {}
    while left:
        fresh: set[str] = set()
        while True:
            for path in left if not ranks else [min(left, key=lambda path: (ranks[path], blocks.index(path)))]:
                after[path] = judge((*gone, path))
                ranks[path] = _rank(here, after[path], savings[path] / largest)
                fresh.add(path)
            best = min(left, key=lambda path: (ranks[path], blocks.index(path)))
            if best in fresh:
                break
        here = after[best]
        gone.append(best)
        left.remove(best)
        yield best


def _rank(before: Worth, after: Worth, share: float) -> tuple[float, float]:
    noise = (after.noise - before.noise) / share
    if after.score is None or before.score is None:
        return (float("inf"), noise)
    cost = before.score - after.score
    return (cost / share if cost > 0 else cost * share), noise


def _merit(worth: Worth) -> tuple[float, float]:
    """Smaller is better."""
    return (float("inf") if worth.score is None else -worth.score), worth.noise


def saved_by(module: nn.Module, blocks: Sequence[str], count: Callable[[nn.Module], int]) -> dict[str, float]:
    """What ``count`` falls by without each block."""
    whole = count(module)
    found = {}
    for path in blocks:
        with without(module, [path]):
            found[path] = float(whole - count(module))
    return found


def _tensors(model: TorchModel, job: Job, batch: int = 2) -> list[Tensor]:
    inputs = example_inputs(model.signature, job, batch)
    device = next((parameter.device for parameter in model.module.parameters()), torch.device("cpu"))
    return [torch.from_numpy(np.array(inputs[spec.name])).to(device) for spec in model.signature.inputs]


def _run(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad(), quiet():
        return [leaf for leaf in pytree.tree_leaves(module(*inputs)) if isinstance(leaf, Tensor)]
