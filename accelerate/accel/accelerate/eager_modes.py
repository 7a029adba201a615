"""How PyTorch runs the same module faster: autocast, the channels-last memory format, and torch.compile.

Precision below FP32 is autocast, not ``module.to(dtype)``: a module that makes FP32 tensors of its own, or sums in a norm or a
softmax, still runs, and a CPU does the same as a GPU. But autocast casts every weight again at every call, which would make a
baseline slower than it need be, so the weights of linear and convolution layers are cast once, before.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from accel.accelerate.compile_faults import shortened
from accel.errors import BackendFault, MissingBackend

Forward = Callable[..., object]
"""Tensors on the device to what the module gives."""

# Exactly these: a subclass may compute with its weights before it multiplies (weight standardization), in FP32.
_MULTIPLY = frozenset({nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d})
_EAGER = "or set mode: eager"
_MISSING = {
    "InvalidCxxCompiler": f"torch.compile finds no C++ compiler here; install one (Debian: apt install g++), {_EAGER}",
    "TritonMissing": f"torch.compile needs Triton to make code for a GPU; get it with: pip install triton, {_EAGER}",
    "GPUTooOldForTriton": "this GPU is too old for torch.compile (Triton needs compute capability 7.0); set mode: eager",
}
"""Inductor's errors, by name (torch/_inductor/exc.py), that say what this machine lacks."""


def prepared(module: nn.Module, device: torch.device, settings: Mapping[str, Any]) -> nn.Module:
    """``module`` itself if it lies on ``device`` and nothing about it changes, else a copy.

    ``settings``: of :meth:`accel.accelerate.eager.Eager.runtime_settings`.
    """
    tensors = (*module.parameters(), *module.buffers())
    here = all(tensor.device.type == device.type for tensor in tensors)
    if here and not {"autocast", "memory_format"} & settings.keys():
        return module
    made = copy.deepcopy(module).to(device)
    if "memory_format" in settings:
        made.to(memory_format=getattr(torch, settings["memory_format"]))  # type: ignore[call-overload]
    if "autocast" in settings:
        cast_weights_(made, getattr(torch, settings["autocast"]))
    return made


def cast_weights_(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast the FP32 weights and biases that autocast casts at every call anyway. One that another layer uses too stays."""
    shared = {
        id(parameter)
        for part in module.modules()
        if type(part) not in _MULTIPLY
        for parameter in part.parameters(recurse=False)
    }
    for part in module.modules():
        if type(part) not in _MULTIPLY:
            continue
        for name, parameter in part.named_parameters(recurse=False):
            # Others are what a weight is made from at each call: weight_g and weight_v of a weight norm.
            if name in ("weight", "bias") and parameter.dtype == torch.float32 and id(parameter) not in shared:
                parameter.data = parameter.data.to(dtype)


def forward(function: Forward, device: torch.device, settings: Mapping[str, Any]) -> Forward:
    """``function`` under autocast and with images in the memory format, as ``settings`` say; else itself."""
    if not {"autocast", "memory_format"} & settings.keys():
        return function
    dtype = getattr(torch, settings["autocast"]) if "autocast" in settings else None
    memory_format = getattr(torch, settings["memory_format"]) if "memory_format" in settings else None

    def changed(*tensors: Tensor) -> object:
        if memory_format is not None:
            tensors = tuple(part.contiguous(memory_format=memory_format) if part.ndim == 4 else part for part in tensors)
        if dtype is None:
            return function(*tensors)
        with torch.autocast(device.type, dtype=dtype):
            return function(*tensors)

    return changed


class Compiled:
    """A module under torch.compile, with Inductor. ``notes``: what it split.

    Whatever this process compiled before is dropped (``torch.compiler.reset``), and code for shapes that were not seen before
    is made with an empty cache below ``folder``: else the second run on a machine would report the first one's work as fast.
    PyTorch's own way out of too many recompilations, which is to run the module uncompiled, is an error here.
    """

    def __init__(self, module: nn.Module, folder: Path) -> None:
        torch.compiler.reset()
        self._function: Forward = torch.compile(module)
        self._folder = folder
        self._seen: set[tuple[torch.Size, ...]] = set()
        self._graphs = 0
        self._breaks: Counter[str] = Counter()

    def __call__(self, *tensors: Tensor) -> object:
        """Raises MissingBackend where this machine cannot compile, BackendFault where the module cannot be compiled."""
        shapes = tuple([tensor.shape for tensor in tensors])
        if shapes in self._seen:
            return self._function(*tensors)
        with _from_nothing(self._folder), self._watched():
            result = self._function(*tensors)
        if self._graphs == 0:
            raise BackendFault("torch.compile compiled nothing of the module and ran it as it is; set mode: eager")
        self._seen.add(shapes)
        return result

    @property
    def notes(self) -> tuple[str, ...]:
        if not self._breaks:
            return ()
        why, _ = self._breaks.most_common(1)[0]
        count = sum(self._breaks.values())
        return (f"torch.compile split the module into {self._graphs} parts, {count} graph breaks: {shortened(why)}",)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
        from torch._dynamo.utils import counters

        graphs, breaks = counters["stats"]["unique_graphs"], Counter(counters["graph_break"])
        try:
            yield
        except FailOnRecompileLimitHit as error:
            raise BackendFault("torch.compile made code for too many shapes of input; fix the axes that vary") from error
        except TorchDynamoException as error:
            sentence = missing(error)
            if sentence is not None:
                raise MissingBackend(sentence) from error
            said = str(error).partition("Set TORCHDYNAMO_VERBOSE")[0]  # what follows is advice for PyTorch's developers
            raise BackendFault(f"torch.compile failed: {shortened(said)}; set mode: eager") from error
        finally:
            if not self._seen:  # later shapes make more code of the same parts
                self._graphs = counters["stats"]["unique_graphs"] - graphs
                self._breaks = Counter(counters["graph_break"]) - breaks


def missing(error: BaseException) -> str | None:
    """A sentence, if ``error`` of torch.compile says that this machine lacks what it takes; else None."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = getattr(current, "inner_exception", None) or current.__cause__
    for each in seen:
        if type(each).__name__ in _MISSING:
            return _MISSING[type(each).__name__]
    text = str(error)  # InductorError has the name of what it wraps at its start
    for name, sentence in _MISSING.items():
        if name in text:
            return sentence
    if "Python.h" in text:
        return f"torch.compile needs Python's C headers; install them (Debian: apt install python3-dev), {_EAGER}"
    return None


@contextmanager
def _from_nothing(folder: Path) -> Iterator[None]:
    from torch._dynamo import config
    from torch._inductor import utils

    folder.mkdir(parents=True, exist_ok=True)
    empty: Any = getattr(utils, "fresh_cache", None) or utils.fresh_inductor_cache  # its name before torch 2.8
    with empty(dir=str(folder.absolute())), config.patch(fail_on_recompile_limit_hit=True):
        yield
