"""What a recipe says about data and preprocessing. Light: pydantic only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Arrays(_Settings):
    """An ``.npz``. ``inputs`` and ``labels`` name its arrays; with ``offsets``, ``inputs`` is all encoded images end to end.

    For a task on text, ``inputs`` is an array of texts; without it, there is one array for each input of the model, by name.
    """

    path: str
    inputs: str = "inputs"
    labels: str | None = "labels"
    offsets: str | None = None


class Csv(_Settings):
    """A CSV of image files and labels; files are relative to ``root``, by default the CSV's own folder.

    For a task on text: a CSV of texts and labels, the texts in ``text_column``.
    """

    path: str
    file_column: str = "file"
    text_column: str = "text"
    label_column: str = "label"
    root: str | None = None


class Tar(_Settings):
    """A tar of images with a CSV, inside the tar or beside it."""

    path: str
    csv: str = "labels.csv"
    file_column: str = "file"
    label_column: str = "label"


class TorchvisionData(_Settings):
    """A torchvision data set that is already on disk below ``root``; nothing is downloaded."""

    name: str
    root: str
    kwargs: dict[str, Any] = Field(default_factory=dict)


class Folder(_Settings):
    """A folder of images, as ``DataSource.chosen`` gives it; a recipe writes the path alone."""

    path: str


class Factory(_Settings):
    """A callable that gives data, as ``DataSource.chosen`` gives it; a recipe writes ``factory`` and ``kwargs``."""

    reference: str
    kwargs: dict[str, Any] = Field(default_factory=dict)


Chosen = Arrays | Folder | Csv | Tar | TorchvisionData | Factory

READERS = ("arrays", "folder", "csv", "tar", "torchvision", "factory")

PositiveInt = Annotated[int, Field(gt=0)]


class DataSource(_Settings):
    """One split: exactly one of the readers, and how much of it.

    ``skip`` samples are passed over first and ``num_samples`` (default: all) taken, in an order shuffled by ``shuffle`` (a
    seed) or as the source has them.
    """

    arrays: Arrays | str | None = None
    folder: str | None = None
    csv: Csv | str | None = None
    tar: Tar | str | None = None
    torchvision: TorchvisionData | None = None
    factory: str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)
    skip: Annotated[int, Field(ge=0)] = 0
    num_samples: PositiveInt | None = None
    shuffle: int | None = None
    batch_size: PositiveInt = 32

    @model_validator(mode="after")
    def _one_reader(self) -> Self:
        named = [name for name in READERS if getattr(self, name) is not None]
        if len(named) != 1:
            found = " and ".join(named) if named else "none"
            raise ValueError(f"a data source names exactly one of {', '.join(READERS)}; found {found}")
        if self.kwargs and self.factory is None:
            raise ValueError("kwargs belong to a factory; a torchvision data set has its own below `torchvision`")
        return self

    def chosen(self) -> Chosen:
        """The one reader's settings, with a bare path spelled out."""
        if self.arrays is not None:
            return Arrays(path=self.arrays) if isinstance(self.arrays, str) else self.arrays
        if self.folder is not None:
            return Folder(path=self.folder)
        if self.csv is not None:
            return Csv(path=self.csv) if isinstance(self.csv, str) else self.csv
        if self.tar is not None:
            return Tar(path=self.tar) if isinstance(self.tar, str) else self.tar
        if self.torchvision is not None:
            return self.torchvision
        return Factory(reference=str(self.factory), kwargs=self.kwargs)


class DataSettings(_Settings):
    training: DataSource | None = None
    calibration: DataSource | None = None
    selection: DataSource | None = None
    validation: DataSource | None = None


class Preprocess(_Settings):
    """From a decoded image to the model's input, in this order:

    colour; ``center_crop`` where it is a fraction (0, 1] of the short side; ``resize`` (an int: the short side; a pair: height
    and width) with ``interpolation`` and antialiasing; ``center_crop`` where it is a number of pixels;
    ``(pixel / scale - mean) / std``; ``layout``. ``mean`` and ``std``: one value, or one for each channel in the order the
    model takes them (``bgr``: blue first).
    """

    color: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    center_crop: Annotated[float, Field(gt=0)] | None = None
    scale: Annotated[float, Field(gt=0)] = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] = "nchw"

    @model_validator(mode="after")
    def _channels(self) -> Self:
        channels = 1 if self.color == "gray" else 3
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, channels):
                raise ValueError(f"{name} has {len(getattr(self, name))} values; {self.color} takes 1 or {channels}")
        if self.center_crop is not None and self.center_crop > 1 and self.center_crop != int(self.center_crop):
            raise ValueError(f"center_crop is a fraction up to 1 or a whole number of pixels, not {self.center_crop}")
        return self


class ImageClassificationSettings(_Settings):
    """``preprocess`` is null where the data already has the model's input form (float arrays)."""

    type: Literal["image_classification"] = "image_classification"
    metrics: tuple[str, ...] = ("top1", "top5")
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None


class Tokenizer(_Settings):
    """What makes a tokenizer: ``factory(**kwargs)`` gives a callable from one text to a row of integers for each input."""

    factory: Annotated[str, Field(min_length=1, description="file.py:name beside the recipe, or package.module:name")]
    kwargs: dict[str, Any] = Field(default_factory=dict)


Padding = Annotated[
    Literal["longest"] | PositiveInt,
    Field(description="Rows are filled up to the longest of their batch, or to this length; to the model's, where it has one"),
]
PadValues = Annotated[dict[str, int], Field(description="What rows are filled up with, by input; 0 for those not named")]


class TextClassificationSettings(_Settings):
    """``tokenizer`` is absent where the data already is tokenised."""

    type: Literal["text_classification"]
    metrics: tuple[str, ...] = ("top1",)
    tokenizer: Tokenizer | None = None
    padding: Padding = "longest"
    pad_values: PadValues = Field(default_factory=dict)
    classes: tuple[str, ...] | None = None


class EmbeddingSettings(_Settings):
    """Text to vectors. Rows are judged by how close their vectors stay to the reference's; ``metrics`` need labels."""

    type: Literal["embedding"]
    metrics: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None
    padding: Padding = "longest"
    pad_values: PadValues = Field(default_factory=dict)


ClassificationSettings = ImageClassificationSettings | TextClassificationSettings
TextSettings = TextClassificationSettings | EmbeddingSettings

_IMAGES = "image_classification"


def _kind(given: Any) -> str:
    """Which settings are meant. What is no type of ours is left to the first, which says what is allowed."""
    named = given.get("type") if isinstance(given, Mapping) else getattr(given, "type", None)
    return str(named) if named in ("text_classification", "embedding") else _IMAGES


TaskSettings = Annotated[
    Annotated[ImageClassificationSettings, Tag(_IMAGES)]
    | Annotated[TextClassificationSettings, Tag("text_classification")]
    | Annotated[EmbeddingSettings, Tag("embedding")],
    Discriminator(_kind),
]
"""What a recipe has below ``task``; without a type, image_classification is meant."""
