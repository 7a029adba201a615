"""The pass that writes floats in half the bits: FP16 or BF16 in the graph."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from accel.compress.calibration import NumSamples
from accel.compress.ignored_scope import IgnoredScope
from accel.contracts import Job, Need
from accel.model import OnnxModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CastCalibration:
    """``num_samples``: at most this many are read to find ranges and errors."""

    num_samples: NumSamples = 64


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Cast:
    """Floats of the graph in ``dtype``; nodes that would overflow or lose too much stay FP32 and are named.

    ``keep_io_types``: inputs and outputs of the model stay FP32, so that the file takes the place of the one before. Without it
    they are in ``dtype`` too, where their values fit.

    ``max_relative_error``: how much rounding what a node reads may change what it makes, ``|changed - exact| / |exact|`` (L2),
    in the worst batch of calibration data. By default eight roundoffs of ``dtype``, 0.0039 in FP16 and 0.031 in BF16: a node
    may lose three of its bits. One that computes well shows less than one roundoff; what is kept is far off, not a digit.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"calibration"})
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("onnx",)

    dtype: Literal["fp16", "bf16"] = "fp16"
    keep_io_types: bool = True
    max_relative_error: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)] | None = None
    calibration: CastCalibration = CastCalibration()
    ignored_scope: IgnoredScope = IgnoredScope()

    @model_validator(mode="after")
    def _numpy_can_feed_it(self) -> Cast:
        if self.dtype == "bf16" and not self.keep_io_types:
            raise ValueError("keep_io_types: false needs dtype: fp16; numpy, which feeds every runtime, has no bf16")
        return self

    def __call__(self, model: OnnxModel, job: Job) -> OnnxModel:
        """``model.onnx`` in the job's folder; the model itself where there is nothing to cast.

        Raises DataFault for calibration data that is missing or does not fit; PassFault for an ignored scope that matches
        nothing, and where the file that was written does not check or gives outputs that are not finite.
        """
        from accel.compress.casting.model import cast

        return cast(model, job, self)
