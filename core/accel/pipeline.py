"""The whole of a run: build every target, measure, report, publish. This process imports neither torch nor a runtime."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from accel.accelerate import gpu_facts
from accel.atomic import exclusive, repair_folder, storage_faults, swap_folder, write
from accel.benchmarks import renderings
from accel.benchmarks.environment import describe
from accel.benchmarks.verdict import verdict
from accel.display import Display, Silent, show_event
from accel.earlier_output import keeping_measurements, require_ours
from accel.errors import AccelError, BackendFault, MissingBackend, ModelFault, StorageFault, UsageError, WorkFault
from accel.gating import judged, stored_reports, withheld
from accel.imports import ImportPolicy
from accel.measuring import measure
from accel.model import Target
from accel.publishing import class_names, deployment, manifest_text, resolved_recipe
from accel.recipe.checks import require_allowed
from accel.recipe.reader import read
from accel.recipe.settings import Recipe
from accel.report import DataUse, Report, Row, StepRecord
from accel.rows import Subject, built
from accel.source_version import source_version
from accel.store import Store, digest_of
from accel.worker import Worker

_SOUND_S = 3600.0
"""The longest silence of a step; a hang ends here instead of never."""


def optimize(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = (),
    *,
    cache_dir: Path,
    output_dir: Path | None = None,
    allowed: Sequence[str] = (),
    benchmark: bool = True,
    keep_failed: bool = False,
    recipe_file: str | None = None,
    screen: Display | None = None,
) -> Report:
    """Run ``recipe`` and publish its output folder ``<output_dir>/<name>``; the report is returned and lies there too.

    ``allowed``: packages that the recipe may import besides the files of its own folder. ``benchmark=False`` builds without
    measuring. Raises AccelError where no target could be built; else a row that failed says so, with its reason. The files of
    a target whose accuracy gate failed are not published, unless ``keep_failed``. ``recipe_file``: as it was given, for
    annotations; by default ``recipe``, where that is a path.
    """
    recipe_file = recipe_file if isinstance(recipe, Recipe) else str(recipe)
    recipe = recipe if isinstance(recipe, Recipe) else read(Path(recipe), overrides)
    require_allowed(recipe, ImportPolicy(recipe.folder, tuple(allowed)))
    screen = screen or Silent()
    final = (output_dir or recipe.folder / recipe.output_dir) / recipe.name
    stored = stored_reports(recipe.gates, recipe.folder)
    warnings: list[str] = []
    store = Store(cache_dir, warn=warnings.append)
    store.open()
    require_ours(final, recipe.name)
    with ExitStack() as stack:
        stack.callback(store.release)
        stack.callback(store.sweep)  # what children left that were ended in the middle of a step
        stack.enter_context(screen)
        with storage_faults(final):
            final.parent.mkdir(parents=True, exist_ok=True)
        lock = final.parent / f".{final.name}.lock"  # beside the output: runs with other stores may write there too
        stack.enter_context(exclusive(lock, waiting=lambda: screen.note(f"waiting for another run that writes {final}")))
        with storage_faults(final):
            repair_folder(final)
        run_folder = stack.enter_context(store.run_folder())
        run = _Run(recipe, store, run_folder, tuple(allowed), screen, warnings)
        report = run.execute(benchmark=benchmark)
        if not benchmark:
            report = keeping_measurements(report, recipe, final)
        report = judged(report, recipe.gates, stored, recipe.gate_places).model_copy(update={"recipe": recipe_file})
        if not keep_failed:
            report = run.withholding(report)
        _publish(run, report, final)
    return report


class _Run:
    """One run's state: what was built, for which target, and what is still to say about it."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        folder: Path,
        allowed: tuple[str, ...],
        screen: Display,
        warnings: list[str],
    ) -> None:
        self.recipe = recipe
        self.store = store
        self.folder = folder
        self.allowed = allowed
        self.screen = screen
        self.warnings = warnings
        self.built: dict[str, dict[str, Any]] = {}
        self.steps: dict[tuple[str, str], StepRecord] = {}
        self.not_run: dict[str, str] = {}
        self._builder: Worker | None = None

    def execute(self, *, benchmark: bool) -> Report:
        machine = describe(gpus=gpu_facts.gpus())  # before any child runs: it tells how busy the machine was without us
        try:
            skipped = self._require_targets()
            data = self._call("data")
            failed: dict[str, AccelError] = {}
            self.not_run = {name: reason for name, reason in self._call("not_run").items() if reason is not None}
            for name, reason in self.not_run.items():
                self.screen.note(f"target {name}: {reason}")
            subjects = self._reference()
            for target in self.recipe.targets_resolved():
                if target.name not in skipped:
                    try:
                        subjects += self._build(target)
                    except (WorkFault, MissingBackend, UsageError) as error:
                        failed[target.name] = error
                        self.screen.warn(f"{target.name}: {error}")
            self.warnings += data["warnings"]
            if failed and len(failed) + len(skipped) == len(self.recipe.targets):
                kind = UsageError if all(isinstance(error, UsageError) for error in failed.values()) else WorkFault
                raise kind(_joined({name: str(error) for name, error in failed.items()}))
            sample = self.folder / "sample.npz"
            if benchmark:
                self._call("sample", batch_size=self.recipe.benchmark.batch_sizes[0], file=str(sample))
        finally:
            self._close_builder()
        rows = [] if benchmark else [Row(**built(subject)) for subject in subjects]
        measured = None
        if benchmark:
            here = [subject for subject in subjects if subject.not_run is None]
            measured = measure(
                here,
                self.recipe,
                allowed=self.allowed,
                folder=self.folder,
                sample=sample,
                screen=self.screen,
                store=self.store.folder,
            )
            self.warnings += measured.warnings
            machine = gpu_facts.after(machine)
            found = {row.name: row for row in measured.rows}
            rows = [found.get(subject.name) or Row(**built(subject)) for subject in subjects]
        targets = {target.name: target for target in self.recipe.targets_resolved()}
        rows += [_absent_row(targets[name], "skipped", reason) for name, reason in skipped.items()]
        rows += [_absent_row(targets[name], "failed", str(error)) for name, error in failed.items()]
        deployed = {
            target.name: deployment(self.recipe, target, self.built[target.name])
            for target in self.recipe.targets_resolved()
            if target.name in self.built
        }
        return Report(
            accel_version=version("accel-toolkit"),
            name=self.recipe.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=self.recipe.seed,
            recipe_sha256=digest_of(self.recipe.document()),
            verdict=verdict(rows, measured.noise if measured else None),
            environment=machine,
            data=[DataUse(**split) for split in data["splits"]],
            rows=rows,
            noise=measured.noise if measured else None,
            conditions=measured.conditions if measured else None,
            peaks=measured.peaks if measured else None,
            samples=list(measured.samples) if measured else [],
            classes=list(class_names(self.recipe) or ()),
            steps=list(self.steps.values()),
            notes=list(self.recipe.notes),
            warnings=list(dict.fromkeys(self.warnings)),
            method=dict(measured.method) if measured else {},
            deployment=deployed,
            source=source_version(self.recipe.folder),
        )

    def withholding(self, report: Report) -> Report:
        """``report``, with a note for each target whose files are not published because its accuracy gate failed."""
        spoilt = [name for name in withheld(report) if name in self.built]
        notes = []
        for name in spoilt:
            del self.built[name]
            way = "--keep-failed publishes its files all the same"
            notes.append(f"{name}: its accuracy gate failed, so there is no targets/{name}; {way}")
        scripts = {name: script for name, script in report.deployment.items() if name not in spoilt}
        return report.model_copy(update={"notes": [*report.notes, *notes], "deployment": scripts})

    # -- the builder --------------------------------------------------------------------------------------------------

    def _call(self, method: str, **arguments: Any) -> Any:
        if self._builder is None:
            self._builder = Worker(
                "builder",
                "accel.building:open_builder",
                {
                    "document": self.recipe.document(),
                    "path": str(self.recipe.path),
                    "store": str(self.store.folder),
                    "allowed": list(self.allowed),
                },
                log=self.folder / "builder.log",
            )
            self._result()
        self._builder.request(method, **arguments)
        return self._result()

    def _result(self) -> Any:
        if self._builder is None:
            raise RuntimeError("no builder")
        try:
            return self._builder.result(timeout_s=_SOUND_S, on_event=self._on_event)
        except AccelError:
            self._close_builder()  # it may be dead or half-way; the next target gets a fresh one
            raise

    def _on_event(self, event: Mapping[str, Any]) -> None:
        if "warning" in event:
            self.warnings.append(str(event["warning"]))
        else:
            show_event(self.screen, event)

    def _close_builder(self) -> None:
        if self._builder is not None:
            self._builder.close()
            self._builder = None

    def _require_targets(self) -> dict[str, str]:
        """Optional targets that cannot be served here, with the reason; MissingBackend for one that is not optional."""
        missing = {name: reason for name, reason in self._call("missing").items() if reason is not None}
        optional = {target.name for target in self.recipe.targets_resolved() if target.optional}
        required = {name: reason for name, reason in missing.items() if name not in optional}
        if required:
            lines = "\n".join(f"target {name}: {reason}" for name, reason in required.items())
            raise MissingBackend(f"{lines}\n(optional: true on a target turns this into a skipped row)")
        for name, reason in missing.items():
            self.screen.note(f"target {name} is skipped: {reason}")
        return missing

    def _reference(self) -> list[Subject]:
        reference = self._call("reference")
        if reference is None:
            return []
        threads = self.recipe.benchmark.threads[0]
        return [
            Subject(name, "reference", None, Target(name, "eager", device=device, threads=threads), reference["model"], None)
            for device in reference["devices"]
            for name in [f"eager fp32{'' if device == 'cpu' else f' on {device}'}"]
        ]

    def _build(self, target: Target) -> list[Subject]:
        result = self._call("build", target=target.name)
        baseline = self._baseline(target)
        for step in (*result["steps"], *(baseline["steps"] if baseline else ())):
            self.steps.setdefault((step["target"], step["key"]), StepRecord(**step))
        self.built[target.name] = result
        for made in filter(None, (result, baseline)):
            self.store.find(made["key"])  # held: nobody may clear it away before it is measured and copied
        target = replace(target, batch=self.recipe.benchmark.batch_sizes[0])
        subjects = [self._subject(target.name, "result", target, target, result)]
        if baseline:
            plain = Target(**baseline["target"])
            name = f"{target.name} {plain.precision} baseline"
            plain = replace(plain, batch=target.batch)
            subjects.insert(0, self._subject(name, "baseline", target, plain, baseline))
        return subjects

    def _baseline(self, target: Target) -> dict[str, Any] | None:
        """None, with a warning, where the backend does not take the untouched model: that is why it has passes."""
        try:
            found: dict[str, Any] | None = self._call("baseline", target=target.name)
        except (BackendFault, ModelFault) as error:
            self.warnings.append(f"{target.name} has no baseline, the untouched model cannot be made for it: {error}")
            return None
        return found

    def _subject(
        self, name: str, role: Literal["baseline", "result"], target: Target, runs_on: Target, made: Mapping[str, Any]
    ) -> Subject:
        return Subject(
            name,
            role,
            target.name,
            runs_on,
            _described(made),
            Path(made["folder"]),
            notes=tuple(made["notes"]),
            build_s=made["seconds"],
            not_run=self.not_run.get(target.name),
        )


