from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from pydantic import TypeAdapter, ValidationError

from accel.compress.calibration import NncfCalibration
from accel.compress.ignored_scope import IgnoredScope
from accel.compress.quantize_nncf import QuantizeStaticNncf
from accel.contracts import Batch, Job, QuantizationProfile
from accel.errors import DataFault, PassFault
from accel.model import OnnxModel

Array = NDArray[Any]
MakeJob = Callable[..., Job]


@pytest.fixture(scope="module")
def quantized(
    float_model: OnnxModel, images: Array, cpu: QuantizationProfile, tmp_path_factory: pytest.TempPathFactory
) -> OnnxModel:
    class Once:
        def has(self, split: str) -> bool:
            return True

        def calibration(self) -> list[Batch]:
            return [Batch({"image": images})]

    job = Job.local(tmp_path_factory.mktemp("nncf"), task=Once(), profile=cpu)  # type: ignore[arg-type]
    return QuantizeStaticNncf()(float_model, job)


def graph_of(model: OnnxModel) -> onnx.GraphProto:
    return onnx.load(str(model.path)).graph


def image_scale(model: OnnxModel) -> float:
    weights = {w.name: numpy_helper.to_array(w) for w in graph_of(model).initializer}
    return next(
        float(weights[n.input[1]]) for n in graph_of(model).node if n.op_type == "QuantizeLinear" and n.input[0] == "image"
    )


def test_both_runtimes_load_it_and_stay_close(
    quantized: OnnxModel, float_model: OnnxModel, images: Array, make_job: MakeJob
) -> None:
    execute: Callable[..., Any] | None = make_job().execute
    assert execute is not None
    wanted = execute(float_model.path, {"image": images})[0]
    compiled = openvino.Core().compile_model(str(quantized.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for got in (execute(quantized.path, {"image": images})[0], compiled({"image": images})[0]):
        assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)


def test_all_weights_are_int8_and_names_are_kept(quantized: OnnxModel, float_model: OnnxModel) -> None:
    graph = graph_of(quantized)
    types = {w.name: w.data_type for w in graph.initializer}
    stored = [types[node.input[0]] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in types]
    assert stored == [TensorProto.INT8] * 7
    kinds = ("Conv", "Gemm", "Add", "Relu")
    names = [sorted(node.name for node in graph_of(model).node if node.op_type in kinds) for model in (quantized, float_model)]
    assert names[0] == names[1]
    assert quantized.notes[0] == "quantized: 6 Conv, 1 Gemm"


def test_the_file_is_small_and_clean(quantized: OnnxModel, float_model: OnnxModel) -> None:
    model = onnx.load(str(quantized.path))
    assert quantized.path.stat().st_size * 2.5 < float_model.path.stat().st_size
    assert not model.metadata_props and not model.graph.value_info and [entry.domain for entry in model.opset_import] == [""]
    assert quantized.signature == float_model.signature
    onnx.checker.check_model(str(quantized.path), full_check=True)


def test_same_bytes_again(quantized: OnnxModel, float_model: OnnxModel, make_job: MakeJob) -> None:
    assert QuantizeStaticNncf()(float_model, make_job()).path.read_bytes() == quantized.path.read_bytes()


def test_minmax_is_the_whole_range_and_percentile_is_not(
    quantized: OnnxModel, float_model: OnnxModel, images: Array, make_job: MakeJob
) -> None:
    assert image_scale(quantized) >= float(np.abs(images).max()) / 255 * 0.99
    step = QuantizeStaticNncf(calibration=NncfCalibration(method="percentile", percentile=99.0))
    assert image_scale(step(float_model, make_job())) < 0.7 * image_scale(quantized)


def test_ignored_layers_are_those_of_the_other_engine(float_model: OnnxModel, make_job: MakeJob) -> None:
    scope = IgnoredScope(names=("fc/Gemm",), patterns=(r"layer2\..*conv1/Conv",))
    result = QuantizeStaticNncf(ignored_scope=scope)(float_model, make_job())
    assert result.notes[0] == "quantized: 5 Conv"
    assert "fc/Gemm kept in floating point: in ignored_scope" in result.notes
    assert "layer2.0.conv1/Conv kept in floating point: in ignored_scope" in result.notes


def test_tensorrt_is_refused_with_the_way_out(float_model: OnnxModel, make_job: MakeJob, tensorrt: QuantizationProfile) -> None:
    with pytest.raises(PassFault, match=r"int8 activations, float bias .*set engine: onnxruntime"):
        QuantizeStaticNncf()(float_model, make_job(profile=tensorrt))


def test_no_calibration_data_is_an_error(float_model: OnnxModel, make_job: MakeJob) -> None:
    with pytest.raises(DataFault, match=r"set data\.calibration"):
        QuantizeStaticNncf()(float_model, make_job(task=None))


def test_nothing_quantized_is_an_error(float_model: OnnxModel, make_job: MakeJob) -> None:
    with pytest.raises(PassFault, match="quantize changed nothing"):
        QuantizeStaticNncf(ignored_scope=IgnoredScope(patterns=(".*",)))(float_model, make_job())


def test_it_prints_nothing_and_reports_home_to_nobody(
    float_model: OnnxModel,
    make_job: MakeJob,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    QuantizeStaticNncf(calibration=NncfCalibration(num_samples=4))(float_model, make_job())
    assert os.environ["NNCF_CI"] == "1"
    assert list(home.rglob("*")) == []
    assert capfd.readouterr() == ("", "")


def test_entropy_is_no_setting_of_this_engine() -> None:
    with pytest.raises(ValidationError, match="method"):
        TypeAdapter(QuantizeStaticNncf).validate_python({"calibration": {"method": "entropy"}})


def test_the_extra_that_brings_nncf_brings_what_it_runs_on() -> None:
    """NNCF imports onnxruntime for ONNX models, which its own metadata does not say; its version decides the statistics."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    brought = {re.split("[<>=]", entry)[0] for entry in project["dependencies"] + project["optional-dependencies"]["openvino"]}
    assert "onnxruntime" in QuantizeStaticNncf.libraries
    assert set(QuantizeStaticNncf.libraries) <= brought
