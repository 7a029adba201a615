"""Faults 16, 19, 29 and 30 of the fault list, one case for each item that needs a real module."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model

from accel import code_digest
from accel.errors import AccelError, ModelFault, SafetyRefusal, UsageError
from accel.imports import ImportPolicy
from accel.model import Origin, TensorSpec, TorchModel
from accel.origin import build, torch_model, torch_origin

X = (TensorSpec("x", ("batch", 4), "float32"),)
NETS = """
import torch
from torch import nn
from typing import NamedTuple

class Linear(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.fc = nn.Linear(4, width)
    def forward(self, x):
        return self.fc(x)

class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor

class Shaped(Linear):
    def __init__(self, kind="tensor"):
        super().__init__()
        self.kind = kind
    def forward(self, x):
        y = self.fc(x)
        return {
            "tensor": lambda: y,
            "tuple": lambda: (y, y[:, :1]),
            "nested": lambda: (y, [y, {"deep": y}]),
            "dict": lambda: {"logits": y, "x": x},
            "named": lambda: Pair(y, y),
            "none": lambda: (y, None),
            "string": lambda: "logits",
            "empty": lambda: (),
            "complex": lambda: torch.complex(y, y),
            "bool": lambda: y > 0,
            "int": lambda: y.argmax(1),
            "bfloat16": lambda: y.bfloat16(),
            "sparse": lambda: y.to_sparse(),
            "squeezed": lambda: y.squeeze(),
            "mixed": lambda: y - y.mean(0, keepdim=True),
            "random": lambda: nn.functional.dropout(y, 0.5, training=True),
            "nan": lambda: y / 0 * 0,
            "inf": lambda: y.abs() / 0,
            "raises": lambda: [][1],
            "exits": lambda: exit(3),
        }[self.kind]()

class Noisy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(2.0))
    def forward(self, ids):
        return self.head(self.embed(ids)) * self.scale

class Two(nn.Module):
    def forward(self, x, mask):
        return torch.where(mask, x, torch.zeros(())).sum(-1)

class Picture(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 9), nn.ReLU())

def constant(): return Shared(torch.ones(3, 4))

class Shared(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    def forward(self, x):
        return x @ self.weight.T

def zero(): return Shared(torch.zeros(3, 4))
def nan(): return Shared(torch.full((3, 4), float("nan")))
def meta():
    with torch.device("meta"):
        return Linear()
def lazy(): return nn.LazyLinear(3)
def number(): return 3
def fails(): raise ValueError("no such checkpoint")
def exits(): raise SystemExit(0)
built = Linear()
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> ImportPolicy:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "nets.py").write_text(NETS)
    return ImportPolicy(folder)


def origin(policy: ImportPolicy, name: str, weights: Path | None = None, **kwargs: Any) -> Origin:
    return torch_origin(factory=f"nets.py:{name}", kwargs=kwargs, weights=weights, policy=policy)


def made(
    policy: ImportPolicy, name: str, inputs: tuple[TensorSpec, ...] = X, weights: Path | None = None, **kwargs: Any
) -> TorchModel:
    return torch_model(origin(policy, name, weights, **kwargs), inputs, policy, seed=7)


def state() -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.arange(12.0).reshape(3, 4) / 10, "fc.bias": torch.ones(3)}


# -- the digest -----------------------------------------------------------------------------------------------------------


def test_origin_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("open('canary', 'w')\nraise SystemExit\n")
    found = torch_origin(factory="model.py:build", kwargs={}, weights=None, policy=ImportPolicy(tmp_path))
    assert found.factory == f"{tmp_path.resolve()}/model.py:build"
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]


