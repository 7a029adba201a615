"""How often a gate at 3 % cries wolf, how often it sees a model that is 5 % slower, and how long that takes.

    python benchmarks/false_alarms.py [--count 100] [--modes quiet slowed loaded]

The subject is quickstart's INT8 model for ONNX Runtime, one thread, one image. Each comparison is the command a CI job runs,

    accel benchmark HEAD --vs BASE --backend onnxruntime --fail-on 'latency_p50>+3%' --duration 1 --max-duration 4

timed from the start of its process to the end, and judged by its exit code and the interval in its report:

* ``quiet``: HEAD is a copy of BASE, byte for byte. A false alarm is a gate that fails.
* ``slowed``: HEAD is BASE with a chain of cheap nodes behind its output, as long as makes it 5 % slower: found with many
  such comparisons, and printed.
* ``loaded``: as quiet, while another process keeps one core busy. The comparison keeps to whatever core it finds idle.

Every result is written at once; a run that was ended goes on where it was. The exit code is 1 where a demand is not met.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from accel.atomic import write
from accel.onnx_file import digest
from accel.report import Report
from experiment import Experiment, parser, say

Mode = Literal["quiet", "slowed", "loaded"]
MODES: tuple[Mode, ...] = ("quiet", "slowed", "loaded")

MARGIN = 0.03
SLOWER, TOLERANCE = 0.05, 0.003
LIMIT_S = 15.0
GATE = f"latency_p50>+{100 * MARGIN:g}%"
OPTIONS = ("--backend", "onnxruntime", "--fail-on", GATE, "--duration", "1", "--max-duration", "4", "--json", "--quiet")
"""Three rows (HEAD, BASE, and HEAD's twin): at most 12 s of comparing, besides the command's start and each file once."""

LATENCY_EXIT_CODE = 12
CALIBRATION = 12
"""Comparisons, of five restarts and more each: together they know a slowdown to about 0.1 %."""

CALIBRATION_TRIES = 5


@dataclass(frozen=True)
class Outcome:
    """One comparison: HEAD over BASE, so above 1 is slower, and the A/A pair beside it. ``seconds``: wall time of all of it.

    ``alarm``: the command failed for latency; ``conclusive``: the gate passed or failed.
    """

    value: float
    low: float
    high: float
    alarm: bool
    conclusive: bool
    unstable: bool
    noisy: bool
    restarts: int
    seconds: float

    @property
    def misses_one(self) -> bool:
        return not self.low <= 1 <= self.high


def compared(head: Path, base: Path, cache: Path) -> Outcome:
    """One comparison by the command, in a fresh process."""
    command = [sys.executable, "-P", "-m", "accel", "benchmark", str(head), "--vs", str(base), *OPTIONS]
    began = time.monotonic()
    answer = subprocess.run([*command, "--cache-dir", str(cache)], stdout=subprocess.PIPE, check=False)
    seconds = time.monotonic() - began
    if answer.returncode not in (0, LATENCY_EXIT_CODE):
        raise SystemExit(f"{head.name}: the command ended with exit code {answer.returncode}; what was measured before is kept")
    return read(Report.model_validate_json(answer.stdout), answer.returncode, seconds)


def read(report: Report, exit_code: int, seconds: float) -> Outcome:
    """What a report says of its first row and the other. SystemExit where it says nothing, or other than the exit code."""
    head = report.rows[0]
    if head.latency is None or not head.speedups or len(report.gates) != 1:
        raise SystemExit(f"{head.name}: {head.reason or 'its report has no ratio and no gate'}")
    speedup, gate = head.speedups[0], report.gates[0]
    if (exit_code == LATENCY_EXIT_CODE) != gate.failed:
        raise SystemExit(f"exit code {exit_code}, and the gate: {gate.text}")
    ratio = speedup.ratio
    if ratio.low is None or ratio.high is None:
        raise SystemExit(f"{head.name}: its ratio has no interval")
    return Outcome(
        value=1 / ratio.value,
        low=1 / ratio.high,
        high=1 / ratio.low,
        alarm=gate.failed,
        conclusive=gate.verdict != "inconclusive",
        unstable=speedup.unstable is not None,
        noisy=report.noise is None or report.noise.verdict == "noisy",
        restarts=head.latency.restarts,
        seconds=seconds,
    )


# -- the slower copy --------------------------------------------------------------------------------------------------


def slowed(model: Path, to: Path, nodes: int) -> None:
    """``model`` with ``nodes`` sines, one after the other, of its first output: one more output, which nobody needs."""
    import onnx

    proto = onnx.load(model)
    last = proto.graph.output[0]
    if last.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise SystemExit(f"{model}: its first output is not float32, and the slower copy is made from that")
    source = last.name
    for index in range(nodes):
        proto.graph.node.append(onnx.helper.make_node("Sin", [source], [f"slower_{index}"], name=f"slower/{index}"))
        source = f"slower_{index}"
    extra = onnx.ValueInfoProto()
    extra.CopyFrom(last)
    extra.name = source
    proto.graph.output.append(extra)
    onnx.save(proto, to)


@dataclass(frozen=True)
class Slowdown:
    """What ``nodes`` more nodes cost: 0.05 is 5 % slower. ``error``: one standard error, of ``comparisons``; None from one."""

    nodes: int
    value: float
    error: float | None
    comparisons: int

    @property
    def off(self) -> float:
        return abs(self.value - SLOWER)

    @property
    def fits(self) -> bool:
        return self.off <= TOLERANCE


def pooled(nodes: int, outcomes: Sequence[Outcome]) -> Slowdown:
    """The geometric mean of the ratios, each weighted by its restarts.

    A comparison ends early where its ratio came out high; without weights that would count too much (Wald's identity).
    """
    total = sum(outcome.restarts for outcome in outcomes)
    mean = sum(outcome.restarts * math.log(outcome.value) for outcome in outcomes) / total
    if len(outcomes) < 2:
        return Slowdown(nodes, math.expm1(mean), None, len(outcomes))
    squares = sum((outcome.restarts * (math.log(outcome.value) - mean)) ** 2 for outcome in outcomes)
    error = math.sqrt(squares * len(outcomes) / (len(outcomes) - 1)) / total
    return Slowdown(nodes, math.expm1(mean), error, len(outcomes))


def calibrated(measure: Callable[[int], Slowdown], tries: int = CALIBRATION_TRIES) -> Slowdown:
    """How many nodes make it 5 % slower, and what that many were measured to do: the closest of at most ``tries``.

    Each node costs the same; so a line through the two closest of what was measured, or through that and nothing, says what to
    try next. It ends within half of the tolerance: the other half is for the error of the measurement.
    """
    seen: dict[int, Slowdown] = {}
    guess = 12
    while guess not in seen and len(seen) < tries:
        seen[guess] = measure(guess)
        closest = sorted(seen.values(), key=lambda each: each.off)
        if closest[0].off <= TOLERANCE / 2:
            break
        best = closest[0]
        other = closest[1] if len(closest) > 1 else Slowdown(0, 0.0, None, 0)
        each_node = (best.value - other.value) / (best.nodes - other.nodes)
        if each_node <= 0:  # noise hid the difference
            each_node = max(best.value / best.nodes, 1e-4)
        guess = max(1, best.nodes + round((SLOWER - best.value) / each_node))
    return min(seen.values(), key=lambda each: each.off)


@contextmanager
def load() -> Iterator[None]:
    """A process that keeps one of our cores busy, and no other."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("loaded: needs two cores, one for the load; this process may use one only")
    spin = (
        "import os, sys\nfrom accel.worker import die_with_parent\n"
        "die_with_parent(int(sys.argv[1]))\nos.sched_setaffinity(0, {int(sys.argv[2])})\nwhile True: pass"
    )
    process = subprocess.Popen([sys.executable, "-c", spin, str(os.getpid()), str(cores[-1])])
    try:
        yield
    finally:
        process.kill()
        process.wait()


# -- what was found ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demand:
    """``found`` of ``total``, and which shares of it would do."""

    what: str
    found: int
    total: int
    most: float = 1.0
    least: float = 0.0

    @property
    def met(self) -> bool:
        return self.least * self.total <= self.found <= self.most * self.total


def demands(mode: Mode, outcomes: Sequence[Outcome]) -> list[Demand]:
    """What issue 5 asks of a hundred, as shares."""
    total = len(outcomes)
    alarms = sum(outcome.alarm for outcome in outcomes)
    made = [Demand(f"over {LIMIT_S:g} s", sum(outcome.seconds > LIMIT_S for outcome in outcomes), total, most=0)]
    if mode == "slowed":
        return [Demand("detected", alarms, total, least=0.95), *made]
    made.insert(0, Demand("false alarms", alarms, total, most=0.01))
    if mode == "quiet":
        made.append(Demand("intervals without 1.0", sum(outcome.misses_one for outcome in outcomes), total, most=0.05))
    else:
        made.append(Demand("conclusive", sum(outcome.conclusive for outcome in outcomes), total, least=0.50))
    return made


def table(modes: Mapping[Mode, Sequence[Outcome]]) -> list[str]:
    """As Markdown: one line for each mode, and one for each demand."""
    lines = [
        "| mode | comparisons | gate failed | conclusive | without 1.0 | unstable | A/A noisy | width | restarts | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for mode, outcomes in modes.items():
        if not outcomes:
            continue
        counts = [
            sum(getattr(outcome, name) for outcome in outcomes)
            for name in ("alarm", "conclusive", "misses_one", "unstable", "noisy")
        ]
        width = statistics.median(outcome.high / outcome.low - 1 for outcome in outcomes)
        restarts = statistics.fmean(outcome.restarts for outcome in outcomes)
        seconds = [outcome.seconds for outcome in outcomes]
        middle = f"{100 * width:.1f} % | {restarts:.1f} | {statistics.median(seconds):.1f}, at most {max(seconds):.1f}"
        lines.append(f"| {mode} | {len(outcomes)} | {' | '.join(map(str, counts))} | {middle} |")
    lines.append("")
    for mode, outcomes in modes.items():
        lines += [
            f"- {mode}: {demand.what}: {demand.found} of {demand.total}: {'met' if demand.met else 'NOT MET'}"
            for demand in (demands(mode, outcomes) if outcomes else ())
        ]
    return lines


class Kept:
    """What was measured so far, in a file. Of other models or settings nothing is taken up again."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self._path = path
        self._content: dict[str, Any] = {"key": dict(key), "slowdown": None, "modes": {mode: [] for mode in MODES}}
        with suppress(OSError, ValueError):
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict) and found.get("key") == self._content["key"]:
                self._content = found

    def outcomes(self, mode: Mode) -> list[Outcome]:
        return [Outcome(**entry) for entry in self._content["modes"][mode]]

    def add(self, mode: Mode, outcome: Outcome) -> None:
        self._content["modes"][mode].append(asdict(outcome))
        self._save()

    @property
    def slowdown(self) -> Slowdown | None:
        found = self._content["slowdown"]
        return None if found is None else Slowdown(**found)

    def calibrate(self, found: Slowdown) -> None:
        self._content |= {"slowdown": asdict(found), "modes": self._content["modes"] | {"slowed": []}}
        self._save()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write(self._path, json.dumps(self._content, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser(__doc__, "false_alarms", quick="two comparisons of each mode, and a rough slowdown: to see that it runs")
    made.add_argument("--count", type=int, default=100, help="comparisons in each mode")
    made.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    chosen = made.parse_args(arguments)
    count, calibration = (2, 2) if chosen.quick else (chosen.count, CALIBRATION)
    experiment = Experiment.chosen(chosen)
    _, folder = experiment.run("quickstart.yaml", [], benchmark=False)
    base, copy, slow = (experiment.output / name for name in ("base.onnx", "copy.onnx", "slowed.onnx"))
    for path in (base, copy):
        shutil.copyfile(folder / "targets" / "onnxruntime-cpu" / "model.onnx", path)
    key = {"model": digest(base), "options": list(OPTIONS), "calibration": calibration}
    kept = Kept(experiment.output / "false_alarms.json", key)
    if "slowed" in chosen.modes:
        if kept.slowdown is None:

            def measure(nodes: int) -> Slowdown:
                slowed(base, slow, nodes)
                found = pooled(nodes, [compared(slow, base, experiment.cache) for _ in range(calibration)])
                say(f"{nodes} nodes: {_percent(found)}")
                return found

            kept.calibrate(calibrated(measure))
        found = kept.slowdown
        assert found is not None
        slowed(base, slow, found.nodes)
    for mode in chosen.modes:
        with load() if mode == "loaded" else nullcontext():
            for index in range(len(kept.outcomes(mode)), count):
                outcome = compared(slow if mode == "slowed" else copy, base, experiment.cache)
                kept.add(mode, outcome)
                say(f"{mode} {index + 1}: {_line(outcome)}")
    modes = {mode: kept.outcomes(mode)[:count] for mode in MODES if mode in chosen.modes}
    text = "\n".join([*_told(kept), *table(modes)]) + "\n"
    write(experiment.output / "false_alarms.md", text)
    sys.stdout.write(text)
    met = all(demand.met for mode, outcomes in modes.items() for demand in demands(mode, outcomes))
    return 0 if met and ("slowed" not in modes or (kept.slowdown is not None and kept.slowdown.fits)) else 1


def _line(outcome: Outcome) -> str:
    interval = f"{outcome.value:.4f} [{outcome.low:.4f}, {outcome.high:.4f}]"
    said = "slower" if outcome.alarm else "not slower" if outcome.conclusive else "inconclusive"
    return f"{interval}, {outcome.restarts} restarts, {outcome.seconds:.1f} s: {said}"


def _percent(found: Slowdown) -> str:
    error = "" if found.error is None else f" +- {100 * found.error:.2f}"
    return f"{100 * found.value:.2f}{error} %"


def _told(kept: Kept) -> list[str]:
    found = kept.slowdown
    if found is None:
        return []
    said = f"Slowed by {found.nodes} nodes: {_percent(found)} ({found.comparisons} comparisons)"
    return [said + ("." if found.fits else f", which is NOT within {100 * SLOWER:g} +- {100 * TOLERANCE:g} %."), ""]


if __name__ == "__main__":
    sys.exit(main())
