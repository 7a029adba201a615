"""A gate for each step that controlled its accuracy: on selection data the result kept its budget, or it is the best effort.

Selection data chose the result, so these figures have no interval and promise nothing for other data: gates of the recipe, on
validation data, do that. Light: no numpy.
"""

from __future__ import annotations

from accel.accuracy_outcome import AccuracyOutcome
from accel.benchmarks.gate_limits import estimate, form_of, limit_of, shown_unit, words
from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.intervals import scaled
from accel.benchmarks.quantities import Quantity, quantity
from accel.report import Estimate, Gate, Report, StepRecord


def control_gates(report: Report) -> list[Gate]:
    """One for each step with ``accuracy``, in their order; it fails the run where nothing kept the budget."""
    return [_gate(report, step, step.accuracy) for step in report.steps if step.accuracy is not None]


def _gate(report: Report, step: StepRecord, outcome: AccuracyOutcome) -> Gate:
    judged = quantity(outcome.metric, {outcome.metric: outcome.higher_is_better})
    assert judged is not None
    settings = GateSettings(metric=outcome.metric, max_drop=outcome.max_drop, drop_type=outcome.drop_type)
    form = form_of(settings, judged)
    allowed = f"{words(limit_of(settings, judged), judged, settings)} on {outcome.split} data"
    found = _change(outcome, judged)
    row = next((row.name for row in report.rows if row.role == "result" and row.target == step.target), None)
    against = f"the float model on {outcome.split} data"
    said = "no candidate gave numbers" if found is None else f"{estimate(found, form, judged)} against {against}"
    kept = len(outcome.kept)
    how = f"{kept} of {len(outcome.layers)} layers kept in floating point"
    if not outcome.passed:
        how = f"best effort, {how}, {len(outcome.tried)} candidates tried"
        how += f", stopped by {outcome.stopped}" if outcome.stopped is not None else ""
    return Gate(
        name=f"accuracy_control@{step.target}",
        metric=outcome.metric,
        kind="accuracy",
        target=step.target,
        row=row,
        vs=against,
        limit=allowed,
        found=None if found is None else scaled(found, shown_unit(form, judged)[0]),
        verdict="pass" if outcome.passed else "fail",
        failed=not outcome.passed,
        text=f"{judged.name} of {step.target}: {said} ({how}); the limit is {allowed}",
    )


def _change(outcome: AccuracyOutcome, judged: Quantity) -> Estimate | None:
    """This result minus the float model, in the metric's unit, or as a share of the float model's value."""
    if outcome.value is None:
        return None
    change = outcome.value - outcome.reference
    if outcome.drop_type == "relative":
        if not outcome.reference:
            return None
        change /= abs(outcome.reference)
    return Estimate(value=change)
