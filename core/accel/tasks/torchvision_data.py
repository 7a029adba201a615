"""A data set of ``torchvision.datasets`` that already lies on disk."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.errors import DataFault, SafetyRefusal, UsageError
from accel.tasks.decode import as_array
from accel.tasks.factory_data import as_label, pair_of
from accel.tasks.settings import TorchvisionData
from accel.torchvision_guard import import_torchvision

if TYPE_CHECKING:
    from accel.contracts import Array

_UNPICKLES = frozenset(("LSUN", "LSUNClass"))  # torchvision reads their index with an unchecked pickle.load


class TorchvisionReader:
    """Random access to a data set of images and class labels. Nothing is ever downloaded."""

    def __init__(self, settings: TorchvisionData, folder: Path) -> None:
        self.settings = settings
        self.remarks: tuple[str, ...] = ()
        self.unlabelled = ""
        self._data = _open(settings, folder / settings.root)

    def __len__(self) -> int:
        return len(self._data)

    def place(self, index: int) -> str:
        return f"sample {index} ({self.settings.name})"

    def sample(self, index: int) -> tuple[Array, int | None]:
        place = self.place(index)
        try:
            item = self._data[index]
        except Exception as error:  # noqa: BLE001 - the data set's own decoder; what it raises is reported with the sample's place
            raise DataFault(f"{place}: cannot be read: {error or type(error).__name__}") from None
        image, label = pair_of(item, place)
        return as_array(image, place), as_label(label, place)


def _open(settings: TorchvisionData, root: Path) -> Any:
    place = f"torchvision {settings.name}"
    datasets = import_torchvision().datasets
    kind = getattr(datasets, settings.name, None)
    if not (inspect.isclass(kind) and issubclass(kind, datasets.VisionDataset)) or settings.name == "VisionDataset":
        close = difflib.get_close_matches(settings.name, [name for name in dir(datasets) if name[0].isupper()], n=3)
        raise UsageError(f"{place}: no such data set" + (f"; did you mean {' or '.join(close)}?" if close else ""))
    if settings.name in _UNPICKLES:
        raise SafetyRefusal(f"{place}: its reader runs pickles found beside the data; export the images to a folder")
    parameters = inspect.signature(kind).parameters
    if "root" not in parameters:
        raise UsageError(f"{place}: is not read from a folder; real data is needed")
    kwargs = dict(settings.kwargs)
    if kwargs.get("download"):
        raise UsageError(f"{place}: nothing is downloaded; put the data below {settings.root} and leave download out")
    kwargs.pop("download", None)
    if "download" in parameters:
        kwargs["download"] = False
    try:
        make: Any = kind
        return make(root=str(root), **kwargs)
    except TypeError as error:
        raise UsageError(f"{place}: {error}") from None
    except (RuntimeError, OSError, ValueError) as error:
        text = str(error).replace("You can use download=True to download it", "").strip()
        raise DataFault(f"{place}: cannot be read below {root}; nothing is downloaded: {text}") from None
