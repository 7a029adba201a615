"""Source text of a script that loads and runs a shipped file with the bare runtime: what a deployment starts from.

It runs the file as it was measured: same threads, same precision hint, same preprocessing. Needs the runtime and what
``preprocess_source`` imports (numpy and Pillow), and nothing of ours.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from accel.errors import UsageError
from accel.model import Signature, TensorSpec

INLINE_CLASSES = 20
"""Above this many, the script reads the names from ``manifest.json``."""

_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


def deployment_snippet(
    backend: str,
    main_file: str,
    signature: Signature,
    preprocess_source: str,
    classes: Sequence[str] | None = None,
    *,
    threads: int = 1,
    device: str = "cpu",
    precision: str = "fp32",
    options: Mapping[str, Any] | None = None,
    factory: str | None = None,
) -> str:
    """A script to be saved beside ``main_file`` and called with one file, an image or what ``preprocess_source`` reads.

    ``preprocess_source``: imports, and a function as its last definition, from a path to one sample without its batch axis.
    ``options``, ``precision``: the target's. ``factory``: for ``eager``, what builds the module, ``module:name`` or, for a file
    that is put beside the script, ``file.py:name``.
    UsageError for a backend without a runtime of its own or a model with several inputs.
    """
    if len(signature.inputs) != 1:
        raise UsageError(
            f"{main_file}: a deployment script is written for models with one input, this has {len(signature.inputs)}"
        )
    model_input = signature.inputs[0]
    settings = options or {}
    if backend == "onnxruntime":
        imports, load, call = _onnxruntime(model_input, threads, device, settings)
    elif backend == "openvino":
        imports, load, call = _openvino(model_input, threads, device, _HINTS.get(precision, "f32"), settings)
    elif backend == "eager":
        imports, load, call = _eager(main_file, threads, factory)
    else:
        raise UsageError(f"no deployment script is known for backend {backend!r}")
    function = _function_name(preprocess_source)
    named = classes is not None
    many = classes is not None and len(classes) > INLINE_CLASSES
    lines = ['"""Save beside the model\'s files; then: python run.py FILE"""', ""]
    lines += ["import json"] if many else []
    lines += ["import sys", "from pathlib import Path", "", *imports, "", preprocess_source.strip(), "", ""]
    lines += ["here = Path(__file__).resolve().parent", *load, ""]
    if many:
        lines += ['classes = json.loads((here / "manifest.json").read_text(encoding="utf-8"))["classes"]']
    elif classes is not None:
        lines += [f"classes = [{', '.join(_literal(name) for name in classes)}]"]
    lines += [f"sample = {function}(sys.argv[1])[None].astype({model_input.dtype!r})  # a batch of one", *call]
    if _is_classifier(signature):
        lines += ["for index in scores.argsort()[::-1][:5]:"]
        lines += [f"    print({'classes[index]' if named else 'index'}, scores[index], sep='\\t')"]
    else:
        lines += ["print(scores)"]
    text = "\n".join(lines) + "\n"
    return text.replace("MODEL_FILE", _literal(main_file))


def _onnxruntime(
    model_input: TensorSpec, threads: int, device: str, options: Mapping[str, Any]
) -> tuple[list[str], list[str], list[str]]:
    providers = list(options.get("execution_providers") or [_PROVIDERS.get(device, _PROVIDERS["cpu"])])
    level = _LEVELS.get(str(options.get("graph_optimization_level", "all")), "ORT_ENABLE_ALL")
    load = [
        "options = onnxruntime.SessionOptions()",
        f"options.intra_op_num_threads = {threads}",
        "options.inter_op_num_threads = 1",
        f"options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.{level}",
    ]
    if (axis := _varying_batch(model_input)) is not None:
        load.append(f"options.add_free_dimension_override_by_name({_literal(axis)}, 1)")
    load.append(f"session = onnxruntime.InferenceSession(str(here / MODEL_FILE), options, providers={providers!r})")
    return ["import onnxruntime"], load, [f"scores = session.run(None, {{{_literal(model_input.name)}: sample}})[0][0]"]


def _openvino(
    model_input: TensorSpec, threads: int, device: str, hint: str, options: Mapping[str, Any]
) -> tuple[list[str], list[str], list[str]]:
    performance = str(options.get("performance_hint", "latency"))
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": performance.upper(),
        "INFERENCE_PRECISION_HINT": hint,  # without it, a CPU with BF16 runs an FP32 model in BF16
    }
    if "num_streams" in options or performance == "latency":
        settings["NUM_STREAMS"] = options.get("num_streams", 1)
    if device == "cpu":
        settings["INFERENCE_NUM_THREADS"] = threads
    load = ["core = openvino.Core()", "model = core.read_model(here / MODEL_FILE)"]
    if _varying_batch(model_input) is not None:
        load.append(f"model.reshape({[1, *(axis if isinstance(axis, int) else -1 for axis in model_input.shape[1:])]})")
    load += [f"settings = {settings!r}", f"compiled = core.compile_model(model, {device.upper()!r}, settings)"]
    return ["import openvino"], load, ["scores = compiled(sample)[0][0]"]


def _eager(main_file: str, threads: int, factory: str | None) -> tuple[list[str], list[str], list[str]]:
    if factory is None:
        raise UsageError(f"{main_file}: a script for PyTorch needs the factory that builds the module")
    module, _, name = factory.rpartition(":")
    if not name.isidentifier():
        raise UsageError(f"factory {factory!r}: expected file.py:name or package.module:name")
    imports = ["import torch"]
    if module.endswith(".py"):
        imports = ["import runpy", "", *imports]
        load = [f"build = runpy.run_path(str(here / {_literal(module)}))[{_literal(name)}]"]
    else:
        imports.append(f"from {module} import {name} as build")
        load = []
    if main_file.endswith(".safetensors"):
        imports.append("from safetensors.torch import load_file")
        weights = "load_file(here / MODEL_FILE)"
    else:
        weights = "torch.load(here / MODEL_FILE, weights_only=True)"
    load += [f"torch.set_num_threads({threads})", "model = build()", f"model.load_state_dict({weights})", "model.eval()"]
    return imports, load, ["with torch.inference_mode():", "    scores = model(torch.from_numpy(sample))[0].numpy()"]


def _function_name(source: str) -> str:
    functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    if not functions:
        raise ValueError("the source of the preprocessing defines no function")
    return functions[-1]


def _varying_batch(model_input: TensorSpec) -> str | None:
    """The name of the first axis, where it varies: fixing it to 1 is how the file was measured, and some runtimes need it."""
    first = model_input.shape[0] if model_input.shape else None
    return first if isinstance(first, str) else None


def _is_classifier(signature: Signature) -> bool:
    return len(signature.outputs[0].shape) == 2


def _literal(text: str) -> str:
    """A Python literal of ``text`` in ASCII: no control, quote or line break leaves it, and no CI runner obeys it."""
    return ascii(text).replace("##", "#\\x23")
