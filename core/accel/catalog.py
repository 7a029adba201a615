"""The one list of names a recipe may use: strings only, so that looking a name up imports nothing else.

A pass key is ``type[/approach[/engine]]``; each leaf is a class of its own. Other distributions add theirs through the entry
points ``accel.passes`` and ``accel.backends`` (name = key, value = ``module:Class``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

PASSES: Mapping[str, str] = {
    "prune": "accel.compress.prune:Prune",
    "sparsify": "accel.compress.sparsify:Sparsify",
    "finetune": "accel.compress.finetune:Finetune",
    "distill": "accel.compress.finetune:Distill",
    "bn_reestimate": "accel.compress.bn_reestimate:BnReestimate",
    "quantize/qat": "accel.compress.quantize_aware:QuantizeAwareTraining",
    "export_onnx": "accel.compress.export_onnx:ExportOnnx",
    "simplify": "accel.compress.simplify:Simplify",
    "cast": "accel.compress.cast:Cast",
    "quantize/static/onnxruntime": "accel.compress.quantize_onnxruntime:QuantizeStaticOnnxRuntime",
    "quantize/static/nncf": "accel.compress.quantize_nncf:QuantizeStaticNncf",
    "quantize/static/auto": "accel.compress.quantize_auto:QuantizeStaticAuto",
    "quantize/static/neural-compressor": "accel.compress.quantize_neural_compressor:QuantizeStaticNeuralCompressor",
    "quantize/dynamic/onnxruntime": "accel.compress.quantize_dynamic:QuantizeDynamic",
    "quantize/weight_only/onnxruntime": "accel.compress.quantize_weight_only:QuantizeWeightOnlyOnnxRuntime",
    "quantize/weight_only/nncf": "accel.compress.quantize_weight_only:QuantizeWeightOnlyNncf",
    "quantize/weight_only/neural-compressor": "accel.compress.quantize_neural_compressor:QuantizeWeightOnlyNeuralCompressor",
}

ONLY_BY_NAME = frozenset(
    {"quantize/static/auto", "quantize/static/neural-compressor", "quantize/weight_only/neural-compressor"}
)
"""Keys that an entry means only where it names that engine: the first takes minutes to try, the others take a torch module."""

BACKENDS: Mapping[str, str] = {
    "eager": "accel.accelerate.eager:Eager",
    "onnxruntime": "accel.accelerate.onnxruntime_session:OnnxRuntime",
    "openvino": "accel.accelerate.openvino_model:OpenVino",
    "tensorrt": "accel.accelerate.tensorrt_engine:TensorRt",
}

LINTS: Mapping[str, str] = {
    "tensorrt": "accel.accelerate.lint_tensorrt:lint",
    "tensorrt-rtx": "accel.accelerate.lint_tensorrt:lint_rtx",
    "onnxruntime": "accel.accelerate.lint_cpu:lint_onnxruntime",
    "openvino": "accel.accelerate.lint_cpu:lint_openvino",
}
"""Target of ``accel lint`` to ``module:function``, which takes the path of an ONNX file and gives a list of findings."""

LINT_RULES: Mapping[str, str] = {
    "tensorrt": "accel.accelerate.lint_tensorrt:rules",
    "tensorrt-rtx": "accel.accelerate.lint_tensorrt:rules_rtx",
    "onnxruntime": "accel.accelerate.lint_cpu:rules_onnxruntime",
    "openvino": "accel.accelerate.lint_cpu:rules_openvino",
}
"""The same targets to ``module:function``, which gives name, severity and one line for each rule."""

TASKS: Mapping[str, str] = {
    "image_classification": "accel.tasks.image_classification:ImageClassification",
    "text_classification": "accel.tasks.text_task:TextTask",
    "embedding": "accel.tasks.text_task:TextTask",
}


@cache  # looks into every installed distribution: 3 ms each time, and reading a recipe asks some thirty times
def _plug_ins(group: str) -> Mapping[str, str]:
    return {point.name: point.value for point in entry_points(group=group)}


def _with_entry_points(table: Mapping[str, str], group: str) -> dict[str, str]:
    return {**_plug_ins(group), **table}  # ours win: a plug-in cannot silently replace a built-in


def passes() -> dict[str, str]:
    """Every pass key to ``module:Class``, plug-ins included."""
    return _with_entry_points(PASSES, "accel.passes")


def backends() -> dict[str, str]:
    """Every backend name to ``module:Class``, plug-ins included."""
    return _with_entry_points(BACKENDS, "accel.backends")


def tasks() -> dict[str, str]:
    """Every task type to ``module:Class``."""
    return dict(TASKS)


def load(reference: str) -> Any:
    """The object that ``module:Name`` names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def backend(name: str) -> Any:
    """An instance of the backend called ``name``; KeyError if there is none."""
    return load(backends()[name])()
