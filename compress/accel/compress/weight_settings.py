"""How weights alone are stored: settings shared by the engines of ``approach: weight_only``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from accel.compress.calibration import NumSamples

GroupSize = Annotated[
    Literal[16, 32, 64, 128, 256], Field(description="Weights of one output that share a scale, along the input")
]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WeightCalibration:
    """``num_samples``: at most this many are read, by an algorithm that looks at activations."""

    num_samples: NumSamples = 128


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BlockWeights:
    """``dtype``: of the matrices of linear layers, in groups of ``group_size`` weights with a scale each, and, unless
    ``symmetric``, a zero point. ``embedding_dtype``: of embedding tables, in INT8 with a scale for each row.

    ``algorithm``: ``rtn`` rounds each weight to the nearest; ``gptq`` makes the weights that come later answer for the error of
    those before, over calibration data (Frantar et al., ICLR 2023): far closer in INT4, for some seconds a layer.
    """

    dtype: Literal["int4", "int8"] = "int4"
    group_size: GroupSize = 32
    symmetric: bool = False
    algorithm: Literal["rtn", "gptq"] = "rtn"
    embedding_dtype: Literal["int8", "float32"] = "int8"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CompressedWeights:
    """The same in NNCF's form. INT8 has one scale for each output, whatever ``group_size`` says; in INT4 the last product and
    embedding tables are INT8. ``awq`` scales up the channels that calibration data show to matter (Lin et al., MLSys 2024)."""

    dtype: Literal["int4", "int8"] = "int4"
    group_size: GroupSize = 32
    symmetric: bool = False
    algorithm: Literal["rtn", "gptq", "awq"] = "rtn"
    embedding_dtype: Literal["int8", "float32"] = "int8"

    @model_validator(mode="after")
    def _in_groups(self) -> Self:
        if self.dtype == "int8" and self.algorithm != "rtn":
            raise ValueError(f"{self.algorithm} is for int4; int8 is within a thousandth of float32 by rtn")
        return self


def _without_autoround(algorithm: Any) -> Any:
    if algorithm == "autoround":
        # As of neural-compressor-pt 3.10: it saves by the package auto_round, and reads that by AutoModelForCausalLM.
        raise ValueError(
            "autoround in neural-compressor is the package auto-round's, for language models of Hugging Face's with their "
            "tokenizer; set rtn, gptq or awq"
        )
    return algorithm


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LibraryWeights:
    """Those of nn.Linear, as neural-compressor's RTN, GPTQ (Frantar et al., ICLR 2023) and AWQ (Lin et al., MLSys 2024) choose
    them. GPTQ and AWQ look at calibration data. GPTQ quantizes the layers of one stack of blocks (an nn.ModuleList, or where
    there is none an nn.Sequential) and no others; AWQ scales those of one nn.ModuleList, and is for INT4."""

    dtype: Literal["int4", "int8"] = "int4"
    group_size: GroupSize = 32
    symmetric: bool = False
    algorithm: Annotated[Literal["rtn", "gptq", "awq"], BeforeValidator(_without_autoround)] = "rtn"

    @model_validator(mode="after")
    def _in_bits_that_it_searches(self) -> Self:
        if self.dtype == "int8" and self.algorithm == "awq":
            raise ValueError("awq in neural-compressor searches its scales for int4 whatever dtype says; for int8 set rtn")
        return self
