"""TensorRT and a user's mistakes, without a GPU: broken models, ranges, options and engines, through what is typed.

Every refusal names the node or the field and the way out, costs its own target alone, and leaves no half-written file.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel import engine_file
from accel.accelerate import nvidia_device

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Ended, Project

    Typed = Callable[..., Ended]

pytestmark = [
    pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
    pytest.mark.skipif(nvidia_device.problem() is None, reason="there is a GPU here, and these say what happens without"),
]

CAPABILITIES = 'compute_capabilities: ["8.9"]'
SIZES = "min: [1, 3, 16, 16], opt: [2, 3, 16, 16], max: [4, 3, 16, 16]"
PROFILES = f"profiles: [{{x: {{{SIZES}}}}}]"
EVIL = "stem\x1b]0;owned\x07\n::error::Det"


def target(name: str, options: str, more: str = "") -> str:
    return f"  - {{name: {name}, backend: tensorrt{more}, options: {{{options}}}}}"


GOOD = target("rtx", f"{CAPABILITIES}, {PROFILES}")
ORT = "  - {name: ort, backend: onnxruntime}"


def write_recipe(project: Project, *targets: str, model: str = "m.onnx") -> None:
    lines = ["version: 1", "name: small", f"model: {{path: {model}}}", "targets:", *targets]
    project.recipe.write_text(
        "\n".join([*lines, "benchmark: {min_duration_s: 0.2, min_iterations: 20, max_duration_s: 1}"]) + "\n"
    )


def save(place: Path, nodes: Sequence[Any], weights: Sequence[Any], batch: int | str = "batch", **more: Any) -> Path:
    """x of (batch, 3, 16, 16) to y of (batch, 8, ?, ?)."""
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 16]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 8, None, None]),
    ]
    graph = helper.make_graph(list(nodes), "g", values[:1], values[1:], list(weights))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), place, **more)
    return place


def conv(data: str = "x", weight: str = "w") -> Any:
    return helper.make_node("Conv", [data, weight], ["c"], name="stem/Conv", pads=[1, 1, 1, 1])


def weights() -> list[Any]:
    values = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32) / 10
    return [numpy_helper.from_array(values, "w")]


def sound(place: Path, **more: Any) -> Path:
    return save(place, [conv(), helper.make_node("Relu", ["c"], ["y"], name="stem/Relu")], weights(), **more)


def unsupported(place: Path, name: str = "head/Det") -> Path:
    """ONNX Runtime runs it; TensorRT has no Det."""
    nodes = [conv(), helper.make_node("Det", ["c"], ["d"], name=name)]
    nodes.append(helper.make_node("Unsqueeze", ["d", "axes"], ["y"], name="head/Unsqueeze"))
    return save(place, nodes, [*weights(), numpy_helper.from_array(np.array([2, 3]), "axes")])


def asymmetric(place: Path) -> Path:
    """As ONNX Runtime's own tool writes it by default: UINT8 activations around 131."""
    scales = [("s", np.float32(0.05)), ("z", np.uint8(131)), ("ws", np.full(8, 0.01, np.float32)), ("wz", np.zeros(8, np.int8))]
    values = np.random.default_rng(0).integers(-100, 100, (8, 3, 3, 3)).astype(np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="x/Q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="x/DQ"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], name="w/DQ", axis=0),
        conv("xd", "wd"),
        helper.make_node("Relu", ["c"], ["y"], name="stem/Relu"),
    ]
    given = [numpy_helper.from_array(np.asarray(value), name) for name, value in scales]
    return save(place, nodes, [*given, numpy_helper.from_array(values, "wq")])


def reported(project: Project) -> dict[str, dict[str, Any]]:
    rows = json.loads((project.out / "report.json").read_text())["rows"]
    return {row["name"]: row for row in rows if row["role"] == "result"}


