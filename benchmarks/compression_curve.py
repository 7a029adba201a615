"""Size, speed and accuracy of the CIFAR-10 chains, and of the whole network trained as much longer: one table for each network.

    python benchmarks/compression_curve.py resnet20
    python benchmarks/compression_curve.py resnet56        # trains the baseline first, unless --output holds it

Hours for each: one setting of resnet20 took 95 minutes on one core, the tuning of resnet56 48. What is done stays
done: started again after it was ended, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.report import Estimate, Report, Row
from experiment import Experiment, data_overrides, parser, points, times, training_s

STREAM = r"conv1: 0, layer\d\.\d\.conv2: 0"
SETTINGS = {
    "larger": rf"{{{STREAM}, layer1\.\d\.conv1: 0, layer2\.\d\.conv1: 0.5, layer3\.\d\.conv1: 0.625}}",
    "": None,  # the recipe's own
    "smaller": rf"{{{STREAM}, layer1\.\d\.conv1: 0.5, layer2\.\d\.conv1: 0.75, layer3\.\d\.conv1: 0.75}}",
}
STRIPPED = "passes=[{type: export_onnx}, {type: simplify, short_names: true}]"
FEW = (
    "benchmark.min_duration_s=0.1",
    "benchmark.max_duration_s=1",
    "report.roofline=false",
    "report.layers=false",
    "benchmark.min_iterations=20",
    "data.validation.num_samples=200",
)


@dataclass(frozen=True)
class Line:
    """One setting on one engine. ``against``: how often faster than the faster FP32 engine of its own run."""

    setting: str
    engine: str
    row: Row
    against: Estimate | None
    minutes: float


def steps(*counts: tuple[int, int]) -> list[str]:
    """Overrides that train pass ``index`` for a few steps instead of epochs."""
    return [
        word for index, count in counts for word in (f"passes.{index}.train.epochs=null", f"passes.{index}.train.steps={count}")
    ]


def lines(setting: str, report: Report) -> list[Line]:
    """The results of a run, each beside the FP32 baseline that was faster there."""
    plain = {row.name for row in report.rows if row.role == "baseline"}
    found = []
    for row in report.rows:
        if row.role == "result":
            ratios = [speedup.ratio for speedup in row.speedups if speedup.vs in plain]
            against = min(ratios, key=lambda ratio: ratio.value, default=None)
            found.append(Line(setting, row.backend, row, against, training_s(report) / 60))
    return found


def rendered(found: Sequence[Line], whole_bytes: int, last: Report) -> list[str]:
    """The Markdown table."""
    said = [
        "| setting | engine | top-1 (paired difference) | p50 | against the faster FP32 engine | bytes | smaller | minutes |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in found:
        metric, latency, size = line.row.metrics[0], line.row.latency, line.row.size_bytes or 0
        assert latency is not None
        change = metric.difference
        if change is not None and change.low is not None and change.high is not None:
            change = Estimate(value=100 * change.value, low=100 * change.low, high=100 * change.high)
        said.append(
            f"| {line.setting} | {line.engine} | {metric.value:.2%} {points(change)} | {latency.p50_ms:.3f} ms "
            f"| {times(line.against)} | {size:,} | {whole_bytes / size:.2f}x | {line.minutes:.0f} |"
        )
    machine = last.environment
    noise = "" if last.noise is None else f" A/A pair of the last run: {times(last.noise.ratio)}, {last.noise.verdict}."
    files = f"FP32 file, stripped alike: {whole_bytes:,} bytes. {machine.cpu}, {machine.cores} cores, 1 thread, batch 1"
    return [*said, "", f"{files}; {metric.n:,} validation samples; differences in points.{noise}"]


def resnet20(lab: Experiment, shared: Path, *, quick: bool) -> None:
    data = data_overrides(shared / "data" / "cifar10_jpeg.npz", "training", "selection", "validation", "calibration")
    weights = f"model.weights={shared / 'models' / 'cifar10_resnet20_jpegft.safetensors'}"
    found: list[Line] = []
    for setting, ratios in SETTINGS.items():
        name = "_".join(filter(None, ("cifar10_resnet20_chain", setting)))
        words = [weights, *data, f"name={name}", *([f"passes.0.pruning_ratio_dict={ratios}"] if ratios else [])]
        words += [*steps((1, 4), (2, 4)), *FEW] if quick else []
        report, _ = lab.run("cifar10_resnet20_chain.yaml", words, benchmark=True)
        found += lines(setting or "at the edge", report)
    words = [weights, *data[:3], *([*steps((0, 4)), *FEW] if quick else [])]
    report, _ = lab.run("cifar10_resnet20_longer.yaml", words, benchmark=True)
    found += lines("whole, FP32, trained longer", report)
    keep(lab, "resnet20", found, found[-1].row.size_bytes or 0, report)


def resnet56(lab: Experiment, shared: Path, *, quick: bool) -> None:
    data = data_overrides(shared / "data" / "cifar10_jpeg.npz", "training", "validation", "calibration", "selection")
    public = f"model.weights={shared / 'models' / 'cifar10_resnet56.safetensors'}"
    words = [public, *data[:2], *([*steps((0, 4)), *FEW] if quick else [])]
    _, tuned = lab.run("cifar10_resnet56_tuned.yaml", words, benchmark=False)
    words = [f"model.weights={tuned / 'targets' / 'torch' / 'model.safetensors'}", *data]
    _, folder = lab.run("cifar10_resnet56_chain.yaml", [*words, STRIPPED, "name=resnet56_stripped"], benchmark=False)
    words += [*steps((2, 4), (3, 4)), *FEW, "data.selection.num_samples=50"] if quick else []
    report, _ = lab.run("cifar10_resnet56_chain.yaml", words, benchmark=True)
    size = (folder / "targets" / "onnxruntime-cpu" / "model.onnx").stat().st_size
    keep(lab, "resnet56", lines("chain", report), size, report)


def keep(lab: Experiment, name: str, found: Sequence[Line], whole_bytes: int, last: Report) -> None:
    figures: dict[str, Any] = {"fp32_bytes": whole_bytes, "lines": []}
    for line in found:
        against = None if line.against is None else line.against.model_dump()
        figures["lines"].append({"setting": line.setting, "minutes": line.minutes, "against": against, **line.row.model_dump()})
    lab.keep(name, figures, rendered(found, whole_bytes, last))


def main(arguments: Sequence[str] | None = None) -> None:
    words = parser(__doc__, "compression_curve")
    words.add_argument("network", choices=("resnet20", "resnet56"))
    chosen = words.parse_args(arguments)
    run = resnet20 if chosen.network == "resnet20" else resnet56
    run(Experiment.chosen(chosen), chosen.shared, quick=chosen.quick)


if __name__ == "__main__":
    main()
