from __future__ import annotations

import pytest

from accel.machine import Environment
from accel.report import (
    DataUse,
    Estimate,
    Fidelity,
    File,
    Latency,
    Metric,
    Noise,
    Precision,
    Report,
    Row,
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
