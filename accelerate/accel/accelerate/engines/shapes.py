"""Optimization profiles: for which shapes an engine is built, from the recipe and the network's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accel.accelerate.engines.options import MOST, Profile, Shape
from accel.accelerate.engines.options import profiles as asked_profiles
from accel.accelerate.inputs import batch_axis
from accel.errors import BackendFault, UsageError
from accel.model import Signature, Target, TensorSpec


def network_inputs(network: Any) -> dict[str, Shape]:
    """Name to shape of every input of an ``INetworkDefinition``; -1 is an axis that varies."""
    found = [network.get_input(index) for index in range(network.num_inputs)]
    return {str(tensor.name): tuple(int(size) for size in tensor.shape) for tensor in found}


def profiles_for(inputs: Mapping[str, Shape], signature: Signature, target: Target) -> tuple[Profile, ...]:
    """What the engine is to be built for; none where no axis varies.

    The option ``profiles``, else each axis by ``target.batch`` (the samples) or ``target.ranges``. Raises UsageError, naming
    the input and the axis, for one without a size and for a profile that does not fit the network or the ranges.
    """
    asked = asked_profiles(target)
    if not any(-1 in shape for shape in inputs.values()):
        for index, profile in enumerate(asked):
            _require_fits(f"target {target.name}: profiles[{index}]", profile, inputs)
        return ()
    if asked:
        for index, profile in enumerate(asked):
            place = f"target {target.name}: profiles[{index}]"
            _require_fits(place, profile, inputs)
            _require_complete(place, profile, inputs)
            _require_equal_axes(place, profile, signature)
            _require_within(place, profile, signature, target)
        return asked
    return (_from_axes(inputs, signature, target),)


def add_profiles(builder: Any, config: Any, profiles: Sequence[Profile]) -> None:
    """Give the profiles to the library. Raises BackendFault where it refuses one."""
    for index, profile in enumerate(profiles):
        made = builder.create_optimization_profile()
        try:
            for name, shapes in profile.items():
                made.set_shape(name, *shapes)
        except (ValueError, RuntimeError) as error:  # what pybind11 makes of the library's refusal
            raise BackendFault(f"optimization profile {index}: TensorRT refuses it: {error}") from error
        if config.add_optimization_profile(made) < 0:
            raise BackendFault(f"optimization profile {index}: TensorRT refuses it: {_shown(profile)}")


def _from_axes(inputs: Mapping[str, Shape], signature: Signature, target: Target) -> Profile:
    samples = None if target.batch is None else batch_axis(signature, target.batch)
    specs = {spec.name: spec for spec in signature.inputs}
    found: dict[str, tuple[Shape, Shape, Shape]] = {}
    for name, shape in inputs.items():
        if -1 not in shape:
            continue
        sizes = [
            (size, size, size) if size >= 0 else _range(name, _axis(specs.get(name), place), target, samples, inputs)
            for place, size in enumerate(shape)
        ]
        least, usual, greatest = (tuple(each[k] for each in sizes) for k in range(3))
        found[name] = (least, usual, greatest)
    return found


def _axis(spec: TensorSpec | None, place: int) -> str:
    axis = spec.shape[place] if spec is not None and place < len(spec.shape) else place
    return str(axis)


def _range(name: str, axis: str, target: Target, samples: str | None, inputs: Mapping[str, Shape]) -> tuple[int, int, int]:
    given = target.ranges.get(axis)
    if target.batch is not None and axis == samples:
        if given is not None and not given[0] <= target.batch <= given[2]:
            raise UsageError(
                f"target {target.name}: input {name}, axis {axis}: batch {target.batch} is outside the range {given[0]} to"
                f" {given[2]} of the recipe's input; change one of them"
            )
        return (target.batch, target.batch, target.batch)
    if given is None:
        raise UsageError(
            f"target {target.name}: input {name}, axis {axis} varies, and TensorRT builds for a range: put"
            f" `dynamic: {{{axis}: {{min: 1, opt: 1, max: 8}}}}` on the recipe's input {name}, or, for a model that is an .onnx"
            f" file, set the option `profiles: [{{{_example(inputs)}}}]`; with your sizes"
        )
    least, usual, greatest = given
    if not 1 <= least <= usual <= greatest <= MOST:
        raise UsageError(
            f"target {target.name}: input {name}, axis {axis}: found min {least}, opt {usual}, max {greatest};"
            f" allowed: 1 <= min <= opt <= max <= {MOST}"
        )
    return given


def _require_fits(place: str, profile: Profile, inputs: Mapping[str, Shape]) -> None:
    for name, shapes in profile.items():
        if name not in inputs:
            raise UsageError(f"{place}: the model has no input {name!r}; it has {', '.join(inputs)}")
        network = inputs[name]
        for word, shape in zip(("min", "opt", "max"), shapes, strict=True):
            if len(shape) != len(network):
                raise UsageError(
                    f"{place}: input {name}: {word} has {len(shape)} axes, the model's has {len(network)}: {_x(network)}"
                )
            for axis, (size, fixed) in enumerate(zip(shape, network, strict=True)):
                if fixed >= 0 and size != fixed:
                    raise UsageError(
                        f"{place}: input {name}, axis {axis}: {word} is {size}, and the model has {fixed} there; write {fixed}"
                    )


def _require_complete(place: str, profile: Profile, inputs: Mapping[str, Shape]) -> None:
    for name, shape in inputs.items():
        if -1 in shape and name not in profile:
            raise UsageError(f"{place}: input {name} varies ({_x(shape)}) and has no entry; give its min, opt and max")


def _require_equal_axes(place: str, profile: Profile, signature: Signature) -> None:
    """An axis of one name has one size in every input, so its ranges must agree."""
    first: dict[str, tuple[str, tuple[int, ...]]] = {}
    for spec in signature.inputs:
        for index, axis in enumerate(spec.shape):
            if isinstance(axis, int) or spec.name not in profile:
                continue
            sizes = tuple(shape[index] for shape in profile[spec.name])
            where, other = first.setdefault(axis, (spec.name, sizes))
            if sizes != other:
                raise UsageError(
                    f"{place}: axis {axis} is {_range_text(sizes)} in input {spec.name} and {_range_text(other)} in input"
                    f" {where}; give the same to both"
                )


def _require_within(place: str, profile: Profile, signature: Signature, target: Target) -> None:
    """What the recipe's input gives as the range of an axis is the whole of it; profiles divide it up."""
    for spec in signature.inputs:
        for index, axis in enumerate(spec.shape):
            given = target.ranges.get(str(axis))
            if given is None or isinstance(axis, int) or spec.name not in profile:
                continue
            sizes = tuple(shape[index] for shape in profile[spec.name])
            if sizes[0] < given[0] or sizes[2] > given[2]:
                raise UsageError(
                    f"{place}: input {spec.name}, axis {axis}: {_range_text(sizes)} is outside the range {given[0]} to"
                    f" {given[2]} of the recipe's input; change one of them"
                )


def _example(inputs: Mapping[str, Shape]) -> str:
    """An entry of the option profiles for the inputs that vary, to copy and change."""
    parts = []
    for name, shape in inputs.items():
        if -1 in shape:
            least, greatest = ([other if size < 0 else size for size in shape] for other in (1, 8))
            parts.append(f"{name}: {{min: {least}, opt: {least}, max: {greatest}}}")
    return ", ".join(parts)


def _range_text(sizes: Sequence[int]) -> str:
    return "/".join(map(str, sizes))


def _x(shape: Sequence[int]) -> str:
    return "x".join("?" if size < 0 else str(size) for size in shape)


def _shown(profile: Profile) -> str:
    return ", ".join(f"{name} {' to '.join(_x(shape) for shape in shapes)}" for name, shapes in profile.items())
