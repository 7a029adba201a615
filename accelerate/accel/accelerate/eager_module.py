"""The module behind the backend ``eager``: called on numpy arrays, in inference mode, in the precision that it says."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from accel.accelerate.eager_graphs import Captured
from accel.accelerate.eager_modes import Compiled, Forward, forward, prepared
from accel.accelerate.inputs import check_inputs
from accel.accelerate.precision import Counts, executed
from accel.atomic import storage_faults
from accel.contracts import ExecutedPrecision
from accel.errors import AccelError, BackendFault, ModelFault
from accel.model import Signature, TensorSpec, TorchModel

if TYPE_CHECKING:
    from accel.contracts import Array

_HEAVY = frozenset({"convolution", "addmm", "mm", "bmm", "baddbmm"})
_FLOATS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}


def cuda_problem() -> str | None:
    """None, or one sentence: why PyTorch cannot use a GPU here."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of torch is for CPUs only; install a CUDA build from pytorch.org for device gpu"
    if not torch.cuda.is_available():
        return "torch finds no usable GPU here; check that there is one and that its driver is new enough for this build"
    return None


def save_weights(module: nn.Module, path: Path) -> None:
    """Write parameters and buffers, tied ones once. Raises StorageFault, or ModelFault for what safetensors cannot hold."""
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    try:
        with storage_faults(path):
            save_model(module, str(path))
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        path.unlink(missing_ok=True)
        raise ModelFault(f"{path.name}: safetensors cannot hold these weights: {error}") from error


def ordered_outputs(result: object, signature: Signature) -> list[Tensor]:
    """The tensors of a forward pass in the signature's order.

    A mapping with exactly the signature's names is read by name; anything else is flattened as the ONNX exporter does it.
    Raises ModelFault where their number is not the signature's.
    """
    names = [spec.name for spec in signature.outputs]
    if isinstance(result, Mapping) and set(result) == set(names):
        leaves: list[Any] = [result[name] for name in names]
    else:
        leaves = tree_leaves(dict(result) if isinstance(result, Mapping) else result)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if len(tensors) != len(names):
        raise ModelFault(f"the module gives {len(tensors)} tensors; its signature has {len(names)} ({', '.join(names)})")
    return tensors


