"""Disk, home, names, streams and terminals that are not as one would like (faults 50, 53 to 56)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Project


def warm(finished: Project, project: Project) -> tuple[str, ...]:
    """Arguments of a run that finds every step stored."""
    return ("optimize", "recipe.yaml", "--no-benchmark", "--cache-dir", str(finished.cache / "accel"))


# -- 50: storage ------------------------------------------------------------------------------------------------------


def test_a_read_only_output_folder(project: Project, finished: Project) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (project.folder / "closed").mkdir(mode=0o500)
    done = project.accel(*warm(finished, project), "--output", "closed")
    assert done.returncode == 3, done.stderr


def test_an_output_below_a_file(project: Project, finished: Project) -> None:
    (project.folder / "file").write_text("x")
    done = project.accel(*warm(finished, project), "--output", "file/out")
    assert done.returncode == 3
    assert "a part of the path is a file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cache_below_a_file(project: Project) -> None:
    (project.folder / "file").write_text("x")
    done = project.accel("optimize", "recipe.yaml", "--cache-dir", "file/cache")
    assert done.returncode == 3
    assert "--cache-dir" in done.stderr or "a part of the path is a file" in done.stderr


def test_proc_as_output_cannot_be_written(project: Project, finished: Project) -> None:
    done = project.accel(*warm(finished, project), "--output", "/proc/nowhere")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_no_home_and_no_cache_folder(project: Project) -> None:
    environment = {key: value for key, value in project.environment().items() if key not in ("HOME", "XDG_CACHE_HOME")}
    program = "import pathlib, sys\ndef no(): raise RuntimeError('no home')\npathlib.Path.home = no\n"
    program += "sys.argv = ['accel', 'optimize', 'recipe.yaml']\nfrom accel.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=project.folder, env=environment, check=False
    )
    assert done.returncode == 3
    assert "--cache-dir" in done.stderr


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 300 kB, where this machine lets us mount one."""
    place = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_under_the_cache(project: Project, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(260_000))
    try:
        done = project.accel("optimize", "recipe.yaml", "--no-benchmark", "--cache-dir", str(small_disk / "cache"))
    finally:
        (small_disk / "ballast").unlink()
    assert done.returncode == 3, done.stderr
    assert "disk is full" in done.stderr
    assert not project.out.exists()
    again = project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert again.returncode == 0, again.stderr


def test_a_full_disk_under_the_output_leaves_the_previous_output(project: Project, finished: Project, small_disk: Path) -> None:
    first = project.accel(*warm(finished, project), "--output", str(small_disk))
    assert first.returncode == 0, first.stderr
    before = {path: path.read_bytes() for path in (small_disk / "small").rglob("*") if path.is_file()}
    room = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - 8192)))
    done = project.accel(*warm(finished, project), "--output", str(small_disk))
    (small_disk / "ballast").unlink()
    assert done.returncode == 3, done.stderr
    assert "disk is full" in done.stderr
    assert {path: path.read_bytes() for path in (small_disk / "small").rglob("*") if path.is_file()} == before
    assert [path.name for path in small_disk.iterdir() if path.name not in ("small", "cache")] == []


def test_no_space_in_the_temporary_folder(project: Project, finished: Project, small_disk: Path) -> None:
    room = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - 4096)))
    done = project.accel(*warm(finished, project), TMPDIR=str(small_disk))
    (small_disk / "ballast").unlink()
    assert done.returncode == 0, done.stderr  # everything temporary lies in the store


# -- 53, 54: the store ------------------------------------------------------------------------------------------------


def test_a_damaged_store_is_repaired_with_a_warning(project: Project) -> None:
    first = project.accel("optimize", "recipe.yaml", "--no-benchmark", "targets=[{name: ort, backend: onnxruntime}]")
    assert first.returncode == 0, first.stderr
    shipped = (project.out / "targets" / "ort" / "model.onnx").read_bytes()
    for model in (project.cache / "accel" / "steps").glob("*/files/model.onnx"):
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 1
        model.write_bytes(bytes(content))
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark", "--json", "targets=[{name: ort, backend: onnxruntime}]")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert any("made again" in warning for warning in report["warnings"])
    assert (project.out / "targets" / "ort" / "model.onnx").read_bytes() == shipped


