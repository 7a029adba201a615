from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from accel import source_version as module
from accel.source_version import source_version


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "recipe.yaml").touch()
    (tmp_path / ".gitignore").write_text("ignored/\n")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "-m", "x")
    return tmp_path


def test_commit_and_whether_the_folder_changed_since(repository: Path) -> None:
    found = source_version(repository / "a")
    assert found is not None
    assert (found.commit, found.dirty) == (git(repository, "rev-parse", "HEAD"), False)
    (repository / "elsewhere").touch()
    beside = source_version(repository / "a")
    assert beside is not None
    assert not beside.dirty, "what changed lies outside the folder"
    (repository / "a" / "new").touch()
    changed = source_version(repository / "a")
    assert changed is not None
    assert changed.dirty


def test_none_outside_a_repository_and_where_the_commit_says_nothing(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (repository / "ignored").mkdir()
    assert source_version(repository / "ignored") is None
    bare = tmp_path_factory.mktemp("bare")
    assert source_version(bare) is None
    assert source_version(bare / "absent") is None
    git(bare, "init", "--quiet")
    assert source_version(bare) is None, "there is no commit yet"


def test_none_without_git_or_an_answer(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = repository / "tools"
    tools.mkdir()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tools))
        assert source_version(repository) is None
    (tools / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tools / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(module, "_SOUND_S", 0.2)
    assert source_version(repository) is None
