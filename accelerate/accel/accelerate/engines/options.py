"""What a TensorRT target may ask for, and what was removed and by what it is replaced. Imports no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from accel.accelerate.engines.editions import EDITIONS, Edition, lacking
from accel.accelerate.options import Choice, Count, Flag, Option
from accel.accelerate.options import check as check_common
from accel.errors import UsageError
from accel.model import Target

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""Input to its least, usual and greatest shape."""

MOST = (1 << 31) - 1
"""The greatest size of an axis; TensorRT-RTX 1.7.1 cuts some greater ones off without a word."""
_MOST_MB = 1 << 30
_LEVELS = range(6)
_BUILD: Mapping[str, tuple[Option | None, Any]] = {  # option to what it may be (None: checked below) and its default
    "library": (Choice(("auto", "tensorrt", "tensorrt-rtx")), "auto"),
    "profiles": (None, []),
    "compute_capabilities": (None, []),
    "timing_cache": (Flag(), None),  # None: on, where the library has one
    "workspace_mb": (Count(), None),  # None: as much as the GPU has
    "builder_optimization_level": (None, None),  # None: the library's own, 3
    "hardware_compatibility": (Choice(("none", "ampere_plus", "same_compute_capability")), "none"),
    "version_compatible": (Flag(), False),
    "weight_streaming": (Flag(), False),
    "sparse_weights": (Flag(), False),
    "refittable": (Flag(), False),
    "tf32": (Flag(), False),  # the libraries' own default is true, and then FP32 convolutions are rounded to 10 bits
}
_RUN: Mapping[str, tuple[Option | None, Any]] = {
    "cuda_graphs": (Flag(), True),
    "streams": (Count(), 1),
}
_LIMITS: Mapping[str, tuple[Option | None, Any]] = {"build_timeout_s": (Count(), None)}
_ALL = {**_BUILD, **_RUN, **_LIMITS}

_CAST = "the types are the graph's: put `- type: cast, dtype: {0}` into the passes and set the target's precision to {0}"
_QUANTIZE = "INT8 comes from Q/DQ in the graph: put `- type: quantize` (static or qat) into the passes"
_TYPED = "every network is strongly typed, and runs each layer in the type that the graph gives it; leave the option out"
_DATA = f"{_QUANTIZE}; its calibration data is the recipe's data.calibration"
_SHAPES = "give `dynamic: {batch: {min, opt, max}}` on the recipe's input, or the option `profiles`"
REMOVED: Mapping[str, str] = {
    "fp16": _CAST.format("fp16"),
    "bf16": _CAST.format("bf16"),
    "half": _CAST.format("fp16"),
    "int8": _QUANTIZE,
    "fp8": "FP8 comes from Q/DQ in the graph: give an ONNX file that has it",
    "int4": "INT4 comes from Q/DQ in the graph: give an ONNX file that has it",
    "fp4": "FP4 comes from Q/DQ in the graph: give an ONNX file that has it",
    "best": f"{_CAST.format('fp16')}; {_QUANTIZE}",
    "precision": "it is a key of the target, not an option: `precision: fp16`",
    "calibrator": _DATA,
    "int8_calibrator": _DATA,
    "calib": _DATA,
    "calibration_cache": _DATA,
    "calibration_profile": _DATA,
    "dynamic_range": _DATA,
    "quantization_flag": _QUANTIZE,
    "precision_constraints": _TYPED,
    "obey_precision_constraints": _TYPED,
    "prefer_precision_constraints": _TYPED,
    "strict_types": _TYPED,
    "layer_precisions": _TYPED,
    "layer_output_types": _TYPED,
    "strongly_typed": _TYPED,
    "weakly_typed": _TYPED,
    "direct_io": _TYPED,
    "algorithm_selector": "the same choice of kernels in every build comes from `timing_cache`",
    "max_batch_size": _SHAPES,
    "explicit_batch": "every network has its batch as an axis; leave the option out",
    "min_shapes": _SHAPES,
    "opt_shapes": _SHAPES,
    "max_shapes": _SHAPES,
    "shapes": _SHAPES,
    "workspace": "it is called `workspace_mb`",
    "max_workspace_size": "it is called `workspace_mb`",
    "sparsity": "it is called `sparse_weights`",
    "refit": "it is called `refittable`",
    "timing_cache_file": "it is called `timing_cache`, and the file lies in the recipe's cache_dir",
}
"""Options of TensorRT up to 10, of trtexec and of others, to what replaced them."""


