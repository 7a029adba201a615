"""The builder's nested phases as one bar, and the end of a build that takes too long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock
from typing import Any

from accel.contracts import Progress

_TOTAL = 100


@dataclass
class _Phase:
    start: float
    width: float
    steps: int
    done: int = 0

    @property
    def fraction(self) -> float:
        return self.start + self.width * min(self.done, self.steps) / self.steps


class Phases:
    """What an ``IProgressMonitor`` is told, flattened. What it calls never raises: the library could not carry it.

    A phase inside another takes up the step that its parent is at, so the bar knows neither how long a step takes nor that two
    phases may share one; it never goes back. ``deadline``: of ``time.monotonic``; the first step after it cancels the build.
    ``failure``: what ``progress`` raised, which also cancels.
    """

    def __init__(self, progress: Progress, deadline: float | None = None) -> None:
        self._progress = progress
        self._deadline = deadline
        self._phases: dict[str, _Phase] = {}
        self._shown = -1
        self._lock = Lock()  # the library may call from several threads
        self.late = False
        self.failure: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            above = self._phases.get(parent) if parent is not None else None
            width = above.width / above.steps if above is not None else 1.0
            self._phases[name] = _Phase(above.fraction if above is not None else 0.0, width, max(1, steps))
            self._show(name)

    def step(self, name: str) -> bool:
        """Whether to go on."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done += 1
            self._show(name)
            if self._deadline is not None and time.monotonic() > self._deadline:
                self.late = True
            return not self.late and self.failure is None

    def finish(self, name: str) -> None:
        with self._lock:
            self._phases.pop(name, None)

    def complete(self) -> None:
        """There is an engine: the library leaves its last steps out. Raises what ``progress`` raises."""
        self._progress(_TOTAL, _TOTAL, "building the engine: done")

    def _show(self, name: str) -> None:
        phase = self._phases.get(name)
        done = min(_TOTAL - 1, int(_TOTAL * phase.fraction)) if phase is not None else self._shown
        if done <= self._shown or self.failure is not None:
            return
        self._shown = done
        try:
            self._progress(done, _TOTAL, f"building the engine: {name[:1].lower()}{name[1:]}")
        except BaseException as error:  # noqa: BLE001  # raised again once the library has returned; it cannot pass through C++
            self.failure = error


def monitor(trt: Any, phases: Phases) -> Any:
    """An ``IProgressMonitor`` of the library's own kind. The caller keeps it until the build is over."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 asks for the base class's own call, not super()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name)

    return Monitor()
