"""Which code a reference can reach, as a digest: so that an edited model file is not taken for the one that was stored.

Nothing is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

from accel.errors import UsageError

FILES_READ = 2_000
BYTES_READ = 5_000_000
FOLDERS_WALKED = 20_000
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


def of_folder(folder: Path) -> str:
    """Every ``.py`` below ``folder`` by relative name and content, in order of name.

    Hidden folders, virtual environments and caches are skipped, links to folders not followed. Beyond 2,000 files or 5 MB a
    file counts by its size and time of change, which may cost a needless rebuild and never a stale one. UsageError beyond
    20,000 folders.
    """
    total = hashlib.sha256()
    root = folder.resolve()
    read = size = 0
    for path in sorted(_sources(root), key=lambda each: each.relative_to(root).as_posix()):
        total.update(path.relative_to(root).as_posix().encode("utf-8", "surrogateescape") + b"\0")
        status = path.stat()
        if read < FILES_READ and size + status.st_size <= BYTES_READ:
            read += 1
            size += status.st_size
            total.update(hashlib.sha256(path.read_bytes()).digest())
        else:
            total.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return total.hexdigest()


def of_package(module: str) -> str:
    """Name and version of the distribution that brings ``module``; with its sources where it is no installed release.

    An editable install and a package that only lies on the path are their sources. UsageError if there is no such package.
    """
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    found = [_distribution(name) for name in sorted(set(packages_distributions().get(top, ())))]
    installed = [each for each in found if each is not None]
    names = [f"{each.metadata['Name']} {each.version}" for each in installed]
    if installed and not any(_editable(each) for each in installed):
        return " ".join(names)
    spec = find_spec(top)  # of a top-level name: looks for files, runs nothing
    if spec is None:
        raise UsageError(f"{module}: no package {top!r} is installed here")
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    if places:
        return " ".join([*names, *(of_folder(place) for place in places if place.is_dir())])
    if spec.origin is None or not Path(spec.origin).is_file():
        return " ".join([*names, top])
    return " ".join([*names, hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()])


def _sources(root: Path) -> Iterator[Path]:
    walked = 0
    for place, folders, files in os.walk(root):
        walked += 1
        if walked > FOLDERS_WALKED:
            raise UsageError(
                f"{root}: more than {FOLDERS_WALKED} folders; put the recipe and its code in a folder of their own"
            )
        if "pyvenv.cfg" in files and Path(place) != root:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED)
        for name in files:
            path = Path(place) / name
            if name.endswith(".py") and path.is_file():
                yield path


def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _editable(found: Distribution) -> bool:
    text = found.read_text("direct_url.json")
    try:
        record = json.loads(text) if text else {}
    except ValueError:
        return False
    return bool(record.get("dir_info", {}).get("editable", False))
