"""Paths of a recipe: what they may lead to."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.errors import RecipeError
from accel.recipe.reader import read
from accel.recipe.settings import Recipe

TEXT = """\
version: 1
name: run
model: {{path: {model}}}
task: {{type: image_classification}}
data:
  validation: {{{data}}}
targets: [{{backend: onnxruntime}}]
output_dir: {output}
"""


def recipe(folder: Path, *, model: str = "models/m.onnx", data: str = "folder: images", output: str = "out") -> Recipe:
    for name in ("models/m.onnx", "images/cat/1.png", "d/labels.csv", "d/images.tar", "d/d.npz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = folder / "recipe.yaml"
    path.write_text(TEXT.format(model=model, data=data, output=output))
    return read(path)


def message(folder: Path, **settings: str) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe(folder, **settings)
    assert len(caught.value.problems) == 1, str(caught.value)
    return caught.value.problems[0].message


@pytest.mark.parametrize(
    "data",
    [
        "folder: images",
        "arrays: d/d.npz",
        "arrays: {path: d/d.npz}",
        "csv: d/labels.csv",
        "csv: {path: d/labels.csv, root: images}",
        "tar: d/images.tar",
        "tar: {path: d/images.tar}",
        "tar: {path: d/images.tar, csv: tables/labels.csv}",
        "torchvision: {name: CIFAR10, root: d}",
        "folder: ./d/../images",
    ],
)
def test_paths_below_the_folder_are_taken(tmp_path: Path, data: str) -> None:
    assert recipe(tmp_path, data=data).notes == ()


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("output_dir", {"output": "../../etc"}),
        ("output_dir", {"output": "out/../../x"}),
        ("model.path", {"model": "../m.onnx"}),
        ("data.validation.folder", {"data": "folder: ../images"}),
        ("data.validation.arrays", {"data": "arrays: ../d.npz"}),
        ("data.validation.arrays.path", {"data": "arrays: {path: ../d.npz}"}),
        ("data.validation.csv", {"data": "csv: ../labels.csv"}),
        ("data.validation.csv.root", {"data": "csv: {path: d/labels.csv, root: ..}"}),
        ("data.validation.tar", {"data": "tar: ../i.tar"}),
        ("data.validation.torchvision.root", {"data": "torchvision: {name: CIFAR10, root: ../d}"}),
    ],
)
def test_a_path_that_leaves_the_folder_is_refused_with_the_way_out(tmp_path: Path, key: str, settings: dict[str, str]) -> None:
    said = message(tmp_path, **settings)
    assert said.startswith(f"{key}: ")
    assert "leaves the recipe's folder; give an absolute path, or override it on the command line" in said


def test_a_cache_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    assert message(tmp_path, output="out\ncache_dir: ../cache").startswith("cache_dir: '../cache' leaves")


def test_the_home_folder_is_not_expanded(tmp_path: Path) -> None:
    assert "~ is not expanded" in message(tmp_path, data="folder: ~/images")


def test_an_empty_path_is_refused(tmp_path: Path) -> None:
    assert "empty" in message(tmp_path, data='folder: ""')


def test_an_absolute_path_is_taken_and_shown(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    home = tmp_path / "home"
    home.mkdir()
    found = recipe(home, data=f"folder: {tmp_path / 'far'}", output=f"{tmp_path / 'out'}\ncache_dir: {tmp_path / 'cache'}")
    assert found.notes == (
        f"output_dir is absolute: {tmp_path / 'out'}",
        f"cache_dir is absolute: {tmp_path / 'cache'}",
        f"data.validation.folder is absolute: {tmp_path / 'far'}",
    )
    assert found.cache_folder == tmp_path / "cache"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "models/n.onnx"}, "model.path: there is no such file"),
        ({"model": "models.onnx"}, "there is no such file"),
        ({"data": "folder: imgs"}, "data.validation.folder: there is no such folder"),
        ({"data": "arrays: images"}, "data.validation.arrays: is not a file"),
        ({"data": "folder: d/d.npz"}, "data.validation.folder: is not a folder"),
        ({"data": "csv: d/none.csv"}, "override it with data.validation.csv=PATH"),
        ({"data": f"csv: {'x' * 5000}"}, "there is no such file"),
    ],
)
def test_what_is_to_be_read_must_be_there(tmp_path: Path, settings: dict[str, str], says: str) -> None:
    assert says in message(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "holds"),
    [
        ({"output": "models"}, "model.path"),
        ({"output": "./models/"}, "model.path"),
        ({"output": "d", "data": "arrays: d/d.npz"}, "data.validation.arrays"),
        ({"output": "images"}, "data.validation.folder"),
        ({"output": "images/results"}, "data.validation.folder"),
    ],
)
def test_results_do_not_go_where_the_inputs_are(tmp_path: Path, settings: dict[str, str], holds: str) -> None:
    said = message(tmp_path, **settings)
    assert said.startswith("output_dir: ")
    assert f"holds {holds} " in said


def test_the_run_folder_itself_may_not_hold_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / "m.onnx").touch()
    assert "holds model.path" in message(tmp_path, model="out/run/m.onnx")


@pytest.mark.parametrize(
    ("csv", "fact"),
    [
        ("../../../../etc/passwd", "goes up with .."),
        ("tables/../../labels.csv", "goes up with .."),
        ("/etc/passwd", "is an absolute path"),
    ],
)
def test_the_csv_of_a_tar_lies_in_it_or_beside_it(tmp_path: Path, csv: str, fact: str) -> None:
    said = message(tmp_path, data=f"tar: {{path: d/images.tar, csv: {csv}}}")
    assert said == f"data.validation.tar.csv: {csv!r} {fact}; allowed: a file in the tar, beside it or below that"
    recipe(tmp_path, data="tar: {path: d/images.tar}")
    with pytest.raises(RecipeError, match=r"override .*data\.validation\.tar\.csv: "):
        read(tmp_path / "recipe.yaml", [f"data.validation.tar={{path: d/images.tar, csv: {csv}}}"])
