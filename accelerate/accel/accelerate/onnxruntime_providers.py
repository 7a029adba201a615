"""Execution providers of ONNX Runtime: what each is asked for, why one did not load, and which nodes it runs.

A provider that is in the build but cannot be loaded is one line in the library's log, and everything runs on the CPU; a node
that a provider does not take goes to the next one without a word. Here both are errors, or notes where they are allowed.
Imports neither the library nor anything heavy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from accel.accelerate import cuda_driver
from accel.errors import BackendFault, MissingBackend, UsageError
from accel.model import Target

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
RTX = "NvTensorRTRTXExecutionProvider"
OF_DEVICE: Mapping[str, str] = {"cpu": CPU, "gpu": CUDA}
TELLS_NODES = "get_provider_graph_assignment_info"

# By default the CUDA provider multiplies FP32 in TF32: a mantissa of 10 bits (onnxruntime.ai, CUDA provider, use_tf32). Engines
# from a cache would be reported as compiled in no time; the environment can switch it on, but what is given here is stronger.
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    CUDA: {"use_tf32": "0"},
    TENSORRT: {"trt_engine_cache_enable": "0", "trt_timing_cache_enable": "0"},
}
_LIBRARIES = {
    CUDA: "onnxruntime_providers_cuda",
    TENSORRT: "onnxruntime_providers_tensorrt",
    RTX: "onnxruntime_providers_nv_tensorrt_rtx",
}
_COMPILING = frozenset(
    {TENSORRT, RTX, "OpenVINOExecutionProvider", "MIGraphXExecutionProvider", "QNNExecutionProvider", "CoreMLExecutionProvider"}
)
_NAMED = 5


@dataclass(frozen=True)
class Asked:
    """What a session is to run on. ``place``: the file's name; ``folder``: where the library keeps the providers'."""

    providers: tuple[str, ...]
    allow_fallback: bool
    place: str
    folder: Path


def names(target: Target) -> tuple[str, ...]:
    """The providers asked for, in order: each gets the nodes that those before it do not take."""
    return tuple(target.options.get("execution_providers") or (OF_DEVICE[target.device],))


def settings(target: Target) -> list[list[Any]]:
    """Name and options of each provider, as ``InferenceSession`` takes them."""
    given = target.options.get("provider_options", {})
    return [
        [name, {**_OPTIONS.get(name, {}), **{key: _text(value) for key, value in given.get(name, {}).items()}}]
        for name in names(target)
    ]


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def check(target: Target) -> None:
    """Raise UsageError for providers, or options of them, that cannot be."""
    place = f"target {target.name}: backend onnxruntime: option"
    asked = names(target)
    for provider in asked:
        if not provider.endswith("ExecutionProvider"):
            near = [each for each in (CPU, CUDA, TENSORRT, RTX) if each.lower() == f"{provider.lower()}executionprovider"]
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UsageError(f"{place} execution_providers holds {provider!r}{hint}; the names end in ExecutionProvider")
    if target.device != "cpu" and set(asked) == {CPU}:
        raise UsageError(f"target {target.name}: device is {target.device}, but execution_providers names only {CPU}")
    if {TENSORRT, RTX} <= set(asked):
        raise UsageError(f"{place} execution_providers names {TENSORRT} and {RTX}; a session takes one of them: leave one out")
    _check_options(f"{place} provider_options", target.options.get("provider_options", {}), asked)


def _check_options(place: str, given: object, asked: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise UsageError(f"{place} is {given!r}; it must map a provider to its options: {{{CUDA}: {{device_id: 1}}}}")
    for provider, options in given.items():
        if provider not in asked:
            near = get_close_matches(str(provider), asked, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UsageError(
                f"{place} names {provider!r}{hint}, which is not asked for; this target runs on {', '.join(asked)}: "
                "name it in execution_providers too"
            )
        if not isinstance(options, Mapping):
            raise UsageError(f"{place}: {provider} is {options!r}; it must map options to values")
        for key, value in options.items():
            if not isinstance(key, str) or not isinstance(value, str | int | float):
                raise UsageError(f"{place}: {provider}: {key!r} is {value!r}; it must be a word, a number, true or false")


def notes(target: Target, loaded: Sequence[str]) -> tuple[str, ...]:
    """What is to be said about the providers of ``target``, of which a session has ``loaded``, whatever they run."""
    said: tuple[str, ...] = ()
    for name, options in target.options.get("provider_options", {}).items():
        said += (f"{name} was given {', '.join(f'{key}={_text(value)}' for key, value in options.items())}",)
    for name in (TENSORRT, RTX):
        if name in loaded:
            # microsoft/onnxruntime#26029: the provider has no option for it.
            said += (f"{name} may multiply FP32 in TF32; only NVIDIA_TF32_OVERRIDE=0 in the environment turns it off",)
    if target.device == "gpu" and set(loaded) != {CPU}:
        said += ("latency includes the copies of inputs and outputs to and from the GPU",)
    return said


def compiling(providers: Sequence[str]) -> list[str]:
    """Those of ``providers`` that make engines of their own, of which ONNX Runtime tells nothing and writes no graph."""
    return [provider for provider in providers if provider in _COMPILING]


def why_not(provider: str, folder: Path) -> str | None:
    """Why ``provider`` cannot run here, as far as it can be told; ask only after a session was tried.

    The dynamic linker says what is missing. Before a session, loading the provider's library would break it: it takes its
    host from the library that loads it first.
    """
    library = _LIBRARIES.get(provider)
    if library is None:
        return None
    for path in (folder / f"lib{library}.so", folder / f"{library}.dll"):
        if path.is_file():
            try:
                ctypes.CDLL(str(path))
            except OSError as error:
                return f"{' '.join(str(error).split())}: install the CUDA, cuDNN or TensorRT that this build needs"
    return cuda_driver.problem()


def held_against(session: Any, asked: Asked, why: Callable[[str, Path], str | None] = why_not) -> tuple[str, ...]:
    """Notes on what runs where. Raises MissingBackend for a provider that did not load, BackendFault for nodes that stray."""
    loaded = session.get_providers()
    absent = [provider for provider in asked.providers if provider not in loaded]
    if absent:
        reasons = "; ".join(
            f"{provider} is in this build of onnxruntime but was not loaded"
            f" ({why(provider, asked.folder) or 'the library does not say why; look at what it needs on onnxruntime.ai'})"
            for provider in absent
        )
        complaint = f"{reasons}, and the session runs on {', '.join(loaded)}"
        if not asked.allow_fallback:
            raise MissingBackend(f"{asked.place}: {complaint}; to run there all the same, set options.allow_fallback: true")
        return (f"{complaint} (allowed)",)
    if not hasattr(session, TELLS_NODES):
        return ("this release of onnxruntime does not tell which nodes run where",)
    return _nodes_held_against(_nodes(session), asked)


def _nodes(session: Any) -> dict[str, list[str]]:
    """Provider to the names of its nodes."""
    found: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend(node.name or node.op_type for node in part.get_nodes())
    return found


def _nodes_held_against(nodes: Mapping[str, list[str]], asked: Asked) -> tuple[str, ...]:
    first = asked.providers[0]
    strays = [name for provider, found in nodes.items() if provider not in asked.providers for name in found]
    complaint = ""
    if first != CPU and first not in nodes:  # those after it only get what it leaves
        complaint = f"{first} asked for, but no node runs there; all run on {', '.join(nodes)}"
    elif strays:
        complaint = f"{len(strays)} nodes do not run on {', '.join(asked.providers)}: {_shown(strays)}"
    if complaint and not asked.allow_fallback:
        raise BackendFault(
            f"{asked.place}: onnxruntime: {complaint}; name {CPU} in options.execution_providers for nodes that may run there, "
            "or set options.allow_fallback: true"
        )
    if complaint:
        return (f"{complaint} (allowed)",)
    total = sum(map(len, nodes.values()))
    return tuple(
        f"{len(found)} of {total} nodes run on {provider}: {_shown(found)}"
        for provider, found in nodes.items()
        if provider != first
    )


def _shown(nodes: Sequence[str]) -> str:
    return ", ".join(nodes[:_NAMED]) + (", ..." if len(nodes) > _NAMED else "")
