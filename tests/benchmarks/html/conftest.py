"""A report with everything that a page can show: ten measured rows, an unstable one among them, and three that are not."""

from __future__ import annotations

import math
import random
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

from accel.machine import Conditions, Environment, Peaks
from accel.report import (
    ClassDrop,
    DataUse,
    Differing,
    Estimate,
    Fidelity,
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

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
REFERENCE = "eager fp32"
FASTEST_FP32 = "openvino-cpu fp32 baseline"
BEST = "openvino-int8-pruned"
UNSTABLE = "onnxruntime-cpu-bf16"
# name, role, backend, precision, quantized operators, p50 in ms, top-1, bytes
ROWS = (
    (REFERENCE, "reference", "eager", "fp32", 0, 6.99, 0.9259, None),
    ("onnxruntime-cpu fp32 baseline", "baseline", "onnxruntime", "fp32", 0, 0.921, 0.9259, 1_092_000),
    (FASTEST_FP32, "baseline", "openvino", "fp32", 0, 0.871, 0.9259, 1_095_000),
    ("onnxruntime-cpu", "result", "onnxruntime", "fp32", 21, 0.348, 0.9241, 314_000),
    ("onnxruntime-cpu-dynamic", "result", "onnxruntime", "fp32", 1, 0.905, 0.9257, 902_000),
    (UNSTABLE, "result", "onnxruntime", "bf16", 0, 0.61, 0.9255, 553_000),
    ("openvino-cpu", "result", "openvino", "fp32", 21, 0.302, 0.9229, 311_000),
    ("openvino-cpu-mixed", "result", "openvino", "fp32", 17, 0.331, 0.9252, 389_000),
    (BEST, "result", "openvino", "fp32", 21, 0.184, 0.9214, 172_000),
    ("openvino-int4-experiment-with-a-rather-long-name", "result", "openvino", "fp32", 21, 0.241, 0.8933, 148_000),
)


def png(seed: int, side: int = 32) -> str:
    """A picture with a few soft shapes in it, as a data address."""
    draw = random.Random(seed)
    blobs = [(draw.random(), draw.random(), 0.1 + 0.3 * draw.random(), [draw.random() for _ in "rgb"]) for _ in range(5)]
    base = [draw.random() for _ in "rgb"]
    lines = []
    for y in range(side):
        line = bytearray([0])
        for x in range(side):
            pixel = list(base)
            for across, down, size, colour in blobs:
                near = math.exp(-(((x / side - across) ** 2 + (y / side - down) ** 2) / size**2) * 3)
                pixel = [before + (after - before) * near for before, after in zip(pixel, colour, strict=True)]
            line += bytes(int(255 * channel) & 0xF8 for channel in pixel)
        lines.append(bytes(line))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    image = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(lines), 9)) + chunk(b"IEND", b"")
    )
    return f"data:image/png;base64,{b64encode(image).decode()}"


def latency(draw: random.Random, p50: float, unstable: str | None = None) -> Latency:
    restarts = [round(p50 * (1 + draw.gauss(0, 0.006)), 6) for _ in range(6)]
    sample = sorted(
        p50 * (0.94 + draw.gammavariate(1.6, 0.045)) * (draw.choice([1, 1.35]) if draw.random() < 0.2 else 1)
        for _ in range(1500)
    )
    sample[-20:] = [value * 3 for value in sample[-20:]]
    quantiles = [round(sample[round(index * 14.99)], 6) for index in range(101)]
    return Latency(
        batch_size=1,
        threads=1,
        queries=5083,
        restarts=6,
        rounds=8,
        p50_ms=p50,
        p90_ms=round(p50 * 1.16, 4),
        p99_ms=round(p50 * 2.9, 4) if p50 < 5 else None,
        min_ms=round(p50 * 0.95, 4),
        p50_low_ms=round(p50 * 0.994, 6),
        p50_high_ms=round(p50 * 1.008, 6),
        restart_p50_ms=restarts,
        quantiles_ms=quantiles,
        unstable=unstable,
    )


