"""The pass that has the engines which fit try, and keeps the file that is fastest on the target."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from accel.compress.accuracy_control import AccuracyControl
from accel.compress.calibration import Calibration
from accel.compress.ignored_scope import IgnoredScope
from accel.compress.repair_settings import AdaRound, SmoothQuant, StaticWeights
from accel.contracts import Job, Need
from accel.distributions import installed
from accel.model import OnnxModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuantizeStaticAuto:
    """INT8 by each engine that fits the target and the settings; the fastest file is kept whose accuracy is no worse.

    No worse than the most accurate of them on the selection data: the 95 % interval of the difference, sample by sample, does
    not lie wholly below 0. Every candidate is the file that would ship, compiled, scored and timed on the target. Without an
    ``engine`` there is nothing to try: the target's backend has one that it prefers. An engine that does not take a setting is
    left out; ``bias_correction`` is each engine's own default where it is None.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"calibration", "profile", "selection", "probe"})
    version: ClassVar[int] = 3  # 3: as its engines'

    approach: Literal["static"] = "static"
    engine: Literal["auto"] = "auto"
    calibration: Calibration = Calibration()
    ignored_scope: IgnoredScope = IgnoredScope()
    accuracy_control: AccuracyControl | None = None
    weights: StaticWeights = StaticWeights()
    adaround: AdaRound | None = None
    bias_correction: bool | None = None
    cross_layer_equalization: bool = False
    smooth_quant: SmoothQuant | None = None

    @property
    def libraries(self) -> tuple[str, ...]:
        """Those that are here decide the result; one engine is enough."""
        return ("onnxruntime", "onnx", *(name for name in ("nncf", "torch") if installed(name)))

    def __call__(self, model: OnnxModel, job: Job) -> OnnxModel:
        """``model.onnx`` in the job's folder, with notes on what was tried and why it was taken.

        Raises PassFault without a probe, and as the engines do where none of them gives a file that runs; DataFault without
        data to calibrate or to choose by; with ``accuracy_control`` also as ``accuracy.control.control``.
        """
        from accel.compress.accuracy.engines import fastest

        return fastest(model, job, self)
