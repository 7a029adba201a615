"""The search on made-up networks, whose answers are known: which layers it keeps, how often it asks, and when it stops."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from accel.compress.accuracy.search import Budget, Kept, Trial, best_effort, smallest, within

LAYERS = [f"layer{index}" for index in range(32)]


class Clock:
    """Seconds that pass when a candidate is scored."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Law:
    """The loss is the sum over the layers in INT8; ``asked`` tells what was scored."""

    def __init__(self, losses: Mapping[str, float], clock: Clock | None = None, takes_s: float = 0.0) -> None:
        self.losses = losses
        self.clock = clock
        self.takes_s = takes_s
        self.asked: list[Kept] = []

    def __call__(self, kept: Kept) -> float | None:
        self.asked.append(kept)
        if self.clock is not None:
            self.clock.now += self.takes_s
        return sum(loss for layer, loss in self.losses.items() if layer not in kept)


def budget(timeout: float = 1e9, iterations: int | None = None, clock: Clock | None = None) -> Budget:
    return Budget(timeout, iterations, clock or Clock())


def kept(trials: Sequence[Trial]) -> list[str]:
    return sorted(min((trial for trial in trials if trial.passed), key=lambda trial: len(trial.kept)).kept)


def test_one_harmful_layer_that_is_ranked_first_is_found_at_once() -> None:
    law = Law({"layer7": 0.5})
    ranked = ["layer7", *(layer for layer in LAYERS if layer != "layer7")]
    assert kept(smallest(ranked, law, 0.01, budget())) == ["layer7"]
    assert len(law.asked) == 1


@pytest.mark.parametrize("seed", range(8))
def test_however_they_are_ranked_exactly_the_harmful_layers_are_kept(seed: int) -> None:
    chance = random.Random(seed)
    harmful = sorted(chance.sample(LAYERS, chance.randint(1, 4)))
    ranked = list(LAYERS)
    chance.shuffle(ranked)
    law = Law(dict.fromkeys(harmful, 0.5))
    assert kept(smallest(ranked, law, 0.01, budget())) == harmful
    assert len(law.asked) == len(set(law.asked)) <= 60, "no set is scored twice"


def test_a_well_ranked_network_of_many_small_losses_takes_few_candidates() -> None:
    losses = {layer: 0.01 * (32 - index) for index, layer in enumerate(LAYERS)}
    law = Law(losses)
    found = kept(smallest(LAYERS, law, 1.0, budget()))
    assert sum(losses[layer] for layer in LAYERS if layer not in found) <= 1.0
    assert found == sorted(LAYERS[: len(found)]) and len(law.asked) < 32 + 20
    shorter = frozenset(found) - {LAYERS[len(found) - 1]}
    assert (law(shorter) or 0.0) > 1.0, "one layer less would not pass"


def test_sets_that_are_no_candidates_are_not_scored() -> None:
    law = Law(dict.fromkeys(LAYERS, 1.0))
    trials = smallest(LAYERS, law, 0.5, budget(), lambda kept: len(kept) < 20)
    assert not any(trial.passed for trial in trials) and max(len(each) for each in law.asked) == 19
    assert smallest(LAYERS, law, 0.5, budget(), lambda kept: False) == []


def test_where_nothing_passes_the_best_effort_is_what_lost_least_and_then_what_has_most_in_int8() -> None:
    trials = [
        Trial(frozenset(), 0.4, False),
        Trial(frozenset("ab"), 0.2, False),
        Trial(frozenset("a"), 0.2, False),
        Trial(frozenset("abc"), None, False),
    ]
    best = best_effort(trials)
    assert best is not None and best.kept == frozenset("a")
    assert best_effort(trials[-1:]) is None


def test_a_candidate_that_is_worth_nothing_does_not_pass_and_the_search_goes_on() -> None:
    def loss(kept: Kept) -> float | None:
        return 0.0 if {"layer3", "layer5"} <= kept else None

    assert kept(smallest(LAYERS, loss, 0.0, budget())) == ["layer3", "layer5"]


def test_it_stops_at_the_number_of_candidates_with_what_it_has() -> None:
    law = Law({"layer30": 1.0})
    spent = budget(iterations=7)
    trials = smallest(LAYERS, law, 0.5, spent)
    assert len(trials) == 7 and spent.stopped == "max_iterations"
    assert "layer30" in kept(trials), "it had passed already, with more than it needs"
    assert smallest(LAYERS, law, 0.5, budget(iterations=2)) == [
        Trial(frozenset(LAYERS[:1]), 1.0, False),
        Trial(frozenset(LAYERS[:2]), 1.0, False),
    ]


def test_it_ends_inside_its_time_and_begins_nothing_that_would_not_end_there() -> None:
    clock = Clock()
    law = Law(dict.fromkeys(LAYERS, 1.0), clock, takes_s=3.0)
    spent = budget(timeout=10.0, clock=clock)
    trials = smallest(LAYERS, law, 0.5, spent)
    assert len(trials) == 3 and spent.elapsed_s == 9.0 and spent.stopped == "timeout"


def test_a_search_that_ran_to_its_end_was_not_stopped() -> None:
    spent = budget(iterations=1)
    smallest(LAYERS, Law({"layer0": 1.0}), 0.5, spent)
    assert spent.stopped is None


def test_a_loss_that_equals_the_budget_is_within_it() -> None:
    assert within(0.3 - 0.2, 0.1) and within(-0.5, 0.0) and within(0.0, 0.0)
    assert not within(0.1001, 0.1) and not within(None, 1.0)