def layers(draw: random.Random, quantized: int, p50: float) -> list[Layer]:
    found = []
    for index in range(64):
        kind = draw.choice(
            ["Convolution", "Convolution", "Convolution", "Add", "Relu", "Reorder", "Pooling", "MatMul", "Softmax"]
        )
        precision = "i8" if quantized > 5 and kind in ("Convolution", "Add", "MatMul") and draw.random() < 0.93 else "f32"
        ms = round(draw.expovariate(1) * p50 / 64 * (2.5 if kind == "Convolution" else 0.4), 6)
        block = f"layer{index // 22 + 1}.{index // 7 % 3}.conv{index % 2 + 1}"
        found.append(
            Layer(
                name=f"{block}/{kind}_{index}",
                kind=kind,
                precision=precision,
                ms=ms,
                nodes=[f"{block}/Conv", f"{block}/Relu", f"{block}/QuantizeLinear", f"{block}/Q2"][: 1 + index % 4],
            )
        )
    return found


def points(p50: float, ratio: float | None) -> list[Point]:
    vs = [] if ratio is None else [Speedup(vs=FASTEST_FP32, ratio=Estimate(value=ratio, low=ratio * 0.98, high=ratio * 1.02))]
    rate = 1000 / p50
    return [
        Point(
            scenario="multi_stream",
            batch_size=1,
            threads=1,
            samples_per_query=8,
            queries=700,
            restarts=5,
            p50_ms=8 * p50,
            p90_ms=8.6 * p50,
            p99_ms=11 * p50,
            speedups=vs,
        ),
        Point(
            scenario="offline",
            batch_size=8,
            threads=2,
            streams=2,
            pinned=[0, 1],
            samples_per_query=512,
            queries=30,
            restarts=5,
            throughput_per_s=Estimate(value=rate * 1.8, low=rate * 1.75, high=rate * 1.85),
            speedups=vs,
        ),
        Point(
            scenario="server",
            batch_size=1,
            threads=1,
            samples_per_query=1,
            queries=4000,
            restarts=5,
            p50_ms=p50 * 1.2,
            p90_ms=p50 * 2,
            p99_ms=4.8,
            bound_ms=5.0,
            rate_per_s=Estimate(value=rate * 0.6, low=rate * 0.55, high=rate * 0.63),
            speedups=vs,
            unstable="the highest rate moved by 31 % between restarts" if p50 < 0.2 else None,
        ),
        Point(
            scenario="offline",
            batch_size=64,
            threads=2,
            samples_per_query=512,
            queries=0,
            restarts=0,
            reason="the model's batch is fixed at 1",
        ),
    ]


def measured_row(index: int) -> Row:
    name, role, backend, floating, quantized, p50, top1, size = ROWS[index]
    draw = random.Random(index)
    change = top1 - ROWS[0][6]
    unstable = (
        "the median moved by 14 % between restarts, and other processes took 38 % of the cores" if name == UNSTABLE else None
    )
    width = 0.0004 + abs(change) * 0.35
    reference = role == "reference"
    metric = Metric(name="top1", value=top1, n=10_000)
    if not reference:
        metric = metric.model_copy(
            update={
                "difference": Estimate(value=change, low=change - width, high=change + width),
                "bootstrap": Estimate(value=change, low=change - 1.1 * width, high=change + width),
                "mcnemar": McNemar(gained=40, lost=40 + round(-change * 10_000), p_value=min(1.0, math.exp(change * 1500))),
            }
        )
    speedups = [
        Speedup(
            vs=other[0],
            ratio=Estimate(value=other[5] / p50, low=other[5] / p50 * 0.985, high=other[5] / p50 * 1.015),
            unstable=unstable,
        )
        for other in ROWS[:3]
        if other[0] != name
    ]
    ratio = None if name == FASTEST_FP32 else ROWS[2][5] / p50
    result = role == "result"
    return Row(
        name=name,
        role=role,
        target=None if reference else name.split()[0],
        backend=backend,
        precision=Precision(
            float_precision=floating, quantized_operators=quantized, int8_operators=quantized, operators={"Conv": 20}
        ),
        metrics=[metric],
        latency=latency(draw, p50, unstable),
        speedups=speedups,
        fidelity=None
        if reference
        else Fidelity(
            vs=REFERENCE,
            top1_agreement=1 + change * 2,
            sqnr_db=132.3 if not result else 34 + 300 * change,
            max_abs_difference=0.12,
        ),
        size_bytes=size,
        gzip_bytes=None if size is None else int(size * 0.88),
        compile_s=0.2,
        first_inference_ms=4.2 * p50,
        peak_memory_bytes=120_000_000 + index * 7_000_000,
        points=points(p50, ratio),
        roofline=Roofline(
            macs=40_813_184,
            bytes=1_900_000,
            bound_ms=p50 * (0.2 + 0.05 * index),
            share=0.2 + 0.05 * index,
            compute_share=0.83,
            uncounted=["Softmax"] if index % 2 else [],
        ),
        layers=layers(draw, quantized, p50),
        classes=sorted(
            (
                ClassDrop(label=label, n=1000, value=0.93 + change * draw.random() * 4, reference=0.93, significant=label == 9)
                for label in range(10)
            ),
            key=lambda found: found.value - found.reference,
        )
        if result
        else [],
        differing=[
            Differing(
                sample=100 + 7 * (index % 4) + 6 * place + index,
                predicted=draw.randrange(10),
                reference=place % 10,
                distance=round(0.95 - 0.11 * place - 0.01 * index, 4),
            )
            for place in range(6)
        ]
        if result
        else [],
    )


