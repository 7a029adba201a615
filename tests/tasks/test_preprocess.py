from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from accel.errors import DataFault
from accel.tasks.decode import decode_file
from accel.tasks.preprocess import apply, describe, snippet
from accel.tasks.settings import Preprocess

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 255, (30, 41, 3), np.uint8)
GREY = COLOUR[..., 0]
EFFICIENTNET = Preprocess(center_crop=0.875, resize=(224, 224), interpolation="bicubic", scale=1, mean=(127,), std=(128,))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One image in each form that decoding treats in its own way."""
    folder = tmp_path_factory.mktemp("images")
    forms = {
        "jpeg": Image.fromarray(COLOUR),
        "png": Image.fromarray(COLOUR),
        "grey.png": Image.fromarray(GREY),
        "bits.png": Image.fromarray(GREY).convert("1"),
        "alpha.png": Image.fromarray(COLOUR).convert("RGBA"),
        "palette.png": Image.fromarray(COLOUR).convert("P"),
        "cmyk.jpeg": Image.fromarray(COLOUR).convert("CMYK"),
    }
    paths = {name: folder / f"image.{name}" for name in forms}
    for name, image in forms.items():
        options: dict[str, Any] = {"transparency": bytes(range(256))} if name == "palette.png" else {}
        image.save(paths[name], **options)
    return paths


def deployed(preprocess: Preprocess, path: Path) -> Any:
    namespace: dict[str, Any] = {}
    exec(snippet(preprocess), namespace)
    return namespace["preprocess"](path)


def test_without_settings_pixels_become_fractions_channels_first() -> None:
    found = apply(COLOUR, Preprocess(), "x")
    assert found.dtype == np.float32 and found.flags.c_contiguous
    assert (found == COLOUR.transpose(2, 0, 1).astype(np.float32) / np.float32(255)).all()


def test_normalises_each_channel_in_the_order_the_model_takes() -> None:
    settings = Preprocess(color="bgr", layout="nhwc", scale=1, mean=(1, 2, 3), std=(2, 4, 8))
    found = apply(COLOUR, settings, "x")
    assert found.shape == (30, 41, 3)
    assert (found[..., 0] == (COLOUR[..., 2] - np.float32(1)) / 2).all()
    assert (found[..., 2] == (COLOUR[..., 0] - np.float32(3)) / 8).all()


@pytest.mark.parametrize("pixels", [GREY, GREY[..., None]])
def test_grey_images_serve_colour_models_and_the_other_way_round(pixels: Any) -> None:
    found = apply(pixels, Preprocess(scale=1), "x")
    assert found.shape == (3, 30, 41) and all((channel == GREY).all() for channel in found)
    assert apply(pixels, Preprocess(color="gray"), "x").shape == (1, 30, 41)
    luma = apply(COLOUR, Preprocess(color="gray", scale=1), "x")[0]
    assert np.abs(luma - COLOUR @ np.array([0.299, 0.587, 0.114])).max() <= 0.51


def test_resize_takes_the_short_side_or_height_and_width() -> None:
    assert apply(COLOUR, Preprocess(resize=15), "x").shape == (3, 15, 20)
    assert apply(COLOUR.transpose(1, 0, 2), Preprocess(resize=15), "x").shape == (3, 20, 15)
    assert apply(COLOUR, Preprocess(resize=(10, 12)), "x").shape == (3, 10, 12)


def test_a_fraction_crops_before_and_pixels_crop_after_resizing() -> None:
    fraction = apply(COLOUR, Preprocess(scale=1, center_crop=0.5), "x")
    assert (fraction == COLOUR[8:23, 13:28].transpose(2, 0, 1)).all()  # 15 of 30 x 41: (30-15)/2 rounds to 8
    assert apply(COLOUR, Preprocess(center_crop=0.5, resize=(8, 8)), "x").shape == (3, 8, 8)
    assert apply(COLOUR, Preprocess(center_crop=12, resize=15), "x").shape == (3, 12, 12)
    with pytest.raises(DataFault, match="x: 15 x 20 is smaller than center_crop 16; resize it first"):
        apply(COLOUR, Preprocess(center_crop=16, resize=15), "x")


def test_shrinking_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    found = apply(stripes, Preprocess(color="gray", scale=1, resize=(8, 8)), "x")
    assert found.min() > 100 and found.max() < 155


def test_efficientnet_lite_preprocessing_can_be_declared() -> None:
    photo = RANDOM.integers(0, 255, (299, 299, 3), np.uint8)
    side = int(224 / 256 * 299)
    image = Image.fromarray(photo[19 : 19 + side, 19 : 19 + side]).resize((224, 224), Image.Resampling.BICUBIC)
    expected = (np.asarray(image, np.float32).transpose(2, 0, 1) - 127) / 128
    assert (apply(photo, EFFICIENTNET, "x") == expected).all()


def test_agrees_with_torchvision() -> None:
    pytest.importorskip("torch")
    from accel.torchvision_guard import import_torchvision

    transforms = import_torchvision().transforms
    theirs = transforms.Compose(
        [
            transforms.Resize(21, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(16),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )(Image.fromarray(COLOUR)).numpy()
    settings = Preprocess(
        resize=21, interpolation="bicubic", center_crop=16, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    assert np.abs(apply(COLOUR, settings, "x") - theirs).max() < 1e-6


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (COLOUR.astype(np.float32), "x: is float32, but task.preprocess takes uint8 pixels; set preprocess to null"),
        (COLOUR.transpose(2, 0, 1), r"shape \(3, 30, 41\) is no image"),
        (np.zeros((3, 0), np.uint8), r"shape \(3, 0\) is no image"),
        (np.zeros(3, np.uint8), r"shape \(3,\) is no image"),
    ],
)
def test_what_is_no_image_is_refused(pixels: Any, message: str) -> None:
    with pytest.raises(DataFault, match=message):
        apply(pixels, Preprocess(), "x")


@pytest.mark.parametrize("form", ["jpeg", "png", "grey.png", "bits.png", "alpha.png", "palette.png", "cmyk.jpeg"])
@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
def test_the_snippet_equals_the_reader_to_the_bit(images: dict[str, Path], form: str, color: str) -> None:
    settings = Preprocess.model_validate({"color": color, "resize": 20, "center_crop": 16, "mean": [0.45], "std": [0.22]})
    path = images[form]
    ours = apply(decode_file(path, form), settings, form)
    theirs = deployed(settings, path)
    assert theirs.dtype == ours.dtype and theirs.flags.c_contiguous
    assert theirs.tobytes() == ours.tobytes() and theirs.shape == ours.shape


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    preprocess=st.builds(
        Preprocess,
        color=st.sampled_from(["rgb", "bgr"]),
        resize=st.one_of(st.none(), st.integers(8, 50), st.tuples(st.integers(8, 50), st.integers(8, 50))),
        interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
        center_crop=st.one_of(st.none(), st.floats(0.01, 1), st.integers(2, 8)),
        scale=st.floats(0.1, 300),
        mean=st.tuples(*[st.floats(-10, 200)] * 3),
        std=st.one_of(st.just((1.0,)), st.tuples(*[st.floats(0.01, 200)] * 3)),
        layout=st.sampled_from(["nchw", "nhwc"]),
    )
)
def test_any_snippet_equals_the_reader_to_the_bit(images: dict[str, Path], preprocess: Preprocess) -> None:
    ours = apply(decode_file(images["png"], "x"), preprocess, "x")
    theirs = deployed(preprocess, images["png"])
    assert theirs.tobytes() == ours.tobytes() and theirs.shape == ours.shape


def test_the_snippet_for_ready_made_samples_loads_them(tmp_path: Path) -> None:
    np.save(tmp_path / "sample.npy", COLOUR)
    namespace: dict[str, Any] = {}
    exec(snippet(None), namespace)
    assert (namespace["preprocess"](tmp_path / "sample.npy") == COLOUR).all()


def test_description_is_json_and_names_every_step_in_order() -> None:
    found = describe(EFFICIENTNET)
    assert json.loads(json.dumps(found)) == found
    assert found["steps"] == [
        "decode to 8 bits, RGB",
        "crop the centre square of 0.875 of the short side",
        "resize to 224 x 224 (height x width), bicubic, antialiased",
        "(pixel / 1 - mean) / std, mean [127.0], std [128.0], in float32",
        "channels first",
    ]
    assert Preprocess.model_validate({key: value for key, value in found.items() if key != "steps"}) == EFFICIENTNET
    other = describe(Preprocess(color="gray", resize=32, center_crop=28, layout="nhwc"))["steps"]
    assert other[1:3] == ["resize the short side to 32, bilinear, antialiased", "crop the centre 28 x 28"]
    assert describe(None) == {"steps": ["none: samples are already what the model takes"]}
