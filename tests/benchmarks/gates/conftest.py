"""Reports with the few figures that gates and comparisons look at."""

from __future__ import annotations

from typing import Any

import pytest

from accel.machine import Environment
from accel.report import (
    DataUse,
    Estimate,
    Fidelity,
    File,
    Latency,
    Metric,
    Point,
    Precision,
    Report,
    Row,
    Speedup,
    Verdict,
)

SAMPLES = 10_000


class Make:
    """Makes reports and their parts."""

    @staticmethod
    def estimate(value: float, half: float) -> Estimate:
        return Estimate(value=value, low=value - half, high=value + half)

    @staticmethod
    def latency(p50: float, **fields: Any) -> Latency:
        given = {
            "batch_size": 1,
            "threads": 1,
            "queries": 2000,
            "restarts": 5,
            "rounds": 6,
            "p50_ms": p50,
            "p90_ms": p50 * 1.1,
            "p99_ms": p50 * 1.5,
            "min_ms": p50 * 0.9,
            "p50_low_ms": p50 * 0.98,
            "p50_high_ms": p50 * 1.02,
            "quantiles_ms": [p50 * (0.9 + 0.006 * percent) for percent in range(101)],
        }
        return Latency.model_validate(given | fields)

    @staticmethod
    def precision(ran: int, quantized: int = 16) -> Precision:
        return Precision(float_precision="fp32", quantized_operators=quantized, int8_operators=ran, operators={"Conv": 16})

    @staticmethod
    def result(**fields: Any) -> Row:
        """INT8 on OpenVINO: twice as fast as its baseline, a quarter of its size, 0.4 points below the reference."""
        given: dict[str, Any] = {
            "name": "ov",
            "role": "result",
            "target": "ov",
            "backend": "openvino",
            "precision": Make.precision(16),
            "metrics": [
                Metric(name="top1", value=0.916, n=SAMPLES, difference=Make.estimate(-0.004, 0.002)),
                Metric(name="net.py:loss", value=0.3, n=SAMPLES, higher_is_better=False, difference=Make.estimate(0.01, 0.005)),
            ],
            "latency": Make.latency(0.5),
            "speedups": [
                Speedup(vs="eager fp32", ratio=Make.estimate(6.0, 0.1)),
                Speedup(vs="ov fp32 baseline", ratio=Make.estimate(2.0, 0.04)),
            ],
            "fidelity": Fidelity(vs="eager fp32", top1_agreement=0.99, sqnr_db=30.0, max_abs_difference=0.4),
            "files": [File(path="model.onnx", bytes=300, gzip_bytes=280, sha256="ab" * 32)],
            "size_bytes": 300_000,
            "gzip_bytes": 280_000,
            "compile_s": 0.5,
            "first_inference_ms": 4.0,
            "peak_memory_bytes": 100_000_000,
        }
        return Row.model_validate(given | fields)

    @staticmethod
    def baseline(**fields: Any) -> Row:
        given: dict[str, Any] = {
            "name": "ov fp32 baseline",
            "role": "baseline",
            "target": "ov",
            "backend": "openvino",
            "precision": Make.precision(0, 0),
            "metrics": [
                Metric(name="top1", value=0.92, n=SAMPLES, difference=Make.estimate(0.0, 0.0004)),
                Metric(name="net.py:loss", value=0.29, n=SAMPLES, higher_is_better=False, difference=Make.estimate(0.0, 0.001)),
            ],
            "latency": Make.latency(1.0),
            "speedups": [Speedup(vs="eager fp32", ratio=Make.estimate(3.0, 0.05))],
            "fidelity": Fidelity(vs="eager fp32", top1_agreement=1.0, sqnr_db=110.0, max_abs_difference=1e-6),
            "size_bytes": 1_200_000,
            "gzip_bytes": 1_100_000,
            "compile_s": 0.4,
            "first_inference_ms": 5.0,
            "peak_memory_bytes": 120_000_000,
        }
        return Row.model_validate(given | fields)

    @staticmethod
    def reference(**fields: Any) -> Row:
        given: dict[str, Any] = {
            "name": "eager fp32",
            "role": "reference",
            "backend": "eager",
            "metrics": [
                Metric(name="top1", value=0.92, n=SAMPLES),
                Metric(name="net.py:loss", value=0.29, n=SAMPLES, higher_is_better=False),
            ],
            "latency": Make.latency(3.0),
            "speedups": [Speedup(vs="ov fp32 baseline", ratio=Make.estimate(1 / 3, 0.006))],
            "peak_memory_bytes": 300_000_000,
        }
        return Row.model_validate(given | fields)

    @staticmethod
    def offline(throughput: float, ratio: float) -> Point:
        return Point(
            scenario="offline",
            batch_size=8,
            threads=1,
            samples_per_query=64,
            queries=20,
            restarts=5,
            throughput_per_s=Make.estimate(throughput, throughput * 0.02),
            speedups=[Speedup(vs="ov fp32 baseline", ratio=Make.estimate(ratio, ratio * 0.02))],
        )

    @staticmethod
    def report(*rows: Row, **fields: Any) -> Report:
        """``rows``: by default reference, baseline and result. ``cpu``, ``cores``, ``libraries``: of the machine."""
        machine = {name: fields.pop(name) for name in ("cpu", "cores", "libraries") if name in fields}
        given: dict[str, Any] = {
            "accel_version": "0.1.0",
            "name": "small",
            "created": "2026-01-02T03:04:05+00:00",
            "seed": 0,
            "recipe_sha256": "cd" * 32,
            "verdict": Verdict(text="2.00x faster", row="ov"),
            "environment": Environment.model_validate(
                {
                    "platform": "Linux",
                    "python": "3.11.7",
                    "cpu": "A CPU",
                    "isa_flags": ["avx2"],
                    "cores": 2,
                    "memory_bytes": 2**33,
                    "libraries": {"openvino": "2026.4.1", "torch": "2.13.0"},
                }
                | machine
            ),
            "data": [DataUse(split="validation", source="data.npz", samples=SAMPLES, digest="ef" * 16)],
            "rows": list(rows) or [Make.reference(), Make.baseline(), Make.result()],
        }
        return Report.model_validate(given | fields)


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()
