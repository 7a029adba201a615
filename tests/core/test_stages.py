"""What a step leaves behind, and what is asked of it before the next step gets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from accel import catalog, onnx_file, stages
from accel.compress.edits import add_edit_, edits_of, remove_block_
from accel.errors import BackendFault, ModelFault, PassFault
from accel.imports import ImportPolicy
from accel.model import Model, OnnxModel, Origin, RemoveBlock, Signature, TensorSpec, TorchModel

if TYPE_CHECKING:
    from accel.contracts import Array

torch.set_num_threads(1)

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 2)
        self.scale = 1.0

    def forward(self, x):
        return self.scale * self.two(self.one(x))


def net():
    torch.manual_seed(0)
    return Net()
"""
SIGNATURE = Signature((TensorSpec("x", ("batch", 3), "float32"),), (TensorSpec("y", ("batch", 2), "float32"),))
INPUTS = {"x": np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)}


@pytest.fixture
def policy(tmp_path: Path) -> ImportPolicy:
    (tmp_path / "network.py").write_text(NETWORK)
    return ImportPolicy(tmp_path)


@pytest.fixture
def model(policy: ImportPolicy) -> TorchModel:
    names: dict[str, Any] = {}
    exec(NETWORK, names)
    origin = Origin(f"{policy.folder / 'network.py'}:net", {}, None, "digest")
    module: nn.Module = names["net"]().eval()
    return TorchModel(module=module, signature=SIGNATURE, origin=origin, notes=("said",))


def run(model: Model, inputs: Mapping[str, Array]) -> list[Array]:
    assert isinstance(model, TorchModel)
    with torch.no_grad():
        return [model.module(torch.from_numpy(inputs["x"])).numpy()]


def file(folder: Path, scale: float = 1.0) -> OnnxModel:
    """``y = x * scale``, its constant in a file beside it."""
    folder.mkdir()
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 300])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 300])
    weight = numpy_helper.from_array(np.full(300, scale, np.float32), "w")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", [value], [out], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, str(folder / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    return onnx_file.read(folder / "m.onnx")


def test_a_module_is_kept_with_its_edits_and_read_back(model: TorchModel, policy: ImportPolicy, tmp_path: Path) -> None:
    remove_block_(model.module, "one")
    add_edit_(model.module, RemoveBlock("one"))
    with torch.no_grad():
        model.module.get_parameter("two.weight").fill_(0.5)
    folder = tmp_path / "kept"
    meta = stages.keep("step", model, folder, policy)
    assert sorted(path.name for path in folder.iterdir()) == ["edits.json", "model.safetensors"]
    assert meta["kind"] == "torch" and meta["main"] is None
    back = stages.read(folder, meta, policy, 0)
    assert isinstance(back, TorchModel)
    assert edits_of(back.module) == (RemoveBlock("one"),) and back.signature == SIGNATURE
    assert back.origin is not None and back.origin.digest == "digest"
    np.testing.assert_array_equal(run(back, INPUTS)[0], run(model, INPUTS)[0])
    assert stages.unchanged(model, back)
    stages.require_sound("step", model, back, INPUTS, run)


def test_a_module_that_nothing_could_build_again_or_in_training_is_refused(
    model: TorchModel, policy: ImportPolicy, tmp_path: Path
) -> None:
    with pytest.raises(PassFault, match="step: gave a module without its origin"):
        stages.keep("step", replace(model, origin=None), tmp_path / "kept", policy)
    model.module.get_submodule("two").train()
    with pytest.raises(PassFault, match="left two in training mode"):
        stages.keep("step", model, tmp_path / "kept", policy)
    assert not (tmp_path / "kept").exists()


def _state_beside(module: Any) -> None:
    module.scale = 2.0  # in no parameter, buffer or edit: the factory gives 1 again


def _unrecorded(module: Any) -> None:
    module.one = nn.Linear(3, 3, bias=False).eval()


@pytest.mark.parametrize(
    ("change", "says"), [(_state_beside, "does not read back as it was: output y differs by"), (_unrecorded, "one.bias")]
)
def test_a_change_that_no_edit_tells_is_found(
    model: TorchModel, policy: ImportPolicy, tmp_path: Path, change: Callable[[nn.Module], None], says: str
) -> None:
    change(model.module)
    with pytest.raises((PassFault, ModelFault), match=says):
        stages.require_sound("step", model, _back(model, policy, tmp_path), INPUTS, run)


def _back(model: TorchModel, policy: ImportPolicy, tmp_path: Path) -> TorchModel:
    back = stages.read(tmp_path / "kept", stages.keep("step", model, tmp_path / "kept", policy), policy, 0)
    assert isinstance(back, TorchModel)
    return back


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (np.full((2, 2), np.nan, np.float32), "differs by nan"),
        (np.zeros((1, 2), np.float32), r"has shape \[2, 2\] instead of \[1, 2\]"),
    ],
)
def test_outputs_that_cannot_be_compared_are_not_the_same(
    model: TorchModel, policy: ImportPolicy, tmp_path: Path, wanted: Array, says: str
) -> None:
    back = _back(model, policy, tmp_path)

    def execute(asked: Model, inputs: Mapping[str, Array]) -> Sequence[Array]:
        return [np.zeros((2, 2), np.float32)] if asked is back else [wanted]

    with pytest.raises(PassFault, match=says):
        stages.require_sound("step", model, back, INPUTS, execute)


