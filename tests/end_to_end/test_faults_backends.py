"""Backends and passes that are missing, crash, hang or run out of memory cost one row, never the run (faults 42 to 44).

They crash for real: a plug-in of another distribution, found through its entry points as a user's would be.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Project

PLUG_IN = """
import os
import signal
import time
from typing import ClassVar

from pydantic.dataclasses import dataclass

from accel.accelerate.onnxruntime_session import OnnxRuntime
from accel.errors import BackendFault
from accel.model import OnnxModel


def fail(how):
    print("the last words before", how, flush=True)
    if how == "segfault":
        import ctypes
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    elif how == "exit":
        os._exit(0)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "hang":
        time.sleep(600)
    elif how == "memory":
        import numpy
        numpy.ones(6 * 2**30, dtype=numpy.uint8)
    elif how == "bug":
        raise ZeroDivisionError("in the plug-in")


class Fragile:
    \"\"\"A backend that fails as it is told to, where the target is not its own FP32 baseline.\"\"\"

    name: ClassVar[str] = "fragile"
    distribution: ClassVar[str] = "onnxruntime"
    devices = ("cpu",)
    quantization = OnnxRuntime.quantization

    def unavailable(self, device="cpu"):
        return None

    def check_options(self, target):
        pass

    def deploy(self, model: OnnxModel, target, folder, *, cache, progress) -> OnnxModel:
        fail(target.options.get("deploy"))
        return OnnxRuntime().deploy(model, self._plain(target), folder, cache=cache, progress=progress)

    def compile(self, model, target, cache):
        if target.name.endswith("-baseline") or target.precision == "fp32":
            raise BackendFault("no baseline here")
        fail(target.options.get("compile"))
        runner = OnnxRuntime().compile(model, self._plain(target), cache)
        return Runner(runner, target.options)

    def _plain(self, target):
        from dataclasses import replace
        return replace(target, backend="onnxruntime", precision="fp32", options={})


class Runner:
    def __init__(self, runner, options):
        self.runner, self.options, self.calls = runner, options, 0
        self.signature = runner.signature

    def __call__(self, inputs):
        self.calls += 1
        if self.calls > 1:
            fail(self.options.get("run"))
        return self.runner(inputs)

    def executed_precision(self):
        return self.runner.executed_precision()


@dataclass(frozen=True)
class Crash:
    \"\"\"A pass that fails as it is told to, for one target.\"\"\"

    how: str
    target: str

    needs: ClassVar[frozenset] = frozenset({"target"})
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple] = ()

    def __call__(self, model: OnnxModel, job) -> OnnxModel:
        if job.target.name == self.target:
            fail(self.how)
        return model
