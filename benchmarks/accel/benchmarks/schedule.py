"""Which row runs when: rows take turns in an order shuffled anew for each round, and every child is restarted several times.

Two processes of one model differ by about 0.6 % (where its memory landed, which pages it got), so rounds within one process
cannot say how two models compare: restarts can, and at least five of them are needed for an interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random

MIN_RESTARTS = 5
MIN_ROUNDS = 5
MAX_ROUNDS = 12
TARGET_TURN_S = 0.1
"""A turn long enough to be in steady state, short enough that a disturbance of a second meets every row."""

MIN_TURN_QUERIES = 3


@dataclass(frozen=True)
class Turn:
    """``restart`` and ``round`` count from 0."""

    restart: int
    round: int
    row: str


@dataclass(frozen=True)
class Schedule:
    """Every row has one turn in each round of each restart: at least ``turn_s`` seconds and at least ``turn_queries`` calls."""

    rows: tuple[str, ...]
    restarts: int
    rounds: int
    turn_s: float
    turn_queries: int
    seed: int

    def __post_init__(self) -> None:
        if len(set(self.rows)) != len(self.rows):
            raise ValueError(f"rows of a schedule need names of their own: {', '.join(self.rows)}")
        if self.restarts < MIN_RESTARTS or self.rounds < MIN_ROUNDS:
            raise ValueError(f"a schedule needs at least {MIN_RESTARTS} restarts of at least {MIN_ROUNDS} rounds")
        if self.turn_s < 0 or self.turn_queries < 1:
            raise ValueError("a turn needs a duration of 0 s or more and at least one query")

    def order(self, restart: int, round_: int) -> tuple[str, ...]:
        """The rows in the order of their turns in this round: the same for the same seed on every machine."""
        rows = list(self.rows)
        Random(f"{self.seed}/{restart}/{round_}").shuffle(rows)
        return tuple(rows)

    def turns(self, restart: int) -> Iterator[Turn]:
        """All turns between two restarts, in order."""
        for round_ in range(self.rounds):
            for row in self.order(restart, round_):
                yield Turn(restart, round_, row)


def schedule(
    rows: Sequence[str],
    *,
    min_duration_s: float,
    min_iterations: int,
    seed: int,
    restarts: int = MIN_RESTARTS,
    rounds: int | None = None,
) -> Schedule:
    """A schedule that gives each row ``min_duration_s`` seconds and ``min_iterations`` queries in all.

    ``rounds`` per restart is by default what makes a turn about 0.1 s, between 5 and 12; ``restarts`` below 5 are raised to 5.
    """
    restarts = max(restarts, MIN_RESTARTS)
    if rounds is None:
        rounds = round(min_duration_s / restarts / TARGET_TURN_S)
        rounds = min(rounds, MAX_ROUNDS)
    rounds = max(rounds, MIN_ROUNDS)
    turns = restarts * rounds
    return Schedule(
        rows=tuple(rows),
        restarts=restarts,
        rounds=rounds,
        turn_s=max(0.0, min_duration_s) / turns,
        turn_queries=max(MIN_TURN_QUERIES, ceil(min_iterations / turns)),
        seed=seed,
    )


def twin_name(row: str) -> str:
    """The second name under which ``row`` is timed once more, in a process of its own: the A/A pair."""
    return f"{row} (A/A twin)"
