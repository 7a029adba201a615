"""Gates through the command line: exit codes, what ships, reports to compare with. Measured once; then judged anew."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.benchmarks.comparing import Comparison
from accel.report import Report, read

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Ended, Project

RECIPE = """\
version: 1
name: small
model: {path: small.onnx}
task: {type: image_classification, metrics: [top1]}
data: {validation: {arrays: {path: data.npz}}}
passes: [{type: simplify, allow_noop: true}]
targets: [{name: ort, backend: onnxruntime}]
benchmark: {min_duration_s: 0.1, min_iterations: 20, max_duration_s: 0.2}
report: {formats: [json, md], layers: false, roofline: false}
gates:
  - {metric: top1, min: 0.05}
  - {metric: size_bytes, max: 100000}
"""


def network(width: int, path: Path) -> None:
    generator = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name)
        for name, shape in (("first", (8, width)), ("second", (width, 4)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["hidden"], "first/MatMul"),
        helper.make_node("Relu", ["hidden"], ["active"], "relu/Relu"),
        helper.make_node("MatMul", ["active", "second"], ["y"], "second/MatMul"),
    ]
    given, gives = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("x", 8), ("y", 4))
    )
    graph = helper.make_graph(nodes, "small", [given], [gives], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, new_project: Callable[[Path], Project]) -> Project:
    """A recipe with two gates that has run once, measured. Read it only."""
    project = new_project(tmp_path_factory.mktemp("gates") / "a project")
    for width in (16, 64):
        network(width, project.folder / ("small.onnx" if width == 16 else "large.onnx"))
    generator = np.random.default_rng(1)
    inputs = generator.normal(size=(80, 8)).astype(np.float32)
    np.savez(project.folder / "data.npz", inputs=inputs, labels=np.arange(80) % 4)
    project.recipe.write_text(RECIPE)
    done = project.accel("optimize", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def project(once: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of it that a test may change."""
    shutil.copytree(once.folder, tmp_path / "a project", symlinks=True)
    yield type(once)(tmp_path / "a project")


def found(project: Project) -> Report:
    return read(project.out / "report.json")


def test_gates_that_pass_end_with_0_and_stand_in_the_report(once: Project) -> None:
    report = found(once)
    assert [(gate.name, gate.verdict, gate.line, gate.column) for gate in report.gates] == [
        ("top1@ort", "pass", 11, 5),
        ("size_bytes@ort", "pass", 12, 5),
    ]
    assert report.recipe == "recipe.yaml"
    assert (once.out / "report.md").read_text().startswith("**PASS 2/2 gates")
    assert (once.out / "targets" / "ort").is_dir()


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        (["top1<0.99"], 11),
        (["first_inference>1us"], 12),
        (["size>1"], 13),
        (["int8_share<0.5"], 14),
        (["size>1", "int8_share<0.5"], 1),
        (["size>1", "gzip>1"], 13),
        (["size>+190%", "top1<0.1%"], 0),
    ],
)
def test_each_kind_of_gate_has_an_exit_code(project: Project, typed: Callable[..., Ended], gates: list[str], code: int) -> None:
    arguments = [part for gate in gates for part in ("--gate", gate)]
    done = typed("optimize", "recipe.yaml", "--no-benchmark", *arguments)
    assert done.code == code, done.err
    report = found(project)
    assert report.rows[-1].latency is not None, "the earlier measurements were thrown away"
    assert len(report.gates) == 2 + len(gates)
    assert sum(gate.failed for gate in report.gates) == (len(gates) if code else 0)
    assert done.out.startswith(f"FAIL {len(gates)} of" if code else "PASS")
    assert "NaN" not in (project.out / "report.json").read_text()


def test_what_lost_its_accuracy_is_reported_and_does_not_ship(project: Project, typed: Callable[..., Ended]) -> None:
    assert typed("optimize", "recipe.yaml", "--no-benchmark", "--gate", "top1<0.99").code == 11
    report = found(project)
    assert not (project.out / "targets").exists()
    assert [row.name for row in report.rows if row.role == "result"] == ["ort"]
    assert any("--keep-failed" in note for note in report.notes)
    assert report.deployment == {}
    assert (project.out / "report.md").read_text().startswith("**FAIL 1 of 3 gates")
    assert typed("optimize", "recipe.yaml", "--no-benchmark", "--gate", "top1<0.99", "--keep-failed").code == 11
    assert (project.out / "targets" / "ort" / "manifest.json").is_file()
    assert typed("optimize", "recipe.yaml", "--no-benchmark", "--gate", "size>1").code == 13
    assert (project.out / "targets" / "ort" / "manifest.json").is_file()


