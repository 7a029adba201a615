"""How weights alone are stored: settings shared by the engines of ``approach: weight_only``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

GroupSize = Annotated[
    Literal[16, 32, 64, 128, 256], Field(description="Weights of one output that share a scale, along the input")
]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BlockWeights:
    """``dtype``: of the matrices of linear layers, in groups of ``group_size`` weights with a scale each, and, unless
    ``symmetric``, a zero point. ``algorithm``: ``rtn`` rounds each weight to the nearest; ``gptq`` makes the others of its row
    answer for its error, seen over calibration data (Frantar et al., ICLR 2023). ``embedding_dtype``: of embedding tables."""

    dtype: Literal["int4", "int8"] = "int4"
    group_size: GroupSize = 32
    symmetric: bool = False
    algorithm: Literal["rtn"] = "rtn"
    embedding_dtype: Literal["int8", "float32"] = "int8"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CompressedWeights:
    """The same by NNCF. INT8 has one scale for each output, whatever ``group_size`` says; in INT4 the last product and
    embedding tables are INT8. ``awq`` scales salient channels up by what calibration data show (Lin et al., MLSys 2024)."""

    dtype: Literal["int4", "int8"] = "int4"
    group_size: GroupSize = 32
    symmetric: bool = False
    algorithm: Literal["rtn", "awq"] = "rtn"
    embedding_dtype: Literal["int8", "float32"] = "int8"
