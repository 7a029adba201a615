"""The pass that removes channels or whole residual blocks, and ``prune_channels`` for training code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from accel.compress.prune_settings import Constraint, Importance, LayerName, OwnRatio, Positive, Ratio
from accel.contracts import Job, Need
from accel.errors import UsageError
from accel.model import TorchModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from accel.compress.pruning.importance import Labelled, Loss


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Prune:
    """Make the network smaller: ``method: structured`` removes channels, ``depth`` whole residual blocks.

    Shapes really shrink. In Torch-Pruning's words: ``importance`` ranks channels (``taylor`` and ``hessian`` read
    ``num_samples`` training samples), ``p`` is the norm of ``magnitude``; ``pruning_ratio`` is the part of the channels of
    each layer that goes (0.5 unless given; parameters and multiply-adds fall by roughly 1 - (1 - ratio)²),
    ``pruning_ratio_dict`` gives layers their own, 0 to spare them; ``global_pruning`` ranks all channels together, with at
    most ``max_pruning_ratio`` of any layer going; ``iterative_steps`` ranks anew after each part of the way; ``round_to``:
    widths are multiples of it. ``ignored_layers`` keep their outputs. Layers are named by their path, or by a regular
    expression that matches a whole path; a name covers what is below it. Instead of a ratio, ``constraint`` says what may
    remain.
    """

    version: ClassVar[int] = 2  # 2: latency_ms measures more widths, and prices them otherwise
    libraries: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning")

    method: Literal["structured", "depth"] = "structured"
    importance: Importance = "magnitude"
    p: Positive = 2.0
    pruning_ratio: Ratio | None = None
    pruning_ratio_dict: Mapping[LayerName, OwnRatio] | None = None
    max_pruning_ratio: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    global_pruning: bool = False
    iterative_steps: Annotated[int, Field(ge=1, le=100)] = 1
    round_to: Annotated[int, Field(ge=1)] | None = None
    ignored_layers: tuple[LayerName, ...] = ()
    num_samples: Annotated[int, Field(gt=0)] = 256
    constraint: Constraint | None = None

    @model_validator(mode="after")
    def _require_one_goal(self) -> Self:
        if self.pruning_ratio is not None and self.constraint is not None:
            raise ValueError("pruning_ratio and constraint are two goals; give one")
        return self

    @model_validator(mode="after")
    def _refuse_what_would_be_ignored(self) -> Self:
        timed = self.constraint is not None and self.constraint.latency_ms is not None
        unread: dict[str, str] = dict.fromkeys(_OF_ONE_RANKING if timed else (), "constraint: latency_ms")
        if self.importance != "magnitude":
            unread["p"] = f"importance: {self.importance}"
        if self.importance not in ("taylor", "hessian"):
            unread["num_samples"] = f"importance: {self.importance}, which reads no data"
        if self.method == "depth":
            unread = dict.fromkeys(_OF_CHANNELS, "method: depth, which removes blocks by what they cost")
        for who in dict.fromkeys(unread.values()):
            given = [name for name, reader in unread.items() if reader == who and getattr(self, name) != _DEFAULTS[name]]
            if given:
                raise ValueError(f"{' and '.join(given)} {'has' if len(given) == 1 else 'have'} no part in {who}; leave it out")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        wanted: set[Need] = set()
        if self.method == "depth":
            wanted.add("selection")
        elif self.importance in ("taylor", "hessian"):
            wanted.add("training")
        if self.constraint is not None and self.constraint.latency_ms is not None:
            wanted.add("probe")
        return frozenset(wanted)

    @property
    def probe_target(self) -> str | None:
        """The target that ``constraint.latency_ms`` is measured on."""
        return None if self.constraint is None else self.constraint.target

    def __call__(self, model: TorchModel, job: Job) -> TorchModel:
        """A copy of the model without the channels, or blocks, that matter least, and with the edits that say so.

        Raises PassFault where nothing can be removed, the goal cannot be met, or a name matches nothing; DataFault for training
        data that ``taylor`` and ``hessian`` need and cannot have; MissingBackend without torch-pruning.
        """
        if self.method == "depth":
            from accel.compress.pruning.blocks import remove_blocks

            return remove_blocks(model, job, self)
        if self.constraint is not None and self.constraint.latency_ms is not None:
            from accel.compress.pruning.latency_pruning import prune_to_latency

            return prune_to_latency(model, job, self)
        from accel.compress.pruning.channel_pruning import prune_model

        return prune_model(model, job, self)


_OF_ONE_RANKING = ("global_pruning", "iterative_steps")
_OF_CHANNELS = ("importance", "p", "pruning_ratio_dict", "max_pruning_ratio", *_OF_ONE_RANKING, "round_to", "num_samples")
_DEFAULTS = {field.name: field.default for field in fields(Prune)}


def prune_channels(
    net: nn.Module,
    example: Tensor | Sequence[Tensor],
    *,
    pruning_ratio: float | None = None,
    pruning_ratio_dict: Mapping[str, float] | None = None,
    constraint: Mapping[str, Any] | Constraint | None = None,
    importance: Importance = "magnitude",
    p: float = 2.0,
    max_pruning_ratio: float = 1.0,
    global_pruning: bool = False,
    iterative_steps: int = 1,
    round_to: int | None = None,
    ignored_layers: Sequence[str] = (),
    batches: Iterable[Labelled] | None = None,
    loss: Loss | None = None,
    num_samples: int = 256,
    seed: int = 0,
    tell: Callable[[str], None] | None = None,
) -> nn.Module:
    """A new module with fewer channels, to be trained on; ``net`` stays as it was.

        small = prune_channels(net, example=images[:2], pruning_ratio=0.5)
        small = prune_channels(net, example=images[:2], constraint={"macs": "40%"}, tell=print)

    ``example``: the module's inputs, a few samples. The settings are those of :class:`Prune`. ``batches``: ``(inputs,
    labels)``, for importance ``taylor`` and ``hessian``, with ``loss(inputs, outputs, labels)``, by default cross entropy on
    the first output. ``tell`` gets a line for each layer that shrinks or is left alone. The new module knows what was done to
    it, so that it can be saved without pickle (``accel.compress.saved``).

    Raises UsageError for settings that contradict each other; otherwise as :class:`Prune`.
    """
    from accel.compress.pruning.channel_pruning import gradients_from, prune, require_tensors

    settings = {
        "pruning_ratio": pruning_ratio,
        "pruning_ratio_dict": None if pruning_ratio_dict is None else dict(pruning_ratio_dict),
        "constraint": constraint,
        "importance": importance,
        "p": p,
        "max_pruning_ratio": max_pruning_ratio,
        "global_pruning": global_pruning,
        "iterative_steps": iterative_steps,
        "round_to": round_to,
        "ignored_layers": tuple([ignored_layers] if isinstance(ignored_layers, str) else ignored_layers),
        "num_samples": num_samples,
    }
    try:
        wanted: Prune = TypeAdapter(Prune).validate_python(settings)
    except ValidationError as invalid:
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}".lstrip(": ") for each in invalid.errors())
        raise UsageError(f"prune_channels: {told}") from None
    if wanted.constraint is not None and wanted.constraint.latency_ms is not None:
        raise UsageError("prune_channels: latency_ms is measured on a target; use the pass Prune with a job that has a probe")
    if "training" in wanted.needs and batches is None:
        raise UsageError(f"prune_channels: importance {importance} needs batches=[(inputs, labels), ...]")
    inputs = list(example) if isinstance(example, (list, tuple)) else [cast("Tensor", example)]
    require_tensors(inputs)
    narrowed = prune(net, inputs, wanted, gradients_from(batches or (), loss, wanted), seed=seed)
    for note in narrowed.notes:
        if tell is not None:
            tell(note)
    return narrowed.module
