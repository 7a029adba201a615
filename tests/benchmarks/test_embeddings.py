from __future__ import annotations

import numpy as np
import pytest

from accel.benchmarks import figures
from accel.benchmarks.embeddings import nearest_agreement, similar
from accel.benchmarks.fidelity import compare
from accel.benchmarks.quantities import quantity
from accel.report import Row


def vectors(count: int = 60) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)


def test_the_mean_has_an_interval_that_holds_it() -> None:
    found = similar(vectors() + np.float32(0.2) * vectors()[::-1], vectors())
    assert found is not None and found.cosine.low is not None and found.cosine.high is not None
    assert 0.9 < found.cosine.low < found.cosine.value < found.cosine.high <= 1.0


def test_the_same_vectors_longer_or_shorter_are_the_same() -> None:
    found = similar(vectors() * np.float32(3), vectors())
    assert found is not None and found.cosine.value == pytest.approx(1.0) and found.nearest_agreement == 1.0
    assert found.cosine.high is not None and found.cosine.high <= 1.0


def test_agreement_is_about_who_is_nearest() -> None:
    theirs = np.array([[1.0, 0.0], [0.95, 0.05], [0.0, 1.0], [0.05, 0.95]])
    ours = theirs.copy()
    ours[3] = [1.0, -0.01]  # now nearest to sample 0, and sample 0 to it; sample 2 has lost it
    assert nearest_agreement(ours, theirs) == pytest.approx(0.25)  # sample 1 still has sample 0
    broken = theirs.copy()
    broken[1] = np.nan
    assert nearest_agreement(broken, theirs) < 1.0


@pytest.mark.parametrize(("count", "cosine"), [(0, False), (1, True), (2, True)])
def test_few_samples(count: int, cosine: bool) -> None:
    found = similar(vectors(count), vectors(count))
    assert (found is not None) is cosine
    assert found is None or found.nearest_agreement is None


def test_fidelity_has_them_in_place_of_top1() -> None:
    close = compare([vectors() * np.float32(2)], [vectors()], vs="eager", embeddings=True)
    assert close.top1_agreement is None and close.cosine is not None and close.nearest_agreement == 1.0
    assert close.cosine.value == pytest.approx(1.0)
    plain = compare([vectors()], [vectors()], vs="eager")
    assert plain.cosine is None and plain.nearest_agreement is None and plain.top1_agreement == 1.0
    assert figures.cosine(close).startswith("cosine 1.0000 (CI ") and figures.cosine(plain) == ""


def test_gates_know_them() -> None:
    close = compare([vectors() + np.float32(0.1)], [vectors()], vs="eager", embeddings=True)
    row = Row(name="ort", role="result", backend="onnxruntime", fidelity=close)
    for name in ("cosine", "nearest_agreement"):
        found = quantity(name, {})
        assert found is not None and found.kind == "fidelity" and found.higher_is_better
        figure = found.read(row, 60)
        assert figure.estimate is not None and figure.estimate.low is not None
    assert close.cosine is not None
    cosine = quantity("cosine", {})
    assert cosine is not None and cosine.read(row, 60).estimate == close.cosine
