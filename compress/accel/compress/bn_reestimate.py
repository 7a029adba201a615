"""The pass that computes the statistics of batch norms again, after something before them has changed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from accel.contracts import Job, Need
from accel.model import TorchModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BnReestimate:
    """Running means and variances of every batch norm, from the first ``num_samples`` samples of the split ``data``.

    Labels have no part in it; but where those of the samples only rise, a note says that the data is sorted by class.

    Pruned nets recover much of their accuracy by this alone (Li et al. 2020, EagleEye, "adaptive batch norm").
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    num_samples: Annotated[int, Field(ge=2)] = 2048
    data: Literal["training", "calibration"] = "training"
    allow_noop: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({self.data})

    def __call__(self, model: TorchModel, job: Job) -> TorchModel:
        """The same model with other statistics. PassFault where it has no batch norm, unless ``allow_noop``; DataFault for data
        that is missing, not finite or does not fit."""
        from accel.compress.batch_norm import reestimated

        return reestimated(model, job, split=self.data, num_samples=self.num_samples, allow_noop=self.allow_noop)
