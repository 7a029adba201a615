from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from accel.benchmarks.mcnemar import mcnemar, p_value
from accel.report import McNemar


def exact(gained: int, lost: int) -> float:
    """The definition, in whole numbers."""
    total = gained + lost
    tail = Fraction(sum(comb(total, count) for count in range(min(gained, lost) + 1)), 2**total)
    return float(min(Fraction(1), 2 * tail))


def test_every_small_case_is_the_definition() -> None:
    for gained in range(25):
        for lost in range(25):
            assert p_value(gained, lost) == pytest.approx(exact(gained, lost), rel=1e-12)


def test_published_value() -> None:
    """Agresti's approval of a prime minister in two surveys: 86 changed one way, 150 the other; R's exact2x2: 3.716e-05."""
    assert p_value(86, 150) == pytest.approx(3.716e-05, rel=1e-4)
    assert p_value(150, 86) == p_value(86, 150)


def test_many_disagreements() -> None:
    assert p_value(1_000, 1_100) == pytest.approx(exact(1_000, 1_100), rel=1e-9)
    assert p_value(25_000, 25_000) == 1.0
    assert 0.02 < p_value(24_750, 25_250) < 0.03  # z = 2.24
    assert p_value(0, 50_000) == 0.0  # 2 ** -49999 is no double


def test_counts_of_a_pair_of_rows() -> None:
    ours, theirs = np.array([1.0, 1, 0, 0, 0, 1]), np.array([1.0, 0, 1, 1, 0, 1])
    assert mcnemar(ours, theirs) == McNemar(gained=1, lost=2, p_value=1.0)
    assert mcnemar(theirs, ours) == McNemar(gained=2, lost=1, p_value=1.0)


def test_other_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        mcnemar(np.ones(3), np.ones(4))


def test_level_is_held() -> None:
    """Where neither row is better, at most one run in twenty says so."""
    generator = np.random.default_rng(2)
    gained = generator.binomial(30, 0.5, size=2000)
    assert np.mean([p_value(int(count), 30 - int(count)) <= 0.05 for count in gained]) <= 0.05