@dataclass(frozen=True)
class RunSettings:
    """``cuda_graphs``: inference is captured once and replayed. ``streams``: inferences at a time, whose throughput is told."""

    cuda_graphs: bool
    streams: int


def check(target: Target) -> None:
    """Raise UsageError for an option, device or precision that TensorRT, or the library that is asked for, does not have."""
    place = f"target {target.name}: backend {target.backend}"
    for name in target.options:
        if name not in _ALL and name.lower() in REMOVED:
            raise UsageError(f"{place} has no option {name!r}: {REMOVED[name.lower()]}")
    listed = {name: option or Flag() for name, (option, _) in _ALL.items()}
    simple = {name: value for name, value in target.options.items() if name not in _ALL or _ALL[name][0] is not None}
    check_common(
        replace(target, options=simple),
        devices=("gpu",),
        precisions=("fp32", "fp16", "bf16"),
        why_precision="INT8 comes from a quantize pass",
        options=listed,
    )
    _check_level(place, target.options.get("builder_optimization_level"))
    if target.options.get("workspace_mb", 0) > _MOST_MB:
        raise UsageError(f"{place}: option workspace_mb is {target.options['workspace_mb']}; it must be at most {_MOST_MB}")
    profiles(target)
    rows = _rows(str(target.options.get("library", "auto")))
    _check_library(place, rows, target.options)
    _check_capabilities(place, rows, capabilities(target))


def require_had(row: Edition, target: Target) -> None:
    """Raise UsageError for an option that ``row``, the library that was chosen, does not have."""
    _check_library(f"target {target.name}: backend {target.backend}", [row], target.options)


def build_settings(target: Target) -> dict[str, Any]:
    """What decides the engine besides the ONNX file and the library, JSON-ready, every default written out."""
    settings = {name: target.options.get(name, default) for name, (_, default) in _BUILD.items()}
    return settings | {"profiles": profile_records(profiles(target)), "compute_capabilities": list(capabilities(target))}


def profile_records(found: Sequence[Profile]) -> list[dict[str, dict[str, list[int]]]]:
    """Profiles as the option ``profiles`` has them."""
    words = ("min", "opt", "max")
    return [
        {name: {word: list(shape) for word, shape in zip(words, shapes, strict=True)} for name, shapes in profile.items()}
        for profile in found
    ]


def run_settings(target: Target) -> RunSettings:
    """How the engine is run, every default filled in."""
    return RunSettings(**{name: target.options.get(name, default) for name, (_, default) in _RUN.items()})


def profiles(target: Target) -> tuple[Profile, ...]:
    """The option ``profiles``: least, usual and greatest shape of each input. Raises UsageError. Empty where it is left out."""
    place = f"target {target.name}: backend {target.backend}: option profiles"
    found = target.options.get("profiles")
    if found is None:
        return ()
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise UsageError(f"{place} is {found!r}; it must be a list of `input: {{min: [..], opt: [..], max: [..]}}`")
    return tuple(_profile(f"{place}[{index}]", entry) for index, entry in enumerate(found))


def capabilities(target: Target) -> tuple[str, ...]:
    """The option ``compute_capabilities`` as ``"8.6"``, in its order. Raises UsageError. Empty where it is left out."""
    place = f"target {target.name}: backend {target.backend}: option compute_capabilities"
    found = target.options.get("compute_capabilities")
    if found is None:
        return ()
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise UsageError(f"{place} is {found!r}; it must be a list such as [8.6, 8.9]")
    names = tuple(_capability(place, value) for value in found)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{place} has {twice} twice; name each once")
    return names


