"""Children that each hold one compiled row: opened, compiled as many at a time as there are cores, asked, and closed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accel.benchmarks.environment import cores
from accel.errors import AccelError
from accel.rows import Subject
from accel.timed_inputs import Sample
from accel.worker import Worker

TURN_SLACK_S = 120.0

Failed = Callable[[str, AccelError], None]
"""Told the name of a row and why it is lost."""


class Sessions:
    """Opens the children of one run. ``document`` is the recipe's, None where files are measured without one."""

    def __init__(
        self,
        *,
        document: Mapping[str, Any] | None,
        path: Path,
        allowed: Sequence[str],
        folder: Path,
        sample: Sample,
        compile_timeout_s: float,
    ) -> None:
        self._document = document
        self._path = path
        self._allowed = list(allowed)
        self._folder = folder
        self.sample = sample
        self.compile_timeout_s = compile_timeout_s
        self._opened = 0

    def open(self, subject: Subject, label: str, sample: Sample | None = None) -> Worker:
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
            },
            log=folder / "log.txt",
        )

    def start(self, subjects: Mapping[str, Subject], failed: Failed, sample: Sample | None = None) -> dict[str, Worker]:
        """Compile all, as many at a time as there are cores; those that fail are reported and left out."""
        workers: dict[str, Worker] = {}
        names = list(subjects)
        width = cores()
        try:
            for first in range(0, len(names), width):
                self._start_group({name: subjects[name] for name in names[first : first + width]}, workers, failed, sample)
        except BaseException:  # an interrupt, in a process that goes on: no child is left behind
            close(workers)
            raise
        return workers

    def _start_group(
        self, group: Mapping[str, Subject], workers: dict[str, Worker], failed: Failed, sample: Sample | None
    ) -> None:
        for stage in ("open", "compile", "end"):
            for name, subject in group.items():
                if stage != "open" and name not in workers:
                    continue
                try:
                    if stage == "open":
                        workers[name] = self.open(subject, name, sample)
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
