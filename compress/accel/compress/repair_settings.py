"""How a static engine stores weights, and what it does to lose less by rounding them: settings, all off by default."""

from __future__ import annotations

from dataclasses import dataclass as plain
from dataclasses import field
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

_BITS = {"int4": 4, "int8": 8}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class StaticWeights:
    """``dtype`` of stored weights, with one scale for each output. ``int4`` (Q/DQ of opset 21) takes half of INT8's bytes and
    buys size, not speed: such weights become INT8 when a file is loaded. ``bits``: how many of the type's are used, all
    where it is None; 3 in ``int4`` leaves levels -4 to 3, which compress further."""

    dtype: Literal["int8", "int4"] = "int8"
    bits: Annotated[int, Field(ge=2, le=8)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.bits is not None and self.bits > _BITS[self.dtype]:
            raise ValueError(f"bits: {self.bits} do not fit into {self.dtype}")
        return self

    @property
    def used_bits(self) -> int:
        """Of each stored weight."""
        return _BITS[self.dtype] if self.bits is None else self.bits


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AdaRound:
    """Whether each weight goes up or down is learned, so that the layer's outputs on calibration data change least (Nagel et
    al., "Up or Down?", ICML 2020), layer by layer, each on what the rounded layers before it give. It corrects biases, too.

    ``iterations``: steps of the optimizer for each layer, before a search that changes single weights; 0: that search alone.
    """

    iterations: Annotated[int, Field(ge=0, le=100_000)] = 600


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SmoothQuant:
    """Activations of linear layers are divided, channel by channel, by what their weights are multiplied by, so that few large
    channels do not take all levels (Xiao et al., ICML 2023). ``alpha``: how much of the range goes into the weights."""

    alpha: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5


@plain(frozen=True)
class Repairs:
    """Those of one pass together."""

    weights: StaticWeights = field(default_factory=StaticWeights)
    adaround: AdaRound | None = None
    bias_correction: bool = False
    cross_layer_equalization: bool = False
    smooth_quant: SmoothQuant | None = None

    @property
    def changes_float_network(self) -> bool:
        """Whether the network is written anew before it is quantized."""
        return self != Repairs()

    @property
    def rewrites_weights(self) -> bool:
        """Whether weights are stored otherwise than the quantizer left them."""
        return self.weights.dtype == "int4" or self.weights.used_bits < 8 or self.adaround is not None
