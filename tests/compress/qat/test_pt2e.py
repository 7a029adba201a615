"""The core of quantization-aware training, with torchao's and torch's traps in it, and what the exported file runs."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from accel.compress.edits import add_edit_, edits_of, masks_of, replay_
from accel.compress.export_onnx import ExportOnnx
from accel.compress.qat import pt2e
from accel.compress.qat.module import QuantizeAwareModule, fake_quantizers
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.simplify import Simplify
from accel.contracts import Job, QuantizationProfile
from accel.errors import ModelFault, PassFault
from accel.model import Masks, OnnxModel, QuantizeAware, Signature, Target, TensorSpec, TorchModel
from accel.onnx_graph import quantization

Array = NDArray[Any]
MakeJob = Callable[..., Job]
IMAGE = TensorSpec("image", ("batch", 1, 16, 16), "float32")
SIGNATURE = Signature((IMAGE,), (TensorSpec("logits", ("batch", 10), "float32"),))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.0, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 24, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 16, 24) * 0.1)
        self.blocks = nn.Sequential(Attention(24))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        out: Tensor = self.head(self.blocks(x).mean(1))
        return out


class Squeeze(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down = nn.Conv2d(width, 5, 1)
        self.up = nn.Conv2d(5, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * nn.functional.hardsigmoid(self.up(torch.relu(self.down(self.pool(x)))))


class Mobile(nn.Module):
    """Odd widths, as pruning leaves them; batch norms with eps 1e-3; in-place clips; SiLU; a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 13, 3, 1, 1, bias=False), nn.BatchNorm2d(13, eps=1e-3), nn.ReLU6(inplace=True))
        self.deep = nn.Sequential(
            nn.Conv2d(13, 13, 3, 1, 1, groups=13, bias=False), nn.BatchNorm2d(13, eps=1e-3), nn.ReLU6(inplace=True)
        )
        self.squeeze = Squeeze(13)
        self.project = nn.Sequential(nn.Conv2d(13, 13, 1, bias=False), nn.BatchNorm2d(13, eps=1e-3))
        self.left = nn.Sequential(nn.Conv2d(13, 7, 3, 2, 1), nn.SiLU())
        self.right = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project(self.squeeze(self.deep(x)))
        x = torch.cat([self.left(x), self.right(x)], 1)
        out: Tensor = self.head(self.drop(x.mean((2, 3))))
        return out


def randomized(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
    return module.eval()


def quantized_on(
    net: nn.Module, images: Array, profile: QuantizationProfile, signature: Signature = SIGNATURE, ignored: Sequence[str] = ()
) -> QuantizeAwareModule:
    module, _ = pt2e.prepared(net, signature, profile, ignored)
    assert module.calibrate_([(torch.from_numpy(images),)]) == 1
    return module


def outputs_of(module: nn.Module, images: Array) -> Array:
    with torch.no_grad():
        found: Array = module(torch.from_numpy(images)).numpy()
    return found


def exported(module: nn.Module, make_job: MakeJob, signature: Signature = SIGNATURE) -> OnnxModel:
    """Raises PassFault where the file's outputs are not the module's."""
    return ExportOnnx()(TorchModel(module=module, signature=signature), make_job(folder="exported"))


def executed(path: Path) -> Counter[str]:
    """Operators in the graph that ONNX Runtime runs, on one CPU thread."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "executed.onnx")
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def on_openvino(model: OnnxModel, images: Array, folder: Path) -> tuple[int, int, Array]:
    """Operators that the file quantizes, those that ran in INT8, and the outputs; compiled for exactly this batch."""
    from accel.accelerate.openvino_model import OpenVino

    with OpenVino().compile(model, Target("t", "openvino", batch=len(images)), folder) as runner:
        outputs = np.asarray(runner({"image": images})[0])
        precision = runner.executed_precision()
    return precision.quantized_operators, precision.int8_operators, outputs


def constants(model: OnnxModel) -> Mapping[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(model.path)).graph.initializer}


def distance(found: Array, wanted: Array) -> float:
    """Largest difference, in parts of the largest value."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_a_residual_net_runs_in_int8_where_the_static_quantizers_file_does(
    torch_model: TorchModel, float_model: OnnxModel, make_job: MakeJob, images: Array, cpu: QuantizationProfile, tmp_path: Path
) -> None:
    module = quantized_on(torch_model.module, images, cpu)
    model = exported(module, make_job)
    static = QuantizeStaticOnnxRuntime()(float_model, make_job(folder="static"))
    assert executed(model.path) == executed(static.path)
    assert executed(model.path)["QLinearConv"] == 6 and executed(model.path)["QGemm"] == 1
    wanted = outputs_of(module, images)
    assert distance(wanted, outputs_of(torch_model.module, images)) < 0.05
    count, int8, found = on_openvino(model, images, tmp_path)
    assert count == int8 == 7
    assert distance(found, wanted) < 0.03
    assert model.signature == SIGNATURE, "the batch may still vary"

    def names(path: Path) -> list[str]:
        nodes = onnx.load(str(path)).graph.node
        return sorted(node.name for node in nodes if node.op_type in ("Conv", "Gemm", "Add", "Relu"))

    float_names = [name for name in names(float_model.path) if not name.endswith("Identity")]
    assert names(model.path) == float_names
    assert model.path.stat().st_size < static.path.stat().st_size * 1.05
    onnx.checker.check_model(str(model.path), full_check=True)


