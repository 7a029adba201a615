"""Core of quantization-aware training: the one file that imports torchao (its PT2E flow).

What torchao does here: fake quantizers and their observers, which of them are one object (``prepare``), and the final graph of
quantize and dequantize operators with integer weights (``convert_pt2e``). What it does not: capture and modes (``pt2e_graph``),
where to quantize (``pt2e_annotation``), and batch norms. Its own way with those (``prepare_qat_pt2e``) replaces each by a batch
norm with eps 1e-5 and momentum 0.1 whatever the network had, divides by gamma, which gives NaN where gamma is 0, and simulates
the fold with scaled weights. None of it is needed where a weight has a scale for each output channel: a positive factor for a
channel changes the channel's scale and no integer, so fake quantization of the plain weight, followed by the batch norm itself,
is the folded network (a negative factor flips signs, for which the symmetric range -127..127 has room).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from accel.compress.edits import add_edit_, edits_of
from accel.compress.grouped_linear import grouped_layers
from accel.compress.qat.module import CURRENT, INTEGER_BIAS, QuantizeAwareModule, fake_quantizers
from accel.compress.qat.pt2e_annotation import Plan, plan
from accel.compress.qat.pt2e_fold import fold_batch_norms_
from accel.compress.qat.pt2e_graph import attribute, captured
from accel.compress.quiet_library import quiet
from accel.compress.torch_capture import dynamic_shapes
from accel.contracts import QuantizationProfile
from accel.errors import ModelFault, PassFault
from accel.model import EDITS, QuantizeAware, Signature

with quiet():  # it tells, on import, which of its CUDA libraries are not there
    from torchao.quantization.pt2e import (
        FakeQuantize,
        FusedMovingAvgObsFakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
        ObserverBase,
    )
    from torchao.quantization.pt2e.prepare import prepare as insert_fake_quantizers
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, SharedQuantizationSpec

WHAT = "quantize (approach qat)"
OBSERVER_DECAY = 0.01
"""How fast a range follows the values of a batch; torchao's default."""
_ANNOTATION = "quantization_annotation"
_IGNORED = "ignored"
_OTHER_AXIS = 32
_TRACED_BATCH = 2
"""torch.export takes a size of 1 for a constant."""


class _Affine(FusedMovingAvgObsFakeQuantize):  # type: ignore[misc]
    """In float32 whatever autocast says: the kernel takes nothing else, and ranges in bfloat16 are off by up to 0.4 %."""

    def forward(self, X: Tensor) -> Tensor:
        with torch.autocast(X.device.type, enabled=False):
            result: Tensor = super().forward(X.float())
        return result


class _Symmetric(FakeQuantize):  # type: ignore[misc]
    """Not fused: torch's fused kernel makes a range that lies on one side of 0 an affine one, with a zero point of -128.

    That happens to activations behind a ReLU, and to a depthwise filter of nine weights of one sign.
    """

    def forward(self, X: Tensor) -> Tensor:
        with torch.autocast(X.device.type, enabled=False):
            result: Tensor = super().forward(X.float())
        return result


def prepare(module: nn.Module, signature: Signature, edit: QuantizeAware) -> QuantizeAwareModule:
    """What :func:`prepared` made when ``edit`` was recorded; weights and ranges are to be loaded into it.

    Raises ModelFault where torch or torchao have another version: names and number of the fake quantizers follow from both.
    """
    here = versions()
    if (edit.torch, edit.torchao) != here:
        raise ModelFault(
            f"this model was prepared for quantization-aware training with torch {edit.torch} and torchao {edit.torchao}; "
            f"here are torch {here[0]} and torchao {here[1]}, which may number the fake quantizers otherwise; "
            "install those versions, or export it to ONNX there"
        )
    values = dict(edit.profile)
    ignored = tuple(values.pop(_IGNORED, ()))
    return prepared(module, signature, QuantizationProfile(**values), ignored)[0]


def prepared(
    module: nn.Module, signature: Signature, profile: QuantizationProfile, ignored: Collection[str] = ()
) -> tuple[QuantizeAwareModule, Plan]:
    """``module`` with fake quantizers that have seen nothing yet, and where they are. ``module`` is not changed.

    ``ignored``: modules that stay in floating point, with all below them. Raises PassFault where nothing can be quantized.
    """
    return insert(module, examples(signature), dynamic_shapes(signature, WHAT), profile, ignored)