def _capability(place: str, value: Any) -> str:
    text = f"{float(value)}" if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise UsageError(f"{place} holds {value!r}; it must be a list such as [8.6, 8.9]")
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        digits = text.lower().removeprefix("sm").lstrip("_").removeprefix("compute_")
        meant = f" (did you mean {digits[:-1]}.{digits[-1]}?)" if digits.isdecimal() and len(digits) > 1 else ""
        raise UsageError(f"{place} holds {value!r}{meant}; it must be a list such as [8.6, 8.9]")
    return text


def _profile(place: str, entry: Any) -> Profile:
    if not isinstance(entry, Mapping) or not entry:
        raise UsageError(f"{place} is {entry!r}; it must be `input: {{min: [..], opt: [..], max: [..]}}`")
    return {str(name): _shapes(f"{place}: input {name}", shapes) for name, shapes in entry.items()}


def _shapes(place: str, entry: Any) -> tuple[Shape, Shape, Shape]:
    if not isinstance(entry, Mapping) or set(entry) != {"min", "opt", "max"}:
        raise UsageError(f"{place} is {entry!r}; it must have min, opt and max, each a shape such as [1, 3, 224, 224]")
    least, usual, greatest = (_shape(f"{place}: {name}", entry[name]) for name in ("min", "opt", "max"))
    if not len(least) == len(usual) == len(greatest):
        raise UsageError(
            f"{place}: min, opt and max have {len(least)}, {len(usual)} and {len(greatest)} axes; give the same to each"
        )
    for axis, (low, middle, high) in enumerate(zip(least, usual, greatest, strict=True)):
        if not low <= middle <= high:
            raise UsageError(f"{place}: axis {axis}: found min {low}, opt {middle}, max {high}; allowed: min <= opt <= max")
    return least, usual, greatest


def _shape(place: str, value: Any) -> Shape:
    whole = isinstance(value, Sequence) and not isinstance(value, str)
    if not whole or not all(isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= MOST for size in value):
        raise UsageError(f"{place} is {value!r}; it must be a list of whole numbers, each from 1 to {MOST}")
    return tuple(value)


def _check_level(place: str, level: Any) -> None:
    if level is not None and (not isinstance(level, int) or isinstance(level, bool) or level not in _LEVELS):
        raise UsageError(f"{place}: option builder_optimization_level is {level!r}; it must be a whole number from 0 to 5")


def _rows(library: str) -> list[Edition]:
    return [row for row in EDITIONS if library in ("auto", row.library)]


def _check_library(place: str, rows: Sequence[Edition], options: Mapping[str, Any]) -> None:
    """Raise UsageError where no row has all that is asked."""
    missing = [(row, lacking(row, options)) for row in rows]
    if any(not found for _, found in missing):
        return
    said = dict.fromkeys(f"{row.library} has no {name}: {why}" for row, found in missing for name, why in found.items())
    raise UsageError(f"{place}: {'; '.join(said)}")


def _undotted(name: str, known: Sequence[str]) -> str:
    """What 89 was meant to be, which reads as 89.0."""
    whole = name.removesuffix(".0")
    meant = f"{whole[:-1]}.{whole[-1]}"
    return f" (did you mean {meant}?)" if meant in known else ""


def _check_capabilities(place: str, rows: Sequence[Edition], names: Sequence[str]) -> None:
    known = list(dict.fromkeys(name for row in rows for name in row.capabilities))
    for name in names:
        if name not in known:
            raise UsageError(
                f"{place}: option compute_capabilities holds {name}{_undotted(name, known)}; TensorRT-RTX builds for"
                f" {', '.join(known)}; for another GPU leave the option out and build on it, with `library: tensorrt`"
            )
