from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.contracts import RecipeTask
from accel.errors import DataFault, SafetyRefusal, UsageError
from accel.imports import ImportPolicy
from accel.model import Signature, TensorSpec
from accel.tasks.settings import (
    Arrays,
    Csv,
    DataSettings,
    DataSource,
    EmbeddingSettings,
    TextClassificationSettings,
    TextSettings,
    Tokenizer,
)
from accel.tasks.text_task import TextTask

CODE = """
CALLS = []

def tokenizer(shift=0):
    def tokenize(text):
        CALLS.append(text)
        if text == "broken":
            raise RuntimeError("no such word")
        if text == "float":
            return {"ids": [0.5], "mask": [1]}
        if text == "alone":
            return [1, 2]
        ids = [ord(letter) + shift for letter in text]
        return {"ids": ids, "mask": [1] * len(ids), "unused": ids}
    return tokenize

def texts():
    return ["aa", "bbb", "c", "dddd"]

def labelled():
    return [("aa", 0), ("bbb", 1), ("c", 0)]

def arrays():
    import numpy
    return {"ids": numpy.arange(12).reshape(3, 4), "mask": numpy.ones((3, 4), numpy.int32)}, [0, 1, 0]

def half():
    return [("aa", 0), ("bbb", None)]

def numbers():
    return [1, 2]

def forever():
    while True:
        yield "on and on"
"""
INPUTS = Signature(tuple(TensorSpec(name, ("batch", "length"), "int64") for name in ("ids", "mask")), ())
TOKENIZER = Tokenizer(factory="words.py:tokenizer")
NAMES = TextClassificationSettings(type="text_classification", tokenizer=TOKENIZER)
VECTORS = EmbeddingSettings(type="embedding", tokenizer=TOKENIZER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words.py").write_text(CODE)
    (tmp_path / "texts.csv").write_text('text,label\naa,one\n" b, c ",two\nd,one\n')
    np.savez(tmp_path / "tokens.npz", ids=np.arange(20).reshape(5, 4), mask=np.ones((5, 4), np.int64), labels=np.arange(5) % 2)
    np.savez(tmp_path / "texts.npz", inputs=np.array(["aa", "bbb"]), labels=np.array([1, 0]))
    return tmp_path


def task(
    folder: Path, settings: TextSettings = NAMES, inputs: Signature | None = INPUTS, seed: int = 0, **splits: DataSource
) -> TextTask:
    return TextTask(settings, DataSettings(**splits), policy=ImportPolicy(folder), inputs=inputs, seed=seed)


def from_code(name: str, **settings: Any) -> DataSource:
    return DataSource(factory=f"words.py:{name}", **settings)


def answer(inputs: Mapping[str, Any]) -> list[Any]:
    """One class for texts that start with an a, another for all else."""
    first = np.asarray(inputs["ids"])[:, 0] == ord("a")
    return [np.stack([first, ~first], axis=1).astype(np.float32)]


def test_texts_become_the_models_inputs_filled_up_to_the_longest_of_their_batch(folder: Path) -> None:
    found: RecipeTask = task(folder, validation=from_code("texts", batch_size=2))
    batches = list(found.validation())
    assert [batch.inputs["ids"].shape for batch in batches] == [(2, 3), (2, 4)]
    assert batches[0].inputs["ids"].tolist() == [[97, 97, 0], [98, 98, 98]]
    assert batches[0].inputs["mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert list(batches[0].inputs) == ["ids", "mask"]  # what the model does not take is left out
    assert batches[0].inputs["ids"].dtype == np.int64 and batches[0].labels is None


def test_a_split_may_be_read_again_and_each_text_is_tokenised_once(folder: Path) -> None:
    found = task(folder, validation=from_code("labelled"))
    first, again = (next(iter(found.validation())).inputs["ids"] for _ in range(2))
    assert np.array_equal(first, again)
    assert found.count("validation") == 3
    calls = next(iter(found._sources.values()))._tokenize
    assert calls is not None and len(next(iter(found._sources.values()))._rows) == 3


@pytest.mark.parametrize(("padding", "width"), [("longest", 3), (7, 7)])
def test_padding_and_its_values_are_settings(folder: Path, padding: Any, width: int) -> None:
    settings = NAMES.model_copy(update={"padding": padding, "pad_values": {"ids": 9}})
    batch = next(iter(task(folder, settings, validation=from_code("labelled")).validation()))
    assert batch.inputs["ids"].shape == (3, width)
    assert batch.inputs["ids"][0, 2] == 9 and batch.inputs["mask"][0, 2] == 0


def test_a_length_that_the_model_fixes_decides(folder: Path) -> None:
    fixed = Signature(tuple(TensorSpec(name, (2, 5), "int32") for name in ("ids", "mask")), ())
    found = task(folder, inputs=fixed, validation=from_code("labelled"))
    batches = list(found.validation())
    assert [(batch.inputs["ids"].shape, batch.inputs["ids"].dtype) for batch in batches] == [((2, 5), np.dtype(np.int32))]
    assert any("the last 1 samples are left out" in warning for warning in found.warnings)
    scores = found.score(answer)
    assert scores["top1"].per_sample is not None and len(scores["top1"].per_sample) == 3  # filled up with repeats, not counted


def test_tokenised_arrays_need_no_tokenizer(folder: Path) -> None:
    settings = TextClassificationSettings(type="text_classification")
    for source in (DataSource(arrays="tokens.npz"), from_code("arrays")):
        batch = next(iter(task(folder, settings, validation=source).validation()))
        assert batch.inputs["ids"][1].tolist() == [4, 5, 6, 7] and batch.labels is not None
        assert batch.inputs["mask"].dtype == np.int64


def test_texts_from_an_npz_and_a_csv(folder: Path) -> None:
    batch = next(iter(task(folder, validation=DataSource(arrays="texts.npz")).validation()))
    assert batch.inputs["ids"][0].tolist() == [97, 97, 0] and batch.labels is not None and batch.labels.tolist() == [1, 0]
    named = NAMES.model_copy(update={"classes": ("one", "two")})
    batch = next(iter(task(folder, named, validation=DataSource(csv="texts.csv")).validation()))
    assert batch.labels is not None and batch.labels.tolist() == [0, 1, 0]
    assert batch.inputs["ids"][1].tolist() == [ord(letter) for letter in " b, c "]


def test_classes_are_scored_and_labels_kept(folder: Path) -> None:
    found = task(folder, validation=from_code("labelled", batch_size=2))
    assert found.labels("validation") is None
    assert found.score(answer)["top1"].value == pytest.approx(2 / 3)  # c starts with no a
    labels = found.labels("validation")
    assert found.answers == "classes" and labels is not None and labels.tolist() == [0, 1, 0]
    with pytest.raises(DataFault, match="has no labels to score against"):
        task(folder, validation=from_code("texts")).score(answer)


def test_embeddings_need_no_labels_and_are_looked_at_all_the_same(folder: Path) -> None:
    found = task(folder, VECTORS, validation=from_code("texts"))
    assert found.answers == "embeddings"
    assert found.score(answer) == {} and found.labels("validation") is None
    with pytest.raises(DataFault, match="outputs are NaN"):
        found.score(lambda inputs: [np.full((4, 2), np.nan)])
    with pytest.raises(DataFault, match="pool the tokens inside the model"):
        found.score(lambda inputs: [np.zeros((4, 3, 2))])


def test_the_digest_follows_texts_tokenizer_and_padding(folder: Path) -> None:

    def made(settings: TextSettings = NAMES) -> TextTask:
        return task(folder, settings, validation=from_code("labelled"), calibration=from_code("texts"))

    digests = {made().digest(split) for split in ("validation", "calibration")}
    shifted = Tokenizer(factory="words.py:tokenizer", kwargs={"shift": 1})
    for change in ({"tokenizer": shifted}, {"padding": 9}, {"pad_values": {"ids": 1}}):
        digests.add(made(NAMES.model_copy(update=change)).digest("validation"))
    assert len(digests) == 5
    assert made().digest("validation") == made().digest("validation")


def test_selection_is_held_back_and_overlaps_are_found_by_content(folder: Path) -> None:
    whole = DataSource(arrays="tokens.npz")
    found = task(folder, NAMES.model_copy(update={"tokenizer": None}), training=whole, validation=whole)
    assert [found.count(split) for split in ("training", "selection", "validation")] == [4, 1, 5]
    assert sorted(found.overlaps()) == [
        "selection and validation share 1 of 1 samples (by content)",
        "training and validation share 4 of 4 samples (by content)",
    ]


@pytest.mark.parametrize(
    ("source", "settings", "says"),
    [
        (DataSource(csv="texts.csv"), {"tokenizer": None, "classes": ("one", "two")}, "nothing turns it into token ids"),
        (DataSource(csv=Csv(path="texts.csv", text_column="words")), {}, "no column 'words'; it has text, label"),
        (DataSource(csv="gone.csv"), {}, "No such file"),
        (DataSource(arrays=Arrays(path="tokens.npz", labels="ids")), {}, "labels have shape"),
        (DataSource(arrays="gone.npz"), {}, "no such file"),
        (from_code("half"), {}, "sample 1 \\(words.py:half\\): has no label, unlike others"),
        (from_code("numbers"), {}, "sample 0 \\(words.py:numbers\\): is a int; give a text"),
        (from_code("labelled"), {"padding": 2}, "ids has 3 tokens, and task.padding says 2; truncate in the tokenizer"),
        (DataSource(folder="images"), {}, "reads arrays, csv or factory"),
    ],
)
def test_data_that_cannot_be_read_is_named(folder: Path, source: DataSource, settings: dict[str, Any], says: str) -> None:
    found = task(folder, NAMES.model_copy(update=settings), validation=source)
    with pytest.raises((DataFault, UsageError), match=says):
        found.score(answer)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("broken", "no such word"),
        ("float", "ids is float64 \\(1,\\); give one row of integers"),
        ("alone", "gave a list; a tokenizer gives"),
        ("", "text is empty"),
    ],
)
def test_a_tokenizer_that_fails_names_the_sample(folder: Path, text: str, says: str) -> None:
    (folder / "texts.csv").write_text(f"text,label\nfine,0\n{text},1\n")
    with pytest.raises(DataFault, match=says) as caught:
        task(folder, validation=DataSource(csv="texts.csv")).score(answer)
    assert "data.validation" in str(caught.value)
    assert text == "" or "sample 1" in str(caught.value)


def test_a_tokenizer_is_only_loaded_where_it_is_allowed(folder: Path) -> None:
    foreign = NAMES.model_copy(update={"tokenizer": Tokenizer(factory="os.path:join")})
    with pytest.raises(SafetyRefusal):
        task(folder, foreign, validation=from_code("texts")).score(answer)


def test_an_endless_source_is_bounded_by_num_samples(folder: Path) -> None:
    assert task(folder, VECTORS, validation=from_code("forever", num_samples=3)).count("validation") == 3


def test_an_input_that_the_data_lacks_is_named(folder: Path) -> None:
    more = Signature((*INPUTS.inputs, TensorSpec("types", ("batch", "length"), "int64")), ())
    with pytest.raises(DataFault, match="the model takes types too"):
        next(iter(task(folder, inputs=more, validation=from_code("texts")).validation()))


def test_metrics_are_checked_by_type(folder: Path) -> None:
    with pytest.raises(UsageError, match="nearest_label"):
        task(folder, VECTORS.model_copy(update={"metrics": ("top1",)}))
    with pytest.raises(UsageError, match="is empty"):
        task(folder, NAMES.model_copy(update={"metrics": ()}))
