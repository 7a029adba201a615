"""Texts and tokenised arrays, from an ``.npz``, a CSV or a callable.

A sample is a text, or an array for each input of the model: rows of token ids, masks and the like, without a batch axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from accel.errors import DataFault, UsageError
from accel.imports import ImportPolicy, running
from accel.tasks.arrays import check_labels, names_in, read_array
from accel.tasks.decode import as_array
from accel.tasks.factory_data import LIMIT, as_label, call
from accel.tasks.label_csv import read_texts
from accel.tasks.settings import Arrays, Csv, DataSource, Factory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from accel.contracts import Array

Sample = str | Mapping[str, "Array"]


class TextReader(Protocol):
    """Random access to the samples of one source. ``unlabelled``: why labels are None, where they are."""

    @property
    def unlabelled(self) -> str: ...
    def __len__(self) -> int: ...
    def place(self, index: int, /) -> str: ...
    def sample(self, index: int, /) -> tuple[Sample, int | None]: ...


@dataclass(frozen=True)
class Samples:
    """Samples one by one, each a text or its arrays. ``labels``: of all, or of none."""

    items: Sequence[Sample]
    labels: Sequence[int | None] | None
    name: str
    unlabelled: str

    def __len__(self) -> int:
        return len(self.items)

    def place(self, index: int) -> str:
        return f"sample {index} ({self.name})"

    def sample(self, index: int) -> tuple[Sample, int | None]:
        return self.items[index], None if self.labels is None else self.labels[index]


@dataclass(frozen=True)
class Tokenised:
    """``arrays``: by the model's inputs, each (n, ...). ``labels``: (n,) integers."""

    arrays: Mapping[str, Array]
    labels: Array | None
    name: str
    unlabelled: str

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def place(self, index: int) -> str:
        return f"sample {index} ({self.name})"

    def sample(self, index: int) -> tuple[Sample, int | None]:
        label = None if self.labels is None else int(self.labels[index])
        return {name: array[index] for name, array in self.arrays.items()}, label


def open_texts(
    source: DataSource, policy: ImportPolicy, inputs: Sequence[str], classes: Sequence[str] | None = None
) -> TextReader:
    """The reader of ``source``; ``inputs``: what the model takes, where that is known. DataFault, UsageError, SafetyRefusal."""
    chosen, folder = source.chosen(), policy.folder
    if isinstance(chosen, Arrays):
        return _from_npz(chosen, folder, inputs)
    if isinstance(chosen, Csv):
        return _from_csv(chosen, folder, classes)
    if isinstance(chosen, Factory):
        bounded = source.num_samples is not None and source.shuffle is None  # to be shuffled, all must be there
        limit = source.skip + (source.num_samples or 0) if bounded else None
        return _from_factory(chosen, policy, limit)
    raise UsageError("a task on text reads arrays, csv or factory")


def _from_npz(settings: Arrays, folder: Path, inputs: Sequence[str]) -> TextReader:
    path = folder / settings.path
    names = names_in(path)
    labels, unlabelled = None, f"{path} has no array {settings.labels!r}; it has {', '.join(names)}"
    if settings.labels is not None and settings.labels in names:
        labels, unlabelled = read_array(path, settings.labels), ""
    if settings.inputs in names and settings.inputs not in inputs:
        given = read_array(path, settings.inputs)
        if given.dtype.kind == "U" and given.ndim == 1:
            if labels is not None:
                check_labels(labels, len(given), f"{path}: {settings.labels}")
            found = None if labels is None else [int(label) for label in labels]
            return Samples([str(text) for text in given], found, f"{path.name}: {settings.inputs}", unlabelled)
        if len(inputs) > 1:
            raise DataFault(
                f"{path}: {settings.inputs} is {given.dtype} {given.shape}; give one row of texts, or an array for each of"
                f" {', '.join(inputs)}"
            )
        return _tokenised({(inputs[0] if inputs else settings.inputs): given}, labels, path.name, unlabelled)
    wanted = list(inputs) or [name for name in names if name != settings.labels]
    missing = [name for name in wanted if name not in names]
    if missing or not wanted:
        way = f"call them {', '.join(inputs)}" if inputs else "store one array for each input of the model"
        raise DataFault(
            f"{path}: no array {', '.join(map(repr, missing or [settings.inputs]))}; it has {', '.join(names) or 'none'}; {way}"
        )
    return _tokenised({name: read_array(path, name) for name in wanted}, labels, path.name, unlabelled)


