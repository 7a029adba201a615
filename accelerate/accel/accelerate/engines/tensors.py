"""What a built engine takes and gives, and which of its optimization profiles holds a shape. Pure, but for one reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accel.accelerate.engines.options import Profile, Shape
from accel.errors import BackendFault, DataFault
from accel.model import Signature, TensorSpec

# TensorRT's name of a type to numpy's. What numpy has no type for cannot go in or out.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class EngineTensors:
    """Inputs and outputs of an engine by name: numpy's type and the shape, -1 where it varies; and its profiles."""

    inputs: Mapping[str, tuple[str, Shape]]
    outputs: Mapping[str, tuple[str, Shape]]
    profiles: tuple[Profile, ...]


def read_tensors(engine: Any, trt: Any) -> EngineTensors:
    """Raises BackendFault, naming the tensor, for one that this program cannot fill or read."""
    inputs: dict[str, tuple[str, Shape]] = {}
    outputs: dict[str, tuple[str, Shape]] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        if engine.get_tensor_location(name) == trt.TensorLocation.HOST or engine.is_shape_inference_io(name):
            raise BackendFault(
                f"tensor {name}: its values are shapes, which the engine reads or writes on the host; accel runs engines"
                " whose shapes follow from those of the inputs: make it a constant of the ONNX file, or leave it out"
            )
        if dtype not in _DTYPES:
            raise BackendFault(
                f"tensor {name} is of type {dtype}, which numpy does not have; cast it to float32 in the ONNX file"
            )
        side = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        side[name] = (_DTYPES[dtype], tuple(engine.get_tensor_shape(name)))
    profiles = []
    for index in range(engine.num_optimization_profiles):
        profiles.append(_read_profile(engine, index, inputs))  # noqa: PERF401 - in an error, a comprehension keeps the engine
    return EngineTensors(inputs, outputs, tuple(profiles))


def _read_profile(engine: Any, index: int, inputs: Mapping[str, tuple[str, Shape]]) -> Profile:
    profile = {}
    for name, (_, shape) in inputs.items():
        if -1 not in shape:  # what does not vary is no part of a profile
            profile[name] = (shape, shape, shape)
            continue
        three = [tuple(each) for each in engine.get_tensor_profile_shape(name, index)]
        if len(three) != 3 or any(len(each) != len(shape) for each in three):
            raise BackendFault(f"input {name}: profile {index} of the engine has no shapes for it; build it again")
        profile[name] = (three[0], three[1], three[2])
    return profile


def require_signature(tensors: EngineTensors, signature: Signature) -> None:
    """BackendFault where the engine has other inputs or outputs than ``signature``.

    An axis that the model lets vary may be fixed in the engine: its profile then says so.
    """
    sides = (("inputs", signature.inputs, tensors.inputs), ("outputs", signature.outputs, tensors.outputs))
    for side, specs, found in sides:
        if {spec.name for spec in specs} != set(found):
            wanted = ", ".join(spec.name for spec in specs)
            raise BackendFault(
                f"the engine has the {side} {', '.join(found) or 'none'}, and the model {wanted}; build it again"
            )
        for spec in specs:
            dtype, shape = found[spec.name]
            if dtype != spec.dtype or not _alike(spec, shape):
                raise BackendFault(
                    f"{spec.name} is {dtype} {_shown(shape)} in the engine, and {spec.dtype} {'x'.join(map(str, spec.shape))}"
                    " in the model; build it again"
                )


def _alike(spec: TensorSpec, shape: Shape) -> bool:
    pairs = zip(spec.shape, shape, strict=False)
    return len(spec.shape) == len(shape) and all(isinstance(ours, str) or theirs in (ours, -1) for ours, theirs in pairs)


def choose_profile(profiles: Sequence[Profile], shapes: Mapping[str, Shape], signature: Signature) -> int:
    """The profile that holds ``shapes`` and was tuned for the nearest; DataFault, naming input and axis, where none does."""
    holding = [index for index, profile in enumerate(profiles) if _holds(profile, shapes)]
    if not holding:
        raise _outside(profiles, shapes, signature)
    return min(holding, key=lambda index: _distance(profiles[index], shapes))


def _holds(profile: Profile, shapes: Mapping[str, Shape]) -> bool:
    return all(
        low <= size <= high
        for name, shape in shapes.items()
        for low, size, high in zip(profile[name][0], shape, profile[name][2], strict=True)
    )


def _distance(profile: Profile, shapes: Mapping[str, Shape]) -> float:
    """How far ``shapes`` are from those that the kernels were chosen for, in factors of two over all axes."""
    return sum(
        abs(math.log2(max(size, 1) / max(usual, 1)))
        for name, shape in shapes.items()
        for size, usual in zip(shape, profile[name][1], strict=True)
    )


def _outside(profiles: Sequence[Profile], shapes: Mapping[str, Shape], signature: Signature) -> DataFault:
    specs = {spec.name: spec for spec in signature.inputs}
    for name, shape in shapes.items():
        for axis, size in enumerate(shape):
            ranges = list(dict.fromkeys((profile[name][0][axis], profile[name][2][axis]) for profile in profiles))
            if not any(low <= size <= high for low, high in ranges):
                called = specs[name].shape[axis]
                return DataFault(
                    f"input {name} has {size} along {called if isinstance(called, str) else f'axis {axis}'}; the engine was"
                    f" built for {_ranges(ranges)}: keep to that, or build it for more (`dynamic` with min, opt and max on the"
                    " recipe's input, the target's batch, or the option profiles)"
                )
    shown = "; ".join(", ".join(f"{name} {_shown(p[name][0])} to {_shown(p[name][2])}" for name in shapes) for p in profiles)
    given = ", ".join(f"{name} {_shown(shape)}" for name, shape in shapes.items())
    return DataFault(
        f"no profile of the engine holds {given} together; it has {shown}: keep to one of these, or build it again"
    )


def _ranges(ranges: Sequence[tuple[int, int]]) -> str:
    return " or ".join(str(low) if low == high else f"{low} to {high}" for low, high in sorted(ranges))


def _shown(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "()"