class EagerRunner:
    """A module on a device. Inputs and outputs are copied: modules may change what they are given, or hand out their buffers.

    The number of threads and the FP32 mode belong to the process; both are put back when the runner is closed.
    """

    def __init__(
        self, model: TorchModel, settings: Mapping[str, Any], *, batch: int | None = None, cache: Path | None = None
    ) -> None:
        """``settings``: of :meth:`accel.accelerate.eager.Eager.runtime_settings`. ``cache``: for torch.compile, which is done
        here for ``batch`` samples, as far as the signature tells what they look like."""
        training = next((name or "the module" for name, part in model.module.named_modules() if part.training), None)
        if training is not None:
            raise ModelFault(f"{training} is in training mode; call eval() on the module first")
        self.signature = model.signature
        self._settings = settings
        self._device = torch.device(settings["device"])
        module = prepared(model.module, self._device, settings)
        self._module: Forward | None = forward(module, self._device, settings)
        self._compiled = Compiled(module, cache or Path(tempfile.gettempdir())) if "torch_compile" in settings else None
        self._fast: Forward | None = self._module
        if self._compiled is not None:
            self._fast = forward(self._compiled, self._device, settings)
        self._graph = Captured(self._on_device, self._device) if "cuda_graphs" in settings else None
        self._names = [spec.name for spec in model.signature.inputs]
        self._seen: dict[str, Array] | None = None
        self._before = (torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
        torch.set_num_threads(settings["num_threads"])
        torch.set_float32_matmul_precision(settings["float32_matmul_precision"])
        if self._device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False
        if self._compiled is not None and self._tells_sizes(batch):
            try:
                self._run(self._zeros(batch or 1))
            except BaseException:
                self.__exit__(None, None, None)
                raise

    @property
    def threads(self) -> int:
        """CPU threads, as PyTorch tells."""
        return torch.get_num_threads()

    def __call__(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Outputs in the signature's order. Raises DataFault for wrong inputs, ModelFault for wrong outputs or BackendFault."""
        check_inputs(self.signature, inputs)  # a module takes more than its signature says
        outputs = self._run(inputs)
        if self._seen is None:
            self._seen = dict(inputs)
        return outputs

    def executed_precision(self) -> ExecutedPrecision:
        """Read from the operators that PyTorch dispatches in one more call on the first inputs that this runner was given.

        Not counted during that call itself, which is timed. Before any call it takes zeros, batch 1; BackendFault where other
        axes vary too, for what sizes the module accepts there only a call tells. torch.compile and CUDA graphs dispatch
        nothing that can be seen: there the module is counted that they were made from.
        """
        module = self._module or _closed()
        inputs = self._zeros(1) if self._seen is None else self._seen
        counting = _Counting()
        try:
            with torch.no_grad():  # in inference mode composite operators are seen whole: linear, not what it is made of
                tensors = self._tensors(inputs)
                with counting:
                    module(*tensors)
        except Exception as error:  # a module may raise anything
            raise _failed(error, self._settings) from error
        return executed(Counts(counting.operators, 0, counting.heavy or counting.other), 0, self._notes())

    def _run(self, inputs: Mapping[str, Array]) -> list[Array]:
        try:
            with torch.inference_mode():
                if self._graph is not None:
                    return self._graph([inputs[name] for name in self._names])
                return [tensor.cpu().numpy().copy() for tensor in self._on_device(*self._tensors(inputs))]
        except AccelError:
            raise
        except Exception as error:  # a module may raise anything
            raise _failed(error, self._settings) from error

    def _on_device(self, *tensors: Tensor) -> list[Tensor]:
        """Outputs in the signature's order, and after autocast in its dtypes."""
        outputs = ordered_outputs((self._fast or _closed)(*tensors), self.signature)
        if "autocast" not in self._settings:
            return outputs
        return [tensor.to(getattr(torch, spec.dtype)) for tensor, spec in zip(outputs, self.signature.outputs, strict=True)]

    def _notes(self) -> tuple[str, ...]:
        notes: tuple[str, ...] = ()
        if "autocast" in self._settings:
            notes += (f"autocast to {self._settings['autocast']}; weights of linear and convolution layers were cast once",)
        if self._compiled is not None:
            notes += ("operators are those of the module before torch.compile, which fuses them", *self._compiled.notes)
        if self._graph is not None:
            notes += ("the whole call is one CUDA graph, captured once for each shape of the inputs",)
        if self._device.type == "cuda":
            notes += ("latency includes the copies of inputs and outputs to and from the GPU",)
        return notes

    def _tells_sizes(self, batch: int | None) -> bool:
        """Whether the signature, with ``batch`` samples, says how large every input is."""
        axes = [axis for spec in self.signature.inputs for axis in (spec.shape if batch is None else spec.shape[1:])]
        return all(isinstance(axis, int) for axis in axes)

    def _zeros(self, batch: int) -> dict[str, Array]:
        varying = next((spec for spec in self.signature.inputs if any(isinstance(axis, str) for axis in spec.shape[1:])), None)
        if varying is not None:
            shown = "x".join(map(str, varying.shape))
            raise BackendFault(f"input {varying.name} is {shown}: run the model once before asking what it executes")
        return {spec.name: np.zeros(spec.concrete(**_first(spec, batch)), spec.dtype) for spec in self.signature.inputs}

    def _tensors(self, inputs: Mapping[str, Array]) -> list[Tensor]:
        return [torch.tensor(inputs[name], device=self._device) for name in self._names]

    def __enter__(self) -> Self:
        if self._module is None:
            _closed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._module is not None:
            self._module = self._fast = self._compiled = None
            self._seen = self._graph = None
            torch.set_num_threads(self._before[0])
            torch.set_float32_matmul_precision(self._before[1])
            if self._device.type == "cuda":
                torch.backends.cudnn.allow_tf32 = self._before[2]


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators by name, and by the float precision of what they give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: Counter[str] = Counter()
        self.heavy: Counter[str] = Counter()
        self.other: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.operators[name] += 1
        first = next((leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), None)
        if first is not None and first.dtype in _FLOATS:
            (self.heavy if name in _HEAVY else self.other)[_FLOATS[first.dtype]] += 1
        return result


def _first(spec: TensorSpec, batch: int) -> dict[str, int]:
    """The size of the axis that holds the samples, where it varies."""
    return {spec.shape[0]: batch} if spec.shape and isinstance(spec.shape[0], str) else {}


def _failed(error: Exception, settings: Mapping[str, Any]) -> BackendFault:
    sentence = f"the module failed: {type(error).__name__}: {error}"
    if "autocast" in settings and re.search("dtype|Half|BFloat16", str(error)):
        sentence += f"; it may leave autocast to {settings['autocast']} inside: set precision: fp32"
    return BackendFault(sentence)


def _closed(*_: object) -> NoReturn:
    raise BackendFault("this eager runner is closed; compile the model again")
