"""Core of ``quantize/static/neural-compressor``.

The library prepares a captured graph (torch's quantizer for x86 says where to round) and puts an observer at each place. From
there on the graph is of the kind that quantization-aware training makes: observers become fake quantizers with fixed scales,
and ``export_onnx`` folds the weights to INT8 and writes INT32 biases. The library's own conversion leaves the weights in
float32 behind a QuantizeLinear, four times the file.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from accel.compress.calibration import NeuralCompressorCalibration
from accel.compress.calibration_batches import in_batches
from accel.compress.calibration_data import calibration_samples
from accel.compress.edits import add_edit_, edits_of
from accel.compress.grouped_linear import grouped_layers
from accel.compress.layer_names import matching
from accel.compress.neural_compressor_library import library, library_version
from accel.compress.qat.module import QuantizeAwareModule
from accel.compress.qat.pt2e import examples, with_ranges
from accel.compress.qat.pt2e_annotation import LAYERS, PRODUCTS
from accel.compress.qat.pt2e_fold import fold_batch_norms_
from accel.compress.qat.pt2e_graph import captured, module_path, operator_of
from accel.compress.quantize_aware import IgnoredModules
from accel.compress.quantized_graph import require_profile
from accel.compress.quiet_library import quiet
from accel.compress.torch_capture import dynamic_shapes
from accel.contracts import Job, QuantizationProfile
from accel.errors import AccelError, ModelFault, PassFault
from accel.model import EDITS, NeuralCompressed, Signature, TorchModel

WHAT = "quantize (engine neural-compressor)"
_ALGORITHMS = {"minmax": "minmax", "mse": "kl"}
_SOURCES: Mapping[str, Any] = {
    "aten.conv1d": nn.Conv1d,
    "aten.conv2d": nn.Conv2d,
    "aten.linear": nn.Linear,
    "aten.relu": nn.ReLU,
    "aten.relu6": nn.ReLU6,
    "aten.hardtanh": nn.Hardtanh,
    "aten.hardswish": nn.Hardswish,
    "aten.leaky_relu": nn.LeakyReLU,
    "aten.tanh": nn.Tanh,
    "aten.gelu": nn.GELU,
    "aten.add": operator.add,
}
"""What torch's quantizer for x86 looks for, by the operator."""
_THEIRS = ("save", "qconfig", "quant_config", "is_prepared", "example_inputs", "dynamic_shapes", "_exported")
"""What the library leaves on the module, and nothing of ours reads."""


def quantized(model: TorchModel, job: Job, calibration: NeuralCompressorCalibration, scope: IgnoredModules) -> TorchModel:
    """See ``QuantizeStaticNeuralCompressor``."""
    profile = require_profile(job)
    _require_cpu(profile)
    if isinstance(model.module, QuantizeAwareModule) or grouped_layers(model.module):
        raise PassFault(f"{WHAT}: the model is prepared already; a recipe has one quantize pass")
    named = matching(model.module, (*scope.names, *scope.patterns), f"{WHAT}: ignored_scope")
    settings = {
        "act_algo": _ALGORITHMS[calibration.method],
        "w_granularity": profile.weight_granularity,
        "integer_bias": profile.bias == "int32",
        "ignored": sorted({path for paths in named.values() for path in paths}),
    }
    samples = calibration_samples(job, model.signature, calibration.num_samples)
    done = 0

    def counted() -> Iterator[tuple[Tensor, ...]]:
        nonlocal done
        for batch in in_batches(samples, model.signature):
            done += len(batch[0])
            job.progress(min(done, len(samples)), len(samples), "calibrating")
            yield batch

    module, remarks = _built(model.module, model.signature, settings, counted())
    return replace(model, module=module).noting(*remarks, *samples.notes)


def again(module: nn.Module, signature: Signature, edit: NeuralCompressed) -> nn.Module:
    """What :func:`quantized` made when ``edit`` was recorded; weights, scales and zero points are to be loaded into it.

    Raises ModelFault where a library has another version: the names of the scales follow from it.
    """
    here = versions()
    made_by = (edit.torch, edit.torchao, edit.neural_compressor)
    if made_by != here:
        raise ModelFault(
            "this model was quantized with torch {}, torchao {} and neural-compressor {}; here are {}, {} and {}, which may "
            "number the scales otherwise; install those versions, or export it to ONNX there".format(*made_by, *here)
        )
    return _built(module, signature, edit.settings, [tuple(examples(signature))])[0]


