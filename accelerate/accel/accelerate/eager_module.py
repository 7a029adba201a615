"""The module behind the backend ``eager``: called on numpy arrays, in inference mode, in the precision that it says."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from accel.accelerate.inputs import check_inputs
from accel.accelerate.precision import Counts, executed
from accel.atomic import storage_faults
from accel.contracts import ExecutedPrecision
from accel.errors import AccelError, BackendFault, ModelFault
from accel.model import Signature, TorchModel

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

    def __init__(self, model: TorchModel, settings: Mapping[str, Any]) -> None:
        """``settings``: of :meth:`accel.accelerate.eager.Eager.runtime_settings`."""
        training = next((name or "the module" for name, part in model.module.named_modules() if part.training), None)
        if training is not None:
            raise ModelFault(f"{training} is in training mode; call eval() on the module first")
        self.signature = model.signature
        self._device = torch.device(settings["device"])
        self._module: Callable[..., object] | None = _on(model.module, self._device)
        self._names = [spec.name for spec in model.signature.inputs]
        self._before = (torch.get_num_threads(), torch.get_float32_matmul_precision())
        self._seen: dict[str, Array] | None = None
        torch.set_num_threads(settings["num_threads"])
        torch.set_float32_matmul_precision(settings["float32_matmul_precision"])
        if self._device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False

    @property
    def threads(self) -> int:
        """CPU threads, as PyTorch tells."""
        return torch.get_num_threads()

    def __call__(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Outputs in the signature's order. Raises DataFault for wrong inputs, ModelFault for wrong outputs or BackendFault."""
        check_inputs(self.signature, inputs)  # a module takes more than its signature says
        try:
            with torch.inference_mode():
                result = (self._module or _closed)(*self._tensors(inputs))
                outputs = [tensor.cpu().numpy().copy() for tensor in ordered_outputs(result, self.signature)]
        except AccelError:
            raise
        except Exception as error:  # a module may raise anything
            raise _failed(error) from error
        if self._seen is None:
            self._seen = dict(inputs)
        return outputs

    def executed_precision(self) -> ExecutedPrecision:
        """Read from the operators that PyTorch dispatches in one more call on the first inputs that this runner was given.

        Not counted during that call itself, which is timed. Before any call it takes zeros, batch 1; BackendFault where other
        axes vary too, for what sizes the module accepts there only a call tells.
        """
        module = self._module or _closed()
        inputs = self._zeros() if self._seen is None else self._seen
        counting = _Counting()
        try:
            with torch.no_grad():  # in inference mode composite operators are seen whole: linear, not what it is made of
                tensors = self._tensors(inputs)
                with counting:
                    module(*tensors)
        except Exception as error:  # a module may raise anything
            raise _failed(error) from error
        return executed(Counts(counting.operators, 0, counting.heavy or counting.other), 0)

    def _zeros(self) -> dict[str, Array]:
        varying = next((spec for spec in self.signature.inputs if any(isinstance(axis, str) for axis in spec.shape[1:])), None)
        if varying is not None:
            shown = "x".join(map(str, varying.shape))
            raise BackendFault(f"input {varying.name} is {shown}: run the model once before asking what it executes")
        return {spec.name: np.zeros(spec.concrete(), spec.dtype) for spec in self.signature.inputs}

    def _tensors(self, inputs: Mapping[str, Array]) -> list[Tensor]:
        return [torch.tensor(inputs[name], device=self._device) for name in self._names]

    def __enter__(self) -> Self:
        if self._module is None:
            _closed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._module is not None:
            self._module = None
            self._seen = None
            torch.set_num_threads(self._before[0])
            torch.set_float32_matmul_precision(self._before[1])


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


def _on(module: nn.Module, device: torch.device) -> nn.Module:
    """``module`` itself if it lies on ``device``, else a copy there."""
    tensors = (*module.parameters(), *module.buffers())
    return module if all(tensor.device.type == device.type for tensor in tensors) else copy.deepcopy(module).to(device)


def _failed(error: Exception) -> BackendFault:
    return BackendFault(f"the module failed: {type(error).__name__}: {error}")


def _closed(*_: object) -> NoReturn:
    raise BackendFault("this eager runner is closed; compile the model again")
