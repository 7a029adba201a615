"""Which row runs when: rows take turns in an order shuffled anew for each round, and every child is restarted several times.

Two processes of one model differ by about 0.6 % (where its memory landed, which pages it got), so rounds within one process
cannot say how two models compare: restarts can, and at least five of them are needed for an interval. They are added until
the intervals are narrow enough; benchmarks/README.md has the simulations that every number here comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random

MIN_RESTARTS = 5
LOOKS = (5, 6, 8, 10, 13, 16, 20, 25)
"""After how many restarts the intervals are looked at, to stop or go on: eight at most, as statistics.CONFIDENCE allows for."""

MIN_ROUNDS = 5
MAX_ROUNDS = 12
TARGET_TURN_S = 0.015
"""Turns of one round lie so close together that what slows the machine for a tenth of a second meets every row."""

DISCARDED = 3
"""Calls at the start of a turn that are not timed: they pay for the caches that the other rows left behind."""

MIN_TURN_QUERIES = 3
SPREAD_OVER = 8
"""Where starting is cheap, the wanted duration is reached after so many restarts: more of them say more than longer ones."""


@dataclass(frozen=True)
class Turn:
    """``restart`` and ``round`` count from 0."""

    restart: int
    round: int
    row: str


@dataclass(frozen=True)
class Schedule:
    """Every row has one turn in each round of each restart: at least ``turn_s`` seconds and at least ``turn_queries`` calls.

    ``restarts``: the least of them in a plan; those that were made in a report.
    """

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
        """All turns between two restarts, in order. A restart may lie beyond ``restarts``."""
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
    start_s: float = 0.0,
    query_s: float = 0.0,
) -> Schedule:
    """Turns that give each row ``min_duration_s`` seconds and ``min_iterations`` queries in ``restarts`` of the result.

    ``start_s``: what starting the children once more takes; ``query_s``: the longest query of any row; 0 where not known. The
    duration is spread over eight restarts, or over fewer, but no fewer than ``restarts`` and five, where starting is dear: a
    restart is timed for about as long as it takes to start. (The best split of a fixed time between the two is a square
    root, and never far from that.) ``rounds`` per restart are by default as many turns of 0.015 s, or of six queries where
    those take longer, as fit: 5 to 12.
    """
    least = max(restarts, MIN_RESTARTS)
    duration_s = max(0.0, min_duration_s)
    each_s = max(duration_s / max(SPREAD_OVER, least), min(duration_s / least, start_s / max(1, len(rows))))
    if each_s > 0:
        least = max(least, ceil(duration_s / each_s - 1e-9))
    if rounds is None:
        rounds = min(int(each_s / max(TARGET_TURN_S, (DISCARDED + MIN_TURN_QUERIES) * query_s)), MAX_ROUNDS)
    rounds = max(rounds, MIN_ROUNDS)
    return Schedule(
        rows=tuple(rows),
        restarts=least,
        rounds=rounds,
        turn_s=each_s / rounds,
        turn_queries=max(MIN_TURN_QUERIES, ceil(min_iterations / (least * rounds))),
        seed=seed,
    )


def looks(least: int) -> Iterator[int]:
    """After how many restarts to look, from ``least`` on; never more than eight times."""
    first = max(least, MIN_RESTARTS)
    yield first
    yield from (count for count in LOOKS if count > first)


def twin_name(row: str) -> str:
    """The second name under which ``row`` is timed once more, in a process of its own: the A/A pair."""
    return f"{row} (A/A twin)"
