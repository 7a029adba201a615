"""What every reader offers, and which one a source's settings mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from accel.imports import ImportPolicy
from accel.tasks.settings import Arrays, Csv, DataSource, Folder, Tar, TorchvisionData

if TYPE_CHECKING:
    from accel.contracts import Array


class Reader(Protocol):
    """Random access to the samples of one source. DataFault names the sample by ``place``.

    ``sample``: pixels, uint8 (h, w) or (h, w, 3), or any other array as the model takes it; and a class index, or None.
    ``unlabelled``: why labels are None, where they are. ``remarks``: sentences for the report.
    """

    @property
    def unlabelled(self) -> str: ...
    @property
    def remarks(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def place(self, index: int, /) -> str: ...
    def sample(self, index: int, /) -> tuple[Array, int | None]: ...


def open_reader(source: DataSource, policy: ImportPolicy, classes: Sequence[str] | None = None) -> Reader:
    """The reader of ``source``; paths are relative to ``policy.folder``. DataFault, UsageError or SafetyRefusal."""
    chosen, folder = source.chosen(), policy.folder
    if isinstance(chosen, Arrays):
        from accel.tasks.arrays import NpzReader

        return NpzReader(chosen, folder)
    if isinstance(chosen, Folder):
        from accel.tasks.image_files import open_folder

        return open_folder(folder / chosen.path, classes)
    if isinstance(chosen, Csv):
        from accel.tasks.image_files import open_csv

        return open_csv(chosen, folder, classes)
    if isinstance(chosen, Tar):
        from accel.tasks.tar import TarReader

        return TarReader(chosen, folder, classes)
    if isinstance(chosen, TorchvisionData):
        from accel.tasks.torchvision_data import TorchvisionReader

        return TorchvisionReader(chosen, folder)
    from accel.tasks.factory_data import open_factory

    limit = None if source.num_samples is None else source.skip + source.num_samples
    return open_factory(chosen, policy, limit, shuffled=source.shuffle is not None)


def is_stream(reader: Reader) -> bool:
    """Whether ``reader`` reads forwards only, and no further than the source it was opened for."""
    from accel.tasks.factory_data import StreamReader

    return isinstance(reader, StreamReader)
