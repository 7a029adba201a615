"""What the documents say is true: links lead somewhere, commands exist, YAML blocks are valid recipes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from accel.cli import app
from accel.recipe.document import parse
from accel.recipe.reader import from_document
from accel.recipe.tree import plain

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(path for path in ROOT.glob("*.md")) + sorted(
    path for room in ("recipes", "compress", "accelerate", "benchmarks", "tests", "docs") for path in (ROOT / room).glob("*.md")
)


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_command_in_the_readme_exists_and_every_command_is_in_it() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(
        re.findall(r"`?accel ([a-z]+)", "\n".join(re.findall(r"```\n.*?```|`accel [a-z]+[^`]*`", text, flags=re.DOTALL)))
    )
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert named <= known
    table = set(re.findall(r"`([a-z]+)`", "\n".join(line for line in text.splitlines() if line.startswith("| `"))))
    assert known <= table


def test_the_recipe_in_the_readme_is_valid(tmp_path: Path) -> None:
    block, gates = blocks(ROOT / "README.md", "yaml")
    document = plain(parse((block + gates).encode(), "README.md").root)
    assert isinstance(document, dict)
    recipe = from_document(document, path=tmp_path / "recipe.yaml")
    assert [entry.type for entry in recipe.passes] == ["export_onnx", "simplify", "quantize"]
    assert [gate.metric for gate in recipe.gates] == ["top1", "latency_p50_ms", "size_bytes"]


def test_make_targets_in_the_readme_exist() -> None:
    named = set(re.findall(r"\bmake ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    defined = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {"quickstart", "test"} <= named <= defined


def test_exit_codes_in_the_readme_are_those_of_the_errors() -> None:
    from accel import errors

    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.AccelError)}
    line = next(
        part for part in (ROOT / "README.md").read_text(encoding="utf-8").split("\n\n") if part.startswith("Exit codes")
    )
    assert codes <= {int(number) for number in re.findall(r"\b\d+\b", line)}
