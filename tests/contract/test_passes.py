"""What every pass of the catalogue keeps, whoever wrote it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import nn

from accel import catalog
from accel.compress.export_onnx import ExportOnnx
from accel.compress.onnx_writing import load, write
from accel.contracts import Batch, Job, QuantizationProfile
from accel.model import OnnxModel, Signature, TensorSpec, TorchModel
from accel.onnx_file import require_finite, signature
from accel.steps import library_version

KEYS = sorted(catalog.passes())
CHANGES = {"prune", "sparsify", "finetune", "distill", "quantize/qat", "bn_reestimate"}
"""Passes after which a model computes something else, on purpose."""
HEAVY = ("torch", "onnx", "numpy", "onnxruntime", "openvino", "nncf", "onnxslim")
NEEDS = {"training", "calibration", "selection", "profile", "target", "teacher", "probe"}


NOT_HERE = {
    key: f"{key} needs {name}"
    for key in KEYS
    for name in catalog.load(catalog.passes()[key])().libraries
    if library_version(name) is None
}
"""Passes whose library is not installed."""


class ThisProcess:
    """A probe that compiles here, and for which all models are equally fast."""

    precision = "int8"
    identity: Mapping[str, Any] = {"target": "this process"}

    def latencies_ms(self, models: Sequence[Any], precision: str | None = None) -> list[float]:
        return [1.0 for _ in models]

    @contextmanager
    def compiling(self) -> Iterator[Any]:
        @contextmanager
        def compiled(model: OnnxModel) -> Iterator[Any]:
            yield lambda inputs: execute(model.path, inputs)

        yield compiled


class Data:
    """Real enough to train on: 64 labelled images of noise."""

    def has(self, split: str) -> bool:
        return split in ("training", "calibration")

    def digest(self, split: str) -> str:
        return "64 images of noise"

    def count(self, split: str) -> int:
        return 64

    def calibration(self) -> Iterable[Batch]:
        yield Batch({"image": np.random.default_rng(0).standard_normal((8, 1, 12, 12)).astype(np.float32)})

    def training(self) -> Iterable[Batch]:
        images = np.random.default_rng(1).standard_normal((64, 1, 12, 12)).astype(np.float32)
        for first in range(0, 64, 16):
            yield Batch({"image": images[first : first + 16]}, np.arange(first, first + 16, dtype=np.int64) % 4)


def execute(path: Path, inputs: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: Sequence[NDArray[Any]] = session.run(None, dict(inputs))
    return outputs


def job_in(folder: Path, teacher: TorchModel | None = None) -> Job:
    folder.mkdir()
    profile = QuantizationProfile("uint8", False, "per_channel", "int32", True, "onnxruntime")
    return Job.local(
        folder,
        Data(),  # type: ignore[arg-type]
        profile=profile,
        execute=execute,
        teacher=teacher,
        probe=ThisProcess(),
    )


@pytest.fixture(scope="module")
def torch_model() -> TorchModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(512, 4))
    spec = TensorSpec("image", ("batch", 1, 12, 12), "float32"), TensorSpec("logits", ("batch", 4), "float32")
    return TorchModel(module=net.eval(), signature=Signature(spec[:1], spec[1:]))


@pytest.fixture(scope="module")
def onnx_model(torch_model: TorchModel, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """The exported net with an Identity in front of its output, so that there is something to simplify."""
    folder = tmp_path_factory.mktemp("exported")
    model = ExportOnnx()(torch_model, Job.local(folder, execute=execute))
    proto = load(model.path)
    proto.graph.node[-1].output[0] = "before"
    identity = proto.graph.node.add(op_type="Identity", name="last/Identity", input=["before"], output=["logits"])
    assert identity.output
    write(proto, model.path)
    return model


def model_for(step: Any, torch_model: TorchModel, onnx_model: OnnxModel) -> TorchModel | OnnxModel:
    takes = get_type_hints(type(step).__call__)["model"]
    return torch_model if takes is TorchModel else onnx_model


def state_of(model: TorchModel | OnnxModel) -> str:
    if isinstance(model, OnnxModel):
        return hashlib.sha256(model.path.read_bytes()).hexdigest()
    total = hashlib.sha256()
    for name, value in model.module.state_dict().items():
        total.update(name.encode() + value.numpy().tobytes())
    total.update(repr([(part.training, len(part._forward_hooks)) for part in model.module.modules()]).encode())
    total.update(repr((model.edits, [parameter.requires_grad for parameter in model.module.parameters()])).encode())
    return total.hexdigest()


def outputs_of(model: TorchModel | OnnxModel, inputs: NDArray[np.float32]) -> NDArray[Any]:
    if isinstance(model, OnnxModel):
        return np.asarray(execute(model.path, {"image": inputs})[0])
    with torch.no_grad():
        return np.asarray(model.module(torch.from_numpy(inputs)).numpy())


@pytest.mark.parametrize("key", KEYS)
def test_importing_it_imports_nothing_heavy(key: str) -> None:
    script = (
        f"import sys; from accel import catalog; step = catalog.load({catalog.passes()[key]!r})(); "
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]; assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("key", KEYS)
def test_it_declares_what_the_contract_asks_for(key: str) -> None:
    step = catalog.load(catalog.passes()[key])()
    assert isinstance(step.needs, frozenset) and step.needs <= NEEDS
    assert isinstance(step.version, int) and step.version >= 1
    assert step.libraries and all(isinstance(name, str) for name in step.libraries)
    hints = get_type_hints(step.__call__)
    assert hints["model"] in (TorchModel, OnnxModel) and hints["return"] in (TorchModel, OnnxModel) and hints["job"] is Job


@pytest.mark.parametrize("key", KEYS)
def test_it_is_frozen_settings_that_survive_a_round_trip(key: str) -> None:
    cls = catalog.load(catalog.passes()[key])
    step = cls()
    assert is_dataclass(step)
    adapter = TypeAdapter(cls)
    assert adapter.validate_python(adapter.dump_python(step)) == step
    assert adapter.validate_json(adapter.dump_json(step)) == step
    assert hash(step) == hash(cls())
    for field in fields(step):
        with pytest.raises(AttributeError):
            setattr(step, field.name, None)


@pytest.mark.parametrize("key", KEYS)
def test_bad_settings_name_the_field(key: str) -> None:
    cls = catalog.load(catalog.passes()[key])
    adapter = TypeAdapter(cls)
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python({"no_such_setting": 1})
    assert caught.value.errors()[0]["loc"] == ("no_such_setting",)
    for field in fields(cls):
        with pytest.raises(ValidationError) as caught:
            adapter.validate_python({field.name: object()})
        assert caught.value.errors()[0]["loc"][0] == field.name


@pytest.mark.parametrize("key", KEYS)
def test_it_leaves_its_input_alone_and_its_output_runs_with_the_same_signature(
    key: str, torch_model: TorchModel, onnx_model: OnnxModel, tmp_path: Path
) -> None:
    if key in NOT_HERE:
        pytest.skip(NOT_HERE[key])
    step = catalog.load(catalog.passes()[key])()
    model = model_for(step, torch_model, onnx_model)
    before = state_of(model)
    job = job_in(tmp_path / "step", torch_model)
    result = step(model, job)
    assert state_of(model) == before
    assert result.signature == model.signature
    if isinstance(result, TorchModel):
        assert isinstance(model, TorchModel)
        assert result.module is not model.module and result.origin == model.origin
        assert not any(part.training for part in result.module.modules())
    else:
        assert result.path.is_relative_to(job.folder)
        assert signature(load(result.path)) == model.signature
        require_finite(result.path)
    x = np.random.default_rng(3).standard_normal((3, 1, 12, 12)).astype(np.float32)
    found, wanted = outputs_of(result, x), outputs_of(torch_model, x)
    assert found.shape == (3, 4) and np.isfinite(found).all()
    if key not in CHANGES:
        assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)


@pytest.mark.parametrize("key", KEYS)
def test_same_seed_same_bytes(key: str, torch_model: TorchModel, onnx_model: OnnxModel, tmp_path: Path) -> None:
    if key in NOT_HERE:
        pytest.skip(NOT_HERE[key])
    step = catalog.load(catalog.passes()[key])()
    model = model_for(step, torch_model, onnx_model)
    first = step(model, job_in(tmp_path / "first", torch_model))
    again = step(model, replace(job_in(tmp_path / "again folder", torch_model), seed=0))
    assert state_of(first) == state_of(again)
    assert first.notes == again.notes
