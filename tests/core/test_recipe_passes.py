"""Pass entries: which class is meant, neighbours, needs; with stand-ins where the catalogue has no such pass yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from accel import catalog
from accel.contracts import Job, Need
from accel.errors import Problem, RecipeError, UsageError
from accel.model import OnnxModel, TorchModel
from accel.recipe.passes import PassEntry, gives, leaf_for, leaves, takes
from accel.recipe.reader import from_document, read
from accel.recipe.settings import Recipe


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Prune:
    """A stand-in: torch to torch, needs training data."""

    needs: ClassVar[frozenset[Need]] = frozenset({"training"})
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()

    pruning_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5

    def __call__(self, model: TorchModel, job: Job) -> TorchModel:
        return model


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Rank:
    """A stand-in: takes either kind, gives the same, needs selection data."""

    needs: ClassVar[frozenset[Need]] = frozenset({"selection"})
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()

    flag: bool = False

    def __call__(self, model: TorchModel | OnnxModel, job: Job) -> TorchModel | OnnxModel:
        return model


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Qat:
    """A stand-in for another approach of quantize: torch to torch."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()

    allow_noop: bool = False
    method: Literal["entropy", "minmax"] = "minmax"

    def __call__(self, model: TorchModel, job: Job) -> TorchModel:
        return model