def test_depthwise_squeeze_excite_silu_and_concat_with_odd_widths_run_in_int8(
    make_job: MakeJob, images: Array, cpu: QuantizationProfile, tmp_path: Path
) -> None:
    net = randomized(Mobile())
    module = quantized_on(net, images, cpu)
    wanted = outputs_of(module, images)
    assert distance(wanted, outputs_of(net, images)) < 0.06
    model = exported(module, make_job)
    ran = executed(model.path)
    assert ran["QLinearConv"] == 6 and ran["QGemm"] == 1 and ran["QLinearAdd"] == 1 and ran["QLinearConcat"] == 1
    assert ran["QLinearMul"] == 2, "the gate, and SiLU's own product"
    assert not {"Conv", "FusedConv", "Gemm", "Clip", "Relu", "Add"} & set(ran)
    count, int8, found = on_openvino(model, images, tmp_path)
    assert count == int8 == 7 and distance(found, wanted) < 0.03


def test_a_transformer_runs_its_products_in_int8_and_its_residual_stream_in_float(
    make_job: MakeJob, images: Array, cpu: QuantizationProfile, tmp_path: Path
) -> None:
    net = randomized(Transformer())
    module = quantized_on(net, images, cpu)
    wanted = outputs_of(module, images)
    assert distance(wanted, outputs_of(net, images)) < 0.06
    model = exported(module, make_job)
    ran = executed(model.path)
    assert not {"MatMul", "FusedMatMul", "Gemm", "Conv", "QLinearAdd"} & set(ran)
    assert ran["QLinearConv"] + ran["QGemm"] + ran["QLinearMatMul"] + ran["MatMulIntegerToFloat"] == 1 + 1 + 6
    assert ran["LayerNormalization"] + ran["SkipLayerNormalization"] == 2
    # Equal zero points of two layers must stay apart, through simplify too: OpenVINO runs those that share one in float.
    for number, shipped in enumerate((model, Simplify()(model, make_job(folder="simplified")))):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, int8, found = on_openvino(shipped, images, folder)
        assert int8 == 6 and distance(found, wanted) < 0.06


