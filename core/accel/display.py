"""What a person sees while a run goes on, on standard error: a bar on a terminal, one line a stage elsewhere.

Standard output stays for results. Nothing here decides anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from accel.benchmarks.untrusted import lines

_HEARTBEAT_S = 30.0


class Display(Protocol):
    """``stage`` begins a named piece of work; ``advance`` tells how far it is, or with no ``what`` that it goes on.

    A total of 0 means that it is unknown.
    """

    def stage(self, text: str) -> None: ...
    def advance(self, done: int, total: int, what: str) -> None: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Silent:
    """``--quiet``, and the default of the Python functions."""

    def stage(self, text: str) -> None: ...
    def advance(self, done: int, total: int, what: str) -> None: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Lines:
    """For a pipe or a log: a line when a stage begins, and every 30 s while one lasts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._began = self._said = time.monotonic()

    def stage(self, text: str) -> None:
        self._stage = text
        self._began = self._said = time.monotonic()
        self._print(text)

    def advance(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if now - self._said >= _HEARTBEAT_S:
            self._said = now
            of = f" of {total}" if total else ""
            far = f"{done}{of} {what} after" if what else "still at it after"
            self._print(f"  {self._stage}: {far} {now - self._began:.0f} s")

    def note(self, text: str) -> None:
        self._print(f"note: {text}")

    def warn(self, text: str) -> None:
        self._print(f"warning: {text}")

    def _print(self, text: str) -> None:
        self._console.print(lines(text), markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Bar:
    """For a terminal: one live bar, and the stages that are over above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[what]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._text = ""
        self._began = time.monotonic()

    def stage(self, text: str) -> None:
        self._finish()
        self._text, self._began = text, time.monotonic()
        self._task = self._progress.add_task(text, total=None, what="")

    def advance(self, done: int, total: int, what: str) -> None:
        if self._task is not None and what:
            self._progress.update(self._task, completed=done, total=total or None, what=what)

    def note(self, text: str) -> None:
        self._progress.console.print(lines(f"note: {text}"), markup=False, highlight=False)

    def warn(self, text: str) -> None:
        self._progress.console.print(lines(f"warning: {text}"), style="yellow", markup=False, highlight=False)

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            seconds = time.monotonic() - self._began
            self._progress.console.print(f"{self._text}  {seconds:.1f} s", style="dim", markup=False, highlight=False)
            self._task = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._finish()
        self._progress.stop()


def display(console: Console, *, quiet: bool) -> Display:
    """The display that suits ``console``, which writes to standard error."""
    if quiet:
        return Silent()
    return Bar(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


def show_event(screen: Display, event: Mapping[str, Any]) -> None:
    """Draw one event of a worker."""
    if "step" in event:
        screen.stage(str(event["step"]))
    elif "silent_s" in event:
        screen.advance(0, 0, "")
    elif "what" in event:
        screen.advance(int(event.get("done", 0)), int(event.get("total", 0)), str(event["what"]))