def test_weights_or_outputs_that_are_no_numbers_are_refused(model: TorchModel, policy: ImportPolicy, tmp_path: Path) -> None:
    back = _back(model, policy, tmp_path)
    huge = [np.array([[np.inf, 0.0]], np.float32)]
    with pytest.raises(PassFault, match=r"step: output y is not finite \(1 of 2 values\)"):
        stages.require_sound("step", model, back, INPUTS, lambda asked, inputs: huge)
    with torch.no_grad():
        back.module.get_parameter("one.weight")[0, 0] = float("nan")
    with pytest.raises(PassFault, match=r"step: gave a model whose parameter .one\.weight. holds NaN"):
        stages.require_sound("step", model, back, INPUTS, run)


def test_other_weights_or_edits_are_a_change_and_notes_are_none(
    model: TorchModel, policy: ImportPolicy, tmp_path: Path
) -> None:
    back = _back(model, policy, tmp_path)
    assert stages.unchanged(model.noting("said again"), back)
    assert stages.added(model, model.noting("new")) == ["new"]
    add_edit_(back.module, RemoveBlock("one"))
    assert not stages.unchanged(model, back)
    again = _back(model, policy, tmp_path)
    model.module.get_parameter("two.bias").data.add_(1e-3)
    assert not stages.unchanged(model, again)


def test_a_file_is_kept_whole_and_known_by_its_bytes(policy: ImportPolicy, tmp_path: Path) -> None:
    given = file(tmp_path / "given")
    meta = stages.keep("step", given, tmp_path / "kept", policy)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["m.onnx", "w.bin"]
    back = stages.read(tmp_path / "kept", meta, policy, 0)
    assert isinstance(back, OnnxModel) and back.path == tmp_path / "kept" / "m.onnx" and back.signature == given.signature
    assert stages.unchanged(given, back)
    assert not stages.unchanged(given, file(tmp_path / "other", 2.0))
    x = {"x": np.ones((2, 300), np.float32)}
    (tmp_path / "cache").mkdir()
    np.testing.assert_array_equal(stages.execute(back, x, tmp_path / "cache")[0], x["x"])


def test_a_module_and_its_file_are_different_things(model: TorchModel, tmp_path: Path) -> None:
    given = file(tmp_path / "given")
    assert not stages.unchanged(model, given)
    assert stages.added(model, given.noting("said")) == ["said"]


def test_a_module_is_run_as_it_is(model: TorchModel, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    found = stages.execute(model, INPUTS, tmp_path)
    np.testing.assert_array_almost_equal(np.asarray(found[0], np.float32), np.asarray(run(model, INPUTS)[0], np.float32))
    assert torch.get_num_threads() == before


class Unable:
    """A runtime that is here, and cannot; or is not here."""

    def __init__(self, says: str | None, here: bool = True) -> None:
        self.says, self.here = says, here

    def unavailable(self, device: str = "cpu") -> str | None:
        return None if self.here else "not installed"

    def compile(self, *given: Any) -> Any:
        raise BackendFault(str(self.says))


def runtimes(monkeypatch: pytest.MonkeyPatch, **found: Any) -> None:
    monkeypatch.setattr(catalog, "backend", found.__getitem__)


def test_the_next_runtime_is_tried_where_one_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, x = file(tmp_path / "given"), {"x": np.ones((2, 300), np.float32)}
    openvino = catalog.backend("openvino")
    runtimes(monkeypatch, onnxruntime=Unable("no kernel"), openvino=openvino)
    np.testing.assert_array_equal(stages.execute(given, x, tmp_path)[0], x["x"])
    runtimes(monkeypatch, onnxruntime=Unable("no kernel"), openvino=Unable("neither"))
    with pytest.raises(BackendFault, match="no kernel"):
        stages.execute(given, x, tmp_path)
    runtimes(monkeypatch, onnxruntime=Unable("no kernel"), openvino=Unable(None, here=False))
    with pytest.raises(BackendFault, match="no kernel"):
        stages.execute(given, x, tmp_path)
    runtimes(monkeypatch, onnxruntime=Unable(None, here=False), openvino=Unable(None, here=False))
    np.testing.assert_array_equal(stages.execute(given, x, tmp_path)[0], x["x"])


def test_a_file_in_bf16_runs_somewhere(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 22]> g (float[n,1,4,4] x) => (float[n,1,4,4] y)
        { h = Cast<to = 16>(x)  f = Constant<value = float[1,1,1,1] {2.0}>()  w = Cast<to = 16>(f)
          c = Conv(h, w)  y = Cast<to = 1>(c) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "bf16.onnx")
    x = {"x": np.ones((2, 1, 4, 4), np.float32)}
    np.testing.assert_array_equal(stages.execute(onnx_file.read(tmp_path / "bf16.onnx"), x, tmp_path)[0], 2 * x["x"])


def test_a_model_that_takes_float16_is_given_the_tasks_samples_so(
    model: TorchModel, policy: ImportPolicy, tmp_path: Path
) -> None:
    half = Signature((replace(SIGNATURE.inputs[0], dtype="float16"),), SIGNATURE.outputs)
    back = replace(_back(model, policy, tmp_path), signature=half)
    seen: list[str] = []

    def execute(asked: Model, inputs: Mapping[str, Array]) -> Sequence[Array]:
        seen.append(str(inputs["x"].dtype))
        return [np.zeros((2, 2), np.float32)]

    stages.require_sound("step", model, back, INPUTS, execute)
    assert set(seen) == {"float16"}
