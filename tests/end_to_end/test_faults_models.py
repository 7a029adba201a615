"""Models that cannot be taken as they are, from the command line to the report (faults 28 to 31)."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tests.end_to_end.conftest import Project

RECIPE = """\
version: 1
name: small
model:
  factory: network.py:net
  inputs: {inputs}
passes: [{{type: export_onnx}}]
targets: [{{name: ort, backend: onnxruntime}}]
"""

IMAGE = "{name: image, shape: [batch, 3, 8, 8], dtype: float32}"


@dataclass(frozen=True)
class Ran:
    project: Project
    code: int
    err: str

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.project.out / "report.json").read_text())
        return found

    def outputs(self, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """What the shipped file gives."""
        session = onnxruntime.InferenceSession(
            str(self.project.out / "targets" / "ort" / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))


def write(new_project: Callable[[Path], Project], folder: Path, network: str, *inputs: str) -> Project:
    project = new_project(folder)
    (folder / "network.py").write_text("import torch\nfrom torch import nn\n" + network)
    project.recipe.write_text(RECIPE.format(inputs=f"[{', '.join(inputs or (IMAGE,))}]"))
    return project


REFUSED = {
    # 28
    "control_flow": (
        """
class Inner(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x - 1

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = Inner()

    def forward(self, x):
        return self.gate(x).mean((2, 3))

net = Net
""",
        (IMAGE,),
        ("export_onnx", "gate", "data-dependent"),
    ),
    "unsupported_operator": (
        """
class Inner(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x).real

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.spectrum = Inner()

    def forward(self, x):
        return self.spectrum(x)

net = Net
""",
        (IMAGE,),
        ("export_onnx", "spectrum", "linalg_eig"),
    ),
    # 30
    "complex_input": (
        "class Net(nn.Module):\n    def forward(self, x):\n        return x.real\nnet = Net\n",
        ("{name: x, shape: [batch, 3], dtype: complex64}",),
        ("recipe.yaml:5:", "dtype", "complex64"),
    ),
    "complex_output": (
        "class Net(nn.Module):\n    def forward(self, x):\n        return torch.fft.fft(x)\nnet = Net\n",
        (IMAGE,),
        ("complex",),
    ),
    "output_that_is_no_tensor": (
        "class Net(nn.Module):\n    def forward(self, x):\n        return {'answer': x, 'text': 'yes'}\nnet = Net\n",
        (IMAGE,),
        ("text",),
    ),
    "constant_of_the_batch": (
        """
class Net(nn.Module):
    def forward(self, x):
        return x.flatten(1) * (2.0 if len(x) > 1 else 1.0)

net = Net
""",
        (IMAGE,),
        ("batch",),
    ),
}


@pytest.fixture(scope="module")
def refused(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Every network that has to be refused, two runs at a time."""
    found: dict[str, Ran] = {}
    waiting = list(REFUSED.items())
    while waiting:
        now, waiting = waiting[:2], waiting[2:]
        running: list[tuple[str, Project, subprocess.Popen[str]]] = []
        for name, (network, inputs, _) in now:
            project = write(new_project, tmp_path_factory.mktemp(name), network, *inputs)
            running.append((name, project, project.start("optimize", "recipe.yaml", "--no-benchmark")))
        for name, project, process in running:
            _, err = process.communicate(timeout=120)
            found[name] = Ran(project, process.returncode, err)
    return found


@pytest.mark.parametrize("what", REFUSED)
def test_a_model_that_cannot_be_exported_is_refused_with_the_place(refused: dict[str, Ran], what: str) -> None:
    ran = refused[what]
    assert ran.code == (2 if what == "complex_input" else 4), ran.err
    message = ran.err[ran.err.index("accel: ") :] if "accel: " in ran.err else ran.err
    for text in REFUSED[what][2]:
        assert text in message, ran.err
    assert "Traceback (most recent call last)" not in ran.err
    assert not ran.project.out.exists()


TAKEN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.words = nn.Embedding(10, 4)
        self.answer = nn.Linear(4, 10, bias=False)
        self.answer.weight = self.words.weight
        self.register_buffer("shift", torch.arange(4.0))
        self.register_buffer("scratch", torch.ones(2), persistent=False)

    def forward(self, image, word, keep):
        x = self.drop(self.bn(self.conv(image))).mean((2, 3)) + self.shift + self.words(word)
        x = torch.where(keep[:, None], x, torch.zeros_like(x))
        return {"answer": self.answer(x), "parts": (x, x.sum(1))}


def net():
    torch.manual_seed(0)
    return Net().train()
"""


@pytest.fixture(scope="module")
def taken(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One network with everything that has to work."""
    project = write(
        new_project, tmp_path_factory.mktemp("taken"), TAKEN, IMAGE,
        "{name: word, shape: [batch], dtype: int64}", "{name: keep, shape: [batch], dtype: bool}",
    )  # fmt: skip
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    return Ran(project, done.returncode, done.stderr)


@pytest.fixture(scope="module")
def weights(taken: Ran) -> dict[str, NDArray[Any]]:
    """The tensors of the network, built here as the factory builds it."""
    import torch

    space: dict[str, Any] = {}
    state = torch.random.get_rng_state()
    exec("import torch\nfrom torch import nn\n" + TAKEN, space)
    found = {name: tensor.detach().numpy() for name, tensor in space["net"]().state_dict().items()}
    torch.random.set_rng_state(state)
    return found


def given(batch: int, **changed: NDArray[Any]) -> dict[str, NDArray[Any]]:
    image = np.random.default_rng(batch).standard_normal((batch, 3, 8, 8)).astype(np.float32)
    word = (np.arange(batch) % 10).astype(np.int64)
    return {"image": image, "word": word, "keep": np.ones(batch, dtype=np.bool_), **changed}


def parts(outputs: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """By shape: answer (n, 10), x (n, 4), its sum (n,)."""
    (answer,) = (output for output in outputs.values() if output.shape[1:] == (10,))
    (x,) = (output for output in outputs.values() if output.shape[1:] == (4,))
    (total,) = (output for output in outputs.values() if output.ndim == 1)
    return answer, x, total


# -- 29 ---------------------------------------------------------------------------------------------------------------


def test_left_in_training_mode_it_evaluates_and_says_so(taken: Ran) -> None:
    (warning,) = [warning for warning in taken.report["warnings"] if "training mode" in warning]
    assert "BatchNorm2d" in warning
    assert "Dropout" in warning


def test_dropout_is_off(taken: Ran) -> None:
    inputs = given(4)
    first, second = taken.outputs(**inputs), taken.outputs(**inputs)
    for name, output in first.items():
        np.testing.assert_array_equal(output, second[name])
    assert all("dropout" not in node.lower() for node in _nodes(taken))


def test_batch_norm_uses_its_running_statistics(taken: Ran) -> None:
    """With statistics of the batch, one image alone would be answered differently than among others."""
    inputs = given(4)
    _, together, _ = parts(taken.outputs(**inputs))
    _, alone, _ = parts(taken.outputs(**{name: array[:1] for name, array in inputs.items()}))
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


def _nodes(ran: Ran) -> list[str]:
    return [node.op_type for node in onnx.load(ran.project.out / "targets" / "ort" / "model.onnx").graph.node]


# -- 30 ---------------------------------------------------------------------------------------------------------------


def test_tied_weights_stay_the_same_tensor(taken: Ran, weights: dict[str, NDArray[Any]]) -> None:
    answer, x, _ = parts(taken.outputs(**given(3)))
    np.testing.assert_allclose(answer, x @ weights["words.weight"].T, rtol=1e-4, atol=1e-5)


def test_buffers_take_part(taken: Ran, weights: dict[str, NDArray[Any]]) -> None:
    inputs = given(2, image=np.zeros((2, 3, 8, 8), dtype=np.float32))
    _, x, _ = parts(taken.outputs(**inputs))
    expected = weights["conv.bias"] / np.sqrt(1 + 1e-5) + weights["shift"] + weights["words.weight"][:2]
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


def test_a_bool_input(taken: Ran) -> None:
    _, x, _ = parts(taken.outputs(**given(2, keep=np.array([True, False]))))
    assert np.any(x[0])
    assert not np.any(x[1])


def test_an_int64_input(taken: Ran, weights: dict[str, NDArray[Any]]) -> None:
    image = given(1)["image"].repeat(2, axis=0)
    _, x, _ = parts(taken.outputs(**given(2, image=image, word=np.array([1, 7], dtype=np.int64))))
    np.testing.assert_allclose(x[1] - x[0], weights["words.weight"][7] - weights["words.weight"][1], rtol=1e-4, atol=1e-5)


def test_several_inputs_are_in_the_manifest_in_order(taken: Ran) -> None:
    manifest = json.loads((taken.project.out / "targets" / "ort" / "manifest.json").read_text())
    assert [(entry["name"], entry["dtype"]) for entry in manifest["inputs"]] == [
        ("image", "float32"), ("word", "int64"), ("keep", "bool"),
    ]  # fmt: skip


def test_a_dict_output_keeps_its_names(taken: Ran) -> None:
    assert "answer" in taken.outputs(**given(1))


def test_a_tuple_output_keeps_its_order(taken: Ran) -> None:
    outputs = taken.outputs(**given(3))
    assert len(outputs) == 3
    _, x, total = parts(outputs)
    np.testing.assert_allclose(x.sum(1), total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
def test_any_batch_size(taken: Ran, batch: int) -> None:
    assert parts(taken.outputs(**given(batch)))[0].shape == (batch, 10)


# -- 31 ---------------------------------------------------------------------------------------------------------------

NAMES = {
    "html": "<script>alert(1)</script>",
    "markdown": "](http://evil.example)|x|`",
    "ansi": "\x1b[31mred",
    "command": "::error file=x::boo",
}


@pytest.fixture(scope="module")
def injected(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A model whose layers have names that do something where they are not escaped; every layer is left alone with a note."""
    nodes, weights, last = [], [], "image"
    for number, name in enumerate(NAMES.values()):
        weight = np.random.default_rng(number).standard_normal((3, 3, 1, 1)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"{name}.weight"))
        nodes.append(helper.make_node("Conv", [last, f"{name}.weight"], [f"{name}.out"], name=name))
        last = f"{name}.out"
    shape = ["batch", 3, 8, 8]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)],
        weights,
    )
    project = new_project(tmp_path_factory.mktemp("injected"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, project.folder / "model.onnx")
    names = json.dumps(list(NAMES.values())[:3])
    np.savez(project.folder / "noise.npz", inputs=np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32))
    project.recipe.write_text(
        "version: 1\nname: small\nmodel: {path: model.onnx}\n"
        "task: {type: image_classification}\n"
        "data: {calibration: {arrays: {path: noise.npz}}}\n"
        f"passes: [{{type: quantize, approach: static, ignored_scope: {{names: {names}}}}}]\n"
        "targets: [{name: ort, backend: onnxruntime}]\n"
    )
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    (project.folder / "shown.txt").write_text(done.stdout + done.stderr)
    return Ran(project, done.returncode, done.stderr)


def test_the_names_do_reach_the_report(injected: Ran) -> None:
    assert "<script>" in (injected.project.out / "report.json").read_text()


RAW = {"html": r"<script", "markdown": r"(?<!\\)\]\(http", "ansi": r"\x1b\[31m", "command": r"(?m)^\s*::error"}


@pytest.mark.parametrize(
    ("where", "kind"),
    [(where, kind) for where in ("report.md", "report --format md") for kind in NAMES]
    # HTML and Markdown do nothing where they are not rendered
    + [(where, kind) for where in ("terminal", "report --format table", "inspect", "error") for kind in ("ansi", "command")],
)
def test_layer_names_are_escaped_wherever_they_are_shown(injected: Ran, where: str, kind: str) -> None:
    project = injected.project
    if where == "report.md":
        shown = (project.out / "report.md").read_text()
    elif where == "terminal":
        shown = (project.folder / "shown.txt").read_text()
    elif where == "inspect":
        shown = project.accel("inspect", "model.onnx").stdout
    elif where == "error":  # a name that is not in the model is repeated in the error
        done = project.accel("optimize", "recipe.yaml", f"passes.0.ignored_scope.names=[{json.dumps(NAMES[kind] + 'x')}]")
        assert done.returncode in (2, 4)
        shown = done.stderr
    else:
        shown = project.accel(*where.split(), "out/small").stdout
    assert shown
    assert not re.search(RAW[kind], shown)
