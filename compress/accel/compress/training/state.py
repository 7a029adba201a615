"""All the tensors of a module, by name: what a checkpoint holds, an average averages, and every process agrees on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from accel.errors import ModelFault


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those too that ``state_dict`` leaves out; tied ones once. The tensors themselves, not copies."""
    found: dict[str, Tensor] = {name: value.detach() for name, value in module.named_parameters()}
    found.update(module.named_buffers())
    return found


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, in the same memory layout."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def put_(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors`` into the parameters and buffers of these names; a buffer whose shape changed is replaced."""
    own = tensors_of(module)
    if own.keys() != tensors.keys():
        raise ModelFault(f"its tensors are not the module's: {sorted(own.keys() ^ tensors.keys())[:5]}")
    with torch.no_grad():
        for name, value in tensors.items():
            if own[name].shape == value.shape and own[name].dtype == value.dtype:
                own[name].copy_(value)
                continue
            path, _, leaf = name.rpartition(".")  # an observer's ranges are empty before the first batch
            owner = module.get_submodule(path)
            if leaf not in owner._buffers:
                raise ModelFault(f"{name} has shape {list(value.shape)}, the module's {list(own[name].shape)}")
            owner._buffers[leaf] = value.to(own[name].device, copy=True)


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {list(value.shape)};".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return total.hexdigest()
