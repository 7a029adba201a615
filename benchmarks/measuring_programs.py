"""Processes that hold one model each and measure it when they are told, again and again: ours, and other tools'."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from accel.errors import WorkFault
from accel.model import Target
from accel.rows import Subject
from accel.sessions import Sessions

WARM_UP = 10
TIMEOUT_S = 120.0

BENCHMARK_APP = """
import json, sys
sys.modules["openvino_telemetry"] = None
from openvino.tools.benchmark import benchmark, main

measure = benchmark.Benchmark.main_loop

def when_told(*arguments):
    print("ready", flush=True)
    for _ in sys.stdin:
        found = measure(*arguments)
        print(json.dumps({"benchmark_app": found[1]}), flush=True)
    return found

benchmark.Benchmark.main_loop = when_told
main.main()
"""
"""What its script does, which need not be on the path of who runs this; nothing is sent home; and its loop runs whenever it is
told, giving the median (the second of what that returns) that it would print at the end, rounded."""


class Measuring(Protocol):
    """``group``: of the process. ``medians``: of what ``begin`` began, in milliseconds, by what they are called."""

    group: int

    def begin(self) -> None: ...
    def medians(self) -> dict[str, float]: ...
    def close(self) -> None: ...


class Ours:
    """A child as ``accel benchmark`` starts it, warm; it measures for ``seconds``."""

    def __init__(self, sessions: Sessions, target: Target, path: str, seconds: float) -> None:
        self._seconds = seconds
        self._worker = sessions.open(Subject("ours", "result", None, target, {"kind": "onnx", "path": path}, None), "ours")
        self.group = self._worker.group
        self._worker.result(timeout_s=TIMEOUT_S)
        self._worker.call("compile", timeout_s=TIMEOUT_S)
        self._worker.call("warm_up", timeout_s=TIMEOUT_S, queries=WARM_UP)

    def begin(self) -> None:
        self._worker.request("turn", duration_s=self._seconds, min_queries=100)

    def medians(self) -> dict[str, float]:
        return {"ours": float(np.median(self._worker.result(timeout_s=TIMEOUT_S))) / 1e6}

    def close(self) -> None:
        self._worker.close()


class Program:
    """Another tool's process. It prints ``ready``, measures when a line comes in, and prints its medians as a line of JSON."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True
        )
        self.group = self._process.pid
        try:
            self._line_after("ready")
        except WorkFault:
            self.close()
            raise

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")

    def medians(self) -> dict[str, float]:
        found: dict[str, float] = json.loads(self._line_after("{"))
        return found

    def close(self) -> None:
        self._process.kill()
        with self._process:  # closes the pipes
            pass

    def _line_after(self, start: str) -> str:
        """The next line that starts so. WorkFault where the process ends before."""
        said = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(start):
                return line
            said.append(line)
        raise WorkFault(f"a process ended with {self._process.wait()}; the last it said: {''.join(said)[-500:]}")
