"""Where a training runs, in which precision, and in which memory layout."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from accel.errors import UsageError

_BF16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")  # x86, then Arm


def chosen_device(setting: Literal["auto", "cpu", "cuda"], local_rank: int) -> torch.device:
    """The device of this process. UsageError for ``cuda`` where torch finds none."""
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError("train.device is cuda, but torch finds no usable GPU here; use auto or cpu")
    if local_rank >= torch.cuda.device_count():
        raise UsageError(f"process {local_rank} of this machine has no GPU of its own ({torch.cuda.device_count()} here)")
    return torch.device("cuda", local_rank)


def native_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 in hardware; emulated, it is slower than FP32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return any(found.get(name) is True for name in _BF16)


def as_float(outputs: Any) -> Any:
    """The same containers with tensors of less than 32 bits as float32: a loss in bfloat16 loses its small differences."""
    return tree_map(_float, outputs)


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) else value


def takes_channels_last(module: nn.Module, inputs: Sequence[Tensor], bf16: bool) -> bool:
    """Whether there are 2-D convolutions to profit (ResNet-20 here: 1.4 times in FP32, 1.1 in bfloat16), and it runs like that:
    ``view`` refuses such a layout."""
    images = any(tensor.dim() == 4 and tensor.is_floating_point() for tensor in inputs)
    weights = any(parameter.dim() == 4 for parameter in module.parameters())
    return images and weights and runs(module, inputs, channels_last=True, bf16=bf16)


def takes_bf16(module: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Whether bfloat16 is not what stops the forward pass: some operators have no kernel for it."""
    ways = ({"channels_last": False, "bf16": True}, {"channels_last": False, "bf16": False})
    return runs(module, inputs, **ways[0]) or not runs(module, inputs, **ways[1])


def runs(module: nn.Module, inputs: Sequence[Tensor], *, channels_last: bool, bf16: bool) -> bool:
    """Whether a forward pass of a copy succeeds, where the inputs are."""
    try:
        trial = copy.deepcopy(module).to(inputs[0].device)
        if channels_last:
            channels_last_(trial)
        with torch.no_grad(), torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=bf16):
            trial(*[in_layout(tensor, channels_last) for tensor in inputs])
    except Exception:  # noqa: BLE001 - whatever it is, the first step says it if there is no way around
        return False
    return True


def in_layout(tensor: Tensor, channels_last: bool) -> Tensor:
    """``tensor``, in channels-last memory where asked and it is an image batch."""
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last and tensor.dim() == 4 else tensor


def channels_last_(module: nn.Module) -> None:
    """Lay out the weights of 2-D convolutions as channels last. Values, names and shapes stay."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def contiguous_(module: nn.Module) -> None:
    """The opposite of :func:`channels_last_`: what files and other libraries expect."""
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()