def published(project: Project) -> set[str]:
    return {path.relative_to(project.out / "targets").as_posix() for path in (project.out / "targets").rglob("*.*")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, new_project: Callable[[Path], Project]) -> Project:
    """A project whose one target, for TensorRT, has been built from an ONNX file; read it only, or copy it."""
    project = new_project(tmp_path_factory.mktemp("built") / "a project")
    sound(project.folder / "m.onnx")
    write_recipe(project, GOOD)
    done = project.accel("optimize", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    assert "nothing was measured: rtx on tensorrt/gpu built only" in done.stdout
    return project


@pytest.fixture
def engine(built: Project, project: Project) -> Path:
    """A copy of its engine, with the manifest beside it, in a project of its own."""
    shutil.copytree(built.out / "targets" / "rtx", project.folder / "engine")
    return project.folder / "engine" / "model.engine"


def edit(engine: Path, **fields: Any) -> None:
    place = engine.with_name("engine.json")
    place.write_text(json.dumps({**json.loads(place.read_text()), **fields}))


# -- broken models, ranges and options cost their target ------------------------------------------------------------------


def test_an_unsupported_operator_is_named_and_harmless(project: Project, typed: Typed) -> None:
    unsupported(project.folder / "m.onnx", EVIL)
    write_recipe(project, GOOD, ORT)
    done = typed("optimize", "recipe.yaml", "--no-benchmark")
    (told,) = [line for line in done.err.splitlines() if line.startswith("accel: rtx: ")]
    assert done.code == 4
    # Nothing that a terminal or a CI runner would obey, and all on one line.
    name = "stem\\x1b]0;owned\\x07 ::error::Det"
    assert told == (
        f"accel: rtx: m.onnx: tensorrt-rtx cannot take it: node {name}: the parser has no operator Det;"
        " rewrite it in the network with operators that are there, and export again"
    )
    for said in (done.err, done.out):
        assert "\x1b" not in said
        assert "\x07" not in said
        assert not any(line.startswith("::") for line in said.splitlines())
    assert {name: row["status"] for name, row in reported(project).items()} == {"rtx": "failed", "ort": "built"}
    assert published(project) == {"ort/model.onnx", "ort/manifest.json"}
    assert project.litter() == []


def test_asymmetric_quantization_is_refused_and_the_previous_output_stays(
    built: Project, project: Project, typed: Typed
) -> None:
    asymmetric(project.folder / "m.onnx")
    write_recipe(project, GOOD)
    shutil.copytree(built.out, project.out)
    before = project.published()
    typed("optimize", "recipe.yaml", "--no-benchmark").refused(
        4, "node x/Q: the zero point of its activation is 131 (UINT8)", "only 0 is accepted", "`backend: tensorrt`"
    )
    assert project.published() == before
    assert project.litter() == []
    linted = typed("lint", "m.onnx", "--target", "tensorrt-rtx")
    assert linted.code == 1
    assert "error zero-point: x/Q" in linted.out


def test_each_wrong_range_costs_its_target_alone(project: Project, typed: Typed) -> None:
    sound(project.folder / "m.onnx")
    write_recipe(
        project,
        GOOD,
        target("unranged", CAPABILITIES),
        target("larger", f"{CAPABILITIES}, profiles: [{{x: {{{SIZES.replace('max: [4, 3, 16', 'max: [4, 3, 32')}}}}}]"),
        target("another", f"{CAPABILITIES}, profiles: [{{image: {{{SIZES}}}}}]"),
        target("starved", f"{CAPABILITIES}, {PROFILES}, workspace_mb: 1"),
        target("absent", "library: tensorrt", ", optional: true"),
    )
    done = typed("optimize", "recipe.yaml", "--no-benchmark")
    assert done.code == 4, done.err
    assert "Traceback" not in done.err
    rows = reported(project)
    assert {name: row["status"] for name, row in rows.items()} == {
        "rtx": "built",
        "unranged": "failed",
        "larger": "failed",
        "another": "failed",
        "starved": "failed",
        "absent": "skipped",
    }
    said = {
        "unranged": (
            "input x, axis batch varies",
            "option `profiles: [{x: {min: [1, 3, 16, 16], opt: ",
            "max: [8, 3, 16, 16]}}]`",
        ),
        "larger": ("profiles[0]: input x, axis 2: max is 32, and the model has 16 there; write 16",),
        "another": ("profiles[0]: the model has no input 'image'; it has x",),
        "starved": ("built no engine: ", "workspace", "; raise the option workspace_mb, or leave it out"),
        "absent": ("tensorrt is not installed; get it with: pip install --upgrade 'accel-toolkit[tensorrt]'",),
    }
    for name, parts in said.items():
        for part in parts:
            assert part in rows[name]["reason"], rows[name]["reason"]
    assert published(project) == {"rtx/model.engine", "rtx/engine.json", "rtx/manifest.json"}
    assert project.litter() == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("fp16: true", "put `- type: cast, dtype: fp16` into the passes"),
        ("int8: true", "put `- type: quantize` (static or qat) into the passes"),
        ("calibrator: entropy", "its calibration data is the recipe's data.calibration"),
        ("max_batch_size: 8", "`profiles`"),
        ("strict_types: true", "every network is strongly typed"),
        ("workspace: 64", "it is called `workspace_mb`"),
        ("profiles: [{x: {min: [1, 3], opt: [1, 3], max: [8]}}]", "min, opt and max have 2, 2 and 1 axes"),
        ("profiles: {x: 1}", "it must be a list"),
        ('compute_capabilities: ["9.0"]', "TensorRT-RTX builds for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1; for another GPU leave"),
        ("compute_capabilities: [sm_89]", "did you mean 8.9?"),
        ("compute_capabilities: 8.6", "it must be a list such as [8.6, 8.9]"),
        ("library: tensorrt, compute_capabilities: [8.6]", "set `library: tensorrt-rtx`"),
    ],
)
def test_validate_says_where_and_what_instead(project: Project, typed: Typed, options: str, said: str) -> None:
    sound(project.folder / "m.onnx")
    write_recipe(project, target("rtx", options))
    column = target("rtx", options).index("{" + options) + 1
    typed("validate", "recipe.yaml").refused(2, f"recipe.yaml:5:{column}: ", "target rtx: ", said)


