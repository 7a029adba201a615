"""What goes wrong while a result is measured, judged and told, through the command a user types (faults 45 to 49, 57 to 64).

Timings here are of tiny networks and take as little time as the command allows: no test looks at how long anything took.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.benchmarks.environment import without_int8
from accel.report import Fidelity, Precision, Row, read
from accel.rows import unlike

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Ended, Project

pytest.importorskip("onnxruntime")

STORED = Path(__file__).parents[1] / "core" / "report_version_1.json"
RECIPE = """\
version: 1
name: small
model: {{path: small.onnx}}
task: {{type: image_classification, metrics: [top1]}}
data: {{calibration: {calibration}, validation: {{arrays: {{path: data.npz}}}}}}
passes: [{passes}]
targets: [{targets}]
benchmark: {{min_duration_s: 0.1, min_iterations: 10, warmup: 1, max_duration_s: 0.1}}
report: {{formats: [json, md], layers: false, roofline: false}}
gates: [{gates}]
"""
ARRAYS = "{arrays: {path: data.npz}, num_samples: 16}"
STATIC = "{type: quantize, approach: static}"
NOTHING = "{type: simplify, allow_noop: true}"
ORT = "{name: ort, backend: onnxruntime}"
OV = "{name: ov, backend: openvino}"
QUICK = ("--backend", "onnxruntime", "--duration", "0.1", "--max-duration", "0.1", "--json")

Make = Callable[..., "Project"]


def network(path: Path, *, root: bool = False) -> None:
    """Two layers on (batch, 8). ``root``: the square root of the input plus 50, and a ReLU after it, come first."""
    generator = np.random.default_rng(0)
    weights = {
        "fifty": np.array(50.0, np.float32),
        "first": generator.normal(size=(8, 16)).astype(np.float32),
        "second": generator.normal(size=(16, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Add", ["x", "fifty"], ["sum"], "Add"),
        helper.make_node("Sqrt", ["sum"], ["root"], "Sqrt"),
        helper.make_node("Relu", ["root"], ["start"], "first/Relu"),
    ]
    if not root:
        nodes = [helper.make_node("Relu", ["x"], ["start"], "first/Relu")]
        del weights["fifty"]
    nodes += [
        helper.make_node("MatMul", ["start", "first"], ["hidden"], "first/MatMul"),
        helper.make_node("Relu", ["hidden"], ["active"], "second/Relu"),
        helper.make_node("MatMul", ["active", "second"], ["y"], "second/MatMul"),
    ]
    given, gives = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("x", 8), ("y", 4))
    )
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "small", [given], [gives], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.fixture
def make(new_project: Callable[[Path], Project], tmp_path: Path) -> Make:
    def made(
        *,
        passes: str = NOTHING,
        targets: str = ORT,
        gates: str = "",
        calibration: str = ARRAYS,
        root: bool = False,
        outlier: bool = False,
    ) -> Project:
        """``outlier``: one sample, that no calibration sees, is far below zero."""
        project = new_project(tmp_path / "a project")
        network(project.folder / "small.onnx", root=root)
        inputs = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
        if outlier:
            inputs[30] = -100
        np.savez(project.folder / "data.npz", inputs=inputs, labels=np.arange(40) % 4)
        project.recipe.write_text(RECIPE.format(passes=passes, targets=targets, gates=gates, calibration=calibration))
        return project

    return made


def ran(project: Project, code: int, *arguments: str, **environment: str) -> dict[str, Any]:
    """The report of ``accel ... --json``, which must end with ``code``."""
    done = project.accel(*arguments, **environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout, parse_constant=lambda text: pytest.fail(f"{text} in the JSON"))
    return found


def at_start(project: Project, code: str) -> dict[str, str]:
    """An environment in which every Python process, children too, runs ``code`` as it starts."""
    folder = project.folder / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


@contextmanager
def on_one_core() -> Iterator[None]:
    """This process, and what it starts, may use one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# -- 45: outputs --------------------------------------------------------------------------------------------------------


