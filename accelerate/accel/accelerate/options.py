"""What a target may ask of a backend, checked before anything is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from accel.errors import UsageError
from accel.model import Target


@dataclass(frozen=True)
class Choice:
    """An option that is one of a few words, or (``many``) a list of them; no ``words`` means any."""

    words: tuple[str, ...] = ()
    many: bool = False


@dataclass(frozen=True)
class Count:
    """An option that is a whole number, at least 1."""


@dataclass(frozen=True)
class Flag:
    """An option that is true or false."""


Option = Choice | Count | Flag


def check(
    target: Target, *, devices: Sequence[str], precisions: Sequence[str], why_precision: str, options: Mapping[str, Option]
) -> None:
    """Raise UsageError for a device, precision, number of threads or option that the backend does not have.

    ``why_precision`` ends the message about a precision: what to do instead.
    """
    place = f"target {target.name}: backend {target.backend}"
    if target.device not in devices:
        raise UsageError(f"{place} has no device {target.device!r}{_near(target.device, devices)}; it has {', '.join(devices)}")
    if target.precision not in precisions:
        near = _near(target.precision, precisions)
        known = ", ".join(precisions)
        raise UsageError(f"{place} takes precision {known}, not {target.precision!r}{near}; {why_precision}")
    if target.threads < 1:
        raise UsageError(f"{place}: threads is {target.threads}; it must be at least 1")
    if target.batch is not None and target.batch < 1:
        raise UsageError(f"{place}: batch is {target.batch}; it must be at least 1")
    for name, value in target.options.items():
        if name not in options:
            known = f"it has {', '.join(options)}" if options else "it has none"
            raise UsageError(f"{place} has no option {name!r}{_near(name, tuple(options))}; {known}")
        _check_value(f"{place}: option {name}", value, options[name])


def _check_value(place: str, value: object, option: Option) -> None:
    if isinstance(option, Flag):
        if not isinstance(value, bool):
            raise UsageError(f"{place} is {value!r}; it must be true or false")
    elif isinstance(option, Count):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{place} is {value!r}; it must be a whole number, at least 1")
    elif option.many:
        if not isinstance(value, list | tuple) or not value:
            raise UsageError(f"{place} is {value!r}; it must be a list of names")
        for item in value:
            _check_word(place, item, option)
    else:
        _check_word(place, value, option)


def _check_word(place: str, value: object, option: Choice) -> None:
    if not isinstance(value, str):
        raise UsageError(f"{place} holds {value!r}; it must be a name")
    if option.words and value not in option.words:
        raise UsageError(f"{place} is {value!r}{_near(value, option.words)}; it must be one of {', '.join(option.words)}")


def _near(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
