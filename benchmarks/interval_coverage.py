"""How often the interval of a ratio holds the truth, in simulated comparisons: the tables in benchmarks/README.md.

python benchmarks/interval_coverage.py [SIMULATIONS]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accel.benchmarks import stability
from accel.benchmarks.schedule import LOOKS, MAX_ROUNDS, looks
from accel.benchmarks.statistics import ratio
from accel.report import Estimate

Floats = NDArray[np.float64]
PROCESS_SD = 0.006  # two processes of one model, measured (DESIGN.md, "Timing")
KINDS = ("quiet", "heavy tails", "spikes", "shared core")
SHAPES = ((5, 6), (5, 12), (10, 12))
TRUTH = 2.0

MARGIN = 1.03
MAX_INTERVAL = 0.03
RESTART_S = 1.0 + 3 * 0.25
"""Three children, two starting at a time, 0.5 s each; then three rows of 0.25 s: measured for two files of one small model."""

ROOM_S = 12.5
"""What 15 s leave, after the command has started and each file has been looked at once."""


def simulated(generator: np.random.Generator, kind: str, restarts: int, rounds: int) -> Floats:
    """Turn medians in nanoseconds of one row: what its process is like, times what each round is like."""
    process = generator.normal(0, PROCESS_SD, (restarts, 1))
    if kind == "spikes":  # one turn in seven loses 20 % on average to a neighbour
        struck = generator.random((restarts, rounds)) < 0.15
        turn = generator.normal(0, 0.004, (restarts, rounds)) + struck * generator.exponential(0.2, (restarts, rounds))
    elif kind == "heavy tails":  # variance barely finite
        turn = 0.01 * generator.standard_t(2.1, (restarts, rounds))
    elif kind == "shared core":  # turns of 0.02 s on a core that seven other jobs wanted: as broad as was measured
        struck = generator.random((restarts, rounds)) < 0.3
        turn = generator.normal(0, 0.01, (restarts, rounds)) + struck * generator.exponential(0.05, (restarts, rounds))
    else:
        turn = generator.normal(0, 0.002, (restarts, rounds))
    return np.asarray(1e6 * np.exp(process + turn))


def drift(generator: np.random.Generator, restarts: int, rounds: int) -> Floats:
    """What the machine does to all rows of a round alike: 1 % between restarts (measured), drift, and now and then a storm."""
    level = generator.normal(0, 0.01, (restarts, 1))
    walk = np.cumsum(generator.normal(0, 0.005, (restarts, rounds)), axis=1)
    storm = (generator.random((restarts, rounds)) < 0.1) * generator.exponential(0.3, (restarts, rounds))
    return np.asarray(np.exp(level + walk + storm))


def comparison(
    generator: np.random.Generator, kind: str, restarts: int, rounds: int, truth: float = TRUTH
) -> tuple[Floats, Floats]:
    """Two rows of one run; the first takes ``truth`` times as long."""
    common = drift(generator, restarts, rounds)
    slow = truth * common * simulated(generator, kind, restarts, rounds)
    return slow, common * simulated(generator, kind, restarts, rounds)


def percentile_interval(
    slow: Floats, fast: Floats, generator: np.random.Generator, *, restarts_too: bool, resamples: int = 1000
) -> tuple[float, float]:
    """The plain bootstrap, for comparison: of rounds alone, or of restarts and then rounds."""
    logs = np.log(slow) - np.log(fast)
    restarts, rounds = logs.shape
    which = generator.integers(restarts, size=(resamples, restarts, 1)) if restarts_too else np.arange(restarts)[None, :, None]
    when = generator.integers(rounds, size=(resamples, restarts, rounds))
    low, high = np.quantile(np.median(logs[which, when], axis=2).mean(axis=1), [0.025, 0.975])
    return float(np.exp(low)), float(np.exp(high))


def ends(found: Estimate) -> tuple[float, float]:
    """Of an interval that is there."""
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def covered(kind: str, restarts: int, rounds: int, simulations: int) -> tuple[list[float], float]:
    """Shares of intervals that hold the truth (rounds only; restarts and rounds; Student 95 %; ours), and our median width."""
    generator = np.random.default_rng(2026)
    held = np.zeros(4)
    widths = []
    for _ in range(simulations):
        slow, fast = comparison(generator, kind, restarts, rounds)
        for index, too in enumerate((False, True)):
            low, high = percentile_interval(slow, fast, generator, restarts_too=too)
            held[index] += low <= TRUTH <= high
        for index, found in enumerate((ratio(slow, fast, confidence=0.95), ratio(slow, fast)), start=2):
            low, high = ends(found)
            held[index] += low <= TRUTH <= high
        widths.append(high / low - 1)
    return [float(share) for share in held / simulations], float(np.median(widths))


Stop = Callable[[Estimate], bool]


def narrow(found: Estimate) -> bool:
    """As a run without gates stops."""
    wide = stability.width(found)
    return wide is not None and wide <= MAX_INTERVAL


def clear(found: Estimate) -> bool:
    """As a run with a gate at ``MARGIN`` stops."""
    low, high = ends(found)
    return (high < MARGIN or low > MARGIN) and high / low - 1 <= stability.WIDEST_RATIO


@dataclass(frozen=True)
class Sequential:
    """Shares of comparisons that were stopped by rule, and the restarts they took: on average, and 19 in 20 at most."""

    held: float
    above: float
    below: float
    restarts: float
    most: float


def sequential(kind: str, truth: float, stop: Stop, simulations: int, *, most: int, rounds: int = MAX_ROUNDS) -> Sequential:
    """Comparisons as timing.compare makes them: looked at after few numbers of restarts, ended by ``stop`` or at ``most``.

    ``above``, ``below``: the whole interval lies above or below ``MARGIN``.
    """
    generator = np.random.default_rng(7)
    planned = [count for count in looks(0) if count < most] + [most]
    held = above = below = 0
    taken = []
    for _ in range(simulations):
        slow, fast = comparison(generator, kind, most, rounds, truth)
        for count in planned:
            found = ratio(slow[:count], fast[:count])
            if stop(found):
                break
        low, high = ends(found)
        held += low <= truth <= high
        above += low > MARGIN
        below += high < MARGIN
        taken.append(count)
    return Sequential(
        held / simulations, above / simulations, below / simulations, float(np.mean(taken)), float(np.quantile(taken, 0.95))
    )


def tables(simulations: int) -> str:
    """Both, as Markdown."""
    lines = [
        "| restarts x rounds | noise | rounds only | restarts and rounds | Student 95 % | **as we do it** | its width |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for restarts, rounds in SHAPES:
        for kind in KINDS:
            (only, both, plain, ours), width = covered(kind, restarts, rounds, simulations)
            row = f"{only:.2f} | {both:.2f} | {plain:.3f} | **{ours:.3f}** | {100 * width:.1f} %"
            lines.append(f"| {restarts} x {rounds} | {kind} | {row} |")
    fits = int(ROOM_S / RESTART_S)
    lines += [
        "",
        f"| stops when | truth | at most | noise | holds the truth | above {MARGIN} | below | restarts | seconds |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for rule, stop, truth, most in (
        ("3 % wide", narrow, 1.0, LOOKS[-1]),
        ("gate clear", clear, 1.0, fits),
        ("gate clear", clear, 1.05, fits),
        ("gate clear", clear, MARGIN, LOOKS[-1]),
    ):
        for kind in KINDS:
            got = sequential(kind, truth, stop, simulations, most=most)
            seconds = f"{got.restarts * RESTART_S:.0f}, {got.most * RESTART_S:.0f}"
            row = f"**{got.held:.3f}** | {got.above:.3f} | {got.below:.3f} | {got.restarts:.1f}, {got.most:.0f} | {seconds}"
            lines.append(f"| {rule} | {truth:g} | {most} | {kind} | {row} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(tables(int(sys.argv[1]) if len(sys.argv) > 1 else 1000) + "\n")
