"""What each module of a network makes, by the names that its exported ONNX nodes have: ``<module path>/<operator>``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accel.contracts import Array


@dataclass
class _Call:
    path: str
    value: Tensor
    source: int | None
    """The call whose result went in."""


def node_values(module: nn.Module, inputs: Mapping[str, Array], nodes: Sequence[str]) -> dict[str, Array]:
    """``nodes``: of the exported file, in its order. Those of modules that hold no other modules get what the module made.

    Of several nodes of one module the last has its result. A module without a node (a batch norm, folded into the convolution
    before it; a dropout) gives its result to the module before it. ``inputs``: by name, in the order in which ``forward`` takes
    them. ``module`` is left as it was.
    """
    calls = _calls(module, inputs)
    by_path: dict[str, list[str]] = {}
    for node in nodes:
        by_path.setdefault(node.rpartition("/")[0], []).append(node)
    for call in calls:
        if call.path not in by_path:
            origin = _origin(calls, call, by_path)
            if origin is not None:
                origin.value = call.value
    found: dict[str, Array] = {}
    for path, own in by_path.items():
        of_path = [call for call in calls if call.path == path]
        if of_path and len(own) % len(of_path) == 0:
            each = len(own) // len(of_path)
            for index, call in enumerate(of_path):
                found[own[each * (index + 1) - 1]] = call.value.numpy()
    return {node: found[node] for node in nodes if node in found}


def _origin(calls: Sequence[_Call], call: _Call, by_path: Mapping[str, Any]) -> _Call | None:
    while call.source is not None:
        call = calls[call.source]
        if call.path in by_path:
            return call
    return None


def _calls(module: nn.Module, inputs: Mapping[str, Array]) -> list[_Call]:
    calls: list[_Call] = []
    kept: list[Tensor] = []  # so that no tensor gets the address of another
    made_by: dict[int, int] = {}

    def hook(path: str) -> Any:
        def done(_: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            if isinstance(result, Tensor) and result.is_floating_point():
                source = next((made_by[id(each)] for each in given if id(each) in made_by), None)
                calls.append(_Call(path, result.detach().clone().float(), source))
                made_by[id(result)] = len(calls) - 1
                kept.append(result)

        return done

    leaves = [(path, each) for path, each in module.named_modules() if path and not any(each.children())]
    handles = [each.register_forward_hook(hook(path)) for path, each in leaves]
    try:
        with torch.inference_mode():
            module(*(torch.from_numpy(array) for array in inputs.values()))
    finally:
        for handle in handles:
            handle.remove()
    return calls
