"""The parts of ``report.md`` that say how a run was made: conditions, machine, data, steps, deployment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from accel.benchmarks import figures
from accel.benchmarks.environment import gpu_line
from accel.benchmarks.markdown_blocks import Room, Shown, bullets, folded, table
from accel.benchmarks.untrusted import fenced
from accel.machine import Conditions
from accel.report import Report


def measured(report: Report, room: Room, shown: Shown) -> list[str]:
    """Noise, conditions and machine in sight; settings, versions and data folded away."""
    lines = []
    latency = next((row.latency for row in report.rows if row.latency is not None), None)
    if latency is not None:
        lines.append(
            f"batch size {latency.batch_size}, threads {latency.threads}, {latency.restarts} restarts of "
            f"{latency.rounds} rounds, rows in turn, in shuffled order{_pinned(report.method)}"
        )
    if report.noise is not None:
        noise = report.noise
        lines.append(
            f"noise: {noise.verdict}; {shown(noise.row)} against itself in a second process {figures.ratio(noise.ratio)}, "
            "which should hold 1"
        )
    if report.conditions is not None:
        lines.append(f"conditions: {conditions(report.conditions)}")
        lines += [f"⚠ {shown(problem)}" for problem in report.conditions.problems[: room.notes]]
    lines.append(f"machine: {_machine(report, shown)}")
    lines += [f"GPU {gpu.index}: {shown(gpu_line(gpu))}" for gpu in report.environment.gpus]
    lines.append(f"seed: {report.seed}")
    return ["## How it was measured", _listed(lines), folded("Settings, versions and data", *_rest(report, room, shown))]


def _pinned(method: Mapping[str, Any]) -> str:
    cores = method.get("pinned")
    if not isinstance(cores, list) or not cores or not all(isinstance(core, int) for core in cores):
        return ""
    return f", all on core{'s' if len(cores) > 1 else ''} {figures.listed([str(core) for core in cores])}"


def _listed(lines: Iterable[str]) -> str:
    """``lines`` are harmless already."""
    return "\n".join(f"- {line}" for line in lines)


def conditions(found: Conditions) -> str:
    """What the machine did meanwhile, in one line of figures."""
    said = [f"{figures.seconds(found.seconds)} of timing"]
    if found.others_share is not None:
        said.append(f"others took {figures.percent(found.others_share)} of the cores")
    if found.steal_share is not None:
        said.append(f"the hypervisor {figures.percent(found.steal_share)}")
    if found.throttled_s is not None:
        said.append(f"held back by a quota for {figures.seconds(found.throttled_s)}")
    if found.clock_mhz_before is not None and found.clock_mhz_after is not None:
        said.append(f"clock {found.clock_mhz_before:.0f} MHz before and {found.clock_mhz_after:.0f} MHz after")
    if found.drift is not None:
        said.append(f"drift {found.drift:.3f}x from the first third to the last")
    return ", ".join(said)


def _machine(report: Report, shown: Shown) -> str:
    here = report.environment
    text = f"{shown(here.cpu)}, {here.cores} cores, {figures.size(here.memory_bytes)} of memory, {shown(here.platform)}"
    text += f", Python {shown(here.python)}"
    if here.governor is not None:
        text += f", governor {shown(here.governor)}"
    if here.load_average is not None:
        text += f", load average at the start {here.load_average:.2f}"
    return text


def _rest(report: Report, room: Room, shown: Shown) -> list[str]:
    here = report.environment
    libraries = list(here.libraries.items())[: room.notes]
    versions = ", ".join(f"{shown(name)} {shown(found)}" for name, found in libraries) or "unknown"
    facts = [f"instruction sets: {shown(' '.join(here.isa_flags) or 'unknown')}", f"versions: {versions}"]
    method = [f"{key}: {value}" for key, value in _flat(report.method)]
    parts = ["\n".join(filter(None, [bullets(method, room.notes, shown), _listed(facts)]))]
    if report.data:
        data = [
            [shown(use.split), shown(use.source), f"{use.samples:,}", shown(use.digest)] for use in report.data[: room.rows]
        ]
        parts.append(table(["split", "source", "samples", "digest"], data, range(2, 3)))
    return parts


def steps(report: Report, room: Room, shown: Shown) -> list[str]:
    """What was done to the model, for each target, and what the steps say of it; folded away."""
    if not report.steps:
        return []
    rows = []
    notes = []
    for step in report.steps[: room.steps]:
        settings = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in step.settings.items())
        took = "reused" if step.cached else figures.seconds(step.seconds)
        rows.append([shown(step.target), shown(step.name), took, shown(settings) or figures.NONE])
        notes += [f"{step.target}, {step.name}: {note}" for note in step.notes]
    parts = [table(["target", "step", "took", "settings"], rows, range(2, 3))]
    if len(rows) < len(report.steps):
        parts.append(f"{len(report.steps) - len(rows)} more steps in report.json.")
    if notes:
        parts.append(bullets(notes, room.notes, shown))
    return [folded(f"Steps ({len(report.steps):,})", *parts)]


def deployment(report: Report, room: Room, shown: Shown) -> list[str]:
    """The script that runs each target's files; folded away."""
    if not report.deployment:
        return []
    parts = ["## Deployment"]
    for target, code in list(report.deployment.items())[: room.rows]:
        if not code:
            text = "No script can be written for this model and backend."
        elif len(code) <= room.snippet:
            text = fenced(code.rstrip())
        else:
            text = "The script is in report.json, under `deployment`."
        parts.append(folded(f"Script for {target}", text))
    more = len(report.deployment) - room.rows
    return [*parts, *([f"{more} more targets in report.json."] if more > 0 else [])]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted keys."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
