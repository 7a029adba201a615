"""What every recipe in the folder has in common."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from accel.imports import check
from accel.tasks.splits import order

if TYPE_CHECKING:
    from tests.recipes.conftest import Shipped

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
RECIPES = ("quickstart.yaml", "cifar10_resnet.yaml", "efficientnet_lite0.yaml")
DOCUMENTED = (*RECIPES, "minilm.yaml", "minilm_int4.yaml")
CODE = ("cifar10_resnet.py", "digits_network.py", "efficientnet_lite0.py", "minilm.py", "mnist_digits.py", "train_digits.py")
ALLOWED = {"cifar10_resnet.py": {"torch"}, "digits_network.py": {"torch"}, "efficientnet_lite0.py": {"torch"}}


def _overrides(name: str, there: Path) -> list[str]:
    """Any file that exists for those that are not part of the project: reading a recipe opens none of them."""
    keys = {
        "quickstart.yaml": (),
        "cifar10_resnet.yaml": ("model.weights", "data.calibration.arrays.path", "data.validation.arrays.path"),
        "efficientnet_lite0.yaml": ("model.weights", "data.calibration.tar.path", "data.validation.tar.path"),
    }[name]
    return [f"{key}={there}" for key in keys]


@pytest.fixture
def there(tmp_path: Path) -> Path:
    file = tmp_path / "there"
    file.touch()
    return file


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_and_makes_both_targets(name: str, shipped: Shipped, there: Path) -> None:
    recipe = shipped.recipe(name, *_overrides(name, there))
    assert recipe.name == name.removesuffix(".yaml")
    assert [target.backend for target in recipe.targets_resolved()] == ["onnxruntime", "openvino"]
    assert [entry.type for entry in recipe.passes] == ["export_onnx", "simplify", "quantize"]
    assert recipe.model.factory is not None
    check(recipe.model.factory, shipped.policy)


def test_the_quickstart_needs_nothing_but_this_folder(shipped: Shipped) -> None:
    recipe = shipped.recipe("quickstart.yaml")
    assert recipe.notes == ()
    assert recipe.model.weights == "digits_network.safetensors"
    assert recipe.data.validation is not None
    assert recipe.data.validation.factory == "mnist_digits.py:digits"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_recipe_says_when_to_use_it_and_how_to_run_it(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    header = text.split("\nversion:", maxsplit=1)[0]
    assert text.startswith("# yaml-language-server: $schema=accel.schema.json\n")
    assert "# When to use it:" in header
    assert f"accel optimize recipes/{name}" in header


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_in_the_header_is_the_one_that_works(name: str, there: Path) -> None:
    header = (FOLDER / name).read_text(encoding="utf-8").split("\nversion:", maxsplit=1)[0]
    keys = [word.lstrip("# ").split("=")[0] for word in header.split() if "=../shared/" in word]
    assert keys == [override.split("=")[0] for override in _overrides(name, there)]


def test_calibration_photos_are_not_validation_photos(shipped: Shipped, there: Path) -> None:
    data = shipped.recipe("efficientnet_lite0.yaml", *_overrides("efficientnet_lite0.yaml", there)).data
    assert data.calibration is not None
    assert data.validation is not None
    calibration, validation = order(1000, data.calibration), order(1000, data.validation)
    assert (len(calibration), len(validation)) == (256, 744)
    assert not set(calibration) & set(validation)


def test_calibration_images_of_cifar_come_from_the_training_images(shipped: Shipped, there: Path) -> None:
    data = shipped.recipe("cifar10_resnet.yaml", *_overrides("cifar10_resnet.yaml", there)).data
    assert data.calibration is not None
    assert data.validation is not None
    assert getattr(data.calibration.arrays, "inputs", None) == "train_jpeg"
    assert getattr(data.validation.arrays, "inputs", None) == "test_jpeg"
    assert data.validation.num_samples is None


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_readme_has_a_place_for_its_results(name: str) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"`{name}`" in readme
    assert f"<!-- results:{name.removesuffix('.yaml')} -->" in readme


@pytest.mark.parametrize("name", CODE)
def test_the_code_beside_a_recipe_stands_on_its_own(name: str) -> None:
    tree = ast.parse((FOLDER / name).read_text(encoding="utf-8"))
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "torch" in imported or "numpy" in imported
    assert not imported & {"accel", "mlxtend"}
    if name in ALLOWED:
        assert imported - {"__future__"} == ALLOWED[name]