def test_digest_follows_code_kwargs_and_weights_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "venv").mkdir()
    (folder / "venv" / "pyvenv.cfg").touch()
    (folder / "model.py").write_text("def build(): ...\n")
    weights = folder / "w.safetensors"
    weights.write_bytes(b"1")

    def digest(factory: str = "model.py:build", **kwargs: Any) -> str:
        return torch_origin(factory=factory, kwargs=kwargs, weights=weights, policy=ImportPolicy(folder)).digest

    first = digest(a=1, b=2)
    assert digest(b=2, a=1) == first
    for harmless in ("sub/notes.txt", ".hidden/x.py", "venv/x.py", "data.npz"):
        (folder / harmless).write_text("x = 1")
    assert digest(a=1, b=2) == first
    os.utime(folder / "model.py", (1, 1))
    assert digest(a=1, b=2) == first
    seen = {first, digest(a=1), digest("model.py:other", a=1, b=2)}
    (folder / "sub" / "block.py").write_text("x = 1")
    seen.add(digest(a=1, b=2))
    weights.write_bytes(b"2")
    seen.add(digest(a=1, b=2))
    assert len(seen) == 5
    other = folder.rename(tmp_path / "b")
    moved = torch_origin(
        factory="model.py:build", kwargs={"a": 1, "b": 2}, weights=other / "w.safetensors", policy=ImportPolicy(other)
    )
    assert moved.digest in seen


def test_files_beyond_the_cap_count_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_digest, "FILES_READ", 1)
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1")
    first = code_digest.of_folder(tmp_path)
    os.utime(tmp_path / "b.py", (1, 1))
    assert code_digest.of_folder(tmp_path) != first
    monkeypatch.setattr(code_digest, "FOLDERS_WALKED", 0)
    with pytest.raises(UsageError, match="folder of their own"):
        code_digest.of_folder(tmp_path)


def test_digest_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_digest.of_package("torch.nn").startswith("torch ")
    assert code_digest.of_package("json") == code_digest.of_package("os")
    (tmp_path / "loose_nets").mkdir()
    (tmp_path / "loose_nets" / "__init__.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    first = code_digest.of_package("loose_nets.models")
    (tmp_path / "loose_nets" / "models.py").write_text("x = 1")
    assert code_digest.of_package("loose_nets.models") != first
    with pytest.raises(UsageError, match="no_such_package"):
        code_digest.of_package("no_such_package.models")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, UsageError),
        ({"factory": "nets.py:Linear", "torchvision": "resnet18"}, UsageError),
        ({"factory": "os:system"}, SafetyRefusal),
        ({"factory": "../nets.py:Linear"}, SafetyRefusal),
        ({"torchvision": "ops:nms"}, UsageError),
        ({"factory": "nets.py:Linear", "weights": Path("absent.safetensors")}, UsageError),
    ],
)
def test_origins_that_cannot_be(policy: ImportPolicy, arguments: Mapping[str, Any], error: type[AccelError]) -> None:
    with pytest.raises(error):
        torch_origin(**{"weights": None, **arguments}, kwargs={}, policy=policy)


# -- building (fault 16's items that need a module) ----------------------------------------------------------------------


