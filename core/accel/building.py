"""The builder: runs the passes of one recipe in a child process, and looks every step up in the store first.

Nothing heavy is imported until a step has to run: a run whose steps are all stored needs neither torch nor a runtime.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from accel import catalog, onnx_file
from accel.atomic import require_room
from accel.contracts import Backend, Job, Need, Pass, RecipeTask, Split
from accel.data_use import require_classes, require_metrics, source_of
from accel.errors import AccelError, DataFault, PassFault, UsageError, WorkFault
from accel.imports import ImportPolicy
from accel.model import Model, OnnxModel, Target, TorchModel, signature_from, signature_record
from accel.origin import torch_origin
from accel.probe import TargetProbe
from accel.rebuilding import (
    make_task,
    state_digest,
    task_inputs,
    taught_by,
    teacher_digest,
    untouched_module,
)
from accel.recipe.reader import from_document
from accel.recipe.settings import Recipe
from accel.stages import Stage, added, describe, execute, keep, read, require_sound, stored, unchanged
from accel.steps import (
    SPLITS,
    declared_inputs,
    deploy_key,
    missing,
    not_run,
    settings_of,
    source_digest,
    step_key,
    untouched_target,
    use_of_data,
)
from accel.store import STORE_VERSION, Claim, Entry, Store, digest_of
from accel.timed_inputs import Sample, axis_sizes, noise
from accel.worker import Emit

if TYPE_CHECKING:
    from accel.contracts import Array

T = TypeVar("T")


def open_builder(emit: Emit, document: Mapping[str, Any], path: str, store: str, allowed: Sequence[str]) -> Builder:
    """Entry point of the child process; arguments are JSON."""
    recipe = from_document(document, path=Path(path))
    return Builder(emit, recipe, Path(store), ImportPolicy(recipe.folder, tuple(allowed)))


class Builder:
    """Builds targets one at a time. Every public method takes and gives JSON."""

    def __init__(self, emit: Emit, recipe: Recipe, store: Path, policy: ImportPolicy) -> None:
        self._emit = emit
        self._recipe = recipe
        self._policy = policy
        self._store = Store(store, warn=self._warn)
        self._targets = {target.name: target for target in recipe.targets_resolved()}

    def missing(self) -> dict[str, str | None]:
        """For each target: None, or why it cannot be served here (backend, device, or a library that a pass needs)."""
        return {name: missing(self._recipe, target) for name, target in self._targets.items()}

    def not_run(self) -> dict[str, str | None]:
        """For each target that can be served: None, or why what is built for it is not run here."""
        return {name: not_run(target) for name, target in self._targets.items() if missing(self._recipe, target) is None}

    def data(self) -> dict[str, Any]:
        """Which samples serve for what, and what is suspicious about them. Reads the data once; kept in the store."""
        task = self._task
        if task is None:
            return {"splits": [], "warnings": []}
        require_metrics(self._recipe, self._policy)
        self._emit({"doing": "reading the data"})  # a factory's data are digested as they are read
        digests = {split: task.digest(split) for split in SPLITS if task.has(split)}
        key = digest_of({"store": STORE_VERSION, "look": 1, "data": digests})

        def look(claim: Claim) -> dict[str, Any]:
            self._emit({"doing": "comparing the splits by content"})
            counts = {split: task.count(split) for split in digests}
            return {"name": "comparison of the splits", "counts": counts, "warnings": [*task.overlaps(), *task.warnings]}

        entry = self._stored(key, look, "reading the data")[0]
        splits = [
            {"split": split, "source": source_of(self._recipe, split), "samples": entry.meta["counts"][split], "digest": digest}
            for split, digest in digests.items()
        ]
        return {"splits": splits, "warnings": [*entry.meta["warnings"], *task.warnings]}

    def sample(self, batch_size: int, file: str) -> None:
        """Write one batch of ``batch_size`` to the .npz ``file``, for timing: real samples, or seeded noise without data."""
        import numpy as np

        inputs = self._batch(("calibration", "validation"), batch_size)
        np.savez(file, **inputs)  # type: ignore[arg-type]

    def baseline(self, target: str) -> dict[str, Any] | None:
        """The untouched model as files for this target, in FP32 where the device has it; None for eager, which is it."""
        chosen = untouched_target(self._targets[target])
        if chosen.backend == "eager":
            return None
        steps: list[dict[str, Any]] = []
        stage = self._exported(target, steps)
        return {**self._deployed(chosen, stage, steps), "target": asdict(chosen)}

    def build(self, target: str) -> dict[str, Any]:
        """Run the passes for ``target`` and write the files that ship: ``{"model": ..., "folder": ..., "steps": [...]}``."""
        chosen = self._targets[target]
        steps: list[dict[str, Any]] = []
        stage = self._untouched
        passes = self._recipe.passes_for(chosen)
        for index, (key, a_pass) in enumerate(passes):
            label = f"{target}: {key} ({index + 1} of {len(passes)})"
            allow_noop = self._recipe.passes[index].allow_noop
            stage = self._step(chosen, key, a_pass, stage, steps, label=label, allow_noop=allow_noop)
        return self._deployed(chosen, stage, steps)

    def reference(self) -> dict[str, Any] | None:
        """How a runner builds the untouched torch module, and the devices to run it on: the GPU too where a target is for one.

        None where the recipe starts from an ONNX file.
        """
        if self._recipe.model.path:
            return None
        devices = ["cpu"]
        wanted = any(target.device == "gpu" for target in self._targets.values())
        if wanted and catalog.backend("eager").unavailable("gpu") is None:
            devices.append("gpu")
        return {"model": {"kind": "torch", "digest": self._untouched.digest}, "devices": devices}

    # -- the untouched model ------------------------------------------------------------------------------------------

    @cached_property
    def _untouched(self) -> Stage:
        settings = self._recipe.model
        if settings.path:
            path = self._recipe.folder / settings.path
            for warning in onnx_file.check(path):
                self._warn(f"{settings.path}: {warning}")
            return Stage(onnx_file.digest(path), lambda: onnx_file.read(path))
        origin = torch_origin(
            factory=settings.factory,
            torchvision=settings.torchvision,
            kwargs=settings.kwargs,
            weights=self._recipe.folder / settings.weights if settings.weights else None,
            policy=self._policy,
        )
        digest = origin.digest
        if settings.weights is None:  # the factory loads or draws its own: only the module itself tells them apart
            digest = digest_of({"origin": digest, "state": state_digest(self._module)})
        return Stage(source_digest(digest, declared_inputs(self._recipe), self._recipe.seed), lambda: self._module)

    @cached_property
    def _module(self) -> TorchModel:
        return untouched_module(self._recipe, self._policy)

    def _exported(self, target: str, steps: list[dict[str, Any]]) -> Stage:
        """The untouched model as ONNX: by the recipe's own export if it has one, so that the step is shared."""
        if self._recipe.model.path:
            return self._untouched
        chosen = self._targets[target]
        export = next((item for item in self._recipe.passes_for(chosen) if item[0] == "export_onnx"), None)
        key, a_pass = export or ("export_onnx", catalog.load(catalog.passes()["export_onnx"])())
        return self._step(chosen, key, a_pass, self._untouched, steps, label=f"{target}: {key} (untouched model)")

    # -- one step -----------------------------------------------------------------------------------------------------

    def _step(
        self,
        target: Target,
        key: str,
        a_pass: Pass,
        stage: Stage,
        steps: list[dict[str, Any]],
        *,
        label: str,
        allow_noop: bool = False,
    ) -> Stage:
        needs = a_pass.needs
        profile = catalog.backend(target.backend).quantization if "profile" in needs else None
        seen_target = target if "target" in needs else None
        probe = self._probe(a_pass, target)
        name = step_key(
            key,
            a_pass,
            source=stage.digest,
            data={**self._data_digests(needs), **use_of_data(self._recipe, a_pass)},
            profile=profile,
            target=seen_target,
            seed=self._recipe.seed,
            teacher=teacher_digest(self._recipe, self._policy, a_pass, lambda: self._untouched.digest, build=True),
            probe=None if probe is None else {**probe.identity, "precision": probe.precision},
        )
        record: dict[str, Any] = {"target": target.name, "name": key, "settings": settings_of(a_pass), "key": name}

        def run(claim: Claim) -> dict[str, Any]:
            started = time.perf_counter()
            given = stage.load()
            teacher = taught_by(self._recipe, self._policy, a_pass, self._untouched.load)
            job = Job(
                folder=claim.folder,
                scratch=claim.scratch,
                task=self._task,
                seed=self._recipe.seed,
                progress=self._progress,
                profile=profile,
                target=seen_target,
                execute=self._execute,
                teacher=teacher,
                probe=probe,
                memo=partial(self._memo, use_of_data(self._recipe, a_pass)),
            )
            result = self._guarded(key, lambda: a_pass(given, job))
            meta = self._guarded(key, lambda: keep(key, result, claim.folder, self._policy))
            back = read(claim.folder, meta, self._policy, self._recipe.seed)
            self._require_sound(key, result, back)
            return {
                "name": key,
                **meta,
                "notes": added(given, result),
                "accuracy": result.accuracy if isinstance(result, OnnxModel) else None,
                # With the step, so that they are said again where it is stored: of the models, and of the data it has read.
                "warnings": [
                    *(given.notes if isinstance(given, TorchModel) else ()),
                    *(teacher.notes if teacher is not None else ()),
                    *(self._task.warnings if self._task is not None and set(SPLITS) & needs else ()),
                ],
                "unchanged": unchanged(given, back),
                "seconds": time.perf_counter() - started,
            }

        entry, cached = self._stored(name, run, label)
        for warning in entry.meta["warnings"]:
            self._warn(warning)
        if entry.meta["unchanged"] and not allow_noop:
            raise PassFault(f"{key}: changed nothing; remove the pass, or set allow_noop: true on it")
        found = {"notes": list(entry.meta["notes"]), "accuracy": entry.meta.get("accuracy")}
        steps.append({**record, "seconds": entry.meta["seconds"], "cached": cached, **found})
        return stored(entry, self._policy, self._recipe.seed)

    def _require_sound(self, key: str, result: Model, back: Model) -> None:
        fixed = [spec.shape[0] for spec in back.signature.inputs if spec.shape and isinstance(spec.shape[0], int)]
        inputs = self._batch(("calibration", "training", "validation"), fixed[0] if fixed else 2)
        require_sound(key, result, back, inputs, lambda model, given: execute(model, given, self._store.folder / "runs"))

    def _probe(self, a_pass: Pass, target: Target) -> TargetProbe | None:
        """What a pass tries candidates out with, for ``target`` or the one that it names; None for one that does not."""
        if "probe" not in a_pass.needs:
            return None
        name = getattr(a_pass, "probe_target", None)
        if name is not None and name not in self._targets:
            raise UsageError(f"there is no target {name!r} to measure on; the targets are {', '.join(self._targets)}")
        size = self._recipe.benchmark.batch_sizes[0]
        specs = task_inputs(self._recipe)
        varies = any(isinstance(axis, str) for spec in specs for axis in spec.shape[1:])
        sizes = axis_sizes(specs, self._batch(("calibration", "training", "validation"), size)) if varies else {}
        return TargetProbe(
            self._targets[name] if name is not None else target,
            folder=self._store.folder / "runs",
            sample=Sample(None, size, self._recipe.seed, sizes),
            precision="int8" if any(entry.type == "quantize" for entry in self._recipe.passes) else "fp32",
            task=self._task,
            seed=self._recipe.seed,
            lock=self._store.folder / "locks" / "timing.lock",
            progress=self._progress,
        )

    def _progress(self, done: int, total: int, what: str) -> None:
        self._emit({"done": done, "total": total, "what": what})

    def _memo(self, use: Mapping[str, Any], key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """What ``compute`` gave for an equal ``key``, and the same ``use`` of data, in this run or an earlier one."""
        name = digest_of({"store": STORE_VERSION, "memo": dict(key), "use": dict(use)})
        entry = self._store.find(name)
        if entry is None:
            with self._store.claim(name, waiting=self._wait) as claim:
                entry = self._store.find(name) or claim.commit({"name": str(key.get("what", "a table")), "value": compute()})
        return entry.meta["value"]

    def _deployed(self, target: Target, stage: Stage, steps: list[dict[str, Any]]) -> dict[str, Any]:
        backend: Backend = catalog.backend(target.backend)
        name = deploy_key(target, source=stage.digest)
        label = f"{target.name}: files for {target.backend}"

        def run(claim: Claim) -> dict[str, Any]:
            model = stage.load()
            cache = self._store.folder / "backends" / target.backend
            cache.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            shipped = self._guarded(
                f"deploy to {target.backend}",
                lambda: backend.deploy(model, target, claim.folder, cache=cache, progress=self._progress),
            )
            if isinstance(shipped, TorchModel):
                describe(shipped, claim.folder, self._policy)
            main = shipped.path.relative_to(claim.folder).as_posix() if isinstance(shipped, OnnxModel) else None
            said = {
                "name": f"files for {target.backend}",
                "notes": added(model, shipped),
                "seconds": time.perf_counter() - started,
            }
            return {**said, "main": main, "signature": signature_record(shipped.signature)}

        entry, _ = self._stored(name, run, label)
        for warning in require_classes(self._recipe, signature_from(entry.meta["signature"])):
            self._warn(warning)
        return {
            "model": {
                "kind": "onnx" if entry.meta["main"] else "torch",
                "main": entry.meta["main"],
                "signature": entry.meta["signature"],
            },
            "folder": str(entry.folder),
            "key": name,
            "notes": list(entry.meta["notes"]),
            "seconds": entry.meta["seconds"],
            "steps": steps,
        }

    def _stored(self, key: str, make: Callable[[Claim], dict[str, Any]], label: str) -> tuple[Entry, bool]:
        """The entry for ``key`` and whether it was there already."""
        entry = self._store.find(key)
        self._emit({"doing": label, "step": label if entry is None else f"{label}: reused"})
        if entry is not None:
            return entry, True
        with self._store.claim(key, waiting=self._wait) as claim:
            entry = self._store.find(key)
            if entry is not None:
                return entry, True
            return claim.commit(make(claim)), False

    def _guarded(self, what: str, work: Callable[[], T]) -> T:
        """Library exceptions of a pass become PassFault; ours, memory and interrupts pass through."""
        try:
            return work()
        except WorkFault:
            require_room(self._store.folder)  # a library that could not write says anything but that
            raise
        except (AccelError, MemoryError, OSError):
            raise
        except Exception as error:  # the boundary to third-party code: named and reported, with the trace in the log
            with suppress(OSError):  # the log may lie on the disk that is full
                traceback.print_exc()
            require_room(self._store.folder)
            raise PassFault(f"{what}: {type(error).__name__}: {error}") from error

    # -- data and execution -------------------------------------------------------------------------------------------

    @cached_property
    def _task(self) -> RecipeTask | None:
        return make_task(self._recipe, self._policy)

    def _data_digests(self, needs: frozenset[Need]) -> dict[str, str]:
        wanted = [split for split in SPLITS if split in needs]
        if wanted and self._task is None:
            raise DataFault(f"the recipe has no data for {', '.join(wanted)}; add data.{wanted[0]}")
        return {split: self._task.digest(split) for split in wanted if self._task is not None}

    def _batch(self, splits: Sequence[Split], size: int) -> dict[str, Array]:
        """The first ``size`` samples of the first split there is, repeated if too few; seeded noise without data."""
        import numpy as np

        task = self._task
        for split in splits:
            if task is not None and task.has(split):
                batch = next(iter(getattr(task, split)()), None)
                if batch is not None:
                    return {
                        name: np.ascontiguousarray(np.resize(array[:size], (size, *array.shape[1:])))
                        for name, array in batch.inputs.items()
                    }
        return noise(self._untouched.load().signature.inputs, size, self._recipe.seed)

    def _execute(self, path: Path, inputs: Mapping[str, Array]) -> Sequence[Array]:
        return execute(onnx_file.read(path), inputs, self._store.folder / "runs")

    def _wait(self) -> None:
        self._emit({"what": "waiting for another run that makes this step"})

    def _warn(self, text: str) -> None:
        """At once, so that nothing is lost with a builder that dies later."""
        self._emit({"warning": text})
