from __future__ import annotations

import pytest

from accel.errors import DataFault, SafetyRefusal
from accel.tasks.label_csv import Table, read_table


def table(content: bytes, classes: list[str] | None = None) -> Table:
    return read_table(content, "data.csv", file_column="file", label_column="label", classes=classes)


def test_reads_files_and_labels_whatever_else_is_there() -> None:
    found = table(b'\xef\xbb\xbffile,extra,label\r\na b.png,x,1\r\n"c,d.png",,0\r\n')
    assert found == Table(("a b.png", "c,d.png"), (1, 0))


def test_labels_may_be_names_of_classes() -> None:
    assert table(b"file,label\na,dog\nb,cat\nc,0\n", ["cat", "dog"]).labels == (1, 0, 0)


def test_without_a_label_column_it_says_why_there_are_none() -> None:
    found = table(b"file,class\na,1\n")
    assert found.labels is None
    assert found.unlabelled == "data.csv has no column 'label' (it has file, class); set label_column"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; its first line names the columns"),
        (b"path,label\na,1\n", "no column 'file'; it has path, label; set file_column"),
        (b"file,label\na,1\n,2\n", "data.csv:3: file is empty"),
        (b"file,label\na,1\nb\n", "data.csv:3: label is empty"),
        (b"file,label\na,1\nb,dog\n", "data.csv:3: label 'dog', not a class index; name the classes in task.classes"),
        (b"file,label\na,\xff\n", "not UTF-8 text"),
        (b'file,label\n"a,1\n', "not a CSV"),
        (b"file,label\na,1.5\n", "label '1.5'"),
    ],
)
def test_names_place_and_line_of_what_is_wrong(content: bytes, message: str) -> None:
    with pytest.raises(DataFault, match=message):
        table(content)


def test_a_name_that_is_no_class_is_refused() -> None:
    with pytest.raises(DataFault, match=r"label 'cow', which task.classes does not name"):
        table(b"file,label\na,cow\n", ["cat", "dog"])


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("/etc/passwd", "is an absolute path"),
        ("../secret.png", "goes up with .."),
        ("images/../../secret.png", "goes up with .."),
        ("images/..", "goes up with .."),
    ],
)
def test_a_file_outside_is_refused_with_its_line(name: str, fact: str) -> None:
    with pytest.raises(SafetyRefusal) as refused:
        table(f"file,label\na..png,0\n{name},1\n".encode())
    assert str(refused.value).startswith(f"data.csv:3: {name!r} {fact}; allowed: a name below the folder")
    assert refused.value.exit_code == 5
