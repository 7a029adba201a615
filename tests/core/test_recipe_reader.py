"""The whole way from a file to a Recipe: every problem at once, at its place, and a resolved form that reads back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from accel import catalog
from accel.contracts import Pass
from accel.errors import Problem, RecipeError
from accel.model import Target
from accel.recipe.reader import from_document, read
from accel.recipe.settings import Recipe
from accel.tasks.settings import ImageClassificationSettings

FULL = """\
version: 1
name: full
seed: 3
about: {version: "1.2", author: someone}
x-source: &source
  arrays: data.npz
  num_samples: 300
model:
  factory: net.py:build
  kwargs: {depth: 20, flag: null}
  weights: net.safetensors
  inputs:
    - {name: image, shape: [batch, 1, 28, 28], dynamic: {batch: {min: 1, opt: 8, max: 32}}}
task:
  type: image_classification
  metrics: [top1, net.py:f1]
  preprocess: {color: gray, resize: 28, mean: [0.5]}
data:
  calibration:
    <<: *source
  validation: {arrays: {path: data.npz, labels: y}, skip: 300}
passes:
  - type: export_onnx
  - type: simplify
    allow_noop: true
  - type: quantize
    calibration: {num_samples: 128}
targets:
  - backend: onnxruntime
  - {name: vino, backend: openvino, optional: true, options: {num_streams: 1}}
