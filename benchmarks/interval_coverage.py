"""How often the interval of a ratio holds the truth, in simulated comparisons: the table in benchmarks/README.md.

python benchmarks/interval_coverage.py [SIMULATIONS]
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from accel.benchmarks.statistics import ratio

Floats = NDArray[np.float64]
PROCESS_SD = 0.006  # two processes of one model, measured (DESIGN.md, "Timing")
KINDS = ("quiet", "heavy tails", "spikes")
SHAPES = ((5, 6), (5, 12), (10, 6))
TRUTH = 2.0


def simulated(generator: np.random.Generator, kind: str, restarts: int, rounds: int) -> Floats:
    """Turn medians in nanoseconds of one row: what its process is like, times what each round is like."""
    process = generator.normal(0, PROCESS_SD, (restarts, 1))
    if kind == "spikes":  # one turn in seven loses 20 % on average to a neighbour
        struck = generator.random((restarts, rounds)) < 0.15
        turn = generator.normal(0, 0.004, (restarts, rounds)) + struck * generator.exponential(0.2, (restarts, rounds))
    elif kind == "heavy tails":  # variance barely finite
        turn = 0.01 * generator.standard_t(2.1, (restarts, rounds))
    else:
        turn = generator.normal(0, 0.002, (restarts, rounds))
    return np.asarray(1e6 * np.exp(process + turn))


def drift(generator: np.random.Generator, restarts: int, rounds: int) -> Floats:
    """What the machine does to all rows of a round alike: 1 % between restarts (measured), drift, and now and then a storm."""
    level = generator.normal(0, 0.01, (restarts, 1))
    walk = np.cumsum(generator.normal(0, 0.005, (restarts, rounds)), axis=1)
    storm = (generator.random((restarts, rounds)) < 0.1) * generator.exponential(0.3, (restarts, rounds))
    return np.asarray(np.exp(level + walk + storm))


def comparison(generator: np.random.Generator, kind: str, restarts: int, rounds: int) -> tuple[Floats, Floats]:
    """Two rows of one run; the first takes ``TRUTH`` times as long."""
    common = drift(generator, restarts, rounds)
    slow = TRUTH * common * simulated(generator, kind, restarts, rounds)
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


def covered(kind: str, restarts: int, rounds: int, simulations: int) -> tuple[float, float, float, float]:
    """Shares of intervals that hold the truth (rounds only; restarts and rounds; ours), and our median width in percent."""
    generator = np.random.default_rng(2026)
    held = np.zeros(3)
    widths = []
    for _ in range(simulations):
        slow, fast = comparison(generator, kind, restarts, rounds)
        for index, too in enumerate((False, True)):
            low, high = percentile_interval(slow, fast, generator, restarts_too=too)
            held[index] += low <= TRUTH <= high
        ours = ratio(slow, fast)
        assert ours.low is not None
        assert ours.high is not None
        held[2] += ours.low <= TRUTH <= ours.high
        widths.append(100 * (ours.high / ours.low - 1))
    rounds_only, both, studentized = held / simulations
    return float(rounds_only), float(both), float(studentized), float(np.median(widths))


def main() -> None:
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    lines = [
        "| restarts x rounds | noise of a turn | rounds only | restarts and rounds | **as we do it** | its width |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for restarts, rounds in SHAPES:
        for kind in KINDS:
            only, both, ours, width = covered(kind, restarts, rounds, simulations)
            lines.append(f"| {restarts} x {rounds} | {kind} | {only:.2f} | {both:.2f} | **{ours:.3f}** | {width:.1f} % |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