def test_the_tensorrt_dialect_is_signed_and_symmetric_with_a_float_bias(
    torch_model: TorchModel, make_job: MakeJob, images: Array, tensorrt: QuantizationProfile
) -> None:
    module = quantized_on(torch_model.module, images, tensorrt)
    model = exported(module, make_job)
    graph = onnx.load(str(model.path)).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    assert {tensor.data_type for tensor in graph.initializer} <= {TensorProto.INT8, TensorProto.FLOAT, TensorProto.INT64}
    zeros = [weights[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert zeros and all(zero.data_type == TensorProto.INT8 and not numpy_helper.to_array(zero).any() for zero in zeros)
    readers = [node.op_type for node in graph.node for value in node.input if value.endswith("_dequantized")]
    assert set(readers) <= {"Conv", "Gemm", "Add", "ReduceMean"}
    assert not quantization(onnx.load(str(model.path))).floating


def test_scales_for_all_channels_together_where_the_profile_wants_them(
    torch_model: TorchModel, make_job: MakeJob, images: Array, cpu: QuantizationProfile
) -> None:
    module = quantized_on(torch_model.module, images, replace(cpu, weight_granularity="per_tensor"))
    model = exported(module, make_job)
    scales = {name: value.size for name, value in constants(model).items() if name.endswith("weight_scale")}
    assert len(scales) == 7 and set(scales.values()) == {1}
    assert distance(outputs_of(module, images), outputs_of(torch_model.module, images)) < 0.1


def test_converted_computes_exactly_what_the_fake_quantized_module_does(images: Array, cpu: QuantizationProfile) -> None:
    module = quantized_on(randomized(Mobile()), images, cpu)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    converted = pt2e.converted(module)
    assert distance(outputs_of(converted, images), outputs_of(module, images)) < 0.01
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items()), "it converts a copy"
    converted.train().eval()  # torchao's own raises


def test_a_batch_norm_keeps_its_eps_and_momentum(images: Array, cpu: QuantizationProfile) -> None:
    """torchao's ``prepare_qat_pt2e`` writes eps 1e-5 and momentum 0.1 over them (its TODO in qat_utils.py)."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=0.5, momentum=0.75), nn.Flatten(), nn.Linear(784, 10))
    module = quantized_on(randomized(net), images, cpu)
    assert distance(outputs_of(module, images), outputs_of(net, images)) < 0.03
    assert distance(outputs_of(pt2e.converted(module), images), outputs_of(module, images)) < 1e-3
    module.train()(torch.from_numpy(images))
    net.train()(torch.from_numpy(images))
    mine = dict(module.named_buffers())["graph.1.running_var"]
    assert isinstance(net[1], nn.BatchNorm2d) and net[1].running_var is not None
    assert torch.allclose(mine, net[1].running_var, rtol=0.02)


def test_a_gamma_of_zero_trains_and_exports(make_job: MakeJob, images: Array, cpu: QuantizationProfile) -> None:
    """Zero-initialised last norms of residual blocks: torchao divides by gamma and gives NaN."""
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(1176, 10))
    randomized(net)
    assert isinstance(net[1], nn.BatchNorm2d)
    with torch.no_grad():
        net[1].weight[:2] = 0.0
        net[1].weight[2] = -1.0
    module = quantized_on(net, images, cpu)
    assert distance(outputs_of(module, images), outputs_of(net, images)) < 0.05
    model = exported(module, make_job)
    assert not constants(model)["0.weight_quantized"][:2].any()
    module.train()
    module(torch.from_numpy(images)).square().mean().backward()
    gradient = dict(module.named_parameters())["graph.1.weight"].grad
    assert gradient is not None and torch.isfinite(gradient).all() and gradient[0] != 0


def test_a_filter_of_one_sign_keeps_a_zero_point_of_zero(images: Array, cpu: QuantizationProfile) -> None:
    """torch's fused fake quantizer makes it affine, with a zero point of -127, and the convolution three times slower."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(576, 10)).eval()
    assert isinstance(net[2], nn.Conv2d)
    with torch.no_grad():
        net[2].weight.abs_()
    module = quantized_on(net, images, cpu)
    weights = [part for part in fake_quantizers(module) if part.is_per_channel]
    assert len(weights) == 3 and not any(part.zero_point.any() for part in weights)


def test_dead_channels_and_large_biases_fit_into_int32(make_job: MakeJob, images: Array, cpu: QuantizationProfile) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10)).eval()
    assert isinstance(net[0], nn.Conv2d) and net[0].bias is not None
    with torch.no_grad():
        net[0].weight[0] = 0.0
        net[0].weight[1] = 1e-9
        net[0].bias[:2] = torch.tensor([30.0, 300.0])
    module = quantized_on(net, images, cpu)
    model = exported(module, make_job)
    found = constants(model)
    bias = found["0.bias_quantized"].astype(np.float64) * found["0.bias_scale"]
    assert np.allclose(bias[:2], [30.0, 300.0], rtol=1e-4)
    assert distance(outputs_of(module, images), outputs_of(net, images)) < 0.05


