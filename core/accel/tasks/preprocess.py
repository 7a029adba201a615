"""From decoded pixels to the model's input, and the same as text: for the manifest and as a function to deploy.

Pillow resizes (with antialiasing, which its bilinear and bicubic filters always have when they shrink); numpy does the rest, in
float32. EfficientNet's evaluation (a centre crop of 224/256 of the short side, bicubic to 224, (pixel - 127) / 128) is
``center_crop: 0.875, resize: [224, 224], interpolation: bicubic, scale: 1, mean: [127], std: [128]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from accel.errors import DataFault
from accel.tasks.settings import Preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from accel.contracts import Array

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def apply(pixels: Array, settings: Preprocess, place: str) -> NDArray[np.float32]:
    """uint8 (h, w), (h, w, 1) or (h, w, 3), red first, to float32 (c, h, w) or (h, w, c). DataFault names ``place``."""
    image = _image(pixels, place)
    wanted = "L" if settings.color == "gray" else "RGB"
    if image.mode != wanted:
        image = image.convert(wanted)
    crop = settings.center_crop
    if crop is not None and crop <= 1:
        side = max(int(crop * min(image.size)), 1)
        image = _centre(image, side)
    if settings.resize is not None:
        image = image.resize(_size(image, settings.resize), _FILTERS[settings.interpolation])
    if crop is not None and crop > 1:
        if int(crop) > min(image.size):
            raise DataFault(f"{place}: {image.height} x {image.width} is smaller than center_crop {int(crop)}; resize it first")
        image = _centre(image, int(crop))
    array = np.asarray(image, dtype=np.float32)
    mean, std = np.asarray(settings.mean, dtype=np.float32), np.asarray(settings.std, dtype=np.float32)
    if settings.color == "gray":
        array = array[:, :, None]
    elif settings.color == "bgr":
        array = array[:, :, ::-1]
    array = (array / np.float32(settings.scale) - mean) / std
    return np.ascontiguousarray(array.transpose(2, 0, 1) if settings.layout == "nchw" else array)


def _image(pixels: Array, place: str) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8:
        raise DataFault(
            f"{place}: is {pixels.dtype}, but task.preprocess takes uint8 pixels; set preprocess to null where the data is"
            " already what the model takes"
        )
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3)) or 0 in pixels.shape:
        raise DataFault(f"{place}: shape {pixels.shape} is no image; expected (height, width) or (height, width, 3)")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _centre(image: Image.Image, side: int) -> Image.Image:
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)  # as torchvision's CenterCrop rounds
    return image.crop((left, top, left + side, top + side))


def _size(image: Image.Image, resize: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height) for Pillow."""
    if not isinstance(resize, int):
        return resize[1], resize[0]
    short = min(image.size)
    width, height = (max(side * resize // short, 1) for side in image.size)
    return width, height


def describe(settings: Preprocess | None) -> dict[str, Any]:
    """For the manifest: the settings, and ``steps``, a sentence for each thing that is done, in order."""
    if settings is None:
        return {"steps": ["none: samples are already what the model takes"]}
    color = {"rgb": "RGB", "bgr": "BGR", "gray": "one grey channel (ITU-R 601-2 luma)"}[settings.color]
    steps = [f"decode to 8 bits, {color}"]
    crop = settings.center_crop
    if crop is not None and crop <= 1:
        steps.append(f"crop the centre square of {crop:g} of the short side")
    if settings.resize is not None:
        size = settings.resize
        to = f"the short side to {size}" if isinstance(size, int) else f"to {size[0]} x {size[1]} (height x width)"
        steps.append(f"resize {to}, {settings.interpolation}, antialiased")
    if crop is not None and crop > 1:
        steps.append(f"crop the centre {int(crop)} x {int(crop)}")
    steps.append(f"(pixel / {settings.scale:g} - mean) / std, mean {list(settings.mean)}, std {list(settings.std)}, in float32")
    steps.append("channels first" if settings.layout == "nchw" else "channels last")
    return {**settings.model_dump(mode="json"), "steps": steps}


def snippet(settings: Preprocess | None) -> str:
    """Source text of ``preprocess(image_path)``: one sample without its batch axis, equal to ours to the bit.

    Needs numpy and Pillow only. Where ``settings`` is None it reads an ``.npy`` that already is what the model takes.
    """
    if settings is None:
        return _ALREADY
    lines = ["import numpy as np", "from PIL import Image", "", "", "def preprocess(image_path):"]
    lines += ["    image = Image.open(image_path)"]
    lines += ['    if image.mode == "P" and "transparency" in image.info:', '        image = image.convert("RGBA")']
    lines += ['    if image.mode != "L":', '        image = image.convert("L" if image.mode == "1" else "RGB")']
    lines += [f'    image = image.convert("{"L" if settings.color == "gray" else "RGB"}")']
    crop = settings.center_crop
    if crop is not None and crop <= 1:
        lines += [f"    side = max(int({crop!r} * min(image.size)), 1)", *_CROP]
    if settings.resize is not None:
        lines += _resizing(settings.resize, settings.interpolation)
    if crop is not None and crop > 1:
        lines += [f"    side = {int(crop)}", *_CROP]
    lines += ["    array = np.asarray(image, dtype=np.float32)"]
    if settings.color != "rgb":
        lines += [f"    array = array[:, :, {'None' if settings.color == 'gray' else '::-1'}]"]
    mean, std = list(settings.mean), list(settings.std)
    lines += [f"    array = (array / np.float32({settings.scale!r}) - np.float32({mean})) / np.float32({std})"]
    lines += [f"    return np.ascontiguousarray(array{'.transpose(2, 0, 1)' if settings.layout == 'nchw' else ''})", ""]
    return "\n".join(lines)


_CROP = (
    "    left, top = round((image.width - side) / 2), round((image.height - side) / 2)",
    "    image = image.crop((left, top, left + side, top + side))",
)

_ALREADY = '''import numpy as np


def preprocess(sample_path):
    """One sample (.npy) that already is what the model takes."""
    return np.load(sample_path, allow_pickle=False)
'''


def _resizing(resize: int | tuple[int, int], interpolation: str) -> list[str]:
    chosen = f"Image.Resampling.{interpolation.upper()}"
    if not isinstance(resize, int):
        return [f"    image = image.resize(({resize[1]}, {resize[0]}), {chosen})"]
    return [
        "    short = min(image.size)",
        f"    size = tuple(max(side * {resize} // short, 1) for side in image.size)",
        f"    image = image.resize(size, {chosen})",
    ]
