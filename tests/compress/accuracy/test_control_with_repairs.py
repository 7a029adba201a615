"""Accuracy control over a network that was repaired first: the equalized float network is what layers are put back from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import TensorProto

from accel.accuracy_outcome import AccuracyOutcome
from accel.compress.accuracy_control import AccuracyControl
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.repair_settings import AdaRound, StaticWeights
from accel.contracts import Job, QuantizationProfile
from accel.model import OnnxModel, TorchModel

if TYPE_CHECKING:
    from tests.compress.accuracy.conftest import SessionProbe, Task

    Run = Callable[..., tuple[OnnxModel, AccuracyOutcome]]


@pytest.fixture
def run(
    breakable_file: OnnxModel,
    breakable_module: TorchModel,
    make_task: type[Task],
    make_probe: type[SessionProbe],
    cpu: QuantizationProfile,
    tmp_path: Path,
) -> Run:
    def quantized(max_drop: float, **settings: Any) -> tuple[OnnxModel, AccuracyOutcome]:
        job = Job.local(tmp_path, task=make_task(breakable_module), profile=cpu, probe=make_probe())
        step = QuantizeStaticOnnxRuntime(accuracy_control=AccuracyControl(max_drop=max_drop), **settings)
        result = step(breakable_file, job)
        assert {path.name for path in job.folder.iterdir()} == {"model.onnx", "scratch"}, "nothing else is left"
        assert result.accuracy is not None
        return result, AccuracyOutcome.model_validate_json(json.dumps(result.accuracy))

    return quantized


def test_what_equalization_repairs_need_not_be_kept_back(run: Run) -> None:
    result, found = run(0.03, cross_layer_equalization=True)
    assert found.kept == [] and found.passed
    assert any(note.startswith("cross_layer_equalization: ") for note in result.notes)


def test_layers_are_put_back_beside_int4_ones(run: Run) -> None:
    """Two bits are too few for some layers: the others stay in INT4, in one file of opset 21."""
    result, found = run(0.02, weights=StaticWeights(dtype="int4", bits=2), adaround=AdaRound(iterations=0))
    assert found.kept and found.passed
    model = onnx.load(str(result.path))
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 21
    assert any(tensor.data_type == TensorProto.INT4 for tensor in model.graph.initializer)
