"""What a torch module takes and gives, found by running it; and whether it gives the same twice.

Runs at several sizes of every axis that varies: an output axis that follows an input axis gets its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accel.errors import ModelFault, UsageError
from accel.model import Signature, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from accel.contracts import Array

DTYPES = ("float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
_BATCH = 4
_OTHER_SIZES = (32, 224, 8)  # tried in this order for axes other than the batch: a picture's height, a text's length
_RELATIVE_TOLERANCE = 1e-3  # of the largest value: kernels chosen by batch size differ in the last bits only

Call = Callable[[Sequence["Tensor"]], Any]


def flatten(value: Any) -> list[tuple[str, Tensor]]:
    """The tensors a module returned, with names, in order: ``output``, ``output_0``..., or the keys of a dict or named tuple.

    Containers inside containers are named ``key.inner``. ModelFault for anything that is not a dense tensor.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return [("output", _dense("output", value))]
    found = list(_walk("", value))
    if not found:
        raise ModelFault("the module returns no tensor")
    return found


def _walk(path: str, value: Any) -> Iterable[tuple[str, Tensor]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield path, _dense(path, value)
        return
    if isinstance(value, Mapping):
        entries = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        entries = list(zip(value._fields, value, strict=True))
    elif isinstance(value, (list, tuple)):
        entries = [(f"output_{index}" if not path else str(index), inner) for index, inner in enumerate(value)]
    else:
        place = f"its output {path!r}" if path else "its output"
        raise ModelFault(f"{place} is a {type(value).__name__}; a module must return tensors, or tuples or dicts of them")
    for key, inner in entries:
        yield from _walk(f"{path}.{key}" if path else key, inner)


def _dense(name: str, value: Tensor) -> Tensor:
    import torch

    if value.layout is not torch.strided or value.is_quantized:
        raise ModelFault(f"output {name!r} is not a dense tensor; call .to_dense() or .dequantize() in the module")
    if value.is_complex():
        raise ModelFault(f"output {name!r} is complex, which runtimes do not have; return torch.view_as_real of it")
    if str(value.dtype).removeprefix("torch.") not in DTYPES:
        raise ModelFault(f"output {name!r} is {value.dtype}, which numpy does not have; return .float() of it")
    return value


def require_inputs(inputs: Sequence[TensorSpec]) -> None:
    """UsageError for inputs that no runtime takes: none at all, two of one name, or an element type outside ``DTYPES``."""
    if not inputs:
        raise UsageError("model.inputs: give name and shape of every input, such as {name: x, shape: [batch, 3, 224, 224]}")
    names = [spec.name for spec in inputs]
    if len(set(names)) != len(names):
        raise UsageError(f"model.inputs: two inputs have the same name: {', '.join(names)}")
    for spec in inputs:
        if spec.dtype not in DTYPES:
            way = "; pass real and imaginary part as two inputs" if "complex" in spec.dtype else ""
            raise UsageError(f"input {spec.name!r}: {spec.dtype} is not supported, only {', '.join(DTYPES)}{way}")


def observe(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    *,
    seed: int = 0,
    sample: Mapping[str, Array] | None = None,
    call: Call | None = None,
) -> Signature:
    """The signature of ``module``, which must be in evaluation mode. ``sample``: one batch of real inputs, instead of noise.

    ``call`` runs the module in a caller's way (to report what it raises). ModelFault where the outputs are not finite, not
    tensors, differ between two runs on the same input, change rank at batch 1, or depend on the other samples of the batch.
    """
    require_inputs(inputs)
    run = _Runs(inputs, seed, sample, call or (lambda tensors: module(*tensors)))
    base = run.first()
    _require_finite(base)
    _require_same("two runs on the same input differ; is dropout applied with training=True?", base, run(run.sizes))
    named = {axis for spec in inputs for axis in spec.shape if isinstance(axis, str)}
    changed: dict[str, list[tuple[str, Tensor]]] = {}
    for axis in sorted(named):
        other = 1 if axis in run.batch_axes else run.sizes[axis] * 2
        changed[axis] = run({**run.sizes, axis: other}, wanted=base)
    outputs = tuple(_spec(index, base, changed, run) for index in range(len(base)))
    for axis in run.batch_axes:
        _require_alone(axis, base, changed[axis], outputs)
    return Signature(tuple(inputs), _distinct(outputs, inputs))


class _Runs:
    """Runs the module at chosen sizes, always on the same numbers: a smaller batch is the start of the larger one."""

    def __init__(self, inputs: Sequence[TensorSpec], seed: int, sample: Mapping[str, Array] | None, call: Call) -> None:
        self._inputs = inputs
        self._seed = seed
        self._sample = sample
        self._call = call
        self.batch_axes = tuple(sorted({spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], str)}))
        self.sizes: dict[str, int] = dict.fromkeys(self.batch_axes, _BATCH)

    def first(self) -> list[tuple[str, Tensor]]:
        """Find sizes that work for the axes other than the batch, and run there."""
        others = {axis for spec in self._inputs for axis in spec.shape if isinstance(axis, str)} - set(self.batch_axes)
        if not others:
            return self(self.sizes)
        failure: ModelFault | None = None
        for size in _OTHER_SIZES:
            self.sizes = {**dict.fromkeys(others, size), **dict.fromkeys(self.batch_axes, _BATCH)}
            try:
                return self(self.sizes)
            except ModelFault as error:
                failure = failure or error
        raise failure or AssertionError("no size was tried")

    def __call__(self, sizes: Mapping[str, int], wanted: list[tuple[str, Tensor]] | None = None) -> list[tuple[str, Tensor]]:
        import torch

        with torch.no_grad():
            found = flatten(self._call([self._tensor(spec, index, sizes) for index, spec in enumerate(self._inputs)]))
        if wanted is not None and [name for name, _ in found] != [name for name, _ in wanted]:
            raise ModelFault(f"the module returns {len(found)} outputs at {_sized(sizes)} and {len(wanted)} otherwise")
        for (name, value), (_, before) in zip(found, wanted or found, strict=True):
            if value.dim() != before.dim():
                raise ModelFault(
                    f"output {name!r} has {value.dim()} axes at {_sized(sizes)} and {before.dim()} otherwise;"
                    " a squeeze() without dim removes the batch"
                )
        return found

    def _tensor(self, spec: TensorSpec, index: int, sizes: Mapping[str, int]) -> Tensor:
        import torch

        shape = spec.concrete(**sizes)
        if self._sample is not None and spec.name in self._sample:
            given = torch.as_tensor(self._sample[spec.name])
            if given.shape[1:] == torch.Size(shape[1:]):
                repeated = [row % given.shape[0] for row in range(shape[0])]
                return given[repeated].to(getattr(torch, spec.dtype))
        generator = torch.Generator().manual_seed(self._seed + index)
        dtype = getattr(torch, spec.dtype)
        # One sample after the other, so that sample 0 is the same at every batch size.
        rows = shape[0] if spec.shape and isinstance(spec.shape[0], str) else None
        parts = [
            self._noise(shape if rows is None else shape[1:], dtype, generator) for _ in range(1 if rows is None else rows)
        ]
        return parts[0] if rows is None else torch.stack(parts)

    @staticmethod
    def _noise(shape: tuple[int, ...], dtype: Any, generator: Any) -> Tensor:
        import torch

        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(dtype)
        return torch.randint(0, 2, shape, generator=generator).to(dtype)  # 0 and 1 are indices in any table of two or more


