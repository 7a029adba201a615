"""What ``accel init`` writes, and the recipe that a bare ONNX file gets."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from rich.console import Console

from accel.commands import init as init_command
from accel.commands import optimize as optimize_command
from accel.commands import schema as schema_command
from accel.commands import validate as validate_command
from accel.errors import DataFault, ModelFault, RecipeError, UsageError
from accel.recipe.reader import from_document, read
from accel.recipe.settings import Recipe
from accel.recipe.template import default_document, guessed_preprocessing_note, init
from accel.tasks.settings import ImageClassificationSettings, Preprocess


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: two ONNX files, a factory, and data in every form that can be given without a recipe."""
    monkeypatch.chdir(tmp_path)
    for name, shape in (("m.onnx", ["batch", 3, 16, 16]), ("last.onnx", ["batch", 8, 12, 1])):
        values = [helper.make_tensor_value_info(io_name, TensorProto.FLOAT, shape) for io_name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), name)
    (tmp_path / "net.py").write_text("raise SystemExit('imported')\n")
    labels = np.arange(10) % 3
    np.savez("pixels.npz", images=np.zeros((10, 16, 16, 3), np.uint8), y=labels)
    np.savez("floats.npz", inputs=np.zeros((10, 3, 16, 16), np.float32), labels=labels)
    np.savez("odd.npz", p=np.zeros((10, 3)), q=labels)
    np.savez("one.npz", inputs=np.zeros((1, 3)), labels=labels[:1])
    lines = ["file,label"]
    for index in range(6):
        file = tmp_path / "images" / f"class{index % 2}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + index, 18)).save(file)
        lines.append(f"{file.relative_to(tmp_path)},{index % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("model", ["m.onnx", "net.py:build", "package.module:build"])
def test_what_init_writes_validates_and_imports_nothing_of_the_users(home: Path, model: str) -> None:
    text = init(model, folder=home)
    (home / "recipe.yaml").write_text(text)
    found = read(home / "recipe.yaml")
    assert (found.model.path or found.model.factory) == model
    assert [target.backend for target in found.targets] == ["onnxruntime", "openvino"]
    assert text.startswith("# yaml-language-server: $schema=accel.schema.json\n")


@pytest.mark.parametrize("model", ["m.onnx", "net.py:build"])
@pytest.mark.parametrize("data", ["pixels.npz", "floats.npz", "images", "labels.csv"])
def test_with_data_it_quantizes(home: Path, model: str, data: str) -> None:
    (home / "recipe.yaml").write_text(init(model, folder=home, data=Path(data)))
    found = read(home / "recipe.yaml")
    assert found.passes[-1].type == "quantize"
    assert found.data.calibration is not None
    assert found.data.validation is not None
    assert found.data.calibration.num_samples == found.data.validation.skip
    assert found.data.calibration.shuffle == found.data.validation.shuffle
    assert found.notes == ()


@pytest.mark.parametrize("model", ["m.onnx", "net.py:build"])
def test_the_parts_that_wait_for_data_validate_too_once_they_are_uncommented(home: Path, model: str) -> None:
    text = init(model, folder=home)
    uncommented = "\n".join(
        line[2:] if line.startswith("# ") and not line.startswith(("# A recipe", "# yaml", "# cache_dir")) else line
        for line in text.splitlines()
    )
    (home / "recipe.yaml").write_text(uncommented.replace("\n#\n", "\n\n"))
    found = read(home / "recipe.yaml")
    assert found.passes[-1].type == "quantize"
    assert isinstance(found.task, ImageClassificationSettings)
    assert found.task.preprocess is not None
    assert found.task.preprocess.center_crop == 224
    assert [gate.metric for gate in found.gates] == ["top1", "latency_p50_ms", "size_bytes", "int8_share"]


def test_every_line_that_sets_a_key_for_the_first_time_says_what_it_means_or_holds_such_lines(home: Path) -> None:
    lines = [line for line in init("net.py:build", folder=home).splitlines() if ":" in line and not line.startswith("#")]
    silent = {line.split(":")[0].strip(" -") for line in lines if "#" not in line}
    plain = {"version", "author", "description", "model", "inputs", "name", "dtype", "benchmark", "report", "formats"}
    assert silent <= plain | {"batch_sizes", "threads", "{backend"}


def test_paths_are_written_as_the_recipes_folder_sees_them(home: Path) -> None:
    (home / "sub").mkdir()
    (home / "sub" / "m.onnx").write_bytes((home / "m.onnx").read_bytes())
    assert "  path: sub/m.onnx " in init("sub/m.onnx", folder=home)
    assert f"  path: {home / 'm.onnx'} " in init("m.onnx", folder=home / "sub")


def test_a_name_that_yaml_would_take_for_something_else_is_quoted(home: Path) -> None:
    for name in ("1.onnx", "# x.onnx", "true.onnx", "a: b.onnx"):
        (home / name).write_bytes((home / "m.onnx").read_bytes())
        (home / "recipe.yaml").write_text(init(name, folder=home))
        assert read(home / "recipe.yaml").model.path == name


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        ("absent.onnx", None, "absent.onnx: there is no such file"),
        ("absent.py:build", None, "absent.py: there is no such file"),
        ("resnet18", None, "allowed are an .onnx file, file.py:name and package.module:name"),
        ("net.py:", None, "allowed are an .onnx file"),
        ("m.onnx", "absent", "there is no such file or folder of data"),
        ("m.onnx", "net.py", "allowed are an .npz"),
        ("m.onnx", "odd.npz", "has the arrays p, q; which are the inputs and the labels?"),
        ("m.onnx", "one.npz", "has 1 samples"),
    ],
)
def test_init_says_what_it_cannot_use(home: Path, model: str, data: str | None, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace(".", r"\.").replace("?", r"\?")):
        init(model, folder=home, data=Path(data) if data else None)


