"""Do our single-stream medians agree with other tools within 3 %? Measured in turn, each time in fresh processes.

    python benchmarks/against_benchmark_app.py [--restarts 15] [--duration 2] [--quick]

Ours is the median of what ``accel benchmark`` times: calls of a runner in a child process, from NumPy arrays to NumPy arrays.
Theirs, on the same file, input values, threads, streams and precision:

* ``benchmark_app``, which comes with OpenVINO: ``-api sync``, one stream. Its JSON rounds to 0.01 ms, so the median is read
  from the console, which gives microseconds below 1 ms.
* a bare loop around ``session.run`` of ONNX Runtime or ``request.infer()`` of OpenVINO, with our runner's settings, in a
  process without a line of ours (bare_loop.py).

One restart of a file is one process of each, in an order shuffled anew, all on one core, as rows of ours are. Neighbouring
restarts make five groups, and the ratio and its interval come from ``accel.benchmarks.statistics.ratio`` over groups, of the
median within each. A process that met a slow spell of the machine is run again (Calm). PASS: the interval lies within
the margin; FAIL: it lies outside; UNSURE: it reaches over an end, and more restarts or a quieter machine would tell. The exit
code is 1 where a line failed.

What differs: benchmark_app's clock starts and stops inside OpenVINO, ours around the call from Python. The bare loop around
OpenVINO is read by both clocks, so the table shows that part: some 4 microseconds a call, whatever the model. Below 0.2 ms they
are more than 2 %, and the rest of the margin is then all there is for noise. What does not differ: benchmark_app fills its
input tensors once, and our runner keeps the arrays that it is given again and again. A caller that brings new ones each time
pays some 20 microseconds more than either tells.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accel import catalog, onnx_file, telemetry
from accel.benchmarks import pinning, statistics
from accel.contracts import Backend, SuitsFile
from accel.errors import AccelError, UsageError, WorkFault
from accel.model import Target
from accel.report import Estimate
from accel.rows import Subject
from accel.sessions import Sessions
from accel.timed_inputs import Sample, noise
from experiment import Experiment, data_overrides, parser, say

GROUPS = 5
WARM_UP = 10
COMPILE_S = 120.0
TRIES, WAIT_S = 6, 10.0
BENCHMARK_APP = """
import sys
sys.modules["openvino_telemetry"] = None
from openvino.tools.benchmark.main import main
main()
"""
"""What its script does, which need not be on the path of who runs this; and nothing is sent home."""

_MEDIAN = re.compile(r"Median:\s+([0-9.]+) (us|ms)\b")

Once = Callable[[], dict[str, float]]
"""One fresh process: medians in milliseconds by what they are called."""


@dataclass(frozen=True)
class File:
    """``path``: an ONNX file whose only varying axis is the batch; ``backends``: what it is timed on."""

    label: str
    path: Path
    backends: tuple[str, ...] = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Line:
    """``theirs`` as against ``ours``, medians over restarts in milliseconds; ``ratio``: ours over theirs."""

    file: str
    backend: str
    other: str
    ours_ms: float
    theirs_ms: float
    ratio: Estimate
    verdict: str


def verdict(ratio: Estimate, margin: float) -> str:
    """PASS, FAIL or UNSURE, by where the interval lies."""
    low, high = ratio.low or ratio.value, ratio.high or ratio.value
    if low >= 1 - margin and high <= 1 + margin:
        return "PASS"
    return "FAIL" if high < 1 - margin or low > 1 + margin else "UNSURE"


def median_ms(console: str) -> float:
    """The median that benchmark_app printed. WorkFault where there is none."""
    found = _MEDIAN.search(console)
    if found is None:
        raise WorkFault(f"benchmark_app printed no median; the end of what it said: {console[-500:]}")
    return float(found[1]) / (1000 if found[2] == "us" else 1)


class Comparison:
    """Of one file on one backend. ``folder`` is empty, and for what the processes need."""

    def __init__(self, file: File, backend: str, folder: Path, seconds: float) -> None:
        self._file = file
        self._folder = folder
        self._seconds = seconds
        self._target = Target("t", backend, threads=1, batch=1)
        self._inputs = noise(onnx_file.read(file.path).signature.inputs, 1, 0)
        self._stored = folder / "inputs.npz"
        np.savez(self._stored, **self._inputs)  # type: ignore[arg-type]
        self._sessions = Sessions(
            document=None,
            path=file.path,
            allowed=(),
            folder=folder,
            sample=Sample(str(self._stored), 1, 0),
            compile_timeout_s=COMPILE_S,
        )

    def arms(self) -> dict[str, Once]:
        """Ours first."""
        made: dict[str, Once] = {"ours": self._ours, "bare loop": self._bare}
        return made | ({"benchmark_app": self._benchmark_app} if self._target.backend == "openvino" else {})

    def _ours(self) -> dict[str, float]:
        model = {"kind": "onnx", "path": str(self._file.path)}
        worker = self._sessions.open(Subject("ours", "result", None, self._target, model, None), "ours")
        try:
            worker.result(timeout_s=COMPILE_S)
            worker.call("compile", timeout_s=COMPILE_S)
            worker.call("warm_up", timeout_s=COMPILE_S, queries=WARM_UP)
            taken = worker.call("turn", timeout_s=COMPILE_S + self._seconds, duration_s=self._seconds, min_queries=100)
        finally:
            worker.close()
        return {"ours": float(np.median(taken)) / 1e6}

    def _bare(self) -> dict[str, float]:
        asked = {
            "runtime": self._target.backend,
            "model": str(self._file.path),
            "inputs": str(self._stored),
            "seconds": self._seconds,
            "settings": self._settings(),
        }
        place = self._folder / "asked.json"
        place.write_text(json.dumps(asked), encoding="utf-8")
        found = json.loads(_said([sys.executable, str(Path(__file__).with_name("bare_loop.py")), str(place)]).splitlines()[-1])
        own = {"bare loop, OpenVINO's clock": found["own_p50_ms"]} if found["own_p50_ms"] is not None else {}
        return {"bare loop": found["p50_ms"], **own}

    def _benchmark_app(self) -> dict[str, float]:
        properties = self._settings()["properties"]
        name, array = next(iter(self._inputs.items()))
        np.save(self._folder / "input.npy", array)
        words = ["-m", str(self._file.path), "-d", "CPU", "-api", "sync", "-hint", "none"]
        words += ["-nstreams", str(properties["NUM_STREAMS"]), "-nthreads", str(properties["INFERENCE_NUM_THREADS"])]
        words += [
            "-ip",
            "f32",
            "-infer_precision",
            properties["INFERENCE_PRECISION_HINT"],
            "-t",
            str(max(1, round(self._seconds))),
        ]
        words += ["-shape", f"{name}[{','.join(map(str, array.shape))}]", "-i", f"{name}:{self._folder / 'input.npy'}"]
        return {"benchmark_app": median_ms(_said([sys.executable, "-c", BENCHMARK_APP, *words]))}

    def _settings(self) -> Mapping[str, Any]:
        backend: Backend = catalog.backend(self._target.backend)
        if isinstance(backend, SuitsFile):
            return backend.runtime_settings_for(self._target, self._file.path)
        return backend.runtime_settings(self._target)


def _said(command: Sequence[str]) -> str:
    """What a process printed. WorkFault where it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkFault(f"{' '.join(command[:3])} ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout


class Calm:
    """Runs processes on one core while it is as fast as it has been seen to be.

    On a virtual machine others on the host make a core up to twice as slow, for seconds; medians of processes that met such a
    spell and of those that did not are of two machines. A loop that has nothing to do with what is measured, timed before and
    after each process, tells: a process between two loops of which one was slow is run again.
    """

    def __init__(self) -> None:
        self._fastest = float("inf")
        self.again = 0

    def run(self, once: Once) -> dict[str, float]:
        """What ``once`` gave in calm, or its last answer where TRIES were not enough."""
        found: dict[str, float] = {}
        for _ in range(TRIES):
            calm = self._wait()
            found = once()
            if calm and self._is_calm():
                return found
            self.again += 1
        return found

    def _wait(self) -> bool:
        until = time.monotonic() + WAIT_S
        while not self._is_calm():
            if time.monotonic() > until:
                return False
            time.sleep(0.2)
        return True

    def _is_calm(self) -> bool:
        taken = pinning.loop_s()
        self._fastest = min(self._fastest, taken)
        return taken <= pinning.SLOWER * self._fastest


@contextmanager
def one_core() -> Iterator[None]:
    """Processes that are started meanwhile are kept on one core that nobody else works on, where the system allows it."""
    if not pinning.available():
        yield
        return
    before = os.sched_getaffinity(0)
    working = pinning.busy()
    os.sched_setaffinity(0, pinning.chosen(1, working=working, slow=pinning.slowness(pinning.usable())))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compare(file: File, backend: str, *, restarts: int, seconds: float, margin: float) -> list[Line]:
    """One line for each of the others."""
    found: dict[str, list[float]] = {}
    order = random.Random(f"{file.label}/{backend}")
    calm = Calm()
    with tempfile.TemporaryDirectory() as folder:
        arms = Comparison(file, backend, Path(folder), seconds).arms()
        for restart in range(restarts):
            say(f"{file.label} on {backend}: restart {restart + 1} of {restarts}")
            with one_core():
                for name in order.sample(list(arms), len(arms)):
                    for what, median in calm.run(arms[name]).items():
                        found.setdefault(what, []).append(median)
    if calm.again:
        say(f"{file.label} on {backend}: {calm.again} processes met a slow spell and were run again")
    ours = np.array(found.pop("ours")).reshape(GROUPS, -1)
    lines = []
    for other, medians in found.items():
        theirs = np.array(medians).reshape(GROUPS, -1)
        ratio = statistics.ratio(ours * 1e6, theirs * 1e6)
        # By its own clock a bare loop is benchmark_app over again: told, and not judged twice.
        said = "–" if "clock" in other else verdict(ratio, margin)
        lines.append(Line(file.label, backend, other, float(np.median(ours)), float(np.median(theirs)), ratio, said))
    return lines


def table(lines: Sequence[Line], *, restarts: int, seconds: float, margin: float) -> list[str]:
    said = [
        "| file | backend | compared with | ours, p50 | theirs, p50 | ours over theirs | |",
        "| --- | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for line in sorted(lines, key=lambda line: (line.file, line.backend, line.other)):
        interval = (
            "" if line.ratio.low is None or line.ratio.high is None else f" ({line.ratio.low:.3f} to {line.ratio.high:.3f})"
        )
        said.append(
            f"| {line.file} | {line.backend} | {line.other} | {line.ours_ms:.4f} ms | {line.theirs_ms:.4f} ms |"
            f" {line.ratio.value:.3f}{interval} | {line.verdict} |"
        )
    versions = ", ".join(f"{name} {catalog.backend(name).versions().get(name, '?')}" for name in ("onnxruntime", "openvino"))
    how = f"{restarts} restarts of {seconds:g} s each in turn, one thread, batch 1, margin {margin:.0%}; {versions}"
    return [*said, "", how]


def files(lab: Experiment, shared: Path, *, quick: bool) -> list[File]:
    """The quick start in INT8 and FP32, and ResNet-20 where its data are here. Built once, by the shipped recipes."""
    made = _both(lab, "quickstart", "quickstart.yaml", [])
    weights = shared / "models" / "cifar10_resnet20_jpegft.safetensors"
    if quick:
        return made[:2]
    if not weights.is_file():
        say(f"{weights} is not there: ResNet-20 is left out")
        return made
    words = [f"model.weights={weights}", *data_overrides(shared / "data" / "cifar10_jpeg.npz", "calibration", "validation")]
    return [*made, *_both(lab, "ResNet-20", "cifar10_resnet.yaml", words)]


def _both(lab: Experiment, label: str, recipe: str, words: Sequence[str]) -> list[File]:
    """In INT8, where each target has a file of its own, and in FP32."""
    bare = [*words, "report.formats=[json]"]
    _, int8 = lab.run(recipe, bare, benchmark=False)
    name = f"name={Path(recipe).stem}_fp32"
    _, fp32 = lab.run(recipe, [*bare, name, "passes=[{type: export_onnx}]"], benchmark=False)
    made = [
        File(f"{label} INT8", int8 / "targets" / f"{backend}-cpu" / "model.onnx", (backend,))
        for backend in ("onnxruntime", "openvino")
    ]
    return [*made, File(f"{label} FP32", fp32 / "targets" / "onnxruntime-cpu" / "model.onnx", ("onnxruntime", "openvino"))]


def main(arguments: Sequence[str] | None = None) -> int:
    words = parser(__doc__, "against_benchmark_app")
    words.add_argument("--restarts", type=int, default=15, help="fresh processes of each, a multiple of 5")
    words.add_argument("--duration", type=float, default=2.0, help="seconds timed in each; whole ones, as benchmark_app takes")
    words.add_argument("--margin", type=float, default=0.03, help="how far the medians may be apart")
    chosen = words.parse_args(arguments)
    if chosen.restarts < GROUPS or chosen.restarts % GROUPS or chosen.duration < 1:
        raise UsageError(f"--restarts: found {chosen.restarts}, a multiple of {GROUPS} is wanted; --duration at least 1")
    telemetry.switch_off()  # the processes that are started here inherit it
    restarts, seconds = (5, 1.0) if chosen.quick else (chosen.restarts, chosen.duration)
    lab = Experiment.chosen(chosen)
    lines: list[Line] = []
    for file in files(lab, chosen.shared, quick=chosen.quick):
        for backend in file.backends:
            lines += compare(file, backend, restarts=restarts, seconds=seconds, margin=chosen.margin)
    said = table(lines, restarts=restarts, seconds=seconds, margin=chosen.margin)
    figures = [{**vars(line), "ratio": line.ratio.model_dump()} for line in lines]
    lab.keep("against_benchmark_app", {"margin": chosen.margin, "restarts": restarts, "lines": figures}, said)
    return 1 if any(line.verdict == "FAIL" for line in lines) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AccelError as error:
        say(f"against_benchmark_app: {error}")
        sys.exit(error.exit_code)
