"""Core of ``prune`` with ``constraint: {latency_ms: ...}``: channels go where that buys time on the target.

Each group of channels is measured at a few widths, everything else whole; a search spends them (``latency_search``);
the network that comes out is measured, the table corrected by what the two differ, and the search repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from accel.compress.pruning.channel_groups import Group, best_positions
from accel.compress.pruning.channel_pruning import example_of, prunable, scored, training_gradients
from accel.compress.pruning.channel_widths import Rules, lowest, step_of
from accel.compress.pruning.channels import narrow
from accel.compress.pruning.latency_search import Choice, choose, most_saved_ms, predicted_saving_ms, savings, widths_between
from accel.compress.pruning.latency_table import Variant, measure, probe_of, summary
from accel.contracts import Job, NumberFormat
from accel.errors import PassFault
from accel.model import TorchModel

if TYPE_CHECKING:
    from accel.compress.prune import Prune

WIDTHS = 8
"""At most so many widths below the whole one are measured for each group."""

SLACK = 0.02
"""What a measured latency may lie beside the goal: nearer, and nothing is corrected; further above, and the user is told."""

CORRECTIONS = 2


@dataclass(frozen=True)
class Plan:
    """What to spend channels for. ``goal_ms``: from the whole network's latency to what may remain of it.

    ``rules``: steps between widths, and how many channels of each group may go. ``precision``: what is timed, the probe's own
    where None. ``widths``: how many are measured for each group at most.
    """

    goal_ms: Callable[[float], float]
    rules: Rules
    precision: NumberFormat | None = None
    widths: int = WIDTHS


@dataclass(frozen=True)
class Trial:
    """A choice of widths, what the table (corrected by what was known) said it would take, and what it took."""

    widths: Mapping[str, int]
    predicted_ms: float
    measured_ms: float
    lost: float


def fit(
    model: TorchModel,
    job: Job,
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    example: Sequence[Tensor],
    plan: Plan,
) -> TorchModel:
    """``model`` with the widths that meet the goal and lose least; predicted and measured latency are notes.

    ``scores``: group name to (width,), the importance of each channel. Raises PassFault where the goal cannot be reached, with
    the best that can, where it is met already, and naming the candidate that cannot be compiled.
    """
    search = _Search(model, job, groups, scores, example, plan)
    choices, whole_ms, noise_ms = search.table()
    goal_ms = plan.goal_ms(whole_ms)
    if goal_ms >= whole_ms:
        raise PassFault(f"prune: the model takes {whole_ms:.4g} ms and {goal_ms:.4g} ms are allowed: nothing to prune")
    if choose(choices, whole_ms - goal_ms) is None:
        how = f"by the table of its groups, where less than {noise_ms:.2g} ms is noise"
        raise _out_of_reach(whole_ms - most_saved_ms(choices), whole_ms, goal_ms, how)
    trials = _trials(search, choices, whole_ms, goal_ms)
    fast = [trial for trial in trials if trial.measured_ms <= goal_ms * (1 + SLACK)]
    best = min(fast, key=lambda trial: trial.lost) if fast else min(trials, key=lambda trial: trial.measured_ms)
    most = most_saved_ms(choices) * (1 - 1e-9)
    if not fast and any(predicted_saving_ms(choices, trial.widths) >= most for trial in trials):
        raise _out_of_reach(best.measured_ms, whole_ms, goal_ms, "measured")
    cut = narrow(model.module, example, groups, best.widths, scores)
    missed = f"warning: the goal is missed by {best.measured_ms / goal_ms - 1:.1%}; run it again on a quieter machine"
    return replace(model, module=cut.module).noting(
        f"latency: {whole_ms:.4g} ms -> {best.measured_ms:.4g} ms measured ({best.measured_ms / whole_ms:.1%}), "
        f"{best.predicted_ms:.4g} ms predicted; asked: {goal_ms:.4g} ms",
        *([] if fast else [missed]),
        *[
            f"search {number}: {trial.predicted_ms:.4g} ms predicted, {trial.measured_ms:.4g} ms measured"
            for number, trial in enumerate(trials, 1)
        ],
        *cut.notes,
        *_told(choices, best.widths, whole_ms, noise_ms),
    )


def _trials(search: _Search, choices: Sequence[Choice], whole_ms: float, goal_ms: float) -> list[Trial]:
    """What the table proposes, measured; and again with the table corrected by the factor between the two, while it is off."""
    needed = whole_ms - goal_ms
    factor = 1.0
    trials: list[Trial] = []
    for _ in range(1 + CORRECTIONS):
        # Where the corrected table says that the goal is out of reach, the narrowest is measured before that is believed.
        widths = choose(choices, min(needed / factor, most_saved_ms(choices)))
        assert widths is not None
        if any(trial.widths == widths for trial in trials):
            break
        by_table = predicted_saving_ms(choices, widths)
        measured = search.measured(widths, whole_ms)
        lost = sum(choice.lost(choice.widths.index(widths[choice.name])) for choice in choices if choice.name in widths)
        trials.append(Trial(widths, whole_ms - by_table * factor, measured, lost))
        if abs(measured - goal_ms) <= SLACK * goal_ms or measured >= whole_ms:
            break
        factor = (whole_ms - measured) / by_table
    return trials


def prune_to_latency(model: TorchModel, job: Job, settings: Prune) -> TorchModel:
    """See ``Prune``: channels go until the model is as fast as ``constraint.latency_ms`` asks, on the job's probe.

    ``pruning_ratio_dict`` says the most that its layers may lose. Errors as for :func:`fit`.
    """
    constraint = settings.constraint
    assert constraint is not None
    probe_of(job)
    example = example_of(model, job)
    found, rules = prunable(model.module, example, settings, seed=job.seed)
    scores = scored(model.module, found.groups, settings, training_gradients(model, job, settings), seed=job.seed)
    plan = Plan(constraint.remaining, rules, constraint.precision)
    return fit(model, job, found.groups, scores, example, plan).noting(*found.notes)


class _Search:
    """One network, its groups and what they may become."""

    def __init__(
        self,
        model: TorchModel,
        job: Job,
        groups: Sequence[Group],
        scores: Mapping[str, Tensor],
        example: Sequence[Tensor],
        plan: Plan,
    ) -> None:
        self._model = model
        self._job = job
        self._groups = groups
        self._scores = scores
        self._example = example
        self._plan = plan

    def table(self) -> tuple[list[Choice], float, float]:
        """What each width of each group saves and keeps; milliseconds of the whole network, and of what is noise.

        PassFault where no group has another width.
        """
        options = {group.name: self._options(group) for group in self._groups}
        variants = [self._variant({name: width}) for name, widths in options.items() for width in widths[:-1]]
        if not variants:
            raise PassFault(
                "prune: no group of channels may get narrower; lower round_to, raise max_pruning_ratio, name fewer "
                "ignored_layers, or use method: depth"
            )
        found = measure(self._model, variants, self._job, self._plan.precision)
        latencies = iter(found.variants_ms)
        choices = []
        for group in self._groups:
            widths = options[group.name]
            times = [next(latencies) for _ in widths[:-1]]
            saved = savings(times, found.whole_ms, found.noise_ms)
            choices.append(Choice(group.name, widths, saved, tuple(self._kept(group, width) for width in widths)))
        return choices, found.whole_ms, found.noise_ms

    def measured(self, widths: Mapping[str, int], whole_ms: float) -> float:
        """Milliseconds of the network with these widths, on the scale on which the whole one takes ``whole_ms``."""
        found = measure(self._model, [self._variant(widths)], self._job, self._plan.precision)
        return found.variants_ms[0] / found.whole_ms * whole_ms

    def _options(self, group: Group) -> tuple[int, ...]:
        rules = self._plan.rules
        if group.name in rules.ratios:  # its own ratio is the most that it may lose, 0 spares it
            rules = replace(rules, max_pruning_ratio=min(rules.max_pruning_ratio, rules.ratios[group.name]))
        return widths_between(lowest(group, rules), group.width, step_of(group, rules), self._plan.widths)

    def _kept(self, group: Group, width: int) -> float:
        """The part of the group's importance in the channels that stay at ``width``."""
        if width == group.width:
            return 1.0
        scores = self._scores[group.name].detach().double().cpu()
        scores = scores - scores.min().clamp(max=0.0)  # some importances may be negative
        stay = sorted(group.channels_at(best_positions(group, width, self._scores[group.name])))
        total = float(scores.sum())
        return float(scores[stay].sum()) / total if total > 0 else width / group.width

    def _variant(self, widths: Mapping[str, int]) -> Variant:
        return Variant(dict(widths), partial(self._narrowed, dict(widths)))

    def _narrowed(self, widths: Mapping[str, int]) -> TorchModel:
        cut = narrow(self._model.module, self._example, self._groups, widths, self._scores, check=False)
        return replace(self._model, module=cut.module)