def _described(built: Mapping[str, Any]) -> dict[str, Any]:
    """The model as a session takes it: its main file inside the store, or the folder of a saved module."""
    model = dict(built["model"])
    main = model.pop("main")
    return {**model, "folder": built["folder"]} if main is None else {**model, "path": str(Path(built["folder"]) / main)}


def _absent_row(target: Target, status: str, reason: str) -> Row:
    return Row.model_validate(
        {
            "name": target.name,
            "role": "result",
            "target": target.name,
            "backend": target.backend,
            "device": target.device,
            "status": status,
            "reason": reason,
        }
    )


def _joined(failed: Mapping[str, str]) -> str:
    """One reason once, however many targets met it."""
    if len(set(failed.values())) == 1:
        return next(iter(failed.values()))
    return "\n".join(f"{name}: {reason}" for name, reason in failed.items())


def _publish(run: _Run, report: Report, final: Path) -> None:
    """Write everything beside ``final`` and swap it in; on any error the folder that was there stays."""
    staging = final.parent / f".{final.name}.partial"
    try:
        with storage_faults(final):
            shutil.rmtree(staging, ignore_errors=True)
            for name, built in run.built.items():
                folder = staging / "targets" / name
                folder.mkdir(parents=True)
                for path in sorted(Path(built["folder"]).rglob("*")):
                    if path.is_file():
                        place = folder / path.relative_to(built["folder"])
                        place.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(path, place)
                write(folder / "manifest.json", manifest_text(run.recipe, report, name, built["model"]))
            staging.mkdir(parents=True, exist_ok=True)
            write(staging / "recipe.resolved.yaml", resolved_recipe(run.recipe))
            for name, text in renderings.files(run.recipe.report.formats, report):
                write(staging / name, text)
            swap_folder(staging, final)
    except OSError as error:
        raise StorageFault(f"{final}: cannot be written ({error.strerror}); the previous output is untouched") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