def test_code_outside_the_recipes_folder_is_refused(home: Path) -> None:
    (home / "sub").mkdir()
    with pytest.raises(UsageError, match="code of its own folder only"):
        init("net.py:build", folder=home / "sub")


@pytest.mark.parametrize(
    ("model", "data", "preprocess"),
    [
        ("m.onnx", "pixels.npz", {"color": "rgb", "scale": 255, "layout": "nchw"}),
        ("m.onnx", "floats.npz", None),
        ("m.onnx", "images", {"color": "rgb", "resize": 16, "center_crop": 16, "scale": 255, "layout": "nchw"}),
        ("last.onnx", "labels.csv", {"color": "gray", "resize": [8, 12], "scale": 255, "layout": "nhwc"}),
    ],
)
def test_a_bare_model_gets_a_recipe_that_fits_its_input(
    home: Path, model: str, data: str, preprocess: dict[str, Any] | None
) -> None:
    document = default_document(Path(model), Path(data), ["onnxruntime", "openvino/npu"])
    assert document == json.loads(json.dumps(document))
    found = from_document(document, path=home / "m.yaml")
    assert isinstance(found.task, ImageClassificationSettings)
    assert found.task.preprocess == (None if preprocess is None else Preprocess(**preprocess))
    assert [(target.backend, target.device) for target in found.targets] == [("onnxruntime", "cpu"), ("openvino", "npu")]
    assert found.model.path == str(home / model)
    assert from_document(found.document(), path=found.path) == found


@pytest.mark.parametrize(("count", "held"), [(2, 1), (5, 2), (599, 299), (600, 300), (5000, 300)])
def test_calibration_and_validation_share_no_sample(home: Path, count: int, held: int) -> None:
    from accel.tasks.splits import order

    np.savez("many.npz", inputs=np.zeros((count, 1), np.float32), labels=np.zeros(count, np.int64))
    found = from_document(default_document(Path("m.onnx"), Path("many.npz"), ["openvino"]), path=home / "m.yaml")
    assert found.data.calibration is not None
    assert found.data.validation is not None
    calibration, validation = order(count, found.data.calibration), order(count, found.data.validation)
    assert len(calibration) == held
    assert sorted(calibration + validation) == list(range(count))


