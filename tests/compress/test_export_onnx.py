from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from pydantic import TypeAdapter, ValidationError
from torch import nn

from accel.compress.export_onnx import ExportOnnx, Tolerance
from accel.contracts import Job
from accel.errors import ModelFault, PassFault
from accel.model import OnnxModel, Signature, TensorSpec, TorchModel

MakeJob = Callable[..., Job]


def spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, shape, dtype)


def image_model(module: nn.Module, *outputs: TensorSpec) -> TorchModel:
    return TorchModel(module=module.eval(), signature=Signature((spec("image", "batch", 1, 16, 16),), outputs))


def test_nodes_are_called_by_module_path(float_model: OnnxModel) -> None:
    names = [node.name for node in onnx.load(str(float_model.path)).graph.node]
    assert names[:4] == ["stem/Conv", "Relu", "layer1.0.conv1/Conv", "layer1.0.relu/Relu"]
    for owner in ("layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2", "layer2.0.down.0"):
        assert f"{owner}/Conv" in names, "a convolution fused with its batch norm is called like the convolution"
    assert {"layer1.0/Add", "layer1.0.relu/Relu_1", "fc/Gemm"} <= set(names)
    assert len(set(names)) == len(names)


def test_values_and_weights_are_called_like_their_layer(float_model: OnnxModel) -> None:
    graph = onnx.load(str(float_model.path)).graph
    conv = next(node for node in graph.node if node.name == "layer1.0.conv1/Conv")
    assert list(conv.input[1:]) == ["layer1.0.conv1.weight", "layer1.0.conv1.bias"]
    assert list(conv.output) == ["layer1.0.conv1/Conv"]
    assert [value.name for value in (*graph.input, *graph.output)] == ["image", "logits"]


def test_no_trace_of_the_machine_in_the_bytes(float_model: OnnxModel) -> None:
    content = float_model.path.read_bytes()
    for needle in (b".py", b"site-packages", b"stack_trace", b"forward", str(Path.cwd()).encode(), str(Path.home()).encode()):
        assert needle not in content
    model = onnx.load(str(float_model.path))
    assert model.producer_name == "pytorch" and model.producer_version == torch.__version__
    assert not model.metadata_props and not model.graph.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_the_batch_may_vary(float_model: OnnxModel, torch_model: TorchModel) -> None:
    session = onnxruntime.InferenceSession(str(float_model.path), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        x = np.random.default_rng(batch).standard_normal((batch, 1, 16, 16)).astype(np.float32)
        (found,) = session.run(None, {"image": x})
        with torch.no_grad():
            wanted = torch_model.module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_signature_is_the_models(float_model: OnnxModel, torch_model: TorchModel) -> None:
    assert float_model.signature == torch_model.signature
    onnx.checker.check_model(str(float_model.path), full_check=True)


def test_same_bytes_again(float_model: OnnxModel, torch_model: TorchModel, make_job: MakeJob) -> None:
    assert ExportOnnx()(torch_model, make_job()).path.read_bytes() == float_model.path.read_bytes()


def test_same_bytes_in_another_process_and_folder(tmp_path: Path, make_job: MakeJob) -> None:
    script = """
import torch
from pathlib import Path
from torch import nn
from accel.compress.export_onnx import ExportOnnx
from accel.contracts import Job
from accel.model import Signature, TensorSpec, TorchModel
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3)).eval()
model = TorchModel(module=net, signature=Signature((TensorSpec("image", ("batch", 1, 16, 16), "float32"),), ()))
ExportOnnx()(model, Job.local(Path.cwd()))
"""
    folder = tmp_path / "another folder"
    folder.mkdir()
    (folder / "script.py").write_text(script, encoding="utf-8")
    environment = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=True, env=environment
    )
    assert (done.stdout, done.stderr) == ("", ""), "the exporter's own noise stays inside"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 3))
    here = ExportOnnx()(image_model(net), make_job(task=None)).path
    assert (folder / "model.onnx").read_bytes() == here.read_bytes()


def test_the_module_is_left_as_it_was(make_job: MakeJob) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
    net.train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = TorchModel(module=net, signature=Signature((spec("image", "batch", 1, 16, 16),), ()))
    exported = ExportOnnx()(model, make_job())
    assert [part.training for part in net.modules()] == [True, True, False, True]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert exported.notes == ("the module was in training mode; exported in evaluation mode",)
    assert not any(node.op_type == "Dropout" for node in onnx.load(str(exported.path)).graph.node)


def test_checked_against_eager(make_job: MakeJob) -> None:
    class Drifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * self.calls

    with pytest.raises(
        PassFault, match=r"batch size \d: output 'scaled' differs by up to [\d.]+, more than the tolerance [\d.]+"
    ):
        ExportOnnx()(image_model(Drifting(), spec("scaled", "batch", 1, 16, 16)), make_job())