def insert(
    module: nn.Module, example: Sequence[Tensor], shapes: Any, profile: QuantizationProfile, ignored: Collection[str]
) -> tuple[QuantizeAwareModule, Plan]:
    """See :func:`prepared`; ``shapes`` as torch.export's ``dynamic_shapes``."""
    if isinstance(module, QuantizeAwareModule) or grouped_layers(module):
        raise PassFault(f"{WHAT}: the model is prepared already; a recipe has one quantize pass")
    graph = captured(module, example, shapes, what=WHAT)
    if profile.weight_granularity == "per_tensor":
        fold_batch_norms_(graph)  # one scale for all channels: the factors would change the integers
    places = plan(graph.graph, profile, lambda path: any(path == one or path.startswith(f"{one}.") for one in ignored))
    if not places.weights and not places.products:
        raise PassFault(
            f"{WHAT} changed nothing: no convolution, linear layer or matrix product can be quantized"
            + (f" ({'; '.join(places.left[:5])})" if places.left else "; the model has none")
            + "; narrow ignored_scope or remove the pass"
        )
    _annotate_(places, profile)
    with quiet():
        graph = insert_fake_quantizers(graph, {}, is_qat=True)
    result = QuantizeAwareModule(graph, integer_bias=profile.bias == "int32")
    # The observers take their shapes from what they see first; loading needs them.
    result.calibrate_([tuple(example)])
    setattr(result, EDITS, edits_of(module))
    add_edit_(result, QuantizeAware({**asdict(profile), _IGNORED: sorted(ignored)}, *versions()))
    result.eval()
    return result, places


def with_ranges(graph: GraphModule, *, integer_bias: bool) -> QuantizeAwareModule:
    """``graph``, whose observers (torchao's, of ``prepare_pt2e``) have seen data, as a module that computes what its INT8
    network will. Its scales stay. ``graph`` is used up.

    Each observer becomes a fake quantizer with the scale of its range; what only marks a value as float (of a bias) goes.
    """
    fixed: dict[int, nn.Module] = {}
    for path, part in list(graph.named_modules(remove_duplicate=False)):
        if isinstance(part, ObserverBase) and hasattr(part, "min_val"):
            if id(part) not in fixed:
                fixed[id(part)] = _fixed(part)
            owner, _, leaf = path.rpartition(".")
            setattr(graph.get_submodule(owner), leaf, fixed[id(part)])
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and isinstance(graph.get_submodule(node.target), ObserverBase):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    for name in ("train", "eval"):
        graph.__dict__.pop(name, None)  # torchao's, which raise
    result = QuantizeAwareModule(graph, integer_bias=integer_bias)
    result.observers_frozen.fill_(True)
    return result.eval()


def _fixed(observer: Any) -> Any:
    """A fake quantizer with the range, scale and zero point of ``observer``."""
    symmetric = observer.qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric)
    per_channel = observer.qscheme in (torch.per_channel_symmetric, torch.per_channel_affine)
    with quiet():
        part: Any = (_Symmetric if symmetric else _Affine)(
            observer=MovingAveragePerChannelMinMaxObserver if per_channel else MovingAverageMinMaxObserver,
            quant_min=observer.quant_min,
            quant_max=observer.quant_max,
            dtype=observer.dtype,
            qscheme=observer.qscheme,
            averaging_constant=OBSERVER_DECAY,
            **({"ch_axis": observer.ch_axis} if per_channel else {}),
        )
        scale, zero_point = observer.calculate_qparams()
    part.scale = scale.detach().to(torch.float32).reshape(-1).clone()
    part.zero_point = zero_point.detach().to(torch.int32).reshape(-1).clone()
    part.activation_post_process.min_val = observer.min_val.detach().clone()
    part.activation_post_process.max_val = observer.max_val.detach().clone()
    return part


