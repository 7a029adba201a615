"""A sample as a small picture: at most 64 pixels wide and high, 4 kB, and nothing in it but its pixels.

A ``data:image/...;base64,`` address, so that a page can show it from within itself. It is drawn from the pixels as they were
decoded, never from the file: no EXIF, no position, no name, no profile goes with it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from accel.errors import AccelError

if TYPE_CHECKING:
    from accel.contracts import Array
    from accel.tasks.reader import Reader

SIDE = 64
MOST_CHARACTERS = 4096

_CHANNELS = (1, 3)
_MID_GREY = 128
_QUALITIES = (85, 70, 50, 30, 10)


def drawn(
    opened: Callable[[], tuple[Reader, Sequence[int]]], positions: Sequence[int], *, channels_last: bool
) -> list[str | None]:
    """One picture for each of ``positions`` in a split, which ``opened`` gives as its reader and the reader's indices.

    None for what is no image, is not there or cannot be read. Samples are read in rising order: a stream starts once.
    """
    found: dict[int, str | None] = {}
    try:
        reader, indices = opened()
    except AccelError:
        return [None] * len(positions)
    for position in sorted(set(positions)):
        try:
            raw = reader.sample(indices[position])[0] if 0 <= position < len(indices) else None
        except AccelError:  # a damaged image, or user code that fails: scoring has said so
            raw = None
        found[position] = None if raw is None else thumbnail(raw, channels_last=channels_last)
    return [found[position] for position in positions]


def thumbnail(raw: Array, *, channels_last: bool = False) -> str | None:
    """``raw``: (h, w), (h, w, c) or (c, h, w) with 1 or 3 channels, red first; None for any other shape, for NaN and infinity.

    uint8 is taken for pixels; what else comes was normalised somehow, and its range is spread over 0 to 255.
    ``channels_last``: what a shape means that could be either.
    """
    pixels = _pixels(raw, channels_last)
    if pixels is None:
        return None
    addresses = _addresses(_small(Image.fromarray(pixels)))
    return next((text for text in addresses if len(text) <= MOST_CHARACTERS), None)


def _addresses(image: Image.Image) -> Iterator[str]:
    """PNG first, which is exact, and short where there are few colours; then JPEG, each shorter than the one before."""
    yield _address(image, "png")
    for quality in _QUALITIES:
        yield _address(image, "jpeg", quality=quality)


def _address(image: Image.Image, kind: str, **options: int) -> str:
    stream = io.BytesIO()
    image.save(stream, format=kind, optimize=True, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _pixels(raw: Array, channels_last: bool) -> NDArray[np.uint8] | None:
    """uint8 (h, w) or (h, w, 3)."""
    if 0 in raw.shape or raw.dtype.kind not in "uifb":
        return None
    if raw.ndim == 3:
        last, first = raw.shape[-1] in _CHANNELS, raw.shape[0] in _CHANNELS
        if first and not (last and channels_last):
            raw = np.moveaxis(raw, 0, -1)
        elif not last:
            return None
        if raw.shape[-1] == 1:
            raw = raw[..., 0]
    elif raw.ndim != 2:
        return None
    if raw.dtype == np.uint8:
        return np.ascontiguousarray(raw, dtype=np.uint8)
    values = raw.astype(np.float64)
    if not np.isfinite(values).all():
        return None
    values /= 2  # so that the widest range has a width
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return np.full(values.shape, _MID_GREY, dtype=np.uint8)
    return np.ascontiguousarray(np.rint((values - low) / (high - low) * 255).astype(np.uint8))


def _small(image: Image.Image) -> Image.Image:
    """Shrunk to SIDE, smoothly; a tiny one enlarged by a whole number, so that its pixels stay squares of one size."""
    longest = max(image.size)
    if longest <= SIDE:
        times = SIDE // longest
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    width, height = (max(1, round(side * SIDE / longest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