def test_weights_are_loaded_and_the_module_evaluates(policy: ImportPolicy, tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.safetensors")
    model = made(policy, "Linear", weights=tmp_path / "w.safetensors")
    assert torch.equal(model.module.get_parameter("fc.weight"), state()["fc.weight"])
    assert not model.module.training
    assert model.notes == ()
    assert model.origin is not None
    again = build(model.origin, policy, seed=99)
    assert torch.equal(again.get_parameter("fc.bias"), torch.ones(3))


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("number", ModelFault, "returned a int, not a torch.nn.Module"),
        ("fails", ModelFault, "no such checkpoint"),
        ("exits", ModelFault, r"sys.exit\(0\)"),
        ("built", UsageError, "built already"),
        ("absent", UsageError, "no 'absent'"),
        ("meta", ModelFault, "meta device"),
        ("lazy", ModelFault, "lazy"),
        ("nan", ModelFault, "'weight' holds NaN"),
    ],
)
def test_factories_that_do_not_give_a_module(policy: ImportPolicy, name: str, error: type[AccelError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        made(policy, name)
    assert "origin.py" not in str(caught.value)


def test_kwargs_that_do_not_fit(policy: ImportPolicy) -> None:
    with pytest.raises(UsageError, match="depth"):
        made(policy, "Linear", depth=3)


def test_random_weights_are_noted_and_follow_the_seed(policy: ImportPolicy) -> None:
    state_before = torch.get_rng_state()
    model = made(policy, "Linear")
    assert model.notes == ("weights are random (seed 7): no weights given, so its accuracy means nothing",)
    same = build(origin(policy, "Linear"), policy, seed=7)
    other = build(origin(policy, "Linear"), policy, seed=8)
    assert torch.equal(same.get_parameter("fc.weight"), model.module.get_parameter("fc.weight"))
    assert not torch.equal(other.get_parameter("fc.weight"), model.module.get_parameter("fc.weight"))
    assert torch.equal(torch.get_rng_state(), state_before)


def test_a_factory_that_brings_its_weights_is_not_called_random(policy: ImportPolicy) -> None:
    assert made(policy, "constant").notes == ()


def test_all_zero_weights_are_noted(policy: ImportPolicy) -> None:
    assert made(policy, "zero").notes == ("weight: all 12 weights are zero",)


def test_training_mode_is_left_and_noted(policy: ImportPolicy) -> None:
    model = made(policy, "Noisy")
    assert not model.module.training
    assert model.notes[0] == "the factory returned it in training mode; set to evaluation mode (BatchNorm1d, Dropout)"


# -- inputs and outputs (fault 30) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("tensor", [("output", ("batch", 3), "float32")]),
        ("tuple", [("output_0", ("batch", 3), "float32"), ("output_1", ("batch", 1), "float32")]),
        ("nested", [("output_0", ("batch", 3), "float32"), ("output_1.0", ("batch", 3), "float32"),
                    ("output_1.1.deep", ("batch", 3), "float32")]),
        ("dict", [("logits", ("batch", 3), "float32"), ("x_out", ("batch", 4), "float32")]),
        ("named", [("left", ("batch", 3), "float32"), ("right", ("batch", 3), "float32")]),
        ("bool", [("output", ("batch", 3), "bool")]),
        ("int", [("output", ("batch",), "int64")]),
    ],
)  # fmt: skip
def test_outputs_become_names_in_order(policy: ImportPolicy, kind: str, outputs: list[Any]) -> None:
    signature = made(policy, "Shaped", kind=kind).signature
    assert [(spec.name, spec.shape, spec.dtype) for spec in signature.outputs] == outputs
    assert signature.inputs == X


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("none", "'output_1' is a NoneType"),
        ("string", "is a str"),
        ("empty", "returns no tensor"),
        ("complex", "complex"),
        ("bfloat16", "numpy does not have"),
        ("sparse", "not a dense tensor"),
        ("squeezed", "squeeze"),
        ("mixed", "batch=1 against batch=4"),
        ("random", "two runs on the same input differ"),
        ("nan", "'output' holds NaN"),
        ("inf", "'output' holds Inf"),
        ("raises", "IndexError"),
        ("exits", r"sys.exit\(3\)"),
    ],
)
def test_outputs_that_are_refused_say_why(policy: ImportPolicy, kind: str, says: str) -> None:
    with pytest.raises(ModelFault, match=says) as caught:
        made(policy, "Shaped", kind=kind)
    assert str(caught.value).startswith("nets.py:Shaped")
    assert "module_signature.py" not in str(caught.value)


def test_a_wrong_input_shape_names_the_inputs(policy: ImportPolicy) -> None:
    with pytest.raises(ModelFault, match=r"x \['batch', 5\] float32"):
        made(policy, "Linear", (TensorSpec("x", ("batch", 5), "float32"),))


