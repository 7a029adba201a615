"""What was done to a module's structure: recorded on the module, written as JSON, and done again on what its factory builds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from accel.compress.grouped_linear import GroupedLinear, with_layers
from accel.errors import ModelFault
from accel.model import (
    EDITS,
    Edit,
    GroupedWeights,
    KeepChannels,
    Masks,
    NeuralCompressed,
    QuantizeAware,
    RemoveBlock,
    Signature,
)

KINDS: Mapping[str, type[Any]] = {
    "keep_channels": KeepChannels,
    "remove_block": RemoveBlock,
    "masks": Masks,
    "quantize_aware": QuantizeAware,
    "neural_compressed": NeuralCompressed,
    "grouped_weights": GroupedWeights,
}
GRAPH = "graph"
"""Where a module with fake quantizers keeps the network: its parameters are below this name."""


def edits_of(module: nn.Module) -> tuple[Edit, ...]:
    """The edits of ``module``, in order; none for one that is as its factory built it."""
    found: tuple[Edit, ...] = getattr(module, EDITS, ())
    return found


def add_edit_(module: nn.Module, edit: Edit) -> None:
    """Record ``edit``, which was just done to ``module``."""
    setattr(module, EDITS, (*edits_of(module), edit))


def replay_(module: nn.Module, edits: Sequence[Edit], signature: Signature) -> nn.Module:
    """Do ``edits`` to ``module`` and record them; gives the module itself, or the one with fake quantizers that is made of it.

    ``signature``: of the model, for tracing it. Weights are not part of an edit and are loaded afterwards.
    Raises ModelFault with the first thing that does not fit.
    """
    for number, edit in enumerate(edits, 1):
        try:
            if isinstance(edit, KeepChannels):
                keep_channels_(module, edit)
            elif isinstance(edit, RemoveBlock):
                remove_block_(module, edit.path)
            elif isinstance(edit, Masks):
                require_parameters(module, edit)
            elif isinstance(edit, GroupedWeights):
                module = group_weights_(module, edit)
            elif isinstance(edit, NeuralCompressed):
                module = _compressed(module, signature, edit)
                continue
            else:
                module = _prepared(module, signature, edit)
                continue  # it records its own edit beside the earlier ones
        except ModelFault as error:
            raise ModelFault(f"edit {number} of {len(edits)} does not fit this model: {error}") from None
        add_edit_(module, edit)
    return module


def keep_channels_(module: nn.Module, edit: KeepChannels) -> None:
    """Keep the channels that ``edit`` names, and set the attributes that follow. ModelFault names the first misfit."""
    owners = {name: (owner, leaf, value) for name, owner, leaf, value in _tensors(module)}
    for name, dimensions in edit.kept.items():
        if name not in owners:
            raise ModelFault(f"it has no parameter or buffer {name!r}")
        shape = owners[name][2].shape
        for dimension, indices in dimensions.items():
            if dimension >= len(shape) or (indices and max(indices) >= shape[dimension]):
                highest = max(indices, default=0)
                raise ModelFault(f"{name} has shape {list(shape)}; the edit keeps channel {highest} of dimension {dimension}")
    parts = dict(module.named_modules())
    for path, attributes in edit.attributes.items():
        for attribute in attributes:
            if path not in parts or not hasattr(parts[path], attribute):
                raise ModelFault(f"it has no {path}.{attribute}")
    replaced: dict[int, Tensor] = {}  # tied tensors stay tied
    for name, dimensions in edit.kept.items():
        owner, leaf, value = owners[name]
        if id(value) not in replaced:
            kept = value.detach()
            for dimension, indices in dimensions.items():
                kept = kept.index_select(dimension, torch.tensor(indices, dtype=torch.long, device=kept.device))
            kept = kept.clone(memory_format=torch.contiguous_format)
            replaced[id(value)] = nn.Parameter(kept, value.requires_grad) if isinstance(value, nn.Parameter) else kept
        setattr(owner, leaf, replaced[id(value)])
    for path, attributes in edit.attributes.items():
        for attribute, number in attributes.items():
            one = isinstance(getattr(parts[path], attribute), tuple)  # nn.LayerNorm.normalized_shape
            setattr(parts[path], attribute, (number,) if one else number)


def remove_block_(module: nn.Module, path: str) -> None:
    """Put an ``nn.Identity`` in the place of the module at ``path``, in the same mode (training or evaluation)."""
    parent, _, leaf = path.rpartition(".")
    try:
        owner = module.get_submodule(parent)
        removed = owner.get_submodule(leaf)
    except AttributeError:
        raise ModelFault(f"it has no module {path!r}") from None
    setattr(owner, leaf, nn.Identity().train(removed.training))


def require_parameters(module: nn.Module, edit: Masks) -> None:
    """ModelFault unless ``module`` has every parameter that ``edit`` masks."""
    own = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name in edit.parameters:
        if name not in own:
            raise ModelFault(f"it has no parameter {name!r} to mask")


def group_weights_(module: nn.Module, edit: GroupedWeights) -> nn.Module:
    """Put a layer with integers in groups, which are to be loaded, in the place of each linear layer that ``edit`` names; gives
    the module, or the layer where that is all there is. ModelFault names the first misfit."""
    made: dict[int, GroupedLinear] = {}
    layers = {}
    for path in edit.layers:
        try:
            linear = module.get_submodule(path)
        except AttributeError:
            raise ModelFault(f"it has no module {path!r}") from None
        if not isinstance(linear, nn.Linear) or linear.in_features % edit.group_size:
            raise ModelFault(f"{path} is no linear layer whose inputs can be divided into groups of {edit.group_size}")
        if id(linear) not in made:
            made[id(linear)] = GroupedLinear(
                linear.in_features,
                linear.out_features,
                bits=edit.bits,
                size=edit.group_size,
                bias=linear.bias,
                scaled=path in edit.scaled,
            )
        layers[path] = made[id(linear)]
    return with_layers(module, layers)


def masks_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameter name to what its mask keeps: True where the weight is not zero. Of the edits that made masks.

    A parameter whose block was removed since has no mask any more.
    """
    own = dict(module.named_parameters(remove_duplicate=False))
    masked = {name for edit in edits_of(module) if isinstance(edit, Masks) for name in edit.parameters}
    return {place: own[place].detach() != 0 for name in sorted(masked) for place in (name, f"{GRAPH}.{name}") if place in own}


