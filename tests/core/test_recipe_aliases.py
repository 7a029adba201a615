"""Words of other tools: taken with a note, where the key they stand for exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accel.errors import RecipeError
from accel.recipe.reader import from_document
from accel.recipe.settings import Recipe

HERE = Path("recipe.yaml")


def recipe(**sections: Any) -> Recipe:
    document = {"version": 1, "model": {"path": "m.onnx"}, "targets": [{"backend": "onnxruntime"}], **sections}
    return from_document(document, path=HERE)


def quantize(**settings: Any) -> Recipe:
    data = {"calibration": {"arrays": "d.npz"}}
    return recipe(task={"type": "image_classification"}, data=data, passes=[{"type": "quantize", **settings}])


@pytest.mark.parametrize(
    ("settings", "place", "value", "note"),
    [
        ({"subset_size": 7}, ("calibration", "num_samples"), 7, "took 'subset_size' for 'calibration.num_samples'"),
        ({"calibration": {"subset_size": 7}}, ("calibration", "num_samples"), 7, "took 'subset_size' for 'num_samples'"),
        ({"nodes_to_exclude": ["a"]}, ("ignored_scope", "names"), ["a"], "took 'nodes_to_exclude' for 'ignored_scope.names'"),
        ({"op_types_to_exclude": ["Add"]}, ("ignored_scope", "types"), ["Add"], "for 'ignored_scope.types'"),
        ({"calibration": {"method": "kl"}}, ("calibration", "method"), "entropy", "took 'kl' for 'entropy'"),
    ],
)
def test_an_alias_in_a_pass(settings: dict[str, Any], place: tuple[str, str], value: object, note: str) -> None:
    found = quantize(**settings)
    assert found.passes[0].settings[place[0]][place[1]] == value
    assert [said for said in found.notes if note in said]
    assert from_document(found.document(), path=HERE) == found


def test_an_alias_in_the_data() -> None:
    found = recipe(task={"type": "image_classification"}, data={"validation": {"arrays": "d.npz", "subset_size": 5}})
    assert found.data.validation is not None
    assert found.data.validation.num_samples == 5
    assert found.notes == ("data.validation: took 'subset_size' for 'num_samples'",)


def test_vpu_is_npu() -> None:
    found = recipe(targets=[{"backend": "openvino", "device": "vpu"}])
    assert found.targets_resolved()[0].device == "npu"
    assert "targets.0.device: took 'vpu' for 'npu'" in found.notes


def test_a_note_comes_once() -> None:
    notes = quantize(subset_size=7).notes
    assert len(notes) == len(set(notes))
    assert sum("subset_size" in note for note in notes) == 1


@pytest.mark.parametrize(
    "settings",
    [{"subset_size": 7, "calibration": {"num_samples": 3}}, {"nodes_to_exclude": [], "ignored_scope": {"names": []}}],
)
def test_an_alias_beside_its_key_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="which is given too; keep one"):
        quantize(**settings)


@pytest.mark.parametrize("alias", ["tolerable_loss", "max_iter", "flops"])
def test_an_alias_of_a_key_that_does_not_exist_yet_is_unknown(alias: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown key '{alias}'"):
        quantize(**{alias: 1})


def test_an_alias_is_not_looked_for_where_keys_are_free() -> None:
    found = recipe(
        model={"factory": "package:build", "kwargs": {"subset_size": 3}, "inputs": [{"name": "x", "shape": [1]}]},
        passes=[{"type": "export_onnx"}],
    )
    assert found.model.kwargs == {"subset_size": 3}
    assert not any("took" in note for note in found.notes)
