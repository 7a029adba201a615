"""The promises of the layout: namespace portions, a correct wheel, and floors (DESIGN.md, "The house")."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOTS = ("core", "compress", "accelerate", "benchmarks")
FULL_ROOM = 400


def test_no_init_file_breaks_the_namespace() -> None:
    strays = [ROOT / root / "accel" / "__init__.py" for root in ROOTS] + [ROOT / root / "__init__.py" for root in ROOTS]
    assert [str(path.relative_to(ROOT)) for path in strays if path.exists()] == []


def test_every_portion_is_typed() -> None:
    for place in ("core/accel", "compress/accel/compress", "accelerate/accel/accelerate", "benchmarks/accel/benchmarks"):
        assert (ROOT / place / "py.typed").exists(), place


def test_no_file_is_named_like_a_library() -> None:
    libraries = {"openvino", "onnxruntime", "tensorrt", "nncf", "neural_compressor", "torch", "onnx", "onnxslim", "torchvision"}
    named = [path for root in ROOTS for path in (ROOT / root).rglob("*.py") if path.stem in libraries]
    assert named == []


def test_no_room_is_overfull_and_none_is_a_lumber_room() -> None:
    sources = [path for root in ROOTS for path in (ROOT / root).rglob("*.py")]
    assert len(sources) > 50
    over = {str(path.relative_to(ROOT)): lines for path in sources if (lines := len(path.read_text().splitlines())) > FULL_ROOM}
    assert over == {}
    assert [path for path in sources if path.stem in ("utils", "helpers", "common", "base", "manager")] == []


def test_ruff_bans_the_source_roots_as_packages() -> None:
    banned = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert {"accelerate", "compress", "benchmarks"} <= set(banned)


def test_constraints_pin_what_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(
            entry
            for name in (
                "cpu",
                "openvino",
                "onnxruntime",
                "prune",
                "qat",
                "neural-compressor",
                "vision",
                "tensorrt-rtx",
                "demo",
                "dev",
            )
            for entry in project["optional-dependencies"][name]
        ),
    ]
    names = {re.split(r"[\[<>=~! ]", entry)[0].lower() for entry in declared} - {"accel-toolkit"}
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert names - pinned == set()


HOMES = {
    "onnxruntime": {"accelerate": 1, "compress": 1},
    "openvino": {"accelerate": 1},
    "nncf": {"compress": 1},
    "neural_compressor": {"compress": 1},
    "onnxslim": {"compress": 1},
}


@pytest.mark.parametrize("library", HOMES)
def test_each_library_is_imported_by_one_file_a_room(library: str) -> None:
    """Of what ships: the scripts beside the package measure the libraries' own calls, and so make them."""
    importers = {root: sum(library in imported(path) for path in (ROOT / root / "accel").rglob("*.py")) for root in ROOTS}
    assert {root: count for root, count in importers.items() if count} == HOMES[library]


def imported(path: Path) -> set[str]:
    """Top-level names of what a file imports when it runs, at any depth of it; not what only type checkers see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in checked:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the build backend is installed only where wheels are built")
    folder = tmp_path_factory.mktemp("wheel")
    program = "import sys; from hatchling.builders.wheel import WheelBuilder\n"
    program += "list(WheelBuilder(sys.argv[1]).build(directory=sys.argv[2], versions=['standard']))"
    subprocess.run([sys.executable, "-c", program, str(ROOT), str(folder)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_accel_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"accel"}
    for file in (
        "accel/cli.py",
        "accel/compress/export_onnx.py",
        "accel/accelerate/eager.py",
        "accel/benchmarks/statistics.py",
    ):
        assert file in names
    assert sum(name.endswith("py.typed") for name in names) == 4