def test_a_bare_model_with_a_wrong_target_or_damage_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'openvino'"):
        default_document(Path("m.onnx"), Path("floats.npz"), ["openvin"])
    (home / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelFault):
        default_document(home / "bad.onnx", Path("floats.npz"), ["openvino"])
    (home / "bad.npz").write_bytes(b"not an archive")
    with pytest.raises((UsageError, DataFault), match=r"bad\.npz"):
        default_document(Path("m.onnx"), home / "bad.npz", ["openvino"])


def test_the_init_command_writes_recipe_and_schema_and_replaces_nothing(home: Path) -> None:
    out = Console(file=io.StringIO())
    (home / "new").mkdir()
    assert init_command.run("m.onnx", Path("new/recipe.yaml"), force=False, out=out) == 0
    assert json.loads((home / "new" / "accel.schema.json").read_text())["title"] == "Recipe"
    assert validate_command.run(Path("new/recipe.yaml"), [], out=out) == 0
    (home / "new" / "recipe.yaml").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        init_command.run("m.onnx", Path("new/recipe.yaml"), force=False, out=out)
    assert (home / "new" / "recipe.yaml").read_text() == "mine"
    init_command.run("m.onnx", Path("new/recipe.yaml"), force=True, out=out)
    assert read(home / "new" / "recipe.yaml").name == "m"


def test_the_validate_command_prints_notes_and_a_summary(home: Path) -> None:
    (home / "recipe.yaml").write_text("version: 1\nmodel: {path: m.onnx}\ntargets: [{backend: openvino, device: vpu}]\n")
    text = io.StringIO()
    assert validate_command.run(Path("recipe.yaml"), ["passes=[{type: simplify}]"], out=Console(file=text, width=200)) == 0
    assert "note: targets.0.device: took 'vpu' for 'npu'" in text.getvalue()
    assert text.getvalue().splitlines()[-1] == "recipe.yaml: valid (simplify; for openvino-npu)"


def test_the_init_command_says_which_files_it_wrote(home: Path) -> None:
    text = io.StringIO()
    (home / "new").mkdir()
    written = Path("new/recipe.yaml")
    init_command.run("m.onnx", written, force=False, out=Console(file=text), data=Path("images"), targets=["openvino/npu"])
    assert [line.partition(":")[0] for line in text.getvalue().splitlines()] == ["new/recipe.yaml", "new/accel.schema.json"]
    found = read(written, ["output_dir=out"])
    assert [(target.backend, target.device) for target in found.targets] == [("openvino", "npu")]
    assert found.data.calibration is not None
    text.truncate(0)
    init_command.run("m.onnx", Path("new/other.yaml"), force=False, out=Console(file=text))
    assert "accel.schema.json" not in text.getvalue(), "it was there"
    assert len(read(Path("new/other.yaml")).targets) == 2


@pytest.mark.parametrize("model", ["m.onnx", "net.py:build"])
def test_a_target_that_is_built_for_a_range_gets_one(home: Path, model: str) -> None:
    text = init(model, folder=home, targets=["openvino", "tensorrt"])
    (home / "recipe.yaml").write_text(text)
    found = read(home / "recipe.yaml")
    if model == "m.onnx":
        profile = {"x": {"min": [1, 3, 16, 16], "opt": [8, 3, 16, 16], "max": [32, 3, 16, 16]}}
        assert [target.options for target in found.targets] == [{}, {"profiles": [profile]}]
        assert default_document(Path(model), Path("floats.npz"), ["tensorrt"])["targets"][0]["options"] == {
            "profiles": [profile]
        }
    else:
        assert found.targets_resolved()[1].ranges == {"batch": (1, 8, 32)}
    assert 'without one: options: {compute_capabilities: ["8.9"]}' in text


def test_a_device_that_the_backend_does_not_have_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="target tensorrt/cpu: tensorrt has no device 'cpu'; allowed: gpu"):
        init("m.onnx", folder=home, targets=["tensorrt/cpu"])


