"""Whether a runtime's library is here, and in which version, without importing it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from accel import distributions, telemetry
from accel.errors import MissingBackend


@dataclass(frozen=True)
class Library:
    """An optional library. ``distribution``: its usual published name; every flavour of it brings ``module``."""

    module: str
    distribution: str
    minimum: tuple[int, ...]
    extra: str

    @property
    def install(self) -> str:
        """The command that gets it."""
        package = f"accel-toolkit[{self.extra}]" if self.extra else "accel-toolkit"
        return f"pip install --upgrade '{package}'"


def installed_distribution(library: Library) -> str | None:
    """The published name under which ``library`` is installed here; None if it is not."""
    found = distributions.installed(library.distribution)
    return None if found is None else found[0]


def versions(library: Library) -> dict[str, str]:
    """Every installed distribution that brings ``library``, to its version."""
    return distributions.versions(library.distribution)


def problem(library: Library) -> str | None:
    """None, or one sentence: not installed, too old, or not loadable. Imports the library if it is there and new enough."""
    if not _present(library.module):
        return f"{library.module} is not installed; get it with: {library.install}"
    needed = ".".join(map(str, library.minimum))
    for name, version in versions(library).items():
        if _release(version) < library.minimum:
            return f"{name} {version} is too old, {needed} or newer is needed; get it with: {library.install}"
    telemetry.switch_off()
    try:
        import_module(library.module)
    except (ImportError, OSError) as error:  # a shared library is missing, or built for another machine
        reason = " ".join(str(error).split())
        return f"{library.module} is installed but cannot be loaded ({reason}); install it again with: {library.install}"
    return None


def require(library: Library) -> None:
    """Raise MissingBackend with the sentence of :func:`problem`, if there is one."""
    sentence = problem(library)
    if sentence is not None:
        raise MissingBackend(sentence)


def _present(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    found = find_spec(module)
    # A folder of that name without code (of ``tensorrt-stubs``, say) is a namespace package: it has no origin, and imports.
    return found is not None and found.origin is not None


def _release(version: str) -> tuple[int, ...]:
    """``2026.4.1-22982`` and ``1.21.0rc1`` to the numbers they start with."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