benchmark: {threads: 2, min_duration_s: 1}
"""

SMALL = """\
version: 1
model: {path: m.onnx}
targets: [{backend: onnxruntime}]
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A recipe's folder with the files that the recipes here name. Importing net.py leaves a trace."""
    for name in ("m.onnx", "data.npz", "net.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "net.py").write_text("from pathlib import Path\nPath(__file__).with_name('canary').touch()\n")
    return tmp_path


def recipe(home: Path, text: str, *overrides: str) -> Recipe:
    path = home / "recipe.yaml"
    path.write_text(text)
    return read(path, overrides)


def problems(home: Path, text: str, *overrides: str) -> Sequence[Problem]:
    with pytest.raises(RecipeError) as caught:
        recipe(home, text, *overrides)
    assert caught.value.exit_code == 2
    return caught.value.problems


def one(home: Path, text: str, *overrides: str) -> Problem:
    found = problems(home, text, *overrides)
    assert len(found) == 1, [problem.message for problem in found]
    return found[0]


def test_a_full_recipe_says_what_it_says(home: Path) -> None:
    found = recipe(home, FULL)
    assert (found.name, found.seed, found.output_dir, found.cache_dir, found.cache_folder) == ("full", 3, "out", None, None)
    assert found.path == home / "recipe.yaml"
    assert found.folder == home
    assert found.model.kwargs == {"depth": 20, "flag": None}
    assert found.model.inputs[0].shape == ("batch", 1, 28, 28)
    assert found.model.inputs[0].dtype == "float32"
    assert found.model.inputs[0].dynamic["batch"].max == 32
    assert found.data.calibration is not None
    assert found.data.calibration.num_samples == 300
    assert isinstance(found.task, ImageClassificationSettings)
    assert found.task.preprocess is not None
    assert found.task.preprocess.resize == 28
    assert [entry.type for entry in found.passes] == ["export_onnx", "simplify", "quantize"]
    assert [entry.allow_noop for entry in found.passes] == [False, True, False]
    assert found.benchmark.threads == (2,)
    assert found.benchmark.min_duration_s == 1.0
    assert found.targets_resolved() == (
        Target("onnxruntime", "onnxruntime", threads=2),
        Target("vino", "openvino", optional=True, threads=2, options={"num_streams": 1}),
    )
    assert found.notes == ("model.inputs.0.dynamic: only TensorRT reads it; the targets of this recipe take any size",)


def test_only_tensorrt_gets_the_ranges_of_axes_and_a_device_of_its_own(home: Path) -> None:
    found = recipe(home, FULL, "targets=[{backend: onnxruntime}, {backend: tensorrt}]")
    here, there = found.targets_resolved()
    assert (here.ranges, here.device) == ({}, "cpu")
    assert (there.ranges, there.device) == ({"batch": (1, 8, 32)}, "gpu")
    assert not any("only TensorRT reads it" in note for note in found.notes)


def test_an_axis_of_two_inputs_has_one_range(home: Path) -> None:
    inputs = ", ".join(
        f"{{name: {name}, shape: [n, 4], dynamic: {{n: {{min: 1, opt: {opt}, max: 8}}}}}}" for name, opt in (("a", 1), ("b", 2))
    )
    found = problems(home, SMALL, "model={torchvision: x, inputs: [" + inputs + "]}")
    assert "an earlier input has another range for this axis" in " ".join(problem.message for problem in found)


def test_reading_imports_no_code_of_the_recipe(home: Path) -> None:
    recipe(home, FULL)
    assert not (home / "canary").exists()


def test_each_target_gets_the_engine_that_its_backend_runs_fast(home: Path) -> None:
    found = recipe(home, FULL)
    keys = {target.name: [key for key, _ in found.passes_for(target)] for target in found.targets_resolved()}
    assert keys == {
        "onnxruntime": ["export_onnx", "simplify", "quantize/static/onnxruntime"],
        "vino": ["export_onnx", "simplify", "quantize/static/nncf"],
    }
    quantize: Any = found.passes_for(found.targets[1])[2][1]
    assert quantize.calibration.num_samples == 128
    assert quantize.calibration.method == "minmax"
    made: Pass = quantize
    assert "calibration" in made.needs


def test_the_resolved_form_is_json_with_every_default_and_reads_back_equal(home: Path) -> None:
    found = recipe(home, FULL)
    document = found.document()
    assert document["passes"][2]["calibration"] == {"method": "minmax", "percentile": 99.99, "num_samples": 128}
    assert "engine" not in document["passes"][2], "the target's backend decides"
    assert document["benchmark"]["restarts"] == 5
    assert document["model"]["kwargs"] == {"depth": 20, "flag": None}
    again = from_document(json.loads(json.dumps(document)), path=found.path)
    assert again == found
    assert again.document() == document
    assert [again.passes_for(target) for target in again.targets] == [found.passes_for(target) for target in found.targets]


def test_recipes_that_differ_are_not_equal(home: Path) -> None:
    assert recipe(home, SMALL) != recipe(home, SMALL, "seed=1")
    assert recipe(home, SMALL) == recipe(home, SMALL, "seed=0")


def test_a_document_needs_no_file_of_its_own(tmp_path: Path) -> None:
    document = {"version": 1, "model": {"path": "/nowhere/net.onnx"}, "targets": [{"backend": "openvino"}]}
    found = from_document(document, path=tmp_path / "absent.yaml")
    assert found.name == "absent"
    assert found.folder == tmp_path
    assert any("/nowhere/net.onnx" in note for note in found.notes)


def test_a_document_that_no_json_is_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a set, which a recipe cannot hold"):
        from_document({"version": 1, "x": {1}}, path=tmp_path / "r.yaml")


def test_names_come_from_the_file_and_the_backend(home: Path) -> None:
    path = home / "my recipe (2).yaml"
    path.write_text("version: 1\nmodel: {path: m.onnx}\ntargets: [{backend: openvino}, {backend: openvino, device: gpu}]\n")
    found = read(path)
    assert found.name == "my-recipe-2-"
    assert [target.name for target in found.targets] == ["openvino", "openvino-gpu"]


def test_empty_sections_count_as_absent(home: Path) -> None:
    found = recipe(home, SMALL + "about:\npasses:\ntask:\ncache_dir: ~\n")
    assert found.passes == ()
    assert found.about.version == "0.0.0"


@pytest.mark.parametrize("what", ["absent", "folder"])
def test_a_recipe_that_cannot_be_read_is_a_usage_error(home: Path, what: str) -> None:
    (home / "folder").mkdir()
    with pytest.raises(RecipeError, match="the recipe cannot be read") as caught:
        read(home / what)
    assert caught.value.exit_code == 2


def test_all_problems_come_at_once_in_the_order_of_the_file(home: Path) -> None:
    text = """\
version: 1
nmae: x
model:
  path: m.onnx
  fp16: true
seed: "3"
passes:
  - type: simplify
  - type: export_onx
  - type: quantize
    calibration: {method: entropie, num_samples: 1.5}
targets:
  - backend: onnxruntim
  - {backend: openvino, precision: int8}
benchmark: {restarts: 2, threads: [1, 0]}
output_dir: ../../etc
"""
    found = problems(home, text)
    assert [(problem.line, problem.column) for problem in found] == [
        (2, 1),
        (5, 3),
        (6, 7),
        (9, 11),
        (11, 27),
        (11, 50),
        (14, 36),
        (15, 23),
        (15, 39),
        (16, 13),
    ]
    says = " | ".join(problem.message for problem in found)
    for part in (
        "unknown key 'nmae'; did you mean 'name'?",
        "write `precision: fp16` on the target",
        "found '3', allowed: a whole number",
        "did you mean 'export_onnx'?",
        "did you mean 'entropy'?",
        "found 1.5, allowed: a whole number",
        "INT8 comes from a pass",
        "must be greater than or equal to 5",
        "must be greater than 0",
        "leaves the recipe's folder",
    ):
        assert part in says, part


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("sed: 1", "unknown key 'sed'; did you mean 'seed'?"),
        ("benchmark: {warm_up: 1}", "unknown key 'warm_up'; did you mean 'warmup'?"),
        ("task: {type: image_classification, preproces: {}}", "did you mean 'preprocess'?"),
        ("data: {validaton: {arrays: data.npz}}", "did you mean 'validation'?"),
        ("data: {validation: {arrays: {path: data.npz, label: y}}}", "did you mean 'labels'?"),
        ("passes: [{type: quantize, calibration: {metod: minmax}}]", "did you mean 'method'?"),
        ("passes: [{type: quantize, aproach: static}]", "did you mean 'approach'?"),
        ("gate: []", "unknown key 'gate'; did you mean 'gates'?"),
        ("gates: [{metric: size_bytes, max_dorp: 0}]", "did you mean 'max_drop'?"),
        ("passes: [{type: quantize, engine: nncf, adaround: {}}]", "'adaround' for engine nncf: onnxruntime and auto have it"),
    ],
)
def test_an_unknown_key_is_an_error_with_did_you_mean(home: Path, line: str, says: str) -> None:
    found = problems(home, SMALL + line + "\n")
    assert any(says in problem.message and problem.line == 4 for problem in found), found


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("seed: one", "seed: found 'one', allowed: a whole number"),
        ("seed: 1.5", "seed: found 1.5, allowed: a whole number"),
        ("seed: true", "seed: found true, allowed: a whole number"),
        ("about: 3", "about: found 3, allowed: a mapping"),
        ("about: {version: 1.0}", "about.version: found 1.0, allowed: text; write it in quotes"),
        ("report: {formats: md}", "report.formats: found 'md', allowed: a list"),
        ("passes: {type: simplify}", "passes: found a mapping, allowed: a list"),
        ("passes: [simplify]", "passes.0: found 'simplify', allowed: a mapping with a `type`"),
        ("passes: [{type: simplify, allow_noop: 1}]", "passes.0.allow_noop: found 1, allowed: true or false"),
        ("data: {validation: {arrays: 3}}", "data.validation.arrays: found 3, allowed: a mapping or text"),
        ("task: {type: image_classification, classes: [0, 1]}", "task.classes.0: found 0, allowed: text; write it in quotes"),
    ],
)
def test_a_wrong_type_says_what_was_found_and_what_is_allowed(home: Path, line: str, says: str) -> None:
    messages = [problem.message for problem in problems(home, SMALL + line + "\n")]
    assert says in messages


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("seed: -1", "seed: found -1, must be greater than or equal to 0"),
        ("seed: 4294967296", "must be less than or equal to 4294967295"),
        ("benchmark: {min_duration_s: 0}", "must be greater than 0"),
        ("benchmark: {restarts: 4}", "must be greater than or equal to 5"),
        ("benchmark: {batch_sizes: []}", "at least 1"),
        ("benchmark: {threads: 0}", "must be greater than 0"),
        ("passes: [{type: quantize, calibration: {percentile: 150}}]", "must be less than or equal to 100"),
        ("passes: [{type: export_onnx, opset: 5}]", "must be greater than or equal to 18"),
        ("data: {validation: {arrays: data.npz, skip: -1}}", "must be greater than or equal to 0"),
        ("name: a/b", "found 'a/b', allowed: a letter or digit, then letters, digits"),
        ('name: ""', "found '', allowed:"),
        ("name: ..", "found '..', allowed:"),
    ],
)
def test_a_value_out_of_range_is_refused(home: Path, line: str, says: str) -> None:
    assert any(says in problem.message for problem in problems(home, SMALL + line + "\n"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "benchmark: {scenario: singlestream}",
            "allowed: single_stream, multi_stream, offline, server; did you mean 'single_stream'?",
        ),
        ("benchmark: {percentiles: [95]}", "found 95, allowed: 50, 90 or 99"),
        ("report: {formats: [pdf]}", "found 'pdf', allowed: json, md"),
        ("task: {type: image_clasification}", "did you mean 'image_classification'?"),
        ("task: {type: image_classification, metrics: [top2]}", "no metric is called 'top2'; did you mean 'top"),
        ("task: {type: image_classification, metrics: []}", "found an empty list, allowed: top1, top5"),
        ("task: {type: image_classification, preprocess: {color: grey}}", "allowed: rgb, bgr, gray; did you mean 'gray'?"),
        (
            "passes: [{type: quantize, engine: nnfc}]",
            "allowed: auto, onnxruntime, nncf, neural-compressor; did you mean 'nncf'?",
        ),
        ("passes: [{type: quantize, approach: mixed}]", "found 'mixed', allowed: qat, static, dynamic, weight_only"),
        ("passes: [{type: simplify, engine: nncf}]", "simplify has none, leave the key out"),
    ],
)
def test_a_wrong_word_lists_the_right_ones(home: Path, line: str, says: str) -> None:
    assert any(says in problem.message for problem in problems(home, SMALL + line + "\n"))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            "{type: prun}",
            "the passes are prune, sparsify, finetune, distill, bn_reestimate, quantize, export_onnx, simplify, cast; did you",
        ),
        ("{type: quantise}", "did you mean 'quantize'?"),
        ("{approach: static}", "the key 'type' is missing; the passes are"),
        ("{type: 3}", "found 3; the passes are"),
    ],
)
def test_an_unknown_pass_lists_the_passes(home: Path, entry: str, says: str) -> None:
    assert says in one(home, SMALL + f"passes: [{entry}]\n").message


