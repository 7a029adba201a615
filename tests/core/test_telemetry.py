"""Nothing is sent home: the switches are set before a runtime is imported, in this process and in children."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from accel.telemetry import SWITCHES

ASK = """
import os, sys
from accel.catalog import backend
for name in ("onnxruntime", "openvino"):
    assert backend(name).unavailable() is None
print(*[os.environ.get(name) for name in {names!r}])
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which nobody has set a switch, and a home where a device id would be found."""
    kept = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    return {**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.mark.parametrize(
    "first", ["", "import accel.compress.qdq_onnxruntime, accel.compress.qdq_nncf\n"], ids=["backends", "passes"]
)
def test_the_switches_are_set_and_no_device_id_is_written(bare: dict[str, str], tmp_path: Path, first: str) -> None:
    program = first + ASK.format(names=tuple(SWITCHES))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=bare, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(SWITCHES.values())
    written = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [], "an identifier of this machine, most likely"
