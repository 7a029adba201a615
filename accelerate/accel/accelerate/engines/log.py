"""What TensorRT says while it works: kept, cleaned of what nobody can act on, and bounded."""

from __future__ import annotations

import re
from collections import deque

_KEPT = 200
_SHOWN = 8
_LIMIT = 300
# Said whatever the model: nothing that a user can change.
_NOISE = (
    r"ModelImporter\.cpp:\d+: (?!.*(?:WARNING|Warning))",  # the parser's errors, which it also gives as objects
    r"Thread context has not been set",
    r"CompatibilityLevel\(\) is unsupported in TensorRT-RTX",
    r"catchCudaError.*CUDA driver version is insufficient",  # no GPU here, which is said elsewhere
    r"logger passed into \w+ differs from one already",
    r"The implicit batch dimension mode has been deprecated",
)
_PLACES = (
    r"^\[?[\w./]+\.(?:cpp|h)(?:::\w+)*::?\d+\]?:? ",  # of NVIDIA's source files
    r"^I?[A-Z]\w*::\w+: ",
    r"^Error Code \d+: ",
    r"^[\w ]+ Error \((?=.*\)$)",
    r"^(?:Myelin|Cuda Runtime) \(",
    r"\[\w+\.(?:cpp|h):\d+: \w+\] ",
    r"\bIn compileGraph\b.*",
    r"\s*In [\w:<>~() ]+ at /[^ )]*:\d+\)*$",
    r"^Assertion failed: (?:[^:]*\(.*?\): )?",
)


class Messages:
    """Takes what a logger gives: the last errors, and the first different warnings.

    Threads of the library may call :meth:`sink` at once; each change of a container here is one step.
    """

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=_KEPT)
        self._warnings: dict[str, None] = {}

    def sink(self, severity: str, message: str) -> None:
        if severity not in ("internal_error", "error", "warning") or _is_noise(message):
            return
        if severity != "warning":
            self._errors.append(cleaned(message))
        elif len(self._warnings) < _KEPT:
            self._warnings[cleaned(message)] = None

    @property
    def errors(self) -> tuple[str, ...]:
        """The last errors, cleaned, in order."""
        return tuple(self._errors)

    @property
    def last_error(self) -> str:
        """Empty where there was none."""
        return self._errors[-1] if self._errors else ""

    def notes(self) -> tuple[str, ...]:
        """Errors that did not end the work, and warnings: each once, at most eight, then how many more."""
        distinct = list(dict.fromkeys([*self._errors, *self._warnings]))
        shown = [f"TensorRT says: {message}" for message in distinct[:_SHOWN]]
        if len(distinct) > _SHOWN:
            shown.append(f"TensorRT says {len(distinct) - _SHOWN} more things of this kind")
        return tuple(shown)


def cleaned(message: str) -> str:
    """The first line of a message that says something, of bounded length and without places in NVIDIA's source files."""
    lines = [" ".join(line.split()) for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if not _is_noise(line) and not line.startswith("Invalid Node - ")]
    text = whole = next(iter([*telling, *lines]), "")
    for pattern in _PLACES:
        text = re.sub(pattern, "", text).strip()
    text = text or whole
    return text if len(text) <= _LIMIT else text[: _LIMIT - 3] + "..."


def on_one_line(name: str) -> str:
    """A name that the file has for a node or tensor, for a sentence: it may hold line breaks, and be of any length."""
    text = " ".join(name.split())
    return text if len(text) <= _LIMIT else text[: _LIMIT - 3] + "..."


def _is_noise(message: str) -> bool:
    return any(re.search(pattern, message) for pattern in _NOISE)