def versions() -> tuple[str, str, str]:
    """Of torch, torchao and neural-compressor, as an edit records them."""
    return version("torch"), version("torchao"), library_version()


def _require_cpu(profile: QuantizationProfile) -> None:
    if profile.activation == "int8" or profile.activation_symmetric:
        raise PassFault(
            f"{WHAT}: it writes unsigned activations as CPUs run them, and this target's profile asks for "
            f"{'symmetric ' if profile.activation_symmetric else ''}{profile.activation} activations; "
            "use approach: qat, or engine: onnxruntime after export_onnx"
        )


def _built(
    module: nn.Module, signature: Signature, settings: Mapping[str, Any], batches: Iterable[tuple[Tensor, ...]]
) -> tuple[QuantizeAwareModule, list[str]]:
    """``module``, which is not changed, with fake quantizers that have the ranges of ``batches``; and remarks."""
    graph = captured(module, examples(signature), dynamic_shapes(signature, WHAT), what=WHAT)
    fold_batch_norms_(graph)
    graph = _prepared(graph, settings)
    remarks = _remarks(graph, settings["ignored"])
    try:
        # Only what the library prints or logs: an error in the data is not its.
        with quiet(), torch.no_grad():
            for batch in batches:
                graph(*batch)
            result = with_ranges(graph, integer_bias=bool(settings["integer_bias"]))
    except (AccelError, MemoryError, OSError):
        raise
    except Exception as error:  # torchao's observers raise AssertionError, RuntimeError and ValueError
        raise PassFault(
            f"{WHAT}: calibration failed: {type(error).__name__}: {error}; check the weights and the data"
        ) from error
    setattr(result, EDITS, edits_of(module))
    add_edit_(result, NeuralCompressed(dict(settings), *versions()))
    return result, remarks


def _prepared(graph: GraphModule, settings: Mapping[str, Any]) -> GraphModule:
    config = library.INT8StaticQuantConfig(
        act_algo=settings["act_algo"], w_granularity=settings["w_granularity"], excluded_precisions=["fp16", "bf16"]
    )
    for path in settings["ignored"]:
        config.set_local(path, library.INT8StaticQuantConfig(w_dtype="fp32", act_dtype="fp32"))
    _tell_sources_(graph)
    graph._exported = True  # type: ignore[assignment]
    graph.dynamic_shapes = None  # type: ignore[assignment]
    try:
        with quiet():
            prepared = library.prepare(graph, config)
    except Exception as error:  # the library raises AssertionError, RuntimeError, and what torchao raises
        raise PassFault(f"{WHAT}: neural-compressor failed: {type(error).__name__}: {error}; try approach: qat") from error
    assert isinstance(prepared, GraphModule)
    for name in _THEIRS:
        prepared.__dict__.pop(name, None)
    return prepared


def _tell_sources_(graph: GraphModule) -> None:
    """Say of each operator that it is a layer of its own. Else torch's quantizer takes the operators of one module for one
    layer, and fails where a module is called twice, as one ReLU for all of a block is."""
    for node in graph.graph.nodes:
        if node.op == "call_function":
            kind = operator_of(node)
            source = _SOURCES.get(kind, node.target)
            if kind == "aten.add" and not all(isinstance(value, Node) for value in node.args[:2]):
                source = node.target
            node.meta["source_fn_stack"] = [(node.name, source)]


def _remarks(graph: GraphModule, ignored: Collection[str]) -> list[str]:
    """How many layers are quantized, and each that is not. PassFault where none is."""
    count, products, left = 0, 0, []
    for node in graph.graph.nodes:
        kind = operator_of(node)
        if kind not in LAYERS | PRODUCTS:
            continue
        if _observed(graph, node.args[:2]):
            count, products = count + (kind in LAYERS), products + (kind in PRODUCTS)
        else:
            path = module_path(node)
            why = "in ignored_scope" if path in ignored else "left by neural-compressor"
            left.append(f"{path or node.name} ({kind.removeprefix('aten.')}) kept in floating point: {why}")
    if not count and not products:
        found = f" ({'; '.join(left[:5])})" if left else "; the model has none"
        raise PassFault(
            f"{WHAT} changed nothing: no convolution, linear layer or matrix product is quantized{found}"
            "; narrow ignored_scope or remove the pass"
        )
    told = f"quantized: {count} layers" + (f", {products} products of activations" if products else "")
    return [told, *left]


def _observed(graph: GraphModule, operands: Sequence[Any]) -> bool:
    return all(getattr(value, "op", "") == "call_module" for value in operands)
