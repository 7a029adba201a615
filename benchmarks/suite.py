"""The project's own benchmark suite: the shipped recipes beside what a user would otherwise do, all timed in turn in one run.

    python benchmarks/suite.py [--only quickstart] [--quick]

For each model at hand (quickstart always; the others where --shared has their data) the recipe is run, the libraries' own calls
make their files from the same model and calibration data (suite_arms.py), and accel's machinery measures them all: latency in
interleaved turns, accuracy on the same validation data, paired by image with the untouched model. Below --output:

    suite.md                 the table that the README shows
    suite.json               its figures
    MODEL/report.json        all that was measured; `accel report MODEL` renders it, report.md and report.html lie beside it
    MODEL/arms/              the libraries' files

``--quick`` is the part for CI: quickstart, the libraries' defaults, short turns, and gates on ratios of the same run: accel's
result must not be much slower than the library's own default call on the same runtime, nor less accurate than the untouched
model by more than its interval leaves open. Exit code as of ``accel optimize``: 0, or that of the gates that failed. Without
--quick there are no gates.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

import suite_arms
import suite_table
from accel import telemetry
from accel.atomic import write
from accel.benchmarks import renderings
from accel.benchmarks.environment import describe
from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.gates import exit_code, judge
from accel.benchmarks.verdict import verdict
from accel.display import display
from accel.errors import AccelError, WorkFault
from accel.measuring import Bench
from accel.model import Target
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.recipe.reader import read
from accel.recipe.settings import Recipe
from accel.report import Gate, Report, Row
from accel.rows import Subject
from accel.store import Store
from accel.timed_inputs import Sample
from experiment import RECIPES, Experiment, parser, say
from shipped import SHIPPED, Shipped

ALL_ARMS = (
    "eager",
    "compile",
    "ort",
    "ov",
    "ov-default",
    "ort-int8",
    "ort-advised",
    "nncf-ov",
    "nncf-onnx",
    "inc-onnx",
    "inc-ov",
)
QUICK_ARMS = ("ort", "ov", "ort-int8", "nncf-ov")
RIVAL = {"onnxruntime": "ort-int8", "openvino": "nncf-ov"}
"""The call that a user of a runtime's own tools makes to quantize, by our backend."""

LONGEST_S = 3.0
"""Seconds a row, starting its processes included, where a duration is given: after that no restart is added."""

MAX_SLOWER = 0.25
MAX_DROP = 0.01
"""Gates of --quick: wide, for a shared runner; against the rival's latency, and against the untouched model's top-1."""


@dataclass(frozen=True)
class Suite:
    """``arms``: keys of suite_arms.ARMS; ``duration_s``: timed seconds a row, None for the recipe's own."""

    lab: Experiment
    shared: Path
    arms: Sequence[str]
    duration_s: float | None
    gated: bool

    def run(self, shipped: Shipped) -> tuple[Report, dict[str, str]]:
        """The report of one model, kept below the output folder, and what the user wrote by row name."""
        words = [*shipped.words(self.shared), "report.formats=[json]"]
        recipe = read(RECIPES / shipped.recipe, words)
        machine = describe()
        built, folder = Experiment(self.lab.output / "runs", self.lab.cache).run(shipped.recipe, words, benchmark=False)
        place = self.lab.output / shipped.name
        arms = self._made(recipe, place / "arms")
        wrote = {arm["name"]: arm["wrote"] for arm in arms}
        subjects = [_rival(arm, place / "arms", recipe) for arm in arms if arm["reason"] is None]
        mine = [_result(target, folder, recipe) for target in recipe.targets_resolved()]
        wrote |= {subject.name: f"accel optimize {shipped.recipe}" for subject in mine}
        measured = self._measured(recipe, [*subjects, *mine], built, place / "arms" / suite_arms.SAMPLE)
        failed = [_failed(arm) for arm in arms if arm["reason"] is not None]
        # The machine as it was before, not after our own work.
        found = {"name": shipped.name, "environment": machine, "rows": [*measured.rows, *failed]}
        report = measured.model_copy(update=found)
        if self.gated:
            report = report.model_copy(update={"gates": gates(report, {arm["key"]: arm["name"] for arm in arms})})
        for name, text in renderings.files(("json", "md", "html"), report):
            write(place / name, text)
        return report, wrote

    def _made(self, recipe: Recipe, folder: Path) -> list[dict[str, Any]]:
        """What suite_arms.py says that it made in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        quantize = next(entry.settings for entry in recipe.passes if entry.type == "quantize")
        asked = folder / "asked.json"
        given = {
            "document": recipe.document(),
            "path": str(recipe.path),
            "samples": quantize["calibration"]["num_samples"],
            "arms": list(self.arms),
            "batch": recipe.benchmark.batch_sizes[0],
        }
        asked.write_text(json.dumps(given), encoding="utf-8")
        say(f"== {recipe.name}: the libraries' own files")
        script = Path(__file__).with_name("suite_arms.py")
        done = subprocess.run(
            [sys.executable, str(script), str(asked), str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise WorkFault(f"suite_arms.py ended with {done.returncode}: {done.stderr[-1000:]}")
        made: list[dict[str, Any]] = json.loads((folder / "arms.json").read_text(encoding="utf-8"))
        return made

    def _settings(self, recipe: Recipe) -> BenchmarkSettings:
        if self.duration_s is None:
            return recipe.benchmark
        longest = max(self.duration_s, LONGEST_S)
        timed = {"min_duration_s": self.duration_s, "max_duration_s": longest, "min_iterations": 50}
        return recipe.benchmark.model_copy(update=timed)

    def _measured(self, recipe: Recipe, subjects: Sequence[Subject], built: Report, sample: Path) -> Report:
        settings = self._settings(recipe)
        store = Store(self.lab.cache)
        store.open()
        with ExitStack() as stack:
            screen = stack.enter_context(display(Console(stderr=True), quiet=False))
            bench = Bench(
                settings,
                document=recipe.document(),
                path=recipe.path,
                allowed=(),
                folder=stack.enter_context(store.run_folder()),
                sample=Sample(str(sample), settings.batch_sizes[0], recipe.seed),
                screen=screen,
                store=store.folder,
                report=recipe.report.model_copy(update={"layers": not self.gated, "roofline": not self.gated}),
            )
            found = bench.measure(subjects)
        return Report(
            accel_version=version("accel-toolkit"),
            name=recipe.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=recipe.seed,
            recipe_sha256=built.recipe_sha256,
            verdict=verdict(found.rows, found.noise),
            environment=describe(),
            data=built.data,
            rows=found.rows,
            noise=found.noise,
            conditions=found.conditions,
            peaks=found.peaks,
            samples=found.samples,
            classes=built.classes,
            steps=built.steps,
            notes=["rows that are not in bold are not accel's: see what the notes of each say it was made by"],
            warnings=[*built.warnings, *found.warnings],
            method=found.method,
        )


def _rival(arm: dict[str, Any], folder: Path, recipe: Recipe) -> Subject:
    """Every row that is not accel's is a baseline, whatever it runs: so results are timed against each."""
    batch, threads = recipe.benchmark.batch_sizes[0], recipe.benchmark.threads[0]
    torch = arm["file"] is None
    target = Target(
        arm["key"], arm["backend"], precision=arm["precision"], options=arm["options"], threads=threads, batch=batch
    )
    path = None if torch else folder / arm["file"]
    return Subject(
        arm["name"],
        "reference" if torch else "baseline",
        None,
        target,
        {"kind": "torch"} if path is None else {"kind": "onnx", "path": str(path)},
        None if torch else folder,
        main=path,
        notes=(f"made by {arm['wrote']}",),
    )