@pytest.mark.parametrize(
    ("model", "data", "what"),
    [
        ("m.onnx", "images", "rgb pixels / 255, resized to 16, nchw"),
        ("last.onnx", "labels.csv", "gray pixels / 255, resized to [8, 12], nhwc"),
        ("m.onnx", "pixels.npz", "rgb pixels / 255, nchw"),
    ],
)
def test_a_guess_at_the_preprocessing_is_the_first_note(
    home: Path, monkeypatch: pytest.MonkeyPatch, model: str, data: str, what: str
) -> None:
    note = guessed_preprocessing_note(default_document(Path(model), Path(data), ["openvino"]))
    assert note is not None
    assert note.startswith(f"preprocessing was guessed: {what}; if the model was trained with another mean and std, ")
    assert "write a recipe with `accel init " in note
    assert optimized(monkeypatch, model, data).notes[0] == note


def test_data_that_needs_no_preprocessing_is_no_guess(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("guessed" in note for note in optimized(monkeypatch, "m.onnx", "floats.npz").notes)


def optimized(monkeypatch: pytest.MonkeyPatch, model: str, data: str) -> Recipe:
    """The recipe that ``accel optimize MODEL --data DATA`` would run."""
    ran: list[Recipe] = []

    class Stopped(Exception):
        pass

    def stop(recipe: Recipe, **settings: Any) -> None:
        ran.append(recipe)
        raise Stopped

    monkeypatch.setattr(optimize_command, "optimize", stop)
    with pytest.raises(Stopped):
        optimize_command.run(
            Path(model),
            [],
            data=Path(data),
            targets=["openvino"],
            output=None,
            cache=lambda folder: folder or Path("cache"),
            allowed=[],
            benchmark=False,
            as_json=False,
            quiet=True,
            out=Console(file=io.StringIO()),
            err=Console(file=io.StringIO()),
        )
    return ran[0]


def test_validate_as_json_gives_every_problem_its_place(home: Path) -> None:
    (home / "recipe.yaml").write_text("version: 1\nmodel: {path: m.onnx}\ntargets: [{backend: openvin}]\nsede: 1\n")
    assert validated(Path("recipe.yaml")) == (
        2,
        {
            "valid": False,
            "problems": [
                {"line": 3, "column": 21, "message": "there is no backend"},
                {"line": 4, "column": 1, "message": "unknown key 'sede'"},
            ],
        },
    )
    with pytest.raises(RecipeError):
        validate_command.run(Path("recipe.yaml"), [], out=Console(file=io.StringIO()))
    (home / "recipe.yaml").write_text("version: 1\nmodel: {path: m.onnx}\ntargets: [{backend: openvino}]\n")
    assert validated(Path("recipe.yaml"), "seed=1") == (
        0,
        {"valid": True, "notes": ["no data.validation: accuracy is not measured"]},
    )
    code, found = validated(Path("recipe.yaml"), "seed=x")
    assert (code, found["problems"][0]["line"]) == (2, 0)


def validated(path: Path, *overrides: str) -> tuple[int, Any]:
    text = io.StringIO()
    code = validate_command.run(path, overrides, out=Console(file=text), as_json=True)
    found = json.loads(text.getvalue())
    for problem in found.get("problems", []):
        problem["message"] = problem["message"].partition(": ")[2].partition(" 'openvin'")[0].partition(";")[0]
    return code, found


@pytest.mark.parametrize("of", schema_command.KINDS)
def test_the_schema_command_prints_what_documents_are_checked_against(of: str) -> None:
    from accel import report
    from accel.benchmarks import manifest
    from accel.recipe.json_schema import json_schema

    text = io.StringIO()
    assert schema_command.run(of, out=Console(file=text)) == 0
    wanted = {"recipe": json_schema, "report": report.schema, "manifest": manifest.schema}[of]()
    assert json.loads(text.getvalue()) == json.loads(json.dumps(wanted))
    assert wanted["$schema"] == "https://json-schema.org/draft/2020-12/schema"
