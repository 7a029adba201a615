"""Children that each hold one compiled row: opened, compiled as many at a time as there are cores, asked, and closed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accel.benchmarks import pinning
from accel.benchmarks.environment import cores
from accel.errors import AccelError
from accel.rows import Subject
from accel.timed_inputs import Sample
from accel.worker import Worker

TURN_SLACK_S = 120.0
PROBED = 8
"""Cores whose speed is looked at before each restart, at most."""

Failed = Callable[[str, AccelError], None]
"""Told the name of a row and why it is lost."""


class Sessions:
    """Opens the children of one run. ``document`` is the recipe's, None where files are measured without one.

    ``pinned``: children that are started to be timed on the CPU are kept on as many cores as they have threads, all on the same
    ones: they take turns. Which, is seen anew at each start: those that nobody else works on, and of them the fastest. Children
    that compile, score and profile are not pinned.
    """

    def __init__(
        self,
        *,
        document: Mapping[str, Any] | None,
        path: Path,
        allowed: Sequence[str],
        folder: Path,
        sample: Sample,
        compile_timeout_s: float,
        pinned: bool = False,
    ) -> None:
        self._document = document
        self._path = path
        self._allowed = list(allowed)
        self._folder = folder
        self.sample = sample
        self.compile_timeout_s = compile_timeout_s
        self._pinned = pinned
        self._opened = 0
        self._working: Mapping[int, float] = {}
        self._slow: Mapping[int, float] = {}

    def cores_for(self, threads: int) -> list[int]:
        """The cores that CPU children with so many threads were kept on at the last start; empty: on none."""
        return pinning.chosen(threads, working=self._working, slow=self._slow) if self._pinned else []

    def open(
        self, subject: Subject, label: str, sample: Sample | None = None, *, streams: int = 1, pinned: Sequence[int] = ()
    ) -> Worker:
        """A started child; its first answer is still to be read with ``result``. ``sample``: by default the run's own."""
        self._opened += 1
        folder = self._folder / f"session-{self._opened}"
        folder.mkdir()
        return Worker(
            label,
            "accel.serving:open_session",
            {
                "document": self._document,
                "path": str(self._path),
                "allowed": self._allowed,
                "target": asdict(subject.target),
                "model": dict(subject.model),
                "folder": str(folder),
                "sample": asdict(sample or self.sample),
                "streams": streams,
                "pinned": list(pinned),
            },
            log=folder / "log.txt",
        )

    def start(
        self, subjects: Mapping[str, Subject], failed: Failed, sample: Sample | None = None, *, streams: int = 1
    ) -> dict[str, Worker]:
        """Compile all, as many at a time as there are cores; those that fail are reported and left out.

        ``streams``: how many inferences each is to run at a time.
        """
        workers: dict[str, Worker] = {}
        names = list(subjects)
        width = cores()
        if self._pinned and any(subject.target.threads * streams < width for subject in subjects.values()):
            self._working = pinning.busy()
            self._slow = pinning.slowness(pinning.chosen(PROBED, working=self._working))
        try:
            for first in range(0, len(names), width):
                group = {name: subjects[name] for name in names[first : first + width]}
                self._start_group(group, workers, failed, sample, streams)
        except BaseException:  # an interrupt, in a process that goes on: no child is left behind
            close(workers)
            raise
        return workers

    def _start_group(
        self,
        group: Mapping[str, Subject],
        workers: dict[str, Worker],
        failed: Failed,
        sample: Sample | None,
        streams: int,
    ) -> None:
        for stage in ("open", "compile", "end"):
            for name, subject in group.items():
                if stage != "open" and name not in workers:
                    continue
                try:
                    if stage == "open":
                        on_cpu = subject.target.device == "cpu"
                        kept_on = self.cores_for(subject.target.threads * streams) if on_cpu else []
                        workers[name] = self.open(subject, name, sample, streams=streams, pinned=kept_on)
                    else:
                        workers[name].result(timeout_s=self.compile_timeout_s)
                    if stage == "compile":
                        workers[name].request("compile")
                except AccelError as error:
                    if name in workers:
                        workers.pop(name).close()
                    failed(name, error)

    def ask(self, workers: dict[str, Worker], name: str, failed: Failed, method: str, **arguments: Any) -> Any:
        """Call one method; a child that fails is closed, reported and gone, and the answer is None."""
        try:
            return workers[name].call(method, timeout_s=self.compile_timeout_s + TURN_SLACK_S, **arguments)
        except AccelError as error:
            workers.pop(name).close()
            failed(name, error)
            return None


def close(workers: Mapping[str, Worker]) -> None:
    """End all of them, now."""
    for worker in workers.values():
        worker.close()
