"""Tasks on text: naming its class, and turning it into a vector.

Light to import: readers and numpy come with the first sample. Several inputs (token ids, masks) and rows of different lengths;
``splits.py`` says which samples ``selection`` gets where it has no source of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from accel.contracts import AnswerKind, Batch, Predict, Score, Split
from accel.errors import DataFault
from accel.imports import ImportPolicy
from accel.model import Signature, TensorSpec
from accel.tasks.digests import combined, file_digest, of_part, preparation, split_digest
from accel.tasks.metric_names import require_known
from accel.tasks.model_input import fixed_batch
from accel.tasks.settings import DataSettings, DataSource, TextClassificationSettings, TextSettings
from accel.tasks.splits import SPLITS, order, part, require_part, share

if TYPE_CHECKING:
    from accel.contracts import Array
    from accel.tasks.text_reader import TextReader

Row = Mapping[str, "Array"]


class TextTask:
    """Data from an ``.npz``, a CSV or a callable, tokenised or to be tokenised; top-1, top-5, and metrics of your own.

    ``settings`` say whether classes or vectors are judged; the other arguments are those of ``ImageClassification``. A
    tokenizer is called once for each text; what it gave is kept.
    """

    def __init__(
        self,
        settings: TextSettings,
        data: DataSettings,
        *,
        policy: ImportPolicy,
        inputs: Signature | None = None,
        seed: int = 0,
        hold_selection: bool = False,
    ) -> None:
        require_known(settings.metrics, settings.type)
        self.settings = settings
        self.data = data
        self.policy = policy
        self.seed = seed
        self.hold_selection = hold_selection
        self._specs: tuple[TensorSpec, ...] = () if inputs is None else inputs.inputs
        self._sources: dict[str, _Source] = {}
        self._hashes: dict[Path, str] = {}
        self._digests: dict[str, str] = {}
        self._warnings: dict[str, None] = {}
        self._labels: dict[Split, Array] = {}

    @property
    def answers(self) -> AnswerKind:
        """What the model's first output holds for each sample."""
        return "classes" if isinstance(self.settings, TextClassificationSettings) else "embeddings"

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
        """What identifies the samples of ``split``. What a tokenizer or a factory gives is read whole for it."""
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
        """(n,) int64: of the samples of ``split`` in order, as ``score`` has read them; None before that or without any."""
        return self._labels.get(split)

    def thumbnails(self, split: Split, positions: Sequence[int]) -> list[str | None]:
        """Texts have no pictures: None for each."""
        return [None] * len(positions)

    def overlaps(self) -> list[str]:
        """A sentence for each two splits that share samples, by their tokens. Looks at up to 20,000 samples of each."""
        from accel.tasks.overlap import MOST, shared_samples

        contents: dict[str, set[bytes]] = {}
        totals: dict[str, int] = {}
        for split in SPLITS:
            if self.has(split):
                source, indices = self._open(split)
                contents[split] = {name for name, _ in self._contents(split, source, indices[:MOST])}
                totals[split] = len(indices)
        return shared_samples(contents, totals)

    def score(self, predict: Predict, split: Split = "validation") -> dict[str, Score]:
        """Every metric over the whole split, in the order of the settings; embeddings may have none.

        DataFault where a metric needs labels and there are none, a label is no class of the model, outputs are NaN or none for
        each sample, or a metric is.
        """
        if isinstance(self.settings, TextClassificationSettings):
            from accel.tasks import scoring

            scores, remarks = scoring.score(self._answers(predict, split), self.settings, self.policy, f"data.{split}")
        else:
            from accel.tasks import embedding_scores

            asked = self._answers(predict, split, labelled=bool(self.settings.metrics))
            scores, remarks = embedding_scores.score(asked, self.settings.metrics, self.policy)
        self._warn(remarks)
        return scores

    def _batches(self, split: Split) -> Iterable[Batch]:
        source, indices = self._open(split)
        return _Again(lambda: (batch for batch, _ in self._read(split, source, indices, whole_batches="drop")))

    def _answers(
        self, predict: Predict, split: Split, labelled: bool = True
    ) -> Iterator[tuple[Sequence[Array], Array, list[str]]]:
        """``labelled``: labels there must be; without, they are empty where there are none."""
        import numpy as np

        source, indices = self._open(split)
        seen: list[Array] = []
        for batch, places in self._read(split, source, indices, whole_batches="pad"):
            if batch.labels is None and labelled:
                raise DataFault(f"data.{split}: has no labels to score against: {source.reader.unlabelled}")
            labels = np.zeros(0, np.int64) if batch.labels is None else batch.labels
            seen += [] if batch.labels is None else [labels[: len(places)]]
            yield list(predict(batch.inputs)), labels, places
        if seen:
            self._labels[split] = np.concatenate(seen)

    def _open(self, split: Split) -> tuple[_Source, list[int]]:
        found = require_part(self.data, split, self.hold_selection)
        try:
            source = self._source(found.source)
        except DataFault as error:
            raise DataFault(f"data.{found.declared}: {error}") from None
        count = len(source.reader)
        whole = order(count, found.source)
        wanted = found.source.num_samples
        if wanted is not None and len(whole) < wanted:
            self._warn([f"data.{found.declared}: num_samples is {wanted}, but only {len(whole)} are there"])
        indices = share(whole, found.role, self.seed)
        if not indices:
            why = "the source holds no samples" if not count else f"of {count} samples, none is left for it"
            raise DataFault(f"data.{split}: is empty: {why}")
        return source, indices

    def _source(self, source: DataSource) -> _Source:
        """Shared by the splits that read the same. A callable is asked for no more than one split needs, so it is theirs."""
        from accel.tasks.text_reader import open_texts

        chosen = source.chosen()
        key = json.dumps([type(chosen).__name__, chosen.model_dump(mode="json")], sort_keys=True)
        if source.factory is not None:
            key += f" {source.skip} {source.num_samples} {source.shuffle}"
        if key not in self._sources:
            classes = self.settings.classes if isinstance(self.settings, TextClassificationSettings) else None
            reader = open_texts(source, self.policy, [spec.name for spec in self._specs], classes)
            self._sources[key] = _Source(reader, self._tokenizer)
        return self._sources[key]

    def _tokenizer(self) -> Callable[[str, str], Row]:
        from accel.tasks.tokenizing import open_tokenizer

        return open_tokenizer(self.settings.tokenizer, self.policy)

    def _read(
        self, split: Split, source: _Source, indices: list[int], whole_batches: Literal["pad", "drop"]
    ) -> Iterator[tuple[Batch, list[str]]]:
        """Batches, each with the places of its samples. ``whole_batches``: as ``ImageClassification`` has it."""
        import numpy as np

        from accel.tasks.checks import Watch
        from accel.tasks.padding import batched

        fixed = fixed_batch(self._specs[0] if self._specs else None)
        size = fixed or require_part(self.data, split, self.hold_selection).source.batch_size
        length = self.settings.padding if isinstance(self.settings.padding, int) else None
        watch = Watch(split, declared=True)
        try:
            for start in range(0, len(indices), size):
                chosen = indices[start : start + size]
                places = [source.reader.place(index) for index in chosen]
                if fixed and len(chosen) < fixed:
                    if whole_batches == "drop":
                        self._leave_out(split, len(chosen), fixed, len(indices))
                        break
                    chosen = chosen + [chosen[-1]] * (fixed - len(chosen))
                found = [source.sample(index) for index in chosen]
                for (row, label), place in zip(found, places, strict=False):
                    watch.see(np.concatenate([array.ravel() for array in row.values()]), label, place)
                names = [source.reader.place(index) for index in chosen]
                rows = [row for row, _ in found]
                inputs = batched(rows, names, self._specs, length=length, pad_values=self.settings.pad_values)
                labels = [label for _, label in found if label is not None]
                yield Batch(inputs, np.array(labels, dtype=np.int64) if labels else None), places
        except DataFault as error:
            raise DataFault(f"data.{split}: {error}") from None
        self._warn(watch.remarks())

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
            found = require_part(self.data, split, self.hold_selection)
            source, indices = self._open(split)
            total = hashlib.sha256()
            for content, label in self._contents(split, source, indices):
                total.update(content + str(label).encode() + b";")
            whole = combined(found.source, preparation(self.settings), total.hexdigest())
            self._digests[split] = of_part(whole, found, self.seed)
        return self._digests[split]

    def _contents(self, split: Split, source: _Source, indices: list[int]) -> Iterator[tuple[bytes, int | None]]:
        from accel.tasks.decode import content_name

        try:
            for index in indices:
                row, label = source.sample(index)
                named = b"".join(name.encode() + content_name(row[name]) for name in sorted(row))
                yield hashlib.blake2b(named, digest_size=16).digest(), label
        except DataFault as error:
            raise DataFault(f"data.{split}: {error}") from None

    def _warn(self, remarks: Iterable[str]) -> None:
        self._warnings.update(dict.fromkeys(remarks))


class _Source:
    """A reader, and what its texts became."""

    def __init__(self, reader: TextReader, tokenizer: Callable[[], Callable[[str, str], Row]]) -> None:
        self.reader = reader
        self._open_tokenizer = tokenizer
        self._tokenize: Callable[[str, str], Row] | None = None
        self._rows: dict[int, Row] = {}

    def sample(self, index: int) -> tuple[Row, int | None]:
        """The arrays of one sample, without a batch axis, and its label."""
        given, label = self.reader.sample(index)
        if not isinstance(given, str):
            return given, label
        if index not in self._rows:
            if self._tokenize is None:
                self._tokenize = self._open_tokenizer()
            self._rows[index] = self._tokenize(given, self.reader.place(index))
        return self._rows[index], label


@dataclass(frozen=True)
class _Again:
    """Iterable as often as one likes, each time from the start."""

    start: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self.start()
