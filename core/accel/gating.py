"""Gates of a run: the stored reports they compare with, what became of them, and which files do not ship for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from accel.benchmarks.control_gates import control_gates
from accel.benchmarks.gate_limits import BASELINE, vs_of
from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.gate_text import parse
from accel.benchmarks.gates import judge
from accel.benchmarks.verdict import verdict
from accel.errors import UsageError
from accel.recipe.checks import gate_problems
from accel.recipe.settings import Recipe
from accel.report import Report, read


def from_text(recipe: Recipe, expressions: Sequence[str]) -> Recipe:
    """``recipe`` with the gates of the command line after its own. UsageError for what is no gate, or none of this recipe."""
    metrics = recipe.task.metrics if recipe.task is not None else ()
    # Which way a metric of the user's own is good its callable says, and that is not imported here.
    directions = {name: None if ":" in name else True for name in metrics}
    targets = [target.name for target in recipe.targets]
    sections = {name: getattr(recipe, name) for name in ("task", "data", "targets", "benchmark")}
    gates = []
    for text in expressions:
        settings = parse(text, metrics=directions, targets=targets)
        for _, problem in gate_problems(settings, sections):
            raise UsageError(f"--gate {text!r}: {problem}")
        gates.append(settings)
    return recipe.with_gates(gates)


def stored_reports(settings: Sequence[GateSettings], folder: Path) -> dict[str, Report]:
    """The reports that gates compare with, by what ``vs`` calls them. UsageError where one cannot be read.

    Read before anything runs, and once: the run may well replace one of them.
    """
    named = dict.fromkeys(vs for one in settings if (vs := vs_of(one)) not in (None, BASELINE))
    return {vs: read(folder / vs) for vs in named if vs is not None}


def judged(
    report: Report,
    settings: Sequence[GateSettings],
    stored: Mapping[str, Report],
    places: Sequence[tuple[int, int]] = (),
) -> Report:
    """``report`` with its gates, those of steps that controlled their accuracy too, and the verdict that names their limits."""
    gates = [*judge(settings, report, stored=stored, places=places), *control_gates(report)]
    return report.model_copy(update={"gates": gates, "verdict": verdict(report.rows, report.noise, gates)})


def withheld(report: Report) -> list[str]:
    """Targets whose files do not ship: a gate on accuracy failed, so the pass that made them spoilt the model."""
    found = [gate.target for gate in report.gates if gate.failed and gate.kind == "accuracy" and gate.target is not None]
    return list(dict.fromkeys(found))
