from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from accel.errors import DataFault, SafetyRefusal
from accel.tasks.settings import Tar
from accel.tasks.tar import TarReader, index


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 5), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def pack(
    path: Path, *entries: tuple[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None, kind: str = "w:"
) -> Path:
    """A tar of ``entries``; ``change`` is applied to the last one's header."""
    with tarfile.open(path, kind) as archive:  # type: ignore[call-overload]
        for number, (name, content) in enumerate(entries, 1):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if change is not None and number == len(entries):
                change(member)
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return path


def reader(path: Path) -> TarReader:
    return TarReader(Tar(path=path.name), path.parent)


def test_reads_in_place_in_the_order_of_the_csv(tmp_path: Path) -> None:
    table = b"file,label,author\nimages/b.png,4,x\n./images/a.png,2,y\n"
    found = reader(pack(tmp_path / "d.tar", ("images/a.png", png(10)), ("./images/b.png", png(20)), ("labels.csv", table)))
    assert len(found) == 2
    assert [(int(pixels[0, 0]), label) for pixels, label in map(found.sample, range(2))] == [(20, 4), (10, 2)]
    assert found.place(1) == "sample 1 (d.tar: images/a.png)"
    assert [path.name for path in tmp_path.iterdir()] == ["d.tar"]


def test_the_csv_may_lie_beside_the_tar(tmp_path: Path) -> None:
    path = pack(tmp_path / "d.tar", ("a.png", png(1)))
    with pytest.raises(DataFault, match=r"no labels.csv in it or beside it"):
        reader(path)
    (tmp_path / "labels.csv").write_text("file,label\na.png,3\n")
    assert reader(path).sample(0)[1] == 3


def _link(kind: bytes) -> Callable[[tarfile.TarInfo], None]:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname, member.size = kind, "a.png", 0

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        pytest.param("../b.png", None, "reaches outside", id="parent"),
        pytest.param("images/../../b.png", None, "reaches outside", id="parent-inside"),
        pytest.param("images\\..\\..\\b.png", None, "reaches outside", id="parent-backslash"),
        pytest.param("/etc/b.png", None, "is an absolute name", id="absolute"),
        pytest.param("C:\\b.png", None, "is an absolute name", id="absolute-drive"),
        pytest.param("b.png", _link(tarfile.SYMTYPE), "is a symbolic link", id="symlink"),
        pytest.param("b.png", _link(tarfile.LNKTYPE), "is a hard link", id="hardlink"),
        pytest.param("b.png", _link(tarfile.CHRTYPE), "is a device", id="character-device"),
        pytest.param("b.png", _link(tarfile.BLKTYPE), "is a device", id="block-device"),
        pytest.param("b.png", _link(tarfile.FIFOTYPE), "is a named pipe", id="pipe"),
    ],
)
def test_an_entry_that_reaches_outside_is_refused(
    tmp_path: Path, name: str, change: Callable[[tarfile.TarInfo], None] | None, message: str
) -> None:
    """Fault 32."""
    path = pack(tmp_path / "d.tar", ("a.png", png(1)), ("labels.csv", b"file,label\na.png,1\n"), (name, png(2)), change=change)
    with pytest.raises(SafetyRefusal, match=message) as refused:
        reader(path)
    assert refused.value.exit_code == 5


def test_a_csv_that_names_what_is_not_there_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "d.tar", ("a.png", png(1)), ("labels.csv", b"file,label\na.png,1\n../../etc/passwd,2\n"))
    with pytest.raises(SafetyRefusal, match=r"labels.csv:3: '../../etc/passwd' goes up"):
        reader(path)
    path = pack(tmp_path / "d.tar", ("a.png", png(1)), ("labels.csv", b"file,label\na.png,1\nb.png,2\n"))
    with pytest.raises(DataFault, match=r"names 1 files that are not in it; the first is b.png"):
        reader(path)


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFault, match=r"a.png is in it twice"):
        index(pack(tmp_path / "d.tar", ("a.png", png(1)), ("./a.png", png(2))))


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, None])
def test_damage_is_a_sentence_with_the_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "d.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataFault, match=r"d.tar: (not an uncompressed tar|No such file)"):
        index(path)


def test_a_truncated_tar_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "d.tar", ("a.png", png(1)), ("b.png", bytes(5000)))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataFault, match=r"d.tar: "):
        index(path)


def test_a_compressed_tar_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = pack(tmp_path / "d.tar", ("a.png", png(1)), kind="w:gz")
    with pytest.raises(DataFault, match="gunzip"):
        index(path)


def test_a_corrupt_image_names_sample_and_entry(tmp_path: Path) -> None:
    table = b"file,label\na.png,1\nb.png,0\n"
    found = reader(pack(tmp_path / "d.tar", ("a.png", png(1)), ("b.png", png(2)[:40]), ("labels.csv", table)))
    found.sample(0)
    with pytest.raises(DataFault, match=r"sample 1 \(d.tar: b.png\): cannot be read as an image"):
        found.sample(1)


def test_a_csv_elsewhere_than_in_the_tar_or_beside_it_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "labels").mkdir(parents=True)
    path = pack(home / "d.tar", ("a.png", png(1)))
    for table in (tmp_path / "labels.csv", home / "labels" / "l.csv"):
        table.write_text("file,label\na.png,3\n")
    for csv in ("../labels.csv", "labels/../../labels.csv", str(tmp_path / "labels.csv"), str(home / "labels" / "l.csv")):
        with pytest.raises(SafetyRefusal, match=r"d\.tar: csv: .*; allowed: a file in the tar, beside it or below that"):
            TarReader(Tar(path="d.tar", csv=csv), home)
    assert TarReader(Tar(path="d.tar", csv="labels/l.csv"), path.parent).sample(0)[1] == 3