def test_ranges_move_in_training_only_and_stay_once_frozen(images: Array, cpu: QuantizationProfile) -> None:
    """torchao's observers follow the values in evaluation mode as well."""
    module = quantized_on(randomized(Mobile()), images, cpu)
    wild = torch.from_numpy(images * 50)

    def ranges() -> list[float]:
        return [float(part.activation_post_process.max_val.max()) for part in fake_quantizers(module)]

    start = ranges()
    module(wild)
    assert ranges() == start
    module.train()(wild)
    moved = ranges()
    assert sum(one != two for one, two in zip(start, moved, strict=True)) > 5
    module.freeze_observers_()
    module(wild)
    assert ranges() == moved
    norm = dict(module.named_buffers())["graph.stem.1.running_mean"].clone()
    module(wild)
    assert not torch.equal(norm, dict(module.named_buffers())["graph.stem.1.running_mean"])
    module.freeze_batch_norm_()
    norm = dict(module.named_buffers())["graph.stem.1.running_mean"].clone()
    module(wild)
    assert torch.equal(norm, dict(module.named_buffers())["graph.stem.1.running_mean"])


def test_modes_switch_dropout_and_batch_norm_however_they_are_set(images: Array, cpu: QuantizationProfile) -> None:
    """``train()`` of what torch.export gives raises; and some code restores modes through the attribute."""
    module = quantized_on(randomized(Mobile()), images, cpu)
    x = torch.from_numpy(images)
    assert torch.equal(module(x), module(x))
    parent = nn.Sequential(module).train()
    assert not torch.equal(parent(x), parent(x)), "dropout"
    for part in module.modules():
        part.training = False
    assert torch.equal(module(x), module(x))


def test_calibration_makes_the_scales_before_the_first_call(images: Array, cpu: QuantizationProfile) -> None:
    """The fused kernel makes scales of the ranges only while it quantizes: they would be 1 until then."""
    module = quantized_on(randomized(Mobile()), images, cpu)
    converted = outputs_of(pt2e.converted(module), images)
    assert distance(converted, outputs_of(module, images)) < 0.01


def test_a_copy_is_independent_and_the_edit_rebuilds_it_for_strict_loading(images: Array, cpu: QuantizationProfile) -> None:
    net = randomized(Mobile())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    module = quantized_on(net, images, cpu, ignored=["squeeze"])
    twin = copy.deepcopy(module).train()
    optimizer = torch.optim.SGD(twin.parameters(), 0.05)
    for _ in range(2):
        twin(torch.from_numpy(images)).square().mean().backward()
        optimizer.step()
    twin.eval()
    assert not np.array_equal(outputs_of(twin, images), outputs_of(module, images))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "net stays as it was"
    (edit,) = edits_of(twin)
    assert isinstance(edit, QuantizeAware)
    again = replay_(randomized(Mobile()), [edit], SIGNATURE)
    wanted = {name: value.shape for name, value in twin.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == wanted
    again.load_state_dict(twin.state_dict(), strict=True)
    assert np.array_equal(outputs_of(again, images), outputs_of(twin, images))
    original = {f"graph.{name}" for name, _ in net.named_parameters()}
    assert original <= set(wanted), "parameters keep their names"


def test_another_version_of_torchao_is_refused_naming_both(cpu: QuantizationProfile) -> None:
    module, _ = pt2e.prepared(randomized(Mobile()), SIGNATURE, cpu)
    (edit,) = edits_of(module)
    assert isinstance(edit, QuantizeAware)
    with pytest.raises(ModelFault, match=r"torchao 0\.0\.1.*here are torch .* and torchao 0\.\d"):
        pt2e.prepare(Mobile(), SIGNATURE, replace(edit, torchao="0.0.1"))


def test_masked_weights_are_found_and_are_zero_in_the_file(make_job: MakeJob, images: Array, cpu: QuantizationProfile) -> None:
    net = randomized(Mobile())
    weight = dict(net.named_parameters())["left.0.weight"]
    with torch.no_grad():
        weight[:, ::2] = 0.0
    add_edit_(net, Masks("unstructured", ("left.0.weight",)))
    module = quantized_on(net, images, cpu)
    masks = masks_of(module)
    assert list(masks) == ["graph.left.0.weight"] and not masks["graph.left.0.weight"][:, ::2].any()
    integers = constants(exported(module, make_job))["left.0.weight_quantized"]
    assert not integers[:, ::2].any() and integers[:, 1::2].any()


def test_a_weight_used_twice_is_folded_with_each_batch_norm(images: Array, cpu: QuantizationProfile) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 6, 1)
            self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
            self.one = nn.BatchNorm2d(6)
            self.two = nn.BatchNorm2d(6)
            self.head = nn.Linear(6, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.one(self.conv(self.stem(x))))
            x = torch.relu(self.two(self.conv(x)))
            out: Tensor = self.head(x.mean((2, 3)))
            return out

    net = randomized(Twice())
    module = quantized_on(net, images, cpu)
    assert distance(outputs_of(module, images), outputs_of(net, images)) < 0.05
    assert distance(outputs_of(pt2e.converted(module), images), outputs_of(module, images)) < 0.01


