"""Core of ``export_onnx``: capture with torch.export, name, strip, write, compare with eager."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from accel import onnx_file
from accel.compress.export_onnx import DEFAULT_OPSET
from accel.compress.grouped_linear import GroupedLinear, grouped_layers, plain
from accel.compress.grouped_weights import store_in_blocks_
from accel.compress.module_names import name_by_module_, name_ends_
from accel.compress.onnx_writing import (
    BLOCK_OPSET,
    drop_unused_initializers_,
    drop_unused_opsets_,
    strip_metadata_,
    write,
)
from accel.compress.qat.module import INTEGER_BIAS, QuantizeAwareModule
from accel.compress.qat.pt2e_export import finish_
from accel.compress.qat.pt2e_graph import module_path
from accel.compress.quiet_library import quiet
from accel.compress.same_outputs import batch_axis, batch_sizes, example_inputs, require_same, run
from accel.compress.torch_capture import dynamic_shapes, export_fault
from accel.contracts import Job
from accel.errors import ModelFault, PassFault
from accel.model import OnnxModel, Signature, TorchModel

Array = NDArray[Any]
TRACED_BATCH = 2
"""The batch size the module is traced with: 1 would be taken for a constant."""
ROUNDINGS = 16 / 255
"""How far the outputs of an INT8 file may be from the fake-quantized module's, as a part of the largest: 16 of 255 steps.

Both round the same values but add in another order; where a sum falls between two integers one rounds it up, the other down
(ONNX Runtime's issue 32132), and each such step goes on through the layers behind it. Measured on untrained nets: 2.5 steps
with 57 convolutions, 6 in a transformer of 8 blocks. As far where weights alone are integers: ONNX Runtime rounds the
activations of a MatMulNBits to INT8, each group by itself.
"""


def export(model: TorchModel, job: Job, *, opset: int | None, rtol: float, atol: float, check: bool = True) -> OnnxModel:
    """See ``ExportOnnx``. The module is as it was afterwards: training flags, parameters, hooks.

    ``check=False`` leaves out the comparison with PyTorch: for files that are only timed.
    """
    with _evaluating(model.module) as was_training:
        grouped = grouped_layers(model.module)
        module = _exportable(model.module)
        quantized = hasattr(module, INTEGER_BIAS) or bool(grouped)
        proto = _converted(module, model.signature, job, _opset(opset, least=BLOCK_OPSET if grouped else 0))
        unused = _store_groups_(proto, grouped)
        path = job.folder / "model.onnx"
        write(proto, path)
        if check:
            names = [output.name for output in proto.graph.output]
            _require_same_as_eager(model, job, path, names, max(rtol, ROUNDINGS) if quantized else rtol, atol)
    notes = ["the module was in training mode; exported in evaluation mode"] if was_training else []
    notes += [f"{', '.join(unused)}: not in the file, which does not need the result"] if unused else []
    outputs = onnx_file.signature(proto).outputs
    signature = Signature(model.signature.inputs, outputs)
    return OnnxModel(path=path, signature=signature).noting(*notes)


def _opset(asked: int | None, least: int) -> int:
    if asked is not None and asked < least:
        raise PassFault(
            f"export_onnx: opset {asked} has no DequantizeLinear in blocks, which the weights of this model need; "
            f"set opset: {least} or leave it out"
        )
    return asked or max(DEFAULT_OPSET, least)


def _store_groups_(proto: onnx.ModelProto, layers: Mapping[str, GroupedLinear]) -> list[str]:
    """The weights of ``layers`` as the integers they are, in place; the paths of those that the file does not hold.

    PassFault where one is there as forward reads it, not as a product does: it would ship in float32 in silence.
    """
    unused = []
    for bits in sorted({layer.bits for layer in layers.values()}):
        found = {path: part.grouped() for path, part in layers.items() if part.bits == bits}
        unused += store_in_blocks_(proto, found, bits)
    for path in unused:
        weight = layers[path].weight.detach().cpu().numpy()
        for tensor in proto.graph.initializer:
            if list(tensor.dims) == list(weight.shape) and np.array_equal(onnx.numpy_helper.to_array(tensor), weight):
                raise PassFault(
                    f"export_onnx: {path}: forward uses its weight in another way than a linear layer does, so that it cannot "
                    "be stored as integers; name the layer in ignored_scope of the quantize pass"
                )
    return unused


def _exportable(module: nn.Module) -> nn.Module:
    """The module itself; the INT8 graph of one that was prepared for quantization-aware training; or, of one with weights in
    groups, a copy that has them in float32."""
    if grouped_layers(module):
        return plain(module)
    if not isinstance(module, QuantizeAwareModule):
        return module
    from accel.compress.qat.pt2e import converted  # torchao takes seconds; who made the module has it loaded

    return converted(module)


def _converted(module: nn.Module, signature: Signature, job: Job, opset: int) -> onnx.ModelProto:
    inputs = tuple(_tensors(example_inputs(signature, job, TRACED_BATCH), signature))
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=dynamic_shapes(signature, "export_onnx"),
                verbose=False,
            )
    except Exception as error:  # torch.export raises whatever the user's forward, dynamo and fx raise
        raise export_fault(error, module, "export_onnx") from error
    assert program is not None  # torch.onnx.export gives None only for dynamo=False
    proto = program.model_proto
    _require_opset(proto, opset)
    _require_signature(proto, signature)
    name_by_module_(proto, module, _captured_from(module))
    name_ends_(proto, [spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs])
    if hasattr(module, INTEGER_BIAS):
        finish_(proto, integer_bias=bool(getattr(module, INTEGER_BIAS)))
    strip_metadata_(proto)
    drop_unused_initializers_(proto)
    drop_unused_opsets_(proto)
    return proto


def _captured_from(module: nn.Module) -> set[str]:
    """Paths of the modules whose calls a graph module holds."""
    return {module_path(node) for node in module.graph.nodes} if isinstance(module, torch.fx.GraphModule) else set()


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
