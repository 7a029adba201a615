"""Does a teacher pay for its own time? The same pruned network, trained with and without one for equal wall-clock time.

    python benchmarks/distill_against_finetune.py

Fashion-MNIST, three seeds, with all training images and with few of them. The network is first trained to where it gains no
more (--teacher-steps): one that was not is soon worse than its student. It is what is pruned and, as it is, what teaches.

A teacher costs time, at each step or, where nothing changes the images, once for each of them. What a step of each arm costs is
timed first, a few hundred of both in turn, and each arm gets as many as fit into --seconds: a machine that is slow for a while
then takes longer, and favours neither. About half an hour on two quiet cores with the default of 60 s; started again after it
was ended, it goes on where it was.
"""

from __future__ import annotations

import json
import runpy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from accel.compress.distill import DistillationLoss
from accel.compress.loss_settings import LossTerm
from accel.compress.prune import prune_channels
from accel.compress.training.device import native_bf16
from accel.compress.training.teacher_answers import MIN_EPOCHS
from experiment import RECIPES, Experiment, Right, data_overrides, over_seeds, paired, parser, points, right, say, training_s

ARMS = ("finetune", "distill")
ALL = 59_000
"""Training images of the recipe."""

TIMED = 200
"""Steps of each kind, in turn."""

BATCH = 128
"""As in the recipe."""


@dataclass(frozen=True)
class Costs:
    """Seconds: of a step without a teacher, of one that knows the teacher's answers, and of the teacher's for one batch."""

    finetune: float
    distill: float
    teacher: float

    def steps(self, seconds: float, images: int) -> dict[str, int]:
        """How many steps of each arm fit."""
        asked_once = int((seconds - self.teacher * images / BATCH) / self.distill)
        if asked_once * BATCH < MIN_EPOCHS * images:
            asked_once = int(seconds / (self.distill + self.teacher))
        return {"finetune": max(1, int(seconds / self.finetune)), "distill": max(1, asked_once)}


@dataclass(frozen=True)
class Study:
    """``teacher_steps``: of the network before it is pruned. ``few``: training images of the second regime; the first has all
    59,000. ``weight``: of the teacher's answers in the loss, at ``temperature``; the labels have the rest."""

    lab: Experiment
    shared: Path
    teacher_steps: int
    ratio: float
    few: int
    seconds: float
    lr: float
    weight: float
    temperature: float

    @property
    def terms(self) -> tuple[LossTerm, ...]:
        return LossTerm("logits", weight=self.weight, temperature=self.temperature), LossTerm("task", weight=1 - self.weight)

    def _data(self) -> list[str]:
        return data_overrides(self.shared / "data" / "fashion_mnist.npz", "training", "selection", "validation", "calibration")

    def teacher(self) -> tuple[Path, Path]:
        """The weights of the trained network, and its file."""
        train = f"{{steps: {self.teacher_steps}, lr: {self.lr}, augmentation: {{flip: true}}}}"
        words = [
            f"model.weights={self.shared / 'models' / 'fashion_cnn.safetensors'}",
            *self._data(),
            f"passes=[{{type: finetune, train: {train}}}, {{type: export_onnx}}]",
            "targets=[{name: torch, backend: eager}, {name: onnxruntime-cpu, backend: onnxruntime}]",
            "seed=0",
            "name=teacher",
        ]
        _, folder = self.lab.run("fashion_chain.yaml", words, benchmark=False)
        return folder / "targets" / "torch" / "model.safetensors", folder / "targets" / "onnxruntime-cpu" / "model.onnx"

    def arm(self, weights: Path, arm: str, steps: int, samples: int | None, seed: int, name: str) -> tuple[float, Path]:
        """Seconds of the training, and the file."""
        teacher = f"{{type: logits, weight: {self.weight}, temperature: {self.temperature}}}"
        terms = f"{teacher}, {{type: task, weight: {1 - self.weight:.6g}}}"
        losses = "" if arm == "finetune" else f", teacher: baseline, losses: [{terms}]"
        prune = f"{{type: prune, pruning_ratio: {self.ratio}, round_to: 4}}"
        train = f"train: {{steps: {steps}, lr: {self.lr}}}"
        words = [
            f"model.weights={weights}",
            *self._data(),
            f"passes=[{prune}, {{type: {arm}{losses}, {train}}}, {{type: export_onnx}}]",
            "targets=[{name: onnxruntime-cpu, backend: onnxruntime}]",
            f"seed={seed}",
            f"name={name}",
            *([] if samples is None else [f"data.training.num_samples={samples}"]),
        ]
        report, folder = self.lab.run("fashion_chain.yaml", words, benchmark=False)
        return training_s(report, arm), folder / "targets" / "onnxruntime-cpu" / "model.onnx"

    def measured_costs(self) -> Costs:
        """Taken once for an output folder, so that a study that was ended goes on with the same steps."""
        kept = self.lab.output / "costs.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(asdict(self.costs())) + "\n", encoding="utf-8")
        return Costs(**json.loads(kept.read_text(encoding="utf-8")))

    def costs(self) -> Costs:
        """Of the pruned network, on random images, with the recipe's losses."""
        teacher = runpy.run_path(str(RECIPES / "fashion_cnn.py"))["fashion_cnn"]().eval()
        images, labels = torch.rand(BATCH, 1, 28, 28), torch.arange(BATCH) % 10
        student = prune_channels(teacher, images[:2], pruning_ratio=self.ratio, round_to=4).train()
        optimizer = torch.optim.SGD(student.parameters(), lr=1e-4, momentum=0.9)
        bf16 = native_bf16(torch.device("cpu"))
        loss = DistillationLoss(self.terms, student, teacher, images[:2], teacher_dtype=torch.bfloat16 if bf16 else None)
        answers = loss.answers(images)
        assert answers is not None

        def step(with_teacher: bool) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                scores = student(images)
            if with_teacher:
                loss.recall(answers)
            value = loss(images, scores.float(), labels) if with_teacher else functional.cross_entropy(scores.float(), labels)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

        kinds: tuple[Callable[[], object], ...] = (lambda: step(False), lambda: step(True), lambda: loss.answers(images))
        taken = np.empty((TIMED, len(kinds)))
        for turn in range(TIMED):
            for index, kind in enumerate(kinds):
                began = time.perf_counter()
                kind()
                taken[turn, index] = time.perf_counter() - began
        found = Costs(*np.median(taken, axis=0).tolist())
        step_ms = [1e3 * value for value in asdict(found).values()]
        say("a step {:.1f} ms, distilled {:.1f} ms; the teacher's answers for a batch {:.1f} ms".format(*step_ms))
        return found


