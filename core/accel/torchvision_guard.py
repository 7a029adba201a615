"""The one way this project imports torchvision.

torch's CPU build beside a CUDA-built torchvision cannot load torchvision's compiled operators, and ``import torchvision`` then
dies with ``operator torchvision::nms does not exist`` (seen with torch 2.13 and torchvision 0.28). Its models, data sets and
transforms are pure Python and work once the schemas of the two operators it describes at import (``nms``, ``qnms``) are
declared. Installs that match never get that far: the plain import comes first.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from accel.errors import EnvironmentFault, MissingBackend

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # the declarations live as long as the object that made them


def import_torchvision() -> ModuleType:
    """The module ``torchvision``. MissingBackend if it is not installed, EnvironmentFault if it cannot be imported."""
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise EnvironmentFault(f"torchvision: needs {error.name!r}, which is not installed: {error}") from None
        raise MissingBackend("torchvision: not installed; `pip install 'accel-toolkit[vision]'`") from None
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise EnvironmentFault(f"torchvision: cannot be imported: {error}") from error
    _forget_half_import()
    _declare()
    try:
        return importlib.import_module("torchvision")
    except (RuntimeError, ImportError) as error:
        raise EnvironmentFault(
            f"torchvision: does not match the installed torch ({error}); install a torchvision built for it"
        ) from error


def _forget_half_import() -> None:
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]


def _declare() -> None:
    import torch

    if not _declared:
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
