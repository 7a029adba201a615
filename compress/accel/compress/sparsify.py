"""Zeros in the weights that stay: the pass ``sparsify``, and the ``Sparsifier`` that training code calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from accel.compress.loss_settings import TASK_ONLY, Losses, Teacher, require_teacher_fits, require_train_fits
from accel.compress.masks.sparsity_plan import UNSTRUCTURED, Plan, Schedule, pattern_of, plan
from accel.compress.train_settings import Train
from accel.contracts import Job, Need
from accel.errors import UsageError
from accel.model import TorchModel

if TYPE_CHECKING:
    from torch import Tensor, nn


def _pattern(text: str) -> str:
    pattern_of(text)
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
Sparsity = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Steps = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Sparsify:
    """Set the weights of smallest magnitude to zero, and keep them zero through every later pass.

    ``pattern``: ``unstructured``, or ``"2:4"`` (any n:m): n of every m consecutive input channels stay. ``sparsity``: the
    fraction that becomes zero, 0.5 unless given; an n:m pattern fixes it to 1 - n/m. ``global_pruning`` ranks the weights of
    all layers together. ``schedule``: ``one_shot`` before any training, or ``cubic`` during ``train`` (Zhu and Gupta 2017) from
    its fraction ``begin`` (0) to ``end`` (0.75), every ``update_every`` (10) steps. ``ignored_layers``: module paths, or
    regular expressions that match a whole path. The first convolution and depthwise ones stay dense unless ``sparsify_all``.
    ``train``, ``losses``, ``teacher``: as in ``finetune``; without ``train``, accuracy is left to a later ``finetune``.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    pattern: Pattern = UNSTRUCTURED
    sparsity: Sparsity | None = None
    global_pruning: bool = False
    schedule: Schedule = "one_shot"
    begin: Fraction | None = None
    end: Fraction | None = None
    update_every: Steps | None = None
    ignored_layers: tuple[str, ...] = ()
    sparsify_all: bool = False
    train: Train | None = None
    losses: Losses = TASK_ONLY
    teacher: Teacher = None

    @model_validator(mode="after")
    def _require_settings_that_fit(self) -> Self:
        self.plan()
        if self.train is not None:
            require_teacher_fits(self.losses, self.teacher is not None)
            require_train_fits(self.losses, self.train)
            if self.schedule == "cubic" and self.train.keep == "best":
                raise ValueError("train.keep: best may keep weights from before the last are removed; leave it out with cubic")
        elif self.schedule == "cubic":
            raise ValueError("schedule: cubic removes weights during training; give train, such as {epochs: 10}")
        elif self.teacher is not None or self.losses != TASK_ONLY:
            raise ValueError("losses, teacher: there is no training without train, such as {epochs: 10}")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        trained = frozenset[Need]() if self.train is None else self.train.needs
        return trained if self.teacher is None else trained | {"teacher"}

    def plan(self) -> Plan:
        """The settings that say what becomes zero. Raises ValueError where they contradict each other."""
        return plan(
            pattern=self.pattern,
            sparsity=self.sparsity,
            global_pruning=self.global_pruning,
            schedule=self.schedule,
            begin=self.begin,
            end=self.end,
            update_every=self.update_every,
        )

    def __call__(self, model: TorchModel, job: Job) -> TorchModel:
        """A copy of the model with masked weights. Raises PassFault where no layer can be masked, nothing changes, or a layer
        would lose all its weights; and as ``finetune`` does where ``train`` is given."""
        from accel.compress.masks.masking import masked

        return masked(model, job, self)


class Sparsifier:
    """Masks that grow with a training loop: call :meth:`step` after each ``optimizer.step()``, and :meth:`finish` at the end.

        sparsifier = Sparsifier(net, sparsity=0.8, schedule="cubic", total_steps=1000)
        for images, labels in batches:
            ...
            optimizer.step()
            sparsifier.step()
        sparsifier.finish()

    Sets weights of ``net`` to zero in place; its parameters stay the same objects, and hooks, gradients and the optimizer are
    left alone. The masks follow from the weights alone: under DistributedDataParallel each process makes its own, and they are
    equal. ``one_shot`` masks at once. The settings are those of ``Sparsify``; ``total_steps`` is for ``cubic``. ``notes`` says
    which layers stay dense and why, and where the pattern can be fast.

    Raises UsageError for settings that contradict each other, PassFault for a network that they do not fit.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        pattern: str = UNSTRUCTURED,
        sparsity: float | None = None,
        global_pruning: bool = False,
        schedule: Schedule = "one_shot",
        total_steps: int | None = None,
        begin: float | None = None,
        end: float | None = None,
        update_every: int | None = None,
        ignored_layers: Sequence[str] = (),
        sparsify_all: bool = False,
    ) -> None:
        from accel.compress.masks.mask_schedule import MaskSchedule

        try:
            wanted = plan(
                pattern=pattern,
                sparsity=sparsity,
                global_pruning=global_pruning,
                schedule=schedule,
                begin=begin,
                end=end,
                update_every=update_every,
            )
        except ValueError as error:
            raise UsageError(f"Sparsifier: {error}") from None
        if schedule == "cubic" and (total_steps is None or total_steps < 1):
            raise UsageError(
                f"Sparsifier: total_steps: {total_steps}; a cubic schedule needs the number of steps of the training"
            )
        self._schedule = MaskSchedule(net, wanted, ignored_layers, sparsify_all=sparsify_all, total=total_steps or 1)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._schedule.notes

    def step(self) -> None:
        """Draw the masks anew where the schedule says so, and set the masked weights to zero.

        After the end of the schedule, and after :meth:`finish`, it keeps the zeros. Raises PassFault where a layer would lose
        all its weights.
        """
        self._schedule.after_step(self._schedule.done, self._schedule.total)

    def masks(self) -> dict[str, Tensor]:
        """Parameter name to a bool tensor of its shape, True where the weight stays; as they are now."""
        return {name: mask.clone() for name, mask in self._schedule.masks.items()}

    def sparsity(self) -> float:
        """The fraction of the masked layers' weights that are masked now."""
        return self._schedule.sparsity()

    def finish(self) -> None:
        """Zero the masked weights once more and record the masks on the network: ``saved`` and every later pass keep them.

        Raises UsageError before the schedule has come to its end."""
        self._schedule.finish()

    def state(self) -> dict[str, Tensor]:
        """What :meth:`restore` needs to go on after an interruption, beside the weights: for your own checkpoint."""
        return self._schedule.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`. Raises UsageError for the state of another network or of other settings."""
        self._schedule.restore(state)
