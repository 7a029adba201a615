from __future__ import annotations

import pytest

from accel.benchmarks.schedule import MIN_RESTARTS, MIN_ROUNDS, Schedule, schedule, twin_name

ROWS = ("eager", "fp32", "int8", twin_name("int8"))


def test_every_row_has_one_turn_in_each_round() -> None:
    plan = schedule(ROWS, min_duration_s=3, min_iterations=100, seed=1)
    for restart in range(plan.restarts):
        turns = list(plan.turns(restart))
        assert len(turns) == plan.rounds * len(ROWS)
        for round_ in range(plan.rounds):
            assert sorted(turn.row for turn in turns if turn.round == round_) == sorted(ROWS)
        assert {turn.restart for turn in turns} == {restart}


def test_order_is_shuffled_and_the_same_for_the_same_seed() -> None:
    plan = schedule(ROWS, min_duration_s=3, min_iterations=100, seed=1)
    again = schedule(ROWS, min_duration_s=3, min_iterations=100, seed=1)
    other = schedule(ROWS, min_duration_s=3, min_iterations=100, seed=2)

    def orders(one: Schedule) -> list[tuple[str, ...]]:
        return [one.order(restart, round_) for restart in range(one.restarts) for round_ in range(one.rounds)]

    assert orders(plan) == orders(again)
    assert orders(plan) != orders(other)
    firsts = [order[0] for order in orders(plan)]
    assert set(firsts) == set(ROWS)


@pytest.mark.parametrize(("seconds", "iterations"), [(0, 1), (0.5, 10), (3, 100), (10, 1000), (60, 10_000), (0, 5000)])
def test_gives_each_row_its_time_and_its_count(seconds: float, iterations: int) -> None:
    plan = schedule(ROWS, min_duration_s=seconds, min_iterations=iterations, seed=0)
    assert plan.restarts >= MIN_RESTARTS
    assert plan.rounds >= MIN_ROUNDS
    assert plan.turn_s * plan.restarts * plan.rounds == pytest.approx(seconds)
    assert plan.turn_queries * plan.restarts * plan.rounds >= iterations


def test_too_few_restarts_or_rounds_are_raised_to_the_least() -> None:
    plan = schedule(ROWS, min_duration_s=1, min_iterations=1, seed=0, restarts=1, rounds=1)
    assert (plan.restarts, plan.rounds) == (MIN_RESTARTS, MIN_ROUNDS)


def test_rows_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        schedule(["a", "a"], min_duration_s=1, min_iterations=1, seed=0)


@pytest.mark.parametrize(
    "wrong",
    [{"restarts": 4}, {"rounds": 4}, {"turn_s": -1.0}, {"turn_queries": 0}],
    ids=["restarts", "rounds", "time", "queries"],
)
def test_a_schedule_that_cannot_give_an_interval_is_refused(wrong: dict[str, float]) -> None:
    fields = {"rows": ("a",), "restarts": 5, "rounds": 5, "turn_s": 0.1, "turn_queries": 1, "seed": 0}
    with pytest.raises(ValueError, match="needs"):
        Schedule(**(fields | wrong))  # type: ignore[arg-type]
