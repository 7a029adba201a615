"""What shrinks in a layer when channels it makes, or channels it reads, are cut: tensors, dimensions and counting
attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from accel.compress.pruning.channel_groups import NOT_OURS, Count, Member

Role = Literal["out", "in", "scale", "norm", "other"]
Channels = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """One layer's part in a group. ``makes``, ``reads``: whether channels are its outputs, its inputs.

    ``divisor``: the blocks its channels lie in. ``aligned``: the channels of all blocks, where each block must lose the same
    ones.
    """

    members: tuple[Member, ...]
    counts: tuple[Count, ...]
    makes: bool = False
    reads: bool = False
    divisor: int = 1
    aligned: Channels = ()


def makes_channels(part: nn.Module) -> bool:
    """Whether a group may start here."""
    return isinstance(part, (_ConvNd, nn.Linear))


def is_depthwise(part: nn.Module) -> bool:
    return isinstance(part, _ConvNd) and part.groups == part.out_channels == part.in_channels > 1


def size_of(part: nn.Module, makes: bool) -> int | None:
    """How many channels the layer makes or reads; None for a module that has no such thing."""
    if isinstance(part, _ConvNd):
        return part.out_channels if makes else part.in_channels
    if isinstance(part, nn.Linear):
        return part.out_features if makes else part.in_features
    if isinstance(part, (_BatchNorm, _InstanceNorm)):
        return int(part.num_features)
    if isinstance(part, nn.LayerNorm):
        return int(part.normalized_shape[-1])
    if isinstance(part, nn.GroupNorm):
        return int(part.num_channels)
    if isinstance(part, nn.PReLU):
        return int(part.num_parameters)
    if isinstance(part, nn.Embedding):
        return int(part.embedding_dim)
    if isinstance(part, nn.MultiheadAttention):
        return int(part.embed_dim)
    return None


def piece_of(path: str, part: nn.Module, makes: bool, channels: Channels) -> Piece | str:
    """The part of the layer at ``path`` in a group, or why it cannot have one.

    ``channels``: for each channel that it makes (else: reads) the group's channel, or ``NOT_OURS``.
    """
    if isinstance(part, _ConvNd):
        return _convolution(path, part, makes, channels)
    if isinstance(part, nn.Linear):
        if makes:
            members = _members(path, channels, {"weight": (0, "out"), "bias": (0, "other")}, part)
            return Piece(members, (Count(path, "out_features", channels),), makes=True)
        return Piece(_members(path, channels, {"weight": (1, "in")}, part), (Count(path, "in_features", channels),), reads=True)
    if isinstance(part, (_BatchNorm, _InstanceNorm)):
        role: Role = "scale" if isinstance(part, _BatchNorm) else "norm"
        tensors: dict[str, tuple[int, Role]] = dict.fromkeys(("bias", "running_mean", "running_var"), (0, "other"))
        return Piece(_members(path, channels, {"weight": (0, role), **tensors}, part), (Count(path, "num_features", channels),))
    if isinstance(part, nn.LayerNorm):
        if len(part.normalized_shape) != 1 or not part.elementwise_affine:
            return f"{path} is a LayerNorm over several axes or without weights"
        return Piece(
            _members(path, channels, {"weight": (0, "norm"), "bias": (0, "other")}, part),
            (Count(path, "normalized_shape", channels),),
        )
    if isinstance(part, nn.GroupNorm):
        if not part.affine:
            return f"{path} is a GroupNorm without weights"
        members = _members(path, channels, {"weight": (0, "norm"), "bias": (0, "other")}, part)
        return Piece(members, (Count(path, "num_channels", channels),), divisor=part.num_groups, aligned=channels)
    if isinstance(part, nn.PReLU):
        if part.num_parameters == 1:
            return Piece((), ())
        return Piece(_members(path, channels, {"weight": (0, "other")}, part), (Count(path, "num_parameters", channels),))
    if isinstance(part, nn.Embedding):
        members = _members(path, channels, {"weight": (1, "other")}, part)
        return Piece(members, (Count(path, "embedding_dim", channels),), makes=True)
    if isinstance(part, nn.MultiheadAttention):
        return _attention(path, part, channels)
    return f"they pass through {path} ({type(part).__name__}), whose channels cannot be cut"


def _members(path: str, channels: Channels, tensors: dict[str, tuple[int, Role]], part: nn.Module) -> tuple[Member, ...]:
    own = f"{path}." if path else ""
    return tuple(
        Member(f"{own}{name}", dim, channels, role)
        for name, (dim, role) in tensors.items()
        if getattr(part, name, None) is not None
    )


def _convolution(path: str, part: _ConvNd, makes: bool, channels: Channels) -> Piece | str:
    rows, columns = (1, 0) if part.transposed else (0, 1)
    if is_depthwise(part):
        members = _members(path, channels, {"weight": (0, "out"), "bias": (0, "other")}, part)
        counts = tuple(Count(path, name, channels) for name in ("out_channels", "in_channels", "groups"))
        return Piece(members, counts, makes=True, reads=True)
    if part.groups > 1 and (part.transposed or part.groups in (part.out_channels, part.in_channels)):
        return f"{path} is a convolution in {part.groups} groups of unequal inputs and outputs, or a transposed one"
    if makes:
        members = _members(path, channels, {"weight": (rows, "out"), "bias": (0, "other")}, part)
        return Piece(members, (Count(path, "out_channels", channels),), makes=True, divisor=part.groups)
    block = channels[: part.in_channels // part.groups]
    members = _members(path, block, {"weight": (columns, "in")}, part)
    aligned = channels if part.groups > 1 else ()
    return Piece(members, (Count(path, "in_channels", channels),), reads=True, divisor=part.groups, aligned=aligned)


def _attention(path: str, part: nn.MultiheadAttention, channels: Channels) -> Piece | str:
    """All heads lose the same positions: torch's module needs outputs as wide as inputs, and heads of equal size."""
    if part.in_proj_weight is None:
        return f"{path} is an attention with keys or values of another width"
    if NOT_OURS in channels:
        return f"{path} is an attention over channels of several groups"
    own = f"{path}." if path else ""
    thrice = channels * 3
    members = [
        Member(f"{own}in_proj_weight", 0, thrice, "out"),
        Member(f"{own}in_proj_weight", 1, channels, "in"),
        Member(f"{own}out_proj.weight", 0, channels, "out"),
        Member(f"{own}out_proj.weight", 1, channels, "in"),
    ]
    if part.in_proj_bias is not None:
        members.append(Member(f"{own}in_proj_bias", 0, thrice, "other"))
    if part.out_proj.bias is not None:
        members.append(Member(f"{own}out_proj.bias", 0, channels, "other"))
    members += [
        Member(f"{own}{name}", 2, channels, "other") for name in ("bias_k", "bias_v") if getattr(part, name) is not None
    ]
    counts = [Count(path, name, channels) for name in ("embed_dim", "kdim", "vdim")]
    counts += [Count(f"{own}out_proj", name, channels) for name in ("in_features", "out_features")]
    counts.append(Count(path, "head_dim", channels[: part.head_dim]))
    return Piece(tuple(members), tuple(counts), makes=True, reads=True, divisor=part.num_heads, aligned=channels)
