"""Does a teacher pay for its own time? The same pruned network, trained with and without one for equal wall-clock time.

    python benchmarks/distill_against_finetune.py

Fashion-MNIST, three seeds, with all training images and with few of them. A teacher costs time, at each step or, where nothing
changes the images, once for each of them; so both arms are timed first, and each gets as many steps as fit into --seconds.
About 20 minutes on two quiet cores with the default of 60 s; started again after it was ended, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiment import Experiment, Right, data_overrides, over_seeds, paired, parser, points, right, say, training_s

ARMS = ("finetune", "distill")
TIMED = (930, 1390)
"""Steps of the two runs whose difference says what a step takes: two and three epochs of all images. What a run costs besides,
the teacher's answers included, is in both."""


@dataclass(frozen=True)
class Study:
    """``few``: training images of the second regime; the first has all 59,000."""

    lab: Experiment
    shared: Path
    ratio: float
    few: int
    seconds: float
    lr: float

    def arm(self, arm: str, steps: int, samples: int | None, seed: int, name: str) -> tuple[float, Path]:
        """Seconds of the training, and the file."""
        data = self.shared / "data" / "fashion_mnist.npz"
        losses = "" if arm == "finetune" else ", teacher: baseline"
        prune = f"{{type: prune, pruning_ratio: {self.ratio}, round_to: 4}}"
        train = f"train: {{steps: {steps}, lr: {self.lr}}}"
        words = [
            f"model.weights={self.shared / 'models' / 'fashion_cnn.safetensors'}",
            *data_overrides(data, "training", "selection", "validation", "calibration"),
            f"passes=[{prune}, {{type: {arm}{losses}, {train}}}, {{type: export_onnx}}]",
            "targets=[{name: onnxruntime-cpu, backend: onnxruntime}]",
            f"seed={seed}",
            f"name={name}",
            *([] if samples is None else [f"data.training.num_samples={samples}"]),
        ]
        report, folder = self.lab.run("fashion_chain.yaml", words, benchmark=False)
        return training_s(report, arm), folder / "targets" / "onnxruntime-cpu" / "model.onnx"

    def steps(self, arm: str) -> int:
        """How many fit into the budget."""
        short, long = (self.arm(arm, count, None, 0, f"timed_{arm}_{count}")[0] for count in TIMED)
        per_step = (long - short) / (TIMED[1] - TIMED[0])
        if per_step <= 0:
            raise SystemExit(
                f"{arm}: {TIMED} steps took {short:.1f} and {long:.1f} s; delete --output and run on a quiet machine"
            )
        fixed = max(0.0, short - TIMED[0] * per_step)
        found = max(1, round((self.seconds - fixed) / per_step))
        say(f"{arm}: {1e3 * per_step:.1f} ms a step, {found} steps in {self.seconds:g} s")
        return found


def study(chosen: Study, seeds: Sequence[int], counts: dict[str, int]) -> tuple[list[str], list[dict[str, Any]]]:
    """The table and its figures."""
    with np.load(chosen.shared / "data" / "fashion_mnist.npz") as data:
        images = data["test_images"][:, None].astype(np.float32) / 255
        labels = data["test_labels"]
    said = [
        "| training images | seed | fine-tuned (time, steps) | distilled (time, steps) | distilled minus fine-tuned, points |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    figures: list[dict[str, Any]] = []
    for samples in (None, chosen.few):
        differences: list[float] = []
        for seed in seeds:
            cells, rights = [], list[Right]()
            entry: dict[str, Any] = {"samples": samples or 59_000, "seed": seed}
            for arm in ARMS:
                name = f"{arm}_{samples or 'all'}_{seed}"
                seconds, file = chosen.arm(arm, counts[arm], samples, seed, name)
                rights.append(right(file, images, labels))
                entry[arm] = {"seconds": seconds, "steps": counts[arm], "top1": float(rights[-1].mean())}
                cells.append(f"{rights[-1].mean():.2%} ({seconds:.0f} s, {counts[arm]:,})")
            difference = paired(rights[1], rights[0])
            entry["difference"] = difference.model_dump()
            differences.append(difference.value)
            figures.append(entry)
            said.append(f"| {entry['samples']:,} | {seed} | {cells[0]} | {cells[1]} | {points(difference)} |")
        said.append(f"| **{entry['samples']:,}** | **mean** | | | **{points(over_seeds(differences))}** |")
    said += ["", f"Paired over {len(labels):,} test images (Tango); the mean's interval is Student's, over seeds."]
    return said, figures


def main(arguments: Sequence[str] | None = None) -> None:
    words = parser(__doc__, "distill_against_finetune")
    words.add_argument("--seconds", type=float, default=60.0, help="of training for each arm")
    words.add_argument("--ratio", type=float, default=0.6, help="of the channels that go before")
    words.add_argument("--few", type=int, default=2000, help="training images of the second regime")
    words.add_argument("--lr", type=float, default=0.05)
    words.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = words.parse_args(arguments)
    asked = Study(Experiment.chosen(chosen), chosen.shared, chosen.ratio, chosen.few, chosen.seconds, chosen.lr)
    counts = dict.fromkeys(ARMS, 5) if chosen.quick else {arm: asked.steps(arm) for arm in ARMS}
    table, figures = study(asked, chosen.seeds, counts)
    asked.lab.keep("distill_against_finetune", {"steps": counts, "runs": figures}, table)


if __name__ == "__main__":
    main()
