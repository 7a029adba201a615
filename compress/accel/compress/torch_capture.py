"""What torch.export needs to be told, and what its exceptions mean: shared by every pass that captures a module."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from accel.errors import PassFault
from accel.model import Signature


def dynamic_shapes(signature: Signature, what: str) -> tuple[dict[int, Any], ...] | None:
    """``dynamic_shapes`` of torch.export for the axes that ``signature`` names; None where every axis is fixed."""
    dims: dict[str, Any] = {}
    shapes = []
    for spec in signature.inputs:
        named = {index: axis for index, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for axis in named.values():
            if not axis.isidentifier():
                raise PassFault(f"{what}: input {spec.name!r}: axis name {axis!r} is not a word; use letters, digits and _")
            dims.setdefault(axis, torch.export.Dim(axis))
        shapes.append({index: dims[axis] for index, axis in named.items()})
    return tuple(shapes) if dims else None


def export_fault(error: BaseException, module: nn.Module, what: str) -> PassFault:
    """What went wrong, in which module, and what to do; from the frames that the exception passed through."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    place = _place(chain, module)
    text = "\n".join(str(one) for one in chain)
    unsupported = re.search(r"OpOverload\(op='([\w.]+)'", text)
    if type(error).__name__ == "ConversionError" or unsupported:
        operator = unsupported[1] if unsupported else _first_line(chain[-1])
        return PassFault(
            f"{what}: {place}: ONNX has no translation for {operator}; "
            "replace that operator in forward, or move it out of the model into pre- or postprocessing"
        )
    names = {type(one).__name__ for one in chain}
    if "GuardOnDataDependentSymNode" in names or "data-dependent" in text:
        return PassFault(
            f"{what}: {place}: forward decides on the values of a tensor (an if, a loop, .item(), a data-dependent "
            "shape), which torch.export cannot follow; use torch.where or torch.cond, or decide outside the model"
        )
    if "Constraints violated" in text or "specialized" in text:
        return PassFault(
            f"{what}: {place}: an axis that the signature lets vary is fixed in forward: {_first_line(chain[-1])}; "
            "give that axis a number in inputs[].shape, or write forward with x.shape instead of numbers"
        )
    return PassFault(f"{what}: {place}: torch.export failed: {type(chain[-1]).__name__}: {_first_line(chain[-1])}")


def _place(chain: Sequence[BaseException], module: nn.Module) -> str:
    paths = {id(part): name for name, part in module.named_modules()}
    found: str | None = None
    for error in chain:
        trace = error.__traceback__
        while trace is not None:
            local = trace.tb_frame.f_locals
            part, node = local.get("self"), local.get("node")
            if id(part) in paths and isinstance(part, nn.Module):
                found = _called(paths[id(part)], type(part).__name__)
            if isinstance(node, torch.fx.Node) and node.meta.get("nn_module_stack"):
                path, kind = list(node.meta["nn_module_stack"].values())[-1]
                found = _called(path, str(getattr(kind, "__name__", kind)).rpartition(".")[2])
            trace = trace.tb_next
        if found is not None:
            return found
    return f"the model ({type(module).__name__})"


def _called(path: str, kind: str) -> str:
    return f"module {path!r} ({kind})" if path else f"the model's own forward ({kind})"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
