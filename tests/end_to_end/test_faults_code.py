"""Faults 16 to 19 of the fault list, through the commands a user types: code that a recipe names. See tests/FAULTS.md."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Ended, Project

    Typed = Callable[..., Ended]


def shorten(project: Project) -> None:
    """One target and one pass: what fails here fails before any other."""
    project.rewrite("  - {name: ov, backend: openvino}\n", "")
    project.rewrite("  - {type: simplify, allow_noop: true}\n  - type: quantize\n    approach: static\n", "")


@pytest.fixture
def project(project: Project) -> Project:
    shorten(project)
    return project


def write(project: Project, code: str, name: str = "net") -> None:
    (project.folder / "other.py").write_text(code)
    project.rewrite("network.py:net", f"other.py:{name}")
    project.rewrite("  weights: weights.safetensors\n", "")


# -- 16: code that fails ---------------------------------------------------------------------------------------------------


def test_16_missing_file(project: Project, typed: Typed) -> None:
    project.rewrite("network.py:net", "netwrok.py:net")
    for command in ("validate", "plan", "optimize"):
        typed(command, "recipe.yaml").refused(2, "recipe.yaml:6:12: ", "no file netwrok.py in the recipe's folder")


@pytest.mark.parametrize(
    ("reference", "said"),
    [("nosuchpackage.models:net", "nosuchpackage"), ("accel.nosuchmodule:net", "no module named 'accel.nosuchmodule'")],
    ids=["package", "module of a package"],
)
def test_16_missing_module(project: Project, typed: Typed, reference: str, said: str) -> None:
    project.rewrite("network.py:net", reference)
    allowed = ("--allow-import", reference.partition(".")[0], "--no-benchmark", "--json")
    typed("optimize", "recipe.yaml", *allowed).refused(2, said)


@pytest.mark.parametrize(
    ("code", "name", "exit_code", "said"),
    [
        ("def nets(): ...\n", "net", 2, "other.py has no 'net'; it has nets"),
        ("net = 3\n", "net", 2, "net is a int, not something that can be called"),
        ("import torch\nnet = torch.nn.Linear(2, 2)\n", "net", 2, "is a module that is built already; name the class"),
        ("def net(width): ...\n", "net", 2, "model.kwargs do not fit: missing a required argument: 'width'"),
        ("def net(): return 'a module'\n", "net", 4, "other.py:net returned a str, not a torch.nn.Module"),
        ("def net(:\n", "net", 4, "SyntaxError"),
        ("import no_such_library\ndef net(): ...\n", "net", 4, "No module named 'no_such_library'"),
        ("import sys\nsys.exit(0)\n", "net", 4, "other.py:net: called sys.exit(0)"),
        ("import sys\ndef net(): sys.exit(0)\n", "net", 4, "other.py:net: called sys.exit(0)"),
        ("import os\ndef net(): os._exit(0)\n", "net", 4, "the process ended with exit code 0 before it answered"),
    ],
    ids=[
        "missing attribute", "not callable", "a module already", "kwargs do not fit", "returns no module", "syntax error",
        "missing library", "sys.exit at import", "sys.exit in a call", "os._exit",
    ],
)  # fmt: skip
def test_16_a_factory_that_cannot_serve(
    project: Project, typed: Typed, code: str, name: str, exit_code: int, said: str
) -> None:
    write(project, code, name)
    typed("optimize", "recipe.yaml", "--no-benchmark", "--json").refused(exit_code, said)
    assert not project.out.exists()


@pytest.mark.parametrize("where", ["import", "call", "forward"])
def test_16_what_raises_is_shown_with_the_users_frames_only(project: Project, typed: Typed, where: str) -> None:
    write(
        project,
        f"""
import collections
import torch

def deeper(what):
    if what == {where!r}:
        collections.Counter(3)  # fails inside the standard library

class Net(torch.nn.Module):
    def forward(self, x):
        deeper("forward")

def net():
    deeper("call")
    return Net()

