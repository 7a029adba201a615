"""Images as files: a folder with a subfolder for each class, or a CSV of files and labels. numpy and Pillow only when read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from accel.errors import DataFault
from accel.tasks.label_csv import Table, read_table
from accel.tasks.settings import Csv

if TYPE_CHECKING:
    from accel.contracts import Array

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))


@dataclass(frozen=True)
class Listing:
    """The images of a folder. ``labels`` is None where it has no subfolders. ``remarks`` are sentences for the report."""

    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def list_folder(root: Path, classes: Sequence[str] | None = None) -> Listing:
    """Find the images below ``root``, in the order of their names.

    Labels count the subfolders in sorted order, as torchvision's ImageFolder does, unless ``classes`` names the subfolders:
    then a label is the place in ``classes``, and classes may be absent. DataFault where only some are named.
    """
    if not root.is_dir():
        raise DataFault(f"{root}: no such folder")
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    loose, ignored = _images([entry for entry in entries if not entry.is_dir()])
    if not folders:
        return Listing(tuple(loose), None, (), _remarks(root, ignored, ()))
    places = _places(root, [folder.name for folder in folders], classes)
    files: list[Path] = []
    labels: list[int] = []
    empty = []
    for folder, label in zip(folders, places, strict=True):
        inside = sorted(Path(place) / name for place, _, names in os.walk(folder) for name in names if not name.startswith("."))
        images, others = _images(inside)
        ignored += others
        files += images
        labels += [label] * len(images)
        if not images:
            empty.append(folder.name)
    extra = [f"{root}: no images for {', '.join(empty)}"] if empty else []
    if loose:
        extra.append(f"{root}: {len(loose)} images lie beside the class folders and have no label; left out")
    names = tuple(folder.name for folder in folders)
    if classes is None and all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int):
        extra.append(
            f"{root}: folders are labelled in the order of their names ({', '.join(names[:3])}...: 0, 1, 2...), not by number;"
            " name them in task.classes to decide"
        )
    return Listing(tuple(files), tuple(labels), names, _remarks(root, ignored, extra))


def list_csv(settings: Csv, folder: Path, classes: Sequence[str] | None = None) -> tuple[tuple[Path, ...], Table]:
    """The files that a CSV names, which all exist, and its labels. DataFault otherwise."""
    path = folder / settings.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataFault(f"{path}: {error.strerror or error}") from None
    table = read_table(
        content, str(path), file_column=settings.file_column, label_column=settings.label_column, classes=classes
    )
    root = path.parent if settings.root is None else folder / settings.root
    files = tuple(root / name for name in table.files)
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataFault(f"{path}: {len(missing)} of {len(files)} files do not exist below {root}; the first is {missing[0]}")
    return files, table


def _images(paths: Sequence[Path]) -> tuple[list[Path], int]:
    # A broken link stays, to be reported; a pipe or device called a.png would hang whoever opens it.
    images = [path for path in paths if path.suffix.lower() in SUFFIXES and (path.is_file() or not path.exists())]
    return images, len(paths) - len(images)


def _places(root: Path, names: Sequence[str], classes: Sequence[str] | None) -> list[int]:
    known = {name: place for place, name in enumerate(classes or ())}
    matching = [name for name in names if name in known]
    if len(matching) == len(names):
        return [known[name] for name in names]
    if matching:
        stranger = next(name for name in names if name not in known)
        raise DataFault(f"{root}: folder {stranger!r} is not in task.classes, though {matching[0]!r} is")
    if classes is not None and len(classes) != len(names):
        raise DataFault(f"{root}: {len(names)} class folders, but task.classes has {len(classes)} names and none of theirs")
    return list(range(len(names)))


def _remarks(root: Path, ignored: int, extra: Sequence[str]) -> tuple[str, ...]:
    files = "file is" if ignored == 1 else "files are"
    return (*extra, *([f"{root}: {ignored} {files} no image by name; left out"] if ignored else []))


@dataclass(frozen=True)
class ImageFiles:
    """Random access to image files. ``labels`` as in ``Listing``; ``numbered``: the class folders whose order made them."""

    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    unlabelled: str
    remarks: tuple[str, ...] = ()
    numbered: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def place(self, index: int) -> str:
        return f"sample {index} ({self.files[index]})"

    def sample(self, index: int) -> tuple[Array, int | None]:
        from accel.tasks.decode import decode_file

        pixels = decode_file(self.files[index], self.place(index))
        return pixels, None if self.labels is None else self.labels[index]


def open_folder(root: Path, classes: Sequence[str] | None) -> ImageFiles:
    """A reader of ``root``, as ``list_folder`` sees it."""
    found = list_folder(root, classes)
    numbered = found.classes if classes is None else ()
    return ImageFiles(found.files, found.labels, f"{root} has no class subfolders", found.remarks, numbered)


def open_csv(settings: Csv, folder: Path, classes: Sequence[str] | None) -> ImageFiles:
    """A reader of the files that a CSV names."""
    files, table = list_csv(settings, folder, classes)
    return ImageFiles(files, table.labels, table.unlabelled)
