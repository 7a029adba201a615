from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from accel.errors import DataFault
from accel.tasks.decode import as_array, content_name, decode_bytes, decode_file

PIXELS = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "LA"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    found = decode_bytes(encoded(image, "TIFF"), "x")
    assert found.dtype == np.uint8 and found.shape == (4, 5, 3)
    assert (found == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_stays_one_channel(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    assert (decode_bytes(encoded(image), "x") == np.asarray(image.convert("L"))).all()


def test_a_palette_with_transparency_loses_only_the_transparency() -> None:
    image = Image.fromarray(PIXELS).convert("P")
    found = decode_bytes(encoded(image, transparency=bytes(range(60))), "x")
    assert (found == np.asarray(image.convert("RGB"))).all()


def test_sixteen_bits_are_refused_not_clipped() -> None:
    with pytest.raises(DataFault, match=r"x: more than 8 bits a channel .*convert it to 8 bits"):
        decode_bytes(encoded(Image.fromarray(np.full((2, 2), 40000, np.uint16))), "x")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_a_truncated_image_names_its_place(kind: str) -> None:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), kind)
    with pytest.raises(DataFault, match="sample 3: cannot be read as an image"):
        decode_bytes(whole[: len(whole) // 3], "sample 3")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(DataFault, match="x: cannot be read as an image"):
        decode_bytes(content, "x")


def test_a_decompression_bomb_is_refused() -> None:
    with pytest.raises(DataFault, match="decompression bomb"):
        decode_bytes(encoded(Image.new("1", (20_000, 10_000))), "x")


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataFault, match="sample 0: No such file"):
        decode_file(tmp_path / "absent.png", "sample 0")


def test_content_is_named_by_values_and_shape() -> None:
    grey = PIXELS[..., 0]
    assert content_name(grey) == content_name(grey[..., None])
    names = {content_name(grey), content_name(grey.T), content_name(grey.astype(np.float32)), content_name(grey + 1)}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "is a str"),
        (np.array(["a"]), "dtype is <U1"),
        (np.array([None]), "dtype is object"),
        (np.array([1j]), "dtype is complex128"),
        ({"image": PIXELS}, "is a dict"),
    ],
)
def test_only_numbers_and_images_are_samples(value: object, message: str) -> None:
    with pytest.raises(DataFault, match=message):
        as_array(value, "item 2")


def test_a_tensor_and_an_image_are_samples() -> None:
    class Tensor:
        def detach(self) -> Tensor:
            return self

        def cpu(self) -> Tensor:
            return self

        def numpy(self) -> object:
            return PIXELS

    assert as_array(Tensor(), "x") is PIXELS
    assert (as_array(Image.fromarray(PIXELS), "x") == PIXELS).all()
