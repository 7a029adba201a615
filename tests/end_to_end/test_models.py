"""Models as people have them (fixed batches, old opsets, half precision, several outputs), and runs that must not mislead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from accel.onnx_file import read

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Ended, Project

    Typed = Callable[..., Ended]

ORT = "targets=[{name: ort, backend: onnxruntime}]"


def classifier(path: Path, *, batch: int | str = "batch", opset: int = 17, half: bool = False) -> None:
    """A convolution, a mean and a matrix product over 4 classes."""
    generator = np.random.default_rng(3)
    dtype: Any = np.float16 if half else np.float32
    weights = {
        "w": generator.standard_normal((16, 3, 3, 3)).astype(dtype) / 5,
        "b": np.zeros(16, dtype),
        "fc": generator.standard_normal((16, 4)).astype(dtype),
    }
    element = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["f"], "flat"),
            helper.make_node("MatMul", ["f", "fc"], ["y"], "fc"),
        ],
        "g",
        [helper.make_tensor_value_info("x", element, [batch, 3, 24, 24])],
        [helper.make_tensor_value_info("y", element, [batch, 4])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)


def from_onnx(project: Project) -> None:
    """Make the recipe start from model.onnx."""
    text = project.recipe.read_text()
    start, end = text.index("  factory:"), text.index("task:")
    text = text[:start] + "  path: model.onnx\n" + text[end:]
    project.recipe.write_text(text.replace("  - type: export_onnx\n", ""))


def built(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.err
    report: dict[str, Any] = json.loads(ended.out)
    return report


@pytest.mark.parametrize("batch", [1, 3])
def test_a_model_with_a_fixed_batch(project: Project, typed: Typed, batch: int) -> None:
    classifier(project.folder / "model.onnx", batch=batch)
    from_onnx(project)
    built(typed("optimize", "recipe.yaml", "--no-benchmark", "--json"))
    for target in ("ort", "ov"):
        shipped = read(project.out / "targets" / target / "model.onnx")
        assert shipped.signature.inputs[0].shape == (batch, 3, 24, 24)


def test_an_old_opset_is_raised_with_a_note(project: Project, typed: Typed) -> None:
    classifier(project.folder / "model.onnx", opset=11)
    from_onnx(project)
    report = built(typed("optimize", "recipe.yaml", "--no-benchmark", "--json"))
    notes = [note for step in report["steps"] for note in step["notes"]]
    assert sum("converted from opset 11 to 17" in note for note in notes) == 2
    assert {row["status"] for row in report["rows"]} == {"built"}


def test_half_precision_is_refused_with_the_way_out(project: Project, typed: Typed) -> None:
    classifier(project.folder / "model.onnx", half=True)
    from_onnx(project)
    typed("optimize", "recipe.yaml", "--no-benchmark", ORT).refused(4, "the weights are float16", "export the model in float32")


@pytest.mark.parametrize("names", ["[a, b]", "[a, b, c, d, e]"])
def test_class_names_that_do_not_fit_the_model(project: Project, typed: Typed, names: str) -> None:
    ended = typed("optimize", "recipe.yaml", "--no-benchmark", ORT, f"task.classes={names}")
    ended.refused(2, "task.classes names", "output", "has 4 values")


def test_several_outputs_are_told(project: Project, typed: Typed) -> None:
    code = (project.folder / "network.py").read_text()
    old = "        return self.head(self.block(torch.relu(self.stem(x))).mean((2, 3)))\n"
    assert old in code
    new = old.replace("return self.head(", "f = (").rstrip("\n") + "\n        return {'logits': self.head(f), 'features': f}\n"
    (project.folder / "network.py").write_text(code.replace(old, new))
    report = built(typed("optimize", "recipe.yaml", "--no-benchmark", "--json", ORT))
    assert "the model has several outputs; logits, the first, is what is scored, and not features" in report["warnings"]


def test_a_factory_that_loads_its_own_weights_is_not_served_stale(project: Project, typed: Typed) -> None:
    project.rewrite("  weights: weights.safetensors\n", "")
    code = (project.folder / "network.py").read_text()
    loading = "    net.load_state_dict(torch.load(Path(__file__).parent / 'own.pt', weights_only=True))\n    return net\n"
    code = code.replace("    return Net(channels)\n", "    net = Net(channels)\n" + loading)
    (project.folder / "network.py").write_text("from pathlib import Path\n" + code)
    import torch
    from safetensors.torch import load_file

    state = load_file(project.folder / "weights.safetensors")
    shipped = []
    for factor in (1.0, 1.5):
        torch.save(
            {name: value * factor if "head" in name else value for name, value in state.items()}, project.folder / "own.pt"
        )
        report = built(typed("optimize", "recipe.yaml", "--no-benchmark", "--json", ORT))
        assert not any(step["cached"] for step in report["steps"])
        shipped.append((project.out / "targets" / "ort" / "model.onnx").read_bytes())
    assert shipped[0] != shipped[1]


def test_whether_nothing_may_change_does_not_depend_on_the_store(project: Project, typed: Typed) -> None:
    classifier(project.folder / "model.onnx")
    from_onnx(project)
    allowed = built(typed("optimize", "recipe.yaml", "--no-benchmark", "--json", ORT, "passes.0.allow_noop=true"))
    assert "simplify changed nothing" in allowed["steps"][0]["notes"]
    refused = typed("optimize", "recipe.yaml", "--no-benchmark", ORT, "passes.0.allow_noop=false")
    refused.refused(4, "simplify: changed nothing", "allow_noop: true")


def test_a_cold_run_says_that_its_steps_were_run(project: Project, typed: Typed) -> None:
    report = built(typed("optimize", "recipe.yaml", "--no-benchmark", "--json", ORT))
    assert [step["cached"] for step in report["steps"]] == [False, False, False]


def test_a_run_without_measuring_keeps_what_was_measured(measured: Project, typed: Typed) -> None:
    before = json.loads((measured.out / "report.json").read_text())
    done = measured.accel("optimize", "recipe.yaml", "--no-benchmark", "--json", "--output", "kept")
    assert [row["status"] for row in json.loads(done.stdout)["rows"]] == ["built"] * 5
    import shutil

    shutil.rmtree(measured.folder / "kept")
    shutil.copytree(measured.out, measured.folder / "kept" / "small")
    for _ in range(2):
        done = measured.accel("optimize", "recipe.yaml", "--no-benchmark", "--json", "--output", "kept")
        report = json.loads(done.stdout)
        assert report["rows"] == before["rows"]
        said = [note for note in report["notes"] if note.startswith("measured in the run of")]
        assert said == [f"measured in the run of {before['created']}; this one built the same files and measured nothing"]
    other = ("optimize", "recipe.yaml", "--no-benchmark", "--json", "--output", "kept", "data.validation.skip=40")
    rows = json.loads(measured.accel(*other).stdout)["rows"]
    assert [row["status"] for row in rows] == ["built"] * 5, "what was measured on other data is not kept"


def test_class_names_come_from_the_folders(project: Project, typed: Typed) -> None:
    classifier(project.folder / "model.onnx")
    generator = np.random.default_rng(0)
    for index, name in enumerate(("ant", "bee", "cat", "dog")):
        (project.folder / "photos" / name).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 120, (24, 24, 3)) + index * 40
            Image.fromarray(pixels.astype(np.uint8)).save(project.folder / "photos" / name / f"{number}.png")
    ended = typed("optimize", "model.onnx", "--data", "photos", "--target", "onnxruntime", "--no-benchmark", "--json")
    assert ended.code == 0, ended.err
    assert "preprocessing" in ended.err, "it was guessed, and that is said"
    manifest = project.folder / "out" / "model" / "targets" / "onnxruntime" / "manifest.json"
    assert json.loads(manifest.read_text())["classes"] == ["ant", "bee", "cat", "dog"]


def test_labels_that_mean_nothing_are_told(project: Project, typed: Typed) -> None:
    import torch

    names: dict[str, Any] = {}
    exec((project.folder / "network.py").read_text(), names)
    with np.load(project.folder / "images.npz") as stored:
        images = stored["inputs"]
    pixels = torch.from_numpy(((images.astype(np.float32) / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2))
    found = names["net"]().eval()(pixels).argmax(1).numpy()
    np.savez(project.folder / "images.npz", inputs=images, labels=(found + 1) % 4)
    quick = ("benchmark.min_duration_s=0.1", "benchmark.min_iterations=5", "benchmark.max_duration_s=1")
    report = built(typed("optimize", "recipe.yaml", "--json", ORT, *quick))
    assert report["rows"][0]["metrics"][0]["value"] == 0
    assert any("no better than guessing" in warning for warning in report["warnings"])


def test_benchmark_needs_the_size_of_every_axis(project: Project, typed: Typed) -> None:
    classifier(project.folder / "model.onnx")
    proto = onnx.load(project.folder / "model.onnx")
    for axis, name in ((2, "height"), (3, "width")):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(proto, project.folder / "open.onnx")
    ended = typed("benchmark", "open.onnx", "--backend", "onnxruntime", "--duration", "0.1", "--json")
    assert ended.code == 4
    assert "give --shape height=N" in ended.err
    sized = typed(
        "benchmark", "open.onnx", "--backend", "onnxruntime", "--duration", "0.1", "--json",
        "--shape", "height=24", "--shape", "width=32",
    )  # fmt: skip
    assert built(sized)["method"]["timed_inputs"] == {"x": "float32 [1, 3, 24, 32]"}
