"""Core of ``export_onnx``: capture with torch.export, name, strip, write, compare with eager."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from accel import onnx_file
from accel.compress.module_names import name_by_module_, name_ends_
from accel.compress.onnx_writing import drop_unused_initializers_, drop_unused_opsets_, strip_metadata_, write
from accel.compress.quiet_library import quiet
from accel.compress.same_outputs import batch_axis, batch_sizes, example_inputs, require_same, run
from accel.contracts import Job
from accel.errors import ModelFault, PassFault
from accel.model import OnnxModel, Signature, TorchModel

Array = NDArray[Any]
TRACED_BATCH = 2
"""The batch size the module is traced with: 1 would be taken for a constant."""


def export(model: TorchModel, job: Job, *, opset: int, rtol: float, atol: float) -> OnnxModel:
    """See ``ExportOnnx``. The module is as it was afterwards: training flags, parameters, hooks."""
    with _evaluating(model.module) as was_training:
        proto = _converted(model, job, opset)
        path = job.folder / "model.onnx"
        write(proto, path)
        names = [output.name for output in proto.graph.output]
        _require_same_as_eager(model, job, path, names, rtol, atol)
    notes = ["the module was in training mode; exported in evaluation mode"] if was_training else []
    outputs = onnx_file.signature(proto).outputs
    signature = Signature(model.signature.inputs, outputs)
    return OnnxModel(path=path, signature=signature).noting(*notes)


def _converted(model: TorchModel, job: Job, opset: int) -> onnx.ModelProto:
    inputs = tuple(_tensors(example_inputs(model.signature, job, TRACED_BATCH), model.signature))
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                model.module,
                inputs,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=_dynamic_shapes(model.signature),
                verbose=False,
            )
    except Exception as error:  # torch.export raises whatever the user's forward, dynamo and fx raise
        raise _fault(error, model.module) from error
    assert program is not None  # torch.onnx.export gives None only for dynamo=False
    proto = program.model_proto
    _require_opset(proto, opset)
    _require_signature(proto, model.signature)
    name_by_module_(proto, model.module)
    name_ends_(proto, [spec.name for spec in model.signature.inputs], [spec.name for spec in model.signature.outputs])
    strip_metadata_(proto)
    drop_unused_initializers_(proto)
    drop_unused_opsets_(proto)
    return proto


def _dynamic_shapes(signature: Signature) -> tuple[dict[int, Any], ...] | None:
    dims: dict[str, Any] = {}
    shapes = []
    for spec in signature.inputs:
        named = {index: axis for index, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for axis in named.values():
            if not axis.isidentifier():
                raise PassFault(
                    f"export_onnx: input {spec.name!r}: axis name {axis!r} is not a word; use letters, digits and _"
                )
            dims.setdefault(axis, torch.export.Dim(axis))
        shapes.append({index: dims[axis] for index, axis in named.items()})
    return tuple(shapes) if dims else None


def _tensors(inputs: Mapping[str, Array], signature: Signature) -> Iterator[torch.Tensor]:
    for spec in signature.inputs:
        yield torch.from_numpy(np.array(inputs[spec.name]))  # a copy: a module may write into its input


def _require_opset(proto: onnx.ModelProto, opset: int) -> None:
    got = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    if got != opset:
        raise PassFault(f"export_onnx: this model could not be converted to opset {opset}; set opset: {got}")


def _require_signature(proto: onnx.ModelProto, signature: Signature) -> None:
    if len(proto.graph.input) != len(signature.inputs):
        raise PassFault(
            f"export_onnx: the file takes {len(proto.graph.input)} inputs, the signature names {len(signature.inputs)}; "
            "list inputs in the order of forward's arguments, those with defaults too if they are tensors"
        )
    for value, spec in zip(proto.graph.input, signature.inputs, strict=True):
        sizes = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for size, axis in zip(sizes, spec.shape, strict=True):
            # torch.onnx.export follows torch.export's "suggested fixes", which can be to make the axis a constant.
            if isinstance(axis, str) and isinstance(size, int):
                raise PassFault(
                    f"export_onnx: input {spec.name!r}: axis {axis!r} cannot vary, because forward only works for size {size}; "
                    "write forward with x.shape instead of numbers, or give the axis a number in inputs[].shape"
                )
    outputs = len(proto.graph.output)
    if signature.outputs and outputs != len(signature.outputs):
        raise PassFault(f"export_onnx: the module gives {outputs} outputs, the signature names {len(signature.outputs)}")


def _require_same_as_eager(model: TorchModel, job: Job, path: Any, names: Sequence[str], rtol: float, atol: float) -> None:
    for batch in batch_sizes(model.signature):
        inputs = example_inputs(model.signature, job, batch)
        with torch.no_grad():
            leaves = pytree.tree_leaves(model.module(*_tensors(inputs, model.signature)))
        reference = [np.asarray(leaf.detach().cpu().numpy()) for leaf in leaves if isinstance(leaf, torch.Tensor)]
        for name, value in zip(names, reference, strict=False):
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ModelFault(
                    f"export_onnx: PyTorch's own output {name!r} holds NaN or Inf; check the weights and the input"
                )
        size = f" at {batch_axis(model.signature)} size {batch}" if batch else ""
        require_same(
            names,
            reference,
            run(path, inputs, job),
            rtol=rtol,
            atol=atol,
            what=f"export_onnx: the ONNX file does not compute what PyTorch does{size}",
            way_out="look for sizes that forward computes in Python and for randomness, or widen check.atol and check.rtol",
        )


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[bool]:
    """Evaluation mode for the block; gives whether any part was in training mode, and restores each part's flag."""
    flags = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield any(flag for _, flag in flags)
    finally:
        for part, flag in flags:
            part.training = flag


def _fault(error: BaseException, module: nn.Module) -> PassFault:
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
            f"export_onnx: {place}: ONNX has no translation for {operator}; "
            "replace that operator in forward, or move it out of the model into pre- or postprocessing"
        )
    names = {type(one).__name__ for one in chain}
    if "GuardOnDataDependentSymNode" in names or "data-dependent" in text:
        return PassFault(
            f"export_onnx: {place}: forward decides on the values of a tensor (an if, a loop, .item(), a data-dependent "
            "shape), which torch.export cannot follow; use torch.where or torch.cond, or decide outside the model"
        )
    if "Constraints violated" in text or "specialized" in text:
        return PassFault(
            f"export_onnx: {place}: an axis that the signature lets vary is fixed in forward: {_first_line(chain[-1])}; "
            "give that axis a number in inputs[].shape, or write forward with x.shape instead of numbers"
        )
    return PassFault(f"export_onnx: {place}: torch.export failed: {type(chain[-1]).__name__}: {_first_line(chain[-1])}")


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
