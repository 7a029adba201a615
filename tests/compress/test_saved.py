"""Saved torch models: they come back as they were, without pickle, and only onto a factory that they fit."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from accel.compress import saved
from accel.compress.edits import add_edit_, edits_of, keep_channels_, remove_block_
from accel.errors import AccelError, ModelFault, SafetyRefusal, UsageError
from accel.imports import ImportPolicy
from accel.model import KeepChannels, Masks, Origin, QuantizeAware, RemoveBlock, Signature, TensorSpec, TorchModel
from accel.origin import build, torch_origin

SPEC = TensorSpec("image", ("batch", 2, 9, 9), "float32"), TensorSpec("logits", ("batch", 4, 5, 5), "float32")
SIGNATURE = Signature(SPEC[:1], SPEC[1:])

CODE = """
from torch import nn

def network(width=6):
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    return nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 3), block)
"""


def network(width: int = 6) -> nn.Sequential:
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    return nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 3), block)


def edited() -> nn.Sequential:
    """Narrowed, without its block, masked, and with weights that no factory gives."""
    torch.manual_seed(3)
    net = network()
    kept = (0, 2, 5)
    names = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    edit = KeepChannels(
        {**{name: {0: kept} for name in names}, "3.weight": {1: kept}},
        {"0": {"out_channels": 3}, "1": {"num_features": 3}, "3": {"in_channels": 3}},
    )
    keep_channels_(net, edit)
    add_edit_(net, edit)
    remove_block_(net, "4")
    add_edit_(net, RemoveBlock("4"))
    with torch.no_grad():
        net.get_parameter("3.weight")[0] = 0
        net.get_buffer("1.running_mean").add_(0.25)
    add_edit_(net, Masks("unstructured", ("3.weight",)))
    return net.eval()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "nets.py").write_text(CODE)
    return folder


def model(project: Path) -> TorchModel:
    origin = Origin(f"{project}/nets.py:network", {"width": 6}, None, "digest")
    return TorchModel(module=edited(), signature=SIGNATURE, origin=origin)


def test_it_comes_back_as_it_was_and_can_be_trained(project: Path, tmp_path: Path) -> None:
    before = model(project)
    saved.save(before, tmp_path / "kept", base=project)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["edits.json", "model.safetensors"]
    after = saved.load_model(tmp_path / "kept", policy=ImportPolicy(project), seed=5)
    x = torch.randn(2, 2, 9, 9)
    assert torch.equal(after.module(x), before.module(x))
    assert after.edits == before.edits and after.signature == SIGNATURE
    assert after.origin == Origin(f"{project.resolve()}/nets.py:network", {"width": 6}, None, "digest")
    assert not after.module.training
    after.module.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in after.module.parameters())


def test_the_record_names_no_folder_of_this_machine(project: Path, tmp_path: Path) -> None:
    for base, name in ((project, "nets.py:network"), (project.parent, "project/nets.py:network"), (None, "nets.py:network")):
        saved.save(model(project), tmp_path / "kept", base=base)
        text = (tmp_path / "kept" / "edits.json").read_text()
        assert json.loads(text)["origin"]["factory"] == name
        assert str(tmp_path) not in text


def test_a_module_from_training_code_with_its_factory(tmp_path: Path) -> None:
    net = edited()
    saved.save(net, tmp_path / "kept", factory=network)
    again = saved.load(tmp_path / "kept", factory=network)
    x = torch.randn(1, 2, 9, 9)
    assert torch.equal(again(x), net(x)) and edits_of(again) == edits_of(net)
    saved.save(again, tmp_path / "twice", factory=network)
    assert (tmp_path / "twice" / "model.safetensors").read_bytes() == (tmp_path / "kept" / "model.safetensors").read_bytes()


def test_a_factory_of_torchvision(tmp_path: Path) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")

    origin = torch_origin(torchvision="squeezenet1_1", kwargs={"num_classes": 3}, weights=None, policy=ImportPolicy(tmp_path))
    net = build(origin, ImportPolicy(tmp_path), 0)
    shape = Signature((TensorSpec("x", ("batch", 3, 64, 64), "float32"),), ())
    saved.save(TorchModel(module=net, signature=shape, origin=origin), tmp_path / "kept")
    again = saved.load(tmp_path / "kept", policy=ImportPolicy(tmp_path), seed=9)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in again.state_dict().items())


def test_without_an_origin_it_says_to_pass_the_factory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pass factory="):
        saved.save(TorchModel(module=edited(), signature=SIGNATURE), tmp_path / "kept")
    with pytest.raises(UsageError, match="pass factory="):
        saved.save(edited(), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_factory_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no name of its own"):
        saved.save(edited(), tmp_path / "kept", factory=lambda: network())


def test_arguments_that_json_does_not_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kwargs"):
        saved.save(edited(), tmp_path / "kept", factory=network, kwargs={"width": torch.tensor(6)})


def test_code_is_imported_only_where_it_is_allowed(project: Path, tmp_path: Path) -> None:
    saved.save(model(project), tmp_path / "kept", base=project)
    with pytest.raises(UsageError, match=r"names nets.py:network; pass factory=network, or a policy"):
        saved.load(tmp_path / "kept")
    record = json.loads((tmp_path / "kept" / "edits.json").read_text())
    record["origin"]["factory"] = "os:getcwd"
    (tmp_path / "kept" / "edits.json").write_text(json.dumps(record))
    with pytest.raises(SafetyRefusal):
        saved.load(tmp_path / "kept", policy=ImportPolicy(project))
    record["origin"]["factory"] = "../nets.py:network"
    (tmp_path / "kept" / "edits.json").write_text(json.dumps(record))
    with pytest.raises((SafetyRefusal, UsageError)):
        saved.load(tmp_path / "kept", policy=ImportPolicy(project))
    assert "nets" not in sys.modules


def wide() -> nn.Sequential:
    return network(4)


def other() -> nn.Sequential:
    net = network()
    net[3] = nn.Conv2d(6, 5, 3)
    return net


def no_block() -> nn.Sequential:
    return nn.Sequential(*list(network())[:4])


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (wide, r"edit 1 of 3 .* 0.weight has shape \[4, 2, 3, 3\]; the edit keeps channel 5"),
        (other, r"3.weight \[4, 3, 3, 3\], the model has \[5, 3, 3, 3\]"),
        (no_block, "edit 2 of 3 .* no module '4'"),
    ],
)
def test_another_factory_is_refused_with_the_first_difference(
    factory: Callable[[], nn.Module], says: str, project: Path, tmp_path: Path
) -> None:
    saved.save(model(project), tmp_path / "kept", base=project)
    record = json.loads((tmp_path / "kept" / "edits.json").read_text())
    record["origin"]["kwargs"] = {}
    (tmp_path / "kept" / "edits.json").write_text(json.dumps(record))
    with pytest.raises(ModelFault, match=says):
        saved.load(tmp_path / "kept", factory=factory)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "origin": {}, "edits": []}']
)
def test_a_damaged_record_is_a_clear_error(text: str, project: Path, tmp_path: Path) -> None:
    saved.save(model(project), tmp_path / "kept", base=project)
    (tmp_path / "kept" / "edits.json").write_text(text)
    with pytest.raises(ModelFault, match=r"kept/edits.json"):
        saved.load(tmp_path / "kept", factory=network)


def test_damaged_or_missing_files_are_clear_errors(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no edits.json"):
        saved.load(tmp_path, factory=network)
    saved.save(model(project), tmp_path / "kept", base=project)
    weights = tmp_path / "kept" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ModelFault, match=r"model.safetensors"):
        saved.load(tmp_path / "kept", factory=network)
    weights.unlink()
    with pytest.raises(AccelError, match="no such file"):
        saved.load(tmp_path / "kept", factory=network)


def test_a_module_to_be_traced_again_needs_an_example(tmp_path: Path) -> None:
    net = network()
    add_edit_(net, QuantizeAware({}, "1", "1"))
    with pytest.raises(UsageError, match="pass example="):
        saved.save(net, tmp_path / "kept", factory=network)
    saved.save(net, tmp_path / "kept", factory=network, example=torch.zeros(2, 2, 9, 9))
    record = json.loads((tmp_path / "kept" / "edits.json").read_text())
    assert record["signature"]["inputs"] == [{"name": "input_0", "shape": ["batch", 2, 9, 9], "dtype": "float32"}]