@pytest.mark.parametrize("key", ["version", "model", "targets"])
def test_a_missing_key_is_named(home: Path, key: str) -> None:
    text = "\n".join(line for line in SMALL.splitlines() if not line.startswith(key)) + "\n"
    assert one(home, text).message == f"the key {key!r} is missing"


def test_an_error_in_an_anchor_points_at_the_anchor(home: Path) -> None:
    text = FULL.replace("  num_samples: 300\n", "  num_samples: -1\n  btach_size: 3\n")
    found = problems(home, text)
    assert [(problem.line, problem.column) for problem in found] == [(7, 16), (8, 3)]
    assert "data.calibration.num_samples: found -1" in found[0].message
    assert "did you mean 'batch_size'?" in found[1].message


def test_a_recipe_from_the_future_asks_for_an_upgrade_and_nothing_else(home: Path) -> None:
    problem = one(home, "version: 2\nnew_key: 3\nmodel: []\n")
    assert (problem.line, problem.column) == (1, 10)
    assert "upgrade accel" in problem.message


@pytest.mark.parametrize("version", ["0", "'1'", "1.0", "one", "true"])
def test_a_version_that_never_was_is_refused(home: Path, version: str) -> None:
    assert any(problem.line == 1 for problem in problems(home, SMALL.replace("version: 1", f"version: {version}")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("schema_version: 1\n" + SMALL, "the key is `version`"),
        (SMALL + "fp16: true\n", "precision: fp16"),
        (SMALL.replace("onnxruntime}", "onnxruntime, fp16: true}"), "precision: fp16"),
        (SMALL.replace("onnxruntime}", "onnxruntime, threads: 2}"), "benchmark.threads"),
        (SMALL + "passes: [{type: quantize, sparsity: 0.5}]\n", "`pruning_ratio`"),
    ],
)
def test_what_was_replaced_says_by_what(home: Path, text: str, says: str) -> None:
    assert any(says in problem.message for problem in problems(home, text))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("{}", "exactly one of factory, torchvision, path; found none"),
        ("{path: m.onnx, torchvision: resnet18}", "found torchvision and path"),
        ("{path: net.safetensors}", "allowed: an .onnx file"),
        ("{path: m.onnx, weights: net.safetensors}", "does not go with `path`"),
        ("{path: m.onnx, kwargs: {a: 1}}", "does not go with `path`"),
        ("{path: m.onnx, inputs: [{name: x, shape: [1]}]}", "does not go with `path`"),
        ("{factory: net.py:build}", "the key 'inputs' is missing"),
        ("{torchvision: resnet18, kwargs: {weights: DEFAULT}, inputs: [{name: x, shape: [1]}]}", "nothing is downloaded"),
        ("{torchvision: resnet18, inputs: [{name: x, shape: [0]}]}", "must be greater than 0"),
        ("{torchvision: resnet18, inputs: [{name: x, shape: []}]}", "at least 1"),
        ("{torchvision: resnet18, inputs: [{name: x, shape: [b c]}]}", "allowed: a letter"),
        ("{torchvision: resnet18, inputs: [{name: x, shape: [1], dtype: float31}]}", "did you mean 'float32'?"),
        ("{torchvision: a, inputs: [{name: x, shape: [1]}, {name: x, shape: [1]}]}", "an earlier input too"),
        ("{torchvision: a, inputs: [{name: x, shape: [n], dynamic: {m: {min: 1, opt: 1, max: 1}}}]}", "no such axis"),
        ("{torchvision: a, inputs: [{name: x, shape: [n], dynamic: {n: {min: 2, opt: 1, max: 3}}}]}", "min <= opt <= max"),
        ("{torchvision: a, inputs: [{name: x, shape: [n], dynamic: {n: {min: 2, opt: 2}}}]}", "the key 'max' is missing"),
    ],
)
def test_a_model_that_cannot_be_meant(home: Path, model: str, says: str) -> None:
    text = SMALL.replace("{path: m.onnx}", model)
    assert any(says in problem.message and problem.line == 2 for problem in problems(home, text))


