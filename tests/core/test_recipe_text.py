"""Recipes for models of text: which settings belong to which task, and what is said where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.errors import RecipeError, SafetyRefusal
from accel.imports import ImportPolicy
from accel.recipe.checks import require_allowed
from accel.recipe.reader import from_document, read
from accel.recipe.settings import Recipe
from accel.tasks.settings import EmbeddingSettings, ImageClassificationSettings, TextClassificationSettings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("m.onnx", "d.npz", "d.csv", "t.py"):
        (tmp_path / name).touch()
    (tmp_path / "images").mkdir()
    return tmp_path


def recipe(home: Path, task: str, data: str = "{validation: {arrays: d.npz}}", passes: str = "[]", gates: str = "[]") -> Recipe:
    text = f"version: 1\nmodel: {{path: m.onnx}}\ntask: {task}\ndata: {data}\npasses: {passes}\ngates: {gates}\n"
    (home / "recipe.yaml").write_text(text + "targets: [{backend: onnxruntime}, {backend: openvino}]\n")
    return read(home / "recipe.yaml")


def said(home: Path, task: str, data: str = "{validation: {arrays: d.npz}}", passes: str = "[]", gates: str = "[]") -> str:
    with pytest.raises(RecipeError) as caught:
        recipe(home, task, data, passes, gates)
    return str(caught.value)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("{}", ImageClassificationSettings),
        ("{metrics: [top5]}", ImageClassificationSettings),
        ("{type: text_classification, classes: [bad, good]}", TextClassificationSettings),
        ("{type: embedding, tokenizer: {factory: t.py:make, kwargs: {size: 3}}, padding: 64}", EmbeddingSettings),
    ],
)
def test_the_type_says_which_settings_are_meant(home: Path, task: str, kind: type) -> None:
    found = recipe(home, task)
    assert type(found.task) is kind
    again = from_document(found.document(), path=found.path)
    assert again == found and type(again.task) is kind


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("{type: text_clasification}", "did you mean 'text_classification'?"),
        ("{type: speech}", "allowed: image_classification, text_classification, embedding"),
        ("{type: embedding, preprocess: {resize: 3}}", "not a key here: it goes with another `type`"),
        ("{type: embedding, classes: [a, b]}", "goes with another `type`"),
        ("{type: embedding, tokeniser: {factory: t.py:make}}", "did you mean 'tokenizer'?"),
        ("{type: embedding, metrics: [top1]}", "no metric is called 'top1'; allowed: nearest_label"),
        ("{type: text_classification, metrics: []}", "found an empty list, allowed: top1, top5"),
        ("{type: text_classification, padding: 0}", "padding"),
        ("{type: text_classification, padding: longer}", "padding"),
        ("{type: embedding, tokenizer: {kwargs: {}}}", "the key 'factory' is missing in task.tokenizer"),
        ("{type: embedding, tokenizer: {factory: gone.py:make}}", "no file gone.py"),
    ],
)
def test_what_is_wrong_with_a_task_is_said(home: Path, task: str, says: str) -> None:
    found = said(home, task)
    assert says in found or (says == "padding" and "recipe.yaml:3:" in found), found


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("{validation: {folder: images}}", "embedding reads arrays, csv, factory, and folder holds images"),
        ("{validation: {csv: d.csv}}", "nothing turns them into token ids"),
    ],
)
def test_data_that_is_no_text_is_refused(home: Path, data: str, says: str) -> None:
    assert says in said(home, "{type: embedding}", data)


def test_a_tokenizer_from_a_package_must_be_allowed(home: Path) -> None:
    found = recipe(home, "{type: embedding, tokenizer: {factory: foreign.package:make}}")
    with pytest.raises(SafetyRefusal, match="foreign"):
        require_allowed(found, ImportPolicy(found.folder))
    require_allowed(found, ImportPolicy(found.folder, ("foreign",)))


def test_gates_on_embeddings(home: Path) -> None:
    assert len(recipe(home, "{type: embedding}", gates="[{metric: cosine, min: 0.99}]").gates) == 1
    assert "compares with the reference row" in said(home, "{type: embedding}", gates="[{metric: cosine, max_drop: 0.01}]")


@pytest.mark.parametrize(
    ("entry", "keys"),
    [
        ("{type: quantize, approach: dynamic}", ["quantize/dynamic/onnxruntime"] * 2),
        ("{type: quantize, approach: weight_only}", ["quantize/weight_only/onnxruntime", "quantize/weight_only/nncf"]),
        ("{type: quantize, approach: weight_only, engine: onnxruntime}", ["quantize/weight_only/onnxruntime"] * 2),
        ("{type: quantize, approach: weight_only, weights: {algorithm: awq}}", ["quantize/weight_only/nncf"] * 2),
        ("{type: quantize}", ["quantize/static/onnxruntime", "quantize/static/nncf"]),
    ],
)
def test_which_pass_an_entry_means(home: Path, entry: str, keys: list[str]) -> None:
    found = recipe(home, "{type: embedding}", "{calibration: {arrays: d.npz}}", f"[{entry}]")
    assert [found.passes_for(target)[0][0] for target in found.targets] == keys


def test_accuracy_control_takes_the_metrics_of_the_task_and_what_takes_their_place(home: Path) -> None:
    def entry(metric: str) -> str:
        return f"[{{type: quantize, accuracy_control: {{metric: {metric}}}}}]"

    data = "{calibration: {arrays: d.npz}}"
    for task, metric in (("{type: embedding}", "cosine"), ("{type: text_classification}", "agreement"), ("{}", "agreement")):
        assert len(recipe(home, task, data, entry(metric)).passes) == 1
    assert "no metric 'agreement'; allowed: cosine" in said(home, "{type: embedding}", data, entry("agreement"))
    assert "no metric 'cosine'; allowed: top1, agreement" in said(home, "{type: text_classification}", data, entry("cosine"))


def test_gptq_needs_calibration_data(home: Path) -> None:
    entry = "[{type: quantize, approach: weight_only, weights: {algorithm: gptq}}]"
    assert "quantize needs calibration data" in said(home, "{type: embedding}", passes=entry)