def _out_of_reach(best_ms: float, whole_ms: float, goal_ms: float, how: str) -> PassFault:
    return PassFault(
        f"prune: with every group at its narrowest the model takes {best_ms:.4g} ms {how} ({best_ms / whole_ms:.0%} of "
        f"{whole_ms:.4g}), and {goal_ms:.4g} ms ({goal_ms / whole_ms:.0%}) are allowed; raise constraint.latency_ms or "
        "max_pruning_ratio, or remove whole blocks (method: depth), which buys more time where layers are many and narrow"
    )


def _told(choices: Sequence[Choice], widths: Mapping[str, int], whole_ms: float, noise_ms: float) -> list[str]:
    """What the table says of each group: what it saves at its narrowest, and which were not worth it."""
    saved = {choice.name: max(choice.saved_ms) for choice in choices}
    table = summary(saved, whole_ms)
    notes = [f"latency table, what each group saves at its narrowest: {table}; less than {noise_ms:.2g} ms is noise"]
    idle = [choice.name for choice in choices if saved[choice.name] == 0]
    if idle:
        notes.append(f"{', '.join(idle)} left whole: narrowing saves no time on this target")
    spared = [choice.name for choice in choices if saved[choice.name] > 0 and choice.name not in widths]
    if spared:
        notes.append(f"{', '.join(spared)} left whole: other groups save more for what they lose")
    return notes
