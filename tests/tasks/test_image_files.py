from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from accel.errors import DataFault, SafetyRefusal
from accel.tasks.image_files import list_folder, open_csv, open_folder
from accel.tasks.settings import Csv


def write_image(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for number, name in enumerate(("dog/b.png", "dog/a.PNG", "cat/deep/c.png", "cat/d.bmp")):
        write_image(tmp_path / "pets" / name, number)
    return tmp_path / "pets"


def test_labels_count_the_sorted_subfolders(pets: Path) -> None:
    found = open_folder(pets, None)
    assert [file.relative_to(pets).as_posix() for file in found.files] == [
        "cat/d.bmp",
        "cat/deep/c.png",
        "dog/a.PNG",
        "dog/b.png",
    ]
    assert found.labels == (0, 0, 1, 1)
    pixels, label = found.sample(3)
    assert (pixels == 0).all() and pixels.shape == (4, 5, 3) and label == 1
    assert found.place(0) == f"sample 0 ({pets / 'cat' / 'd.bmp'})"


def test_named_classes_decide_the_labels(pets: Path) -> None:
    assert list_folder(pets, ["dog", "horse", "cat"]).labels == (2, 2, 0, 0)
    assert list_folder(pets, ["a nice cat", "a nice dog"]).labels == (0, 0, 1, 1)
    with pytest.raises(DataFault, match=r"folder 'cat' is not in task.classes, though 'dog' is"):
        list_folder(pets, ["dog", "horse"])
    with pytest.raises(DataFault, match=r"2 class folders, but task.classes has 3 names"):
        list_folder(pets, ["x", "y", "z"])


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    write_image(tmp_path / "b.png")
    write_image(tmp_path / "a.png")
    found = open_folder(tmp_path, None)
    assert len(found) == 2 and found.sample(0)[1] is None
    assert found.unlabelled == f"{tmp_path} has no class subfolders"


def test_what_is_left_out_is_said(pets: Path) -> None:
    (pets / "cat" / "notes.txt").write_text("x")
    (pets / ".hidden").mkdir()
    (pets / "cow").mkdir()
    write_image(pets / "loose.png")
    os.mkfifo(pets / "cat" / "pipe.png")
    found = list_folder(pets)
    assert found.classes == ("cat", "cow", "dog") and found.labels == (0, 0, 2, 2)
    assert found.remarks == (
        f"{pets}: no images for cow",
        f"{pets}: 1 images lie beside the class folders and have no label; left out",
        f"{pets}: 2 files are no image by name; left out",
    )


def test_numbered_folders_out_of_order_draw_a_remark(tmp_path: Path) -> None:
    for name in ("0", "2", "10"):
        write_image(tmp_path / name / "a.png")
    assert "in the order of their names (0, 10, 2" in list_folder(tmp_path).remarks[0]
    assert list_folder(tmp_path, ["0", "2", "10"]).labels == (0, 2, 1)
    assert list_folder(tmp_path, ["0", "2", "10"]).remarks == ()


def test_a_broken_link_is_reported_not_left_out(pets: Path) -> None:
    (pets / "cat" / "z.png").symlink_to(pets / "absent.png")
    found = open_folder(pets, None)
    with pytest.raises(DataFault, match=r"sample 2 \(.*z.png\): No such file"):
        found.sample(2)


def test_a_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataFault, match="absent: no such folder"):
        list_folder(tmp_path / "absent")


def test_csv_names_files_beside_it_or_below_root(pets: Path) -> None:
    (pets / "labels.csv").write_text("file,label\ndog/b.png,7\ncat/d.bmp,3\n")
    found = open_csv(Csv(path="labels.csv"), pets, None)
    assert [found.sample(index)[1] for index in range(2)] == [7, 3]
    (pets.parent / "labels.csv").write_text("name,kind\ndog/b.png,dog\n")
    settings = Csv(path="labels.csv", root="pets", file_column="name", label_column="kind")
    assert open_csv(settings, pets.parent, ["cat", "dog"]).sample(0)[1] == 1


def test_csv_with_missing_files_names_the_first(pets: Path) -> None:
    (pets / "labels.csv").write_text("file,label\ndog/b.png,7\nx.png,3\ny.png,3\n")
    with pytest.raises(DataFault, match=r"2 of 3 files do not exist below .*; the first is .*x.png"):
        open_csv(Csv(path="labels.csv"), pets, None)
    with pytest.raises(DataFault, match=r"absent.csv: No such file"):
        open_csv(Csv(path="absent.csv"), pets, None)


@pytest.mark.parametrize("root", [None, "pets"])
def test_a_csv_reads_no_file_outside_its_folder_even_if_it_is_there(pets: Path, root: str | None) -> None:
    write_image(pets.parent / "private.png")
    for name in ("../private.png", str(pets.parent / "private.png"), str(pets / "dog" / "b.png")):
        (pets / "labels.csv").write_text(f"file,label\ncat/d.bmp,3\n{name},7\n")
        with pytest.raises(SafetyRefusal, match=r"labels\.csv:3: "):
            open_csv(Csv(path="pets/labels.csv", root=root), pets.parent, None)