@pytest.mark.parametrize(
    ("reference", "says"),
    [("net.py", "not a reference"), ("net.py:", "not a reference"), ("absent.py:build", "absent.py"), ("a-b:c", "neither")],
)
def test_the_form_of_a_reference_is_checked(home: Path, reference: str, says: str) -> None:
    text = FULL.replace("factory: net.py:build", f'factory: "{reference}"')
    problem = one(home, text)
    assert says in problem.message
    assert problem.line == 9


@pytest.mark.parametrize("reference", ["os:system", "package.module:name", "../net.py:build", "a:b.c.__globals__"])
def test_what_a_reference_may_import_is_decided_where_it_would_be(home: Path, reference: str) -> None:
    assert recipe(home, FULL.replace("net.py:build", reference)).model.factory == reference


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ("[]", "at least 1"),
        ("[{backend: tensort}]", "allowed: eager, onnxruntime, openvino"),
        ("[{backend: openvin}]", "did you mean 'openvino'?"),
        ("[{name: x}]", "the key 'backend' is missing"),
        ("[{backend: onnxruntime}, {backend: onnxruntime}]", "another target's name too"),
        ("[{backend: onnxruntime, device: npu}]", "onnxruntime has no device 'npu'"),
        ("[{backend: onnxruntime, device: tpu}]", "allowed: cpu, gpu, npu"),
        ("[{backend: openvino, options: {num_stream: 1}}]", "did you mean 'num_streams'?"),
        ("[{backend: openvino, options: {num_streams: many}}]", "num_streams"),
        ("[{backend: openvino, name: a/b}]", "allowed: a letter or digit"),
        ("[{backend: eager}]", "eager takes a TorchModel, but the model is an OnnxModel"),
    ],
)
def test_a_target_that_cannot_be_meant(home: Path, targets: str, says: str) -> None:
    text = SMALL.replace("[{backend: onnxruntime}]", targets)
    assert any(says in problem.message and problem.line == 3 for problem in problems(home, text))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("data: {validation: {}}", "exactly one of"),
        ("data: {validation: {arrays: data.npz, folder: .}}", "exactly one of"),
        ("data: {validation: {arrays: data.npz}}", "nothing reads it: add `task"),
        ("data: {validation: {arrays: data.npz, num_samples: 0}}", "must be greater than 0"),
        ("task: {type: image_classification, preprocess: {mean: [1, 2]}}", "mean has 2 values"),
        ("task: {type: image_classification, preprocess: {color: gray, std: [1, 2, 3]}}", "std has 3 values"),
        ("task: {type: image_classification, preprocess: {resize: big}}", "allowed: a whole number or a list"),
    ],
)
def test_data_and_task_that_cannot_be_meant(home: Path, line: str, says: str) -> None:
    assert any(says in problem.message for problem in problems(home, SMALL + line + "\n"))


