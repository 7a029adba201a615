"""Images in an uncompressed tar with a CSV of labels inside or beside it, read in place by their offsets.

Nothing is extracted. A tar that could write or read outside itself if someone did extract it (``../``, absolute names, links,
devices) is refused whole: it is either hostile or broken.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from accel.errors import DataFault, SafetyRefusal
from accel.tasks.label_csv import OF_A_TAR, Table, below, read_table
from accel.tasks.settings import Tar

if TYPE_CHECKING:
    from accel.contracts import Array

_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


class TarReader:
    """Random access to the images that the CSV names. The tar is open only while a sample is read."""

    def __init__(self, settings: Tar, folder: Path, classes: Sequence[str] | None = None) -> None:
        self.path = folder / settings.path
        self.remarks: tuple[str, ...] = ()
        self._places = index(self.path)
        table = self._table(settings, classes)
        missing = [name for name in table.files if _plain(name) not in self._places]
        if missing:
            raise DataFault(
                f"{self.path}: {settings.csv} names {len(missing)} files that are not in it; the first is {missing[0]}"
            )
        self._names = [_plain(name) for name in table.files]
        self._labels = table.labels
        self.unlabelled = table.unlabelled

    def __len__(self) -> int:
        return len(self._names)

    def place(self, index: int) -> str:
        return f"sample {index} ({self.path.name}: {self._names[index]})"

    def sample(self, index: int) -> tuple[Array, int | None]:
        from accel.tasks.decode import decode_bytes

        pixels = decode_bytes(self._bytes(self._names[index]), self.place(index))
        return pixels, None if self._labels is None else self._labels[index]

    def _bytes(self, name: str) -> bytes:
        start, size = self._places[name]
        try:
            with self.path.open("rb") as stream:
                stream.seek(start)
                return stream.read(size)
        except OSError as error:
            raise DataFault(f"{self.path}: {error.strerror or error}") from None

    def _table(self, settings: Tar, classes: Sequence[str] | None) -> Table:
        beside = csv_beside(self.path, settings)
        name = _plain(settings.csv)
        if name in self._places:
            content = self._bytes(name)
        elif beside.is_file():
            content = beside.read_bytes()
        else:
            raise DataFault(
                f"{self.path}: no {settings.csv} in it or beside it; set csv to the file that names images and labels"
            )
        place = f"{self.path.name}: {settings.csv}"
        return read_table(content, place, file_column=settings.file_column, label_column=settings.label_column, classes=classes)


def csv_beside(path: Path, settings: Tar) -> Path:
    """Where the CSV of the tar ``path`` lies if it is not in it: beside it, or below that. SafetyRefusal for anywhere else."""
    return path.parent / below(settings.csv, f"{path}: csv", OF_A_TAR)


def index(path: Path) -> dict[str, tuple[int, int]]:
    """Name to (offset, size) in bytes of every file in a tar.

    SafetyRefusal for a name or kind of entry that reaches outside. DataFault if it is no tar, compressed, damaged, or has a
    name twice.
    """
    found: dict[str, tuple[int, int]] = {}
    try:
        end = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                _require_harmless(path, member)
                if member.isdir():
                    continue
                name = _plain(member.name)
                if name in found:
                    raise DataFault(f"{path}: {name} is in it twice")
                if member.issparse() or member.offset_data + member.size > end:
                    raise DataFault(f"{path}: {name} is incomplete or stored in pieces; pack it again with plain tar")
                found[name] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise DataFault(
            f"{path}: not an uncompressed tar, or damaged ({error}); a .tar.gz must be unpacked with gunzip"
        ) from None
    except OSError as error:
        raise DataFault(f"{path}: {error.strerror or error}") from None
    return found


def _plain(name: str) -> str:
    return str(PurePosixPath(name))  # ./images/a.jpg is images/a.jpg


def _require_harmless(path: Path, member: tarfile.TarInfo) -> None:
    kind = _KINDS.get(member.type)
    if kind is None and not (member.isreg() or member.isdir()):
        kind = "not a plain file"
    if kind is not None:
        raise SafetyRefusal(f"{path}: entry {member.name!r} is {kind}; a data tar holds plain files only")
    windows = PureWindowsPath(member.name)  # splits at / and at \
    if windows.drive or windows.root:
        raise SafetyRefusal(f"{path}: entry {member.name!r} is an absolute name; pack it with names below one folder")
    if ".." in windows.parts:
        raise SafetyRefusal(f"{path}: entry {member.name!r} reaches outside the tar; pack it with names below one folder")
