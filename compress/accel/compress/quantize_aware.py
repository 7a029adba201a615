"""Quantization-aware training: the pass, and ``prepare_qat`` and ``convert_qat`` for anybody's own loop.

prepared = prepare_qat(net, example=images)
optimizer = torch.optim.SGD(prepared.parameters(), lr=0.001)
...                                         # train it like any module; prepared.eval() computes what the INT8 file will
torch.onnx.export(convert_qat(prepared), (images,), "model.onnx", dynamo=True)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from accel.compress.calibration import NumSamples
from accel.compress.ignored_scope import RegularExpression
from accel.compress.loss_settings import TASK_ONLY, Losses, Teacher, require_teacher_fits, require_train_fits
from accel.compress.train_settings import Train
from accel.contracts import Job, Need, QuantizationProfile
from accel.errors import MissingBackend, UsageError
from accel.model import TorchModel

if TYPE_CHECKING:
    from torch import Tensor, nn

PROFILES: Mapping[str, QuantizationProfile] = {
    "cpu": QuantizationProfile("uint8", False, "per_channel", "int32", True, "onnxruntime"),
    "tensorrt": QuantizationProfile("int8", True, "per_channel", "float", False, "onnxruntime"),
}
"""For training code. A recipe takes the profile of its target."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class IgnoredModules:
    """Modules that stay in floating point, with all below them. ``names``: exact module paths; ``patterns``: regular
    expressions that match a whole path. One that matches nothing is an error."""

    names: tuple[str, ...] = ()
    patterns: tuple[RegularExpression, ...] = ()


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RangeCalibration:
    """The first ranges: means of the smallest and largest value of a batch, over at most ``num_samples`` samples."""

    num_samples: NumSamples = 300


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuantizeAwareTraining:
    """Train with the rounding of INT8 in the forward pass, starting from ranges found on calibration data.

    Gives a torch model in the dialect of the targets' profile, which ``export_onnx`` writes as a Q/DQ file. ``train``,
    ``losses``, ``teacher``: as in ``finetune``; losses that compare layers are not for this pass, whose graph has operators
    and no layers. After the fraction ``freeze_batch_norm`` of the steps batch norms use their running statistics, and after
    ``freeze_observers`` the scales stay (Krishnamoorthi 2018, 3.2; as in torchvision's references/classification
    train_quantization.py): the last steps train what will run. ``ignored_scope``: module paths.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch", "torchao")

    approach: Literal["qat"] = "qat"
    train: Train = Train(lr=0.001)
    losses: Losses = TASK_ONLY
    teacher: Teacher = None
    calibration: RangeCalibration = RangeCalibration()
    freeze_batch_norm: Fraction = 0.5
    freeze_observers: Fraction = 0.7
    ignored_scope: IgnoredModules = IgnoredModules()

    @model_validator(mode="after")
    def _require_losses_that_fit(self) -> Self:
        require_teacher_fits(self.losses, self.teacher is not None)
        require_train_fits(self.losses, self.train)
        for term in self.losses:
            if term.layers is not None:
                raise ValueError(
                    f"losses: {term.type} compares layers, and a network prepared for quantization has operators, no layers; "
                    "use logits or dkd here, and feature or attention in a distill pass before"
                )
        if self.train.amp == "bf16":
            raise ValueError("train.amp: quantization-aware training computes in float32; leave amp out")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        wanted: frozenset[Need] = self.train.needs | {"calibration", "profile"}
        return wanted if self.teacher is None else wanted | {"teacher"}

    def __call__(self, model: TorchModel, job: Job) -> TorchModel:
        """Raises PassFault where nothing can be quantized, a name in ``ignored_scope`` matches nothing, or torch.export cannot
        follow the module, naming it; DataFault for data that is missing or does not fit; MissingBackend without torchao; and as
        ``finetune`` does."""
        _require_torchao()
        from accel.compress.qat.training import trained

        return trained(model, job, self)


def prepare_qat(
    net: nn.Module,
    example: Tensor | Sequence[Tensor],
    profile: str | QuantizationProfile = "cpu",
    *,
    ignored: Sequence[str] = (),
) -> nn.Module:
    """A module that computes like ``net`` in INT8 and can be trained; ``net`` stays as it is.

    ``example``: the inputs for one batch of real samples, (n, ...) each, from which the first ranges come; any batch size works
    afterwards. ``profile``: ``cpu`` (ONNX Runtime and OpenVINO), ``tensorrt``, or a dialect of your own. ``ignored``: module
    paths, or regular expressions that match a whole path, of what stays in floating point.

    Call ``freeze_batch_norm_()`` and ``freeze_observers_()`` of the result towards the end of the training. Raises PassFault
    naming the module that cannot be captured, UsageError for an unknown profile, MissingBackend without torchao.
    """
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise UsageError(f"prepare_qat: there is no profile {profile!r}; there are {', '.join(PROFILES)}")
        profile = PROFILES[profile]
    _require_torchao()
    from accel.compress.qat.training import prepared_on

    return prepared_on(net, example, profile, ignored)


def convert_qat(prepared: nn.Module) -> nn.Module:
    """The network with INT8 weights and quantize and dequantize operators, batch norms folded: for ``torch.onnx.export`` with
    ``dynamo=True``, or as the module of a ``TorchModel`` for ``ExportOnnx``, which also writes INT32 biases and readable names.

    ``prepared``: of :func:`prepare_qat`, or of a loaded model; it stays as it is. UsageError for any other module.
    """
    _require_torchao()
    from accel.compress.qat.module import QuantizeAwareModule
    from accel.compress.qat.pt2e import converted

    if not isinstance(prepared, QuantizeAwareModule):
        raise UsageError(f"convert_qat: a module of prepare_qat expected, found {type(prepared).__name__}")
    return converted(prepared)


def _require_torchao() -> None:
    try:
        import accel.compress.qat.pt2e  # noqa: F401
    except ModuleNotFoundError as absent:
        if (absent.name or "").partition(".")[0] != "torchao":
            raise
        raise MissingBackend(
            f"quantize (approach qat): {absent.name} is not installed; pip install 'accel-toolkit[qat]'"
        ) from absent
