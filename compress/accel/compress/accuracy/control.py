"""Core of ``accuracy_control``: rank the layers, search for the smallest set to keep back, take the fastest that passes."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from accel import onnx_file
from accel.accuracy_outcome import AccuracyOutcome, LayerHarm, TriedSet
from accel.compress.accuracy.judge import Judge, Scored
from accel.compress.accuracy.mixed_graph import MixedGraph
from accel.compress.accuracy.search import Budget, Kept, Trial, best_effort, smallest, within
from accel.compress.accuracy_control import AccuracyControl
from accel.compress.onnx_writing import load, name_all_nodes_, raised_opset, write
from accel.compress.quantized_graph import WEIGHTED
from accel.contracts import Job, Probe
from accel.errors import PassFault
from accel.model import OnnxModel
from accel.onnx_graph import quantization

RANKING_SHARE = 0.5
"""Of the time: where ranking takes longer, the layers that are not ranked by then come last."""

TIMED = 4
"""At most so many sets that pass are timed against each other, those that keep fewest layers back."""

TIMED_S = 1.0
"""What a probe times each for, about, besides compiling it."""

NOISE = 0.02
"""Of a latency: between two that differ by less, the set that keeps fewer layers back is taken."""

_NOTHING: Kept = frozenset()


def control(model: OnnxModel, quantized: OnnxModel, job: Job, settings: AccuracyControl) -> OnnxModel:
    """See ``accuracy_control.controlled``: ``model.onnx`` in the job's folder, with notes and ``accuracy``.

    Raises PassFault without a probe, for a metric that there is not, where the quantizer changed the network itself, and where
    neither the float model nor any candidate runs on the target; DataFault without data to choose by.
    """
    probe = _probe_of(job)
    source, _ = raised_opset(load(model.path))
    name_all_nodes_(source)
    graph = MixedGraph(source, load(quantized.path))
    with ExitStack() as stack:
        # Not in job.scratch, which outlives a kill: what is worth keeping of a killed run is in the memo.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=job.folder)))
        judge = Judge(model, quantized, graph, job, stack.enter_context(probe.compiling()), folder)
        run = _Run(judge, graph, job, probe, settings)
        run.search(model)
        with judge.file(run.chosen) as best:
            result = _kept_as(best, quantized, run, job)
    return result


def _probe_of(job: Job) -> Probe:
    if job.probe is None:
        raise PassFault(
            "quantize: accuracy_control scores candidates on a target, and this job has no probe; run it in a recipe, or give "
            "Job.local(..., probe=...)"
        )
    return job.probe


@dataclass(frozen=True)
class _Times:
    """Milliseconds of the float model and of sets of layers, all timed in turn; none where there was no time for it."""

    float_ms: float | None
    sets_ms: Mapping[Kept, float]


class _Run:
    """One search, and what it found."""

    def __init__(self, judge: Judge, graph: MixedGraph, job: Job, probe: Probe, settings: AccuracyControl) -> None:
        self._judge = judge
        self._graph = graph
        self._job = job
        self._probe = probe
        self._settings = settings
        self._budget = Budget(settings.timeout, settings.max_iterations)
        self._scored: dict[Kept, Scored] = {}
        self._alone: dict[str, Scored] = {}
        self._trials: list[Trial] = []
        self._times = _Times(None, {})
        self.chosen: Kept = _NOTHING
        self.passed = False

    def search(self, model: OnnxModel) -> None:
        """Find ``chosen``, and whether it ``passed``."""
        self._judge.choose_metric(self._settings.metric)
        whole = self._loss(_NOTHING)
        self._trials = [Trial(_NOTHING, whole, within(whole, self._allowed))]
        if not self._trials[0].passed:
            ranked = self._ranked()
            self._trials += smallest(ranked, self._loss, self._allowed, self._budget, self._graph.quantizes)
        passing = sorted((trial for trial in self._trials if trial.passed), key=lambda trial: len(trial.kept))
        self.passed = bool(passing)
        if passing:
            self.chosen = self._fastest(model, [trial.kept for trial in passing[:TIMED]])
            return
        best = best_effort(self._trials)
        if best is None:
            told = next((scored.failed for scored in self._scored.values() if scored.failed), "its outputs are no numbers")
            raise PassFault(f"quantize: accuracy_control: no candidate runs on the target: {told}")
        self.chosen = best.kept

    @property
    def _allowed(self) -> float:
        share = abs(self._judge.reference) if self._settings.drop_type == "relative" else 1.0
        return self._settings.max_drop * share

    def _loss(self, kept: Kept) -> float | None:
        began = self._budget.clock()
        self._scored[kept] = self._judge.score(kept)
        self._budget.timed(began)
        self._job.progress(len(self._scored), 0, "candidates scored for their accuracy")
        return self._judge.loss(self._scored[kept].value)

    def _ranked(self) -> list[str]:
        """All layers, the most harmful first; those that there was no time for last, in the order of the network."""
        names = [layer.name for layer in self._graph.layers]
        for count, name in enumerate(names):
            if not self._budget.room(RANKING_SHARE):
                break
            if self._settings.ranking_metric == "sqnr":
                self._alone[name] = self._judge.alone(name)
            else:
                self._alone[name] = self._judge.score(frozenset(names) - {name})
            self._job.progress(count + 1, len(names), "layers ranked by what they cost alone")
        return sorted(names, key=self._harm)

    def _harm(self, name: str) -> tuple[int, float]:
        """Smaller is worse."""
        if name not in self._alone:
            return 1, 0.0
        alone = self._alone[name]
        if self._settings.ranking_metric == "sqnr":
            return 0, -inf if alone.sqnr_db is None else alone.sqnr_db
        loss = self._judge.loss(alone.value)
        return 0, -inf if loss is None else -loss

    def _fastest(self, model: OnnxModel, passing: Sequence[Kept]) -> Kept:
        """Of the sets that pass, ``passing``, the least kept back first. Timed beside the float model, if time is left."""
        if len(passing) == 1 and not passing[0]:
            return passing[0]  # everything is in INT8: the run itself tells how fast that is
        if self._budget.elapsed_s + (len(passing) + 2) * (self._budget.longest_s + TIMED_S) > self._settings.timeout:
            return passing[0]
        sets = list(dict.fromkeys((_NOTHING, *passing)))
        key = {
            "what": "latency of quantized models",
            "version": 1,
            "probe": dict(self._probe.identity),
            "model": onnx_file.digest(model.path),
            "quantized": [sorted(kept) for kept in sets],
        }

        def timed() -> list[float]:
            with ExitStack() as stack:
                files = [stack.enter_context(self._judge.file(kept)) for kept in sets]
                return list(self._probe.latencies_ms([model, *files], "fp32"))  # as they are

        try:
            float_ms, *found = self._job.memo(key, timed)
        except PassFault:  # it ran before; what cannot be timed is not the faster one
            return passing[0]
        self._times = _Times(float_ms, dict(zip(sets, found, strict=True)))
        least = min(self._times.sets_ms[kept] for kept in passing)
        return next(kept for kept in passing if self._times.sets_ms[kept] <= least * (1 + NOISE))

    def outcome(self) -> AccuracyOutcome:
        """As the report has it."""
        types = {layer.name: layer.type for layer in self._graph.layers}
        return AccuracyOutcome(
            passed=self.passed,
            split=self._judge.split,
            metric=self._judge.metric,
            higher_is_better=self._judge.higher_is_better,
            reference=self._judge.reference,
            value=self._scored[self.chosen].value,
            max_drop=self._settings.max_drop,
            drop_type=self._settings.drop_type,
            ranking_metric=self._settings.ranking_metric,
            tried=[self._tried(trial) for trial in self._trials],
            stopped=self._budget.stopped,
            seconds=round(self._budget.elapsed_s, 3),
            float_ms=self._times.float_ms,
            layers=[self._layer(name, types[name]) for name in sorted(types, key=self._harm)],
        )

    def _tried(self, trial: Trial) -> TriedSet:
        scored = self._scored[trial.kept]
        return TriedSet(
            kept=sorted(trial.kept),
            value=scored.value,
            sqnr_db=_decibels(scored),
            passed=trial.passed,
            latency_ms=self._times.sets_ms.get(trial.kept),
            failed=scored.failed,
        )

    def _layer(self, name: str, kind: str) -> LayerHarm:
        alone = self._alone.get(name)
        kept = name in self.chosen
        if alone is None:
            return LayerHarm(layer=name, type=kind, kept=kept)
        return LayerHarm(
            layer=name,
            type=kind,
            kept=kept,
            sqnr_db=_decibels(alone),
            identical=alone.sqnr_db == inf,
            value=alone.value,
            failed=alone.failed,
        )


def _decibels(scored: Scored) -> float | None:
    return None if scored.sqnr_db is None or scored.sqnr_db == inf else round(scored.sqnr_db, 3)


def _kept_as(best: OnnxModel, quantized: OnnxModel, run: _Run, job: Job) -> OnnxModel:
    """The chosen file as ``model.onnx`` in the job's folder, with what is to be said of it."""
    proto = load(best.path)
    path = job.folder / "model.onnx"
    if best.path != path:
        write(proto, path)
    outcome = run.outcome()
    floating = set(quantization(proto).floating)
    counted = Counter(node.op_type for node in proto.graph.node if node.op_type in WEIGHTED and node.name not in floating)
    quantities = "quantized: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items()))
    notes = [quantities if note.startswith("quantized: ") else note for note in quantized.notes]
    result = replace(quantized, path=path, notes=tuple(notes), accuracy=outcome.model_dump(mode="json"))
    return result.noting(*told(outcome))


