"""Data from a callable: a pair of arrays, a sequence of (sample, label), or an iterable of them that is read as it comes.

Only called where the policy allows the reference. What it gives must be the same each time: every sample's digest is kept from
the first reading and compared at the next ones.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from accel.errors import DataFault
from accel.imports import ImportPolicy, load, running
from accel.tasks.arrays import check_labels
from accel.tasks.decode import as_array, content_name
from accel.tasks.settings import Factory

if TYPE_CHECKING:
    from accel.contracts import Array

LIMIT = 1_000_000
"""How many samples an iterable without ``num_samples`` may give before it is taken for infinite."""


def pair_of(item: Any, place: str) -> tuple[Any, Any]:
    """(sample, label) of one item. DataFault if it is not a pair."""
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
    raise DataFault(f"{place}: is a {type(item).__name__}{size}; give (sample, label), with label None where there is none")


def as_label(value: Any, place: str) -> int | None:
    """A class index. DataFault for anything but an integer or None; several labels are a batch, which is refused by name."""
    if value is None:
        return None
    shape = tuple(getattr(value, "shape", ()))
    if shape and shape != (1,):
        raise DataFault(
            f"{place}: holds labels of shape {shape}; give single samples, no batches (a DataLoader) or one-hot rows"
        )
    try:
        return operator.index(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError):
        raise DataFault(f"{place}: label is a {type(value).__name__}; give a class index") from None


class PairReader:
    """Random access to (inputs, labels): inputs (n, ...) as ``NpzReader`` takes them, labels (n,) integers or None."""

    def __init__(self, inputs: Array, labels: Array | None, name: str) -> None:
        if labels is not None:
            check_labels(labels, len(inputs), name)
        self.inputs, self.labels, self.name = inputs, labels, name
        self.unlabelled = f"{name} gave no labels"
        self.remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    def place(self, index: int) -> str:
        return f"sample {index} ({self.name})"

    def sample(self, index: int) -> tuple[Array, int | None]:
        return self.inputs[index], None if self.labels is None else int(self.labels[index])


class SequenceReader:
    """Random access to a sequence of (sample, label), such as a torch data set."""

    def __init__(self, items: Any, name: str, policy: ImportPolicy) -> None:
        self.items, self.name, self.policy = items, name, policy
        self.unlabelled = f"{name} gave no labels"
        self.remarks: tuple[str, ...] = ()
        self._seen: dict[int, bytes] = {}
        with running(f"{name}: its length", policy, DataFault):
            self._count = len(items)

    def __len__(self) -> int:
        return self._count

    def place(self, index: int) -> str:
        return f"sample {index} ({self.name})"

    def sample(self, index: int) -> tuple[Array, int | None]:
        place = self.place(index)
        with running(place, self.policy, DataFault):
            item = self.items[index]
        found = _sample(item, place)
        require_same(self._seen.setdefault(index, content_name(found[0])), found[0], place)
        return found


class StreamReader:
    """An iterable of (sample, label), read forwards; going back starts it again. At most ``limit`` samples are read.

    The factory is called again where what it gave can be iterated only once. ``limit`` None: all, up to LIMIT.
    """

    def __init__(self, first: Any, factory: Factory, policy: ImportPolicy, limit: int | None) -> None:
        self.factory, self.policy, self.limit = factory, policy, limit
        self.name = factory.reference
        self.unlabelled = f"{self.name} gave no labels"
        self.remarks: tuple[str, ...] = ()
        self._source = first
        self._iterator: Iterator[Any] | None = None
        self._next = 0
        self._seen = [content_name(_sample(item, self.place(index))[0]) for index, item in enumerate(self._restart())]
        self._iterator = None

    def __len__(self) -> int:
        return len(self._seen)

    def place(self, index: int) -> str:
        return f"sample {index} ({self.name})"

    def sample(self, index: int) -> tuple[Array, int | None]:
        if self._iterator is None or index < self._next:
            self._iterator, self._next = self._restart(), 0
        place = self.place(index)
        item = next(islice(self._iterator, index - self._next, None), None)
        self._next = index + 1
        if item is None:
            raise DataFault(f"{self.name}: gave {len(self)} samples at first and fewer later; seed its random numbers")
        found = _sample(item, place)
        require_same(self._seen[index], found[0], place)
        return found

    def _restart(self) -> Iterator[Any]:
        """The items from the first one on. What the iterable raises names the item it was asked for."""
        source, self._source = self._source, None
        if source is None:
            source = call(self.factory, self.policy)
        with running(self.name, self.policy, DataFault):
            iterator = iter(source)
        if iterator is not source:
            self._source = source  # a collection: it can be asked again
        index = 0
        while self.limit is None or index < self.limit:
            with running(self.place(index), self.policy, DataFault):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            if index >= LIMIT and self.limit is None:
                raise DataFault(f"{self.name}: gave more than {LIMIT:,} samples, perhaps without end; set num_samples")
            yield item
            index += 1


def require_same(before: bytes, pixels: Array, place: str) -> None:
    """DataFault unless ``pixels`` are those of the first reading."""
    if content_name(pixels) != before:
        raise DataFault(f"{place}: differs from the first time it was read; seed the factory's random numbers")


def call(factory: Factory, policy: ImportPolicy) -> Any:
    """What the factory gives. DataFault where its own code fails."""
    function = load(factory.reference, policy)
    with running(factory.reference, policy, DataFault):
        return function(**factory.kwargs)


def open_factory(
    factory: Factory, policy: ImportPolicy, limit: int | None, shuffled: bool = False
) -> PairReader | SequenceReader | StreamReader:
    """Call the factory and look at what it gives. ``limit`` bounds how many samples of an iterable are read. DataFault
    where it gives something else, or, to be ``shuffled``, nothing with random access."""
    name = factory.reference
    given = call(factory, policy)
    if type(given) in (tuple, list) and len(given) == 2 and _dimensions(given[0]) >= 2:  # a subclass is a data set, not a pair
        inputs, labels = given
        if labels is None or _dimensions(labels) or _integers(labels):
            return PairReader(as_array(inputs, name), None if labels is None else _label_array(labels, name), name)
    if isinstance(given, dict | str | bytes | np.ndarray) or hasattr(given, "detach"):
        raise DataFault(f"{name}: returned a {type(given).__name__}; return (inputs, labels) or an iterable of (sample, label)")
    if hasattr(given, "__len__") and hasattr(given, "__getitem__"):
        return SequenceReader(given, name, policy)
    if not (hasattr(given, "__iter__") or hasattr(given, "__getitem__")):
        raise DataFault(f"{name}: returned a {type(given).__name__}; return (inputs, labels) or an iterable of (sample, label)")
    if shuffled:
        raise DataFault(f"{name}: gives samples one after the other, which cannot be shuffled here; shuffle in it, with a seed")
    return StreamReader(given, factory, policy, limit)


def _dimensions(value: Any) -> int:
    shape: Any = getattr(value, "shape", None)
    return len(shape) if isinstance(shape, tuple) else 0  # torch.Size is a tuple


def _integers(labels: Any) -> bool:
    return isinstance(labels, Sequence) and all(isinstance(label, int) for label in labels)


def _label_array(labels: Any, name: str) -> Array:
    return np.asarray(labels, dtype=np.int64) if _integers(labels) else as_array(labels, name)


def _sample(item: Any, place: str) -> tuple[Array, int | None]:
    value, label = pair_of(item, place)
    return as_array(value, place), as_label(label, place)