"""

RECIPE = """\
version: 1
name: small
model: {{path: model.onnx}}
passes: {passes}
targets: {targets}
benchmark: {{min_duration_s: 0.1, min_iterations: 10, warmup: 1, max_duration_s: 1, compile_timeout_s: {timeout}}}
"""


def write_distribution(place: Path, name: str, version: str, entry_points: str = "") -> None:
    """The metadata that an installer would have left in ``place``."""
    folder = place / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if entry_points:
        (folder / "entry_points.txt").write_text(entry_points)


@pytest.fixture(scope="module")
def plug_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    (place / "fragile_plug_in.py").write_text(PLUG_IN)
    points = "[accel.backends]\nfragile = fragile_plug_in:Fragile\n\n[accel.passes]\ncrash = fragile_plug_in:Crash\n"
    write_distribution(place, "fragile_plug_in", "1.0", points)
    return place


@pytest.fixture(scope="module")
def exported(finished: Project) -> bytes:
    """The network of the tests as a plain ONNX file: runs that start from it need no torch."""
    for path in (finished.cache / "accel" / "steps").glob("*/files/model.onnx"):
        if not any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node):
            return path.read_bytes()
    raise AssertionError("no FP32 file is in the store")


Prepare = Callable[..., "Project"]


@pytest.fixture(scope="module")
def prepare(new_project: Callable[[Path], Project], exported: bytes) -> Prepare:
    """A project whose recipe takes an ONNX file to the given targets."""

    def make(folder: Path, targets: list[dict[str, Any]], passes: list[dict[str, Any]] | None = None) -> Project:
        project = new_project(folder)
        (project.folder / "model.onnx").write_bytes(exported)
        text = RECIPE.format(targets=json.dumps(targets), passes=json.dumps(passes or []), timeout=6)
        project.recipe.write_text(text)
        return project

    return make


ORT: Mapping[str, Any] = {"name": "ort", "backend": "onnxruntime"}


def fragile(name: str, **options: str) -> dict[str, Any]:
    return {"name": name, "backend": "fragile", "precision": "fp16", "options": options}


# -- 43: in the child that holds the compiled model -------------------------------------------------------------------

CRASHES = {
    "segfault": "was ended by SIGSEGV",
    "abort": "was ended by SIGABRT",
    "exit": "ended with exit code 0 before it answered",
    "kill": "was ended by SIGKILL, probably by the system for want of memory (peak seen: ",
    "hang": "did not end within 6 s and was stopped",
}


@pytest.fixture(scope="module")
def crashed(prepare: Prepare, plug_ins: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, int, str]:
    """One run with a target for every way to die while compiling, and one that is sound."""
    targets = [fragile(how, compile=how) for how in CRASHES]
    project = prepare(tmp_path_factory.mktemp("crashed"), [*targets, dict(ORT), fragile("later", run="segfault")])
    done = project.accel("optimize", "recipe.yaml", PYTHONPATH=str(plug_ins))
    return project, done.returncode, done.stderr


def rows_of(project: Project) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((project.out / "report.json").read_text())["rows"]}


@pytest.mark.parametrize("how", CRASHES)
def test_a_backend_that_dies_while_compiling_names_signal_stage_and_last_words(
    crashed: tuple[Project, int, str], how: str
) -> None:
    project, code, said = crashed
    assert code == 4, said
    row = rows_of(project)[how]
    assert row["status"] == "failed"
    assert CRASHES[how] in row["reason"]
    assert "compiling for fragile" in row["reason"]
    assert f"| the last words before {how}" in row["reason"]
    assert f"accel: {how}: " in said
    assert "Traceback" not in said


def test_a_backend_that_dies_while_running(crashed: tuple[Project, int, str]) -> None:
    row = rows_of(crashed[0])["later"]
    assert row["status"] == "failed"
    assert "was ended by SIGSEGV" in row["reason"]
    assert row["compile_s"] > 0, "what was measured before stays"


def test_the_others_go_on_and_the_report_is_written(crashed: tuple[Project, int, str]) -> None:
    project, _, _ = crashed
    rows = rows_of(project)
    assert {name for name, row in rows.items() if row["status"] == "measured"} == {"ort", "ort fp32 baseline"}
    assert rows["ort"]["latency"]["queries"] >= 10
    assert (project.out / "report.md").read_text().count("SIGSEGV") >= 1
    assert (project.out / "targets" / "ort" / "model.onnx").exists()


def test_a_plug_in_is_listed(finished: Project, plug_ins: Path) -> None:
    listed = json.loads(finished.accel("list", "--json", PYTHONPATH=str(plug_ins)).stdout)
    assert listed["backends"]["fragile"].startswith("A backend that fails as it is told to")
    assert listed["passes"]["crash"].startswith("A pass that fails")


# -- 43: in a pass, and while files are deployed ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["segfault", "abort", "exit", "kill", "bug"])
def test_a_pass_that_dies_costs_its_target(prepare: Prepare, plug_ins: Path, tmp_path: Path, how: str) -> None:
    crash = {"type": "crash", "how": how, "target": "bad", "allow_noop": True}
    project = prepare(tmp_path / "p", [{**ORT, "name": "bad"}, dict(ORT)], [crash])
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark", PYTHONPATH=str(plug_ins))
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr.split("its last lines")[0]
    rows = rows_of(project)
    assert rows["bad"]["status"] == "failed"
    if how == "bug":
        assert rows["bad"]["reason"] == "crash: ZeroDivisionError: in the plug-in"
    else:
        assert CRASHES[how].removesuffix(")") in rows["bad"]["reason"]
        assert "while bad: crash (1 of 1)" in rows["bad"]["reason"]
        assert f"| the last words before {how}" in rows["bad"]["reason"]
    assert rows["ort"]["status"] == "built"
    assert (project.out / "targets" / "ort" / "model.onnx").exists()
    assert not (project.out / "targets" / "bad").exists()


def test_a_backend_that_dies_while_its_files_are_written(prepare: Prepare, plug_ins: Path, tmp_path: Path) -> None:
    project = prepare(tmp_path / "p", [fragile("bad", deploy="segfault"), dict(ORT)])
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark", PYTHONPATH=str(plug_ins))
    assert done.returncode == 4, done.stderr
    rows = rows_of(project)
    assert "was ended by SIGSEGV while bad: files for fragile" in rows["bad"]["reason"]
    assert rows["ort"]["status"] == "built"


def test_where_every_target_fails_there_is_no_report(prepare: Prepare, plug_ins: Path, tmp_path: Path) -> None:
    crash = {"type": "crash", "how": "segfault", "target": "ort"}
    project = prepare(tmp_path / "p", [dict(ORT)], [crash])
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark", PYTHONPATH=str(plug_ins))
    assert done.returncode == 4
    assert "SIGSEGV" in done.stderr
    assert not project.out.exists()


# -- 44: memory -------------------------------------------------------------------------------------------------------


def limited(project: Project, address_space: int, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "accel", *arguments],
        capture_output=True,
        text=True,
        cwd=project.folder,
        env=project.environment(**more),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space)),
        check=False,
        timeout=120,
    )


def test_out_of_memory_in_a_pass(prepare: Prepare, plug_ins: Path, tmp_path: Path) -> None:
    crash = {"type": "crash", "how": "memory", "target": "bad", "allow_noop": True}
    project = prepare(tmp_path / "p", [{**ORT, "name": "bad"}, dict(ORT)], [crash])
    done = limited(project, 5 * 2**30, "optimize", "recipe.yaml", "--no-benchmark", PYTHONPATH=str(plug_ins))
    assert done.returncode == 4, done.stderr
    rows = rows_of(project)
    assert rows["bad"]["reason"].startswith("out of memory at bad: crash (1 of 1) (peak ")
    assert rows["ort"]["status"] == "built"


def test_out_of_memory_while_compiling(prepare: Prepare, plug_ins: Path, tmp_path: Path) -> None:
    project = prepare(tmp_path / "p", [fragile("bad", compile="memory")])
    done = limited(project, 5 * 2**30, "optimize", "recipe.yaml", PYTHONPATH=str(plug_ins))
    assert done.returncode == 4, done.stderr
    rows = rows_of(project)
    assert rows["bad"]["reason"].startswith("out of memory at compiling for fragile (peak ")


def test_out_of_memory_in_torch(project: Project) -> None:
    text = (project.folder / "network.py").read_text()
    (project.folder / "network.py").write_text(text.replace("    return Net(channels)", "    return torch.ones(2**33)"))
    done = limited(project, 8 * 2**30, "optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 4, done.stderr
    assert "out of memory at " in done.stderr
    assert "(peak " in done.stderr
    assert "Traceback (most recent call last)" not in done.stderr  # the user's own frames are shown, ours are not


# -- 42: a backend that is not here -----------------------------------------------------------------------------------

ABSENT = """
import importlib.abc
import importlib.metadata
import sys