def test_45_outputs_too_far_from_pytorch_fail_the_fidelity_gate(
    measured: Project, project: Project, typed: Callable[..., Ended]
) -> None:
    shutil.copytree(measured.folder, project.folder, dirs_exist_ok=True, symlinks=True)
    done = typed("optimize", "recipe.yaml", "--no-benchmark", "--gate", "sqnr<90@ort")
    assert done.code == 14, done.err
    gate = read(project.out / "report.json").gates[-1]
    assert (gate.metric, gate.row, gate.verdict) == ("sqnr_db", "ort", "fail")
    assert typed("optimize", "recipe.yaml", "--no-benchmark", "--gate", "sqnr<1@ort").code == 0


def test_45_nan_that_a_backend_masks_is_no_pass(make: Make) -> None:
    """OpenVINO's ReLU gives 0 for NaN where ONNX Runtime's gives NaN: what it answers there looks like a number."""
    pytest.importorskip("openvino")
    gates = "{metric: sqnr_db, min: 1}, {metric: top1, min: 0}"
    project = make(root=True, outlier=True, targets=f"{ORT}, {OV}", gates=gates)
    report = ran(project, 4, "optimize", "recipe.yaml", "--json")
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["ov"]["status"] == "measured", "OpenVINO masks no NaN any more: this test is of something else now"
    for name in ("ort fp32 baseline", "ort"):
        assert rows[name]["status"] == "failed"
        assert "outputs are NaN for sample 30 (data.npz: inputs[30])" in rows[name]["reason"]
    assert "; failed: " in report["verdict"]["text"]
    assert {gate["verdict"] for gate in report["gates"] if gate["row"] == "ort"} == {"fail"}


@pytest.mark.parametrize(
    ("sqnr_db", "nonfinite", "said"), [(20.0, 0, True), (100.0, 0, False), (None, 0, False), (100.0, 3, True), (None, 3, True)]
)
def test_45_an_fp32_runtime_that_differs_is_warned_of(sqnr_db: float | None, nonfinite: int, said: bool) -> None:
    outputs = Fidelity(vs="eager", top1_agreement=None, sqnr_db=sqnr_db, max_abs_difference=0.5, nonfinite_values=nonfinite)
    precision = Precision(float_precision="fp32", quantized_operators=0, int8_operators=0, operators={})
    found = Row(name="base", role="baseline", backend="onnxruntime", fidelity=outputs, precision=precision)
    assert (unlike(found) is not None) == said


# -- 46, 47: INT8 -------------------------------------------------------------------------------------------------------


def test_46_int8_that_was_asked_for_and_did_not_run(make: Make) -> None:
    unfused = ORT.replace("}", ", options: {graph_optimization_level: disable}}")
    project = make(passes=STATIC, targets=unfused, gates="{metric: int8_share, min: 0.5}")
    report = ran(project, 14, "optimize", "recipe.yaml", "--json")
    result = report["rows"][-1]
    assert (result["precision"]["quantized_operators"], result["precision"]["int8_operators"]) == (2, 0)
    assert result["notes"] == ["2 of 2 quantized operators did not run in INT8"]
    assert "INT8 0/2 operators" in (project.out / "report.md").read_text()


@pytest.mark.parametrize("lacking", [True, False])
def test_47_a_cpu_without_vnni_is_told_with_what_ran_in_int8(
    finished: Project, typed: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, lacking: bool
) -> None:
    monkeypatch.setattr("accel.rows.without_int8", lambda: lacking)
    shipped = finished.out / "targets" / "ort" / "model.onnx"
    done = typed("benchmark", str(shipped), *QUICK)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["rows"][0]["precision"]["int8_operators"] > 0
    assert any("no instructions for INT8 (VNNI" in text for text in report["warnings"]) == lacking


@pytest.mark.parametrize(
    ("cpuinfo", "lacking"),
    [
        ("flags\t: avx2 fma\n", True),
        ("flags\t: avx2 avx512_vnni\n", False),
        ("Features\t: asimd\n", True),
        ("Features\t: asimd asimddp\n", False),
        ("model name\t: says nothing\n", False),
    ],
)
def test_47_which_cpu_lacks_it(tmp_path: Path, cpuinfo: str, lacking: bool) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(cpuinfo)
    assert without_int8(tmp_path) == lacking