@pytest.fixture
def more_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue with the stand-ins, and one that is not there."""
    more = {
        "prune": f"{__name__}:Prune",
        "rank": f"{__name__}:Rank",
        "quantize/qat": f"{__name__}:Qat",
        "broken": "no_such_plug_in:Pass",
    }
    monkeypatch.setattr(catalog, "PASSES", {**catalog.PASSES, **more})


TORCH = "{torchvision: resnet18, inputs: [{name: x, shape: [batch, 3, 32, 32]}]}"
ONNX = "{path: m.onnx}"
BOTH = "[{backend: onnxruntime}, {backend: openvino}]"


def recipe(folder: Path, model: str, passes: str, targets: str = BOTH, data: str = "[calibration, training]") -> Recipe:
    (folder / "m.onnx").touch()
    (folder / "d.npz").touch()
    splits = "".join(f"  {split}: {{arrays: d.npz}}\n" for split in data.strip("[]").split(", ") if split)
    text = f"version: 1\nmodel: {model}\ntask: {{type: image_classification}}\ndata:\n{splits}targets: {targets}\npasses:\n"
    text += "".join(f"  - {entry}\n" for entry in passes.split(" > "))
    path = folder / "recipe.yaml"
    path.write_text(text)
    return read(path)


def problems(
    folder: Path, model: str, passes: str, targets: str = BOTH, data: str = "[calibration, training]"
) -> Sequence[Problem]:
    with pytest.raises(RecipeError) as caught:
        recipe(folder, model, passes, targets, data)
    return caught.value.problems


@pytest.mark.usefixtures("more_passes")
@pytest.mark.parametrize(
    ("model", "passes"),
    [
        (TORCH, "{type: export_onnx}"),
        (TORCH, "{type: prune} > {type: export_onnx} > {type: simplify} > {type: quantize}"),
        (TORCH, "{type: rank} > {type: prune} > {type: rank} > {type: export_onnx} > {type: rank}"),
        (TORCH, "{type: quantize, approach: qat} > {type: export_onnx}"),
        (ONNX, "{type: rank}"),
        (ONNX, "{type: quantize}"),
    ],
)
def test_an_order_that_fits_is_taken(tmp_path: Path, model: str, passes: str) -> None:
    found = recipe(tmp_path, model, passes)
    assert len(found.passes_for(found.targets[0])) == passes.count("type")


@pytest.mark.usefixtures("more_passes")
@pytest.mark.parametrize(
    ("model", "passes", "line", "says"),
    [
        (
            TORCH,
            "{type: export_onnx} > {type: prune}",
            10,
            "prune takes a TorchModel, but export_onnx before it gives an OnnxModel",
        ),
        (
            TORCH,
            "{type: export_onnx} > {type: simplify} > {type: prune}",
            11,
            "move it before the pass that makes the ONNX file",
        ),
        (TORCH, "{type: export_onnx} > {type: export_onnx}", 10, "export_onnx takes a TorchModel"),
        (TORCH, "{type: quantize} > {type: export_onnx}", 9, "quantize takes an OnnxModel, but the model is a TorchModel"),
        (TORCH, "{type: simplify} > {type: export_onnx}", 9, "put `- type: export_onnx` before it"),
        (ONNX, "{type: export_onnx}", 9, "export_onnx takes a TorchModel, but the model is an OnnxModel"),
        (ONNX, "{type: prune}", 9, "prune takes a TorchModel, but the model is an OnnxModel"),
        (TORCH, "{type: export_onnx} > {type: rank} > {type: prune}", 11, "rank before it gives an OnnxModel"),
        (TORCH, "{type: prune}", 7, "onnxruntime takes an OnnxModel, but prune before it gives a TorchModel"),
    ],
)
def test_a_wrong_order_is_refused_at_the_pass(tmp_path: Path, model: str, passes: str, line: int, says: str) -> None:
    found = problems(tmp_path, model, passes)
    assert {problem.line for problem in found} == {line}
    assert says in found[0].message


def test_one_wrong_order_is_one_problem_however_many_targets(tmp_path: Path) -> None:
    assert len(problems(tmp_path, ONNX, "{type: export_onnx}")) == 1


@pytest.mark.usefixtures("more_passes")
def test_eager_takes_a_module(tmp_path: Path) -> None:
    found = problems(tmp_path, ONNX, "{type: rank}", targets="[{backend: eager}]")
    assert "eager takes a TorchModel, but" in found[0].message


@pytest.mark.usefixtures("more_passes")
def test_eager_stands_before_the_pass_that_makes_a_file(tmp_path: Path) -> None:
    targets = "[{backend: eager}, {backend: onnxruntime}]"
    found = recipe(tmp_path, TORCH, "{type: prune} > {type: export_onnx} > {type: quantize}", targets=targets)
    keys = [[key for key, _ in found.passes_for(target)] for target in found.targets]
    assert keys == [["prune"], ["prune", "export_onnx", "quantize/static/onnxruntime"]]
    assert "eager: eager takes the model as it is before passes.1, export_onnx" in found.notes


@pytest.mark.usefixtures("more_passes")
def test_eager_is_taken_where_the_last_pass_gives_a_module(tmp_path: Path) -> None:
    found = recipe(tmp_path, TORCH, "{type: prune} > {type: rank}", targets="[{backend: eager}]")
    assert [target.backend for target in found.targets] == ["eager"]


@pytest.mark.usefixtures("more_passes")
@pytest.mark.parametrize(
    ("model", "passes"),
    [
        (ONNX, "{type: quantize} > {type: quantize}"),
        (ONNX, "{type: quantize, engine: nncf} > {type: simplify} > {type: quantize, engine: onnxruntime}"),
        (TORCH, "{type: quantize, approach: qat} > {type: export_onnx} > {type: quantize}"),
    ],
)
def test_quantizing_twice_is_refused(tmp_path: Path, model: str, passes: str) -> None:
    found = problems(tmp_path, model, passes)
    assert [problem.line for problem in found] == [9 + passes.count(" > ")]
    assert "quantized already, by passes.0" in found[0].message


@pytest.mark.usefixtures("more_passes")
@pytest.mark.parametrize(
    ("passes", "data", "says"),
    [
        ("{type: quantize}", "[training]", "quantize needs calibration data; add data.calibration"),
        ("{type: quantize}", "[validation]", "quantize needs calibration data; add data.calibration"),
        ("{type: rank}", "[validation]", "rank needs selection data; add data.selection"),
    ],
)
def test_a_pass_without_the_data_it_needs_is_refused(tmp_path: Path, passes: str, data: str, says: str) -> None:
    found = problems(tmp_path, ONNX, passes, data=data)
    assert [problem.message.partition(": ")[2] for problem in found] == [says]


@pytest.mark.usefixtures("more_passes")
def test_training_data_is_named_where_training_is_needed(tmp_path: Path) -> None:
    found = problems(tmp_path, TORCH, "{type: prune} > {type: export_onnx}", data="[calibration]")
    assert "prune needs training data; add data.training" in found[0].message


@pytest.mark.usefixtures("more_passes")
@pytest.mark.parametrize("data", ["[training]", "[calibration]", "[selection]"])
def test_selection_is_split_off_where_it_is_not_given(tmp_path: Path, data: str) -> None:
    assert recipe(tmp_path, ONNX, "{type: rank}", data=data).passes[0].type == "rank"


@pytest.mark.usefixtures("more_passes")
def test_static_is_the_approach_that_need_not_be_named(tmp_path: Path) -> None:
    assert recipe(tmp_path, ONNX, "{type: quantize}").passes[0].approach == "static"


@pytest.mark.usefixtures("more_passes")
def test_an_approach_with_its_own_settings(tmp_path: Path) -> None:
    found = recipe(tmp_path, TORCH, "{type: quantize, approach: qat, method: kl, allow_noop: true} > {type: export_onnx}")
    assert found.passes_for(found.targets[0])[0] == ("quantize/qat", Qat(allow_noop=True, method="entropy"))
    assert found.notes[0] == "passes.0.method: took 'kl' for 'entropy'"
    assert found.document()["passes"][0] == {"type": "quantize", "approach": "qat", "allow_noop": True, "method": "entropy"}
    assert from_document(found.document(), path=found.path) == found


@pytest.mark.usefixtures("more_passes")
def test_sparsity_for_a_channel_ratio_is_refused(tmp_path: Path) -> None:
    found = problems(tmp_path, TORCH, "{type: prune, sparsity: 0.5} > {type: export_onnx}")
    assert "a share of channels is `pruning_ratio`" in found[0].message


@pytest.mark.usefixtures("more_passes")
def test_a_ratio_out_of_range_is_refused(tmp_path: Path) -> None:
    found = problems(tmp_path, TORCH, "{type: prune, pruning_ratio: 1.5} > {type: export_onnx}")
    assert [problem.message for problem in found] == ["passes.0.pruning_ratio: found 1.5, must be less than 1"]


@pytest.mark.usefixtures("more_passes")
def test_a_plug_in_that_is_not_there_is_one_problem(tmp_path: Path) -> None:
    found = problems(tmp_path, ONNX, "{type: broken}")
    assert "cannot be loaded from no_such_plug_in:Pass" in found[0].message


def test_what_comes_after_a_wrong_entry_is_not_judged_by_it(tmp_path: Path) -> None:
    found = problems(tmp_path, TORCH, "{type: export_onx} > {type: quantize}")
    assert [problem.line for problem in found] == [9]


def test_auto_falls_back_to_the_engine_that_takes_the_settings(tmp_path: Path) -> None:
    found = recipe(tmp_path, ONNX, "{type: quantize, calibration: {method: entropy}}")
    assert {found.passes_for(target)[0][0] for target in found.targets} == {"quantize/static/onnxruntime"}
    assert "passes.0: openvino gets engine onnxruntime; nncf does not take these settings" in found.notes


def test_auto_is_an_engine_of_its_own_and_none_leaves_it_to_the_backend(tmp_path: Path) -> None:
    tried = recipe(tmp_path, ONNX, "{type: quantize, engine: auto}")
    assert {tried.passes_for(target)[0][0] for target in tried.targets} == {"quantize/static/auto"}
    assert tried.document()["passes"][0]["engine"] == "auto"
    left = recipe(tmp_path, ONNX, "{type: quantize}")
    assert [left.passes_for(target)[0][0] for target in left.targets] == [
        f"quantize/static/{'nncf' if target.backend == 'openvino' else 'onnxruntime'}" for target in left.targets
    ]
    weights = recipe(tmp_path, ONNX, "{type: quantize, approach: weight_only, engine: auto}")
    assert {weights.passes_for(target)[0][0].rpartition("/")[2] for target in weights.targets} <= {"onnxruntime", "nncf"}


def test_the_engine_for_torch_models_stands_before_the_export(tmp_path: Path) -> None:
    found = recipe(tmp_path, TORCH, "{type: quantize, engine: neural-compressor} > {type: export_onnx}")
    assert {found.passes_for(target)[0][0] for target in found.targets} == {"quantize/static/neural-compressor"}
    late = problems(tmp_path, TORCH, "{type: export_onnx} > {type: quantize, engine: neural-compressor}")
    found_there = "passes.1: quantize takes a TorchModel, but export_onnx before it gives an OnnxModel"
    assert [problem.message for problem in late] == [f"{found_there}; move it before the pass that makes the ONNX file"]
    bare = problems(tmp_path, TORCH, "{type: quantize} > {type: export_onnx}")
    assert "quantize takes an OnnxModel" in bare[0].message, "it is chosen by name only"
    entry = "{type: quantize, approach: weight_only, engine: neural-compressor, weights: {algorithm: awq}}"
    weights = recipe(tmp_path, TORCH, f"{entry} > {{type: export_onnx}}")
    assert {weights.passes_for(target)[0][0] for target in weights.targets} == {"quantize/weight_only/neural-compressor"}


def test_a_named_engine_serves_every_target(tmp_path: Path) -> None:
    found = recipe(tmp_path, ONNX, "{type: quantize, engine: nncf}")
    assert {found.passes_for(target)[0][0] for target in found.targets} == {"quantize/static/nncf"}


def test_a_named_engine_must_take_the_settings(tmp_path: Path) -> None:
    found = problems(tmp_path, ONNX, "{type: quantize, engine: nncf, calibration: {method: entropy}}")
    assert [problem.message for problem in found] == [
        "passes.0.calibration.method: found 'entropy', allowed: minmax, percentile"
    ]


def test_settings_that_no_engine_takes_are_judged_by_the_first_targets(tmp_path: Path) -> None:
    found = problems(tmp_path, ONNX, "{type: quantize, calibration: {method: entropi}}", targets="[{backend: openvino}]")
    assert [problem.message for problem in found] == [
        "passes.0.calibration.method: found 'entropi', allowed: minmax, percentile"
    ]


def test_a_leaf_for_settings_that_none_takes_is_an_error() -> None:
    with pytest.raises(UsageError, match="no pass takes the settings of simplify"):
        leaf_for(PassEntry(type="simplify", settings={"x": 1}), "onnxruntime")


@pytest.mark.parametrize("key", list(catalog.PASSES))
def test_every_pass_of_the_catalogue_says_what_it_takes_and_gives(key: str) -> None:
    leaf = next(leaf for leaf in leaves() if leaf.key == key)
    found = catalog.load(leaf.reference)
    assert len(takes(found)) == len(gives(found)) == 1
    on_modules = ("quantize/qat", "quantize/static/neural-compressor", "quantize/weight_only/neural-compressor")
    on_files = key in ("export_onnx", "simplify", "cast") or (key.startswith("quantize/") and key not in on_modules)
    assert gives(found) == {"OnnxModel" if on_files else "TorchModel"}
    assert takes(found) == {"OnnxModel" if on_files and key != "export_onnx" else "TorchModel"}