def test_tied_weights_buffers_and_integer_inputs(policy: ImportPolicy, tmp_path: Path) -> None:
    ids = (TensorSpec("ids", ("batch", "length"), "int64"),)
    model = made(policy, "Tied", ids)
    assert model.signature.outputs[0].shape == ("batch", "length", 10)
    save_model(model.module, str(tmp_path / "tied.safetensors"))  # stores the tied tensor once
    with torch.no_grad():
        expected = model.module(torch.tensor([[1, 2]]))
    again = made(policy, "Tied", ids, tmp_path / "tied.safetensors").module
    assert again.get_parameter("head.weight") is again.get_parameter("embed.weight")
    assert torch.equal(again(torch.tensor([[1, 2]])), expected)


def test_two_inputs_one_of_them_bool(policy: ImportPolicy) -> None:
    both = (TensorSpec("x", ("batch", 4), "float32"), TensorSpec("mask", ("batch", 4), "bool"))
    assert made(policy, "Two", both).signature.outputs[0].shape == ("batch",)


def test_an_axis_that_needs_some_size_and_is_changed_by_the_module(policy: ImportPolicy) -> None:
    picture = (TensorSpec("x", ("batch", 1, "height", 20), "float32"),)
    assert made(policy, "Picture", picture).signature.outputs[0].shape == ("batch", 4, "output_dim2", 12)


def test_a_fixed_batch_stays_fixed(policy: ImportPolicy) -> None:
    fixed = (TensorSpec("x", (2, 4), "float32"),)
    assert made(policy, "Linear", fixed).signature.outputs[0].shape == (2, 3)


def test_a_real_sample_is_used_instead_of_noise(policy: ImportPolicy) -> None:
    sample = {"ids": np.array([[9, 9]])}
    ids = (TensorSpec("ids", ("batch", 2), "int64"),)
    assert torch_model(origin(policy, "Tied"), ids, policy, 0, sample).signature.outputs[0].shape == ("batch", 2, 10)
    with pytest.raises(ModelFault, match="IndexError"):
        torch_model(origin(policy, "Tied"), ids, policy, 0, {"ids": np.array([[99, 0]])})


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ((), "model.inputs"),
        ((X[0], X[0]), "same name"),
        ((TensorSpec("x", (1, 4), "complex64"),), "two inputs"),
        ((TensorSpec("x", (1, 4), "bfloat16"),), "not supported"),
    ],
)
def test_inputs_that_no_runtime_takes(policy: ImportPolicy, inputs: tuple[TensorSpec, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        made(policy, "Linear", inputs)


def test_nan_weights_in_a_file_name_the_tensor(policy: ImportPolicy, tmp_path: Path) -> None:
    save_file({**state(), "fc.bias": torch.tensor([1.0, float("inf"), 0.0])}, tmp_path / "w.safetensors")
    with pytest.raises(ModelFault, match=r"'fc\.bias' holds Inf"):
        made(policy, "Linear", weights=tmp_path / "w.safetensors")


# -- torchvision ------------------------------------------------------------------------------------------------------------


def test_torchvision_models_by_name_without_downloads(policy: ImportPolicy) -> None:
    pytest.importorskip("accel.torchvision_guard").import_torchvision()
    found = torch_origin(torchvision="squeezenet1_1", kwargs={"num_classes": 7}, weights=None, policy=policy)
    module = build(found, policy, seed=0)
    assert sum(parameter.numel() for parameter in module.parameters()) > 700_000
    with pytest.raises(UsageError, match="did you mean 'resnet18'"):
        build(torch_origin(torchvision="resnet81", kwargs={}, weights=None, policy=policy), policy, 0)
    asking = torch_origin(torchvision="resnet18", kwargs={"weights": "DEFAULT"}, weights=None, policy=policy)
    with pytest.raises(UsageError, match="would download"):
        build(asking, policy, 0)