def _tokenised(arrays: Mapping[str, Array], labels: Array | None, name: str, unlabelled: str) -> Tokenised:
    for key, array in arrays.items():
        if array.dtype.kind not in "uifb" or not array.ndim:
            raise DataFault(f"{name}: {key} is {array.dtype} {array.shape}; token ids and masks are integers (samples, length)")
    counts = {key: len(array) for key, array in arrays.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{key} has {count}" for key, count in counts.items())
        raise DataFault(f"{name}: the arrays differ in their number of samples: {told}")
    if labels is not None:
        check_labels(labels, next(iter(counts.values())), name)
    return Tokenised(arrays, labels, name, unlabelled)


def _from_csv(settings: Csv, folder: Path, classes: Sequence[str] | None) -> Samples:
    path = folder / settings.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataFault(f"{path}: {error.strerror or error}") from None
    found = read_texts(
        content, str(path), text_column=settings.text_column, label_column=settings.label_column, classes=classes
    )
    return Samples(found.texts, found.labels, path.name, found.unlabelled)


def _from_factory(factory: Factory, policy: ImportPolicy, limit: int | None) -> TextReader:
    """What it may give: (texts, labels), ({input: array}, labels), or samples one by one, each a text, {input: row}, or one
    of these with a label. All are read now."""
    name = factory.reference
    given = call(factory, policy)
    unlabelled = f"{name} gave no labels"
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Mapping) and not _is_sample(given[1]):
        arrays = {str(key): as_array(value, name) for key, value in given[0].items()}
        if not arrays:
            raise DataFault(f"{name}: gave no arrays")
        return _tokenised(arrays, None if given[1] is None else _integers(given[1], name), name, unlabelled)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], list) and not _is_sample(given[1]):
        texts = [_checked(item, f"sample {index} ({name})") for index, item in enumerate(given[0])]
        if given[1] is None:
            return Samples(texts, None, name, unlabelled)
        labels = _integers(given[1], name)
        check_labels(labels, len(texts), name)
        return Samples(texts, [int(label) for label in labels], name, "")
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        way = "return texts, (texts, labels) or ({input: array}, labels)"
        raise DataFault(f"{name}: returned a {type(given).__name__}; {way}")
    pairs = list(_pairs(given, name, policy, limit))
    labelled = [label for _, label in pairs if label is not None]
    if labelled and len(labelled) < len(pairs):
        index = next(index for index, (_, label) in enumerate(pairs) if label is None)
        raise DataFault(f"sample {index} ({name}): has no label, unlike others")
    items = [item for item, _ in pairs]
    return Samples(items, labelled or None, name, "" if labelled else unlabelled)


def _pairs(given: Iterable[Any], name: str, policy: ImportPolicy, limit: int | None) -> Iterator[tuple[Sample, int | None]]:
    with running(name, policy, DataFault):
        iterator = iter(given)
    for index in range(LIMIT + 1 if limit is None else limit):
        place = f"sample {index} ({name})"
        with running(place, policy, DataFault):
            found = list(islice(iterator, 1))
        if not found:
            return
        if index >= LIMIT:
            raise DataFault(f"{name}: gave more than {LIMIT:,} samples, perhaps without end; set num_samples")
        item = found[0]
        if isinstance(item, tuple | list) and len(item) == 2:
            yield _checked(item[0], place), as_label(item[1], place)
        else:
            yield _checked(item, place), None


def _is_sample(value: Any) -> bool:
    return isinstance(value, str | Mapping)


def _checked(item: Any, place: str) -> Sample:
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping):
        return {str(key): as_row(value, f"{place}: {key}") for key, value in item.items()}
    raise DataFault(f"{place}: is a {type(item).__name__}; give a text, {{input: row}}, or one of these with a label")


def as_row(value: Any, place: str) -> Array:
    """One sample's array for one input, from a list of numbers, an array or a tensor. DataFault for anything else."""
    if isinstance(value, list | tuple):
        try:
            value = np.asarray(value)
        except ValueError:
            raise DataFault(f"{place}: is a list of lists of different lengths; give one row of integers") from None
    return as_array(value, place)


def _integers(labels: Any, name: str) -> NDArray[Any]:
    found = as_row(labels, f"{name}: labels")
    return np.asarray(found)