def test_what_was_not_measured_passes_with_a_warning_or_fails(project: Project, typed: Callable[..., Ended]) -> None:
    shutil.rmtree(project.out)
    done = typed("optimize", "recipe.yaml", "--no-benchmark")
    assert done.code == 0
    assert "INCONCLUSIVE: top1 of ort" in done.out
    assert done.out.startswith("INCONCLUSIVE 1 of 2 gates")
    project.rewrite("min: 0.05", "min: 0.05, on_inconclusive: fail")
    assert typed("optimize", "recipe.yaml", "--no-benchmark").code == 11


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ("latancy>1ms", "did you mean 'latency'?"),
        ("top1<-1", "has a unit"),
        ("size>1@openvino", "there is no target 'openvino'"),
        ("throughput<3", "add it to benchmark.scenario"),
    ],
)
def test_a_gate_that_is_none_ends_with_2_before_anything_runs(
    project: Project, typed: Callable[..., Ended], gate: str, says: str
) -> None:
    before = project.published()
    typed("optimize", "recipe.yaml", "--gate", gate).refused(2, says)
    assert project.published() == before


# -- stored reports (fault 60) ----------------------------------------------------------------------------------------


def stored(project: Project, change: Callable[[dict[str, Any]], None] = lambda document: None) -> None:
    document = json.loads((project.out / "report.json").read_text())
    change(document)
    (project.folder / "main.json").write_text(json.dumps(document))
    project.rewrite("gates:\n", "gates:\n  - {metric: first_inference, max_drop: 9000, drop_type: absolute, vs: main.json}\n")


def test_a_stored_report_that_is_missing_is_told_with_the_recipe(project: Project, typed: Callable[..., Ended]) -> None:
    project.rewrite("gates:\n", "gates:\n  - {metric: size, max_drop: 0, vs: main.json}\n")
    for command in ("validate", "optimize"):
        typed(command, "recipe.yaml").refused(2, "recipe.yaml:11:37: gates.0.vs: there is no such file")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 2, "seed": NaN}'])
def test_a_stored_report_that_is_none_ends_with_2(project: Project, typed: Callable[..., Ended], text: str) -> None:
    stored(project)
    (project.folder / "main.json").write_text(text)
    before = project.published()
    typed("optimize", "recipe.yaml", "--no-benchmark").refused(2, "main.json")
    assert project.published() == before


def test_an_older_report_of_another_machine_is_no_silent_pass(project: Project, typed: Callable[..., Ended]) -> None:
    def older(document: dict[str, Any]) -> None:
        document["schema_version"] = 1
        for key in ("gates", "conditions", "peaks", "samples", "classes", "recipe", "source"):
            del document[key]

    stored(project, older)
    assert typed("optimize", "recipe.yaml", "--no-benchmark").code == 0
    assert found(project).gates[0].vs == "main.json"
    document = json.loads((project.folder / "main.json").read_text())
    document["environment"]["cpu"] = "Another CPU"
    (project.folder / "main.json").write_text(json.dumps(document))
    done = typed("optimize", "recipe.yaml", "--no-benchmark")
    assert done.code == 12
    assert "not comparable: the CPU differs (Another CPU, now" in done.out


# -- compare and benchmark --------------------------------------------------------------------------------------------


def changed(project: Project, name: str, change: Callable[[dict[str, Any]], None]) -> str:
    document = json.loads((project.out / "report.json").read_text())
    change(document)
    (project.folder / name).write_text(json.dumps(document))
    return name


