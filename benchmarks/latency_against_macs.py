"""Channels spent for multiply-adds or for measured time: the same network, the same training, compared in INT8.

    python benchmarks/latency_against_macs.py

Trains a network for Fashion-MNIST once; then for three settings and each seed one arm is pruned to a part of the multiply-adds,
its INT8 latency is measured, and the other arm is pruned to ``--faster`` times that latency on the same runtime. Both train for
the same number of steps and are quantized alike. The table compares their INT8 latency, in interleaved turns at batch 1 on one
thread, and their accuracy, paired. About 40 minutes on two quiet cores; started again, it goes on where it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accel.report import Estimate, Report
from experiment import Experiment, data_overrides, over_seeds, paired, parser, points, right, times

MACS = (60, 40, 25)
"""Percent of the multiply-adds that stay: the three settings."""

NETWORK = "fashion_cnn.py:fashion_separable"
MOST = 0.75
"""Of the channels of one layer, that may go in either arm."""


@dataclass(frozen=True)
class Study:
    """``steps``: of training after pruning, in both arms; ``base_steps``: of the network from nothing."""

    lab: Experiment
    shared: Path
    backend: str
    faster: float
    steps: int
    base_steps: int
    duration_s: float
    round_to: int

    def _words(self, name: str, seed: int, passes: Sequence[str], target: str) -> list[str]:
        data = data_overrides(self.shared / "data" / "fashion_mnist.npz", "training", "selection", "validation", "calibration")
        return [
            f"model.factory={NETWORK}",
            *data,
            f"passes=[{', '.join(passes)}]",
            f"targets=[{target}]",
            f"seed={seed}",
            f"name={name}",
        ]

    def _train(self, steps: int, lr: float) -> str:
        return f"{{type: finetune, train: {{steps: {steps}, lr: {lr}, augmentation: {{flip: true}}}}}}"

    def base(self) -> Path:
        """The weights of the network that both arms start from."""
        words = [
            "model.weights=null",
            *self._words("base", 0, [self._train(self.base_steps, 0.1)], "{name: torch, backend: eager}"),
        ]
        _, folder = self.lab.run("fashion_chain.yaml", words, benchmark=False)
        return folder / "targets" / "torch" / "model.safetensors"

    def quantized(self, name: str, weights: Path, seed: int, constraint: str | None) -> tuple[Report, Path]:
        """The report and the INT8 file of one arm; ``constraint`` None: the whole network, as it is."""
        rules = f"round_to: {self.round_to}, max_pruning_ratio: {MOST}"
        prune = [f"{{type: prune, {rules}, constraint: {constraint}}}", self._train(self.steps, 0.05)]
        passes = [
            *(prune if constraint else []),
            "{type: export_onnx}",
            "{type: quantize, approach: static, calibration: {num_samples: 512}}",
        ]
        words = self._words(name, seed, passes, f"{{name: cpu, backend: {self.backend}}}")
        report, folder = self.lab.run("fashion_chain.yaml", [f"model.weights={weights}", *words], benchmark=False)
        return report, folder / "targets" / "cpu" / "model.onnx"

    def ratio(self, slow: Path, fast: Path) -> Estimate:
        """How many times faster ``fast`` is than ``slow``; kept beside ``fast``."""
        kept = fast.parents[2].with_suffix(f".against_{slow.parents[2].name}.json")
        if not kept.exists():
            command = [sys.executable, "-m", "accel", "benchmark", str(fast), "--vs", str(slow), "--backend", self.backend]
            command += ["--threads", "1", "--batch-size", "1", "--duration", str(self.duration_s), "--json"]
            done = subprocess.run([*command, "--cache-dir", str(self.lab.cache)], check=True, capture_output=True, text=True)
            kept.write_text(done.stdout, encoding="utf-8")
        rows = json.loads(kept.read_text(encoding="utf-8"))["rows"]
        row = next(row for row in rows if str(fast) in row["name"])
        return Estimate(**next(one["ratio"] for one in row["speedups"] if str(slow) in one["vs"]))


def study(chosen: Study, seeds: Sequence[int], settings: Sequence[int]) -> tuple[list[str], list[dict[str, Any]]]:
    """The table and its figures."""
    with np.load(chosen.shared / "data" / "fashion_mnist.npz") as data:
        images = data["test_images"][:, None].astype(np.float32) / 255
        labels = data["test_labels"]
    weights = chosen.base()
    _, whole = chosen.quantized("whole", weights, 0, None)
    start = right(whole, images, labels)
    said = [
        "| macs | seed | by macs: top-1, speed | by latency_ms: top-1, speed | faster than by macs | more accurate |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    figures: list[dict[str, Any]] = []
    for percent in settings:
        gains, changes = [], []
        first: float | None = None
        for seed in seeds:
            _, by_macs = chosen.quantized(f"macs_{percent}_{seed}", weights, seed, f'{{macs: "{percent}%"}}')
            speed_macs = chosen.ratio(whole, by_macs)
            first = first or speed_macs.value  # one goal for all seeds: weights differ, shapes do not
            wanted = min(100 * chosen.faster / first, 95.0)  # narrow layers may run slower than whole ones
            goal = f'{{latency_ms: "{wanted:.1f}%", precision: int8}}'
            report, by_latency = chosen.quantized(f"latency_{percent}_{seed}", weights, seed, goal)
            gain, speed = chosen.ratio(by_macs, by_latency), chosen.ratio(whole, by_latency)
            rights = [right(file, images, labels) for file in (by_macs, by_latency)]
            change = paired(rights[1], rights[0])
            gains.append(gain.value)
            changes.append(change.value)
            cells = [f"{found.mean():.2%}, {times(fast)}" for found, fast in zip(rights, (speed_macs, speed), strict=True)]
            said.append(f"| {percent} % | {seed} | {cells[0]} | {cells[1]} | {times(gain)} | {points(change)} |")
            told = [note for step in report.steps if step.name == "prune" for note in step.notes]
            figures.append(
                {
                    "macs_percent": percent,
                    "seed": seed,
                    "goal": goal,
                    "top1": [float(found.mean()) for found in rights],
                    "faster_than_whole": [speed_macs.model_dump(), speed.model_dump()],
                    "faster_than_macs": gain.model_dump(),
                    "difference": change.model_dump(),
                    "prune": told,
                }
            )
        mean = over_seeds(gains)
        said.append(f"| **{percent} %** | **mean** | | | **{times(mean)}** | **{points(over_seeds(changes))}** |")
    whole_said = (
        f"Speed: against the whole network in INT8 ({start.mean():.2%}); {chosen.backend}, batch 1, one thread, in turns."
    )
    said += ["", whole_said, f"Accuracy: in points, paired over {len(labels):,} test images."]
    return said, figures


def main(arguments: Sequence[str] | None = None) -> None:
    words = parser(__doc__, "latency_against_macs")
    words.add_argument("--backend", choices=("onnxruntime", "openvino"), default="onnxruntime")
    words.add_argument("--faster", type=float, default=0.95, help="what latency_ms is asked for, of the macs arm's latency")
    words.add_argument("--steps", type=int, default=900, help="of training after pruning; both arms at most 3 minutes")
    words.add_argument("--base-steps", type=int, default=1500, help="of training the network from nothing")
    words.add_argument("--round-to", type=int, default=8, help="widths are multiples of it, in both arms")
    words.add_argument("--duration", type=float, default=3.0, help="seconds timed for each file of a comparison")
    words.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    words.add_argument("--macs", type=int, nargs="+", default=list(MACS), help="percent of multiply-adds that stay")
    chosen = words.parse_args(arguments)
    steps, base_steps, duration = (4, 8, 0.2) if chosen.quick else (chosen.steps, chosen.base_steps, chosen.duration)
    lab = Experiment.chosen(chosen)
    asked = Study(lab, chosen.shared, chosen.backend, chosen.faster, steps, base_steps, duration, chosen.round_to)
    table, figures = study(asked, chosen.seeds, chosen.macs)
    asked.lab.keep(
        "latency_against_macs",
        {"backend": chosen.backend, "round_to": chosen.round_to, "faster": chosen.faster, "runs": figures},
        table,
    )


if __name__ == "__main__":
    main()