def study(chosen: Study, seeds: Sequence[int], costs: Costs | None) -> tuple[list[str], list[dict[str, Any]]]:
    """The table and its figures. ``costs`` None: a few steps each."""
    with np.load(chosen.shared / "data" / "fashion_mnist.npz") as data:
        images = data["test_images"][:, None].astype(np.float32) / 255
        labels = data["test_labels"]
    said = [
        "| training images | seed | fine-tuned (time, steps) | distilled (time, steps) | distilled minus fine-tuned, points |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    figures: list[dict[str, Any]] = []
    weights, whole = chosen.teacher()
    taught = right(whole, images, labels)
    for samples in (None, chosen.few):
        differences: list[float] = []
        counts = dict.fromkeys(ARMS, 5) if costs is None else costs.steps(chosen.seconds, samples or ALL)
        for seed in seeds:
            cells, rights = [], list[Right]()
            entry: dict[str, Any] = {"samples": samples or ALL, "seed": seed}
            for arm in ARMS:
                name = f"{arm}_{samples or 'all'}_{seed}"
                seconds, file = chosen.arm(weights, arm, counts[arm], samples, seed, name)
                rights.append(right(file, images, labels))
                entry[arm] = {"seconds": seconds, "steps": counts[arm], "top1": float(rights[-1].mean())}
                cells.append(f"{rights[-1].mean():.2%} ({seconds:.0f} s, {counts[arm]:,})")
            difference = paired(rights[1], rights[0])
            entry["difference"] = difference.model_dump()
            differences.append(difference.value)
            figures.append(entry)
            said.append(f"| {entry['samples']:,} | {seed} | {cells[0]} | {cells[1]} | {points(difference)} |")
        said.append(f"| **{entry['samples']:,}** | **mean** | | | **{points(over_seeds(differences))}** |")
    said += [
        "",
        f"Paired over {len(labels):,} test images (Tango); the mean's interval is Student's, over seeds.",
        f"The teacher, {chosen.teacher_steps:,} steps: {taught.mean():.2%}.",
    ]
    return said, figures


def main(arguments: Sequence[str] | None = None) -> None:
    words = parser(__doc__, "distill_against_finetune")
    words.add_argument("--seconds", type=float, default=60.0, help="of training for each arm")
    words.add_argument("--teacher-steps", type=int, default=6000, help="of the network before it is pruned")
    words.add_argument("--ratio", type=float, default=0.6, help="of the channels that go before")
    words.add_argument("--few", type=int, default=2000, help="training images of the second regime")
    words.add_argument("--lr", type=float, default=0.05)
    words.add_argument("--weight", type=float, default=0.9, help="of the teacher in the loss; the labels have the rest")
    words.add_argument("--temperature", type=float, default=4.0, help="of the teacher's answers")
    words.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = words.parse_args(arguments)
    asked = Study(
        Experiment.chosen(chosen),
        chosen.shared,
        5 if chosen.quick else chosen.teacher_steps,
        chosen.ratio,
        chosen.few,
        chosen.seconds,
        chosen.lr,
        chosen.weight,
        chosen.temperature,
    )
    costs = None if chosen.quick else asked.measured_costs()
    table, figures = study(asked, chosen.seeds, costs)
    told = None if costs is None else asdict(costs)
    asked.lab.keep("distill_against_finetune", {"seconds": asked.seconds, "costs": told, "runs": figures}, table)


if __name__ == "__main__":
    main()
