"""How the ranges of activations are found: settings shared by every engine that quantizes from data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

NumSamples = Annotated[int, Field(gt=0)]
Percentile = Annotated[float, Field(gt=50.0, le=100.0, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Calibration:
    """``minmax``: the whole range seen; ``entropy``: the cut-off with the least Kullback-Leibler divergence (Migacz, GTC 2017);
    ``percentile``: the range that holds ``percentile`` percent of the values; ``mse``: the one whose rounding and cutting
    give the least mean square error. ``num_samples``: at most this many are read."""

    method: Literal["minmax", "entropy", "percentile", "mse"] = "minmax"
    percentile: Percentile = 99.99
    num_samples: NumSamples = 300


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class NncfCalibration:
    """The same for NNCF, which has no entropy and mse calibration for ONNX."""

    method: Literal["minmax", "percentile"] = "minmax"
    percentile: Percentile = 99.99
    num_samples: NumSamples = 300


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class NeuralCompressorCalibration:
    """The same for neural-compressor. ``minmax``: extremes of each batch of 32, averaged as torch's moving average does;
    ``mse``: the range with the least squared rounding error over a histogram, which it calls ``kl``."""

    method: Literal["minmax", "mse"] = "minmax"
    num_samples: NumSamples = 300
