"""Every error a user can meet, and the exit code it ends with.

    AccelError
    ├── UsageError (2)            the command line asks for something that cannot be
    │   └── RecipeError (2)       the recipe does; carries a place for each problem
    ├── EnvironmentFault (3)      this machine lacks something
    │   ├── MissingBackend (3)    a library or device is not here
    │   └── StorageFault (3)      disk full, read-only, no home
    ├── WorkFault (4)             a step of the work failed
    │   ├── ModelFault (4)        the model or its weights
    │   ├── DataFault (4)         the data
    │   ├── PassFault (4)         a pass
    │   ├── BackendFault (4)      a backend
    │   └── WorkerFault (4)       a child process died, hung or ran out of memory
    └── SafetyRefusal (5)         would run or read what nobody allowed

Gates (exit codes 1 and 11 to 14) are verdicts, not errors. 70 is our bug: any other exception that reaches the command line.
A message says place, fact and way out, in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class AccelError(Exception):
    """Root of the tree; never raised itself."""

    exit_code: ClassVar[int] = 70


class UsageError(AccelError):
    exit_code: ClassVar[int] = 2


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong with a recipe. ``line`` and ``column`` count from 1; 0 means the place is not in the file."""

    line: int
    column: int
    message: str
    source: str = ""

    def at(self, path: str) -> str:
        """``path:LINE:COL: message``, with the source line and a caret below where it is known."""
        place = f"{path}:{self.line}:{self.column}" if self.line else path
        text = f"{place}: {self.message}"
        if self.source:
            text += f"\n    {self.source}\n    {' ' * (self.column - 1)}^"
        return text


class RecipeError(UsageError):
    """All problems of one recipe at once, in the order of the file."""

    def __init__(self, path: str, problems: Sequence[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(problem.at(path) for problem in self.problems))


class EnvironmentFault(AccelError):
    exit_code: ClassVar[int] = 3


class MissingBackend(EnvironmentFault):
    pass


class StorageFault(EnvironmentFault):
    pass


class WorkFault(AccelError):
    exit_code: ClassVar[int] = 4


class ModelFault(WorkFault):
    pass


class DataFault(WorkFault):
    pass


class PassFault(WorkFault):
    pass


class BackendFault(WorkFault):
    pass


class WorkerFault(WorkFault):
    pass


class SafetyRefusal(AccelError):
    exit_code: ClassVar[int] = 5


def named(name: str) -> type[AccelError]:
    """The class of this tree called ``name``: how an error crosses from a child process. Unknown names give WorkFault."""
    pending: list[type[AccelError]] = [AccelError]
    while pending:
        candidate = pending.pop()
        if candidate.__name__ == name and candidate is not RecipeError:
            return candidate
        pending.extend(candidate.__subclasses__())
    return WorkFault