def told(outcome: AccuracyOutcome) -> list[str]:
    """The outcome in sentences."""
    kept, layers = outcome.kept, len(outcome.layers)
    budget = f"{outcome.max_drop:g} {outcome.drop_type}"
    whole = outcome.tried[0]
    everything = "no number" if whole.value is None else f"{whole.value:.4f}"
    found = f"{outcome.metric} on {outcome.split} data: {outcome.reference:.4f} in floating point, {everything} in INT8"
    if kept and outcome.value is not None:
        found += f", {outcome.value:.4f} with {len(kept)} of {layers} layers kept in floating point"
    verdict = f"within the budget of {budget}" if outcome.passed else f"best effort: not within the budget of {budget}"
    notes = [f"{'' if outcome.passed else 'warning: '}accuracy_control: {found}; {verdict}"]
    if outcome.stopped is not None:
        notes.append(
            f"accuracy_control: stopped by {outcome.stopped} after {len(outcome.tried)} candidates; a higher one may find"
            " better"
        )
    notes += [f"{layer.layer} kept in floating point by accuracy_control: {harm(layer)}" for layer in kept]
    names = sorted(layer.layer for layer in kept)
    found_ms = next((tried.latency_ms for tried in outcome.tried if tried.kept == names), None)
    if outcome.float_ms is not None and found_ms is not None:
        slower = ", which is faster: INT8 does not pay here" if found_ms >= outcome.float_ms else ""
        notes.append(
            f"accuracy_control: {found_ms:.4g} ms with these layers kept back, {outcome.float_ms:.4g} ms with all in floating"
            f" point{slower}"
        )
    return notes


def harm(layer: LayerHarm) -> str:
    """What a layer costs alone, in words."""
    if layer.failed is not None:
        return f"with it alone in INT8 the network does not run: {layer.failed}"
    if layer.identical:
        return "with it alone in INT8 the output is the same"
    parts = [] if layer.sqnr_db is None else [f"output SQNR {layer.sqnr_db:.1f} dB"]
    parts += [] if layer.value is None else [f"metric {layer.value:.4f}"]
    return f"with it alone in INT8 {', '.join(parts)}" if parts else "its own harm was not measured"
