"""What a user would otherwise do with the same model and data: each library's own calls, as its documentation has them.

    python benchmarks/suite_arms.py RECIPE.json FOLDER

suite.py runs this in a process of its own, since it imports every library there is. It writes the files into ``FOLDER``, and
``arms.json``: one entry for each arm, in the order of the table, with what the user wrote, what it runs on, the file (null for
PyTorch itself) and, where a library failed, why; and ``sample.npz``, the batch that all are timed on. ``RECIPE.json``:
``{"document", "path", "samples", "arms", "batch"}``.

Nothing of accel makes these files. From the recipe come the untouched module, the name of its input, and the calibration
samples: the very ones, in the same order, one at a time, that accel's own quantize pass reads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from accel import telemetry
from accel.compress.quiet_library import quiet
from accel.contracts import RecipeTask
from accel.errors import UsageError
from accel.imports import ImportPolicy
from accel.model import TorchModel
from accel.rebuilding import make_task, untouched_module
from accel.recipe.reader import from_document

FP32 = "fp32.onnx"
SAMPLE = "sample.npz"

Sample = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """``wrote``: the call, as the user wrote it. ``key``: for suite.py. ``seconds``: to make the file."""

    key: str
    name: str
    wrote: str
    backend: str
    file: str | None = None
    precision: str = "fp32"
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    seconds: float = 0.0


class Reader:
    """onnxruntime.quantization's CalibrationDataReader."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> Sample | None:
        return next(self._samples, None)


@dataclass(frozen=True)
class Given:
    """``fp32``: the exported file, which all but PyTorch and neural-compressor start from."""

    model: TorchModel
    folder: Path
    fp32: Path
    samples: list[Sample]


def export(model: TorchModel, path: Path) -> None:
    """``torch.onnx.export`` with an axis for the batch."""
    import torch

    inputs = tuple(torch.zeros(spec.concrete(batch=2), dtype=getattr(torch, spec.dtype)) for spec in model.signature.inputs)
    torch.onnx.export(
        model.module,
        inputs,
        path,
        input_names=[spec.name for spec in model.signature.inputs],
        output_names=[spec.name for spec in model.signature.outputs],
        dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in inputs),
        dynamo=True,
        external_data=False,  # one file to ship; its default is two
        verbose=False,
    )


def onnxruntime_default(given: Given, path: Path) -> None:
    from onnxruntime.quantization import quantize_static

    quantize_static(given.fp32, path, Reader(given.samples))