# -- 48, 49, 57: time and cores -----------------------------------------------------------------------------------------


def test_48_a_busy_core_is_said_and_no_regression_is_made_up(make: Make) -> None:
    project = make()
    shutil.copyfile(project.folder / "small.onnx", project.folder / "copy.onnx")
    with on_one_core():
        load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        try:
            gate = ("--fail-on", "latency_p50>+10%")
            report = ran(project, 0, "benchmark", "small.onnx", "--vs", "copy.onnx", *QUICK, *gate)
        finally:
            for process in load:
                process.kill()
                process.wait()
    assert report["gates"][0]["verdict"] in ("pass", "inconclusive")
    assert any("other processes took" in text for text in report["conditions"]["problems"])
    assert any("other processes took" in text for text in report["warnings"])


@pytest.mark.parametrize("clock", ["still", "backwards"])
def test_49_a_clock_that_cannot_be_right_decides_nothing(make: Make, clock: str) -> None:
    """Neither a division by zero, nor a pass: every limit would be kept by what took no time."""
    project = make()
    shutil.copyfile(project.folder / "small.onnx", project.folder / "copy.onnx")
    step = {"still": 0, "backwards": -1000}[clock]
    mocked = f"import itertools, time\nticks = itertools.count(10**15, {step})\n"
    mocked += "time.perf_counter_ns = lambda: next(ticks)\ntime.perf_counter = lambda: next(ticks) / 1e9\n"
    mocked += "time.time = lambda: next(ticks) / 1e9\n"
    gates = ("--fail-on", "latency_p50>900ms", "--fail-on", "latency_p50>+5%")
    environment = at_start(project, mocked)
    report = ran(project, 0, "benchmark", "small.onnx", "--vs", "copy.onnx", *QUICK, *gates, **environment)
    assert {gate["verdict"] for gate in report["gates"]} == {"inconclusive"}
    for row in report["rows"]:
        assert "clock stood still or went backwards" in row["latency"]["unstable"]
        assert all("clock" in found["unstable"] for found in row["speedups"])
    assert report["noise"]["verdict"] == "noisy"


def test_57_one_core_is_respected_and_more_threads_than_cores_are_warned_of(make: Make) -> None:
    project = make()
    with on_one_core():
        report = ran(project, 0, "benchmark", "small.onnx", "--threads", "2", *QUICK)
    assert report["environment"]["cores"] == 1
    assert any(text.startswith("benchmark.threads: 2, and this process may use 1 core") for text in report["warnings"])
    assert report["method"]["threads"] == 2


# -- 58, 59: network and processes --------------------------------------------------------------------------------------

NO_NETWORK = """
import os, sys
def watch(event, details):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        with open({place!r}, "a") as file:
            print(event, details, file=file)
        raise OSError("the network is blocked")
sys.addaudithook(watch)
"""


