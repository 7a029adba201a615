"""The task of naming what an image shows: its data, split and preprocessed, and how answers are scored.

Light to import: readers, numpy and Pillow come with the first sample. Every process that builds the task from the same recipe
gets the same batches in the same order. ``splits.py`` says which samples ``selection`` gets where it has no source of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from accel.contracts import AnswerKind, Batch, Predict, Score, Split
from accel.errors import DataFault
from accel.imports import ImportPolicy
from accel.model import Signature
from accel.tasks.digests import combined, file_digest, split_digest
from accel.tasks.metric_names import require_known
from accel.tasks.model_input import fitted, fixed_batch, image_input
from accel.tasks.settings import DataSettings, DataSource, ImageClassificationSettings
from accel.tasks.splits import SPLITS, order, part, require_part, share

if TYPE_CHECKING:
    from accel.contracts import Array
    from accel.model import TensorSpec
    from accel.tasks.checks import Watch
    from accel.tasks.reader import Reader


class ImageClassification:
    """One image in, one class out: data from six kinds of sources, top-1, top-5 and metrics of your own.

    ``inputs``: the model's signature, where known: gives the input's name (else ``"input"``) and what samples must fit.
    ``hold_selection``: hold half of calibration back as ``selection`` where nothing else is there for it. Paths in ``data`` and
    references to code are relative to ``policy.folder``. A batch axis fixed by the model overrides ``batch_size``.
    """

    def __init__(
        self,
        settings: ImageClassificationSettings,
        data: DataSettings,
        *,
        policy: ImportPolicy,
        inputs: Signature | None = None,
        seed: int = 0,
        hold_selection: bool = False,
    ) -> None:
        require_known(settings.metrics)
        self.settings = settings
        self.data = data
        self.policy = policy
        self.seed = seed
        self.hold_selection = hold_selection
        self._spec: TensorSpec | None = image_input(inputs)
        self._readers: dict[str, Reader] = {}
        self._hashes: dict[Path, str] = {}
        self._digests: dict[str, str] = {}
        self._warnings: dict[str, None] = {}  # in order, each once
        self._labels: dict[Split, Array] = {}

    @property
    def answers(self) -> AnswerKind:
        """What the model's first output holds for each sample."""
        return "classes"

    @property
    def warnings(self) -> list[str]:
        """What looked wrong in the splits read so far, each a sentence with its place."""
        return list(self._warnings)

    def has(self, split: Split) -> bool:
        """Whether the recipe gives data for ``split``; reads nothing."""
        return part(self.data, split, self.hold_selection) is not None

    def training(self) -> Iterable[Batch]:
        return self._batches("training")

    def calibration(self) -> Iterable[Batch]:
        return self._batches("calibration")

    def selection(self) -> Iterable[Batch]:
        return self._batches("selection")

    def validation(self) -> Iterable[Batch]:
        return self._batches("validation")

    def count(self, split: Split) -> int:
        """How many samples ``split`` has. Opens its reader."""
        return len(self._open(split)[1])

    def digest(self, split: Split) -> str:
        """What identifies the samples of ``split``, as ``accel.tasks.digests`` defines it. Reads data from a factory whole."""
        known = split_digest(
            self.settings,
            self.data,
            split,
            self.policy.folder,
            seed=self.seed,
            hold_selection=self.hold_selection,
            hashed=self._hash,
        )
        return self._digest_as_read(split) if known is None else known

    def labels(self, split: Split) -> Array | None:
        """(n,) int64: of the samples of ``split`` in order, as ``score`` has read them; None before that."""
        return self._labels.get(split)

    def thumbnails(self, split: Split, positions: Sequence[int]) -> list[str | None]:
        """A small picture of each of these samples of ``split``, as ``accel.tasks.thumbnails`` draws it.

        None for what is no image, and for what cannot be read (any more); nothing is raised. ``positions``: in the order of
        the split.
        """
        from accel.tasks.thumbnails import drawn

        return drawn(lambda: self._open(split), positions, channels_last=self.settings.preprocess is not None)

    def overlaps(self) -> list[str]:
        """A sentence for each two splits that share samples, by decoded content. Decodes up to 20,000 samples of each."""
        from accel.tasks.overlap import MOST, shared_samples

        contents: dict[str, set[bytes]] = {}
        totals: dict[str, int] = {}
        for split in SPLITS:
            if self.has(split):
                reader, indices = self._open(split)
                contents[split] = {name for name, _ in self._contents(split, reader, indices[:MOST])}
                totals[split] = len(indices)
        return shared_samples(contents, totals)

    def score(self, predict: Predict, split: Split = "validation") -> dict[str, Score]:
        """Every metric over the whole split, in the order of the settings.

        DataFault where the split has no labels, a label is no class of the model, or outputs or a metric are NaN.
        """
        from accel.tasks.scoring import score

        scores, remarks = score(self._answers(predict, split), self.settings, self.policy, f"data.{split}")
        self._warn(remarks)
        return scores

    def _batches(self, split: Split) -> Iterable[Batch]:
        reader, indices = self._open(split)
        return _Again(lambda: (batch for batch, _ in self._read(split, reader, indices, whole_batches="drop")))

    def _answers(self, predict: Predict, split: Split) -> Iterator[tuple[Sequence[Array], Array, list[str]]]:
        import numpy as np

        reader, indices = self._open(split)
        seen: list[Array] = []
        for batch, places in self._read(split, reader, indices, whole_batches="pad"):
            if batch.labels is None:
                raise DataFault(f"data.{split}: has no labels to score against: {reader.unlabelled}")
            seen.append(batch.labels[: len(places)])
            yield list(predict(batch.inputs)), batch.labels, places
        self._labels[split] = np.concatenate(seen)

    def _open(self, split: Split) -> tuple[Reader, list[int]]:
        found = require_part(self.data, split, self.hold_selection)
        source = found.source
        try:
            reader = self._reader(source)
            count = len(reader)
        except DataFault as error:
            raise DataFault(f"data.{found.declared}: {error}") from None
        whole = order(count, source)
        if source.num_samples is not None and len(whole) < source.num_samples:
            self._warn([f"data.{found.declared}: num_samples is {source.num_samples}, but only {len(whole)} are there"])
        self._warn([f"data.{found.declared}: {remark}" for remark in reader.remarks])
        self._compare_folders(reader, found.declared)
        indices = share(whole, found.role, self.seed)
        if not indices:
            raise DataFault(f"data.{split}: is empty: {_why_empty(count, source, found.role)}")
        return reader, indices

    def _compare_folders(self, reader: Reader, declared: Split) -> None:
        own = getattr(reader, "numbered", ())
        for other in self._readers.values():
            theirs = getattr(other, "numbered", ())
            if own and theirs and own != theirs:
                remark = f"class folders differ from those of another split ({', '.join(own)}; {', '.join(theirs)})"
                consequence = "so the same label means different classes; name all of them in task.classes"
                self._warn([f"data.{declared}: {remark}, {consequence}"])

    def _reader(self, source: DataSource) -> Reader:
        """The reader of ``source``, shared by the splits that read the same; what is read as it comes belongs to one split."""
        from accel.tasks.reader import is_stream, open_reader

        shared = json.dumps([source.chosen().model_dump(mode="json"), type(source.chosen()).__name__], sort_keys=True)
        own = f"{shared} {source.skip} {source.num_samples} {source.shuffle}"
        for key in (shared, own):
            if key in self._readers:
                return self._readers[key]
        reader = open_reader(source, self.policy, self.settings.classes)
        self._readers[own if is_stream(reader) else shared] = reader
        return reader

    def _read(
        self, split: Split, reader: Reader, indices: list[int], whole_batches: Literal["pad", "drop"]
    ) -> Iterator[tuple[Batch, list[str]]]:
        """Batches, each with the places of its samples.

        ``whole_batches``: what to do where the model fixes the batch size and the last batch is short: repeat its last sample
        (there are then fewer places than rows), or leave it out and say so.
        """
        from accel.tasks.checks import Watch

        fixed = fixed_batch(self._spec)
        size = fixed or require_part(self.data, split, self.hold_selection).source.batch_size
        watch = Watch(split, declared=self.settings.preprocess is not None)
        try:
            for start in range(0, len(indices), size):
                chosen = indices[start : start + size]
                if fixed and len(chosen) < fixed:
                    if whole_batches == "drop":
                        self._leave_out(split, len(chosen), fixed, len(indices))
                        break
                    chosen = chosen + [chosen[-1]] * (fixed - len(chosen))
                places = [reader.place(index) for index in indices[start : start + size]]
                yield self._batch(reader, chosen, watch, len(places)), places
        except DataFault as error:
            raise DataFault(f"data.{split}: {error}") from None
        self._warn(watch.remarks())

    def _batch(self, reader: Reader, chosen: list[int], watch: Watch, real: int) -> Batch:
        import numpy as np

        samples: list[Array] = []
        labels: list[int | None] = []
        for position, index in enumerate(chosen):
            place = reader.place(index)
            raw, label = reader.sample(index)
            if position < real:
                watch.see(raw, label, place)
            samples.append(self._prepared(raw, place))
            labels.append(label)
            if samples[-1].shape != samples[0].shape:
                raise DataFault(
                    f"{place}: becomes {samples[-1].shape}, others {samples[0].shape}; set task.preprocess.resize to a height"
                    " and a width, or add center_crop"
                )
            if (label is None) != (labels[0] is None):
                raise DataFault(f"{place}: {'has no' if label is None else 'has a'} label, unlike {reader.place(chosen[0])}")
        name = "input" if self._spec is None else self._spec.name
        found = None if labels[0] is None else np.array(labels, dtype=np.int64)
        return Batch({name: np.stack(samples)}, found)

    def _prepared(self, raw: Array, place: str) -> Array:
        if self.settings.preprocess is None:
            return fitted(raw, self._spec, place)
        from accel.tasks.preprocess import apply

        return fitted(apply(raw, self.settings.preprocess, place), self._spec, place)

    def _leave_out(self, split: Split, short: int, fixed: int, count: int) -> None:
        if count < fixed:
            raise DataFault(
                f"has {count} samples, but the model takes {fixed} at a time; give more, or export a dynamic batch axis"
            )
        self._warn([f"data.{split}: the last {short} samples are left out: the model takes {fixed} at a time"])

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = file_digest(path)
        return self._hashes[path]

    def _digest_as_read(self, split: Split) -> str:
        if split not in self._digests:
            reader, indices = self._open(split)
            found = hashlib.sha256()
            for content, label in self._contents(split, reader, indices):
                found.update(content + str(label).encode() + b";")
            source = require_part(self.data, split, self.hold_selection).source
            self._digests[split] = combined(source, self.settings.preprocess, found.hexdigest())
        return self._digests[split]

    def _contents(self, split: Split, reader: Reader, indices: list[int]) -> Iterator[tuple[bytes, int | None]]:
        from accel.tasks.decode import content_name

        try:
            for index in indices:
                raw, label = reader.sample(index)
                yield content_name(raw), label
        except DataFault as error:
            raise DataFault(f"data.{split}: {error}") from None

    def _warn(self, remarks: Iterable[str]) -> None:
        self._warnings.update(dict.fromkeys(remarks))


@dataclass(frozen=True)
class _Again:
    """Iterable as often as one likes, each time from the start."""

    start: Callable[[], Iterator[Batch]]

    def __iter__(self) -> Iterator[Batch]:
        return self.start()


def _why_empty(count: int, source: DataSource, role: str) -> str:
    if not count:
        return "the source holds no samples"
    if source.skip >= count:
        return f"skip is {source.skip}, but the source holds {count} samples"
    return f"its share ({role}) of {count} samples is none; give more samples or a source of its own"
