"""all-MiniLM-L6-v2 in INT8 and INT4: accel's recipes beside each library's own call with its own defaults, all in one run.

    python recipes/fetch_minilm.py
    python benchmarks/minilm_against_libraries.py [--quick]

Every file is made from one exported FP32 model and scored on the 1,000 sentences of the recipes: mean cosine to the FP32
vectors, median latency of one sentence in interleaved turns, size. Below --output: minilm.md, minilm.json and report.html.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from accel import telemetry
from accel.atomic import write
from accel.benchmarks import figures, renderings
from accel.benchmarks.environment import describe
from accel.benchmarks.verdict import compared, own_baseline, verdict
from accel.compress.export_onnx import ExportOnnx
from accel.compress.quiet_library import quiet
from accel.contracts import Job
from accel.display import display
from accel.errors import AccelError, UsageError
from accel.imports import ImportPolicy
from accel.measuring import Bench, Measured
from accel.model import Target
from accel.rebuilding import make_task, untouched_module
from accel.recipe.reader import read
from accel.recipe.settings import Recipe
from accel.report import Report, Row
from accel.rows import Subject
from accel.store import Store
from accel.timed_inputs import Sample
from experiment import RECIPES, Experiment, parser, say

OURS = (
    ("accel INT8, dynamic", "minilm.yaml", ()),
    (
        "accel INT8 weights",
        "minilm_int4.yaml",
        ("name=minilm_int8", "passes.1.weights={dtype: int8, algorithm: rtn}", "gates=[]"),
    ),
    ("accel INT4 weights", "minilm_int4.yaml", ()),
)
"""Name of the rows, recipe and overrides."""


def ort_dynamic(fp32: Path, path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(fp32, path)


def ort_blocks(bits: int) -> Callable[[Path, Path], None]:
    def make(fp32: Path, path: Path) -> None:
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(onnx.load(fp32), bits=bits)
        quantizer.process()
        onnx.save(quantizer.model.model, path)

    return make


def nncf_weights(mode: str) -> Callable[[Path, Path], None]:
    def make(fp32: Path, path: Path) -> None:
        import nncf
        import openvino

        model = nncf.compress_weights(openvino.convert_model(fp32), mode=nncf.CompressWeightsMode[mode])
        openvino.save_model(model, path, compress_to_fp16=False)

    return make


THEIRS: tuple[tuple[str, str, str, Callable[[Path, Path], None]], ...] = (
    ("ONNX Runtime quantize_dynamic", "onnxruntime", "ort_dynamic.onnx", ort_dynamic),
    ("ONNX Runtime MatMulNBits, 8 bits", "onnxruntime", "ort_8.onnx", ort_blocks(8)),
    ("ONNX Runtime MatMulNBits, 4 bits", "onnxruntime", "ort_4.onnx", ort_blocks(4)),
    ("NNCF compress_weights, INT8", "openvino", "nncf_8.xml", nncf_weights("INT8_ASYM")),
    ("NNCF compress_weights, INT4", "openvino", "nncf_4.xml", nncf_weights("INT4_ASYM")),
)
"""Name of the row, runtime, file and call."""


def subjects(lab: Experiment, recipe: Recipe) -> list[Subject]:
    """FP32 on both runtimes, then the libraries' files, then accel's."""
    place = lab.output / "files"
    place.mkdir(parents=True, exist_ok=True)
    policy = ImportPolicy(recipe.folder)
    fp32 = ExportOnnx()(untouched_module(recipe, policy), Job.local(place)).path
    threads, batch = recipe.benchmark.threads[0], recipe.benchmark.batch_sizes[0]

    def row(name: str, role: Any, backend: str, path: Path, target: str | None = None) -> Subject:
        runs_on = Target(target or name, backend, threads=threads, batch=batch)
        return Subject(name, role, target, runs_on, {"kind": "onnx", "path": str(path)}, path.parent, main=path)

    found = [row(f"FP32 on {backend}", "baseline", backend, fp32) for backend in ("onnxruntime", "openvino")]
    for name, backend, file, make in THEIRS:
        say(f"== {name}")
        with quiet():
            make(fp32, place / file)
        found.append(row(name, "baseline", backend, place / file))
    for name, file, overrides in OURS:
        chosen = [*_weights(recipe), *overrides]
        _, folder = Experiment(lab.output / "runs", lab.cache).run(file, chosen, benchmark=False)
        for target in read(RECIPES / file, chosen).targets_resolved():
            path = folder / "targets" / target.name / "model.onnx"
            found.append(row(f"{name}, {target.backend}", "result", target.backend, path, target.name))
    return found


def _weights(recipe: Recipe) -> list[str]:
    return [f"model.weights={recipe.folder / str(recipe.model.weights)}"]


def measured(lab: Experiment, recipe: Recipe, rows: Sequence[Subject]) -> Measured:
    """All of ``rows`` in turn, timed on the first calibration sentence."""
    task = make_task(recipe, ImportPolicy(recipe.folder))
    if task is None:
        raise UsageError(f"{recipe.path}: has no data")
    sample = lab.output / "sample.npz"
    np.savez(sample, **dict(next(iter(task.calibration())).inputs))  # type: ignore[arg-type]
    store = Store(lab.cache)
    store.open()
    with ExitStack() as stack:
        bench = Bench(
            recipe.benchmark,
            document=recipe.document(),
            path=recipe.path,
            allowed=(),
            folder=stack.enter_context(store.run_folder()),
            sample=Sample(str(sample), recipe.benchmark.batch_sizes[0], recipe.seed),
            screen=stack.enter_context(display(Console(stderr=True), quiet=False)),
            store=store.folder,
        )
        return bench.measure(rows)


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown: one line a row, speed against FP32 on the same runtime."""
    lines = [
        "| file | runtime | mean cosine | same nearest | p50 | against FP32 there | size |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        close = row.fidelity
        cosine = figures.cosine(close).removeprefix("cosine ") or figures.NONE
        share = None if close is None else close.nearest_agreement
        nearest = figures.NONE if share is None else f"{100 * share:.1f} %"
        speed = figures.speed(compared(row, own_baseline(row.model_copy(update={"target": None}), rows)))
        cells = [row.name, row.backend, cosine, nearest, figures.p50(row.latency), speed, figures.size(row.size_bytes)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    words = parser(__doc__, "minilm", quick="short turns and 100 sentences, to see that it runs; figures mean nothing")
    chosen = words.parse_args(arguments)
    telemetry.switch_off()
    lab = Experiment.chosen(chosen)
    quick = ["benchmark={min_duration_s: 0.2, min_iterations: 20, max_duration_s: 1}", "data.validation.num_samples=100"]
    recipe = read(RECIPES / "minilm.yaml", quick if chosen.quick else [])
    rows = subjects(lab, recipe)
    found = measured(lab, recipe, [replace(each, notes=()) for each in rows])
    report = Report(
        accel_version=version("accel-toolkit"),
        name="minilm",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=recipe.seed,
        recipe_sha256=None,
        verdict=verdict(found.rows, found.noise),
        environment=describe(),
        rows=list(found.rows),
        noise=found.noise,
        conditions=found.conditions,
        warnings=list(found.warnings),
        method=dict(found.method),
    )
    for name, text in renderings.files(("json", "html"), report):
        write(lab.output / name, text)
    lab.keep("minilm", {"rows": [row.model_dump(mode="json") for row in found.rows]}, table(found.rows))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AccelError as error:
        say(f"minilm: {error}")
        sys.exit(error.exit_code)