deeper("import")
""",
    )
    ended = typed("optimize", "recipe.yaml", "--no-benchmark", "--json")
    ended.refused(4, "other.py:net: ", "raised TypeError", "Traceback (your files only)", "in deeper", "'int' object is not")
    files = {line.split('"')[1] for line in ended.err.splitlines() if line.strip().startswith("File ")}
    assert {Path(file).name for file in files} == {"other.py"}


@pytest.mark.parametrize("code", ["raise ValueError('at import')\n", "import sys; sys.exit(3)\n"], ids=["raises", "exits"])
@pytest.mark.parametrize("place", ["data", "metric"])
def test_16_data_and_metrics_that_fail_at_import(project: Project, typed: Typed, place: str, code: str) -> None:
    (project.folder / "other.py").write_text(code)
    if place == "data":
        project.rewrite("validation: {arrays: {path: images.npz}, skip: 32}", "validation: {factory: other.py:thing}")
    else:
        project.rewrite("metrics: [top1]", "metrics: [other.py:thing]")
    ended = typed("optimize", "recipe.yaml", "--json")
    ended.refused(4, "other.py:thing: ", "Traceback (your files only)" if "raise" in code else "called sys.exit(3)")


@pytest.fixture(scope="module")
def noisy(
    tmp_path_factory: pytest.TempPathFactory, new_project: Callable[[Path], Project]
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run whose code prints wherever it can, in a folder with files that are called like libraries."""
    project = new_project(tmp_path_factory.mktemp("noisy") / "a project")
    shorten(project)
    write(
        project,
        """
import os, subprocess, sys
print("printed at import")
os.write(1, b"written to descriptor 1\\n")
sys.__stdout__.write("to the real standard output\\n")
from network import net
subprocess.run(["echo", "from a child"], check=True)
""",
    )
    elsewhere = project.folder.parent / "elsewhere"
    elsewhere.mkdir()
    for name in ("random", "onnx", "numpy", "typer"):
        (elsewhere / f"{name}.py").write_text("open('canary', 'w')\n")
    # -P: as the installed command starts, without the current folder on its path.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "accel", "optimize", str(project.recipe), "--no-benchmark", "--json"],
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env=project.environment(),
    )
    return elsewhere, done


def test_16_what_code_prints_does_not_reach_the_json(noisy: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = noisy
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in json.loads(done.stdout)["rows"]] == ["eager fp32", "ort fp32 baseline", "ort"]
    assert done.stderr == ""


