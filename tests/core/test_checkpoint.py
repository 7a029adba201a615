"""Faults 20 to 23 of the fault list, one case for each item, on real files."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from accel import checkpoint
from accel.errors import ModelFault, SafetyRefusal


def state() -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.arange(12.0).reshape(3, 4) / 10, "fc.bias": torch.ones(3)}


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle", "text pickle"])
def test_a_pickle_payload_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "w.pt"
    if form.endswith("pickle"):
        path.write_bytes(pickle.dumps({"fc.weight": Payload(canary)}, protocol=0 if form.startswith("text") else 4))
    else:
        torch.save({**state(), "evil": Payload(canary)}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(SafetyRefusal, match=r"system.*not read"):
        checkpoint.read(path)
    assert not canary.exists()


@pytest.mark.parametrize("extra", [np.float64(0.98), np.arange(3), Path("x"), torch.nn.Linear(1, 1), collections.deque()])
def test_other_objects_are_refused_and_the_way_to_convert_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: Any
) -> None:
    path = tmp_path / "w.pt"
    torch.save({"state_dict": state(), "extra": extra}, path)
    with pytest.raises(SafetyRefusal, match="convert it yourself") as caught:
        checkpoint.read(path)
    lines = [line[4:] for line in str(caught.value).splitlines() if line.startswith("    ")]
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(lines), "convert.py", "exec"), {})
    assert checkpoint.read(tmp_path / "w.safetensors").keys() == state().keys()


@pytest.mark.parametrize(
    "wrap",
    [lambda it: it, lambda it: {"state_dict": it, "epoch": 3}, lambda it: {"model": it, "loss": 0.1}, collections.OrderedDict],
)
@pytest.mark.parametrize("new", [True, False])
def test_state_dicts_are_read(tmp_path: Path, wrap: Callable[[Any], Any], new: bool) -> None:
    torch.save(wrap(state()), tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    found = checkpoint.read(tmp_path / "w.pt")
    assert {key: value.tolist() for key, value in found.items()} == {key: value.tolist() for key, value in state().items()}


def empty(path: Path) -> None:
    path.touch()


def truncated(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-300])


def truncated_legacy(path: Path) -> None:
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-20])


def picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(500))


def onnx_file(path: Path) -> None:
    path.write_bytes(b"\x08\x08\x12\x07pytorch" + bytes(50))


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))


def script(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", "")
        archive.writestr("net/code/__torch__.py", "")


def only_numbers(path: Path) -> None:
    torch.save({"epoch": 3, "loss": 0.5}, path)


def one_tensor(path: Path) -> None:
    torch.save(torch.ones(3), path)


@pytest.mark.parametrize(
    "damage",
    [empty, truncated, truncated_legacy, picture, noise, onnx_file, other_zip, bomb, script, only_numbers, one_tensor],
    ids=lambda each: each.__name__,
)
def test_checkpoints_that_are_damaged_or_something_else(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(tmp_path / "w.pt")
    with pytest.raises(ModelFault, match=r"w\.pt"):
        checkpoint.read(tmp_path / "w.pt")


def test_truncated_anywhere(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "whole.safetensors")
    torch.save(state(), tmp_path / "whole.pt")
    for suffix, step in (("safetensors", 9), ("pt", 97)):
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        for length in range(0, len(whole) - 1, step):
            path = tmp_path / f"w.{suffix}"
            path.write_bytes(whole[:length])
            with pytest.raises(ModelFault):
                checkpoint.read(path)


@pytest.mark.parametrize("header", [2**64 - 1, 2**63, 2**40, 99_999_999, 0])
def test_safetensors_with_an_impossible_header(tmp_path: Path, header: int) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", header) + b"{}" + bytes(64))
    with pytest.raises(ModelFault, match=r"w\.safetensors"):
        checkpoint.read(path)


def test_a_checkpoint_called_safetensors(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.safetensors")
    with pytest.raises(ModelFault, match="PyTorch checkpoint"):
        checkpoint.read(tmp_path / "w.safetensors")


def mismatch(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> str:
    module = torch.nn.Sequential(collections.OrderedDict(fc=torch.nn.Linear(4, 3)))
    before = module.get_parameter("fc.weight").clone()
    with pytest.raises(ModelFault) as caught:
        checkpoint.load_(module, change(state()), "w.pt")
    assert torch.equal(module.get_parameter("fc.weight"), before)
    return str(caught.value)


def test_keys_that_are_missing_or_too_many() -> None:
    assert "missing: fc.bias" in mismatch(lambda it: {"fc.weight": it["fc.weight"]})
    text = mismatch(lambda it: {**it, **{f"extra{index}": torch.ones(1) for index in range(9)}})
    assert "not in the model: extra0, extra1, extra2, extra3, extra4 and 4 more" in text


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_keys_with_a_prefix_are_hinted_at(prefix: str) -> None:
    assert f"starts with {prefix!r}" in mismatch(lambda it: {prefix + key: value for key, value in it.items()})


def test_shapes_and_types_of_another_model() -> None:
    assert "fc.weight [2, 4], the model has [3, 4]" in mismatch(lambda it: {**it, "fc.weight": torch.ones(2, 4)})
    assert "torch.int8" in mismatch(lambda it: {**it, "fc.weight": it["fc.weight"].to(torch.int8)})
