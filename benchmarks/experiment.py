"""What the scripts beside this file share: runs of recipes that are kept and taken up again, and answers of ONNX files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from accel import catalog, onnx_file
from accel.benchmarks.accuracy import tango
from accel.benchmarks.student import quantile
from accel.display import display
from accel.errors import UsageError
from accel.model import Target
from accel.pipeline import optimize
from accel.recipe.reader import read
from accel.report import Estimate, Report
from accel.report import read as read_report
from accel.store import digest_of

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
TRAINING = ("finetune", "distill", "quantize/qat", "prune")

Right = NDArray[np.bool_]
"""(samples,): which ones a file names as they are labelled."""


@dataclass(frozen=True)
class Experiment:
    """``output``: where runs, tables and figures go. ``cache``: the store of finished steps."""

    output: Path
    cache: Path

    @classmethod
    def chosen(cls, arguments: argparse.Namespace) -> Experiment:
        output = arguments.output.absolute()
        return cls(output, (arguments.cache_dir or output / "cache").absolute())

    def run(self, recipe: str, overrides: Sequence[str], *, benchmark: bool) -> tuple[Report, Path]:
        """The report and the folder of ``recipe`` with ``overrides``: of an earlier run, where that was the same and is whole.

        A run that was ended in the middle goes on at its last checkpoint.
        """
        chosen = read(RECIPES / recipe, overrides)
        folder = self.output / chosen.name
        try:
            report = read_report(folder / "report.json")
        except UsageError:
            report = None
        whole = {"measured"} if benchmark else {"measured", "built"}
        if (
            report is None
            or report.recipe_sha256 != digest_of(chosen.document())
            or {row.status for row in report.rows} - whole
        ):
            say(f"== {chosen.name}")
            screen = display(Console(stderr=True), quiet=False)
            report = optimize(chosen, cache_dir=self.cache, output_dir=self.output, benchmark=benchmark, screen=screen)
        return report, folder

    def keep(self, name: str, figures: Mapping[str, Any], table: Sequence[str]) -> None:
        """``name.json`` and ``name.md``; the table is printed."""
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        text = "\n".join(table) + "\n"
        (self.output / f"{name}.md").write_text(text, encoding="utf-8")
        sys.stdout.write(text)


QUICK = "a few steps of everything, to see that it runs; figures mean nothing"


def parser(description: str | None, output: str, quick: str = QUICK) -> argparse.ArgumentParser:
    """With the options that all scripts have. ``quick``: what ``--quick`` says of itself."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--shared", type=Path, default=RECIPES.parents[1] / "shared", help="the folder with data/ and models/")
    made.add_argument("--output", type=Path, default=RECIPES / "out" / output, help="runs, figures and tables go there")
    made.add_argument("--cache-dir", type=Path, help="the store of finished steps; by default below --output")
    made.add_argument("--quick", action="store_true", help=quick)
    return made


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def data_overrides(file: Path, *splits: str) -> list[str]:
    """For recipes whose data are arrays of one ``file``."""
    if not file.is_file():
        raise UsageError(f"{file}: there is no such file; --shared names the folder with data/ and models/")
    return [f"data.{split}.arrays.path={file}" for split in splits]


def training_s(report: Report, *names: str) -> float:
    """Seconds that the steps ``names`` (by default all that prune or train) took when they ran, once for all targets."""
    steps = {step.key: step.seconds for step in report.steps if step.name in (names or TRAINING)}
    return sum(steps.values())


def right(file: Path, images: NDArray[np.float32], labels: NDArray[Any]) -> Right:
    """What ``file`` names right, by ONNX Runtime; ``images``: (n, c, h, w) as the model takes them."""
    model = onnx_file.read(file)
    name = model.signature.inputs[0].name
    with catalog.backend("onnxruntime").compile(model, Target("score", "onnxruntime"), file.parent) as runner:
        parts = [runner({name: images[start : start + 250]})[0].argmax(1) for start in range(0, len(images), 250)]
    return np.asarray(np.concatenate(parts) == labels)


def paired(first: Right, second: Right) -> Estimate:
    """``first`` minus ``second`` in points, with Tango's interval."""
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    low, high = tango(gained, lost, len(first))
    return Estimate(value=100 * (gained - lost) / len(first), low=100 * low, high=100 * high)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Their mean, with Student's interval over seeds where there are several."""
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    if len(found) < 2:
        return Estimate(value=mean)
    half = quantile(0.95, len(found) - 1) * float(found.std(ddof=1)) / float(np.sqrt(len(found)))
    return Estimate(value=mean, low=mean - half, high=mean + half)


def points(estimate: Estimate | None) -> str:
    """``-0.42 (CI -0.90 to +0.06)``, of points already."""
    if estimate is None:
        return "–"
    interval = "" if estimate.low is None or estimate.high is None else f" (CI {estimate.low:+.2f} to {estimate.high:+.2f})"
    return f"{estimate.value:+.2f}{interval}"


def times(estimate: Estimate | None) -> str:
    """``2.98x (CI 2.96 to 3.01)``."""
    if estimate is None:
        return "–"
    interval = "" if estimate.low is None or estimate.high is None else f" (CI {estimate.low:.2f} to {estimate.high:.2f})"
    return f"{estimate.value:.2f}x{interval}"