def test_a_library_that_is_not_here_is_missing(project: Project, typed: Typed) -> None:
    sound(project.folder / "m.onnx")
    write_recipe(project, target("rtx", "library: tensorrt"))
    typed("optimize", "recipe.yaml").refused(
        3, "target rtx: tensorrt is not installed; get it with: pip install", "optional: true"
    )
    assert not project.out.exists()


# -- what a model file may look like --------------------------------------------------------------------------------------


def test_fixed_batch_and_external_data_and_integer_inputs_are_built(project: Project, typed: Typed) -> None:
    folder = project.folder
    sound(folder / "fixed.onnx", batch=2)
    sound(folder / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    table = numpy_helper.from_array(np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embedding/Gather"),
        helper.make_node("Add", ["e", "f"], ["y"], name="head/Add"),
    ]
    shape = ["batch", "time"]
    values = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, shape),
        helper.make_tensor_value_info("f", TensorProto.FLOAT, [*shape, 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [*shape, 4]),
    ]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:], [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "several.onnx")
    several = "profiles: [{ids: {min: [1, 1], opt: [1, 4], max: [2, 8]}, f: {min: [1, 1, 4], opt: [1, 4, 4], max: [2, 8, 4]}}]"
    for model, options in (("fixed", ""), ("m", f", {PROFILES}"), ("several", f", {several}")):
        write_recipe(project, target("rtx", f"{CAPABILITIES}{options}"), model=f"{model}.onnx")
        done = typed("optimize", "recipe.yaml", "--no-benchmark")
        assert done.code == 0, done.err
        place = project.out / "targets" / "rtx"
        assert {path.name for path in place.iterdir()} == {"model.engine", "engine.json", "manifest.json"}
        signature = engine_file.read(place / "model.engine").signature
        expected = {
            "fixed": [(2, 3, 16, 16)],
            "m": [("batch", 3, 16, 16)],
            "several": [("batch", "time"), ("batch", "time", 4)],
        }
        assert [spec.shape for spec in signature.inputs] == expected[model]
        assert signature.inputs[0].dtype == ("int64" if model == "several" else "float32")


@pytest.mark.parametrize(
    ("name", "data", "code", "said"),
    [
        ("m.engine", b"ftrt", 2, "an engine is built already; lint the .onnx file"),
        ("m.xml", b"<net/>", 2, "an OpenVINO IR; lint reads the .onnx file"),
        ("engine", None, 2, "a folder; name the .onnx file in it"),
        ("m.onnx", b"", 4, "the file is empty"),
        ("m.onnx", b"hello", 4, "not an ONNX model, or cut short"),
    ],
)
def test_lint_of_what_is_no_onnx_file(
    project: Project, typed: Typed, name: str, data: bytes | None, code: int, said: str
) -> None:
    place = project.folder / name
    place.mkdir() if data is None else place.write_bytes(data)
    typed("lint", name, "--target", "tensorrt").refused(code, name, said)


def test_names_of_a_file_command_no_terminal(project: Project, typed: Typed) -> None:
    unsupported(project.folder / "m.onnx", EVIL)
    done = typed("lint", "m.onnx", "--target", "tensorrt-rtx")
    assert done.code == 1
    assert "error unsupported-operator: stem\\x1b]0;owned\\x07 : :error: :Det: the parser has no operator Det" in done.out
    assert json.loads(typed("lint", "m.onnx", "--target", "tensorrt-rtx", "--json").out)["findings"][0]["node"] == EVIL


# -- engines that are damaged, or another's -------------------------------------------------------------------------------


