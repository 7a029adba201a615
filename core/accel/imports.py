"""The only place that imports code which a recipe names.

A reference is ``file.py:name``, relative to the recipe's folder and inside it, or ``package.module:name``, where the package
must have been allowed by the person at the keyboard (``--allow-import``, or ``[tool.accel] allow_imports``): an allow-list,
since block-lists of dangerous names have leaked wherever they were tried. ``check`` reads names only and imports nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import keyword
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from accel import user_files
from accel.errors import AccelError, ModelFault, SafetyRefusal, UsageError, WorkFault

_NOTE = "__accel_loaded__"  # attribute of such a module: (folder, names of the modules it pulled in from there)


@dataclass(frozen=True)
class ImportPolicy:
    """What may be imported: files inside ``folder``, and the packages in ``allowed`` with all that is below them."""

    folder: Path
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reference:
    text: str
    name: str
    file: Path | None
    module: str | None


def check(reference: str, policy: ImportPolicy) -> None:
    """Refuse what ``load`` would refuse, as far as names tell. Imports nothing.

    SafetyRefusal: a file outside the folder, a package that is not allowed, a dotted or dunder name. UsageError: not a
    reference, or no such file.
    """
    _resolve(reference, policy)


def load(reference: str, policy: ImportPolicy) -> Callable[..., Any]:
    """Import what ``reference`` names.

    A file is executed once under a private module name (again only if its text has changed), with ``policy.folder`` first on
    ``sys.path``, so that files beside it can be imported. Afterwards the folder stays last on ``sys.path``: an import inside a
    function still works, and nothing installed is shadowed. Loading from another folder forgets the former one.

    Raises as ``check``; UsageError where the module or the name is missing or not callable; ModelFault where the code fails.
    """
    found = _resolve(reference, policy)
    module = _load_file(found, policy) if found.file is not None else _load_package(found, policy)
    try:
        value = getattr(module, found.name)
    except AttributeError:
        raise UsageError(f"{reference}: {_place(found)} has no {found.name!r}{_offer(module)}") from None
    if not callable(value):
        raise UsageError(f"{reference}: {found.name} is a {type(value).__name__}, not something that can be called")
    if found.module is not None:
        _require_home(found, value, policy)
    result: Callable[..., Any] = value
    return result


@contextmanager
def running(what: str, policy: ImportPolicy, fault: type[WorkFault] = ModelFault) -> Iterator[None]:
    """Around a call of loaded code: what it raises, ``SystemExit`` too, becomes ``fault`` with the frames of its own files.

    ``what`` starts the message: ``"model.py:build"``.
    """
    try:
        yield
    except AccelError:
        raise
    except SystemExit as stop:
        raise fault(f"{what}: called sys.exit({stop.code!r})\n{trimmed(stop, policy.folder)}") from None
    except Exception as error:  # noqa: BLE001 - user code may raise anything; it is reported as the user's
        raise fault(f"{what}: raised {type(error).__name__}\n{trimmed(error, policy.folder)}") from None


def trimmed(error: BaseException, folder: Path) -> str:
    """The traceback with only the frames of files inside ``folder``, or, where there are none, the innermost frame."""
    root = folder.resolve()
    frames = traceback.extract_tb(error.__traceback__)
    kept = [frame for frame in frames if _inside(Path(frame.filename), root) and "site-packages" not in frame.filename]
    if not kept and frames and not isinstance(error, SyntaxError):
        kept = [frames[-1]]
    text = "".join(traceback.format_list(kept) + traceback.format_exception_only(error))
    return "Traceback (your files only):\n" + text.rstrip()


def configured_imports(folder: Path) -> tuple[str, ...]:
    """``[tool.accel] allow_imports`` of the nearest ``pyproject.toml`` at or above ``folder``; empty where there is none."""
    start = folder.resolve()
    for place in (start, *start.parents):
        path = place / "pyproject.toml"
        if not path.is_file():
            continue
        try:
            with path.open("rb") as stream:
                table = tomllib.load(stream).get("tool", {}).get("accel", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not valid TOML: {error}") from None
        names = table.get("allow_imports", []) if isinstance(table, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) and _dotted(name) for name in names):
            raise UsageError(f'{path}: [tool.accel] allow_imports is a list of package names, like ["mypackage"]')
        return tuple(names)
    return ()


def _resolve(reference: str, policy: ImportPolicy) -> _Reference:
    left, colon, name = reference.rpartition(":")
    if not colon or not left or not name or "\0" in reference:
        raise UsageError(f"{reference!r} is not a reference: write file.py:name or package.module:name")
    _require_plain(reference, name)
    if left.endswith(".py") or "/" in left:
        return _Reference(reference, name, _file(reference, left, policy), None)
    if not _dotted(left):
        raise UsageError(f"{reference!r}: {left!r} is neither a .py file nor a package.module")
    if not any(left == prefix or left.startswith(prefix + ".") for prefix in policy.allowed):
        top = left.partition(".")[0]
        raise SafetyRefusal(
            f"{reference}: recipes may not import {left!r}; if you trust it, allow it with `--allow-import {top}`"
            f' or in pyproject.toml: [tool.accel] allow_imports = ["{top}"]'
        )
    return _Reference(reference, name, None, left)


def _require_plain(reference: str, name: str) -> None:
    parts = name.split(".")
    if len(parts) > 1 or name.startswith("__"):
        raise SafetyRefusal(f"{reference}: {name!r} walks attributes or is internal; name one plain function or class")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"{reference}: {name!r} is not a Python name")


def _dotted(text: str) -> bool:
    return all(part.isidentifier() and not part.startswith("__") for part in text.split("."))


def _file(reference: str, left: str, policy: ImportPolicy) -> Path:
    root = policy.folder.resolve()
    path = (root / left).resolve()  # an absolute path stays itself
    if not _inside(path, root):
        raise SafetyRefusal(f"{reference}: {left} is outside the recipe's folder; put the file beside the recipe")
    if not path.is_file():
        raise UsageError(f"{reference}: no file {left} in the recipe's folder")
    if path.suffix != ".py":
        raise UsageError(f"{reference}: {left} is not a .py file")
    return path


def _inside(path: Path, root: Path) -> bool:
    return path.is_relative_to(root)


def _place(found: _Reference) -> str:
    return found.file.name if found.file is not None else str(found.module)


def _offer(module: ModuleType) -> str:
    own = sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    )
    return f"; it has {', '.join(own[:8])}" if own else ""


def _load_package(found: _Reference, policy: ImportPolicy) -> ModuleType:
    module = str(found.module)
    try:
        with running(found.text, policy):
            try:
                return importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
                    raise UsageError(f"{found.text}: no module named {error.name!r} is installed here") from None
                raise
    finally:
        importlib.invalidate_caches()


def _require_home(found: _Reference, value: object, policy: ImportPolicy) -> None:
    """``mypackage:system``, found there only because mypackage imports it from os, needs os to be allowed."""
    if not (inspect.isroutine(value) or inspect.isclass(value)):
        return
    home = getattr(value, "__module__", None) or "builtins"
    top = home.partition(".")[0]
    if top not in {prefix.partition(".")[0] for prefix in policy.allowed}:
        raise SafetyRefusal(f"{found.text}: this is {home}.{found.name}; if you trust it, allow it with `--allow-import {top}`")


def _load_file(found: _Reference, policy: ImportPolicy) -> ModuleType:
    if found.file is None:
        raise AssertionError("a file reference has a file")
    folder = policy.folder.resolve()
    source = found.file.read_bytes()
    name = user_files.name_of(found.file, source)
    if name in sys.modules and getattr(sys.modules[name], _NOTE, (None,))[0] == folder:
        return sys.modules[name]
    _forget_others(folder)
    spec = importlib.util.spec_from_file_location(name, found.file)
    if spec is None:
        raise AssertionError("a .py file always has a loader")
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    with _first_on_path(folder):
        sys.modules[name] = module
        user_files.tell(name, found.file)
        try:
            with running(found.text, policy):
                exec(compile(source, str(found.file), "exec", dont_inherit=True), vars(module))
        except BaseException:
            for pulled in _from_folder(set(sys.modules) - before, folder):
                del sys.modules[pulled]
            sys.modules.pop(name, None)
            raise
    setattr(module, _NOTE, (folder, _from_folder(set(sys.modules) - before - {name}, folder)))
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return module


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    """Imports find ``folder`` first, and leave no compiled files in it."""
    wrote = sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = wrote
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _from_folder(names: set[str], folder: Path) -> tuple[str, ...]:
    """Those of ``names`` that were found in ``folder`` itself: not what lies in a virtual environment somewhere below it."""

    def beside(top: str) -> bool:
        module = sys.modules.get(top)
        file = getattr(module, "__file__", None)
        places = [Path(file)] if file is not None else [Path(place) for place in getattr(module, "__path__", [])]
        packages = {folder / top / "__init__.py", folder / top, folder / f"{top}.py"}
        return bool(places) and places[0] in packages

    tops = {top for top in {name.partition(".")[0] for name in names} if top != "accel" and beside(top)}
    return tuple(sorted(name for name in names if name.partition(".")[0] in tops))


def _forget_others(folder: Path) -> None:
    """Drop what files of another folder pulled in: two recipes may each have a ``nets.py``."""
    for name in [name for name in sys.modules if name.startswith(user_files.PREFIX)]:
        home, pulled = getattr(sys.modules[name], _NOTE, (folder, ()))
        if home == folder:
            continue
        for other in pulled:
            sys.modules.pop(other, None)
        if str(home) in sys.path and sys.path[-1] == str(home):
            sys.path.pop()
        del sys.modules[name]
