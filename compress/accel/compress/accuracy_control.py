"""How much accuracy quantization may cost, and what is done about it: ``accuracy_control`` of every static engine.

The engine quantizes everything once. Then each layer's own harm is measured (it alone in INT8), the smallest set of layers
that must stay in floating point is searched for, and of the sets that pass the fastest is taken. Every candidate is the file
that would ship, compiled for the target and scored there, by the job's ``Probe.compiling``, on the selection data; validation
data is never read. The engines know nothing of it: a candidate is made of the float file and of the Q/DQ that the engine wrote
(``accuracy.mixed_graph``), so calibration is done once, and an engine that is added later needs no support for it.

Answers are kept by the job's ``memo``: a killed run resumes with them, and a run with another budget starts from them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from accel.contracts import Job, Need
from accel.model import OnnxModel

NEEDS: frozenset[Need] = frozenset({"selection", "probe"})


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AccuracyControl:
    """At most ``max_drop`` may be lost against the float model on the same target: in the metric's own unit (``absolute``: 0.01
    is one point of top1), or as a share of the float model's value (``relative``).

    ``metric``: one of the task's, by default its first; or ``agreement`` with the float model's classes (of embeddings the mean
    ``cosine`` to its vectors), which needs no labels and is the default without them. ``ranking_metric``: what a layer's own
    harm is measured by, the ``sqnr`` of the output on a few samples, or the ``metric`` on all of them (slower, and blind where
    a layer alone changes no answer). ``max_iterations``: at most so many candidates are scored after the ranking; ``timeout``:
    seconds for ranking, search and timing together; what there is then is the result.
    """

    max_drop: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    drop_type: Literal["absolute", "relative"] = "absolute"
    metric: Annotated[str, Field(min_length=1)] | None = None
    ranking_metric: Literal["sqnr", "metric"] = "sqnr"
    max_iterations: Annotated[int, Field(gt=0)] | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 900.0


def needs_of(own: frozenset[Need], control: AccuracyControl | None) -> frozenset[Need]:
    """What a quantizing pass needs with ``control``; ``own`` without."""
    return own if control is None else own | NEEDS


def controlled(model: OnnxModel, quantized: OnnxModel, job: Job, control: AccuracyControl | None) -> OnnxModel:
    """``quantized``, which an engine made of ``model``, with the layers in floating point that its accuracy needs.

    ``model`` must be the very file whose nodes the engine quantized. Unchanged where ``control`` is None or everything may be
    in INT8. Where nothing passes, the best effort, which its ``accuracy`` says. Raises as ``accuracy.control.control``.
    """
    if control is None:
        return quantized
    from accel.compress.accuracy.control import control as run

    return run(model, quantized, job, control)