def test_16_a_file_of_the_current_folder_does_not_stand_in_for_a_library(
    noisy: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """``python -m`` in a child would put the current folder first, and import a user's onnx.py or random.py as the library."""
    folder, done = noisy
    assert done.returncode == 0, done.stderr
    assert not (folder / "canary").exists()


def test_19_a_factory_that_seeds_itself_is_not_called_random(noisy: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    report = json.loads(noisy[1].stdout)
    assert report["seed"] == 3
    assert not [warning for warning in report["warnings"] if "random" in warning]


# -- 17: code that nobody allowed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["plan", "optimize"])
@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("os:system", "os:system: recipes may not import 'os'"),
        ("canary:net", "canary:net: recipes may not import 'canary'; if you trust it, allow it with `--allow-import canary`"),
        ("accel.worker:main", "recipes may not import 'accel.worker'"),
        ("../outside.py:net", "../outside.py is outside the recipe's folder"),
        ("linked.py:net", "linked.py is outside the recipe's folder"),
        ("network.py:torch.os.system", "walks attributes"),
        ("network.py:__builtins__", "is internal"),
    ],
    ids=["standard library", "package", "our own", "outside", "linked", "attributes", "dunder"],
)
@pytest.mark.parametrize("place", ["model", "data", "metric"])
def test_17_code_that_nobody_allowed_is_not_imported(
    project: Project, typed: Typed, monkeypatch: pytest.MonkeyPatch, command: str, place: str, reference: str, said: str
) -> None:
    code = f"open({str(project.folder / 'created')!r}, 'w')\n"
    (project.folder.parent / "outside.py").write_text(code)
    (project.folder / "linked.py").symlink_to("../outside.py")
    (project.folder.parent / "path").mkdir()
    (project.folder.parent / "path" / "canary.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(project.folder.parent / "path"))
    (project.folder / "network.py").write_text(code)
    if place == "model":
        project.rewrite("network.py:net", reference)
    elif place == "data":
        project.rewrite("validation: {arrays: {path: images.npz}, skip: 32}", f"validation: {{factory: {reference}}}")
    else:
        project.rewrite("metrics: [top1]", f"metrics: [{reference}]")
    typed(command, "recipe.yaml").refused(5, said)
    assert not (project.folder / "created").exists()
    assert not project.out.exists()


@pytest.mark.parametrize("how", ["option", "pyproject.toml"])
def test_17_a_package_that_is_allowed_lends_only_its_own(
    project: Project, typed: Typed, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = project.folder.parent / "path"
    folder.mkdir()
    (folder / "lender.py").write_text("from os import system\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    project.rewrite("factory: network.py:net", "factory: lender:system\n  kwargs: {command: touch created}")
    if how == "option":
        ended = typed("optimize", "recipe.yaml", "--no-benchmark", "--allow-import", "lender")
    else:
        (project.folder / "pyproject.toml").write_text('[tool.accel]\nallow_imports = ["lender"]\n')
        ended = typed("optimize", "recipe.yaml", "--no-benchmark")
    ended.refused(5, "lender:system: this is posix.system")
    assert not (project.folder / "created").exists()


def test_17_the_recipe_cannot_allow_itself(project: Project, typed: Typed) -> None:
    project.rewrite("network.py:net", "os:system")
    project.rewrite("seed: 3", "seed: 3\nallow_imports: [os]")
    typed("optimize", "recipe.yaml").refused(2, "unknown key 'allow_imports'")


# -- 18: what never imports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (("validate", "recipe.yaml"), 0),
        (("plan", "recipe.yaml"), 0),
        (("plan", "recipe.yaml", "--json"), 0),
        (("inspect", "network.py"), 2),
        (("inspect", "recipe.yaml"), 2),
        (("init", "network.py:net", "--output", "new.yaml"), 0),
        (("doctor",), 0),
        (("list",), 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_18_commands_that_never_import_user_code(project: Project, arguments: tuple[str, ...], exit_code: int) -> None:
    for name in ("network", "data", "metric", "conftest", "sitecustomize"):
        (project.folder / f"{name}.py").write_text("open('canary', 'w')\ndef net(): ...\n")
    project.rewrite("validation: {arrays: {path: images.npz}, skip: 32}", "validation: {factory: data.py:net}")
    project.rewrite("metrics: [top1]", "metrics: [top1, metric.py:net]")
    done = project.accel(*arguments)  # a process of its own, as `python -m accel`, which has this folder on its path
    assert done.returncode == exit_code, done.stderr
    assert not (project.folder / "canary").exists()


# -- 19: weights that are random -------------------------------------------------------------------------------------------


def test_19_random_weights_without_a_seed_are_a_warning_and_the_seed_is_recorded(project: Project, typed: Typed) -> None:
    project.rewrite("seed: 3\n", "")
    project.rewrite("  weights: weights.safetensors\n", "")
    code = (project.folder / "network.py").read_text()
    assert "    torch.manual_seed(7)\n" in code
    (project.folder / "network.py").write_text(code.replace("    torch.manual_seed(7)\n", ""))
    warning = "weights are random (seed 0): no weights given, so its accuracy means nothing"
    for _ in range(2):  # the second time from the store
        ended = typed("optimize", "recipe.yaml", "--no-benchmark", "--json")
        assert ended.code == 0, ended.err
        report = json.loads(ended.out)
        assert report["seed"] == 0
        assert warning in report["warnings"]
    assert "seed: 0\n" in (project.out / "recipe.resolved.yaml").read_text()
    assert warning in typed("report", "out/small", "--format", "table").out
