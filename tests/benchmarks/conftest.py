from __future__ import annotations

import pytest

from accel.machine import Conditions, Environment, Peaks
from accel.report import (
    ClassDrop,
    DataUse,
    Differing,
    Estimate,
    Fidelity,
    File,
    Gate,
    Latency,
    Layer,
    McNemar,
    Metric,
    Noise,
    Point,
    Precision,
    Report,
    Roofline,
    Row,
    Sample,
    Source,
    Speedup,
    StepRecord,
    Verdict,
)


def row(name: str, role: str, backend: str, p50: float, **fields: object) -> Row:
    """A measured row with plausible figures."""
    content: dict[str, object] = {
        "name": name,
        "role": role,
        "backend": backend,
        "target": None if role == "reference" else backend,
        "precision": Precision(float_precision="fp32", quantized_operators=0, int8_operators=0, operators={"Conv": 17}),
        "metrics": [Metric(name="top1", value=0.985, n=1000)],
        "latency": Latency(
            batch_size=1,
            threads=1,
            queries=900,
            restarts=5,
            rounds=6,
            p50_ms=p50,
            p90_ms=p50 * 1.1,
            p99_ms=None,
            min_ms=p50 * 0.9,
        ),
        "size_bytes": 1_170_000,
        "gzip_bytes": 1_080_000,
        "compile_s": 0.2,
        "first_inference_ms": 4.2,
        "peak_memory_bytes": 120_000_000,
    }
    return Row.model_validate(content | fields)


def rows() -> list[Row]:
    return [
        row("digits", "reference", "eager", 3.1),
        row("digits-fp32", "baseline", "openvino", 0.9),
        row(
            "digits-int8",
            "result",
            "openvino",
            0.42,
            precision=Precision(float_precision="fp32", quantized_operators=17, int8_operators=16, operators={"Conv": 17}),
            metrics=[
                Metric(name="top1", value=0.981, n=1000, difference=Estimate(value=-0.004, low=-0.007, high=-0.001)),
                Metric(name="calibration_error", value=0.0123, n=1000, difference=Estimate(value=0.0011)),
            ],
            speedups=[
                Speedup(vs="digits", ratio=Estimate(value=7.4, low=7.2, high=7.6)),
                Speedup(vs="digits-fp32", ratio=Estimate(value=2.13, low=2.09, high=2.17)),
            ],
            fidelity=Fidelity(vs="digits", top1_agreement=0.995, sqnr_db=31.2, max_abs_difference=0.4),
            files=[File(path="model.onnx", bytes=300_000, gzip_bytes=280_000, sha256="ab" * 32)],
            size_bytes=300_000,
            gzip_bytes=280_000,
        ),
    ]


@pytest.fixture
def measured() -> list[Row]:
    return rows()


@pytest.fixture
def report() -> Report:
    return Report(
        accel_version="0.1.0",
        name="digits",
        created="2026-01-02T03:04:05Z",
        seed=7,
        recipe_sha256="cd" * 32,
        verdict=Verdict(text="2.13x faster", row="digits-int8"),
        environment=Environment(
            platform="Linux 6.1 x86_64",
            python="3.11.7",
            cpu="A CPU",
            isa_flags=["avx2", "avx512_vnni"],
            cores=2,
            memory_bytes=25_000_000_000,
            libraries={"openvino": "2026.4.1"},
            load_average=0.25,
        ),
        data=[DataUse(split="validation", source="digits.npz", samples=1000, digest="ef" * 8)],
        rows=rows(),
        noise=Noise(row="digits-int8", ratio=Estimate(value=1.001, low=0.995, high=1.007), verdict="quiet"),
        steps=[
            StepRecord(
                target="openvino",
                name="quantize/static/nncf",
                settings={"num_samples": 300, "ignored_scope": {"names": ["fc"]}},
                key="k1",
                seconds=4.2,
                cached=False,
                notes=["fc kept in FP32: named in ignored_scope"],
            )
        ],
        notes=["one note"],
        warnings=["one warning"],
        method={"scenario": "single-stream", "turn_s": 0.1, "percentiles": (50, 90)},
        deployment={"openvino": "import openvino\nprint('hello')\n"},
    )