real = importlib.metadata.distribution


def distribution(name):
    if name in ("openvino", "nncf"):
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)


importlib.metadata.distribution = distribution



real_find = sys.meta_path[:]


class Hidden:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ("openvino", "nncf") else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Hidden(finder) for finder in real_find]
"""


def not_installed(site: Path) -> str:
    (site / "sitecustomize.py").write_text(ABSENT)
    return "openvino is not installed; get it with: pip install"


def wrong_version(site: Path) -> str:
    write_distribution(site, "openvino", "2021.4.2")
    return "openvino 2021.4.2 is too old, 2025.2 or newer is needed"


def driver_mismatch(site: Path) -> str:
    (site / "openvino").mkdir()
    (site / "openvino" / "__init__.py").write_text(
        "raise ImportError('libze_loader.so.1: version `ZE_1_14` not found (required by openvino)')"
    )
    return "openvino is installed but cannot be loaded (libze_loader.so.1: version `ZE_1_14` not found"


def no_gpu(site: Path) -> str:
    import openvino

    if any(name.startswith("GPU") for name in openvino.Core().available_devices):
        pytest.skip("there is a GPU here")
    return "OpenVINO finds no device 'gpu' here"


LACKS = {function.__name__: function for function in (not_installed, wrong_version, driver_mismatch, no_gpu)}


@pytest.mark.parametrize("lack", LACKS)
def test_a_backend_that_cannot_be_used_ends_the_run_before_it_starts(prepare: Prepare, tmp_path: Path, lack: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    sentence = LACKS[lack](site)
    device = "gpu" if lack == "no_gpu" else "cpu"
    project = prepare(tmp_path / "p", [dict(ORT), {"name": "ov", "backend": "openvino", "device": device}])
    done = project.accel("optimize", "recipe.yaml", PYTHONPATH=str(site))
    assert done.returncode == 3, done.stderr
    assert f"target ov: {sentence}" in done.stderr
    assert "optional: true" in done.stderr
    assert "Traceback" not in done.stderr
    assert not project.out.exists()


@pytest.mark.parametrize("lack", LACKS)
def test_an_optional_one_is_a_skipped_row(prepare: Prepare, tmp_path: Path, lack: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    sentence = LACKS[lack](site)
    device = "gpu" if lack == "no_gpu" else "cpu"
    ov = {"name": "ov", "backend": "openvino", "device": device, "optional": True}
    project = prepare(tmp_path / "p", [dict(ORT), ov])
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark", PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    rows = rows_of(project)
    assert rows["ov"]["status"] == "skipped"
    assert sentence in rows["ov"]["reason"]
    assert rows["ort"]["status"] == "built"
    assert sentence in done.stderr


@pytest.mark.parametrize("lack", LACKS)
def test_plan_says_what_is_missing(prepare: Prepare, tmp_path: Path, lack: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    sentence = LACKS[lack](site)
    device = "gpu" if lack == "no_gpu" else "cpu"
    project = prepare(tmp_path / "p", [{"name": "ov", "backend": "openvino", "device": device}])
    done = project.accel("plan", "recipe.yaml", PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert f"missing: {sentence}" in done.stdout


def test_a_run_with_optional_targets_only_and_none_here(prepare: Prepare, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    not_installed(site)
    project = prepare(tmp_path / "p", [{"name": "ov", "backend": "openvino", "optional": True}])
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark", PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert rows_of(project)["ov"]["status"] == "skipped"


def test_a_pass_whose_library_is_not_here(project: Project, tmp_path: Path) -> None:
    """NNCF comes with OpenVINO's extra; where it alone is missing, the target cannot be built."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ABSENT.replace('("openvino", "nncf")', '("nncf",)'))
    done = project.accel("optimize", "recipe.yaml", PYTHONPATH=str(site))
    assert done.returncode == 3, done.stderr
    assert "target ov: quantize/static/nncf needs nncf, which is not installed; pip install 'accel-toolkit[openvino]'" in (
        done.stderr
    )
