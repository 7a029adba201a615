"""A disk that is full or read-only at each place that is written, a damaged store, closed streams (faults 50, 53 to 56)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Project

ONE_TARGET = "targets=[{name: ort, backend: onnxruntime}]"


def warm(cache: Path, *more: str) -> tuple[str, ...]:
    """Arguments of a run that finds every step stored."""
    return ("optimize", "recipe.yaml", "--no-benchmark", "--cache-dir", str(cache), *more)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, left: int) -> Path:
    """Leave ``left`` bytes on the disk of ``folder``."""
    room = os.statvfs(folder)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - left)))
    return ballast


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 1 MB, where this machine lets us mount one."""
    place = tmp_path_factory.mktemp("disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def disk(mounted: Path) -> Iterator[Path]:
    """The same, emptied after use."""
    yield mounted
    for path in mounted.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def closed(disk: Path) -> Iterator[Path]:
    """The same, read-only."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield disk
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


# -- 50: full ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_wherever_the_output_is_when_it_fills(project: Project, finished: Project, disk: Path) -> None:
    """With a page more of room each time, the next file is the one that does not fit, up to the report."""
    cache = finished.cache / "accel"
    assert project.accel(*warm(cache, ONE_TARGET, "--output", str(disk))).returncode == 0
    before = tree(disk / "small")
    codes = []
    for left in (0, 12288, 24576, 36864, 131072):
        ballast = fill(disk, left)
        done = project.accel(*warm(cache, ONE_TARGET, "about.author=B", "--output", str(disk)))
        ballast.unlink()
        codes.append(done.returncode)
        assert [path.name for path in disk.iterdir()] == ["small"], "no litter"
        if done.returncode:
            assert done.returncode == 3, done.stderr
            assert "the disk is full" in done.stderr
            assert tree(disk / "small") == before
    assert codes[0] == 3
    assert codes[-1] == 0


def test_a_full_disk_wherever_the_store_is_when_it_fills(project: Project, finished: Project, disk: Path) -> None:
    """The last step (quantize) and the files that ship are made anew on a disk with a little more room each time."""
    cache = disk / "cache"
    shutil.copytree(finished.cache / "accel", cache)
    for path in list((cache / "steps").iterdir()):
        entry = json.loads((path / "entry.json").read_text())
        if "main" in entry["meta"] and b"QuantizeLinear" in (path / "files" / entry["meta"]["main"]).read_bytes():
            shutil.rmtree(path)
    kept = sorted(path.name for path in (cache / "steps").iterdir())
    codes = []
    for left in (0, 8192, 28672):
        ballast = fill(disk, left)
        done = project.accel(*warm(cache, ONE_TARGET))
        ballast.unlink()
        codes.append(done.returncode)
        if done.returncode:
            assert done.returncode == 3, done.stderr
            assert "the disk is full" in done.stderr or "No space left on device" in done.stderr
            assert not project.out.exists()
    assert set(codes) <= {0, 3}
    assert codes[0] == 3
    done = project.accel(*warm(cache, ONE_TARGET))
    assert done.returncode == 0, done.stderr
    assert set(kept) <= {path.name for path in (cache / "steps").iterdir()}
    assert tree(project.out / "targets" / "ort")["model.onnx"] == tree(finished.out / "targets" / "ort")["model.onnx"]
    for name in ("work", "runs", "locks", "scratch"):
        assert list((cache / name).iterdir()) == []


def test_a_full_disk_where_init_writes(finished: Project, disk: Path) -> None:
    shutil.copy(finished.out / "targets" / "ort" / "model.onnx", disk / "model.onnx")
    (disk / "recipe.yaml").write_text("mine")
    ballast = fill(disk, 0)
    done = finished.accel("init", str(disk / "model.onnx"), "--output", str(disk / "recipe.yaml"), "--force")
    ballast.unlink()
    assert done.returncode == 3, done.stderr
    assert "the disk is full" in done.stderr
    assert tree(disk).keys() == {"model.onnx", "recipe.yaml"}
    assert (disk / "recipe.yaml").read_text() == "mine"


def test_a_full_disk_where_report_writes(finished: Project, disk: Path) -> None:
    (disk / "report.md").write_text("the old one")
    ballast = fill(disk, 0)
    done = finished.accel("report", "out/small", "--output", str(disk / "report.md"))
    ballast.unlink()
    assert done.returncode == 3, done.stderr
    assert "the disk is full" in done.stderr
    assert (disk / "report.md").read_text() == "the old one"


@pytest.mark.parametrize("command", [("list",), ("schema",), ("report", "out/small")], ids=" ".join)
def test_a_full_disk_behind_standard_output(finished: Project, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "accel", *command],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=finished.folder, env=finished.environment(), check=False,
        )  # fmt: skip
    assert done.returncode == 3
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


# -- 50: read-only, no home -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["output", "cache", "init", "report"])
def test_a_read_only_disk(project: Project, finished: Project, closed: Path, what: str) -> None:
    shutil.copy(finished.out / "targets" / "ort" / "model.onnx", project.folder / "model.onnx")
    command = {
        "output": warm(finished.cache / "accel", "--output", str(closed)),
        "cache": warm(closed / "cache"),
        "init": ("init", str(project.folder / "model.onnx"), "--output", str(closed / "recipe.yaml")),
        "report": ("report", str(finished.out), "--output", str(closed / "report.md")),
    }[what]
    done = project.accel(*command)
    assert done.returncode == 3, done.stderr
    assert "the file system is read-only" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_is_not_there(project: Project) -> None:
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark", HOME="/proc/nowhere", XDG_CACHE_HOME="")
    assert done.returncode == 3
    assert "/proc/nowhere/.cache/accel: its folder is not there and cannot be made" in done.stderr
    assert "--cache-dir" in done.stderr


def test_a_report_goes_to_a_device_as_it_is(finished: Project) -> None:
    """Not into a file that takes the device's place."""
    shown = finished.accel("report", "out/small")
    piped = finished.accel("report", "out/small", "--output", "/dev/stdout")
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout == shown.stdout
    assert Path("/dev/stdout").is_symlink()


def test_a_report_where_no_folder_is(finished: Project) -> None:
    done = finished.accel("report", "out/small", "--output", "no/where.md")
    assert done.returncode == 3
    assert "no/where.md: its folder is not there" in done.stderr


# -- 53 ---------------------------------------------------------------------------------------------------------------


def flip(entry: Path) -> None:
    model = entry / "files" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(bytes(content))


def truncate(entry: Path) -> None:
    os.truncate(entry / "files" / "model.onnx", 1000)


def lose_file(entry: Path) -> None:
    (entry / "files" / "model.onnx").unlink()


def lose_manifest(entry: Path) -> None:
    (entry / "entry.json").unlink()


def garble_manifest(entry: Path) -> None:
    (entry / "entry.json").write_bytes(b"\x00{")


def age(entry: Path) -> None:
    record = json.loads((entry / "entry.json").read_text())
    (entry / "entry.json").write_text(json.dumps({**record, "store_version": 0}))


DAMAGE: dict[Callable[[Path], None], str] = {
    flip: "does not have the bytes that were stored",
    truncate: "is missing or truncated",
    lose_file: "is missing or truncated",
    lose_manifest: "its entry.json is missing",
    garble_manifest: "its entry.json cannot be read",
    age: "it is of version 0 of the store",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_made_again_with_a_warning(
    project: Project, finished: Project, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(finished.cache / "accel", cache)
    shipped = (finished.out / "targets" / "ort" / "model.onnx").read_bytes()
    (entry,) = [
        path
        for path in (cache / "steps").iterdir()
        if (path / "files" / "model.onnx").exists()
        and (path / "files" / "model.onnx").read_bytes() == shipped
        and json.loads((path / "entry.json").read_text())["meta"]["name"].startswith("files for")  # not the step before
    ]
    damage(entry)
    done = project.accel(*warm(cache, ONE_TARGET, "--json"))
    assert done.returncode == 0, done.stderr
    (warning,) = [text for text in json.loads(done.stdout)["warnings"] if "thrown away" in text]
    assert f"stored step {entry.name[:12]} was thrown away and is made again" in warning
    assert DAMAGE[damage] in warning
    assert (project.out / "targets" / "ort" / "model.onnx").read_bytes() == shipped
    again = json.loads(project.accel(*warm(cache, ONE_TARGET, "--json")).stdout)
    assert not any("thrown away" in text for text in again["warnings"])


# -- 54 ---------------------------------------------------------------------------------------------------------------


def test_an_upgraded_library_is_a_miss(project: Project, finished: Project, tmp_path: Path) -> None:
    upgraded = tmp_path / "site" / "nncf-99.0.dist-info"
    upgraded.mkdir(parents=True)
    (upgraded / "METADATA").write_text("Metadata-Version: 2.1\nName: nncf\nVersion: 99.0\n")
    done = project.accel(
        "plan", "recipe.yaml", "--json", "--cache-dir", str(finished.cache / "accel"), PYTHONPATH=str(tmp_path / "site")
    )
    states = {target["name"]: [step["state"] for step in target["steps"]] for target in json.loads(done.stdout)["targets"]}
    assert states == {"ort": ["cached"] * 3, "ov": ["cached", "cached", "to run"]}


# -- 55 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [None, "{", '{"accel_version": "0.0.1", "name": "small", "schema_version": 0}'])
def test_ours_is_known_by_a_manifest_or_a_report_of_any_version(
    project: Project, finished: Project, report: str | None
) -> None:
    arguments = warm(finished.cache / "accel", ONE_TARGET)
    assert project.accel(*arguments).returncode == 0
    if report is None:
        (project.out / "report.json").unlink()
    else:
        (project.out / "report.json").write_text(report)
    done = project.accel(*arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads((project.out / "report.json").read_text())["name"] == "small"


def test_a_report_of_something_else_is_not_ours(project: Project, finished: Project) -> None:
    project.out.mkdir(parents=True)
    (project.out / "report.json").write_text('{"name": "small", "tests": 12}')
    done = project.accel(*warm(finished.cache / "accel"))
    assert done.returncode == 2
    assert "holds no report of ours" in done.stderr
    assert (project.out / "report.json").read_text() == '{"name": "small", "tests": 12}'


def test_an_output_path_that_is_too_long(project: Project, finished: Project) -> None:
    done = project.accel(*warm(finished.cache / "accel", "--output", "x" * 300))
    assert done.returncode == 3
    assert "the path is too long" in done.stderr
    assert "Traceback" not in done.stderr


# -- 56 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["list", "schema", "schema report", "report out/small", "plan recipe.yaml", "inspect out/small/targets/ort/model.onnx"],
)
def test_a_reader_that_wants_one_line(finished: Project, command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'{{ "{sys.executable}" -m accel {command}; echo $? >&2; }} | head -1'],
        capture_output=True, text=True, cwd=finished.folder, env=finished.environment(), check=False,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1
    assert done.stderr in ("0\n", "141\n"), "no traceback, no message"


@pytest.mark.parametrize("command", ["list", "schema", "report out/small"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_stream_that_is_closed_from_the_start(finished: Project, command: str, number: int) -> None:
    done = subprocess.run(
        ["bash", "-c", f'exec {number}>&-; exec "{sys.executable}" -m accel {command}'],
        capture_output=True, text=True, cwd=finished.folder, env=finished.environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_run_with_no_streams_at_all(project: Project, finished: Project) -> None:
    done = subprocess.run(
        ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", sys.executable, "-m", "accel", *warm(finished.cache / "accel")],
        cwd=project.folder, env=project.environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert (project.out / "report.json").exists()


def test_an_error_with_nowhere_to_say_it_keeps_its_exit_code(finished: Project) -> None:
    for redirect in ("2>&-", "2>/dev/full"):
        done = subprocess.run(
            ["bash", "-c", f'exec "{sys.executable}" -m accel validate nothing.yaml {redirect}'],
            cwd=finished.folder, env=finished.environment(), check=False,
        )  # fmt: skip
        assert done.returncode == 2, redirect