def test_a_note_says_that_accuracy_is_not_measured_without_validation(home: Path) -> None:
    assert "no data.validation: accuracy is not measured" in recipe(home, SMALL).notes


def test_a_note_says_that_no_target_reads_the_range_of_an_axis(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = "model.inputs.0.dynamic: only TensorRT reads it; the targets of this recipe take any size"
    assert note in recipe(home, FULL).notes
    assert note not in recipe(home, FULL.replace(", dynamic: {batch: {min: 1, opt: 8, max: 32}}", "")).notes
    openvino = catalog.BACKENDS["openvino"]
    monkeypatch.setattr(catalog, "BACKENDS", {**catalog.BACKENDS, "tensorrt": openvino})
    assert note not in recipe(home, FULL, "targets.0.backend=tensorrt").notes


def test_many_problems_are_cut_short(home: Path) -> None:
    text = SMALL + "about:\n" + "".join(f"  unknown{index}: 1\n" for index in range(2000))
    found = problems(home, text)
    assert len(found) == 51
    assert any("only the first 50" in problem.message for problem in found)


def test_reading_a_recipe_imports_nothing_heavy(home: Path) -> None:
    (home / "recipe.yaml").write_text(FULL)
    program = (
        "import sys; from pathlib import Path; from accel.recipe.reader import read\n"
        f"recipe = read(Path({str(home / 'recipe.yaml')!r})); [recipe.passes_for(target) for target in recipe.targets]\n"
        "heavy = ('torch', 'numpy', 'onnx', 'onnxruntime', 'openvino', 'nncf', 'PIL', 'rich')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


JUDGED = SMALL + "task: {type: image_classification}\ndata: {validation: {arrays: data.npz}}\n"


def test_gates_are_read_with_their_places(home: Path) -> None:
    text = JUDGED + "gates:\n  - {metric: top1, max_drop: 0.01}\n  -   metric: latency\n      tolerable_loss: 0.05\n"
    found = recipe(home, text)
    assert [(gate.metric, gate.max_drop) for gate in found.gates] == [("top1", 0.01), ("latency", 0.05)]
    assert found.gate_places == ((7, 5), (8, 7))
    assert "gates.1: took 'tolerable_loss' for 'max_drop'" in found.notes
    assert from_document(found.document(), path=found.path) == found
    assert from_document(found.document(), path=found.path).gate_places == ((0, 0), (0, 0))
    assert recipe(home, JUDGED, "gates=[{metric: top1, min: 0.5}]").gate_places == ((0, 0),)


@pytest.mark.parametrize(
    ("gate", "column", "says"),
    [
        ("{metric: size_bytes}", 9, "takes exactly one of max, min, max_drop, min_improvement; found none"),
        ("{metric: size_bytes, max: 1, min: 0}", 9, "found max and min"),
        ("{metric: latancy, max: 1}", 18, "no metric is called 'latancy'; allowed: top1, top5, latency_p50_ms"),
        ("{metric: top5x, max: 1}", 18, "did you mean 'top5'?"),
        ("{metric: top1, max_drop: 1}", 34, "top1 is a fraction: 0.01 is one percentage point"),
        ("{metric: top1, min: 87}", 29, "allowed: 0 to 1 (0.87 is 87 %)"),
        ("{metric: sqnr_db, max_drop: 3}", 18, "already compares with the reference row"),
        ("{metric: latency, min_improvement: 0.5}", 44, "2.0 is twice as good"),
        ("{metric: throughput, min: 3}", 18, "add it to benchmark.scenario"),
        ("{metric: latency_p99, max: 3}", 18, "add 99 to benchmark.percentiles"),
        ("{metric: size, max: 3, target: onxruntime}", 40, "did you mean 'onnxruntime'?"),
        ("{metric: size, max_drop: 0, vs: basline}", 41, "did you mean 'baseline'?"),
        ("{metric: size, max_drop: 0, vs: gone.json}", 41, "there is no such file"),
        ("{metric: size, max_drop: 0, vs: ../main.json}", 41, "leaves the recipe's folder"),
        ("{metric: size, max_drop: 0, vs: out/recipe/targets/r.json}", 41, "lies in the results, which the run replaces"),
        ("{metric: size, max: 0, vs: baseline}", 36, "does not go with max"),
        ("{metric: size, max: 0, drop_type: relative}", 43, "does not go with max"),
        ("{metric: size, max: .nan}", 29, "not a finite number"),
        ("{metric: size, max_drop: -1}", 34, "must be greater than or equal to 0"),
    ],
)
def test_a_gate_that_cannot_be_meant_is_refused_at_its_place(home: Path, gate: str, column: int, says: str) -> None:
    (home / "out/recipe/targets").mkdir(parents=True)
    (home / "out/recipe/targets/r.json").touch()
    problem = next(one for one in problems(home, JUDGED + f"benchmark: {{percentiles: [50]}}\ngates: [{gate}]\n"))
    assert says in problem.message
    assert (problem.line, problem.column) == (7, column)


def test_a_gate_on_accuracy_needs_data_to_judge_it(home: Path) -> None:
    text = SMALL + "task: {type: image_classification}\ngates: [{metric: top1, min: 0.5}]\n"
    assert "add data.validation" in one(home, text).message
    assert "no metric is called 'top1'" in one(home, SMALL + "gates: [{metric: top1, min: 0.5}]\n").message


def test_a_gate_may_compare_with_the_report_that_the_run_replaces(home: Path) -> None:
    (home / "out/recipe").mkdir(parents=True)
    (home / "out/recipe/report.json").touch()
    found = recipe(home, SMALL + "gates: [{metric: size, max_drop: 0, vs: out/recipe/report.json}]\n")
    assert found.gates[0].vs == "out/recipe/report.json"