def _prepared(module: nn.Module, signature: Signature, edit: QuantizeAware) -> nn.Module:
    from accel.compress.qat.pt2e import prepare  # torchao takes seconds, and is there only where it is needed

    return prepare(module, signature, edit)


def _compressed(module: nn.Module, signature: Signature, edit: NeuralCompressed) -> nn.Module:
    from accel.compress.quantize_neural_compressor import core

    made: nn.Module = core().again(module, signature, edit)
    return made


def _tensors(module: nn.Module) -> Iterable[tuple[str, nn.Module, str, Tensor]]:
    """Full name, owner, name in the owner, and value of every parameter and buffer."""
    for path, part in module.named_modules(remove_duplicate=False):
        for leaf, value in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            yield f"{path}.{leaf}" if path else leaf, part, leaf, value


def to_json(edits: Sequence[Edit]) -> list[dict[str, Any]]:
    """JSON-ready; read back by :func:`from_json`. Runs of channels are written short: ``"0-7,12"``."""
    names = {kind: name for name, kind in KINDS.items()}
    written = []
    for edit in edits:
        record = {"edit": names[type(edit)], **asdict(edit)}
        if isinstance(edit, KeepChannels):
            record["kept"] = {
                name: {str(dimension): _short(indices) for dimension, indices in dimensions.items()}
                for name, dimensions in edit.kept.items()
            }
        written.append(record)
    return written


def from_json(records: Any) -> tuple[Edit, ...]:
    """The edits that :func:`to_json` wrote. Raises ModelFault for what it cannot have written."""
    if not isinstance(records, list):
        raise ModelFault(f"edits: a list expected, found {type(records).__name__}")
    found = []
    for number, record in enumerate(records, 1):
        try:
            values = dict(record)
            kind = KINDS[values.pop("edit")]
            if kind is KeepChannels:
                values["kept"] = {
                    str(name): {int(dimension): _long(text) for dimension, text in dimensions.items()}
                    for name, dimensions in values["kept"].items()
                }
                values["attributes"] = {
                    str(path): {str(name): _whole(value) for name, value in attributes.items()}
                    for path, attributes in values["attributes"].items()
                }
            elif kind is Masks:
                values["parameters"] = tuple(map(str, values["parameters"]))
            elif kind is GroupedWeights:
                values.update({name: tuple(map(str, values[name])) for name in ("layers", "scaled")})
                values.update({name: _whole(values[name]) for name in ("bits", "group_size")})
                if values["bits"] not in (4, 8) or not values["group_size"]:
                    raise ValueError(f"no integers of {values['bits']} bits in groups of {values['group_size']}")
            found.append(kind(**values))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFault(f"edit {number} is damaged, or of a newer accel ({type(error).__name__}: {error})") from None
    return tuple(found)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a number of channels")
    return value


def _short(indices: Sequence[int]) -> str:
    parts: list[tuple[int, int]] = []
    for index in indices:
        if parts and index == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], index)
        else:
            parts.append((index, index))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


_MOST = 1 << 24
"""More channels than any layer has: a damaged file does not fill the memory."""


def _long(text: str) -> tuple[int, ...]:
    found: list[int] = []
    previous = -1
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        begin, end = int(first), int(last or first)
        if not previous < begin <= end < _MOST:
            raise ValueError(f"{part!r} is out of order")
        found.extend(range(begin, end + 1))
        previous = end
    return tuple(found)
