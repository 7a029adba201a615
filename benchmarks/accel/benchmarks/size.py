"""What ships: the files of a folder, their bytes, their bytes when gzipped, and their digests."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

from accel.errors import BackendFault
from accel.report import File

CHUNK = 1 << 20
GZIP = 16 + zlib.MAX_WBITS  # a gzip header with no name and time 0, so that the same bytes give the same size
MANIFEST = "manifest.json"


def files(folder: Path, *, besides: frozenset[str] = frozenset({MANIFEST}), only: Iterable[Path] | None = None) -> list[File]:
    """Every file below ``folder`` by its relative POSIX path, sorted; ``besides`` (our own manifest) is left out.

    ``only``: just these of its files, where the folder is somebody else's.

    ``gzip_bytes`` is at level 9. BackendFault for a link: what ships must be the bytes themselves.
    """
    found = []
    for path in sorted(folder.rglob("*") if only is None else only, key=lambda path: path.relative_to(folder).as_posix()):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise BackendFault(f"{relative}: a link among the files that ship; write the file itself")
        if path.is_file() and relative not in besides:
            found.append(_file(path, relative))
    return found


def _file(path: Path, relative: str) -> File:
    digest = hashlib.sha256()
    packer = zlib.compressobj(9, zlib.DEFLATED, GZIP)
    size = packed = 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            packed += len(packer.compress(chunk))
    packed += len(packer.flush())
    return File(path=relative, bytes=size, gzip_bytes=packed, sha256=digest.hexdigest())


def totals(shipped: Iterable[File]) -> tuple[int, int]:
    """Bytes and gzipped bytes of all of them."""
    shipped = tuple(shipped)
    return sum(file.bytes for file in shipped), sum(file.gzip_bytes for file in shipped)
