"""The script that shows compression in a loop of the user's own, on few digits and with few steps."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from accel.compress import saved
from accel.compress.edits import edits_of, masks_of
from accel.compress.quantize_aware import convert_qat
from accel.model import KeepChannels, Masks, QuantizeAware

if TYPE_CHECKING:
    from tests.recipes.conftest import Shipped

BESIDE = ("compress_in_training", "train_digits", "digits_network", "mnist_digits")


@pytest.fixture
def script(shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(shipped.folder)
    for name in BESIDE:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("compress_in_training")
    complete = module.split
    monkeypatch.setattr(module, "split", lambda name: tuple(tensor[:128] for tensor in complete(name)))
    yield module
    torch.set_num_threads(threads)
    for name in BESIDE:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_it_writes_an_int8_file_that_runs_and_a_checkpoint_that_loads(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(["--steps", "8", "--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert "in INT8: " in said and "multiply-adds" in said

    loaded = saved.load(tmp_path / "checkpoint", factory=script.digits_network)
    assert [type(edit) for edit in edits_of(loaded)] == [KeepChannels, Masks, QuantizeAware]
    masks = masks_of(loaded)
    assert len(masks) == 8 and all(0.49 < float((~mask).float().mean()) < 0.51 for mask in masks.values())

    graph = onnx.load(tmp_path / "model.onnx").graph
    weights = [
        array for each in graph.initializer if (array := numpy_helper.to_array(each)).dtype == np.int8 and array.ndim > 1
    ]
    assert len(weights) == 9
    zeros = sum(int((array == 0).sum()) for array in weights)
    assert zeros >= sum(int((~mask).sum()) for mask in masks.values())
    operators = Counter(node.op_type for node in graph.node)
    assert operators["Conv"] == 8 and operators["Gemm"] == 1 and operators["QuantizeLinear"] > 5

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    images, _ = script.split("validation")
    (logits,) = session.run(None, {"image": images[:64].numpy()})
    with torch.no_grad():
        wanted = convert_qat(loaded)(images[:64]).numpy()
    assert logits.shape == (64, 10) and np.isfinite(logits).all()
    assert (logits.argmax(1) == wanted.argmax(1)).mean() > 0.95


def test_it_stays_short_enough_to_read(shipped: Shipped) -> None:
    assert len((shipped.folder / "compress_in_training.py").read_text().splitlines()) < 120
