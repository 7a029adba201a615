"""Modules made of the files that a recipe names: ``accel.user_files.<digest>``.

Their names are private: two recipes may each have a nets.py, and one may be called like a library. A process that the user's
code starts afresh (a DataLoader's worker, where it is spawned) gets its objects pickled by these names. To unpickle one it
imports this package first, which shows it the files: their paths come with the environment that it inherits.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

PREFIX = f"{__name__}."
_PLACES = "ACCEL_USER_FILES"


def name_of(file: Path, source: bytes) -> str:
    """Of the module for ``file`` with this text."""
    return PREFIX + "file_" + hashlib.sha256(str(file).encode() + b"\0" + source).hexdigest()[:16]


def tell(name: str, file: Path) -> None:
    """Let processes that are started from here on import ``name``."""
    known = {told: place for told, place in _places().items() if told in sys.modules}
    os.environ[_PLACES] = json.dumps(known | {name: str(file)})


def _places() -> dict[str, str]:
    try:
        found = json.loads(os.environ.get(_PLACES, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class _Loader(SourceFileLoader):
    """Runs the text that the module is named after, and leaves no compiled file beside it."""

    def get_data(self, path: str) -> bytes:
        found = super().get_data(path)
        if path == self.path and name_of(Path(path), found) != self.name:
            raise ImportError(f"{path} was changed since it was loaded", name=self.name, path=path)
        return found

    def get_code(self, fullname: str) -> CodeType | None:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        wrote, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            super().exec_module(module)
        finally:
            sys.dont_write_bytecode = wrote


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        place = _places().get(fullname) if fullname.startswith(PREFIX) else None
        return None if place is None else spec_from_file_location(fullname, place, loader=_Loader(fullname, place))


sys.meta_path.append(_Finder())
