"""Faults 1 to 14 of the fault list, through the commands a user types: a recipe that is wrong. See tests/FAULTS.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Ended, Project

    Typed = Callable[..., Ended]


# -- 1, 2, 7: where it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "place", "said", "source"),
    [
        ("seed: 3", "seed: : 3", "3:7", "not YAML", "seed: : 3"),
        ("  factory: network", "\tfactory: network", "6:1", "indent with spaces, not tabs", "factory: network.py:net"),
        ("seed: 3", "seed: [3", "4:6", "starts in line 3", "about: {"),
    ],
    ids=["syntax", "tab", "open bracket"],
)  # fmt: skip
@pytest.mark.parametrize("command", ["validate", "plan", "optimize"])
def test_1_broken_yaml(
    project: Project, typed: Typed, command: str, old: str, new: str, place: str, said: str, source: str
) -> None:
    project.rewrite(old, new)
    ended = typed(command, "recipe.yaml")
    ended.refused(2, f"recipe.yaml:{place}: ", said)
    shown = ended.err.splitlines()
    assert source in shown[1]
    assert shown[2].index("^") == 4 + int(place.partition(":")[2]) - 1
    assert not project.out.exists()


def test_2_duplicate_key(project: Project, typed: Typed) -> None:
    project.rewrite("seed: 3", "seed: 3\nseed: 4")
    typed("validate", "recipe.yaml").refused(2, "recipe.yaml:4:1: ", "'seed' is given twice, first in line 3")


@pytest.mark.parametrize("form", ["anchor", "merge"])
def test_7_an_error_inside_an_anchor_points_at_the_anchor(project: Project, typed: Typed, form: str) -> None:
    project.rewrite("version: 1\n", "version: 1\nx-split: &split\n  batch_size: -4\n  arrays: {path: images.npz}\n")
    if form == "anchor":
        project.rewrite("calibration: {arrays: {path: images.npz}, num_samples: 32}", "calibration: *split")
    else:
        project.rewrite(
            "calibration: {arrays: {path: images.npz}, num_samples: 32}", "calibration: {<<: *split, num_samples: 32}"
        )
    typed("validate", "recipe.yaml").refused(2, "recipe.yaml:3:15: data.calibration.batch_size: found -4")


# -- 3, 4, 5: what it is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 3", "sed: 3", "recipe.yaml:3:1: sed: unknown key 'sed'; did you mean 'seed'?"),
        ("metrics: [top1]", "metric: [top1]", "did you mean 'metrics'?"),
        ("approach: static", "aproach: static", "did you mean 'approach'?"),
        ("benchmark: {min_duration_s", "benchmark: {min_duration", "did you mean 'min_duration_s'?"),
        ("backend: openvino}", "backend: openvino, options: {num_steams: 2}}", "did you mean 'num_streams'?"),
    ],
    ids=["top", "section", "pass", "benchmark", "backend option"],
)
def test_3_unknown_key(project: Project, typed: Typed, old: str, new: str, said: str) -> None:
    project.rewrite(old, new)
    typed("validate", "recipe.yaml").refused(2, said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 3", "seed: three", "seed: found 'three', allowed: a whole number"),
        ("num_samples: 32", "num_samples: 0", "data.calibration.num_samples: found 0, must be greater than 0"),
        (
            "approach: static",
            "calibration: {method: percentile, percentile: 150}",
            "percentile: found 150, must be less than or equal to 100",
        ),
        ("backend: onnxruntime}", "backend: onnxruntime, device: tpu}", "allowed: cpu, gpu, npu"),
    ],
    ids=["wrong type", "too small", "too large", "wrong word"],
)
def test_4_wrong_value(project: Project, typed: Typed, old: str, new: str, said: str) -> None:
    project.rewrite(old, new)
    typed("validate", "recipe.yaml").refused(2, said)


def test_4_all_problems_come_in_one_go(project: Project, typed: Typed) -> None:
    project.rewrite("seed: 3", "seed: three")
    project.rewrite("num_samples: 32", "num_samples: 0")
    project.rewrite("approach: static", "aproach: static")
    project.rewrite("backend: openvino", "backend: openvno")
    ended = typed("validate", "recipe.yaml")
    ended.refused(2, "seed: found 'three'", "num_samples: found 0", "'aproach'", "did you mean 'openvino'?")
    lines = [int(line.split("recipe.yaml:")[1].split(":")[0]) for line in ended.err.splitlines() if "recipe.yaml:" in line]
    assert len(lines) == 4
    assert lines == sorted(lines)


def test_5_unknown_pass(project: Project, typed: Typed) -> None:
    project.rewrite("type: quantize", "type: quantise")
    typed("validate", "recipe.yaml").refused(2, "the passes are prune, sparsify, finetune, ", "did you mean 'quantize'?")


# -- 6: YAML 1.2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("1E3", 1000.0), (".5", 0.5)])
def test_6_a_number_with_an_exponent_is_a_number(project: Project, typed: Typed, text: str, value: float) -> None:
    project.rewrite("factory: network.py:net", f"factory: network.py:net\n  kwargs: {{lr: {text}}}")
    project.rewrite("min_duration_s: 0.5", f"min_duration_s: {text}")
    assert typed("validate", "recipe.yaml").code == 0
    from accel.recipe.reader import read

    assert read(project.recipe).benchmark.min_duration_s == read(project.recipe).model.kwargs["lr"] == value


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "n", "y"])
def test_6_yes_and_no_are_text(project: Project, typed: Typed, word: str) -> None:
    project.rewrite("classes: [circle,", f"classes: [{word},")
    assert typed("validate", "recipe.yaml").code == 0
    typed("validate", "recipe.yaml", f"targets.0.optional={word}").refused(2, f"found '{word}', allowed: true or false")


def test_6_on_is_a_key_like_any_other(project: Project, typed: Typed) -> None:
    project.rewrite("seed: 3", "on: 3")
    typed("validate", "recipe.yaml").refused(2, "unknown key 'on'")


# -- 8, 9: hostile text ----------------------------------------------------------------------------------------------------


def alias_bomb() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 10)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    "hostile",
    [alias_bomb, lambda: b"[" * 20_000, lambda: b"{a: " * 20_000, lambda: b"- " * 20_000, lambda: b"a: 1\n" * 10_000_000],
    ids=["alias bomb", "20k brackets", "20k braces", "20k dashes", "50 MB"],
)
def test_8_hostile_text_costs_neither_time_nor_memory(project: Project, hostile: Callable[[], bytes]) -> None:
    project.recipe.write_bytes(hostile())
    ended, cpu_s, peak_bytes = project.watched("validate", "recipe.yaml")
    ended.refused(2, "recipe.yaml")
    assert cpu_s < 2.5  # the second that it may take, and the start of Python and the command line
    assert peak_bytes < 200 * 2**20


@pytest.mark.parametrize("command", ["validate", "plan", "optimize"])
def test_9_a_tag_is_refused_and_not_run(project: Project, typed: Typed, command: str) -> None:
    project.rewrite("seed: 3", "seed: !!python/object/apply:os.system ['touch canary']")
    typed(command, "recipe.yaml").refused(2, "recipe.yaml:3:7: ", "is not taken")
    assert not (project.folder / "canary").exists()


def test_9_a_tag_in_an_override_is_refused_and_not_run(project: Project, typed: Typed) -> None:
    typed("validate", "recipe.yaml", "seed=!!python/object/apply:os.system ['touch canary']").refused(2, "is not taken")
    assert not (project.folder / "canary").exists()


# -- 10: what is no recipe -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "the recipe is empty; `accel init MODEL` writes one"),
        (b"# one\n# two\n", "the recipe is empty"),
        (b"- version: 1\n", "a recipe is a mapping that starts with `version: 1`, found a list"),
        (b"version: 1\n---\nversion: 1\n", "recipe.yaml:2:1: ", ),
        (b"version: 1\nname: a\0b\n", "recipe.yaml:2:8: a NUL character"),
        ("version: 1\n".encode("utf-16"), "UTF-16"),
        (b"version: 1\nname: \xff\n", "recipe.yaml:2:7: byte 0xff is not UTF-8"),
    ],
    ids=["empty", "comments", "list", "two documents", "NUL", "UTF-16", "not UTF-8"],
)  # fmt: skip
def test_10_what_is_no_recipe(project: Project, typed: Typed, raw: bytes, said: str) -> None:
    project.recipe.write_bytes(raw)
    typed("validate", "recipe.yaml").refused(2, said)


@pytest.mark.parametrize("what", ["absent", "folder"])
def test_10_no_file(project: Project, typed: Typed, what: str) -> None:
    project.recipe.unlink()
    if what == "folder":
        project.recipe.mkdir()
    typed("validate", "recipe.yaml").refused(2, "recipe.yaml: the recipe cannot be read: ")


@pytest.mark.parametrize("form", ["BOM", "CRLF"])
def test_10_bom_and_crlf_are_accepted(project: Project, typed: Typed, form: str) -> None:
    raw = project.recipe.read_bytes()
    project.recipe.write_bytes(b"\xef\xbb\xbf" + raw if form == "BOM" else raw.replace(b"\n", b"\r\n"))
    ended = typed("validate", "recipe.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert "valid (export_onnx, simplify, quantize; for ort, ov)" in ended.out


# -- 11, 12: version and overrides -----------------------------------------------------------------------------------------


def test_11_a_recipe_from_the_future(project: Project, typed: Typed) -> None:
    project.rewrite("version: 1\n", "version: 2\nnews: [1]\n")
    ended = typed("validate", "recipe.yaml")
    ended.refused(2, "recipe.yaml:1:10: ", "found 2, this accel reads 1; upgrade accel")
    assert "news" not in ended.err


@pytest.mark.parametrize("command", ["validate", "plan", "optimize"])
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sed=4", "did you mean 'seed'?"),
        ("passes.2.calibration.metod=minmax", "did you mean 'method'?"),
        ("targets.7.device=cpu", "'7' is not an index of it (0 to 1)"),
        ("seed=four", "seed: found 'four', allowed: a whole number"),
    ],
)
def test_12_an_override_that_cannot_be_meant(project: Project, typed: Typed, command: str, override: str, said: str) -> None:
    typed(command, "recipe.yaml", override).refused(2, f"override {override!r}: ", said)
    assert not project.out.exists()


# -- 13: passes that contradict each other ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["validate", "plan", "optimize"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "  - type: export_onnx\n  - {type: simplify, allow_noop: true}\n",
            "  - {type: simplify, allow_noop: true}\n  - type: export_onnx\n",
            "simplify takes an OnnxModel, but the model is a TorchModel; put `- type: export_onnx` before it",
        ),
        (
            "  - {type: simplify, allow_noop: true}\n",
            "  - type: export_onnx\n",
            "export_onnx takes a TorchModel, but export_onnx before it gives an OnnxModel",
        ),
        (
            "    approach: static\n",
            "    approach: static\n  - type: quantize\n",
            "the model is quantized already, by passes.2; keep one of the two",
        ),
        (
            "  calibration: {arrays: {path: images.npz}, num_samples: 32}\n",
            "",
            "quantize needs calibration data; add data.calibration",
        ),
        (
            "  - type: quantize\n    approach: static\n",
            "  - {type: distill, teacher: null}\n",
            "passes.2.teacher: found nothing, allowed: ",
        ),
    ],
    ids=["before the export", "exported twice", "int8 twice", "no data for it", "distill without a teacher"],
)
def test_13_contradictory_passes(project: Project, typed: Typed, command: str, old: str, new: str, said: str) -> None:
    project.rewrite(old, new)
    typed(command, "recipe.yaml").refused(2, said)
    assert not project.out.exists()


# -- 14: paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 3", "output_dir: ../../etc", "output_dir: '../../etc' leaves the recipe's folder"),
        ("seed: 3", "cache_dir: ../cache", "cache_dir: '../cache' leaves the recipe's folder"),
        ("factory: network.py:net", "factory: network.py:net\n  weights: ../w.pt", "model.weights: '../w.pt' leaves"),
        ("images.npz}, num", "../images.npz}, num", "data.calibration.arrays.path: '../images.npz' leaves"),
        ("seed: 3", "output_dir: .", "output_dir: '.' holds data.calibration.arrays.path (images.npz)"),
        ("name: small", "name: a/../../b", "name: found 'a/../../b', allowed: "),
    ],
    ids=["output", "cache", "weights", "data", "output is input", "name"],
)
@pytest.mark.parametrize("command", ["validate", "plan", "optimize"])
def test_14_paths_that_escape(project: Project, typed: Typed, command: str, old: str, new: str, said: str) -> None:
    before = sorted(path.name for path in project.folder.parent.iterdir())
    project.rewrite(old, new)
    typed(command, "recipe.yaml").refused(2, said)
    assert sorted(path.name for path in project.folder.parent.iterdir()) == before


def test_14_an_output_folder_on_the_command_line_that_holds_the_inputs(project: Project, typed: Typed) -> None:
    (project.folder / "small").mkdir()
    images = (project.folder / "images.npz").rename(project.folder / "small" / "images.npz")
    project.rewrite("path: images.npz", "path: small/images.npz")
    before = images.read_bytes()
    ended = typed("optimize", "recipe.yaml", "--no-benchmark", "--output", ".")
    ended.refused(2, "small: is not empty and holds no report of ours; it is left as it is. Choose another --output")
    assert [path.name for path in images.parent.iterdir()] == ["images.npz"]
    assert images.read_bytes() == before


def test_14_an_output_folder_on_the_command_line_may_be_anywhere(project: Project, typed: Typed, tmp_path: Path) -> None:
    ended = typed("plan", "recipe.yaml", "--json", "--output", "../elsewhere")
    assert ended.code == 0
    assert Path(json.loads(ended.out)["output"]).resolve() == (tmp_path / "elsewhere" / "small").resolve()
