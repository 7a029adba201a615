"""What identifies the data of a split: the bytes of its files, the versions of the libraries that decode them, and every
setting that decides what comes out.

Light: hashlib and the settings. ``plan`` computes the same digests as a run does, without importing anyone's code; data from a
factory has none until it is read. Names of files count only where they decide an order or a label: a moved data set keeps its
digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from accel.contracts import Split
from accel.errors import DataFault
from accel.tasks.image_files import list_csv, list_folder
from accel.tasks.settings import (
    Arrays,
    Chosen,
    Csv,
    DataSettings,
    DataSource,
    Factory,
    Folder,
    ImageClassificationSettings,
    Preprocess,
    Tar,
    TextClassificationSettings,
    TextSettings,
    TorchvisionData,
)
from accel.tasks.splits import Part, require_part
from accel.tasks.tar import csv_beside

_VERSION = 1  # changes when the same files and settings would give other samples
FileDigest = Callable[[Path], str]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces. DataFault if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataFault(f"{path}: {error.strerror or error}") from None


def preparation(settings: ImageClassificationSettings | TextSettings) -> Preprocess | Mapping[str, Any] | None:
    """What of a task's settings makes samples of what a file holds, besides a tokenizer, which is known by what it gives."""
    if isinstance(settings, ImageClassificationSettings):
        return settings.preprocess
    return {"padding": settings.padding, "pad_values": settings.pad_values}


def static_digest(
    source: DataSource,
    preprocess: Preprocess | Mapping[str, Any] | None,
    folder: Path,
    *,
    classes: Sequence[str] | None = None,
    hashed: FileDigest = file_digest,
) -> str | None:
    """Of all samples a source means; paths are relative to ``folder``. None for a factory: known at run time.

    ``hashed`` may remember digests within one process. DataFault where files are missing.
    """
    chosen = source.chosen()
    if isinstance(chosen, Factory):
        return None
    return combined(source, preprocess, _files(chosen, folder, classes, hashed))


def combined(source: DataSource, preprocess: Preprocess | Mapping[str, Any] | None, files: Any) -> str:
    """The digest of ``files`` (anything JSON holds) as ``source`` reads them. Not ``batch_size``: it changes no sample."""
    return _sha256(
        {
            "version": _VERSION,
            "files": files,
            "libraries": _libraries(source),
            "preprocess": preprocess.model_dump(mode="json") if isinstance(preprocess, Preprocess) else preprocess,
            "skip": source.skip,
            "num_samples": source.num_samples,
            "shuffle": source.shuffle,
        }
    )


def split_digest(
    settings: ImageClassificationSettings | TextSettings,
    data: DataSettings,
    split: Split,
    folder: Path,
    *,
    seed: int = 0,
    hold_selection: bool = False,
    hashed: FileDigest = file_digest,
) -> str | None:
    """The digest that the task gives for ``split``, where it is known without running anyone's code; else None."""
    found = require_part(data, split, hold_selection)
    if isinstance(settings, TextSettings) and settings.tokenizer is not None:
        return None
    classes = settings.classes if isinstance(settings, ImageClassificationSettings | TextClassificationSettings) else None
    whole = static_digest(found.source, preparation(settings), folder, classes=classes, hashed=hashed)
    return None if whole is None else of_part(whole, found, seed)


def of_part(whole: str, found: Part, seed: int) -> str:
    """The digest of a share of a source, from the digest of all of it."""
    return whole if found.role == "all" else _sha256([whole, found.role, seed])


def _files(chosen: Chosen, folder: Path, classes: Sequence[str] | None, hashed: FileDigest) -> Any:
    if isinstance(chosen, Arrays):
        return ["arrays", hashed(folder / chosen.path), chosen.inputs, chosen.labels, chosen.offsets]
    if isinstance(chosen, Folder):
        listing = list_folder(folder / chosen.path, classes)
        root = folder / chosen.path
        named = [[path.relative_to(root).as_posix(), hashed(path)] for path in listing.files]
        return ["folder", listing.classes, listing.labels, named]
    if isinstance(chosen, Csv):
        files, table = list_csv(chosen, folder, classes)
        return ["csv", table.labels, [hashed(path) for path in files]]
    if isinstance(chosen, Tar):
        beside = csv_beside(folder / chosen.path, chosen)
        outside = hashed(beside) if beside.is_file() else None
        settings = chosen.model_dump(mode="json", exclude={"path"})
        return ["tar", hashed(folder / chosen.path), outside, settings, list(classes or ())]
    if isinstance(chosen, Factory):
        raise AssertionError("data from a factory is in no file")
    root = folder / chosen.root
    if not root.is_dir():
        raise DataFault(f"{root}: no such folder")
    walked = sorted(Path(place) / name for place, _, names in os.walk(root, followlinks=True) for name in names)
    named = [[path.relative_to(root).as_posix(), hashed(path)] for path in walked if path.is_file()]
    return ["torchvision", chosen.name, chosen.kwargs, named]


def _libraries(source: DataSource) -> dict[str, str | None]:
    """What turns the bytes into samples: another version may decode, resize or order them otherwise."""
    names = ("numpy", "pillow", *(("torchvision",) if isinstance(source.chosen(), TorchvisionData) else ()))
    return {name: _installed(name) for name in names}


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:  # a build under another name; what reads the data says if it is missing
        return None


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