def flip(engine: Path) -> None:
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a byte flipped": (flip, "engine_sha256 is ", "copy both files again, or build it again with `accel optimize`"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:1000]), "1000 bytes", "copy both files again"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty", ""),
    "manifest of another": (lambda path: edit(path, engine_bytes=7), "is of one with 7", "copy both files again"),
    "manifest gone": (lambda path: path.with_name("engine.json").unlink(), "no engine.json beside it", "copy it along"),
    "manifest not JSON": (lambda path: path.with_name("engine.json").write_text("{"), "not JSON", "build it again"),
    "manifest newer": (
        lambda path: edit(path, format=2),
        "format 2; this version of accel reads up to 1",
        "Upgrade accel-toolkit",
    ),
    "field of another kind": (lambda path: edit(path, onnx_sha256="?"), "onnx_sha256: ", "build it again"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("command", ["inspect", "benchmark"])
def test_a_damaged_engine_is_told_before_the_missing_gpu(engine: Path, typed: Typed, damage: str, command: str) -> None:
    make, said, way_out = DAMAGES[damage]
    make(engine)
    typed(command, "engine/model.engine").refused(4, said, way_out)


def test_an_engine_of_another_version_or_library_names_the_field(engine: Path, typed: Typed) -> None:
    edit(engine, library_version="9.9.9\x1b[31m\n::error::")
    typed("benchmark", "engine/model.engine").refused(
        4, "library_version: the engine was built for 9.9.9\\x1b[31m ::error::, and here is 1.", "install tensorrt-rtx 9.9.9"
    )
    assert typed("inspect", "engine/model.engine").code == 0  # what it was made for is what one asks then
    edit(engine, library="tensorrt", library_version="11.1.0")
    typed("benchmark", "engine/model.engine", "--json").refused(3, "tensorrt is not installed; get it with: ")


def test_a_sound_engine_is_told_of_and_not_run(built: Project, engine: Path, typed: Typed) -> None:
    shown = json.loads(typed("inspect", "engine/model.engine", "--json").out)
    assert (shown["format"], shown["library"], shown["compute_capabilities"]) == ("tensorrt-engine", "tensorrt-rtx", ["8.9"])
    assert "runs on" in typed("inspect", "engine/model.engine").out
    typed("benchmark", "engine/model.engine").refused(3, "engine/model.engine: no GPU: ")
    typed("benchmark", str(built.out)).refused(3, "rtx: no GPU: ")
    told = typed("report", str(built.out))
    assert told.code == 0
    assert "built, not run: no GPU" in told.out
    told = typed("doctor", "--json")
    assert json.loads(told.out)["backends"]["tensorrt"]["devices"]["gpu"]["available"] is False


# -- again, at once, killed, and where nothing can be written -------------------------------------------------------------


def shipped(project: Project) -> dict[str, bytes]:
    """What ships and holds no time: the engine."""
    return {path.name: path.read_bytes() for path in (project.out / "targets" / "rtx").glob("*.engine")}


def test_a_kill_while_it_builds_leaves_nothing_that_the_next_run_trips_over(built: Project, project: Project) -> None:
    sound(project.folder / "m.onnx")
    write_recipe(project, GOOD)
    with project.start("optimize", "recipe.yaml", "--no-benchmark") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "rtx: files for tensorrt" in line:
                break
        time.sleep(0.05)  # the library is being loaded
        process.send_signal(signal.SIGKILL)
    assert not project.out.exists()
    running = [project.start("optimize", "recipe.yaml", "--no-benchmark") for _ in range(2)]  # two at once
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    assert shipped(project) == shipped(built)
    assert engine_file.read(project.out / "targets" / "rtx" / "model.engine").compute_capabilities == ["8.9"]
    assert project.litter() == []
    assert project.processes() == []


def test_again_is_reused_and_other_gpus_are_built_for(built: Project, typed: Typed, project: Project) -> None:
    shutil.copytree(built.folder, project.folder, dirs_exist_ok=True)
    again = typed("optimize", "recipe.yaml", "--no-benchmark")
    assert again.code == 0, again.err
    assert "rtx: files for tensorrt\n" not in again.err, "it was built before"
    other = typed("optimize", "recipe.yaml", "--no-benchmark", 'targets.0.options.compute_capabilities=["8.6", "12.0"]')
    assert other.code == 0, other.err
    assert "rtx: files for tensorrt\n" in other.err
    place = project.out / "targets" / "rtx" / "model.engine"
    assert engine_file.read(place).compute_capabilities == ["8.6", "12.0"]
    for stored in (project.cache / "accel" / "steps").rglob("model.engine"):  # the store looks at what it has
        flip(stored)
    repaired = typed("optimize", "recipe.yaml", "--no-benchmark")
    assert repaired.code == 0, repaired.err
    assert shipped(project) == shipped(built)
    assert project.litter() == []


def test_what_init_writes_for_tensorrt_can_be_built(project: Project, typed: Typed) -> None:
    sound(project.folder / "m.onnx")
    assert typed("init", "m.onnx", "--target", "tensorrt", "--force").code == 0
    assert typed("validate", "recipe.yaml").code == 0
    done = typed("optimize", "recipe.yaml", "--no-benchmark", 'targets.0.options.compute_capabilities=["8.9"]', "name=small")
    assert done.code == 0, done.err
    manifest = engine_file.read(project.out / "targets" / "tensorrt" / "model.engine")
    assert manifest.settings["profiles"] == [{"x": {"min": [1, 3, 16, 16], "opt": [8, 3, 16, 16], "max": [32, 3, 16, 16]}}]
