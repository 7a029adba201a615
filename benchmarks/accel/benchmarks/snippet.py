"""Source text of a script that loads and runs a shipped file with the bare runtime: what a deployment starts from.

It runs the file as it was measured: with what the backend says that it gave the runtime (``Backend.runtime_settings``), and the
same preprocessing. Needs the runtime and what ``preprocess_source`` imports (numpy and Pillow), and nothing of ours.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from accel.errors import UsageError
from accel.model import Signature, TensorSpec

INLINE_CLASSES = 20
"""Above this many, the script reads the names from ``manifest.json``."""

_EAGER_SETTINGS = frozenset({"device", "num_threads", "float32_matmul_precision"})
_ENUMERATIONS = {"execution_mode": "ExecutionMode", "graph_optimization_level": "GraphOptimizationLevel"}


def deployment_snippet(
    backend: str,
    main_file: str,
    signature: Signature,
    preprocess_source: str,
    classes: Sequence[str] | None = None,
    *,
    settings: Mapping[str, Any],
    factory: str | None = None,
) -> str:
    """A script to be saved beside ``main_file`` and called with one file, an image or what ``preprocess_source`` reads.

    ``preprocess_source``: imports, and a function as its last definition, from a path to one sample without its batch axis.
    ``settings``: the backend's ``runtime_settings`` for the target that was measured. ``factory``: for ``eager``, what builds
    the module, ``module:name`` or, for a file that is put beside the script, ``file.py:name``.
    UsageError for a backend without a runtime of its own or a model with several inputs.
    """
    if len(signature.inputs) != 1:
        raise UsageError(
            f"{main_file}: a deployment script is written for models with one input, this has {len(signature.inputs)}"
        )
    model_input = signature.inputs[0]
    if backend == "onnxruntime":
        imports, load, call = _onnxruntime(model_input, settings)
    elif backend == "openvino":
        imports, load, call = _openvino(model_input, settings)
    elif backend == "eager":
        imports, load, call = _eager(main_file, settings, factory)
    elif backend == "tensorrt":
        imports, load, call = _tensorrt(signature, settings)
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


def _onnxruntime(model_input: TensorSpec, settings: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    load = ["options = onnxruntime.SessionOptions()"]
    for name, value in settings["session_options"].items():
        kind = _ENUMERATIONS.get(name)
        load.append(f"options.{name} = {f'onnxruntime.{kind}.{value}' if kind else _literal(value)}")
    for name, value in settings["session_config"].items():
        load.append(f"options.add_session_config_entry({_literal(name)}, {_literal(value)})")
    if (axis := _varying_batch(model_input)) is not None:
        load.append(f"options.add_free_dimension_override_by_name({_literal(axis)}, 1)")
    providers = [(name, options) if options else name for name, options in settings["providers"]]
    load.append(f"providers = {_literal(providers)}")
    disabled = f", disabled_optimizers={_literal(off)}" if (off := settings.get("disabled_optimizers")) else ""
    load.append(f"session = onnxruntime.InferenceSession(str(here / MODEL_FILE), options, providers=providers{disabled})")
    return ["import onnxruntime"], load, [f"scores = session.run(None, {{{_literal(model_input.name)}: sample}})[0][0]"]


def _openvino(model_input: TensorSpec, settings: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    load = ["core = openvino.Core()", "model = core.read_model(here / MODEL_FILE)"]
    if _varying_batch(model_input) is not None:
        load.append(f"model.reshape({[1, *(axis if isinstance(axis, int) else -1 for axis in model_input.shape[1:])]})")
    load.append(f"settings = {_literal(dict(settings['properties']))}")
    load.append(f"compiled = core.compile_model(model, {_literal(settings['device'])}, settings)")
    return ["import openvino"], load, ["scores = compiled(sample)[0][0]"]


def _tensorrt(signature: Signature, settings: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Buffers and the stream are PyTorch's: the shortest way to them, and most machines with such a GPU have it."""
    module = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}.get(settings.get("library", ""))
    if module is None:
        raise UsageError("a script for an engine needs to know which library built it")
    load = [
        "runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))",
        "engine = runtime.deserialize_cuda_engine((here / MODEL_FILE).read_bytes())",
        "if engine is None:",
        "    sys.exit('this engine was built for another GPU or library version: engine.json says for which')",
    ]
    if module == "tensorrt_rtx":  # as it was measured: by default the first inferences run kernels that are replaced later
        load += [
            "config = engine.create_runtime_config()",
            "strategies = trt.DynamicShapesKernelSpecializationStrategy",
            "config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER",
            "context = engine.create_execution_context(config)",
        ]
    else:
        load.append("context = engine.create_execution_context()")
    name = _literal(signature.inputs[0].name)
    outputs = {spec.name: spec.dtype for spec in signature.outputs}
    call = [
        "data = torch.from_numpy(sample).cuda()",
        f"context.set_input_shape({name}, tuple(data.shape))",
        f"context.set_tensor_address({name}, data.data_ptr())",
        "answers = {}",
        f"for name, dtype in {_literal(outputs)}.items():",
        "    shape = tuple(context.get_tensor_shape(name))",
        "    answers[name] = torch.empty(shape, dtype=getattr(torch, dtype), device='cuda')",
        "    context.set_tensor_address(name, answers[name].data_ptr())",
        "stream = torch.cuda.Stream()",
        "stream.wait_stream(torch.cuda.current_stream())",
        "if not context.execute_async_v3(stream.cuda_stream):",
        "    sys.exit('the engine did not run')",
        "stream.synchronize()",
        f"scores = answers[{_literal(signature.outputs[0].name)}][0].cpu().numpy()",
    ]
    return ["import torch", f"import {module} as trt"], load, call


def _eager(main_file: str, settings: Mapping[str, Any], factory: str | None) -> tuple[list[str], list[str], list[str]]:
    if factory is None:
        raise UsageError(f"{main_file}: a script for PyTorch needs the factory that builds the module")
    if unrepeated := sorted(settings.keys() - _EAGER_SETTINGS):  # a script that runs otherwise than measured is worse than none
        raise UsageError(f"{main_file}: no script is written for PyTorch with {', '.join(unrepeated)}")
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
    device = _literal(settings["device"])
    load += [
        f"torch.set_num_threads({settings['num_threads']})",
        f"torch.set_float32_matmul_precision({_literal(settings['float32_matmul_precision'])})",
        "model = build()",
        f"model.load_state_dict({weights})",
        f"model.eval().to({device})",
    ]
    if settings["device"] == "cuda":
        load.append("torch.backends.cudnn.allow_tf32 = False")
    call = f"    scores = model(torch.from_numpy(sample).to({device}))[0].cpu().numpy()"
    return imports, load, ["with torch.inference_mode():", call]


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


def _literal(value: object) -> str:
    """A Python literal of ``value`` in ASCII: no control, quote or line break leaves it, and no CI runner obeys it."""
    return ascii(value).replace("##", "#\\x23")