def onnxruntime_advised(given: Given, path: Path) -> None:
    """What quantize_static's documentation says to choose for a CPU with VNNI, and per_channel for convolutional networks."""
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = given.folder / "prepared.onnx"
    quant_pre_process(str(given.fp32), str(prepared))
    quantize_static(
        prepared,
        path,
        Reader(given.samples),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    prepared.unlink()


def openvino_fp32(given: Given, path: Path) -> None:
    import openvino

    openvino.save_model(openvino.convert_model(given.fp32), path, compress_to_fp16=False)


def openvino_default(given: Given, path: Path) -> None:
    """As it comes: weights in FP16."""
    import openvino

    openvino.save_model(openvino.convert_model(given.fp32), path)


def nncf_openvino(given: Given, path: Path) -> None:
    import nncf
    import openvino

    model = nncf.quantize(openvino.convert_model(given.fp32), nncf.Dataset(given.samples))
    openvino.save_model(model, path)


def nncf_onnx(given: Given, path: Path) -> None:
    import nncf
    import onnx

    onnx.save(nncf.quantize(onnx.load(given.fp32), nncf.Dataset(given.samples)), path)


def neural_compressor_onnx(given: Given, path: Path) -> None:
    """Its PT2E flow, which ends with a torch module; written as any other is."""
    import torch
    from neural_compressor.torch.export import export as captured
    from neural_compressor.torch.quantization import convert, get_default_static_config, prepare

    inputs = tuple(torch.from_numpy(value).repeat(2, *[1] * (value.ndim - 1)) for value in given.samples[0].values())
    axes = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    prepared = prepare(captured(given.model.module, inputs, dynamic_shapes=axes), get_default_static_config())
    with torch.no_grad():
        for sample in given.samples:
            prepared(*map(torch.from_numpy, sample.values()))
    export(replace(given.model, module=convert(prepared)), path)


ARMS: tuple[tuple[Arm, Callable[[Given, Path], None] | None], ...] = (
    (Arm("eager", "PyTorch eager", "model(x)", "eager"), None),
    (Arm("compile", "PyTorch torch.compile", "torch.compile(model)(x)", "eager", options={"mode": "compile"}), None),
    (
        Arm("ort", "ONNX Runtime FP32", "torch.onnx.export(model, ..., dynamo=True)", "onnxruntime", FP32),
        None,  # made before all others
    ),
    (
        Arm("ov", "OpenVINO FP32", "convert_model(fp32); INFERENCE_PRECISION_HINT=f32", "openvino", "openvino_fp32.xml"),
        openvino_fp32,
    ),
    (
        Arm(
            "ov-default",
            "OpenVINO as it comes",
            "convert_model(fp32); compile_model(m)",
            "openvino",
            "openvino.xml",
            precision="bf16",
        ),
        openvino_default,
    ),
    (
        Arm("ort-int8", "ONNX Runtime INT8", "quantize_static(fp32, int8, reader)", "onnxruntime", "ort_default.onnx"),
        onnxruntime_default,
    ),
    (
        Arm(
            "ort-advised",
            "ONNX Runtime INT8 as advised",
            "quant_pre_process; quantize_static(..., QUInt8, QInt8, per_channel=True)",
            "onnxruntime",
            "ort_advised.onnx",
        ),
        onnxruntime_advised,
    ),
    (
        Arm("nncf-ov", "NNCF INT8 on OpenVINO", "nncf.quantize(ov_model, dataset)", "openvino", "nncf_openvino.xml"),
        nncf_openvino,
    ),
    (
        Arm(
            "nncf-onnx",
            "NNCF INT8 on ONNX Runtime",
            "nncf.quantize(onnx_model, dataset)",
            "onnxruntime",
            "nncf.onnx",
        ),
        nncf_onnx,
    ),
    (
        Arm(
            "inc-onnx",
            "neural-compressor INT8 on ONNX Runtime",
            "prepare(export(model), default); convert; torch.onnx.export",
            "onnxruntime",
            "neural_compressor.onnx",
        ),
        neural_compressor_onnx,
    ),
    (
        Arm(
            "inc-ov",
            "neural-compressor INT8 on OpenVINO",
            "the same, read by OpenVINO",
            "openvino",
            "neural_compressor_openvino.onnx",
        ),
        neural_compressor_onnx,
    ),
)
"""Who makes what; INT8 by each library's defaults unless the name says otherwise."""


def _samples(task: RecipeTask) -> Iterator[Sample]:
    for batch in task.calibration():
        for index in range(len(next(iter(batch.inputs.values())))):
            yield {name: np.asarray(array[index : index + 1]) for name, array in batch.inputs.items()}


def _computes_bf16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def make(model: TorchModel, samples: list[Sample], folder: Path, wanted: set[str]) -> list[Arm]:
    """The arms whose keys are ``wanted``, their files in ``folder``. An arm that fails says why."""
    given = Given(model, folder, folder / FP32, samples)
    with quiet():
        export(model, given.fp32)
    made = []
    for arm, write in ARMS:
        if arm.key not in wanted:
            continue
        started = perf_counter()
        try:
            if write is not None and arm.file is not None:
                with quiet():
                    write(given, folder / arm.file)
            if arm.precision == "bf16":  # what OpenVINO chooses by itself, where the processor has it
                arm = replace(arm, precision="bf16" if _computes_bf16() else "fp32")
        except Exception as error:  # noqa: BLE001 the boundary to libraries that are compared: one that fails costs its row
            arm = replace(arm, reason=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        made.append(replace(arm, seconds=perf_counter() - started))
    return made


def main(asked: Path, folder: Path) -> None:
    telemetry.switch_off()
    given = json.loads(asked.read_text(encoding="utf-8"))
    recipe = from_document(given["document"], path=Path(given["path"]))
    policy = ImportPolicy(recipe.folder)
    task = make_task(recipe, policy)
    if task is None:
        raise UsageError(f"{recipe.path}: has no data to calibrate with")
    samples = list(islice(_samples(task), given["samples"]))
    first = {name: np.concatenate([sample[name] for sample in samples[: given["batch"]]]) for name in samples[0]}
    np.savez(folder / SAMPLE, **first)  # type: ignore[arg-type]
    arms = make(untouched_module(recipe, policy), samples, folder, set(given["arms"]))
    (folder / "arms.json").write_text(json.dumps([asdict(arm) for arm in arms], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
