"""What a recipe's parts must be to one another, once each is right by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accel import catalog
from accel.benchmarks.gate_settings import GateSettings
from accel.contracts import Backend, Pass
from accel.errors import SafetyRefusal, UsageError
from accel.imports import ImportPolicy, check
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.recipe.document import Document
from accel.recipe.fields import suggestion
from accel.recipe.passes import (
    Kind,
    Leaf,
    PassEntry,
    candidates,
    gives_file,
    kind_for_backend,
    passed_on,
    preferred_engine,
    takes,
)
from accel.recipe.settings import (
    InputSettings,
    ModelSettings,
    Recipe,
    Sizes,
    TargetSettings,
    reads_ranges,
    resolved_target,
)
from accel.recipe.tree import Location, find, shown
from accel.tasks.settings import DataSettings, TaskSettings

_SPLITS = ("training", "calibration", "selection", "validation")


def model(document: Document, settings: ModelSettings) -> None:
    """Exactly one source; inputs for what is not an ONNX file; axis ranges in order."""
    sources = [name for name in ("factory", "torchvision", "path") if getattr(settings, name) is not None]
    if len(sources) != 1:
        found = " and ".join(sources) or "none"
        document.report_at(("model",), f"takes exactly one of factory, torchvision, path; found {found}", key=True)
        return
    if settings.path is not None:
        if Path(settings.path).suffix.lower() != ".onnx":
            document.report_at(("model", "path"), f"found {shown(settings.path)}; allowed: an .onnx file")
        for name in ("kwargs", "weights", "inputs"):
            if getattr(settings, name):
                document.report_at(("model", name), "does not go with `path`: an .onnx file has its own", key=True)
    elif not settings.inputs:
        document.report_at(
            ("model",), "the key 'inputs' is missing: `inputs: [{name: input, shape: [batch, 3, 224, 224]}]`", key=True
        )
    if settings.torchvision is not None and settings.kwargs.keys() & {"weights", "pretrained"}:
        document.report_at(("model", "kwargs"), "nothing is downloaded: give the file as `weights` of the model", key=True)
    names = [entry.name for entry in settings.inputs]
    ranges: dict[str, Sizes] = {}
    for index, entry in enumerate(settings.inputs):
        for axis, sizes in entry.dynamic.items():
            if ranges.setdefault(axis, sizes) != sizes:
                here = ("model", "inputs", index, "dynamic", axis)
                document.report_at(here, "an earlier input has another range for this axis; give both the same", key=True)
        if entry.name in names[:index]:
            document.report_at(("model", "inputs", index, "name"), f"{shown(entry.name)} is the name of an earlier input too")
        _axes(document, entry, ("model", "inputs", index))


def _axes(document: Document, entry: InputSettings, location: Location) -> None:
    axes = [axis for axis in entry.shape if isinstance(axis, str)]
    for axis, sizes in entry.dynamic.items():
        here = (*location, "dynamic", axis)
        if axis not in axes:
            known = f"; allowed: {', '.join(axes)}" if axes else ""
            document.report_at(here, f"the shape has no such axis{suggestion(axis, axes) or known}", key=True)
        if not sizes.min <= sizes.opt <= sizes.max:
            document.report_at(here, f"found min {sizes.min}, opt {sizes.opt}, max {sizes.max}; allowed: min <= opt <= max")


def unused_sizes(settings: ModelSettings, targets: Sequence[TargetSettings]) -> list[str]:
    """A note for each input whose axis ranges no target reads."""
    if any(map(reads_ranges, targets)):
        return []
    return [
        f"model.inputs.{index}.dynamic: only TensorRT reads it; the targets of this recipe take any size"
        for index, entry in enumerate(settings.inputs)
        if entry.dynamic
    ]


def gates(document: Document, sections: Mapping[str, Any]) -> None:
    """Each gate has one limit, on something that will be measured, of a target that is there."""
    for index, settings in enumerate(sections.get("gates") or ()):
        for key, message in gate_problems(settings, sections):
            document.report_at(("gates", index) if key is None else ("gates", index, key), message)


def gate_problems(settings: GateSettings, sections: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """Key and sentence of each problem of one gate, in a recipe of these sections; what is wrong in them is not held
    against it."""
    from accel.benchmarks import gate_checks  # it loads the report's classes, which a recipe without gates does not need

    task, benchmark = sections.get("task"), sections.get("benchmark")
    if "task" not in sections or "data" not in sections:
        return []
    return list(
        gate_checks.problems(
            settings,
            metrics=dict.fromkeys(task.metrics if task is not None else (), True),
            targets=[target.name for target in sections["targets"]] if sections.get("targets") else None,
            scenarios=None if benchmark is None else benchmark.scenario,
            percentiles=None if benchmark is None else benchmark.percentiles,
            judged=task is not None and sections["data"].validation is not None,
        )
    )


def benchmark(settings: BenchmarkSettings) -> list[str]:
    """Notes on what nothing reads. That there are cores for all threads is seen where they run: see sweeping."""
    from accel.benchmarks import pinning

    notes = []
    streamed = {"offline", "server"} & set(settings.scenario)
    if settings.streams != (1,) and not streamed:
        notes.append("benchmark.streams: only offline and server read it; add one of them to benchmark.scenario")
    if settings.server_bound_ms is not None and "server" not in settings.scenario:
        notes.append("benchmark.server_bound_ms: only server reads it; add it to benchmark.scenario")
    if settings.pinning and "pinning" in settings.model_fields_set and not pinning.available():
        notes.append("benchmark.pinning: this system does not let a process choose its cores; rows go where it puts them")
    return notes


def references(document: Document, sections: Mapping[str, Any], folder: Path) -> None:
    """The form of every reference to code, and that a file it names is there. Imports nothing, permits nothing."""
    for location, reference in _references(sections):
        # Whoever runs the recipe decides what may be imported; here every package counts as allowed.
        policy = ImportPolicy(folder, (reference.partition(":")[0].partition(".")[0],))
        try:
            check(reference, policy)
        except SafetyRefusal:
            continue  # refused with its own exit code, by whatever would import it
        except UsageError as error:
            document.report_at(location, str(error))


def require_allowed(recipe: Recipe, policy: ImportPolicy) -> None:
    """Raise as ``imports.check`` for the first code that ``recipe`` names and ``policy`` does not allow. Imports nothing."""
    for _, reference in _references({name: getattr(recipe, name) for name in ("model", "data", "task", "passes")}):
        check(reference, policy)


def _references(sections: Mapping[str, Any]) -> list[tuple[Location, str]]:
    """Every reference to code, with its place."""
    found: list[tuple[Location, str]] = []
    if (settings := sections.get("model")) is not None and settings.factory is not None:
        found.append((("model", "factory"), settings.factory))
    for split in _SPLITS:
        source = getattr(sections.get("data"), split, None)
        if source is not None and source.factory is not None:
            found.append((("data", split, "factory"), source.factory))
    if (tokenizer := getattr(sections.get("task"), "tokenizer", None)) is not None:
        found.append((("task", "tokenizer", "factory"), tokenizer.factory))
    for index, metric in enumerate(getattr(sections.get("task"), "metrics", ())):
        if ":" in metric:
            found.append((("task", "metrics", index), metric))
    for index, entry in enumerate(sections.get("passes", ())):
        teacher = entry.settings.get("teacher") if entry is not None else None
        if isinstance(teacher, Mapping) and isinstance(teacher.get("factory"), str):
            found.append((("passes", index, "teacher", "factory"), teacher["factory"]))
    return found


def targets(
    document: Document, settings: Sequence[TargetSettings], benchmark: BenchmarkSettings, model: ModelSettings | None
) -> None:
    """Backends exist, have the device and take the options; names differ."""
    known = list(catalog.backends())
    names: list[str] = []
    for index, target in enumerate(settings):
        here: Location = ("targets", index)
        if target.backend not in known:
            listed = f"; allowed: {', '.join(known)}{suggestion(target.backend, known)}"
            document.report_at((*here, "backend"), f"there is no backend {shown(target.backend)}{listed}")
            continue
        if target.name.casefold() in names:
            document.report_at((*here, "name"), f"{shown(target.name)} is another target's name too; give each its own `name`")
        names.append(target.name.casefold())
        try:
            backend: Backend = catalog.backend(target.backend)
        except (ImportError, AttributeError) as error:
            document.report_at((*here, "backend"), f"{target.backend} cannot be loaded: {error}")
            continue
        if target.device not in backend.devices:
            allowed = ", ".join(backend.devices)
            document.report_at((*here, "device"), f"{target.backend} has no device {target.device!r}, allowed: {allowed}")
            continue
        if model is not None and reads_ranges(target) and "profiles" not in target.options:
            _require_ranges(document, target, model)
        try:
            backend.check_options(resolved_target(target, benchmark, model))
        except UsageError as error:
            options = (*here, "options")
            document.report_at(options if find(document.root, options) else here, str(error))


def _require_ranges(document: Document, target: TargetSettings, model: ModelSettings) -> None:
    """Every axis that varies has a range, for a backend that builds for one."""
    known = {axis for entry in model.inputs for axis in entry.dynamic}
    for index, entry in enumerate(model.inputs):
        for axis in entry.shape:
            if isinstance(axis, str) and axis not in known:
                found = f"the axis {axis!r} varies, and target {target.name} ({target.backend}) is built for a range of sizes"
                way = f"add `dynamic: {{{axis}: {{min: 1, opt: 1, max: 32}}}}`"
                document.report_at(("model", "inputs", index), f"{found}; {way}")
                known.add(axis)


def passes(document: Document, entries: Sequence[PassEntry | None], sections: Mapping[str, Any]) -> list[str]:
    """Neighbours fit, for every target; nothing is quantized twice; what a pass needs is there. Gives notes.

    An entry is None where it is wrong by itself: whatever follows it is then taken on trust.
    """
    _twice(document, entries)
    notes: dict[str, None] = {}
    reported: set[tuple[Location, str]] = set()

    def once(location: Location, message: str) -> None:
        if (location, message) not in reported:
            reported.add((location, message))
            document.report_at(location, message)

    options = [candidates(entry) if entry is not None else [] for entry in entries]
    for target_index, target in enumerate(sections.get("targets") or ()):
        wanted = preferred_engine(target.backend)
        kind = _start(sections.get("model"))
        last, misplaced = "the model", False
        first = kind
        expected = kind_for_backend(target.backend)
        for index, (entry, found) in enumerate(zip(entries, options, strict=True)):
            if entry is None or not found:
                kind, last = None, ""
                continue
            leaf, made = next(((leaf, made) for leaf, made in found if leaf.engine == wanted), found[0])
            if expected == "TorchModel" and kind == "TorchModel" and gives_file(type(made)):
                notes[f"{target.name}: {target.backend} takes the model as it is before passes.{index}, {leaf.type}"] = None
                expected = None
            if entry.engine in (None, "auto") and leaf.engine not in (None, "auto", wanted):
                notes[f"passes.{index}: {target.name} gets engine {leaf.engine}; {wanted} does not take these settings"] = None
            _needs(once, index, leaf, made.needs, sections.get("data"))
            _baseline(once, index, entry, made, first)
            if expected is not None:  # else the target takes the model as it was before this pass
                _probe_target(once, index, made, target, sections.get("targets") or ())
            _controlled_metric(once, index, made, sections.get("task"))
            accepted = takes(type(made))
            if kind is not None and kind not in accepted:
                once(("passes", index), f"{leaf.type} takes {_article(accepted)}, but {_gave(last, kind)}; {_way(kind)}")
                misplaced = True
            kind = None if misplaced else passed_on(type(made), kind)
            last = leaf.type
        if kind is not None and expected is not None and kind != expected:
            way = _way(kind) if expected == "OnnxModel" else "remove this target"
            once(("targets", target_index), f"{target.backend} takes {_article({expected})}, but {_gave(last, kind)}; {way}")
    return list(notes)


def _start(settings: ModelSettings | None) -> Kind | None:
    if settings is None:
        return None
    return "OnnxModel" if settings.path is not None else "TorchModel"


def _gave(last: str, kind: Kind) -> str:
    return f"{last} {'is' if last == 'the model' else 'before it gives'} {_article({kind})}"


def _article(kinds: frozenset[Kind] | set[Kind]) -> str:
    return " or ".join(f"{'an' if kind.startswith('O') else 'a'} {kind}" for kind in sorted(kinds))


def _way(kind: Kind) -> str:
    """The way out for a pass or target that cannot take ``kind``."""
    if kind == "OnnxModel":
        return "move it before the pass that makes the ONNX file"
    return "put `- type: export_onnx` before it"


def _twice(document: Document, entries: Sequence[PassEntry | None]) -> None:
    first: int | None = None
    for index, entry in enumerate(entries):
        if entry is None or entry.type != "quantize":
            continue
        if first is not None:
            document.report_at(("passes", index), f"the model is quantized already, by passes.{first}; keep one of the two")
        first = index if first is None else first


def _baseline(once: Any, index: int, entry: PassEntry, made: Pass, first: Kind | None) -> None:
    if "teacher" in made.needs and entry.settings.get("teacher") == "baseline" and first == "OnnxModel":
        way = "name a torch model: `teacher: {factory: file.py:name, weights: ...}`"
        once(("passes", index, "teacher"), f"the baseline is an ONNX file, and only a torch model can teach; {way}")


def _probe_target(once: Any, index: int, made: Pass, target: TargetSettings, targets: Sequence[TargetSettings]) -> None:
    """What a pass measures on, its own target where it names none: it is there, and runs files."""
    if "probe" not in made.needs:
        return
    name = getattr(made, "probe_target", None)
    known = {each.name: each for each in targets}
    if name is not None and name not in known:
        near = suggestion(name, list(known)) or f"; the targets are {', '.join(known)}"
        once(("passes", index, "constraint", "target"), f"there is no target {shown(name)}{near}")
        return
    measured = target if name is None else known[name]
    if kind_for_backend(measured.backend) == "TorchModel":
        found = f"candidates are timed as ONNX files, and {measured.name} ({measured.backend}) runs none"
        once(("passes", index), f"{found}; name another target: `constraint: {{latency_ms: ..., target: NAME}}`")


def _controlled_metric(once: Any, index: int, made: Pass, task: TaskSettings | None) -> None:
    """What ``accuracy_control`` judges by is one of the task's metrics, or what takes their place without labels."""
    control = getattr(made, "accuracy_control", None)
    metric = getattr(control, "metric", None)
    if metric is None or task is None:
        return
    allowed = [*task.metrics, "cosine" if task.type == "embedding" else "agreement"]
    if metric not in allowed:
        near = suggestion(metric, allowed) or f"; allowed: {', '.join(allowed)}"
        once(("passes", index, "accuracy_control", "metric"), f"the task has no metric {shown(metric)}{near}")


def _needs(once: Any, index: int, leaf: Leaf, needs: frozenset[str], settings: DataSettings | None) -> None:
    if settings is None:
        return
    declared = {split for split in _SPLITS if getattr(settings, split) is not None}
    if {"training", "calibration"} & declared:
        declared.add("selection")  # split off by the task
    for split in sorted(needs & set(_SPLITS) - declared):
        once(("passes", index), f"{leaf.type} needs {split} data; add data.{split}")