def gate(name: str = "top1 openvino", verdict: str = "pass", *, failed: bool = False, **fields: object) -> Gate:
    """One gate on the result."""
    content: dict[str, object] = {
        "name": name,
        "metric": "top1",
        "kind": "accuracy",
        "target": "openvino",
        "row": "digits-int8",
        "vs": "digits-fp32",
        "limit": "at most 1.00 points below digits-fp32",
        "found": Estimate(value=-0.4, low=-0.7, high=-0.1),
        "verdict": verdict,
        "failed": failed,
        "text": f"top-1 fell by 0.40 points (CI 0.10 to 0.70): {verdict}",
        "line": 7,
        "column": 3,
    }
    return Gate.model_validate(content | fields)


@pytest.fixture
def full_report(report: Report) -> Report:
    """A report in which every field is filled."""
    faster = [Speedup(vs="digits-fp32", ratio=Estimate(value=1.9, low=1.8, high=2.0))]
    result = report.rows[2].model_copy(
        update={
            "metrics": [
                report.rows[2]
                .metrics[0]
                .model_copy(
                    update={
                        "bootstrap": Estimate(value=-0.004, low=-0.008, high=0.0),
                        "mcnemar": McNemar(gained=2, lost=6, p_value=0.289),
                    }
                )
            ],
            "points": [
                Point(
                    scenario="offline",
                    batch_size=8,
                    threads=2,
                    streams=1,
                    samples_per_query=800,
                    queries=40,
                    restarts=5,
                    throughput_per_s=Estimate(value=4321.0, low=4200.0, high=4400.0),
                    speedups=faster,
                ),
                Point(
                    scenario="server",
                    batch_size=1,
                    threads=1,
                    pinned=[0],
                    samples_per_query=1,
                    queries=9000,
                    restarts=5,
                    p50_ms=0.5,
                    p99_ms=4.1,
                    rate_per_s=Estimate(value=900.0),
                    bound_ms=4.2,
                ),
                Point(
                    scenario="multi_stream",
                    batch_size=1,
                    threads=1,
                    samples_per_query=8,
                    queries=0,
                    restarts=0,
                    reason="the file has a batch of one",
                ),
            ],
            "roofline": Roofline(
                macs=40_600_000, bytes=1_300_000, bound_ms=0.2, share=0.476, compute_share=0.8, uncounted=["Odd"]
            ),
            "layers": [
                Layer(name="conv1", kind="Convolution", nodes=["conv1/Conv"], precision="int8", ms=0.2),
                Layer(name="fc", kind="FullyConnected", nodes=["fc/Gemm"], precision="fp32", ms=0.1),
                Layer(name="out", kind="Result", nodes=[], precision="fp32"),
            ],
            "classes": [ClassDrop(label=3, n=100, value=0.9, reference=0.95)],
            "differing": [Differing(sample=12, predicted=3, reference=8, distance=0.91)],
        }
    )
    return report.model_copy(
        update={
            "rows": [*report.rows[:2], result],
            "gates": [gate(), gate("p50 openvino", "pass", metric="latency_p50", kind="latency")],
            "conditions": Conditions(seconds=31.0, others_share=0.02, drift=1.004, problems=["the machine was busy"]),
            "peaks": Peaks(
                threads=1, fp32_gops=110.0, int8_gops=430.0, bandwidth_gb_s=11.5, cache_gb_s=40.0, measured="2026-01-02"
            ),
            "samples": [Sample(index=12, label=8)],
            "classes": [f"digit {label}" for label in range(10)],
            "recipe": "models/recipe.yaml",
            "source": Source(commit="0123abc", dirty=True),
        }
    )