def test_a_write_in_place_is_seen_by_who_reads_later(images: Array, cpu: QuantizationProfile) -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 6, 3)
            self.head = nn.Linear(1176, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            nn.functional.relu_(x)
            x += 1.0
            out: Tensor = self.head(x.flatten(1))
            return out

    net = Writes().eval()
    module = quantized_on(net, images, cpu)
    assert distance(outputs_of(module, images), outputs_of(net, images)) < 0.05


def test_transposed_convolutions_and_norms_that_cannot_be_folded(images: Array, cpu: QuantizationProfile) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, 2, 1),
        nn.ReLU(),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 4, 2, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(1296, 10),
    )
    module, plan = pt2e.prepared(randomized(net), SIGNATURE, cpu)
    module.calibrate_([(torch.from_numpy(images),)])
    assert len(plan.weights) == 3
    assert plan.left == ["6 (conv_transpose2d) kept in floating point: a transposed convolution with groups"]
    assert distance(outputs_of(module, images), outputs_of(net, images)) < 0.05
    assert distance(outputs_of(pt2e.converted(module), images), outputs_of(module, images)) < 0.01


def test_bfloat16_around_it_leaves_ranges_in_float32(images: Array, cpu: QuantizationProfile) -> None:
    module = quantized_on(randomized(Mobile()), images, cpu).train()
    with torch.autocast("cpu", torch.bfloat16):
        module(torch.from_numpy(images)).float().square().mean().backward()
    assert all(part.activation_post_process.max_val.dtype is torch.float32 for part in fake_quantizers(module))
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_ignored_modules_stay_in_float_with_a_note(make_job: MakeJob, images: Array, cpu: QuantizationProfile) -> None:
    module, plan = pt2e.prepared(randomized(Mobile()), SIGNATURE, cpu, ["squeeze", "head"])
    module.calibrate_([(torch.from_numpy(images),)])
    assert [note.partition(" ")[0] for note in plan.left] == ["squeeze.down", "squeeze.up", "head"]
    floating = quantization(onnx.load(str(exported(module, make_job).path))).floating
    assert sorted(floating) == ["head/Gemm", "squeeze.down/Conv", "squeeze.up/Conv"]


def test_a_recurrent_layer_stays_in_float_with_a_note(cpu: QuantizationProfile) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(16, 8, batch_first=True)
            self.head = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.lstm(x.squeeze(1))[0][:, -1])
            return out

    _, plan = pt2e.prepared(Recurrent(), SIGNATURE, cpu)
    assert len(plan.weights) == 1
    assert [note for note in plan.left if "lstm" in note] == [
        "lstm (lstm) kept in floating point: this pass has no INT8 form of it"
    ]


def test_what_cannot_be_captured_is_refused_with_its_place(cpu: QuantizationProfile) -> None:
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    net = nn.Sequential(nn.Conv2d(1, 4, 3), Gate(), nn.Flatten(), nn.Linear(784, 10)).train()
    with pytest.raises(PassFault, match=r"quantize \(approach qat\): module '1' \(Gate\): forward decides on the values"):
        pt2e.prepared(net, SIGNATURE, cpu)
    assert all(part.training for part in net.modules())


def test_nothing_to_quantize_is_refused(cpu: QuantizationProfile) -> None:
    with pytest.raises(PassFault, match=r"changed nothing.*the model has none"):
        pt2e.prepared(nn.Sequential(nn.AvgPool2d(16), nn.Flatten()), SIGNATURE, cpu)
    module, _ = pt2e.prepared(randomized(Mobile()), SIGNATURE, cpu)
    with pytest.raises(PassFault, match="prepared already"):
        pt2e.prepared(module, SIGNATURE, cpu)
