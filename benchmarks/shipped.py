"""The recipes of this repository that the scripts beside this file measure, and where their weights and data lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shipped:
    """A recipe of this repository. ``weights``, ``data``: files below --shared, None for one that needs none."""

    name: str
    recipe: str
    weights: str | None = None
    data: str | None = None
    form: str = ""

    def missing(self, shared: Path) -> str | None:
        """Why it cannot run here, or None."""
        needed = [shared / part for part in (self.weights, self.data) if part is not None]
        absent = [str(path) for path in needed if not path.is_file()]
        return f"{', '.join(absent)}: not there" if absent else None

    def words(self, shared: Path) -> list[str]:
        """Overrides of the recipe."""
        if self.weights is None or self.data is None:
            return []
        splits = [f"data.{split}.{self.form}.path={shared / self.data}" for split in ("calibration", "validation")]
        return [f"model.weights={shared / self.weights}", *splits]


SHIPPED = (
    Shipped("quickstart", "quickstart.yaml"),
    Shipped(
        "cifar10_resnet20",
        "cifar10_resnet.yaml",
        "models/cifar10_resnet20_jpegft.safetensors",
        "data/cifar10_jpeg.npz",
        "arrays",
    ),
    Shipped(
        "efficientnet_lite0",
        "efficientnet_lite0.yaml",
        "models/efficientnet_lite0.safetensors",
        "data/imagenet_compat_1000.tar",
        "tar",
    ),
)
