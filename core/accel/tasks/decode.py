"""From an encoded image to 8-bit pixels, and the name of a sample's content.

Pixels are (h, w) for grey images and (h, w, 3), red first, for all others; transparency is dropped and orientation tags are
ignored, as torchvision's image loader does. The snippet of ``preprocess.py`` does the same with the same calls.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from accel.errors import DataFault

if TYPE_CHECKING:
    from accel.contracts import Array


def decode_file(path: Path, place: str) -> Array:
    """The pixels of an image file. DataFault, naming ``place``, if it cannot be read or is no image."""
    try:
        with path.open("rb") as stream:
            return _decode(stream, place)
    except OSError as error:
        raise DataFault(f"{place}: {error.strerror or error}") from None


def decode_bytes(content: bytes, place: str) -> Array:
    """The pixels of an encoded image. DataFault, naming ``place``, if it is none."""
    return _decode(io.BytesIO(content), place)


def pixels_of(image: Image.Image, place: str) -> Array:
    """The pixels of an opened image. DataFault for more than 8 bits a channel: how to scale them is not ours to guess."""
    if image.mode in ("I", "F") or image.mode.startswith(("I;", "F;")):
        raise DataFault(f"{place}: more than 8 bits a channel (Pillow mode {image.mode}); convert it to 8 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "L":
        image = image.convert("L" if image.mode == "1" else "RGB")
    return np.asarray(image)


def _decode(stream: IO[bytes], place: str) -> Array:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, which does not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                return pixels_of(image, place)
    except DataFault:
        raise
    except Exception as error:  # noqa: BLE001 - what Pillow's many decoders raise on damaged files is anything; reported with its place
        raise DataFault(f"{place}: cannot be read as an image: {error or type(error).__name__}") from None


def content_name(pixels: Array) -> bytes:
    """A digest of a sample's values and shape, the same for (h, w) and (h, w, 1)."""
    values = np.ascontiguousarray(pixels)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    found = hashlib.blake2b(f"{values.dtype.str}{values.shape}".encode(), digest_size=16)
    found.update(values.data if values.size else b"")
    return found.digest()


def as_array(value: Any, place: str) -> Array:
    """What code gave as one sample: an array, a tensor or a Pillow image. DataFault for anything else."""
    if isinstance(value, Image.Image):
        return pixels_of(value, place)
    if hasattr(value, "detach"):  # a torch tensor, without importing torch
        try:
            value = value.detach().cpu().numpy()
        except (TypeError, RuntimeError) as error:  # bfloat16, sparse or quantized tensors have no numpy form
            raise DataFault(f"{place}: cannot become a numpy array: {error}") from None
    if not isinstance(value, np.ndarray):
        raise DataFault(f"{place}: is a {type(value).__name__}; give an array, a tensor or a Pillow image")
    if value.dtype.kind not in "uifb":
        raise DataFault(f"{place}: dtype is {value.dtype}; images are uint8, other inputs numeric")
    return value