def converted(module: QuantizeAwareModule) -> GraphModule:
    """The same network with integer weights and quantize and dequantize operators, in evaluation mode, for the exporter.

    Batch norms are folded; a weight or bias keeps its module's name. ``module`` is not changed.
    """
    own = copy.deepcopy(module).eval()
    own.settle_()
    graph = own.graph
    fold_batch_norms_(graph)
    _scale_dead_channels_(graph)
    for part in fake_quantizers(graph):
        # torchao computes them again from the range, by another formula than the fused kernel: a zero point can differ by 1.
        part.calculate_qparams = lambda scale=part.scale, zero_point=part.zero_point: (scale, zero_point)
    # Where it sees a batch norm, torchao exports 96 patterns to look for its own way of folding: half a minute.
    _retarget_(graph, torch.ops.aten.batch_norm.default, _kept_batch_norm)
    with quiet(), torch.no_grad():
        result = convert_pt2e(graph)
    assert isinstance(result, GraphModule)
    _retarget_(result, _kept_batch_norm, torch.ops.aten.batch_norm.default)
    for part in (result, *result.modules()):
        part.__dict__.pop("train", None)  # torchao's, which raise
        part.__dict__.pop("eval", None)
        part.training = False
    setattr(result, INTEGER_BIAS, module.integer_bias)
    return result


def _kept_batch_norm(*arguments: Any) -> Any:
    """A batch norm that stands alone, and stays."""
    return torch.ops.aten.batch_norm.default(*arguments)


def _retarget_(graph: GraphModule, old: Any, new: Any) -> None:
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target is old:
            node.target = new
    graph.recompile()


def versions() -> tuple[str, str]:
    """Of torch and torchao, as an edit records them."""
    return version("torch"), version("torchao")


def examples(signature: Signature) -> list[Tensor]:
    """What a module is traced with: noise in the shapes of ``signature``, or zeros where integers are expected."""
    return [_example(spec.concrete(**_sizes(spec.shape)), spec.dtype) for spec in signature.inputs]


def _sizes(shape: Sequence[int | str]) -> dict[str, int]:
    return {axis: _TRACED_BATCH if index == 0 else _OTHER_AXIS for index, axis in enumerate(shape) if isinstance(axis, str)}


def _example(shape: tuple[int, ...], dtype: str) -> Tensor:
    kind = getattr(torch, dtype)
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=drawn, dtype=kind) if kind.is_floating_point else torch.zeros(shape, dtype=kind)


def _annotate_(places: Plan, profile: QuantizationProfile) -> None:
    signed = profile.activation == "int8"
    value = QuantizationSpec(
        dtype=torch.int8 if signed else torch.uint8,
        quant_min=-128 if signed else 0,
        quant_max=127 if signed else 255,
        qscheme=torch.per_tensor_symmetric if profile.activation_symmetric else torch.per_tensor_affine,
        observer_or_fake_quant_ctr=(_Symmetric if profile.activation_symmetric else _Affine).with_args(
            observer=MovingAverageMinMaxObserver, averaging_constant=OBSERVER_DECAY
        ),
    )
    for node, first in places.shared.items():
        _annotation(node).output_qspec = value if node is first else SharedQuantizationSpec(first)
    for weight in places.weights:
        _annotation(weight.layer).input_qspec_map[weight.source] = _weight_spec(weight.axis)


def _annotation(node: Node) -> Any:
    return node.meta.setdefault(_ANNOTATION, QuantizationAnnotation(_annotated=True))


def _weight_spec(axis: int | None) -> Any:
    """-127..127: -128 has no opposite, and ONNX Runtime's kernels for older CPUs overflow with it."""
    observer = MovingAverageMinMaxObserver if axis is None else MovingAveragePerChannelMinMaxObserver
    # torchao drops the axis of the specification where the fake quantizer's class is not called PerChannel.
    channels = {} if axis is None else {"ch_axis": axis}
    constructor: Callable[..., Any] = _Symmetric.with_args(observer=observer, averaging_constant=CURRENT, **channels)
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_tensor_symmetric if axis is None else torch.per_channel_symmetric,
        ch_axis=axis,
        observer_or_fake_quant_ctr=constructor,
    )


def _scale_dead_channels_(graph: GraphModule) -> None:
    """Give a channel whose weights are all zero the scale of the other channels, in place.

    Its own would be 0 or the smallest one that torchao allows (1.2e-7), in whose units the bias does not fit into INT32.
    """
    for node in graph.graph.nodes:
        if node.op == "call_module" and getattr(node.args[0], "op", "") == "get_attr":
            part = graph.get_submodule(node.target)
            if isinstance(part, _Symmetric) and part.is_per_channel:
                weight = attribute(graph, node.args[0]).detach()
                others = [index for index in range(weight.dim()) if index != part.ch_axis]
                dead = weight.abs().amax(dim=others) == 0
                part.scale[dead] = 1.0 if dead.all() else part.scale[~dead].median()
