from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.gate_text import EXAMPLES, expression, parse
from accel.benchmarks.quantities import STANDING, quantity
from accel.errors import UsageError

METRICS = {"top1": True, "net.py:loss": False, "own:score": None}
LATENCY = {"metric": "latency_p50_ms", "max_drop": 0.05, "drop_type": "relative"}


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("latency_p50>+5%", {"metric": "latency_p50_ms", "max_drop": 0.05, "drop_type": "relative"}),
        ("latency_p50_ms > +0.05ms", {"metric": "latency_p50_ms", "max_drop": 0.05, "drop_type": "absolute"}),
        ("latency>+50us", {"metric": "latency_p50_ms", "max_drop": 0.05, "drop_type": "absolute"}),
        ("latency_p50>-10%", {"metric": "latency_p50_ms", "min_improvement": 1 / 0.9, "drop_type": "relative"}),
        ("latency_p50_ms>0.5", {"metric": "latency_p50_ms", "max": 0.5}),
        ("latency_p50>0.5ms@openvino", {"metric": "latency_p50_ms", "max": 0.5, "target": "openvino"}),
        ("speedup<2", {"metric": "latency_p50_ms", "min_improvement": 2.0, "drop_type": "relative"}),
        ("compression<3.5x", {"metric": "size_bytes", "min_improvement": 3.5, "drop_type": "relative"}),
        ("size>+0%", {"metric": "size_bytes", "max_drop": 0.0, "drop_type": "relative"}),
        ("size>-0%", {"metric": "size_bytes", "max_drop": 0.0, "drop_type": "relative"}),
        ("size>300kB", {"metric": "size_bytes", "max": 300_000.0}),
        ("size>+1MB", {"metric": "size_bytes", "max_drop": 1e6, "drop_type": "absolute"}),
        ("top1<-1pt", {"metric": "top1", "max_drop": 0.01, "drop_type": "absolute"}),
        ("top1<-1%", {"metric": "top1", "max_drop": 0.01, "drop_type": "relative"}),
        ("top1<+0.5pt", {"metric": "top1", "min_improvement": 0.005, "drop_type": "absolute"}),
        ("top1<0.87", {"metric": "top1", "min": 0.87}),
        ("top1<87%", {"metric": "top1", "min": 0.87}),
        ("loss>+0.1", {"metric": "net.py:loss", "max_drop": 0.1, "drop_type": "absolute"}),
        ("net.py:loss>0.3", {"metric": "net.py:loss", "max": 0.3}),
        ("own:score<3", {"metric": "own:score", "min": 3.0}),
        ("throughput<+10%", {"metric": "throughput_per_s", "min_improvement": 1.1, "drop_type": "relative"}),
        ("sqnr<30dB", {"metric": "sqnr_db", "min": 30.0}),
        ("latency>+5% and +0.05ms", LATENCY | {"margin_abs": 0.05}),
        ("latency>+5% or inconclusive @ a b", LATENCY | {"target": "a b", "on_inconclusive": "fail"}),
    ],
)  # fmt: skip
def test_a_text_says_a_gate(text: str, settings: dict[str, Any]) -> None:
    found = parse(text, metrics=METRICS)
    assert found == GateSettings(**settings)
    known = quantity(found.metric, {"top1": True, "net.py:loss": False, "own:score": True})
    assert known is not None
    assert parse(expression(found, known), metrics=METRICS) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", EXAMPLES),
        ("latency", EXAMPLES),
        ("latency>=5%", EXAMPLES),
        ("latency>five", EXAMPLES),
        ("latency>1e400", EXAMPLES),
        ("latency>+5%>3", EXAMPLES),
        ("x" * 400 + ">1", EXAMPLES),
        ("latancy>5ms", "did you mean 'latency'?"),
        ("top2<0.5", "did you mean 'top1'?"),
        ("latency>+5", "a difference of latency_p50_ms has a unit: % (relative) or ms, us, s"),
        ("top1<-1.0", "has a unit: % (relative) or pt, pp, points"),
        ("top1<-1ms", "'ms' is no unit of top1; allowed: % (relative), pt, pp, points"),
        ("latency<+5%", "latency_p50_ms is good where it is low, so this fails where it gets better; write it with >"),
        ("top1>-1pt", "write it with <"),
        ("top1<87", "allowed: 0 to 1"),
        ("top1<-100%", "cannot lose more than 100 %"),
        ("top1<-100pt", "is a fraction"),
        ("size>-100%", "nothing gets smaller by 100 %"),
        ("latency>+500%", "this allows 6 times as much; where that is meant, use max"),
        ("speedup>2", "write speedup<2"),
        ("speedup<0.5", "2.0 is twice as good"),
        ("own:score<-1", "put the gate in the recipe"),
        ("sqnr<-3dB", "already compares with the reference row"),
        ("latency>5%", "'%' is no unit"),
        ("size>1@npu", "there is no target 'npu'; allowed: ort, ov"),
    ],
)  # fmt: skip
def test_a_text_that_says_none_is_refused_with_the_way_out(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, metrics=METRICS, targets=["ort", "ov"])
    assert says in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_difference_is_to_what_the_caller_names() -> None:
    assert parse("size>+0%", metrics={}, vs="main.json").vs == "main.json"
    assert parse("size>1", metrics={}, vs="main.json").vs is None


@examples(max_examples=150, deadline=None)
@given(
    st.text(st.characters(codec="utf-8"), max_size=40)
    | st.from_regex(r"[a-z_0-9]{1,9}[<>][+-]?[0-9.]{1,9}[a-zA-Z%]{0,3}(@.*)?", fullmatch=True)
)
def test_arbitrary_text_is_a_gate_or_a_usage_error(text: str) -> None:
    try:
        parse(text, metrics=METRICS)
    except UsageError as error:
        assert "gate " in str(error)


names = st.sampled_from([*(one.name for one in STANDING), "top1", "net.py:loss"])
decimals = st.decimals(0, 99, places=4, allow_nan=False, allow_infinity=False).map(lambda value: format(value, "f"))


units = st.sampled_from(["", "%", "pt", "ms", "s", "kB", "dB"])
ends = st.sampled_from(["", " or inconclusive", " @ov"])


@examples(max_examples=150, deadline=None)
@given(names, st.sampled_from("<>"), st.sampled_from(["", "+", "-"]), decimals, units, ends)
def test_what_is_read_is_written_the_same(name: str, way: str, sign: str, number: str, unit: str, end: str) -> None:
    try:
        found = parse(f"{name}{way}{sign}{number}{unit}{end}", metrics=METRICS)
    except UsageError:
        return
    known = quantity(found.metric, {"top1": True, "net.py:loss": False})
    assert known is not None
    again = parse(expression(found, known), metrics=METRICS)
    factor = found.min_improvement if found.drop_type == "relative" else None
    if factor is None:
        assert again == found
    else:  # a share of improvement and its factor are two roundings apart
        assert again.min_improvement == pytest.approx(factor, rel=1e-9)
        assert again.model_copy(update={"min_improvement": factor}) == found


def test_every_expression_and_metric_of_the_document_is_one() -> None:
    text = (Path(__file__).parents[3] / "benchmarks" / "GATES.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in text.partition("## On the command line")[2].splitlines() if line.startswith("| `")]
    written = [one for cell in cells for one in re.findall("`([^`]+)`", cell)]
    assert len(written) >= 9
    for one in [*written, *EXAMPLES.split(", ")]:
        parse(one, metrics=METRICS)
    named = set(re.findall("`([a-z0-9_]+)`", text))
    assert {known.name for known in STANDING} <= named
