"""What ``accuracy_control`` found for one step, as the report has it: which layers stay in floating point, and why."""

from __future__ import annotations

from typing import Literal

from accel.entry import Entry


class LayerHarm(Entry):
    """One layer that may be in INT8, and what it costs alone: the network with every other layer in floating point.

    ``sqnr_db``: of the first output, over the samples that layers are ranked on; ``value``: the metric, where that is what they
    are ranked by. Null where it was not measured; ``identical``: the output did not change at all. ``failed``: why it could not
    be run. ``kept``: it stays in floating point in the result.
    """

    layer: str
    type: str
    kept: bool = False
    sqnr_db: float | None = None
    identical: bool = False
    value: float | None = None
    failed: str | None = None


class TriedSet(Entry):
    """One candidate, compiled and scored on the target over all of ``split``.

    ``kept``: the layers in floating point; the others are in INT8. ``value``: the metric, null where outputs are no numbers or
    it does not run (``failed`` says why). ``latency_ms``: where candidates that pass were timed against each other.
    """

    kept: list[str]
    value: float | None = None
    sqnr_db: float | None = None
    passed: bool
    latency_ms: float | None = None
    failed: str | None = None


class AccuracyOutcome(Entry):
    """``passed``: the result keeps the budget on ``split``; else it is the best effort, the closest of what was tried.

    ``metric``: the task's; or ``agreement`` with the float model, of embeddings the ``cosine`` to it. ``reference``: its value
    for the float model on the same target; ``value``: of the result. ``max_drop``, ``drop_type``: the budget. ``tried``: in
    order, the first has every layer in INT8. ``stopped``: what ended the search early, null where it ran to its end.
    ``float_ms``: latency of the float model beside the candidates that were timed. ``layers``: all that can be kept back, the
    most harmful first.
    """

    passed: bool
    split: str
    metric: str
    higher_is_better: bool = True
    reference: float
    value: float | None
    max_drop: float
    drop_type: Literal["absolute", "relative"]
    ranking_metric: Literal["sqnr", "metric"]
    tried: list[TriedSet]
    stopped: Literal["timeout", "max_iterations"] | None = None
    seconds: float
    float_ms: float | None = None
    layers: list[LayerHarm]

    @property
    def kept(self) -> list[LayerHarm]:
        """The layers that stay in floating point, the most harmful first."""
        return [layer for layer in self.layers if layer.kept]

    @property
    def loss(self) -> float | None:
        """How much worse the result is than the float model, in the metric's unit; below 0 it is better."""
        if self.value is None:
            return None
        return (self.reference - self.value) * (1.0 if self.higher_is_better else -1.0)

    @property
    def allowed(self) -> float:
        """How much worse it may be, in the metric's unit."""
        return self.max_drop * (abs(self.reference) if self.drop_type == "relative" else 1.0)
