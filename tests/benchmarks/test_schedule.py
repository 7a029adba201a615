from __future__ import annotations

import pytest

from accel.benchmarks.schedule import LOOKS, MIN_RESTARTS, MIN_ROUNDS, TARGET_TURN_S, Schedule, looks, schedule, twin_name

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


@pytest.mark.parametrize("start_s", [0.0, 1.0, 100.0])
@pytest.mark.parametrize(("seconds", "iterations"), [(0, 1), (0.5, 10), (3, 100), (10, 1000), (60, 10_000), (0, 5000)])
def test_gives_each_row_its_time_and_its_count(seconds: float, iterations: int, start_s: float) -> None:
    plan = schedule(ROWS, min_duration_s=seconds, min_iterations=iterations, seed=0, start_s=start_s)
    assert MIN_RESTARTS <= plan.restarts <= 8
    assert plan.rounds >= MIN_ROUNDS
    assert plan.turn_s * plan.restarts * plan.rounds >= seconds * 0.999
    assert plan.turn_s * (plan.restarts - 1) * plan.rounds <= seconds, "one restart fewer would have done"
    assert plan.turn_queries * plan.restarts * plan.rounds >= iterations


def test_too_few_restarts_or_rounds_are_raised_to_the_least() -> None:
    plan = schedule(ROWS, min_duration_s=1, min_iterations=1, seed=0, restarts=1, rounds=1, start_s=100)
    assert (plan.restarts, plan.rounds) == (MIN_RESTARTS, MIN_ROUNDS)


def test_more_restarts_than_would_do_are_made_when_asked_for() -> None:
    for start_s in (0.0, 100.0):
        plan = schedule(ROWS, min_duration_s=3, min_iterations=1, seed=0, restarts=12, start_s=start_s)
        assert plan.restarts == 12


def test_a_restart_is_timed_about_as_long_as_it_takes_to_start() -> None:
    def seconds_of_each_row(start_s: float) -> float:
        plan = schedule(ROWS, min_duration_s=4, min_iterations=1, seed=0, start_s=start_s)
        return plan.turn_s * plan.rounds

    assert seconds_of_each_row(0.1) == pytest.approx(4 / 8)
    assert seconds_of_each_row(2.4) == pytest.approx(2.4 / 4)
    assert seconds_of_each_row(1000) == pytest.approx(4 / 5)


def test_turns_are_short_and_long_enough_for_six_queries() -> None:
    fast = schedule(ROWS, min_duration_s=1.2, min_iterations=1, seed=0, query_s=1e-4)
    assert fast.rounds == 10
    assert fast.turn_s == pytest.approx(TARGET_TURN_S)
    slower = schedule(ROWS, min_duration_s=1.2, min_iterations=1, seed=0, query_s=4e-3)
    assert slower.rounds == 6
    assert slower.turn_s == pytest.approx(0.15 / 6)
    assert schedule(ROWS, min_duration_s=1.6, min_iterations=1, seed=0, query_s=1.0).rounds == MIN_ROUNDS


@pytest.mark.parametrize("least", [0, 5, 6, 7, 24, 25, 26, 60])
def test_looks_begin_at_the_least_and_are_few(least: int) -> None:
    planned = list(looks(least))
    assert planned[0] == max(least, MIN_RESTARTS)
    assert planned == sorted(set(planned))
    assert len(planned) <= len(LOOKS) == 8
    assert set(planned[1:]) <= set(LOOKS)


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