def _sized(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis}={size}" for axis, size in sorted(sizes.items())) or "this size"


def _require_finite(outputs: list[tuple[str, Tensor]]) -> None:
    import torch

    for name, value in outputs:
        if value.is_floating_point() and not torch.isfinite(value).all():
            what = "NaN" if value.isnan().any() else "Inf"
            raise ModelFault(f"output {name!r} holds {what} for finite inputs; check the weights and the forward pass")


def _require_same(fact: str, first: list[tuple[str, Tensor]], second: list[tuple[str, Tensor]]) -> None:
    for (name, a), (_, b) in zip(first, second, strict=True):
        if a.shape != b.shape or not _close(a, b):
            raise ModelFault(f"output {name!r}: {fact}")


def _close(a: Tensor, b: Tensor) -> bool:
    import torch

    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    if a.numel() == 0:
        return True
    slack = _RELATIVE_TOLERANCE * float(a.abs().max()) + 1e-6
    return bool(((a.double() - b.double()).abs() <= slack).all())


def _require_alone(
    axis: str, base: list[tuple[str, Tensor]], single: list[tuple[str, Tensor]], specs: Sequence[TensorSpec]
) -> None:
    for (name, many), (_, one), spec in zip(base, single, specs, strict=True):
        if spec.shape and spec.shape[0] == axis and not _close(many[:1], one):
            raise ModelFault(
                f"output {name!r}: the first sample's values change with the number of samples beside it"
                f" ({axis}=1 against {axis}={_BATCH}); the module mixes the samples of a batch"
            )


def _spec(
    index: int, base: list[tuple[str, Tensor]], changed: Mapping[str, list[tuple[str, Tensor]]], run: _Runs
) -> TensorSpec:
    name, value = base[index]
    shape: list[int | str] = []
    for position, size in enumerate(value.shape):
        moved = {
            axis: found[index][1].shape[position] for axis, found in changed.items() if found[index][1].shape[position] != size
        }
        if not moved:
            shape.append(size)
            continue
        axis, other = next(iter(moved.items()))
        expected = 1 if axis in run.batch_axes else run.sizes[axis] * 2
        same = len(moved) == 1 and size == run.sizes[axis] and other == expected
        shape.append(axis if same else f"{name}_dim{position}")
    return TensorSpec(name, tuple(shape), str(value.dtype).removeprefix("torch."))


def _distinct(outputs: Sequence[TensorSpec], inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """ONNX has one name space: an output called like an input gets another name."""
    taken = {spec.name for spec in inputs}
    result = []
    for spec in outputs:
        name = spec.name
        while name in taken:
            name += "_out"
        taken.add(name)
        result.append(TensorSpec(name, spec.shape, spec.dtype))
    return tuple(result)
