"""The builder's phases as one bar. The phases are those that TensorRT-RTX 1.7.1 goes through."""

from __future__ import annotations

import time

import pytest

from accel.accelerate.engines.progress import Phases


class Bar:
    def __init__(self) -> None:
        self.shown: list[tuple[int, int, str]] = []

    def __call__(self, done: int, total: int, what: str) -> None:
        self.shown.append((done, total, what))


def build(phases: Phases) -> bool:
    """Whether the build came to its end."""
    phases.start("Building engine", None, 4)
    for name, steps in (("Cloning network graph", 5), ("Optimizing graph", 10)):
        phases.start(name, "Building engine", steps)
        for _ in range(steps):
            if not phases.step(name):
                return False
        phases.finish(name)
        if not phases.step("Building engine"):
            return False
    for name in ("Timing tactics", "Timing tactics again"):  # two in one step of their parent
        phases.start(name, "Building engine", 2)
        phases.start("Computing reformatting costs", name, 1)
        if not (phases.step("Computing reformatting costs") and phases.step(name)):
            return False
        phases.finish("Computing reformatting costs")
        phases.finish(name)
    for _ in range(2):
        phases.step("Building engine")
    phases.finish("Building engine")
    return True


def test_one_bar_that_never_goes_back() -> None:
    bar = Bar()
    phases = Phases(bar)
    assert build(phases)
    assert bar.shown[-1][0] < 100  # the library leaves the last steps out; whether there is an engine is known later
    phases.complete()
    done = [each[0] for each in bar.shown]
    assert done == sorted(set(done))
    assert (done[0], done[-1]) == (0, 100)
    assert len(done) > 15
    assert {each[1] for each in bar.shown} == {100}
    assert "building the engine: cloning network graph" in {each[2] for each in bar.shown}


def test_the_end_of_the_time() -> None:
    phases = Phases(Bar(), deadline=time.monotonic() - 1)
    assert not build(phases)
    assert phases.late
    in_time = Phases(Bar(), deadline=time.monotonic() + 60)
    assert build(in_time)
    assert not in_time.late


@pytest.mark.parametrize("error", [RuntimeError("broken pipe"), KeyboardInterrupt()])
def test_what_the_bar_raises_ends_the_build_and_is_kept(error: BaseException) -> None:
    def progress(done: int, total: int, what: str) -> None:
        raise error

    phases = Phases(progress)
    assert not build(phases)
    assert phases.failure is error
    assert not phases.late


def test_phases_nobody_announced() -> None:
    phases = Phases(Bar())
    assert phases.step("unknown")
    phases.finish("unknown")
    phases.start("orphan", "unknown", 0)
    assert phases.step("orphan")