def rich_report() -> Report:
    rows = [measured_row(index) for index in range(len(ROWS))]
    rows.append(
        Row(
            name="tensorrt-gpu",
            role="result",
            target="tensorrt-gpu",
            backend="tensorrt",
            device="cuda",
            status="skipped",
            reason="no NVIDIA GPU is here, and the target is optional",
        )
    )
    rows.append(
        Row(
            name="openvino-npu",
            role="result",
            target="openvino-npu",
            backend="openvino",
            device="npu",
            status="failed",
            reason="compilation: RuntimeError: no device NPU; run `accel doctor` to see what is here",
        )
    )
    rows.append(
        Row(
            name="rtx-engine",
            role="result",
            target="rtx",
            backend="tensorrt-rtx",
            device="cuda",
            status="built",
            reason="an engine for compute capability 8.9 does not run here",
            size_bytes=911_000,
            gzip_bytes=640_000,
            compile_s=12.5,
        )
    )
    named = sorted({found.sample for row in rows for found in row.differing})
    return Report(
        accel_version="0.1.0",
        name="resnet20-cifar10",
        created="2026-11-23T12:06:34+00:00",
        seed=0,
        recipe_sha256="98a0" * 16,
        verdict=Verdict(
            text=f"4.73x faster (95 % CI 4.66 to 4.80), 6.4x smaller, top-1 -0.45 points (CI -0.65 to -0.25): {BEST} on "
            f"openvino/cpu against the fastest FP32 row ({FASTEST_FP32} on openvino/cpu); failed: openvino-npu",
            row=BEST,
        ),
        environment=Environment(
            platform="Linux 6.18 x86_64",
            python="3.11.7",
            cpu="AMD EPYC (family 26, model 2, stepping 1)",
            isa_flags=["avx2", "avx512f", "avx512_vnni", "avx512_bf16"],
            cores=2,
            memory_bytes=25_276_510_208,
            libraries={"torch": "2.13.0+cpu", "onnxruntime": "1.32.0", "openvino": "2026.4.1"},
            load_average=2.01,
        ),
        data=[DataUse(split="validation", source="test_batch.bin", samples=10_000, digest="a301" * 16)],
        rows=rows,
        gates=[
            Gate(
                name="top1 on openvino-cpu",
                metric="top1",
                kind="accuracy",
                target="openvino-cpu",
                row="openvino-cpu",
                vs=REFERENCE,
                limit="at most 1 point lower",
                found=Estimate(value=0.30, low=0.15, high=0.45),
                verdict="pass",
                failed=False,
                text="top-1 is 0.30 points lower (CI 0.15 to 0.45), allowed is 1",
                line=41,
                column=5,
            ),
            Gate(
                name="p50 on openvino-cpu",
                metric="latency_p50",
                kind="latency",
                target="openvino-cpu",
                row="openvino-cpu",
                vs=FASTEST_FP32,
                limit="at least 3 times as fast",
                found=Estimate(value=2.88, low=2.84, high=2.93),
                verdict="fail",
                failed=True,
                text="2.88x as fast (CI 2.84 to 2.93), asked for is 3x",
                line=44,
                column=5,
            ),
            Gate(
                name="size on onnxruntime-cpu",
                metric="size",
                kind="size",
                row="onnxruntime-cpu",
                limit="at most 350 kB",
                found=Estimate(value=314.0),
                verdict="pass",
                failed=False,
                text="314 kB, allowed are 350 kB",
                line=47,
                column=5,
            ),
            Gate(
                name="p50 on onnxruntime-cpu-bf16",
                metric="latency_p50",
                kind="latency",
                row=UNSTABLE,
                vs=FASTEST_FP32,
                limit="at least 1.2 times as fast",
                verdict="inconclusive",
                failed=False,
                text="the latency is unstable",
                line=50,
                column=5,
            ),
        ],
        noise=Noise(row=BEST, ratio=Estimate(value=1.001, low=0.996, high=1.006), verdict="quiet"),
        conditions=Conditions(
            seconds=71.3,
            others_share=0.12,
            steal_share=0.002,
            throttled_s=0.0,
            clock_mhz_before=3391,
            clock_mhz_after=3388,
            drift=1.004,
            problems=["other processes took 12 % of the cores"],
        ),
        peaks=Peaks(
            threads=1,
            fp32_gops=102.4,
            bf16_gops=198.0,
            int8_gops=401.5,
            bandwidth_gb_s=14.2,
            cache_gb_s=96.0,
            cache_bytes=32 << 20,
            measured="2026-11-20",
            kernels={"fp32": "openvino MatMul 512x512x512", "int8": "onnxruntime QLinearMatMul", "bandwidth": "copy of 256 MB"},
        ),
        samples=[Sample(index=index, label=index % 10, thumbnail=png(index)) for index in named],
        classes=CLASSES,
        recipe="recipes/resnet20.yaml",
        source=Source(commit="bd5c324" + "0" * 33, dirty=True),
        steps=[
            StepRecord(
                target="openvino-cpu",
                name=name,
                settings={"num_samples": 300, "names": ["fc"]},
                key="k",
                seconds=3.1 + place,
                cached=place == 0,
                notes=["fc kept in FP32: named in ignored_scope"] if place == 2 else [],
            )
            for place, name in enumerate(("export_onnx", "simplify", "quantize/static/nncf"))
        ],
        notes=["the baseline of onnxruntime-cpu is shared by two targets"],
        warnings=["openvino-npu failed, its row has no figures", "onnxruntime-cpu-bf16 is unstable"],
        method={"scenario": "single_stream", "turn_s": 0.1, "timed_inputs": {"image": "float32 [1, 3, 32, 32]"}},
        deployment={"openvino-cpu": "import openvino\n\nif True:\n    print('hello')\n", "rtx": ""},
    )


@pytest.fixture(scope="session")
def rich() -> Report:
    return rich_report()


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    content: list[Element | str] = field(default_factory=list)

    @property
    def children(self) -> list[Element]:
        return [part for part in self.content if isinstance(part, Element)]

    def text(self) -> str:
        """Of this and all that is inside."""
        return "".join(part if isinstance(part, str) else part.text() for part in self.content)

    def all(self, tag: str = "", kind: str = "") -> list[Element]:
        """Everything inside, in order, of a tag and a class."""
        found = []
        for child in self.children:
            if (not tag or child.tag == tag) and (not kind or kind in child.attributes.get("class", "").split()):
                found.append(child)
            found += child.all(tag, kind)
        return found


class _Reader(HTMLParser):
    """A tree, and an AssertionError where a tag is not closed or is closed by another."""

    VOID = frozenset({"meta", "link", "input", "img", "br"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice: {tag} {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].content.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)


def tree_of(text: str) -> Element:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == [reader.root], f"never closed: {[element.tag for element in reader.open[1:]]}"
    return reader.root


@pytest.fixture(scope="session")
def tree() -> Callable[[str], Element]:
    return tree_of
