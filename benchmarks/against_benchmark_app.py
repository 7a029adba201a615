"""Do our single-stream medians agree with other tools within 3 %? Measured in turn, each time in fresh processes.

    python benchmarks/against_benchmark_app.py [--restarts 15] [--duration 2] [--quick]

Ours is the median of what ``accel benchmark`` times: calls of a runner in a child process, from NumPy arrays to NumPy arrays.
Theirs, on the same file, input values, threads, streams and precision:

* ``benchmark_app``, which comes with OpenVINO: ``-api sync``, one stream. The median is what its own loop returns, before it is
  rounded to be printed.
* a bare loop around ``session.run`` of ONNX Runtime or ``request.infer()`` of OpenVINO, with our runner's settings, in a
  process without a line of ours (bare_loop.py).

One restart of a file is one fresh process of each, all on one core, as rows of ours are. Once all are warm they measure at the
same time, in slices: one runs and the others are stopped, a twentieth of a second each, in an order drawn anew (time_slices.py
says why). Between rounds a loop that has nothing to do with any of them tells whether others on the host make the core slow;
the window of --duration seconds is repeated until nine rounds in ten found it fast, or a dozen times, and the least disturbed
one counts. Neighbouring restarts make five groups, and the ratio and its interval come from
``accel.benchmarks.statistics.ratio`` over groups, of the median within each. PASS: the interval lies within the margin; FAIL:
it lies outside; UNSURE: it reaches over an end, and more restarts or a quieter machine would tell. The exit code is 1 where a
line failed.

What differs: benchmark_app's clock starts and stops inside OpenVINO, ours around the call from Python. The bare loop around
OpenVINO is read by both clocks, so the table shows that part: some 5 microseconds after a small network, and ten times as
many after one whose weights push Python out of the caches. Below 0.2 ms that leaves nothing of the margin. What does not
differ: benchmark_app fills its input tensors once, and our runner keeps the arrays that it is given again and again. A caller
that brings new ones each time pays some 20 microseconds more than either tells.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import time_slices
from accel import catalog, onnx_file, telemetry
from accel.benchmarks import pinning, statistics
from accel.contracts import Backend, SuitsFile
from accel.errors import AccelError, UsageError
from accel.model import Target
from accel.report import Estimate
from accel.sessions import Sessions
from accel.timed_inputs import Sample, noise
from experiment import Experiment, parser, say
from measuring_programs import BENCHMARK_APP, TIMEOUT_S, Measuring, Ours, Program
from shipped import SHIPPED, Shipped
from time_slices import Pace

GROUPS = 5
WINDOWS, UNDISTURBED = 12, 0.9
TAIL_S = 0.5
"""Slices go on for so long after the last process should have ended."""


@dataclass(frozen=True)
class File:
    """``path``: an ONNX file whose only varying axis is the batch; ``backends``: what it is timed on."""

    label: str
    path: Path
    backends: tuple[str, ...] = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Line:
    """``theirs`` as against ``ours``, medians over restarts in milliseconds; ``ratio``: ours over theirs; ``undisturbed``: as
    of Measured, the median over restarts."""

    file: str
    backend: str
    other: str
    ours_ms: float
    theirs_ms: float
    ratio: Estimate
    verdict: str
    undisturbed: float


def verdict(ratio: Estimate, margin: float) -> str:
    """PASS, FAIL or UNSURE, by where the interval lies."""
    low, high = ratio.low or ratio.value, ratio.high or ratio.value
    if low >= 1 - margin and high <= 1 + margin:
        return "PASS"
    return "FAIL" if high < 1 - margin or low > 1 + margin else "UNSURE"


@dataclass(frozen=True)
class Measured:
    """``medians``: in milliseconds, by what they are called. ``undisturbed``: the share of the time that the core was fast."""

    medians: dict[str, float]
    undisturbed: float


class Comparison:
    """Of one file on one backend. ``folder`` is empty, and for what the processes need; ``seconds``: that a window lasts."""

    def __init__(self, file: File, backend: str, folder: Path, seconds: int) -> None:
        self._file = file
        self._folder = folder
        self._target = Target("t", backend, threads=1, batch=1)
        self._seconds = seconds  # by each process's own clock, which goes on while it is stopped
        self._inputs = noise(onnx_file.read(file.path).signature.inputs, 1, 0)
        self._stored = folder / "inputs.npz"
        np.savez(self._stored, **self._inputs)  # type: ignore[arg-type]
        self._sessions = Sessions(
            document=None,
            path=file.path,
            allowed=(),
            folder=folder,
            sample=Sample(str(self._stored), 1, 0),
            compile_timeout_s=TIMEOUT_S,
        )

    def arms(self) -> dict[str, Callable[[], Measuring]]:
        """What starts each; ours first."""
        made: dict[str, Callable[[], Measuring]] = {"ours": self._ours, "bare loop": self._bare}
        return made | ({"benchmark_app": self._benchmark_app} if self._target.backend == "openvino" else {})

    def restart(self, order: random.Random, pace: Pace) -> Measured:
        """One fresh process of each, which measure in turn, in window after window: the one that was least disturbed."""
        arms: dict[str, Measuring] = {}
        best = Measured({}, -1.0)
        try:
            starts = self.arms()
            for name in order.sample(list(starts), len(starts)):
                arms[name] = starts[name]()
            groups = {name: arm.group for name, arm in arms.items()}
            for _ in range(WINDOWS):
                for arm in arms.values():
                    arm.begin()
                pace.undisturbed()
                time_slices.share(groups, seconds=self._seconds + TAIL_S, order=order, between=pace.look)
                medians = {what: median for arm in arms.values() for what, median in arm.medians().items()}
                best = max(best, Measured(medians, pace.undisturbed()), key=lambda window: window.undisturbed)
                if best.undisturbed >= UNDISTURBED:
                    break
        finally:
            for arm in arms.values():
                arm.close()
        return best

    def _ours(self) -> Measuring:
        return Ours(self._sessions, self._target, str(self._file.path), self._seconds)

    def _bare(self) -> Measuring:
        asked = {
            "runtime": self._target.backend,
            "model": str(self._file.path),
            "inputs": str(self._stored),
            "seconds": self._seconds,
            "settings": self._settings(),
        }
        place = self._folder / "asked.json"
        place.write_text(json.dumps(asked), encoding="utf-8")
        return Program([sys.executable, str(Path(__file__).with_name("bare_loop.py")), str(place)])

    def _benchmark_app(self) -> Measuring:
        properties = self._settings()["properties"]
        name, array = next(iter(self._inputs.items()))
        np.save(self._folder / "input.npy", array)
        words = ["-m", str(self._file.path), "-d", "CPU", "-api", "sync", "-hint", "none"]
        words += ["-nstreams", str(properties["NUM_STREAMS"]), "-nthreads", str(properties["INFERENCE_NUM_THREADS"])]
        words += ["-ip", "f32", "-infer_precision", properties["INFERENCE_PRECISION_HINT"], "-t", str(self._seconds)]
        words += ["-shape", f"{name}[{','.join(map(str, array.shape))}]", "-i", f"{name}:{self._folder / 'input.npy'}"]
        return Program([sys.executable, "-c", BENCHMARK_APP, *words])

    def _settings(self) -> Mapping[str, Any]:
        backend: Backend = catalog.backend(self._target.backend)
        if isinstance(backend, SuitsFile):
            return backend.runtime_settings_for(self._target, self._file.path)
        return backend.runtime_settings(self._target)


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


def compare(file: File, backend: str, pace: Pace, *, restarts: int, seconds: int, margin: float) -> list[Line]:
    """One line for each of the others."""
    found: dict[str, list[float]] = {}
    order = random.Random(f"{file.label}/{backend}")
    quiet = []
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(file, backend, Path(folder), seconds)
        for restart in range(restarts):
            with one_core():
                measured = comparison.restart(order, pace)
            quiet.append(measured.undisturbed)
            say(f"{file.label} on {backend}: restart {restart + 1} of {restarts}, undisturbed {measured.undisturbed:.0%}")
            for what, median in measured.medians.items():
                found.setdefault(what, []).append(median)
    ours = np.array(found.pop("ours")).reshape(GROUPS, -1)
    lines = []
    for other, medians in found.items():
        theirs = np.array(medians).reshape(GROUPS, -1)
        ratio = statistics.ratio(ours * 1e6, theirs * 1e6)
        # By its own clock a bare loop is benchmark_app over again: told, and not judged twice.
        said = "–" if "clock" in other else verdict(ratio, margin)
        ours_ms, theirs_ms = float(np.median(ours)), float(np.median(theirs))
        lines.append(Line(file.label, backend, other, ours_ms, theirs_ms, ratio, said, float(np.median(quiet))))
    return lines


def table(lines: Sequence[Line], *, restarts: int, seconds: int, margin: float) -> list[str]:
    said = [
        "| file | backend | compared with | ours, p50 | theirs, p50 | ours over theirs | | undisturbed |",
        "| --- | --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for line in sorted(lines, key=lambda line: (line.file, line.backend, line.other)):
        interval = (
            "" if line.ratio.low is None or line.ratio.high is None else f" ({line.ratio.low:.3f} to {line.ratio.high:.3f})"
        )
        said.append(
            f"| {line.file} | {line.backend} | {line.other} | {line.ours_ms:.4f} ms | {line.theirs_ms:.4f} ms |"
            f" {line.ratio.value:.3f}{interval} | {line.verdict} | {line.undisturbed:.0%} |"
        )
    versions = ", ".join(f"{name} {catalog.backend(name).versions().get(name, '?')}" for name in ("onnxruntime", "openvino"))
    how = f"{restarts} restarts, windows of {seconds} s in turn, one thread, batch 1, margin {margin:.0%}; {versions}"
    return [*said, "", how]


def files(lab: Experiment, shared: Path, *, quick: bool) -> list[File]:
    """The shipped recipes whose data are here, in INT8 and in FP32; built once."""
    made = []
    for one in SHIPPED[:1] if quick else SHIPPED:
        missing = one.missing(shared)
        if missing is None:
            made += _both(lab, one, shared)
        else:
            say(f"{one.name} is left out: {missing}")
    return made[:2] if quick else made


def _both(lab: Experiment, one: Shipped, shared: Path) -> list[File]:
    """In INT8, where each target has a file of its own, and in FP32."""
    bare = [*one.words(shared), "report.formats=[json]"]
    _, int8 = lab.run(one.recipe, bare, benchmark=False)
    name = f"name={Path(one.recipe).stem}_fp32"
    _, fp32 = lab.run(one.recipe, [*bare, name, "passes=[{type: export_onnx}]"], benchmark=False)
    made = [
        File(f"{one.name} INT8", int8 / "targets" / f"{backend}-cpu" / "model.onnx", (backend,))
        for backend in ("onnxruntime", "openvino")
    ]
    return [*made, File(f"{one.name} FP32", fp32 / "targets" / "onnxruntime-cpu" / "model.onnx", ("onnxruntime", "openvino"))]


def main(arguments: Sequence[str] | None = None) -> int:
    words = parser(__doc__, "against_benchmark_app")
    words.add_argument("--restarts", type=int, default=15, help="fresh processes of each, a multiple of 5")
    words.add_argument("--duration", type=int, default=2, help="seconds of a window, which all processes share")
    words.add_argument("--margin", type=float, default=0.03, help="how far the medians may be apart")
    chosen = words.parse_args(arguments)
    if chosen.restarts < GROUPS or chosen.restarts % GROUPS or chosen.duration < 1:
        raise UsageError(f"--restarts: found {chosen.restarts}, a multiple of {GROUPS} is wanted; --duration at least 1")
    telemetry.switch_off()  # the processes that are started here inherit it
    restarts, seconds = (5, 1) if chosen.quick else (chosen.restarts, chosen.duration)
    lab = Experiment.chosen(chosen)
    lines: list[Line] = []
    pace = Pace()
    for file in files(lab, chosen.shared, quick=chosen.quick):
        for backend in file.backends:
            lines += compare(file, backend, pace, restarts=restarts, seconds=seconds, margin=chosen.margin)
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