def test_compare_shows_and_gates_what_changed(project: Project, typed: Callable[..., Ended]) -> None:
    def larger(document: dict[str, Any]) -> None:
        document["rows"][-1]["size_bytes"] *= 2

    head = changed(project, "head.json", larger)
    done = typed("compare", "out/small", head)
    assert (done.code, done.out.splitlines()[0]) == (0, "1 regressed (size_bytes of ort)")
    done = typed("compare", "out/small", head, "--fail-on", "size>+5%", "--format", "md")
    assert done.code == 13
    assert done.out.startswith("**FAIL 1 of 1 gates")
    assert typed("compare", head, "out/small", "--fail-on", "size>+5%").code == 0
    done = typed("compare", "out/small", head, "--format", "json", "-o", "compared.json")
    assert (done.code, done.out) == (0, "")
    assert Comparison.model_validate_json((project.folder / "compared.json").read_text()).count("regressed") == 1


def test_compare_refuses_to_gate_latency_across_machines(project: Project, typed: Callable[..., Ended]) -> None:
    base = changed(project, "base.json", lambda document: document["environment"].update(cpu="Another CPU"))
    assert typed("compare", base, "out/small").code == 0
    done = typed("compare", base, "out/small", "--fail-on", "latency_p50>+900ms")
    done.refused(2, "the CPU differs (Another CPU, now", "--across-machines")
    assert typed("compare", base, "out/small", "--fail-on", "latency_p50>+900ms", "--across-machines").code == 0
    assert typed("compare", base, "out/small", "--fail-on", "latency_p50>900ms").code == 0


def test_compare_can_fail_for_rows_that_are_gone(project: Project, typed: Callable[..., Ended]) -> None:
    head = changed(project, "head.json", lambda document: document["rows"].pop())
    done = typed("compare", "out/small", head)
    assert done.code == 0
    assert "rows removed: ort" in done.out
    assert typed("compare", "out/small", head, "--on-removed", "fail").code == 1
    assert typed("compare", head, "out/small", "--on-removed", "fail").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone.json", "out/small"], "no such report"),
        (["out/small", "out/small", "--format", "pdf"], "allowed are table, md, json"),
        (["out/small", "out/small", "--on-removed", "panic"], "allowed are warn and fail"),
        (["out/small", "out/small", "--fail-on", "top1<-1"], "has a unit"),
        (["out/small", "out/small", "-o", "x"], "choose --format md or json"),
    ],
)
def test_compare_says_what_it_cannot_use(
    project: Project, typed: Callable[..., Ended], arguments: list[str], says: str
) -> None:
    typed("compare", *arguments).refused(2, says)


def test_benchmark_fails_on_what_is_worse_than_the_other_file(project: Project, typed: Callable[..., Ended]) -> None:
    fast = ["--backend", "onnxruntime", "--duration", "0.1", "--json"]
    done = typed(
        "benchmark", "large.onnx", "--vs", "small.onnx", *fast, "--fail-on", "size>+5%", "--fail-on", "latency_p50>+900ms"
    )
    assert done.code == 13, done.err
    gates = json.loads(done.out)["gates"]
    assert [(gate["metric"], gate["vs"]) for gate in gates] == [
        ("size_bytes", "small.onnx on onnxruntime"),
        ("latency_p50_ms", "small.onnx on onnxruntime"),
    ]


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ("latency_p50>+3%", "Name another file with --vs"),
        ("top1<0.5", "no metric is called 'top1'"),
        ("sqnr<30", "needs validation data"),
        ("throughput<3", "the scenario offline"),
    ],
)
def test_benchmark_refuses_a_gate_that_it_cannot_judge(
    project: Project, typed: Callable[..., Ended], gate: str, says: str
) -> None:
    typed("benchmark", "small.onnx", "--backend", "onnxruntime", "--fail-on", gate).refused(2, says)


# -- the version of the user's files ----------------------------------------------------------------------------------


def test_the_report_names_the_commit_of_the_recipes_folder(project: Project, typed: Callable[..., Ended]) -> None:
    assert found(project).source is None
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main"]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *name, *arguments], cwd=project.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    (project.folder / ".gitignore").write_text("out/\n.cache/\n")
    git("add", "--all")
    git("commit", "--quiet", "-m", "x")
    assert typed("optimize", "recipe.yaml", "--no-benchmark").code == 0
    source = found(project).source
    assert source is not None
    assert (source.commit, source.dirty) == (git("rev-parse", "HEAD"), False)
    project.rewrite("max: 100000", "max: 100001")
    assert typed("optimize", "recipe.yaml", "--no-benchmark").code == 0
    source = found(project).source
    assert source is not None
    assert source.dirty