def test_a_constant_that_depends_on_the_batch_is_found(make_job: MakeJob) -> None:
    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float(len(np.zeros(int(x.shape[0]))))

    with pytest.raises(PassFault, match=r"axis 'batch' cannot vary"):
        ExportOnnx()(image_model(Counting()), make_job())


def test_a_wider_tolerance_lets_it_pass(make_job: MakeJob) -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1e-3 * torch.rand_like(x)

    with pytest.raises(PassFault, match=r"widen check\.atol"):
        ExportOnnx(check=Tolerance(rtol=0, atol=1e-6))(image_model(Noisy()), make_job(folder="a"))
    assert ExportOnnx(check=Tolerance(atol=0.1))(image_model(Noisy()), make_job(folder="b")).path.exists()


def test_data_dependent_control_flow_names_the_module(make_job: MakeJob) -> None:
    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), Gate()))
    with pytest.raises(PassFault, match=r"module '1\.1' \(Gate\): forward decides on the values of a tensor.*torch\.where"):
        ExportOnnx()(image_model(net), make_job())


@torch.library.custom_op("accel_tests::odd", mutates_args=())
def _odd(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@_odd.register_fake
def _odd_shape(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_an_unsupported_operator_names_it_and_the_module(make_job: MakeJob) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = torch.ops.accel_tests.odd(x)
            return out

    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), Odd()))
    with pytest.raises(PassFault, match=r"module '1\.1' \(Odd\): ONNX has no translation for accel_tests\.odd; replace"):
        ExportOnnx()(image_model(net), make_job())


def test_a_batch_that_forward_fixes_is_named(make_job: MakeJob) -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(2, 256)

    with pytest.raises(PassFault, match=r"input 'image': axis 'batch' cannot vary, because forward only works for size 2"):
        ExportOnnx()(image_model(Fixed()), make_job())


def test_not_a_number_in_the_weights_is_a_model_fault(make_job: MakeJob) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    net.state_dict()["1.bias"][2] = float("nan")
    with pytest.raises(ModelFault, match="'out' holds NaN or Inf"):
        ExportOnnx()(image_model(net, spec("out", "batch", 4)), make_job())


def test_several_inputs_and_outputs(make_job: MakeJob) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5, 3)

        def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            embedded = self.words(ids)
            return {"mean": embedded.mean(1) * scale, "longest": embedded.abs().amax(1)}

    inputs = (spec("ids", "batch", 6, dtype="int64"), spec("scale", "batch", 1))
    outputs = (spec("mean", "batch", 3), spec("longest", "batch", 3))
    exported = ExportOnnx()(TorchModel(module=Two().eval(), signature=Signature(inputs, outputs)), make_job(task=None))
    assert exported.signature == Signature(inputs, outputs)
    assert "words/Gather" in [node.name for node in onnx.load(str(exported.path)).graph.node]


def test_a_fixed_batch_stays_fixed(make_job: MakeJob) -> None:
    signature = Signature((spec("image", 4, 1, 16, 16),), ())
    exported = ExportOnnx()(TorchModel(module=nn.Flatten().eval(), signature=signature), make_job(task=None))
    assert exported.signature.inputs[0].shape == (4, 1, 16, 16)
    assert exported.signature.outputs[0].shape == (4, 256)


def test_a_wrong_number_of_outputs_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(PassFault, match=r"outputs"):
        ExportOnnx()(image_model(nn.Flatten(), spec("a", "batch", 256), spec("b", "batch", 256)), make_job())


def test_tied_weights_keep_both_names(make_job: MakeJob) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(256, 256)
            self.second = nn.Linear(256, 256)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.second(self.first(x.flatten(1)))
            return out

    graph = onnx.load(str(ExportOnnx()(image_model(Tied()), make_job()).path)).graph
    assert [node.name for node in graph.node if node.op_type == "Gemm"] == ["first/Gemm", "second/Gemm"]
    assert sum(numpy_helper.to_array(weight).shape == (256, 256) for weight in graph.initializer) == 1


@pytest.mark.parametrize("opset", [18, 20, 21])
def test_opset(opset: int, make_job: MakeJob) -> None:
    exported = ExportOnnx(opset=opset)(image_model(nn.Conv2d(1, 2, 3)), make_job())
    assert [(entry.domain, entry.version) for entry in onnx.load(str(exported.path)).opset_import] == [("", opset)]


def test_settings_are_checked_by_name() -> None:
    adapter = TypeAdapter(ExportOnnx)
    for field, bad in {"opset": 9, "check": {"rtol": -1}, "dynamic": True}.items():
        with pytest.raises(ValidationError, match=field):
            adapter.validate_python({field: bad})
