from __future__ import annotations

import getpass
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from accel.benchmarks.environment import cores, cpu_name, describe, isa_flags, memory_bytes, versions

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD  EPYC 9B14
stepping\t: 1
flags\t\t: fpu sse avx2 fma avx512f avx512_vnni amx_int8 hypervisor

processor\t: 1
model name\t: other
"""


def machine(root: Path, **content: str) -> Path:
    """A root with those files; a double underscore in a name stands for a slash, ``D`` for a dot."""
    for name, text in content.items():
        path = root / name.replace("__", "/").replace("D", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_machine() -> None:
    found = describe()
    assert found.python == platform.python_version()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes > 10**8
    assert found.libraries["numpy"]
    assert found.cpu


def test_names_no_host_user_or_folder() -> None:
    text = describe().model_dump_json()
    for secret in (platform.node(), str(Path.home()), str(Path.cwd())):
        assert secret not in text
    assert f'"{getpass.getuser()}"' not in text


def test_imports_none_of_the_libraries() -> None:
    code = (
        "import sys; from accel.benchmarks.environment import describe; describe();"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'nncf', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cpu_and_its_flags(tmp_path: Path) -> None:
    root = machine(tmp_path, proc__cpuinfo=CPUINFO)
    assert cpu_name(root) == "AMD EPYC 9B14 (family 25, model 17, stepping 1)"
    assert isa_flags(root) == ["avx2", "fma", "avx512f", "avx512_vnni", "amx_int8"]


def test_arm_says_features(tmp_path: Path) -> None:
    root = machine(tmp_path, proc__cpuinfo="processor : 0\nFeatures : fp asimd asimddp i8mm\n")
    assert isa_flags(root) == ["asimd", "asimddp", "i8mm"]


def test_bare_root_still_gives_an_answer(tmp_path: Path) -> None:
    found = describe(root=tmp_path)
    assert found.isa_flags == []
    assert found.cores >= 1
    assert found.governor is None


def test_governor(tmp_path: Path) -> None:
    root = machine(tmp_path, sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="performance\n")
    assert describe(root=root).governor == "performance"


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.usefixtures("eight_cores")
class TestLimitsAreHonoured:  # fault 57
    def test_affinity(self, tmp_path: Path) -> None:
        assert cores(tmp_path) == 8

    def test_one_core_at_least(self, tmp_path: Path) -> None:
        assert cores(machine(tmp_path, sys__fs__cgroup__cpuDmax="50000 100000\n")) == 1

    def test_quota_of_version_2(self, tmp_path: Path) -> None:
        assert cores(machine(tmp_path, sys__fs__cgroup__cpuDmax="250000 100000\n")) == 2

    def test_quota_of_a_group_above(self, tmp_path: Path) -> None:
        machine(tmp_path, proc__self__cgroup="0::/jobs/mine\n", sys__fs__cgroup__jobs__cpuDmax="300000 100000\n")
        machine(tmp_path, sys__fs__cgroup__jobs__mine__cpuDmax="max 100000\n")
        assert cores(tmp_path) == 3

    def test_quota_of_version_1(self, tmp_path: Path) -> None:
        machine(tmp_path, sys__fs__cgroup__cpu__cpuDcfs_quota_us="400000\n")
        machine(tmp_path, sys__fs__cgroup__cpu__cpuDcfs_period_us="100000\n")
        assert cores(tmp_path) == 4

    @pytest.mark.parametrize("text", ["max 100000", "-1", "", "nonsense", "100 0"])
    def test_no_quota(self, tmp_path: Path, text: str) -> None:
        assert cores(machine(tmp_path, sys__fs__cgroup__cpuDmax=text)) == 8

    def test_memory(self, tmp_path: Path) -> None:
        assert memory_bytes(machine(tmp_path, sys__fs__cgroup__memoryDmax="1073741824\n")) == 2**30

    def test_no_memory_limit(self, tmp_path: Path) -> None:
        assert memory_bytes(machine(tmp_path, sys__fs__cgroup__memoryDmax="max\n")) > 10**8


def test_absent_libraries_are_left_out() -> None:
    assert list(versions(["numpy", "no-such-distribution-here"])) == ["numpy"]
