from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accel.benchmarks.html.pareto import charts
from accel.report import Metric, Report


def test_both_panels_show_each_row_with_its_figures(rich: Report, tree: Callable[[str], Any]) -> None:
    root = tree(charts(rich))
    panels = root.all("figure", "chart")
    assert [panel.attributes["data-chart"] for panel in panels] == ["latency", "size"]
    for panel in panels:
        marks = panel.all("a", "mark")
        assert [mark.attributes["data-row"] for mark in marks] == [str(index) for index in range(1, 11)]
        assert all(mark.attributes["tabindex"] == "0" and mark.attributes["aria-label"] for mark in marks)
        assert panel.all("path", "front")
        assert len(panel.all("text", "name")) == 10
    best = next(mark for mark in panels[0].all("a", "mark") if mark.attributes["data-row"] == "9")
    (title,) = best.all("title")
    assert title.text().splitlines() == [
        "openvino-int8-pruned",
        "openvino/cpu, result",
        "top-1 92.14 %, -0.45 points (CI -0.65 to -0.25)",
        "p50 0.184 ms of 5,083 queries",
        "speed 4.73x (CI 4.66 to 4.80) against openvino-cpu fp32 baseline",
        "size 172 kB",
        "INT8 21/21 operators, else fp32",
    ]


def test_an_unstable_row_is_in_the_chart_without_a_number(rich: Report, tree: Callable[[str], Any]) -> None:
    panel, _ = tree(charts(rich)).all("figure", "chart")
    (mark,) = panel.all("a", "hollow")
    assert "p50 unstable: the median moved" in mark.text()
    assert "0.610 ms" not in mark.text()
    assert panel.all("rect", "band")


def test_roles_have_shapes(rich: Report, tree: Callable[[str], Any]) -> None:
    panel, _ = tree(charts(rich)).all("figure", "chart")
    first, second, _, fourth, *_ = panel.all("a", "mark")
    assert first.all("polygon") and second.all("rect") and len(fourth.all("circle")) == 2


def test_a_metric_that_should_be_small_says_so(rich: Report, tree: Callable[[str], Any]) -> None:
    loss = Metric(name="loss", value=0.3, n=10, higher_is_better=False)
    rows = [row.model_copy(update={"metrics": [*row.metrics, loss]}) if row.metrics else row for row in rich.rows]
    root = tree(charts(rich.model_copy(update={"rows": rows})))
    assert len(root.all("figure", "chart")) == 4
    (more,) = root.all("details")
    assert "loss (lower is better)" in more.text()
    assert "best is bottom left" in more.text()


def test_without_a_metric_there_is_no_chart(rich: Report) -> None:
    assert charts(rich.model_copy(update={"rows": [row.model_copy(update={"metrics": []}) for row in rich.rows]})) == ""