def test_another_version_of_a_library_is_another_step(project: Project, finished: Project) -> None:
    program = "import importlib.metadata as m, sys\nreal = m.version\n"
    program += "m.version = lambda name: '9.9.9' if name == 'nncf' else real(name)\n"
    program += f"sys.argv = ['accel', 'plan', 'recipe.yaml', '--json', '--cache-dir', {str(finished.cache / 'accel')!r}]\n"
    program += "from accel.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=project.folder,
        env=project.environment(),
        check=True,
    )
    steps = {target["name"]: [step["state"] for step in target["steps"]] for target in json.loads(done.stdout)["targets"]}
    assert steps["ov"][-1] == "to run"
    assert steps["ort"][-1] == "cached"


# -- 55: where the output goes ----------------------------------------------------------------------------------------


def test_an_output_folder_of_somebody_else_is_refused(project: Project, finished: Project) -> None:
    project.out.mkdir(parents=True)
    (project.out / "thesis.txt").write_text("irreplaceable")
    done = project.accel(*warm(finished, project))
    assert done.returncode == 2
    assert "holds no report of ours" in done.stderr
    assert [path.name for path in project.out.iterdir()] == ["thesis.txt"]


def test_the_output_of_another_recipe_is_refused(project: Project, finished: Project) -> None:
    assert project.accel(*warm(finished, project)).returncode == 0
    project.out.rename(project.out.parent / "other")
    done = project.accel(*warm(finished, project), "name=other")
    assert done.returncode == 2
    assert "holds the output of recipe 'small'" in done.stderr


def test_an_empty_output_folder_is_taken(project: Project, finished: Project) -> None:
    project.out.mkdir(parents=True)
    assert project.accel(*warm(finished, project)).returncode == 0


def test_our_own_output_is_replaced(project: Project, finished: Project) -> None:
    assert project.accel(*warm(finished, project)).returncode == 0
    assert project.accel(*warm(finished, project), "about.author=Somebody Else").returncode == 0
    assert "Somebody Else" in (project.out / "targets" / "ort" / "manifest.json").read_text()


@pytest.mark.parametrize("name", ["with spaces", "ünï·код", "x" * 180])
def test_folders_with_unusual_names(
    new_project: Callable[[Path], Project], finished: Project, tmp_path: Path, name: str
) -> None:
    project = new_project(tmp_path / name)
    done = project.accel(*warm(finished, project), "--output", f"{name}-out")
    assert done.returncode == 0, done.stderr
    assert (project.folder / f"{name}-out" / "small" / "report.json").exists()


@pytest.mark.parametrize("more", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"TZ": "Pacific/Kiritimati"}], ids=str)
def test_locale_and_time_zone(project: Project, finished: Project, more: dict[str, str]) -> None:
    done = project.accel(*warm(finished, project), **more)
    assert done.returncode == 0, done.stderr
    report = json.loads((project.out / "report.json").read_text(encoding="utf-8"))
    assert report["created"].endswith("+00:00")


def test_umask(project: Project, finished: Project) -> None:
    before = os.umask(0o077)
    try:
        done = project.accel(*warm(finished, project))
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    assert (project.out / "report.json").stat().st_mode & 0o077 == 0


# -- 56: streams and terminals ----------------------------------------------------------------------------------------


def test_a_reader_that_goes_away(project: Project, finished: Project) -> None:
    with project.start("report", str(finished.out)) as process:
        assert process.stdout is not None
        process.stdout.close()  # as `| head -0` does
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_without_a_terminal_there_are_plain_lines(finished: Project, project: Project) -> None:
    done = project.accel(*warm(finished, project))
    assert "\x1b" not in done.stdout + done.stderr
    assert "ort: quantize/static/onnxruntime (3 of 3)" in done.stderr
    assert "files and report:" in done.stdout


def test_quiet_says_nothing_on_standard_error(finished: Project, project: Project) -> None:
    assert project.accel(*warm(finished, project), "--quiet").stderr == ""


@pytest.mark.parametrize("more", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"COLUMNS": "20"}], ids=str)
def test_terminals_of_all_kinds(finished: Project, project: Project, more: dict[str, str]) -> None:
    """Through a pseudo-terminal, as a person has."""
    import pty

    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "accel", *warm(finished, project)],
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=child,
        cwd=project.folder,
        env=project.environment(**{"TERM": "xterm-256color", **more}),
    )
    os.close(child)
    shown = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(parent)
    assert process.wait(timeout=60) == 0, shown.decode()
    assert b"files and report" in shown.replace(b"\r\n", b"\n")
    if "NO_COLOR" in more:
        assert b"\x1b[3" not in shown, "no colours"
    if more.get("TERM") == "dumb":
        assert b"\x1b" not in shown, "no escapes at all"