def _result(target: Target, folder: Path, recipe: Recipe) -> Subject:
    place = folder / "targets" / target.name
    path = place / "model.onnx"
    target = replace(target, batch=recipe.benchmark.batch_sizes[0])
    model = {"kind": "onnx", "path": str(path)}
    return Subject(f"accel, {target.name}", "result", target.name, target, model, place, main=path)


def _failed(arm: dict[str, Any]) -> Row:
    return Row(name=arm["name"], role="baseline", backend=arm["backend"], status="failed", reason=arm["reason"])


def gates(report: Report, names: dict[str, str]) -> list[Gate]:
    """Each result against its runtime's own quantizer, and against the untouched model. ``names``: of rows, by key."""
    rows = {row.name: row for row in report.rows}
    found: list[Gate] = []
    for row in report.rows:
        if row.role != "result":
            continue
        rival = rows[names[RIVAL[row.backend]]]
        slower = GateSettings(metric="latency_p50_ms", max_drop=MAX_SLOWER)
        found += judge([slower], report.model_copy(update={"rows": [rival, row]}), stored={})
        worse = GateSettings(metric="top1", max_drop=MAX_DROP)
        found += judge([worse], report.model_copy(update={"rows": [rows[names["ort"]], row]}), stored={})
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    words = parser(__doc__, "suite", quick="quickstart only, the libraries' defaults, short turns, and gates: for CI")
    words.add_argument("--only", choices=[shipped.name for shipped in SHIPPED], action="append", help="this model; repeatable")
    words.add_argument("--duration", type=float, help="timed seconds a row; by default what each recipe says")
    chosen = words.parse_args(arguments)
    telemetry.switch_off()
    lab = Experiment.chosen(chosen)
    wanted = chosen.only or (["quickstart"] if chosen.quick else [shipped.name for shipped in SHIPPED])
    shared = chosen.shared.absolute()
    duration_s = chosen.duration or (0.5 if chosen.quick else None)
    suite = Suite(lab, shared, QUICK_ARMS if chosen.quick else ALL_ARMS, duration_s, gated=chosen.quick)
    said: list[str] = []
    entries: list[dict[str, Any]] = []
    found: list[Gate] = []
    lost = False
    here = ""
    for shipped in SHIPPED:
        if shipped.name not in wanted:
            continue
        reason = shipped.missing(shared)
        if reason is not None:
            said += [f"### {shipped.name}", "", f"skipped: {reason}", ""]
            entries.append({"model": shipped.name, "skipped": reason})
            continue
        report, wrote = suite.run(shipped)
        said += suite_table.section(report, wrote)
        entries.append(suite_table.entry(report, wrote, f"{shipped.name}/report.json"))
        found += report.gates
        lost = lost or any(row.status == "failed" and row.role == "result" for row in report.rows)
        here = suite_table.machine(report)
    lab.keep("suite", {"accel_version": version("accel-toolkit"), "machine": here, "models": entries}, [*said, here])
    return WorkFault.exit_code if lost else exit_code(found)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AccelError as error:
        say(f"suite: {error}")
        sys.exit(error.exit_code)