def test_58_without_a_network_everything_works_and_nothing_is_asked_of_it(make: Make) -> None:
    pytest.importorskip("openvino")
    project = make(passes=STATIC, targets=f"{ORT}, {OV}")
    asked = project.folder / "asked.txt"
    environment = project.environment(**at_start(project, NO_NETWORK.format(place=str(asked))))
    alone = ["unshare", "--map-root-user", "--net"]  # native code is not heard by Python's audit: it has no network at all
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        alone = []
    for name in ("ORT_DISABLE_TELEMETRY", "NNCF_CI"):
        environment.pop(name, None)
    for command in (["optimize", "recipe.yaml", "--no-benchmark"], ["report", "out/small"], ["doctor"]):
        whole = [*alone, sys.executable, "-m", "accel", *command]
        done = subprocess.run(
            whole, cwd=project.folder, env=environment, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stderr
    assert not asked.exists(), asked.read_text()
    assert {row.name for row in read(project.out / "report.json").rows if row.role == "result"} == {"ort", "ov"}


SET = """
import numpy as np
import torch
from torch.utils.data import Dataset


class Noise(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        return torch.from_numpy(np.random.default_rng(index).normal(size=8).astype(np.float32)), index % 4
"""
LOADER = """
import torch
from noise import Noise
from torch.utils.data import DataLoader

torch.ones(64, 64) @ torch.ones(64, 64)  # its threads are running when the loader starts its own processes


class Own(Noise):
    pass


def samples(context):
    loader = DataLoader(Own(), batch_size=None, num_workers=1, multiprocessing_context=context)
    return ((image.numpy(), int(label)) for image, label in loader)
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_59_the_users_loader_may_start_processes(make: Make, context: str) -> None:
    pytest.importorskip("torch")
    factory = f"{{factory: loader.py:samples, kwargs: {{context: {context}}}}}"
    project = make(passes=STATIC, calibration=factory)
    (project.folder / "loader.py").write_text(LOADER)
    (project.folder / "noise.py").write_text(SET)
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    assert (project.out / "targets" / "ort" / "manifest.json").is_file()
    assert project.processes("") == [], "a process is left behind"


# -- 62 to 64: what is told ---------------------------------------------------------------------------------------------


def stored(project: Project, name: str, change: Callable[[dict[str, Any]], None]) -> str:
    document = json.loads(read(STORED).json_text())
    change(document)
    (project.folder / name).write_text(json.dumps(document))
    return name


def many(document: dict[str, Any]) -> None:
    last = document["rows"][-1]
    document["rows"] += [{**last, "name": f"result {number} {'x' * 100}", "notes": ["y" * 200] * 9} for number in range(900)]


def test_62_a_long_report_is_cut_where_it_has_a_limit_and_says_where_the_rest_is(
    project: Project, typed: Callable[..., Ended]
) -> None:
    name = stored(project, "long.json", many)
    done = typed("report", name, "--format", "md")
    assert (done.code, done.out.startswith("**")) == (0, True)
    assert 20_000 < len(done.out) <= 60_000
    assert "report.json" in done.out or "report.html" in done.out
    assert typed("report", name, "--format", "github", "--summary", "summary.md").code == 0
    assert 0 < (project.folder / "summary.md").stat().st_size <= 1024 * 1024


@pytest.mark.parametrize(
    ("base", "head", "higher", "gate", "code"),
    [
        (0.0, 0.5, True, "score<-0.01", 0),
        (0.5, 0.0, True, "score<-0.01", 11),
        (0.0, 0.0, True, "score<-0.01", 0),
        (-2.0, -3.0, True, "score<-0.01", 11),
        (-2.0, -1.0, True, "score<-0.01", 0),
        (-2.0, -1.0, False, "score>+0.01", 11),
        (-2.0, -3.0, False, "score>+0.01", 0),
    ],
)
def test_63_zero_and_negative_metrics_and_which_way_is_good(
    project: Project, typed: Callable[..., Ended], base: float, head: float, higher: bool, gate: str, code: int
) -> None:
    def of(value: float) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            metric = {"name": "score", "value": value, "n": 100, "higher_is_better": higher}
            for row in document["rows"]:
                row["metrics"] = [metric]

        return change

    names = (stored(project, "base.json", of(base)), stored(project, "head.json", of(head)))
    done = typed("compare", *names, "--fail-on", gate, "--format", "md")
    assert done.code == code, done.err + done.out
    assert "nan" not in done.out.lower()
    assert "inf " not in done.out.lower()


@pytest.mark.parametrize("form", ["md", "html", "junit"])
def test_64_what_a_run_told_is_told_again_from_its_json(
    measured: Project, project: Project, typed: Callable[..., Ended], form: str
) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} in report.json")

    text = (measured.out / "report.json").read_text()
    json.loads(text, parse_constant=refuse)
    assert read(measured.out / "report.json").json_text() == text
    first = typed("report", str(measured.out), "--format", form)
    (project.folder / "again.json").write_text(read(measured.out / "report.json").json_text())
    again = typed("report", "again.json", "--format", form)
    assert (first.code, again.code) == (0, 0)
    assert first.out == again.out != ""
    published = [path for path in measured.out.glob("*") if path.name in (f"report.{form}", f"{form}.xml")]
    assert all(path.read_text() == first.out for path in published)
