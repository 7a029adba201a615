"""Data from an ``.npz``: arrays of images, arrays in the model's own form, or one buffer of encoded images with offsets.

Never reads a pickle. An array that lies uncompressed in the file (``np.savez``) is mapped, not loaded; a compressed one is
loaded as it is on first use.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

from accel.errors import DataFault
from accel.tasks.decode import decode_bytes
from accel.tasks.settings import Arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from accel.contracts import Array

_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,  # of an array's header, which numpy reads as a Python literal
    EOFError,
    MemoryError,  # a header that promises more than there is
    OverflowError,
    NotImplementedError,  # a compression method that zipfile does not have
    RuntimeError,  # an encrypted member
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


class NpzReader:
    """Random access to the samples of an ``.npz``.

    ``inputs``: uint8 (n, h, w) or (n, h, w, c), or any other numeric (n, ...) as the model takes it; with ``offsets``, uint8
    (bytes,) and int64 (n + 1,) where image i is ``inputs[offsets[i]:offsets[i + 1]]``. ``labels``: integers (n,).
    """

    def __init__(self, settings: Arrays, folder: Path) -> None:
        self.path = folder / settings.path
        self.settings = settings
        self.remarks: tuple[str, ...] = ()
        names = names_in(self.path)
        for name in (settings.inputs, settings.offsets):
            if name is not None and name not in names:
                raise DataFault(f"{self.path}: no array {name!r}; it has {', '.join(names) or 'none'}")
        has_labels = settings.labels is not None and settings.labels in names
        self.unlabelled = "" if has_labels else f"{self.path} has no array {settings.labels!r}; it has {', '.join(names)}"
        self._has_labels = has_labels
        self._header = _header(self.path, settings.inputs)
        if self._header.dtype.kind not in "uifb":
            raise DataFault(
                f"{self._named(settings.inputs)}: dtype is {self._header.dtype}; images are uint8, other inputs numeric"
            )
        if settings.offsets is None and len(self._header.shape) < 2:
            raise DataFault(f"{self._named(settings.inputs)}: shape is {self._header.shape}; expected (samples, ...)")

    def __len__(self) -> int:
        return self._header.shape[0] if self.settings.offsets is None else len(self._offsets) - 1

    def place(self, index: int) -> str:
        return f"sample {index} ({self.path.name}: {self.settings.inputs}[{index}])"

    def sample(self, index: int) -> tuple[Array, int | None]:
        label = int(self._labels[index]) if self._has_labels else None
        if self.settings.offsets is None:
            return self._inputs[index], label
        start, end = self._offsets[index : index + 2]
        return decode_bytes(self._inputs[start:end].tobytes(), self.place(index)), label

    @cached_property
    def _inputs(self) -> Array:
        return read_array(self.path, self.settings.inputs)

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        name = str(self.settings.offsets)
        offsets = read_array(self.path, name)
        place = self._named(name)
        if offsets.ndim != 1 or offsets.dtype.kind not in "ui" or not len(offsets):
            raise DataFault(f"{place}: is {offsets.dtype} {offsets.shape}; offsets are n + 1 integers in one row")
        if self._header.dtype != np.uint8 or len(self._header.shape) != 1:
            raise DataFault(f"{self._named(self.settings.inputs)}: with offsets it is one row of uint8, all images end to end")
        found = offsets.astype(np.int64)
        if found[0] < 0 or found[-1] > self._header.shape[0] or (np.diff(found) < 0).any():
            raise DataFault(f"{place}: offsets go outside {self.settings.inputs!r} or backwards")
        return found

    @cached_property
    def _labels(self) -> Array:
        name = str(self.settings.labels)
        labels = read_array(self.path, name)
        check_labels(labels, len(self), self._named(name))
        return labels

    def _named(self, array: str) -> str:
        return f"{self.path}: {array}"


def check_labels(labels: Array, count: int, place: str) -> None:
    """DataFault unless ``labels`` is one integer for each of ``count`` samples."""
    if labels.dtype.kind not in "ui":
        raise DataFault(f"{place}: labels are {labels.dtype}; store class indices as integers")
    if labels.ndim != 1:
        raise DataFault(f"{place}: labels have shape {labels.shape}; store one class index a sample (one-hot: argmax(1))")
    if len(labels) != count:
        raise DataFault(f"{place}: {len(labels)} labels for {count} samples")


def names_in(path: Path) -> list[str]:
    """The arrays of an ``.npz``. DataFault where it is not there, or none."""
    if not path.is_file():
        raise DataFault(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except _DAMAGE as error:
        raise DataFault(f"{path}: not an .npz, or damaged: {error}") from None


def _header(path: Path, name: str) -> _Header:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            return _read_header(stream)
    except _DAMAGE as error:
        raise DataFault(f"{path}: {name}: not an array, or damaged: {error}") from None


def _read_header(stream: IO[bytes]) -> _Header:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    return _Header(shape, dtype)


def read_array(path: Path, name: str) -> Array:
    """The array called ``name``, mapped where it lies uncompressed. DataFault if damaged or made of Python objects."""
    try:
        mapped = _mapped(path, name)
        if mapped is not None:
            return mapped
        with np.load(path, allow_pickle=False) as archive:
            found: Array = archive[name]
            return found
    except _DAMAGE as error:
        raise DataFault(f"{path}: {name}: {error}") from None


def _mapped(path: Path, name: str) -> Array | None:
    with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            return None
        stream.seek(member.header_offset)
        local = stream.read(30)  # zip's local file header: its last two fields are the lengths of name and extra field
        start = member.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
        stream.seek(start)
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if dtype.hasobject or fortran or not size:
            return None
        if stream.tell() + size > start + member.file_size:
            raise ValueError("shorter than its header says")
        return np.memmap(path, dtype=dtype, mode="r", offset=stream.tell(), shape=shape)
