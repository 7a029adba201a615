"""``accel optimize``: read the recipe (or make the default one for an ONNX file), run it, show the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from accel.benchmarks.gates import exit_code
from accel.benchmarks.terminal import show
from accel.benchmarks.untrusted import lines
from accel.display import display
from accel.errors import UsageError, WorkFault
from accel.gating import from_text
from accel.imports import configured_imports
from accel.pipeline import optimize
from accel.recipe.reader import from_document, read
from accel.recipe.settings import Recipe


def run(
    path: Path,
    overrides: Sequence[str],
    *,
    data: Path | None,
    targets: Sequence[str],
    output: Path | None,
    cache: Callable[[Path | None], Path],
    allowed: Sequence[str],
    benchmark: bool,
    as_json: bool,
    quiet: bool,
    out: Console,
    err: Console,
    gates: Sequence[str] = (),
    keep_failed: bool = False,
) -> int:
    """Exit code 0; 4 where a row of the report failed; else that of the gates. Every other failure is raised."""
    recipe = from_text(_recipe(path, overrides, data, targets), gates)
    if path.suffix == ".onnx":
        for note in recipe.notes:
            err.print(lines(f"warning: {note}"), markup=False, highlight=False, soft_wrap=True)
    folder = output.absolute() if output is not None else None
    if folder is None and path.suffix == ".onnx":
        folder = Path.cwd() / recipe.output_dir
    report = optimize(
        recipe,
        cache_dir=cache(recipe.cache_folder),
        output_dir=folder,
        allowed=[*allowed, *configured_imports(recipe.folder)],
        benchmark=benchmark,
        keep_failed=keep_failed,
        recipe_file=None if path.suffix == ".onnx" else str(path),
        screen=display(err, quiet=quiet or as_json),
    )
    if as_json:
        out.file.write(report.json_text())
    else:
        show(report, out)
        place = (folder or recipe.folder / recipe.output_dir) / recipe.name
        out.print(f"files and report: {place}", markup=False, highlight=False, soft_wrap=True)
    failed = [f"{row.name}: {row.reason}" for row in report.rows if row.status == "failed"]
    for reason in failed:
        err.print(lines(f"accel: {reason}"), markup=False, highlight=False, soft_wrap=True)
    if failed:
        return WorkFault.exit_code
    return exit_code(report.gates)


def _recipe(path: Path, overrides: Sequence[str], data: Path | None, targets: Sequence[str]) -> Recipe:
    if path.suffix == ".onnx":
        if data is None or not targets:
            raise UsageError(f"{path}: to optimize a model without a recipe, give --data and at least one --target")
        if overrides:
            raise UsageError("overrides go with a recipe; write one with: accel init " + str(path))
        from accel.recipe.template import default_document, guessed_preprocessing_note

        document = default_document(path, data, targets)
        guessed = guessed_preprocessing_note(document)
        return from_document(document, path=path.absolute().with_suffix(".yaml"), notes=(guessed,) if guessed else ())
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path}: optimize takes a recipe (.yaml), or an .onnx file with --data and --target")
    if data is not None or targets:
        raise UsageError("--data and --target go with an .onnx file; a recipe has its own (override: data.validation...=...)")
    return read(path, overrides)
