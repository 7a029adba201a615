from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import nn

from accel.accelerate.eager import Eager
from accel.accelerate.eager_module import EagerRunner, cuda_problem, ordered_outputs, save_weights
from accel.errors import BackendFault, MissingBackend, ModelFault
from accel.model import OnnxModel, Signature, Target, TensorSpec, TorchModel

ONE = Signature((TensorSpec("x", ("batch", 4), "float32"),), (TensorSpec("y", ("batch", 4), "float32"),))
TWO = Signature(ONE.inputs, (TensorSpec("first", ("batch", 4), "float32"), TensorSpec("second", ("batch", 4), "float32")))


class Calls(nn.Module):
    """A module whose forward pass is a function."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.function(*inputs)


def compiled(module: nn.Module, signature: Signature = ONE, **changes: Any) -> EagerRunner:
    model = TorchModel(module=module.eval(), signature=signature)
    return Eager().compile(model, Target(name="t", backend="eager", **changes), Path())


X = {"x": np.array([[1.0, -2.0, 3.0, -4.0]], np.float32)}


@pytest.mark.parametrize(
    "result",
    [
        lambda x: (x + 1, x + 2),
        lambda x: [x + 1, (x + 2,)],
        lambda x: {"first": x + 1, "second": x + 2},
        lambda x: {"second": x + 2, "first": x + 1},
        lambda x: OrderedDict(second=x + 2, first=x + 1),
        lambda x: {"a": x + 1, "none": None, "b": {"c": x + 2}},
    ],
    ids=["tuple", "nested list", "dict", "dict in another order", "ordered dict", "dict of other names"],
)
def test_outputs_follow_the_signature(result: Callable[..., object]) -> None:
    with compiled(Calls(result), TWO) as runner:
        first, second = runner(X)
    np.testing.assert_array_equal(first, X["x"] + np.float32(1))
    np.testing.assert_array_equal(second, X["x"] + np.float32(2))


def test_too_few_outputs_are_told() -> None:
    with compiled(Calls(lambda x: x), TWO) as runner, pytest.raises(ModelFault, match=r"gives 1 tensors.*2 \(first, second\)"):
        runner(X)
    with pytest.raises(ModelFault):
        ordered_outputs("no tensor", ONE)


def test_inputs_go_by_name_in_the_signatures_order() -> None:
    signature = Signature((TensorSpec("ids", ("batch",), "int64"), TensorSpec("x", ("batch", 4), "float32")), ONE.outputs)
    with compiled(Calls(lambda ids, x: x[ids]), signature) as runner:
        x = np.arange(8, dtype=np.float32).reshape(2, 4)
        (y,) = runner({"x": x, "ids": np.array([1, 1])})
    np.testing.assert_array_equal(y, x[[1, 1]])


def test_a_module_that_works_in_place_or_hands_out_its_buffers_does_no_harm() -> None:
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.ones(1, 4))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.relu_(x), self.get_buffer("kept")

    module = Holding()
    with compiled(module, TWO) as runner:
        given = {"x": X["x"].copy()}
        first, second = runner(given)
        np.testing.assert_array_equal(given["x"], X["x"])
        np.testing.assert_array_equal(first, [[1, 0, 3, 0]])
        np.asarray(second)[:] = 7
        assert module.get_buffer("kept").tolist() == [[1.0] * 4]


def test_no_gradients_are_kept() -> None:
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.is_inference_mode_enabled())
        return x + 0

    with compiled(Calls(look)) as runner:
        runner(X)
    assert seen == [True]


def test_threads_and_fp32_mode_are_put_back() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with compiled(nn.Linear(4, 4), threads=before[0] + 1) as runner:
            assert torch.get_num_threads() == runner.threads == before[0] + 1
            assert torch.get_float32_matmul_precision() == "highest"
        assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (before[0], "medium")
    finally:
        torch.set_float32_matmul_precision(before[1])


def test_what_ran_is_told_from_what_was_dispatched() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                result: torch.Tensor = self.linear(x)
            return result.float()

    with compiled(nn.Linear(4, 4)) as runner:
        found = runner.executed_precision()
        assert (found.float_precision, found.notes) == ("fp32", ())
        assert found.operators["addmm"] == 1
    with compiled(Half()) as runner:
        assert runner.executed_precision().float_precision == "bf16"


IMAGE = Signature(
    (TensorSpec("x", ("batch", 3, "height", "width"), "float32"),), (TensorSpec("y", ("batch", 3, "h", "w"), "float32"),)
)


class Deep(nn.Module):
    """Takes no image below 8x8, as most convolutional networks do not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 8)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(x.shape))
        result: torch.Tensor = self.conv(x)
        return result


def test_any_height_and_width_are_counted_on_inputs_that_were_really_given() -> None:
    module = Deep()
    with compiled(module, IMAGE) as runner:
        for size in (12, 9):
            runner({"x": np.ones((2, 3, size, size), np.float32)})
        found = runner.executed_precision()
    assert (found.float_precision, found.operators["convolution"]) == ("fp32", 1)
    assert module.sizes == [(2, 3, 12, 12), (2, 3, 9, 9), (2, 3, 12, 12)]


def test_before_any_call_of_unknown_size_the_way_out_is_told() -> None:
    with compiled(Deep(), IMAGE) as runner, pytest.raises(BackendFault, match=r"x is batchx3xheightxwidth: run the model once"):
        runner.executed_precision()


def test_a_module_in_training_mode_is_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).eval()
    module[1].train()
    with pytest.raises(ModelFault, match=r"^1 is in training mode"):
        Eager().compile(TorchModel(module=module, signature=ONE), Target(name="t", backend="eager"), Path())


def test_an_error_of_the_module_is_a_fault() -> None:
    def fail(x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("in the forward pass")

    with compiled(Calls(fail)) as runner, pytest.raises(BackendFault, match="ZeroDivisionError: in the forward pass"):
        runner(X)


def test_an_onnx_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendFault, match="not an ONNX file"):
        Eager().deploy(OnnxModel(path=tmp_path / "a.onnx", signature=ONE), Target(name="t", backend="eager"), tmp_path)


def test_weights_are_shipped_and_read_back(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    model = TorchModel(module=module, signature=ONE)
    assert Eager().deploy(model, Target(name="t", backend="eager"), tmp_path) is model
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        assert torch.equal(found[name], value)


def test_tied_and_strided_weights_are_shipped(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.Linear(4, 4, bias=False)
            self.out = nn.Linear(4, 4, bias=False)
            self.out.weight = self.into.weight
            self.conv = nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    module = Tied()
    save_weights(module, tmp_path / "model.safetensors")
    again = Tied()
    load_model(again, tmp_path / "model.safetensors")
    assert torch.equal(again.out.weight, module.into.weight)
    assert torch.equal(again.conv.weight, module.conv.weight)


@pytest.mark.parametrize(
    ("cuda", "available", "said"),
    [(None, False, "for CPUs only"), ("13.0", False, "its driver is new enough"), ("13.0", True, None)],
    ids=["CPU build", "no GPU or driver mismatch", "all there"],
)
def test_gpu(cuda: str | None, available: bool, said: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    sentence = cuda_problem()
    assert (sentence is None) is (said is None)
    if said is not None:
        assert said in (sentence or "")
        with pytest.raises(MissingBackend, match=said):
            compiled(nn.Identity(), device="gpu")


def test_a_call_warns_of_nothing() -> None:
    given = {"x": X["x"].copy()}
    given["x"].flags.writeable = False
    with compiled(nn.Linear(4, 4)) as runner, warnings.catch_warnings(record=True) as caught:
        runner(given)
    assert caught == []
